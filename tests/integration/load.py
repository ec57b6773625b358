"""A load of random operations from many clients, and the model that their answers are checked against."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import random
import re
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from .conftest import Service, start_serve

#: 1 is the full scale of tests that are long.
SCALE = float(os.environ.get('OS_INTERFACE_EXT_TEST_SCALE', '0.1'))
#: What the contract has for each method.
STATUSES = {
    'GET': {200, 400, 401, 403, 404, 406, 500, 501, 503},
    'POST': {200, 400, 401, 403, 404, 406, 409, 413, 415, 500, 501, 503},
    'DELETE': {202, 400, 401, 403, 404, 406, 409, 500, 501, 503},
}
#: What is nobody's business.
INTERNALS = re.compile(
    r'traceback|://|127\.0\.0\.1|<html|neutron|keystone|sqlite|mysql|postgres|select |osif:|timed? ?out|exception',
    re.IGNORECASE,
)
PROJECT = '44444444444444444444444444444444'
TOKEN = 'load'
HEADERS = {'X-Auth-Token': TOKEN, 'OpenStack-API-Version': 'compute 2.70', 'Content-Type': 'application/json'}


def _id(kind: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f'{kind}-{number}'))


@dataclasses.dataclass(frozen=True)
class Cloud:
    """What the load runs on: servers, brought ports, a wide network and one of 13 addresses."""

    servers: tuple[str, ...]
    ports: tuple[str, ...]
    wide: str = _id('network', 1)
    narrow: str = _id('network', 2)
    #: addresses that the narrow network has for ports
    narrow_size: int = 13
    #: with what an attach or a detach may be refused
    refusals: frozenset[int] = frozenset({400, 409})
    #: whether a list that lacks something is asked for once more
    has_moments: bool = False
    #: addresses of the wide network that are asked for
    addresses: tuple[str, ...] = tuple(f'10.1.100.{number}' for number in range(1, 20))
    project_id: str = PROJECT

    @classmethod
    def of(cls, servers: int, ports: int) -> Cloud:
        return cls(server_ids(servers), tuple(_id('port', n) for n in range(ports)))

    def servers_alone(self) -> dict[str, Any]:
        """An inventory with the caller and the servers, whose ports are elsewhere."""
        caller = {'token': TOKEN, 'user_id': 'load', 'project_id': self.project_id, 'roles': ['member', 'reader']}
        return {
            'callers': [caller],
            'servers': [
                {'id': server, 'name': f'server-{n}', 'project_id': self.project_id, 'host': 'compute1'}
                for n, server in enumerate(self.servers)
            ],
        }

    def inventory(self) -> str:
        """As JSON, which is YAML."""

        def network(number: int, cidr: str) -> dict[str, Any]:
            return {
                'id': _id('network', number),
                'name': f'net{number}',
                'project_id': PROJECT,
                'subnets': [{'id': _id('subnet', number), 'name': f'subnet{number}', 'cidr': cidr}],
            }

        networks = [network(1, '10.1.0.0/16'), network(2, '10.2.0.0/28')]
        for one, gateway in zip(networks, ('10.1.0.1', '10.2.0.1'), strict=True):
            one['subnets'][0]['gateway_ip'] = gateway
        return json.dumps(
            {
                **self.servers_alone(),
                'networks': networks,
                'ports': [
                    {
                        'id': port,
                        'name': f'port-{n}',
                        'project_id': PROJECT,
                        'network_id': self.wide,
                        'fixed_ips': [
                            {'subnet_id': _id('subnet', 1), 'ip_address': f'10.1.{200 + n // 200}.{n % 200 + 1}'}
                        ],
                    }
                    for n, port in enumerate(self.ports)
                ],
            }
        )


def server_ids(count: int) -> tuple[str, ...]:
    return tuple(_id('server', n) for n in range(count))


class Client:
    """One client with a connection that it keeps, to one of the hosts."""

    def __init__(self, url: str) -> None:
        target = urllib.parse.urlsplit(url)
        self._peer = http.client.HTTPConnection(target.hostname or '', target.port, timeout=60)

    def call(self, method: str, server: str, port: str | None = None, body: Any = None) -> tuple[int, Any]:
        """Status and body; status 0 for a connection that broke, so that the outcome is not known."""
        path = f'/v2.1/servers/{server}/os-interface' + (f'/{port}' if port else '')
        try:
            self._peer.request(method, path, None if body is None else json.dumps(body), HEADERS)
            response = self._peer.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._peer.close()
            return 0, None
        answer = json.loads(text) if text else None
        check_contract(method, response.status, response.headers, answer)
        return response.status, answer

    def attach(self, server: str, **wanted: Any) -> tuple[int, Any]:
        return self.call('POST', server, body={'interfaceAttachment': wanted})

    def listed(self, server: str) -> list[str] | None:
        """The port ids of a server; None if it was not answered."""
        status, body = self.call('GET', server)
        return [one['port_id'] for one in body['interfaceAttachments']] if status == 200 else None

    def detached(self, server: str, port: str, patience: float = 60.0) -> None:
        """DELETE again and again until GET says 404, as Terraform does."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            status, _ = self.call('DELETE', server, port)
            assert status in (0, 202, 404, 503), f'DELETE answered {status}'
            if self.call('GET', server, port)[0] == 404:
                return
            time.sleep(0.02)
        raise AssertionError(f'port {port} is still there')


