"""Listeners: what they are told and when, and that nothing they do does any harm."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import threading
import time
import types
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments import listeners
from os_interface_ext.attachments.listeners import Event, ListenerEvent, Listeners
from os_interface_ext.attachments.manager import AttachRequest, Manager
from os_interface_ext.attachments.reconciler import Reconciler
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Record, Store
from tests import migrated
from tests.unit.test_manager import CTXT, PROJECT, Cloud, raising

PATIENCE = 30.0


class Ear:
    """Remembers what it hears, and the state of the record at that moment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.heard: list[tuple[str, ListenerEvent]] = []
        self.states: list[State | None] = []

    def __call__(self, event: str, attachment: ListenerEvent) -> None:
        record = self._store.get(attachment.record_id)
        self.states.append(record.state if record else None)
        self.heard.append((event, attachment))


@dataclasses.dataclass
class World:
    cloud: Cloud
    store: Store
    ear: Ear
    told: Listeners
    manager: Manager
    reconciler: Reconciler
    server: Any
    network_id: str

    def port(self) -> str:
        return self.cloud.add_port(self.network_id, PROJECT).id

    def attach(self, **wanted: Any) -> str:
        return self.manager.attach(CTXT, self.server, AttachRequest(**wanted)).id

    def heard(self) -> list[tuple[str, ListenerEvent]]:
        assert self.told.flush(PATIENCE)
        return self.ear.heard

    def events(self) -> list[str]:
        return [event for event, _ in self.heard()]


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    conf = config.new(
        [],
        database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'},
        reconciler={'stuck_attempts': 3, 'backoff': 0.01, 'backoff_cap': 0.01},
    )
    store = Store(migrated.database_of(conf), lease=30.0)
    cloud = Cloud(conf)
    ear = Ear(store)
    told = Listeners({'ear': ear})
    stepper = Stepper(store, cloud, cloud, cloud, backoff=0.01, backoff_cap=0.01, stuck_attempts=3, listeners=told)
    manager = Manager(store, cloud, cloud, cloud, stepper, wait=0.0)
    reconciler = Reconciler(conf.reconciler, store, stepper, cloud, cloud)
    network = cloud.add_network(PROJECT)
    return World(cloud, store, ear, told, manager, reconciler, cloud.add_server(PROJECT), network.id)


# ------------------------------------------------------------------ what is told


def test_attached_and_detached_are_told_after_the_fact(world: World) -> None:
    port = world.attach(port_id=world.port())
    world.told.flush(PATIENCE)
    world.manager.detach(CTXT, world.server, port)
    (attached, first), (detached, second) = world.heard()
    assert (attached, detached) == ('attached', 'detached')
    assert world.ear.states == [State.ATTACHED, None]
    assert first == ListenerEvent(
        record_id=first.record_id,
        server_id=world.server.id,
        project_id=PROJECT,
        port_id=port,
        network_id=world.network_id,
        reason=None,
        attempts=0,
        error=None,
        request_id=CTXT.request_id,
    )
    assert second == dataclasses.replace(first, reason='detach')


def test_an_attach_that_was_undone_is_told_as_failed(world: World) -> None:
    world.cloud.hooks['before plug'] = raising(exceptions.PlugFailed(operator='no slot'))
    with pytest.raises(exceptions.PlugFailed):
        world.attach(network_id=world.network_id)
    ((event, attachment),) = world.heard()
    assert (event, attachment.reason, attachment.network_id) == ('failed', 'undo', world.network_id)
    assert 'no slot' in (attachment.error or '')
    assert world.ear.states == [None]


def test_an_attach_that_was_refused_is_not_told(world: World) -> None:
    with pytest.raises(exceptions.NetworkNotFound):
        world.attach(network_id='no-such-network')
    assert world.heard() == []


def test_a_way_out_that_fails_is_told_once_and_again_when_it_is_stuck(world: World) -> None:
    port = world.attach(port_id=world.port())

    def fail() -> None:
        world.cloud.hooks['before unplug'] = fail
        raise exceptions.Unavailable(operator='agent away')

    world.cloud.hooks['before unplug'] = fail
    world.manager.detach(CTXT, world.server, port)
    for _ in range(4):
        time.sleep(0.02)
        world.reconciler.carry_on()
    assert world.events() == ['attached', 'failed', 'stuck']
    assert [(told.attempts, told.error) for _, told in world.heard()[1:]] == [
        (1, 'Unavailable: agent away'),
        (3, 'Unavailable: agent away'),
    ]

    world.cloud.hooks.clear()
    time.sleep(0.02)
    world.reconciler.carry_on()
    assert world.events() == ['attached', 'failed', 'stuck', 'detached']


