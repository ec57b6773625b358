"""What an operation takes beside the bare requests to Neutron that it is made of, in one run.

    python tests/benchmarks/neutron.py [--rounds 40]

starts a Keystone and a Neutron of its own. Rounds are interleaved; times are medians in milliseconds. The VIF
driver is noop: this is the network half of the work.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import requests

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.integration.neutron.conftest import HOST, Host, Project, World, made
from tests.services import openstack

PORTS = 100


class Bare:
    """The same requests, sent by `requests` over one connection, with the same authority."""

    def __init__(self, world: World, project: Project, network: str) -> None:
        self._session = requests.Session()
        self._url = f'{world.cloud.neutron_url}/v2.0'
        self._service = {'X-Auth-Token': world.cloud.session('osif').get_token()}
        self._caller = {'X-Auth-Token': world.token(project), 'X-Service-Token': self._service['X-Auth-Token']}
        self._network = network

    def _ask(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        answer = self._session.request(method, self._url + path, headers=headers, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def list(self, server_id: str) -> None:
        self._ask('GET', f'/ports?device_id={server_id}', self._service)

    def show(self, port_id: str) -> None:
        self._ask('GET', f'/ports/{port_id}', self._caller)

    def attach_port(self, server_id: str, port_id: str) -> None:
        self.show(port_id)
        claim = {'port': {'device_id': server_id, 'device_owner': 'compute:az1'}}
        self._ask('PUT', f'/ports/{port_id}', self._service, claim)
        self._ask('PUT', f'/ports/{port_id}', self._service, {'port': {'binding:host_id': HOST}})

    def detach_port(self, port_id: str) -> None:
        self.show(port_id)
        free = {'port': {'device_id': '', 'device_owner': '', 'binding:host_id': ''}}
        self._ask('PUT', f'/ports/{port_id}', self._service, free)
        self._ask('GET', f'/ports/{port_id}', self._service)

    def attach_network(self, server_id: str) -> str:
        self._ask('GET', f'/networks/{self._network}', self._caller)
        body = {'network_id': self._network, 'device_id': server_id, 'device_owner': 'compute:az1'}
        port_id = self._ask('POST', '/ports', self._caller, {'port': body})['port']['id']
        self._ask('PUT', f'/ports/{port_id}', self._service, {'port': {'binding:host_id': HOST}})
        return str(port_id)

    def detach_network(self, port_id: str) -> None:
        self.show(port_id)
        self.show(port_id)
        self._ask('DELETE', f'/ports/{port_id}', self._service)


class Table:
    """Times by row and column."""

    def __init__(self) -> None:
        self._times: dict[str, dict[str, list[float]]] = collections.defaultdict(
            lambda: collections.defaultdict(list)
        )

    def time(self, row: str, column: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        answer = call()
        self._times[row][column].append(1000 * (time.perf_counter() - begun))
        return answer

    def show(self) -> None:
        print(f'{"":24}{"ours":>9}{"bare":>9}{"ratio":>8}')
        for row, columns in self._times.items():
            ours, bare = (statistics.median(columns[name]) for name in ('ours', 'bare'))
            print(f'{row:24}{ours:9.1f}{bare:9.1f}{ours / bare:8.2f}')


def measure(world: World, directory: pathlib.Path, rounds: int) -> None:
    project = world.project('benchmark')
    network = world.network(project, cidr='10.50.0.0/20')
    host = Host(world, directory, neutron={'endpoint_override': world.cloud.neutron_url})
    bare, table = Bare(world, project, network), Table()
    few, many = host.server(project), host.server(project)
    shown = host.attach(few, net_id=network)
    for _ in range(PORTS):
        world.port(project, network, device_id=many.id, device_owner='compute:az1')
    brought = {column: world.port(project, network) for column in ('ours', 'bare')}
    busy = host.server(project)
    for number in range(rounds + 3):
        if number == 3:
            # What came before was for connections, tokens and caches.
            table = Table()
        for row, server in (('list, 1 port', few), (f'list, {PORTS} ports', many)):
            table.time(row, 'ours', lambda server=server: host.list(server))
            table.time(row, 'bare', lambda server=server: bare.list(server.id))
        table.time('show', 'ours', lambda: host.show(few, shown))
        table.time('show', 'bare', lambda: bare.show(shown))
        table.time('attach a port', 'ours', lambda: host.attach(busy, port_id=brought['ours']))
        table.time('attach a port', 'bare', lambda: bare.attach_port(busy.id, brought['bare']))
        table.time('detach a brought port', 'ours', lambda: host.detach(busy, brought['ours']))
        table.time('detach a brought port', 'bare', lambda: bare.detach_port(brought['bare']))
        ours = table.time('attach a network', 'ours', lambda: host.attach(busy, net_id=network))
        theirs = table.time('attach a network', 'bare', lambda: bare.attach_network(busy.id))
        table.time('detach a created port', 'ours', lambda port_id=ours: host.detach(busy, port_id))
        table.time('detach a created port', 'bare', lambda port_id=theirs: bare.detach_network(port_id))
    table.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, openstack.running() as cloud, made(cloud) as world:
        measure(world, pathlib.Path(name), arguments.rounds)


if __name__ == '__main__':
    main()