def check_contract(method: str, status: int, headers: Any, body: Any) -> None:
    """Whether an answer is one of the contract's, and tells nothing of what is behind the API."""
    assert status in STATUSES[method], f'{method} answered {status}: {body}'
    assert headers['x-openstack-request-id'].startswith('req-')
    assert headers['x-openstack-request-id'] == headers['x-compute-request-id']
    if status == 503:
        assert headers['Retry-After'], 'a 503 says when to come again'
    if status >= 400:
        [(_, fault)] = body.items()
        assert fault['code'] == status
        assert not INTERNALS.search(fault['message']), fault


def at_once(urls: list[str], calls: list[Callable[[Client], Any]]) -> list[Any]:
    """All calls, each from a client of its own, over the hosts in turn."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        clients = [Client(urls[n % len(urls)]) for n in range(len(calls))]
        return [one.result() for one in [pool.submit(call, c) for call, c in zip(calls, clients, strict=True)]]


@contextlib.contextmanager
def two_hosts(
    home: pathlib.Path, url: str, config: str, inventory: str, *more: str, workers: int = 2
) -> Iterator[list[Service]]:
    """Two host processes, each with several workers, on one database.

    :param more: arguments of the first one
    """
    (home / 'inventory.yaml').write_text(inventory)
    (home / 'osif.conf').write_text(config)
    arguments = ['--config-file', str(home / 'osif.conf'), '--database', url, '--workers', str(workers)]
    arguments += ['--inventory', str(home / 'inventory.yaml')]
    found = [start_serve(home, *arguments, '--replace', *more)]
    try:
        found.append(start_serve(home, *arguments))
        yield found
    finally:
        statuses = [host.stop() for host in found]
    assert statuses == [0, 0]


class Model:
    """Who has which brought port, as far as answers tell: at most one server at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: dict[str, str] = {}
        self.problems: list[str] = []

    def attached(self, port: str, server: str) -> None:
        """A POST was answered with 200."""
        with self._lock:
            holder = self._holder.setdefault(port, server)
            if holder != server:
                self.problems.append(f'port {port} given to {server} while {holder} has it')

    def letting_go(self, port: str, server: str) -> None:
        """A DELETE is about to be sent."""
        with self._lock:
            if self._holder.get(port) == server:
                del self._holder[port]

    def wrong(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)


@dataclasses.dataclass
class Outcome:
    """What a load came to."""

    statuses: collections.Counter[tuple[str, int]]
    problems: list[str]
    seconds: float
    #: server -> ports that it has by the answers; and those of which the last answer is not known
    held: dict[str, set[str]]
    unsure: dict[str, set[str]]

    @property
    def operations(self) -> int:
        return sum(self.statuses.values())

    def count(self, *statuses: int) -> int:
        return sum(number for (_, status), number in self.statuses.items() if status in statuses)

    def line(self, name: str) -> str:
        share = 100.0 * self.count(503) / max(1, self.operations)
        return (
            f'{name}: {self.operations} operations, {self.operations / self.seconds:.0f} a second, '
            f'{share:.2f} % 503, {self.count(0)} broken connections, {len(self.problems)} problems'
        )


