"""What an operation costs where there is much: ports of a server, records, requests that went before."""

from __future__ import annotations

import gc
import pathlib
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import floor
import in_process
from harness import Case, Figure

from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import tables as records
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import addresses, tables

_BATCH = 20_000


def cases(folder: pathlib.Path, count: int) -> Iterator[Case]:
    """One table beside another, and one server beside another.

    :param count: records (each with its port and its address) of the large table
    """
    few, many = (_filled(folder / str(size), size) for size in (100, count))
    yield Case(f'list from {count} records beside 100', in_process.lister(few), in_process.lister(many), 1.15)
    yield Case(f'attach + detach, {count} records beside 100', in_process.cycler(few), in_process.cycler(many))
    one, hundreds = (in_process.ours(folder / f'nics{nics}', nics) for nics in (1, 500))
    yield Case('attach + detach, 500 NICs beside 1', in_process.cycler(one), in_process.cycler(hundreds), 1.15)
    for ports in (10, 100, 1000):
        larger = in_process.ours(folder / f'ports{ports}', ports)
        yield Case(
            f'list of {ports} ports beside 1',
            in_process.lister(one),
            in_process.lister(larger),
            slower=ports // 10,
        )


def figures(requests: int) -> Iterator[Figure]:
    """Memory of a process while it answers, and what it takes to start.

    :param requests: how many it answers
    """
    code = f'import memory; memory.main({requests})'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        name, _, value = line.partition('\t')
        yield Figure(name, float(value), 'MB')
    for name, module in (('import of flask', 'flask'), ('import of the extension', 'os_interface_ext.extension')):
        yield Figure(name, _seconds_of(f'import {module}'), 's')


def _seconds_of(code: str) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _filled(path: pathlib.Path, count: int) -> in_process.Call:
    """The server of the floor with one port, among so many records of other servers, ten each."""
    conf, database = in_process.new_database(path, 1)
    begun = time.monotonic()
    for first in range(0, count, _BATCH):
        _fill(database, range(first, min(first + _BATCH, count)))
    print(f'# {count} records in {time.monotonic() - begun:.0f} s', file=sys.stderr)
    gc.collect()
    return in_process.ours_on(conf, database)


def _fill(database: Database, numbers: range) -> None:
    installation = Store(database, lease=30.0).installation
    ports, given, held = [], [], []
    for number in numbers:
        port, record, server = (str(uuid.uuid4()) for _ in range(3))
        if number % 10:
            server = ports[-1]['device_id']
        mark = f'osif:{installation}:{record}'
        ports.append(
            {
                'id': port,
                'name': '',
                'project_id': in_process.PROJECT,
                'network_id': floor.NETWORK,
                'mac_address': ':'.join(f'{number + (2 << 40):012x}'[at : at + 2] for at in range(0, 12, 2)),
                'status': 'ACTIVE',
                'admin_state_up': True,
                'port_security_enabled': True,
                'vnic_type': 'normal',
                'device_id': server,
                'device_owner': 'compute:nova',
                'host': 'compute1',
                'tag': None,
                'created_by_attach': False,
                'mark': mark,
            }
        )
        # Far from where the pool gives its own.
        address = (10 << 24) + (1 << 23) + number
        given.append(
            {
                'port_id': port,
                'position': 0,
                'subnet_id': floor.SUBNET,
                'address_key': addresses.key(address),
                'ip_address': addresses.text(address, 4),
            }
        )
        held.append(
            {
                'id': record,
                'server_id': server,
                'project_id': in_process.PROJECT,
                'host': 'compute1',
                'port_id': port,
                'requested_network_id': floor.NETWORK,
                'created': True,
                'mark': mark,
                'state': str(State.ATTACHED),
                'generation': 1,
                'attempts': 0,
                'created_at': 1.0,
                'updated_at': 1.0,
            }
        )
    with database.write() as connection:
        connection.execute(tables.ports.insert(), ports)
        connection.execute(tables.addresses.insert(), given)
        connection.execute(records.attachments.insert(), held)
