"""The plug-in inside nova-api beside Nova's own code, on one cloud, in turn.

    nova.py [--rounds N]
    nova.py --own http://…/v2.1 --filtered http://…/v2.1 [--process NAME=PID ...] [--rounds N]

The first makes a cloud of its own, as the tests do: Keystone, Neutron, and Nova with its fake hypervisor. The
second is for one that is there: the user is that of the OS_… variables, ``--own`` a nova-api as it comes,
``--filtered`` one with the filter of this project, both of the same Nova. Makes a network, ports and servers,
and removes them. ``--process`` names a process (with its children) whose CPU time is told; with the name
``own`` or ``filtered`` it is told of that side alone. Work that goes on after an answer (Neutron's events,
nova-compute's look at them) is waited for and counted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import openstack
import openstack.connection
from keystoneauth1 import adapter

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

#: Seconds after which Neutron has sent all its events, and nova-compute has worked on them.
AFTERMATH = 4.0
VERSION = '2.70'
_TICKS = os.sysconf('SC_CLK_TCK')


class Side:
    """A Compute API."""

    def __init__(self, connection: openstack.connection.Connection, url: str) -> None:
        self._api = adapter.Adapter(
            connection.session, service_type='compute', endpoint_override=url, default_microversion=VERSION
        )
        self._network = connection.network

    def list(self, server_id: str, count: int) -> None:
        answer = self._api.get(f'/servers/{server_id}/os-interface').json()
        assert len(answer['interfaceAttachments']) == count

    def show(self, server_id: str, port_id: str) -> None:
        self._api.get(f'/servers/{server_id}/os-interface/{port_id}')

    def server(self, server_id: str) -> None:
        self._api.get(f'/servers/{server_id}')

    def attach(self, server_id: str, **wanted: str) -> str:
        body = {'interfaceAttachment': wanted}
        answer = self._api.post(f'/servers/{server_id}/os-interface', json=body).json()
        return str(answer['interfaceAttachment']['port_id'])

    def detach(self, server_id: str, port_id: str) -> None:
        """Until the port is free, or gone."""
        self._api.delete(f'/servers/{server_id}/os-interface/{port_id}')
        while True:
            port = self._network.find_port(port_id)
            if port is None or not port.device_id:
                return
            time.sleep(0.01)


def cpu(pid: int) -> float:
    """Seconds of CPU time of a process and its living children."""
    total = 0.0
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = path.read_text().rsplit(')', 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if pid in (int(path.parent.name), int(fields[1])):
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


class Table:
    """Operations measured in turn on both sides."""

    def __init__(self, sides: dict[str, Side], processes: dict[str, int], rounds: int) -> None:
        self._sides = sides
        self._processes = processes
        self._rounds = rounds
        print(f'{"":34}{"own ms":>9}{"here ms":>9}{"ratio":>7}   CPU ms of one operation, own / here')

    def row(self, name: str, work: Callable[[Side], Any], count: int, aftermath: float = 0.0) -> None:
        seconds: dict[str, list[float]] = {side: [] for side in self._sides}
        spent: dict[str, collections.Counter[str]] = {side: collections.Counter() for side in self._sides}
        for side in self._sides.values():
            work(side)
        time.sleep(aftermath)
        for turn in range(self._rounds):
            # Each begins as often as the other.
            for side in sorted(self._sides, reverse=bool(turn % 2)):
                before = {process: cpu(pid) for process, pid in self._processes.items()}
                for _ in range(count):
                    begun = time.perf_counter()
                    work(self._sides[side])
                    seconds[side].append(time.perf_counter() - begun)
                time.sleep(aftermath)
                for process, pid in self._processes.items():
                    spent[side][process] += cpu(pid) - before[process]  # type: ignore[assignment]
        own, here = (1000 * statistics.median(seconds[side]) for side in ('own', 'filtered'))
        done = count * self._rounds
        used = []
        for process in self._processes:
            if process in self._sides:
                continue
            pair = [1000 * spent[side][process] / done for side in ('own', 'filtered')]
            used.append(f'{process} {pair[0]:.0f}/{pair[1]:.0f}')
        if 'own' in self._processes:
            pair = [1000 * spent[side][side] / done for side in ('own', 'filtered')]
            used.insert(0, f'nova-api {pair[0]:.0f}/{pair[1]:.0f}')
        print(f'{name:34}{own:9.0f}{here:9.0f}{own / here:7.1f}   {", ".join(used)}', flush=True)


def new_server(connection: openstack.connection.Connection) -> str:
    compute = connection.compute
    image, flavor = next(connection.image.images()), next(compute.flavors())
    made = compute.create_server(name='benchmark', image_id=image.id, flavor_id=flavor.id, networks='none')
    return str(compute.wait_for_server(made, wait=120).id)


@contextlib.contextmanager
def own_cloud() -> Iterator[tuple[openstack.connection.Connection, str, str, dict[str, int]]]:
    """A user of a new cloud, the URLs of both sides, and the processes that work for them."""
    from tests.integration.nova.conftest import World
    from tests.services import openstack as services

    with contextlib.ExitStack() as stack:
        home = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cloud = stack.enter_context(services.running())
        cloud.start_nova()
        world = World(cloud, home)
        stack.callback(world.close)
        filtered = stack.enter_context(world.nova_api('filtered'))
        names = ('keystone', 'neutron', 'nova-conductor', 'nova-compute')
        processes = {name: cloud.pid(name) for name in names}
        connection = cloud.connection('demo')
        connection.compute.default_microversion = VERSION
        yield connection, cloud.nova_url, filtered, processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--own')
    parser.add_argument('--filtered')
    parser.add_argument('--process', action='append', default=[], metavar='NAME=PID')
    parser.add_argument('--rounds', type=int, default=4)
    options = parser.parse_args()
    if bool(options.own) != bool(options.filtered):
        parser.error('--own and --filtered go together')
    if options.own:
        processes = {name: int(pid) for name, _, pid in (given.partition('=') for given in options.process)}
        compare(
            openstack.connect(compute_api_version='2.70'), options.own, options.filtered, processes, options.rounds
        )
    else:
        with own_cloud() as cloud:
            compare(*cloud, options.rounds)


def compare(
    connection: openstack.connection.Connection, own: str, filtered: str, processes: dict[str, int], rounds: int
) -> None:
    """The table of all operations."""
    table = Table({'own': Side(connection, own), 'filtered': Side(connection, filtered)}, processes, rounds)
    network = connection.network.create_network(name='benchmark')
    connection.network.create_subnet(network_id=network.id, ip_version=4, cidr='10.88.0.0/20')
    servers = [new_server(connection) for _ in range(3)]
    few, many, busy = servers
    ports = []
    try:
        for server_id, count in ((few, 1), (many, 100)):
            ports += [
                connection.network.create_port(network_id=network.id, device_id=server_id) for _ in range(count)
            ]
        first, brought = ports[0].id, connection.network.create_port(network_id=network.id)
        ports.append(brought)

        # These Nova knows, too.
        for _ in range(20):
            Side(connection, filtered).attach(busy, net_id=network.id)

        def there_and_back(side: Side, server_id: str, **wanted: str) -> None:
            side.detach(server_id, side.attach(server_id, **wanted))

        table.row('list, 1 port', lambda side: side.list(few, 1), 20)
        table.row('list, 100 ports', lambda side: side.list(many, 100), 10)
        table.row('show', lambda side: side.show(few, first), 20)
        table.row(
            'port, attach + detach, 1 port',
            lambda side: there_and_back(side, few, port_id=brought.id),
            5,
            AFTERMATH,
        )
        table.row(
            'network, attach + detach, 1 port',
            lambda side: there_and_back(side, few, net_id=network.id),
            5,
            AFTERMATH,
        )
        table.row(
            'port, attach + detach, 20 ports',
            lambda side: there_and_back(side, busy, port_id=brought.id),
            2,
            AFTERMATH,
        )
        table.row('GET of the server (not ours)', lambda side: side.server(few), 20)
    finally:
        for server_id in servers:
            connection.compute.delete_server(server_id, ignore_missing=True)
            connection.compute.wait_for_delete(connection.compute.get_server(server_id), wait=120)
        for port in ports:
            connection.network.delete_port(port, ignore_missing=True)
        connection.network.delete_network(network)


if __name__ == '__main__':
    main()
