"""Records that nobody works on, a world that moved, and workers that died or were too slow."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.reconciler import ROLE
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import owner
from os_interface_ext.db import tables
from os_interface_ext.drivers import base
from tests.unit.heart import CTXT, PROJECT, SCENARIOS, Clock, Died, Scenario, World, die, points_of


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    # Making the tables takes longer than a test.
    return World(tmp_path_factory.mktemp('world'))


@pytest.fixture
def world(shared: World) -> World:
    shared.begin()
    return shared


scenarios = pytest.mark.parametrize('scenario', SCENARIOS, ids=lambda scenario: scenario.name)


def begin(world: World, scenario: Scenario) -> Any:
    world.begin()
    return scenario.prepare(world)


def users_port(scenario: Scenario, subject: Any) -> list[str]:
    return [subject] if subject and ('brought' in scenario.name or 'by port' in scenario.name) else []


def check(world: World, scenario: Scenario, subject: Any) -> None:
    booted = subject if 'without a record' in scenario.name else None
    world.check(
        *users_port(scenario, subject), unrecorded=booted if booted and world.cloud.find_port(booted) else None
    )


def act(world: World, process: Any, scenario: Scenario, subject: Any) -> Any:
    scenario.faults(process.faults)
    with contextlib.suppress(exceptions.OsInterfaceError, Died):
        return scenario.act(world, process, subject)
    return None


@scenarios
def test_who_died_at_any_point_is_carried_on(world: World, scenario: Scenario) -> None:
    for point, on in points_of(world, scenario):
        subject = begin(world, scenario)
        process = world.start()
        process.faults.add(point, die, on=on)
        act(world, process, scenario, subject)
        world.reconcile()
        try:
            check(world, scenario, subject)
            # The same again.
            act(world, world.process, scenario, subject)
            check(world, scenario, subject)
            assert world.shown() == [record.port_id for record in world.records()]
            if not scenario.attaches:
                assert world.records() == []
        except AssertionError as error:
            raise AssertionError(f'{point} #{on}: {error}') from error


@scenarios
@pytest.mark.parametrize('finished', [True, False], ids=['finished', 'begun'])
def test_a_slow_worker_does_nothing_more(
    world: World, scenario: Scenario, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    for point, on in points_of(world, scenario):
        if point == 'before commit':
            # Nobody overtakes a transaction of SQLite.
            continue
        subject = begin(world, scenario)
        process = world.start()
        # The host may hear of a change twice, when that is what the worker was about to tell.
        told = 'attachments_changed' in point
        seen: list[Any] = []

        def overtake(told: bool = told, seen: list[Any] = seen) -> None:
            held = [record for record in world.records() if record.owner]
            clock.advance(60.0)
            if not finished:
                for method in ('unplug', 'unbind', 'delete'):
                    world.process.faults.add(f'before {method}', fail(exceptions.Unavailable()), times=None)
            world.reconcile()
            if held:
                seen.append(what_is(world, events=not told))

        process.faults.add(point, overtake, on=on)
        answer = act(world, process, scenario, subject)
        world.process.faults.clear()
        try:
            for then in seen:
                assert then == what_is(world, events=not told)
            if seen and scenario.attaches:
                assert answer is None
            world.reconcile()
            check(world, scenario, subject)
            if isinstance(answer, base.Port):
                assert world.shown() == [answer.id]
            elif scenario.attaches:
                assert world.records() == []
        except AssertionError as error:
            raise AssertionError(f'{point} #{on}: {error}') from error


def what_is(world: World, *, events: bool) -> Any:
    heard = {server: list(told) for server, told in world.cloud._events.items()} if events else None
    return world.state_of_cloud(), world.rows(tables.attachments, tables.history), heard


def fail(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


# ------------------------------------------------------------------ the world moves, in each state


#: Where a record is when its process dies: how it came there, and the state that it is in.
STOPS = {
    'allocating': ('attach', 'before create', 'before claim'),
    'allocated': ('attach', 'after create', 'after claim'),
    'plugging': ('attach', 'before plug', 'before plug'),
    'plugged': ('attach', 'after plug', 'after plug'),
    'attached': ('attach', None, None),
    'unplugging': ('detach', 'before unplug', 'before unplug'),
    'unplugged': ('detach', 'after unplug', 'after unplug'),
    'releasing': ('detach', 'before delete', 'before unbind'),
    'released': ('detach', 'after delete', 'after unbind'),
}


def stop_at(world: World, stop: str, brought: bool) -> str | None:
    """A record whose process died there; the id of its port, if there is one."""
    operation, *points = STOPS[stop]
    point = points[brought]
    request = {'port_id': world.free_port()} if brought else {'network_id': world.network_id}
    process = world.start()
    if operation == 'attach':
        process.faults.add(point or '', die)
        with contextlib.suppress(Died):
            process.manager.attach(CTXT, world.server, AttachRequest(**request))
    else:
        port_id = process.manager.attach(CTXT, world.server, AttachRequest(**request)).id
        process.faults.add(point or '', die)
        with pytest.raises(Died):
            process.manager.detach(CTXT, world.server, port_id)
    return next(iter(world.cloud._ports), None)


@pytest.mark.parametrize('stop', STOPS)
@pytest.mark.parametrize('brought', [True, False], ids=['brought', 'created'])
def test_a_server_deleted(world: World, stop: str, brought: bool) -> None:
    port_id = stop_at(world, stop, brought)
    world.cloud.remove_server(world.server.id)
    world.reconcile()
    world.nothing_left(*filter(None, [port_id] if brought else []))


@pytest.mark.parametrize('stop', STOPS)
@pytest.mark.parametrize('brought', [True, False], ids=['brought', 'created'])
def test_a_port_deleted(world: World, stop: str, brought: bool) -> None:
    port_id = stop_at(world, stop, brought)
    world.cloud.remove_port(port_id or '')
    world.reconcile()
    world.nothing_left()


@pytest.mark.parametrize('stop', STOPS)
@pytest.mark.parametrize('brought', [True, False], ids=['brought', 'created'])
def test_a_port_bound_elsewhere(world: World, stop: str, brought: bool) -> None:
    port_id = stop_at(world, stop, brought)
    if port_id is None:
        pytest.skip('there is no port yet, or no more')
    world.cloud.change_port(port_id, device_id=world.other.id)
    world.reconcile()
    assert world.records() == []
    assert world.cloud.nics(world.server) == []
    port = world.cloud.find_port(port_id)
    if stop == 'allocated' and not brought:
        # Its record does not know it but by its mark, and nobody was ever told of it.
        assert port is None
    else:
        assert port is not None
        assert port.device_id == world.other.id


@pytest.mark.parametrize('stop', STOPS)
@pytest.mark.parametrize('brought', [True, False], ids=['brought', 'created'])
def test_a_port_unbound(world: World, stop: str, brought: bool) -> None:
    port_id = stop_at(world, stop, brought)
    if port_id is not None:
        world.cloud.change_port(port_id, device_id=None)
    world.reconcile()
    assert world.records() == []
    assert world.cloud.nics(world.server) == []
    # One that was taken away from a complete attachment is the user's now.
    kept = port_id is not None and (brought or stop == 'attached')
    assert list(world.cloud._ports) == ([port_id] if kept else [])


@pytest.mark.parametrize('stop', STOPS)
@pytest.mark.parametrize('brought', [True, False], ids=['brought', 'created'])
def test_a_server_on_another_host(world: World, stop: str, brought: bool, spy: Spy) -> None:
    port_id = stop_at(world, stop, brought)
    spy.hosts.clear()
    moved = dataclasses.replace(world.server, host='host-2')
    world.cloud._servers[world.server.id] = moved
    world.reconcile()
    if stop == 'attached':
        assert port_id is not None
        [record] = world.records()
        assert record.host == 'host-2'
        world.check(*([port_id] if brought else []))
    else:
        world.nothing_left(*filter(None, [port_id] if brought else []))
        if stop in ('plugging', 'plugged', 'unplugging'):
            # Where the server is, and where it was when the NIC was plugged.
            assert spy.hosts == ['host-2', 'host-1']


class Spy:
    """Which hosts an unplug went to."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[str | None] = []
        real = world.cloud.unplug

        def unplug(ctxt: Any, server: base.Server, *args: Any) -> None:
            self.hosts.append(server.host)
            real(ctxt, server, *args)

        monkeypatch.setattr(world.cloud, 'unplug', unplug)