def test_what_is_gone_is_told_as_detached(world: World) -> None:
    ports = [world.attach(port_id=world.port()) for _ in range(2)]
    world.cloud.remove_port(ports[0])
    gone = world.store.of_port(ports[0])
    assert gone is not None
    world.reconciler._go_out(gone, [], [], state=State.UNPLUGGING, reason=Reason.GONE)
    world.cloud.remove_server(world.server.id)
    world.reconciler.server_deleted(world.server.id)
    assert [(event, told.reason) for event, told in world.heard()[2:]] == [
        ('detached', 'gone'),
        ('detached', 'server_gone'),
    ]


# ------------------------------------------------------------------ no harm


def record() -> Record:
    return Record('record', 'server', 'project', State.ATTACHED, created=False, generation=1)


def test_a_listener_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def broken(event: str, _: ListenerEvent) -> None:
        raise SystemExit if event == 'stuck' else ValueError(event)

    told = Listeners({'broken': broken, 'fine': lambda event, _: heard.append(event)})
    for event in (Event.ATTACHED, Event.STUCK, Event.DETACHED):
        told.tell(event, record())
    assert told.flush(PATIENCE)
    assert heard == ['attached', 'stuck', 'detached']
    failures = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage() for one in failures] == [
        f'listener broken failed: {event}, record record' for event in heard
    ]


def test_a_slow_listener_keeps_nobody_waiting(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, '_ROOM', 1)
    entered, go_on = threading.Event(), threading.Event()
    heard: list[str] = []

    def slow(event: str, _: ListenerEvent) -> None:
        entered.set()
        go_on.wait(PATIENCE)

    slowly = Listeners({'slow': slow})
    quickly = Listeners({'quick': lambda event, _: heard.append(event)})
    slowly.tell(Event.ATTACHED, record())
    assert entered.wait(PATIENCE)
    slowly.tell(Event.DETACHED, record())
    slowly.tell(Event.STUCK, record())
    quickly.tell(Event.ATTACHED, record())
    assert quickly.flush(PATIENCE)
    assert heard == ['attached']
    assert not slowly.flush(0.0)
    go_on.set()
    assert slowly.flush(PATIENCE)
    assert 'listener slow is too slow and is not told: stuck' in caplog.text


@pytest.mark.service
def test_a_fork_has_a_thread_of_its_own() -> None:
    reader, writer = os.pipe()
    told = Listeners({'pipe': lambda event, _: os.write(writer, f'{os.getpid()} '.encode())})
    told.tell(Event.ATTACHED, record())
    assert told.flush(PATIENCE)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            told.tell(Event.ATTACHED, record())
            told.flush(PATIENCE)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode().split() == [str(os.getpid()), str(child)]
    os.close(reader)
    os.close(writer)


# ------------------------------------------------------------------ loading

FOUND: list[Any] = []


def listen(event: str, attachment: ListenerEvent) -> None:
    FOUND.append(event)


class Configured:
    def __init__(self, conf: Any) -> None:
        self._interval = conf.reconciler.interval

    def __call__(self, event: str, attachment: ListenerEvent) -> None:
        FOUND.append(self._interval)


class Broken:
    def __init__(self, conf: Any) -> None:
        raise exceptions.ConfigurationError('option [broken] url: missing')


NOT_CALLABLE = 'text'


def test_the_broken_are_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = ('listen', 'Configured', 'Broken', 'NOT_CALLABLE', 'missing')
    declared = [EntryPoint(value, f'{__name__}:{value}', listeners.NAMESPACE) for value in values]
    declared.append(EntryPoint('no_module', 'no_such_module:x', listeners.NAMESPACE))
    manager = types.SimpleNamespace(list_entry_points=lambda: declared)
    monkeypatch.setattr(listeners.named, 'NamedExtensionManager', lambda *args, **options: manager)

    told = listeners.load(config.new([]))
    told.tell(Event.ATTACHED, record())
    assert told.flush(PATIENCE)
    assert sorted(FOUND, key=str) == [5.0, 'attached']
    left_out = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert [line.split()[1] for line in left_out] == ['Broken', 'NOT_CALLABLE', 'missing', 'no_module']
    assert all('\n' not in line for line in left_out)


def test_the_assembled_parts_have_the_listeners(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'})
    migrated.database_of(conf)
    heard: list[str] = []
    told = Listeners({'one': lambda event, _: heard.append(event)})
    monkeypatch.setattr(listeners, 'load', lambda _conf: told)
    cloud = Cloud(conf)
    parts = deploy.assemble(conf, server_driver=cloud, network_driver=cloud, vif_driver=cloud)
    server, network = cloud.add_server(PROJECT), cloud.add_network(PROJECT)
    parts.manager.attach(CTXT, server, AttachRequest(network_id=network.id))
    assert told.flush(PATIENCE)
    assert heard == ['attached']
