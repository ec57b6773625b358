"""``Extension.server_deleted``: a host that knows that a server is gone."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.db import tables
from os_interface_ext.drivers import base
from os_interface_ext.extension import Extension
from tests import migrated
from tests.unit.test_manager import CTXT, PROJECT, Cloud, raising


@dataclasses.dataclass
class World:
    cloud: Cloud
    extension: Extension
    server: base.Server
    network_id: str

    def attach(self, **wanted: Any) -> str:
        return self.extension.parts.manager.attach(CTXT, self.server, AttachRequest(**wanted)).id

    def port(self) -> str:
        return self.cloud.add_port(self.network_id, PROJECT).id

    def delete(self) -> None:
        self.cloud.remove_server(self.server.id)
        self.extension.server_deleted(self.server.id)

    def records(self) -> list[tuple[State, Reason | None]]:
        return [(one.state, one.reason) for one in self.extension.parts.store.of_server(self.server.id)]

    def reasons(self) -> list[str]:
        with self.extension.parts.database.read() as connection:
            return list(connection.scalars(sa.select(tables.history.c.reason)))


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    conf = config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'})
    migrated.database_of(conf)
    cloud = Cloud(conf)
    extension = Extension(conf, server_driver=cloud, network_driver=cloud, vif_driver=cloud)
    return World(cloud, extension, cloud.add_server(PROJECT), cloud.add_network(PROJECT).id)


def test_its_ports_are_let_go_at_once(world: World) -> None:
    brought, made = world.attach(port_id=world.port()), world.attach(network_id=world.network_id)
    world.delete()
    assert world.records() == []
    assert not world.cloud.find_port(brought).device_id
    assert world.cloud.find_port(made) is None
    assert world.reasons() == ['server_gone'] * 2


def test_it_may_be_called_again_and_for_any_server(world: World) -> None:
    world.attach(port_id=world.port())
    for _ in range(2):
        world.delete()
    world.extension.server_deleted('no-such-server')
    assert world.reasons() == ['server_gone']


def test_what_fails_is_left_to_the_reconciler(world: World) -> None:
    world.attach(port_id=world.port())
    second = world.attach(port_id=world.port())
    world.cloud.hooks['before unbind'] = raising(exceptions.Unavailable())
    world.delete()
    # The failure of one does not keep the others.
    assert world.records() == [(State.RELEASING, Reason.SERVER_GONE)]
    assert not world.cloud.find_port(second).device_id
    world.delete()
    assert world.records() == []


def test_a_detach_that_hangs_becomes_the_servers_end(world: World) -> None:
    port = world.attach(port_id=world.port())
    world.cloud.hooks['before unplug'] = raising(exceptions.Unavailable())
    world.extension.parts.manager.detach(CTXT, world.server, port)
    assert world.records() == [(State.UNPLUGGING, Reason.DETACH)]
    world.delete()
    assert world.reasons() == ['server_gone']


def test_an_attach_in_progress_is_undone_by_who_is_at_it(world: World) -> None:
    plugging, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        plugging.set()
        assert go_on.wait(30)

    world.cloud.hooks['before plug'] = wait
    port, errors = world.port(), []

    def attach() -> None:
        try:
            world.attach(port_id=port)
        except exceptions.OsInterfaceError as error:
            errors.append(error)

    thread = threading.Thread(target=attach)
    thread.start()
    assert plugging.wait(30)
    world.extension.server_deleted(world.server.id)
    assert world.records() == [(State.PLUGGING, Reason.UNDO)]
    go_on.set()
    thread.join(30)
    assert [type(error) for error in errors] == [exceptions.DetachedMeanwhile]
    assert world.records() == []
    assert not world.cloud.find_port(port).device_id


def test_an_attach_whose_process_died_is_ended(world: World) -> None:
    class Crash(BaseException):
        pass

    world.cloud.hooks['before plug'] = raising(Crash())  # type: ignore[arg-type]
    with pytest.raises(Crash):
        world.attach(network_id=world.network_id)
    with world.extension.parts.database.write() as connection:
        connection.exec_driver_sql('UPDATE osif_attachments SET lease_expires = 0')
    world.delete()
    assert world.records() == []
    assert world.cloud._ports == {}


def test_a_port_that_is_anothers_by_now_is_left_alone(world: World) -> None:
    port, other = world.attach(port_id=world.port()), world.cloud.add_server(PROJECT)
    world.cloud.change_port(port, device_id=other.id)
    world.delete()
    assert world.records() == []
    assert world.cloud.find_port(port).device_id == other.id


def test_without_the_server_driver_the_records_are_on_their_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.attach(port_id=world.port())
    with monkeypatch.context() as patch:
        patch.setattr(world.cloud, 'get', lambda *args: raising(exceptions.Unavailable())())
        world.extension.server_deleted(world.server.id)
        assert world.records() == [(State.UNPLUGGING, Reason.SERVER_GONE)]
    world.delete()
    assert world.records() == []


def test_without_the_database_it_is_unavailable(world: World) -> None:
    world.attach(port_id=world.port())
    with world.extension.parts.database.write() as connection:
        connection.exec_driver_sql('ALTER TABLE osif_attachments RENAME TO away')
    with pytest.raises(exceptions.Unavailable):
        world.extension.server_deleted(world.server.id)
