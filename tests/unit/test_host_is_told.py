"""``attachments_changed``: at least once for each change, before it is answered, whatever comes between."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.states import State
from os_interface_ext.drivers import base
from os_interface_ext.extension import Extension
from tests import migrated
from tests.unit.test_manager import CTXT, PROJECT, Cloud, raising


class Crash(BaseException):
    """The process dies here."""


class HostCloud(Cloud):
    """Tells what it has been told, and may die or fail before or after that."""

    def attachments_changed(self, *args: Any) -> None:
        super().attachments_changed(*args)
        self.at('after host')


@dataclasses.dataclass
class World:
    cloud: HostCloud
    parts: deploy.Parts
    server: base.Server
    network_id: str

    def port(self) -> str:
        return self.cloud.add_port(self.network_id, PROJECT).id

    def attach(self, **wanted: Any) -> str:
        return self.parts.manager.attach(CTXT, self.server, AttachRequest(**wanted)).id

    def detach(self, port_id: str) -> None:
        self.parts.manager.detach(CTXT, self.server, port_id)

    def told(self) -> list[str]:
        return self.cloud.events(self.server.id)

    def records(self) -> list[State]:
        return [record.state for record in self.parts.store.of_server(self.server.id)]

    def carry_on(self) -> None:
        """What the reconciler does when the leases and waits are over."""
        with self.parts.database.write() as connection:
            connection.exec_driver_sql('UPDATE osif_attachments SET lease_expires = 0, next_attempt = NULL')
        self.parts.reconciler.carry_on()


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    conf = config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'})
    migrated.database_of(conf)
    cloud = HostCloud(conf)
    extension = Extension(conf, server_driver=cloud, network_driver=cloud, vif_driver=cloud)
    return World(cloud, extension.parts, cloud.add_server(PROJECT), cloud.add_network(PROJECT).id)


def test_it_is_told_what_is_known_of_the_attachment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[base.Change] = []
    monkeypatch.setattr(
        HostCloud, 'attachments_changed', lambda _self, _ctxt, _server, change: told.append(change)
    )
    brought = world.attach(port_id=world.port(), tag='data')
    made = world.attach(network_id=world.network_id)
    for port_id in (brought, made):
        world.detach(port_id)
    assert [(change, change.port_id, change.created, change.tag) for change in told] == [
        ('attached', brought, False, 'data'),
        ('attached', made, True, None),
        ('detached', brought, False, 'data'),
        ('detached', made, True, None),
    ]


class ForewarnedCloud(HostCloud):
    """Wants to know of a brought port before the network backend does."""

    def port_is_brought(self, ctxt: Any, server: base.Server, port_id: str) -> None:
        assert not self.get_port(ctxt, port_id).device_id
        self.forewarned.append((server.id, port_id))
        self.at('after forewarning')

    forewarned: list[tuple[str, str]]


@pytest.fixture
def forewarned(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(ForewarnedCloud, 'forewarned', [], raising=False)
    conf = world.parts.conf
    cloud = ForewarnedCloud(conf)
    extension = Extension(conf, server_driver=cloud, network_driver=cloud, vif_driver=cloud)
    return World(cloud, extension.parts, cloud.add_server(PROJECT), cloud.add_network(PROJECT).id)


def test_a_controller_may_hear_of_a_brought_port_before_it_is_claimed(forewarned: World) -> None:
    port_id = forewarned.attach(port_id=forewarned.port())
    assert forewarned.cloud.forewarned == [(forewarned.server.id, port_id)]  # type: ignore[attr-defined]
    forewarned.attach(network_id=forewarned.network_id)
    assert len(forewarned.cloud.forewarned) == 1  # type: ignore[attr-defined]
    assert forewarned.told() == ['attached', 'attached']


@pytest.mark.parametrize('error', [exceptions.PortInUse('x'), exceptions.Unavailable(), RuntimeError()])
def test_a_controller_that_heard_of_a_port_hears_too_that_nothing_came_of_it(
    forewarned: World, error: Exception
) -> None:
    port_id = forewarned.port()
    forewarned.cloud.hooks['after forewarning'] = raising(error)
    with pytest.raises(type(error)):
        forewarned.attach(port_id=port_id)
    assert forewarned.told() == ['detached']
    assert forewarned.records() == []
    assert not forewarned.cloud.get_port(CTXT, port_id).device_id


def test_a_controller_that_deletes_brought_ports_with_the_server_gets_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostCloud, 'keeps_brought_ports', False)
    port_id = world.port()
    with pytest.raises(exceptions.PortNotUsable, match='deleted together with the server'):
        world.attach(port_id=port_id)
    assert not world.cloud.get_port(CTXT, port_id).device_id
    assert world.records() == []
    assert world.attach(network_id=world.network_id)


def test_it_is_told_before_the_answer_of_attach_and_detach(world: World) -> None:
    port = world.attach(port_id=world.port())
    assert world.told() == ['attached']
    world.detach(port)
    assert world.told() == ['attached', 'detached']


@pytest.mark.parametrize('point', ['before plug', 'after plug'])
def test_an_undo_is_told(world: World, point: str) -> None:
    world.cloud.hooks[point] = raising(exceptions.PlugFailed())
    with pytest.raises(exceptions.PlugFailed):
        world.attach(network_id=world.network_id)
    assert world.told() == ['detached']


def test_an_attach_of_which_it_could_not_be_told_is_undone(world: World) -> None:
    world.cloud.hooks['host'] = raising(exceptions.Unavailable())
    with pytest.raises(exceptions.Unavailable):
        world.attach(port_id=world.port())
    assert world.records() == []
    assert world.told() == ['detached']


def test_a_detach_of_which_it_could_not_be_told_goes_on_until_it_is(world: World) -> None:
    port = world.attach(port_id=world.port())
    for _ in range(2):
        world.cloud.hooks['host'] = raising(ValueError('a fault of the host'))
        world.detach(port)
        assert world.records() == [State.RELEASING]
        assert world.told() == ['attached']
    world.carry_on()
    assert world.records() == []
    assert world.told() == ['attached', 'detached']


def crash(world: World, point: str, act: Callable[[], object]) -> None:
    world.cloud.hooks[point] = raising(Crash())  # type: ignore[arg-type]
    with pytest.raises(Crash):
        act()


@pytest.mark.parametrize('point', ['after plug', 'host', 'after host'])
def test_a_crash_in_an_attach_is_told_by_the_reconciler(world: World, point: str) -> None:
    crash(world, point, lambda: world.attach(network_id=world.network_id))
    assert world.records() == [State.PLUGGING]
    world.carry_on()
    assert world.records() == []
    assert world.told()[-1] == 'detached'


@pytest.mark.parametrize('point', ['before unplug', 'before unbind', 'host', 'after host'])
def test_a_crash_in_a_detach_is_told_by_the_reconciler(world: World, point: str) -> None:
    port = world.attach(port_id=world.port())
    crash(world, point, lambda: world.detach(port))
    assert len(world.records()) == 1
    world.carry_on()
    assert world.records() == []
    assert world.told()[-1] == 'detached'


def test_a_crash_in_an_undo_is_told_by_the_reconciler(world: World) -> None:
    world.cloud.hooks['before plug'] = raising(exceptions.PlugFailed())
    crash(world, 'host', lambda: world.attach(network_id=world.network_id))
    assert world.told() == []
    world.carry_on()
    assert world.records() == []
    assert world.told() == ['detached']


def test_a_server_that_is_gone_is_told(world: World) -> None:
    world.attach(port_id=world.port())
    world.parts.reconciler.server_deleted(world.server.id)
    assert world.told() == ['attached', 'detached']


def test_a_host_that_does_not_support_it_stops_nothing(world: World) -> None:
    world.cloud.hooks['host'] = raising(exceptions.NotSupported())
    port = world.attach(port_id=world.port())
    world.cloud.hooks['host'] = raising(exceptions.NotSupported())
    world.detach(port)
    assert world.records() == []


def test_nobody_is_told_after_the_deadline(world: World) -> None:
    """Whoever comes too late might tell the host of a change that another process has undone."""

    def late() -> None:
        time.sleep(0.3)
        with world.parts.database.write() as connection:
            connection.exec_driver_sql('UPDATE osif_attachments SET lease_expires = 0')
        world.parts.reconciler.carry_on()
        told.extend(world.told())
        world.parts.store._lease = 30.0

    told: list[str] = []
    world.parts.store._lease = 0.5
    world.cloud.hooks['after plug'] = late
    with pytest.raises(exceptions.LostHold):
        world.attach(network_id=world.network_id)
    assert told == ['detached']
    assert world.told() == ['detached']
