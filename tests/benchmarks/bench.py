"""What the plug-in costs beside the floor: list, show, and an attach and detach, in one process.

    python tests/benchmarks/bench.py [--rounds N] [--json]

The floor (``floor.py``) is bare Flask on bare sqlite3, with no authentication, policy, version or
validation. The complete pipeline of this project is measured beside it, interleaved, in one run:
authentication by token, request context, microversion, policy, records, drivers, schemas, request ids.
Only the ratios mean anything: both move with the machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any

import floor

from os_interface_ext import conf as config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.middleware.static_tokens import StaticTokens
from os_interface_ext.wsgi.paste import make_application

PROJECT = '44444444444444444444444444444444'
HEADERS = (('X-Auth-Token', 'bench'), ('OpenStack-API-Version', 'compute 2.70'))
AIMS = {'list 1': 2.5, 'list 100': 2.5, 'show': 2.5, 'attach + detach': 3.0}

Call = Callable[..., tuple[int, bytes]]


def inventory(ports: int) -> str:
    """One server with so many ports on one network, as the floor has them."""
    return json.dumps(
        {
            'callers': [
                {'token': 'bench', 'user_id': 'bench', 'project_id': PROJECT, 'roles': ['member', 'reader']}
            ],
            'networks': [
                {
                    'id': floor.NETWORK,
                    'name': 'net',
                    'project_id': PROJECT,
                    'subnets': [
                        {'id': floor.SUBNET, 'name': 'subnet', 'cidr': '10.0.0.0/8', 'gateway_ip': '10.0.0.1'}
                    ],
                }
            ],
            'servers': [
                {
                    'id': floor.SERVER,
                    'name': 'server',
                    'project_id': PROJECT,
                    'host': 'compute1',
                    'vm_state': 'active',
                }
            ],
            'ports': [
                {
                    'id': str(uuid.uuid4()),
                    'name': '',
                    'project_id': PROJECT,
                    'network_id': floor.NETWORK,
                    'fixed_ips': [{'subnet_id': floor.SUBNET, 'ip_address': f'10.0.{n // 250}.{n % 250 + 2}'}],
                    'status': 'ACTIVE',
                    'device_id': floor.SERVER,
                }
                for n in range(ports)
            ],
        }
    )


def ours(path: pathlib.Path, ports: int) -> Call:
    """The complete pipeline on a new SQLite file."""
    conf = config.new([], database={'connection': f'sqlite:///{path}'})
    database = Database.of(conf)
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(inventory(ports), 'benchmark'))
    app = StaticTokens(make_application(Extension(conf)), database)
    return lambda method, url, body=None: floor.call(app, method, url, body, HEADERS)


def bare(path: pathlib.Path, ports: int) -> Call:
    app = floor.make_app(str(path), ports=ports)
    return lambda method, url, body=None: floor.call(app, method, url, body)


def one_port(call: Call) -> str:
    found = json.loads(call('GET', f'/servers/{floor.SERVER}/os-interface')[1])
    return str(found['interfaceAttachments'][0]['port_id'])


def cases(call_1: Call, call_100: Call) -> dict[str, Callable[[], Any]]:
    """What is measured, on a server with one port and on one with a hundred."""
    collection = f'/servers/{floor.SERVER}/os-interface'
    item = f'{collection}/{one_port(call_1)}'

    def expect(status: int, answer: tuple[int, bytes]) -> bytes:
        assert answer[0] == status, answer
        return answer[1]

    def cycle() -> None:
        body = expect(200, call_1('POST', collection, {'interfaceAttachment': {'net_id': floor.NETWORK}}))
        port = json.loads(body)['interfaceAttachment']['port_id']
        expect(202, call_1('DELETE', f'{collection}/{port}'))

    return {
        'list 1': lambda: expect(200, call_1('GET', collection)),
        'list 100': lambda: expect(200, call_100('GET', collection)),
        'show': lambda: expect(200, call_1('GET', item)),
        'attach + detach': cycle,
    }


def timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Medians in microseconds, floor and ours in turn within each round."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        sides = {
            'floor': cases(bare(path / 'floor1', 1), bare(path / 'floor100', 100)),
            'ours': cases(ours(path / 'ours1', 1), ours(path / 'ours100', 100)),
        }
        out = {}
        for name in AIMS:
            times: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(20):
                for side in sides.values():
                    side[name]()
            gc.collect()
            for _ in range(rounds):
                for side, calls in sides.items():
                    times[side].append(timed(calls[name]))
            medians = {side: statistics.median(values) * 1e6 for side, values in times.items()}
            out[name] = {**medians, 'ratio': medians['ours'] / medians['floor'], 'aim': AIMS[name]}
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=500, help='measurements of each case on each side')
    parser.add_argument('--json', action='store_true')
    arguments = parser.parse_args()
    result = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f'{"case":<16} {"floor µs":>10} {"ours µs":>10} {"ratio":>6} {"aim":>5}')
    for name, row in result.items():
        print(f'{name:<16} {row["floor"]:>10.0f} {row["ours"]:>10.0f} {row["ratio"]:>6.2f} {row["aim"]:>5.1f}')


if __name__ == '__main__':
    main()
