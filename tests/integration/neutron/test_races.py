"""Who wins on a real Neutron: many servers at once, requests that come late, writers that know nothing of us."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext.attachments.states import State
from os_interface_ext.db import tables
from os_interface_ext.drivers import base
from tests.integration import load
from tests.integration.conftest import PATIENCE, wait_until
from tests.services import http_proxy
from tests.services.http_proxy import Passing

from . import fleet
from .conftest import HOST, Host, Project, World

pytestmark = pytest.mark.service

RACERS = 16
ROUNDS = max(2, round(50 * load.SCALE))
OTHER_HOST = 'compute2'
FREE = {'device_id': '', 'device_owner': '', 'binding:host_id': ''}


def shown(world: World, port_id: str) -> dict[str, Any]:
    """Who has a port, as Neutron tells it."""
    port = world.look(port_id)
    assert port is not None, f'port {port_id} is lost'
    return {name: port[name] for name in FREE}


# ---------------------------------------------------------------------- two processes


@pytest.fixture(scope='module')
def cloud_of_races(world: World) -> load.Cloud:
    return fleet.cloud_of(world, world.project('races'), '10.46.0.0/20', servers=RACERS, ports=2)


@pytest.fixture(scope='module')
def urls(
    world: World, cloud_of_races: load.Cloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    with fleet.running(world, cloud_of_races, tmp_path_factory.mktemp('fleet')) as found:
        yield [service.url for service in found]


def test_one_port_for_many_servers_goes_to_one(
    world: World, cloud_of_races: load.Cloud, urls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    port, servers = cloud_of_races.ports[0], cloud_of_races.servers
    tidy = load.Client(urls[0])
    refused = 0
    for _ in range(ROUNDS):
        results = load.at_once(urls, [lambda c, s=server: c.attach(s, port_id=port) for server in servers])
        statuses = [status for status, _ in results]
        assert sorted(set(statuses)) in ([200, 409], [200, 409, 503], [200, 503]), statuses
        assert statuses.count(200) == 1, statuses
        refused += statuses.count(503)
        winner = servers[statuses.index(200)]
        assert shown(world, port) == {
            'device_id': winner,
            'device_owner': 'compute:nova',
            'binding:host_id': HOST,
        }
        listed = load.at_once(urls, [lambda c, s=server: c.listed(s) for server in servers])
        assert listed == [[port] if server == winner else [] for server in servers]
        tidy.detached(winner, port)
        assert shown(world, port) == FREE
    with capsys.disabled():
        print(
            f'\none port of Neutron, {RACERS} servers at once, {ROUNDS} times: one 200 each time, '
            f'{refused} times 503, the rest 409'
        )


def test_a_detach_never_takes_the_port_from_its_next_server(
    world: World, cloud_of_races: load.Cloud, urls: list[str]
) -> None:
    port, servers = cloud_of_races.ports[1], cloud_of_races.servers
    client = load.Client(urls[0])
    assert client.attach(servers[0], port_id=port)[0] == 200
    holder = 0
    for _ in range(ROUNDS * 2):
        nexts = [(holder + step) % RACERS for step in (1, 2, 0)]
        results = load.at_once(
            urls,
            [
                lambda c, s=servers[holder]: c.call('DELETE', s, port),
                lambda c, s=servers[holder]: c.call('DELETE', s, port),
                *(lambda c, s=servers[number]: c.attach(s, port_id=port) for number in nexts),
            ],
        )
        statuses = [status for status, _ in results]
        assert set(statuses[:2]) <= {202, 404}, statuses
        assert set(statuses[2:]) <= {200, 409, 503}, statuses
        won = [number for number, status in zip(nexts, statuses[2:], strict=True) if status == 200]
        # The old holder's repeated attach may be answered with 200 before the detach, and has no claim then.
        lasting = [number for number in won if number != holder]
        assert len(lasting) <= 1, statuses
        if not won:
            wait_until(lambda s=servers[nexts[0]]: client.attach(s, port_id=port)[0] == 200)
            lasting = nexts[:1]
        elif not lasting:
            client.detached(servers[holder], port)
            assert client.attach(servers[nexts[0]], port_id=port)[0] == 200
            lasting = nexts[:1]
        holder = lasting[0]
        assert shown(world, port)['device_id'] == servers[holder]
        assert shown(world, port)['binding:host_id'] == HOST
        assert client.listed(servers[holder]) == [port]
    client.detached(servers[holder], port)
    assert shown(world, port) == FREE


# ---------------------------------------------------------------------- moments that are forced


@dataclasses.dataclass
class Pair:
    """Two hosts with drivers of their own on one database; ``mine`` is in trouble, ``theirs`` carries on."""

    world: World
    project: Project
    network: str
    mine: Host
    theirs: Host

    def server(self) -> base.Server:
        """A server that both know."""
        server = self.mine.server(self.project)
        return self.theirs.server(self.project, id=server.id)

    def settle(self) -> None:
        """All leases have run out; the other host's reconciler looks until all is at rest."""
        quiet = 0
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with self.theirs.parts.database.write() as connection:
                connection.execute(sa.update(tables.attachments).values(lease_expires=0.0))
            report = self.theirs.parts.reconciler.once()
            # A port of our mark that another writer has is told of at each look, and left alone.
            busy = report.carried_on or report.pending or report.gone or report.deleted or self.in_motion()
            quiet = 0 if busy else quiet + 1
            if quiet == 2:
                return
        raise AssertionError(f'the records do not come to rest: {report.lines()}')

    def in_motion(self) -> list[Any]:
        return [
            record
            for record in self.theirs.parts.store.listed()
            if record.state is not State.ATTACHED or record.missing_since is not None
        ]

    def recorded(self, server: base.Server) -> list[str | None]:
        return [record.port_id for record in self.theirs.parts.store.of_server(server.id)]

    def ports(self) -> set[str]:
        return {port['id'] for port in self.world.ports(project_id=self.project.id)}