class _Worker:
    """One client: its own servers, so that it knows what they must have; the ports are everybody's."""

    def __init__(self, cloud: Cloud, url: str, servers: list[str], model: Model, dice: random.Random) -> None:
        self.cloud = cloud
        self.client = Client(url)
        self.servers = servers
        self.model = model
        self.dice = dice
        self.statuses: collections.Counter[tuple[str, int]] = collections.Counter()
        self.held: dict[str, set[str]] = {server: set() for server in servers}
        self.unsure: dict[str, set[str]] = {server: set() for server in servers}

    def step(self) -> None:
        server = self.dice.choice(self.servers)
        operation = self.dice.choices(
            ['port', 'network', 'address', 'narrow', 'detach', 'list', 'show'], [6, 2, 1, 2, 7, 3, 2]
        )[0]
        getattr(self, f'_{operation}')(server)

    # Each operation notes its answer, and what it says about what the server has.

    def _attach(self, operation: str, server: str, **wanted: Any) -> None:
        status, body = self.client.attach(server, **wanted)
        self.statuses[operation, status] += 1
        if status == 200:
            port = body['interfaceAttachment']['port_id']
            self.held[server].add(port)
            self.unsure[server].discard(port)
            if 'port_id' in wanted:
                self.model.attached(port, server)
        elif status in (0, 503):
            if 'port_id' in wanted:
                self.unsure[server].add(wanted['port_id'])
            else:
                self.unsure[server].add('any')
        elif status not in self.cloud.refusals:
            self.model.wrong(f'{operation} answered {status}: {body}')

    def _port(self, server: str) -> None:
        self._attach('port', server, port_id=self.dice.choice(self.cloud.ports))

    def _network(self, server: str) -> None:
        self._attach('network', server, net_id=self.cloud.wide)

    def _narrow(self, server: str) -> None:
        self._attach('narrow', server, net_id=self.cloud.narrow)

    def _address(self, server: str) -> None:
        address = self.dice.choice(self.cloud.addresses)
        self._attach('address', server, net_id=self.cloud.wide, fixed_ips=[{'ip_address': address}])

    def _detach(self, server: str) -> None:
        if not self.held[server]:
            return self._list(server)
        port = self.dice.choice(sorted(self.held[server]))
        self.model.letting_go(port, server)
        status, body = self.client.call('DELETE', server, port)
        self.statuses['detach', status] += 1
        if status == 202:
            self.held[server].discard(port)
            self._must_stay_away(server, port)
        elif status in (0, 503):
            self.held[server].discard(port)
            self.unsure[server].add(port)
        else:
            self.model.wrong(f'DELETE of what is attached answered {status}: {body}')
        return None

    def _must_stay_away(self, server: str, port: str) -> None:
        """404 after a 202 is final, and comes."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            status, _ = self.client.call('GET', server, port)
            self.statuses['show', status] += 1
            if status == 404:
                if self.client.call('GET', server, port)[0] == 200:
                    self.model.wrong(f'port {port} of {server} came back after a 404')
                return
            if status in (0, 503):
                self.unsure[server].add(port)
                return
            time.sleep(0.01)
        self.model.wrong(f'port {port} of {server} stays')

    def _list(self, server: str) -> None:
        ports = self.client.listed(server)
        self.statuses['list', 200 if ports is not None else 503] += 1
        if ports is None:
            return
        if len(ports) != len(set(ports)):
            self.model.wrong(f'{server} lists a port twice')
        unsure = self.unsure[server]
        missing = self.held[server] - set(ports) - unsure
        if missing and self.cloud.has_moments:
            missing -= set(self.client.listed(server) or missing)
        if missing:
            self.model.wrong(f'{server} does not list {missing}')
        if 'any' not in unsure and (more := set(ports) - self.held[server] - unsure):
            self.model.wrong(f'{server} lists {more}, which nobody was told of')

    def _show(self, server: str) -> None:
        if self.held[server]:
            port = self.dice.choice(sorted(self.held[server]))
            status, _ = self.client.call('GET', server, port)
            self.statuses['show', status] += 1
            if status not in (200, 0, 503) and port not in self.unsure[server]:
                self.model.wrong(f'{port} of {server} is attached, and GET answered {status}')


def run(
    cloud: Cloud, urls: list[str], operations: int, clients: int = 16, seed: int = 0, disturb: Any = None
) -> Outcome:
    """Random operations from many clients over several hosts.

    :param disturb: called once half of the operations are done, while the rest goes on
    """
    model = Model()
    done = threading.Semaphore(0)
    workers = [
        _Worker(cloud, urls[n % len(urls)], list(cloud.servers[n::clients]), model, random.Random(f'{seed}-{n}'))
        for n in range(clients)
    ]

    def loop(worker: _Worker) -> None:
        try:
            for _ in range(operations // clients):
                worker.step()
                done.release()
        except Exception as error:
            model.wrong(f'client failed: {error!r}')

    begun = time.monotonic()
    threads = [threading.Thread(target=loop, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    if disturb is not None:
        for _ in range(operations // 2):
            if not done.acquire(timeout=60):
                break
        disturb()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    statuses = sum((worker.statuses for worker in workers), collections.Counter())
    held: dict[str, set[str]] = {}
    unsure: dict[str, set[str]] = {}
    for worker in workers:
        held |= worker.held
        unsure |= worker.unsure
        with contextlib.suppress(OSError):
            worker.client._peer.close()
    return Outcome(statuses, model.problems, seconds, held, unsure)
