"""What an operation costs where there is much: ports of a server, records, requests that went before."""

from __future__ import annotations

import gc
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import floor
import in_process
from harness import Case, Figure

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.integration import crowd


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
    """The server of the floor with one port, among so many records of other servers."""
    conf, database = in_process.new_database(path, 1)
    crowd.fill(database, count, project_id=in_process.PROJECT, network_id=floor.NETWORK, subnet_id=floor.SUBNET)
    gc.collect()
    return in_process.ours_on(conf, database)