@pytest.fixture(scope='module')
def pair(world: World, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    home, project = tmp_path_factory.mktemp('pair'), world.project('forced')
    mine, theirs = (Host(world, home, attachments={'wait': 0.2}) for _ in range(2))
    network = world.network(project, cidr='10.47.0.0/20')
    made = Pair(world, project, network, mine, theirs)
    for host in (mine, theirs):
        # Which networks are external is asked once in a while, and whether Neutron takes tags once.
        server = made.server()
        for body in ({'net_id': network}, {'port_id': world.port(project, network)}):
            host.detach(server, host.attach(server, **body))
    return made


@dataclasses.dataclass(frozen=True)
class Operation:
    """A request; ``writes`` of it go to Neutron."""

    name: str
    method: str
    created: bool
    writes: int


ATTACH_PORT = Operation('attach by port', 'POST', created=False, writes=2)
ATTACH_NETWORK = Operation('attach by network', 'POST', created=True, writes=2)
DETACH_BROUGHT = Operation('detach of a brought port', 'DELETE', created=False, writes=1)
DETACH_CREATED = Operation('detach of a created port', 'DELETE', created=True, writes=1)
OPERATIONS = (ATTACH_PORT, ATTACH_NETWORK, DETACH_BROUGHT, DETACH_CREATED)

BEFORE, AFTER = http_proxy.before_it, http_proxy.after_it
WHEN = {'before': BEFORE, 'after': AFTER}


class Case:
    """A server, a port, and the operation that is disturbed."""

    def __init__(self, pair: Pair, operation: Operation) -> None:
        self.pair = pair
        self.operation = operation
        self.server = pair.server()
        #: the port; one that is being made is known by what Neutron answers
        self.port = ''
        if operation is DETACH_CREATED:
            self.port = pair.mine.attach(self.server, net_id=pair.network)
        elif operation is not ATTACH_NETWORK:
            self.port = pair.world.port(pair.project, pair.network)
        if operation is DETACH_BROUGHT:
            pair.mine.attach(self.server, port_id=self.port)

    def ask(self) -> int:
        """The status of the answer."""
        if self.operation.method == 'POST':
            wanted = {'net_id': self.pair.network} if self.operation.created else {'port_id': self.port}
            return self.pair.mine.call('POST', self.server, body=wanted).status_int
        return self.pair.mine.call('DELETE', self.server, self.port).status_int

    def run(self, when: str, nth: int, work: Callable[[], object], *, writes: bool) -> tuple[int, bool]:
        """The status of the answer, and whether the moment came: before the n-th request, or after it."""
        came: list[Passing] = []
        counted = 0

        def is_it(passing: Passing) -> bool:
            nonlocal counted
            counted += not writes or passing.method != 'GET'
            return counted == nth and (not writes or passing.method != 'GET')

        def disturb(passing: Passing) -> None:
            came.append(passing)
            if not self.port:
                self.port = next(
                    (port['id'] for port in self.pair.world.ports(device_id=self.server.id)), self.port
                )
            work()

        with self.pair.world.proxy.trouble(WHEN[when](disturb), is_it, times=1):
            status = self.ask()
        return status, bool(came)


@pytest.mark.parametrize('when', WHEN)
@pytest.mark.parametrize(
    ('operation', 'nth'),
    [(ATTACH_PORT, 1), (ATTACH_PORT, 2), (DETACH_BROUGHT, 1)],
    ids=['claim', 'bind', 'unbind'],
)
def test_who_comes_late_leaves_the_newer_attachment(pair: Pair, operation: Operation, nth: int, when: str) -> None:
    """Its lease runs out while a request is on its way, another process carries on, the port is attached anew."""
    case, newer = Case(pair, operation), pair.server()

    def overtake() -> None:
        pair.settle()
        pair.theirs.attach(newer, port_id=case.port)

    status, came = case.run(when, nth, overtake, writes=True)
    assert came
    assert status in {202, 404, 409, 500, 503}
    pair.settle()
    assert shown(pair.world, case.port) == {
        'device_id': newer.id,
        'device_owner': 'compute:az1',
        'binding:host_id': HOST,
    }
    assert pair.recorded(case.server) == []
    assert pair.recorded(newer) == [case.port]
    pair.theirs.detach(newer, case.port)
    assert shown(pair.world, case.port) == FREE


@pytest.mark.parametrize(
    ('operation', 'nth'),
    [(ATTACH_PORT, 1), (ATTACH_PORT, 2), (DETACH_BROUGHT, 1)],
    ids=['claim', 'bind', 'unbind'],
)
def test_what_neutron_does_after_all_is_over_changes_nothing(pair: Pair, operation: Operation, nth: int) -> None:
    """Nobody waits for a request any more, and it has been undone or repeated, when Neutron comes to it."""
    case = Case(pair, operation)
    over, done = threading.Event(), threading.Event()

    def late(handler: Any, passing: Passing) -> bool:
        handler.cut()
        assert over.wait(60)
        handler.ask(passing)
        done.set()
        return True

    writes = itertools.count(1)
    with pair.world.proxy.trouble(late, lambda it: it.method != 'GET' and next(writes) == nth, times=1):
        status = case.ask()
        assert status == (503 if operation.method == 'POST' else 202)
        pair.settle()
        assert pair.recorded(case.server) == []
        over.set()
        assert done.wait(60)
    assert shown(pair.world, case.port) == FREE
    pair.mine.detach(case.server, pair.mine.attach(case.server, port_id=case.port))


@pytest.mark.parametrize('when', WHEN)
@pytest.mark.parametrize(
    ('operation', 'nth'), [(DETACH_BROUGHT, 1), (DETACH_CREATED, 1)], ids=['unbind', 'delete']
)
def test_nobody_attaches_a_port_that_is_being_detached(
    pair: Pair, operation: Operation, nth: int, when: str
) -> None:
    case, other = Case(pair, operation), pair.server()
    asked: list[int] = []
    status, came = case.run(
        when,
        nth,
        lambda: asked.append(pair.theirs.call('POST', other, body={'port_id': case.port}).status_int),
        writes=True,
    )
    assert (status, came) == (202, True)
    # A created port is gone for whoever asks after its end.
    assert set(asked) <= {503, 404}
    assert pair.recorded(other) == []
    if operation.created:
        assert pair.world.look(case.port) is None
    else:
        assert shown(pair.world, case.port) == FREE
        pair.theirs.detach(other, pair.theirs.attach(other, port_id=case.port))


# ---------------------------------------------------------------------- writers that know nothing of us


def nova(pair: Pair) -> dict[str, str]:
    """As Nova's own code does it, at once with the host."""
    return {'device_id': pair.server().id, 'device_owner': 'compute:nova', 'binding:host_id': OTHER_HOST}


def nova_without_host(pair: Pair) -> dict[str, str]:
    return {'device_id': pair.server().id, 'device_owner': 'compute:nova'}


def administrator(pair: Pair) -> dict[str, str]:
    return {'device_id': 'an-appliance', 'device_owner': 'appliance:rack-7'}


WRITERS = (nova, nova_without_host, administrator)
#: More requests than any operation has.
MOST = 6


@pytest.mark.parametrize('operation', OPERATIONS, ids=lambda operation: operation.name)
def test_what_another_writer_takes_stays_his(pair: Pair, operation: Operation) -> None:
    """At each moment of an operation: before each request to Neutron, and after each writing one."""
    dice = random.Random(operation.name)
    moments = 0
    for when, writes in (('before', False), ('after', True)):
        for nth in range(1, MOST):
            writers = WRITERS if load.SCALE >= 1 else dice.sample(WRITERS, 1)
            came = [taken_at(pair, operation, when, nth, writer, writes=writes) for writer in writers]
            if not any(came):
                break
            moments += 1
        else:
            raise AssertionError(f'more than {MOST} requests')
    assert moments >= 3


def taken_at(
    pair: Pair,
    operation: Operation,
    when: str,
    nth: int,
    writer: Callable[[Pair], dict[str, str]],
    *,
    writes: bool,
) -> bool:
    case = Case(pair, operation)
    writes_it = writer(pair)
    taken: list[dict[str, Any]] = []

    def take() -> None:
        if case.port and pair.world.look(case.port) is not None:
            pair.world.neutron('PUT', f'/ports/{case.port}', {'port': writes_it})
            taken.append(shown(pair.world, case.port))

    before = pair.ports()
    status, came = case.run(when, nth, take, writes=writes)
    where = f'{operation.name}, {when} request {nth}, {writer.__name__}: {status}'
    if operation.method == 'POST':
        last = came and when == 'after' and nth == operation.writes
        # After the last answer of Neutron nothing tells that there was another writer.
        assert status in ({400, 409, 500, 503} if taken and not last else {200}), where
    else:
        assert status in {202, 404}, where
    pair.settle()
    if taken:
        assert shown(pair.world, case.port) == taken[0], where
        assert pair.recorded(case.server) == [], where
        assert pair.mine.list(case.server).json['interfaceAttachments'] == [], where
        pair.world.neutron('DELETE', f'/ports/{case.port}')
    for port_id in pair.recorded(case.server):
        assert port_id is not None
        pair.mine.detach(case.server, port_id)
    if not operation.created and not taken:
        assert shown(pair.world, case.port) == FREE, where
        pair.world.neutron('DELETE', f'/ports/{case.port}')
    assert pair.ports() == before - {case.port}, where
    return came