@pytest.fixture
def spy(world: World, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(world, monkeypatch)


def test_a_server_moved_between_two_looks_is_unplugged_on_both_hosts(world: World, spy: Spy) -> None:
    port_id = world.attach_network()
    moved = dataclasses.replace(world.server, host='host-2')
    world.cloud._servers[world.server.id] = moved
    world.process.manager.detach(CTXT, moved, port_id)
    assert spy.hosts == ['host-2', 'host-1']
    world.nothing_left()


def test_a_server_on_no_host_is_unplugged_where_it_was(world: World, spy: Spy) -> None:
    port_id = world.attach_network()
    nowhere = dataclasses.replace(world.server, host=None)
    world.cloud._servers[world.server.id] = nowhere
    world.reconcile()
    world.process.manager.detach(CTXT, nowhere, port_id)
    assert spy.hosts == [None, 'host-1']
    world.nothing_left()


# ------------------------------------------------------------------ back-off


@pytest.fixture
def configure(world: World) -> Iterator[Callable[..., None]]:
    """Sets options of [reconciler], as if the processes were started anew."""

    def set_options(**options: Any) -> None:
        for name, value in options.items():
            world.conf.set_override(name, value, group='reconciler')
        world.process = world.start()

    before = dict(world.conf.reconciler)
    yield set_options
    for name, value in before.items():
        world.conf.set_override(name, value, group='reconciler')


def test_back_off_grows_to_its_cap_and_is_kept(
    world: World, configure: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    configure(backoff=10.0, backoff_cap=25.0, stuck_attempts=3)
    port_id = world.attach(port_id=world.free_port())
    process = world.process
    process.faults.add('before unplug', fail(exceptions.Unavailable()), times=None)
    process.manager.detach(CTXT, world.server, port_id)
    delays = []
    for attempt in range(1, 6):
        [record] = world.records()
        assert record.next_attempt is not None
        assert (record.attempts, record.owner) == (attempt, None)
        delays.append(round(record.next_attempt - process.store.clock()))
        # Not its time yet.
        assert process.reconciler.once().pending == []
        world.expire()
        [line] = process.reconciler.once().pending
        assert port_id in line
    assert delays == [10, 20, 25, 25, 25]
    assert len([one for one in caplog.records if 'is stuck' in one.getMessage()]) == 1
    process.faults.clear()
    world.expire()
    [line] = process.reconciler.once().carried_on
    assert port_id in line
    world.nothing_left(port_id)
    assert world.history()[-1].attempts == 6


def test_years_of_attempts_are_no_trouble(world: World) -> None:
    port_id = world.attach_network()
    world.process.faults.add('before unplug', fail(exceptions.Unavailable()), times=2)
    world.process.manager.detach(CTXT, world.server, port_id)
    with world.database.write() as connection:
        connection.execute(sa.update(tables.attachments).values(attempts=5000))
    world.expire()
    assert len(world.process.reconciler.once().pending) == 1
    [record] = world.records()
    assert record.attempts == 5001
    world.reconcile()
    world.nothing_left()


@pytest.mark.parametrize('error', [exceptions.Unavailable(), exceptions.DriverError(), RuntimeError('bug')])
def test_a_server_that_cannot_be_looked_up_holds_up_nobody_else(world: World, error: Exception) -> None:
    ports = [world.attach_network() for _ in range(3)]
    process = world.start()
    process.faults.add('before unplug', fail(exceptions.Unavailable()), times=None)
    for port_id in ports:
        process.manager.detach(CTXT, world.server, port_id)
    world.expire()
    world.process.faults.add('before get', fail(error))
    report = world.process.reconciler.once()
    assert (len(report.carried_on), len(report.pending)) == (2, 1)
    [record] = world.records()
    assert (record.attempts, record.owner) == (2, None)
    world.reconcile()
    world.nothing_left()


@pytest.mark.parametrize('point', ['before unbind', 'after unbind'])
def test_unbind_not_supported_is_tried_again_and_never_attached(world: World, point: str) -> None:
    port_id = world.attach(port_id=world.free_port())
    world.process.faults.add(point, fail(exceptions.NotSupported()))
    world.process.manager.detach(CTXT, world.server, port_id)
    [record] = world.records()
    # Its NIC is gone.
    assert record.state is State.RELEASING
    world.reconcile()
    world.nothing_left(port_id)


def test_unplug_not_supported_leaves_no_back_off_behind(world: World) -> None:
    port_id = world.attach_network()
    world.process.faults.add('before unplug', fail(exceptions.Unavailable()))
    world.process.manager.detach(CTXT, world.server, port_id)
    world.expire()
    world.process.faults.add('before unplug', fail(exceptions.NotSupported()))
    assert len(world.process.reconciler.once().pending) == 1
    [record] = world.records()
    assert (record.state, record.attempts, record.next_attempt, record.last_error) == (
        State.ATTACHED,
        0,
        None,
        None,
    )
    world.check()


# ------------------------------------------------------------------ gone, or only not seen


def age(world: World, seconds: float) -> None:
    """So much time passes for what was noted."""
    with world.database.write() as connection:
        for column in (tables.attachments.c.missing_since, tables.suspects.c.first_seen):
            connection.execute(sa.update(column.table).values({column.name: column - seconds}))


def test_gone_means_not_found_twice_a_grace_apart(world: World, configure: Callable[..., None]) -> None:
    configure(grace=100.0)
    port_id = world.attach_network()
    port = world.cloud._ports.pop(port_id)
    look = world.process.reconciler.once
    for _ in range(3):
        assert look().gone == []
    [record] = world.records()
    assert record.missing_since is not None
    age(world, 50.0)
    assert look().gone == []
    # There again: the next time counts anew.
    world.cloud._ports[port_id] = port
    look()
    assert world.records()[0].missing_since is None
    del world.cloud._ports[port_id]
    assert look().gone == []
    age(world, 101.0)
    [line] = look().gone
    assert port_id in line
    world.nothing_left()
    assert world.history()[-1].reason == 'gone'


def everything(world: World) -> str:
    """Attachments of both kinds, noted as missing and found again, and a port that may be left over."""
    world.attach_network()
    brought = world.attach(port_id=world.free_port())
    world.process.reconciler.once()
    return brought


def unauthorised(*args: Any) -> Any:
    raise exceptions.DriverError('401')


def broken(*args: Any) -> Any:
    raise ConnectionResetError()


NETWORK_READS = ('list_ports', 'get_port', 'find_marked')
FAILURES = {
    'empty': {'list_ports': lambda *args: [], 'find_marked': lambda *args: []},
    'unauthorised': dict.fromkeys(NETWORK_READS, unauthorised),
    'unauthorised servers': {'get': unauthorised},
    'broken': dict.fromkeys(NETWORK_READS, broken),
    'broken servers': {'get': broken},
}


@pytest.mark.parametrize('failure', FAILURES)
def test_a_backend_that_fails_ends_nothing(world: World, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(world)
    before = world.state_of_cloud(), world.rows(tables.attachments, tables.history)
    with monkeypatch.context() as patch:
        for name, answer in FAILURES[failure].items():
            patch.setattr(world.cloud, name, answer)
        for _ in range(3):
            world.process.reconciler.once()
    assert before == (world.state_of_cloud(), world.rows(tables.attachments, tables.history))


def test_a_backend_that_does_not_answer_ends_nothing(world: World) -> None:
    everything(world)
    leaked = add_marked(world)
    world.process.reconciler.once()
    before = world.state_of_cloud(), world.rows(tables.attachments, tables.history, tables.suspects)
    with world.cloud.unreachable():
        for _ in range(3):
            world.process.reconciler.once()
    assert before == (world.state_of_cloud(), world.rows(tables.attachments, tables.history, tables.suspects))
    world.process.reconciler.once()
    assert world.cloud.find_port(leaked) is None


def test_more_than_can_be_true_at_once_is_not_believed(
    world: World, configure: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    configure(max_gone=2)
    for _ in range(3):
        world.cloud.remove_port(world.attach_network())
    for _ in range(3):
        report = world.process.reconciler.once()
        assert report.gone == []
    assert len(report.pending) == len(world.records()) == 3
    assert 'max_gone' in caplog.text
    configure(max_gone=3)
    world.reconcile()
    world.nothing_left()


# ------------------------------------------------------------------ the sweep


def add_marked(
    world: World,
    *,
    device_id: str | None = None,
    device_owner: str = 'compute:nova',
    result: tuple[str, str] | None = None,
    installation: str | None = None,
) -> str:
    """A port of ours without a record; ``result``: the server and the reason that are in the history."""
    record_id = str(uuid.uuid4())
    if result is not None:
        with world.database.write() as connection:
            connection.execute(
                sa.insert(tables.history).values(
                    attachment_id=record_id,
                    server_id=result[0],
                    project_id=PROJECT,
                    reason=result[1],
                    attempts=0,
                    created_at=world.process.store.clock(),
                    finished_at=world.process.store.clock(),
                )
            )
    mark = f'osif:{installation or world.process.store.installation}:{record_id}'
    return world.cloud.add_port(
        world.network_id, PROJECT, device_id=device_id, device_owner=device_owner, mark=mark
    ).id


SERVER, OTHER = 'the server', 'another server'
SWEEP = [
    ({}, True),
    ({'device_id': 'a server that is gone'}, True),
    ({'device_id': SERVER}, False),
    ({'device_id': SERVER, 'result': (SERVER, 'undo')}, True),
    ({'device_id': OTHER, 'result': (SERVER, 'undo')}, False),
    ({'result': (SERVER, 'undo')}, True),
    ({'result': (SERVER, 'detach')}, True),
    ({'device_id': OTHER, 'result': (SERVER, 'detach')}, False),
    ({'device_id': 'a server that is gone', 'result': (SERVER, 'server_gone')}, True),
    ({'result': (SERVER, 'gone')}, False),
    ({'device_id': SERVER, 'result': (SERVER, 'gone')}, False),
    ({'device_id': OTHER, 'result': (SERVER, 'gone')}, False),
    ({'device_id': 'a router', 'device_owner': 'network:router_interface'}, False),
    ({'installation': 'another-installation'}, False),
]


@pytest.mark.parametrize(('port', 'leaked'), SWEEP, ids=[str(port) for port, _ in SWEEP])
def test_what_the_sweep_deletes(
    world: World, configure: Callable[..., None], port: dict[str, Any], leaked: bool
) -> None:
    configure(grace=100.0)
    names = {SERVER: world.server.id, OTHER: world.other.id}
    values = dict(port)
    if 'device_id' in values:
        values['device_id'] = names.get(values['device_id'], values['device_id'])
    if 'result' in values:
        values['result'] = (names[values['result'][0]], values['result'][1])
    port_id = add_marked(world, **values)
    for passes in (0.0, 50.0):
        age(world, passes)
        assert world.process.reconciler.once().deleted == []
    age(world, 51.0)
    with world.cloud.unreachable():
        assert world.process.reconciler.once().deleted == []
    report = world.process.reconciler.once()
    assert report.deleted == ([f'port {port_id}'] if leaked else [])
    assert (world.cloud.find_port(port_id) is None) == leaked
    if not leaked and 'installation' not in port:
        [line] = report.orphans
        assert port_id in line


def test_a_server_that_cannot_be_looked_up_is_not_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    port_id = add_marked(world, device_id='a server that is gone')
    with monkeypatch.context() as patch:
        patch.setattr(world.cloud, 'get', unauthorised)
        for _ in range(3):
            world.process.reconciler.once()
    assert world.cloud.find_port(port_id)


def test_a_port_that_has_a_record_again_is_no_suspect(world: World, configure: Callable[..., None]) -> None:
    configure(grace=100.0)
    port_id = add_marked(world)
    world.process.reconciler.once()
    age(world, 101.0)
    # Attached by its id: as a port that somebody brought along.
    world.attach(port_id=port_id)
    for _ in range(3):
        report = world.process.reconciler.once()
        assert (report.deleted, report.orphans) == ([], [])
    assert world.shown() == [port_id]
    world.process.manager.detach(CTXT, world.server, port_id)
    assert world.process.reconciler.once().deleted == []
    age(world, 101.0)
    assert world.process.reconciler.once().deleted == [f'port {port_id}']


def test_a_port_attached_while_the_sweep_looks_is_left_alone(world: World) -> None:
    port_id = add_marked(world)
    world.process.reconciler.once()
    sweeping = world.start()
    sweeping.faults.add('after find_marked', lambda: world.attach(port_id=port_id))
    report = sweeping.reconciler.once()
    assert report.deleted == []
    assert world.shown() == [port_id]


def test_a_port_that_is_being_swept_cannot_be_attached(world: World) -> None:
    port_id = add_marked(world)
    world.process.reconciler.once()
    sweeping = world.start()
    refused = []

    def attach() -> None:
        with pytest.raises(exceptions.Busy):
            world.attach(port_id=port_id)
        refused.append(True)

    # Between the last look at the port and the delete.
    sweeping.faults.add('before delete', attach)
    assert sweeping.reconciler.once().deleted == [f'port {port_id}']
    assert refused == [True]
    world.nothing_left()


def test_an_attach_in_progress_is_no_leak(world: World) -> None:
    worker = world.start()
    worker.faults.add('after create', lambda: [world.process.reconciler.once() for _ in range(3)])
    shown = worker.manager.attach(CTXT, world.server, AttachRequest(network_id=world.network_id))
    assert world.shown() == [shown.id]
    world.check()


def test_max_deletes(world: World, configure: Callable[..., None]) -> None:
    configure(max_deletes=2)
    for _ in range(5):
        add_marked(world)
    numbers = []
    for _ in range(5):
        report = world.process.reconciler.once()
        numbers.append((len(report.deleted), len(report.orphans)))
    assert numbers == [(0, 5), (2, 3), (2, 1), (1, 0), (0, 0)]


def test_a_port_taken_away_and_attached_elsewhere_is_never_swept(world: World) -> None:
    port_id = world.attach_network()
    world.cloud.change_port(port_id, device_id=None)
    world.reconcile()
    world.process.manager.attach(CTXT, world.other, AttachRequest(port_id=port_id))
    world.reconcile()
    assert world.shown(world.other) == [port_id]
    world.process.manager.detach(CTXT, world.other, port_id)
    world.reconcile()
    assert list(world.cloud._ports) == [port_id]


def test_a_restored_database_costs_no_living_port(world: World) -> None:
    old = world.attach_network()
    backup = world.rows(tables.attachments)
    ports = [old, *(world.attach_network() for _ in range(3)), world.attach(port_id=world.free_port())]
    with world.database.write() as connection:
        connection.execute(sa.delete(tables.attachments))
        columns = tables.attachments.c.keys()
        for row in backup[tables.attachments.name]:
            connection.execute(sa.insert(tables.attachments).values(dict(zip(columns, row, strict=True))))
    reports = world.reconcile()
    assert all(report.deleted == report.gone == [] for report in reports)
    assert len(reports[-1].orphans) == 3
    assert sorted(world.shown()) == sorted(ports)
    assert sorted(world.cloud.nics(world.server)) == sorted(ports)
    for port_id in ports:
        world.process.manager.detach(CTXT, world.server, port_id)
    world.reconcile()
    world.nothing_left(ports[-1])


# ------------------------------------------------------------------ the process


def all_at_once(world: World) -> None:
    """Something for each part of a look to do."""
    stop_at(world, 'plugged', False)
    stop_at(world, 'unplugging', True)
    world.cloud.remove_port(world.attach_network())
    add_marked(world)
    world.process.reconciler.look_at_world()
    with world.database.write() as connection:
        connection.execute(
            sa.insert(tables.history).values(
                attachment_id='old',
                server_id='s',
                project_id=PROJECT,
                reason='detach',
                attempts=0,
                created_at=1.0,
                finished_at=2.0,
            )
        )
    world.expire()


def test_dry_run_changes_nothing(world: World, configure: Callable[..., None]) -> None:
    all_at_once(world)
    add_marked(world)
    configure(page=1)
    before = world.state_of_cloud(), world.rows()
    reports = [world.process.reconciler.once(dry_run=True) for _ in range(2)]
    assert before == (world.state_of_cloud(), world.rows())
    assert [point for point in world.process.faults.passed if 'commit' in point] == []
    assert reports[0] == reports[1]
    report = reports[0]
    assert [len(entries) for entries in dataclasses.asdict(report).values()] == [2, 0, 1, 1, 1]
    assert len(report.lines()) == 5
    # What it said is what is done.
    done = world.process.reconciler.once()
    assert (len(done.carried_on), *done.gone, *done.deleted) == (2, *report.gone, *report.deleted)


def test_a_look_leaves_a_heartbeat_and_prunes(world: World, configure: Callable[..., None]) -> None:
    all_at_once(world)
    with world.database.write() as connection:
        connection.execute(
            sa.insert(tables.heartbeats).values(name='reconciler long-gone:1', owner='x', seen=1.0, expires=2.0)
        )
    configure(history_days=1)
    world.process.reconciler.once()
    assert 'old' not in {row.attachment_id for row in world.history()}
    assert len(world.history()) == 4
    [heartbeat] = world.rows(tables.heartbeats)['osif_heartbeats']
    assert heartbeat[0] == f'reconciler {owner()}'
    assert heartbeat[2] == pytest.approx(world.process.store.clock(), abs=60.0)


def test_pages_hide_nothing(world: World, configure: Callable[..., None]) -> None:
    ports = [world.attach_network() for _ in range(5)]
    configure(page=2, max_gone=100)
    for port_id in ports:
        world.cloud.remove_port(port_id)
    world.reconcile(2)
    world.nothing_left()


def test_reconcilers_side_by_side_do_nothing_twice(world: World) -> None:
    world.process.faults.add('before unplug', fail(exceptions.Unavailable()), times=None)
    for _ in range(12):
        world.process.manager.detach(CTXT, world.server, world.attach_network())
    for _ in range(4):
        add_marked(world)
    world.process.reconciler.look_at_world()
    world.expire()
    side_by_side = [world.start() for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda process: process.reconciler.once(), side_by_side))
    assert sum(len(report.carried_on) for report in reports) == 12
    assert [row.attempts for row in world.history() if row.reason == 'detach'] == [1] * 12
    for method in ('unplug', 'delete'):
        calls = sum(process.faults.passed.count(f'after {method}') for process in side_by_side)
        assert 12 <= calls <= 12 + (method == 'delete') * 12
    world.reconcile()
    world.nothing_left()


@scenarios
def test_a_reconciler_beside_a_living_worker_does_not_interfere(world: World, scenario: Scenario) -> None:
    for point, on in points_of(world, scenario):
        if point == 'before commit' or 'by the reconciler' in scenario.name:
            continue
        subject = begin(world, scenario)
        process = world.start()
        process.faults.add(point, lambda: [world.process.reconciler.once() for _ in range(3)], on=on)
        answer = act(world, process, scenario, subject)
        assert isinstance(answer, base.Port) == (scenario.attaches and 'undo' not in scenario.name)
        check(world, scenario, subject)


def test_told_to_stop_it_finishes_the_record_at_hand(world: World) -> None:
    world.process.faults.add('before unplug', fail(exceptions.Unavailable()), times=None)
    for _ in range(3):
        world.process.manager.detach(CTXT, world.server, world.attach_network())
    world.expire()
    process = world.start()
    stop = threading.Event()
    process.faults.add('before unplug', stop.set)
    process.reconciler.run(stop)
    assert len(world.history()) == 1
    assert len(world.records()) == 2
    assert all(record.attempts == 1 and record.owner is None for record in world.records())
    assert 'after find_marked' not in process.faults.passed


def test_alone_it_works_only_with_the_role(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(world, 'plugged', False)
    world.expire()
    stop = threading.Event()
    real = world.process.store.heartbeat

    def heartbeat(name: str, lease: float) -> bool:
        if name == ROLE:
            stop.set()
        return real(name, lease)

    monkeypatch.setattr(world.process.store, 'heartbeat', heartbeat)
    with world.database.write() as connection:
        connection.execute(
            sa.insert(tables.heartbeats).values(name=ROLE, owner='another:1', seen=1.0, expires=9e9)
        )
    world.process.reconciler.run(stop, alone=True)
    assert len(world.records()) == 1
    assert world.rows(tables.heartbeats)['osif_heartbeats'][0][1] == 'another:1'
    # Its holder is not heard of any more.
    with world.database.write() as connection:
        connection.execute(sa.update(tables.heartbeats).values(expires=1.0))
    stop.clear()
    worked = world.process.reconciler.carry_on
    monkeypatch.setattr(world.process.reconciler, 'carry_on', lambda *_, **__: worked())
    world.process.reconciler.run(stop, alone=True)
    world.nothing_left()


@pytest.mark.parametrize('error', [exceptions.Unavailable(), RuntimeError('bug')])
def test_the_loop_outlives_errors(
    world: World, configure: Callable[..., None], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    stop_at(world, 'plugged', False)
    world.expire()
    configure(interval=0.01)
    stop = threading.Event()
    process = world.process
    process.faults.add('before transaction', fail(error))
    process.faults.add('after find_marked', stop.set)
    process.reconciler.run(stop)
    assert 'tries again in' in caplog.text
    world.nothing_left()
