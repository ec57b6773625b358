"""The heart: records, steps, undo and visibility, with a cloud in memory that fails at will."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.api import microversions, schemas
from os_interface_ext.attachments.manager import AttachRequest, Manager
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Record, Store
from os_interface_ext.context import RequestContext
from os_interface_ext.db import tables
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.testing.memory import MemoryCloud
from tests import migrated

PROJECT = 'project-a'
CTXT = RequestContext(user_id='user', project_id=PROJECT, roles=['member', 'reader'])


class Cloud(MemoryCloud):
    """Runs a hook at a named point, before or after the real thing."""

    def __init__(self, conf: Any) -> None:
        super().__init__(conf)
        self.hooks: dict[str, Callable[[], None]] = {}

    def at(self, point: str) -> None:
        hook = self.hooks.pop(point, None)
        if hook is not None:
            hook()

    def list_ports(self, *args: Any) -> list[base.Port]:
        self.at('before list')
        return super().list_ports(*args)

    def create(self, *args: Any) -> base.Port:
        self.at('before create')
        port = super().create(*args)
        self.at('after create')
        return port

    def claim(self, *args: Any) -> base.Port:
        port = super().claim(*args)
        self.at('after claim')
        return port

    def plug(self, *args: Any) -> dict[str, Any]:
        self.at('before plug')
        data = super().plug(*args)
        self.at('after plug')
        return data

    def unplug(self, *args: Any) -> None:
        self.at('before unplug')
        super().unplug(*args)

    def unbind(self, *args: Any) -> None:
        self.at('before unbind')
        super().unbind(*args)

    def delete(self, *args: Any) -> None:
        self.at('before delete')
        super().delete(*args)

    def attachments_changed(self, *args: Any) -> None:
        self.at('host')
        super().attachments_changed(*args)


@dataclasses.dataclass
class Setting:
    cloud: Cloud
    database: Database
    store: Store
    server: base.Server
    other: base.Server
    network_id: str

    def manager(self, **options: Any) -> Manager:
        stepper = Stepper(self.store, self.cloud, self.cloud, self.cloud)
        return Manager(self.store, self.cloud, self.cloud, self.cloud, stepper, **{'wait': 0.0} | options)

    def free_port(self) -> str:
        return self.cloud.add_port(self.network_id, PROJECT).id

    def records(self) -> list[Record]:
        return self.store.of_server(self.server.id) + self.store.of_server(self.other.id)

    def history(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(tables.history)))

    def nothing_left(self, *ports: str) -> None:
        """No record, no NIC, no port but the brought ones, and these free."""
        assert self.records() == []
        assert self.cloud.nics(self.server) == []
        assert [port.id for port in self.cloud._ports.values()] == list(ports)
        assert all(not port.device_id for port in self.cloud._ports.values())


@pytest.fixture
def setting(empty_database_url: str) -> Iterator[Setting]:
    conf = config.new([], database={'connection': empty_database_url})
    database = migrated.database_of(conf)
    cloud = Cloud(conf)
    server, other = (cloud.add_server(PROJECT) for _ in range(2))
    network = cloud.add_network(PROJECT)
    yield Setting(cloud, database, Store(database, lease=30.0), server, other, network.id)
    database.dispose()


@pytest.fixture
def manager(setting: Setting) -> Manager:
    return setting.manager()


def by_port(port_id: str, **more: Any) -> AttachRequest:
    return AttachRequest(port_id=port_id, **more)


def raising(error: Exception) -> Callable[[], None]:
    def hook() -> None:
        raise error

    return hook


# ------------------------------------------------------------------ attach and detach


def test_attach_and_detach_of_a_brought_port(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    shown = manager.attach(CTXT, setting.server, by_port(port, tag='a\0b'))
    assert shown.id == port
    assert shown.tag == 'a\0b'
    assert shown.status == 'ACTIVE'
    assert manager.list(CTXT, setting.server) == [shown]
    assert manager.show(CTXT, setting.server, port) == shown
    assert setting.cloud.nics(setting.server) == [port]
    [record] = setting.records()
    assert (record.state, record.created, record.owner, record.plug_data) == (
        State.ATTACHED,
        False,
        None,
        {'nic': f'tap-{port[:8]}'},
    )
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)
    [result] = setting.history()
    assert (result.port_id, result.reason, result.last_error) == (port, 'detach', None)
    with pytest.raises(exceptions.NotAttached):
        manager.show(CTXT, setting.server, port)


def test_a_port_made_here_carries_the_mark_and_goes_with_the_detach(setting: Setting, manager: Manager) -> None:
    shown = manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    port = setting.cloud.find_port(shown.id)
    [record] = setting.records()
    assert port is not None
    assert port.mark == record.mark == f'osif:{setting.store.installation}:{record.id}'
    manager.detach(CTXT, setting.server, shown.id)
    setting.nothing_left()


def test_list_is_in_the_order_of_attachment_after_ports_without_a_record(
    setting: Setting, manager: Manager
) -> None:
    boot = sorted(setting.cloud.add_port_of_server(setting.network_id, setting.server).id for _ in range(3))
    mine = [setting.free_port() for _ in range(4)]
    mine.sort(reverse=True)
    for port in mine:
        manager.attach(CTXT, setting.server, by_port(port))
    assert [one.id for one in manager.list(CTXT, setting.server)] == boot + mine


def test_the_host_is_told_before_the_answer(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    assert setting.cloud.events(setting.server.id) == ['attached']
    manager.detach(CTXT, setting.server, port)
    assert setting.cloud.events(setting.server.id) == ['attached', 'detached']


# ------------------------------------------------------------------ visibility


@pytest.mark.parametrize('point', ['before create', 'after create', 'before plug', 'after plug'])
def test_an_attach_in_progress_is_not_shown(setting: Setting, manager: Manager, point: str) -> None:
    seen = []

    def look() -> None:
        seen.append(manager.list(CTXT, setting.server))
        for port in list(setting.cloud._ports):
            with pytest.raises(exceptions.NotAttached):
                manager.show(CTXT, setting.server, port)

    setting.cloud.hooks[point] = look
    manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    assert seen == [[]]
    assert len(manager.list(CTXT, setting.server)) == 1


@pytest.mark.parametrize('point', ['before unplug', 'before unbind'])
def test_a_detach_in_progress_is_shown_from_the_snapshot(setting: Setting, manager: Manager, point: str) -> None:
    port = setting.free_port()
    shown = manager.attach(CTXT, setting.server, by_port(port, tag='t'))
    seen: list[base.Port] = []
    setting.cloud.hooks[point] = lambda: seen.extend(
        [*manager.list(CTXT, setting.server), manager.show(CTXT, setting.server, port)]
    )
    manager.detach(CTXT, setting.server, port)
    view = schemas.dumper(microversions.TAG_IN_RESPONSE)
    assert [view(one) for one in seen] == [view(shown), view(shown)]


def test_attached_is_shown_only_while_the_network_agrees(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.change_port(port, device_id='somebody-else')
    assert manager.list(CTXT, setting.server) == []
    with pytest.raises(exceptions.NotAttached):
        manager.show(CTXT, setting.server, port)


def test_a_number_that_comes_again_hides_what_is_in_motion(setting: Setting, manager: Manager) -> None:
    """SQLite gives the number of the last record to the next one when that is gone."""
    old = manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))

    def meanwhile() -> None:
        manager.detach(CTXT, setting.server, old.id)
        held = setting.store.insert(
            created=True, server_id=setting.server.id, project_id=PROJECT, state=State.ALLOCATING, request_id='r'
        )
        request = base.PortRequest(setting.network_id)
        setting.cloud.create(CTXT, setting.server, request, held.record.mark, held.fence)

    setting.cloud.hooks['before list'] = meanwhile
    assert manager.list(CTXT, setting.server) == []


# ------------------------------------------------------------------ undo


@pytest.mark.parametrize('error', [exceptions.PlugFailed(), RuntimeError('bug'), exceptions.Unavailable()])
@pytest.mark.parametrize('point', ['before plug', 'after plug', 'host'])
@pytest.mark.parametrize('brought', [True, False])
def test_a_failed_attach_is_undone(
    setting: Setting, manager: Manager, error: Exception, point: str, brought: bool
) -> None:
    request = by_port(setting.free_port()) if brought else AttachRequest(network_id=setting.network_id)
    setting.cloud.hooks[point] = raising(error)
    with pytest.raises(type(error)) as caught:
        manager.attach(CTXT, setting.server, request)
    assert caught.value is error
    setting.nothing_left(*([request.port_id] if request.port_id else []))
    [result] = setting.history()
    assert result.reason == 'undo'
    assert type(error).__name__ in result.last_error


def test_binding_failed_is_undone(setting: Setting, manager: Manager) -> None:
    server = setting.cloud.add_server(PROJECT, host='host-without-binding')
    with pytest.raises(exceptions.BindingFailed):
        manager.attach(CTXT, server, AttachRequest(network_id=setting.network_id))
    setting.nothing_left()


def test_an_outcome_that_is_unknown_and_an_undo_that_goes_on_later(setting: Setting, manager: Manager) -> None:
    setting.cloud.hooks['after create'] = raising(exceptions.UnknownOutcome())
    setting.cloud.hooks['before delete'] = raising(exceptions.Unavailable())
    with pytest.raises(exceptions.UndoPending):
        manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    [record] = setting.records()
    assert (record.state, record.reason) == (State.RELEASING, Reason.UNDO)


@pytest.mark.parametrize('point', ['after create', 'after claim'])
@pytest.mark.parametrize('error', [exceptions.UnknownOutcome(), ConnectionResetError()])
def test_an_answer_lost_leaves_nothing(setting: Setting, manager: Manager, point: str, error: Exception) -> None:
    port = setting.free_port()
    request = by_port(port) if point == 'after claim' else AttachRequest(network_id=setting.network_id)
    setting.cloud.hooks[point] = raising(error)
    with pytest.raises(type(error)):
        manager.attach(CTXT, setting.server, request)
    setting.nothing_left(port)


def test_a_refused_attach_leaves_no_trace(setting: Setting, manager: Manager) -> None:
    with pytest.raises(exceptions.NetworkNotFound):
        manager.attach(CTXT, setting.server, AttachRequest(network_id='nowhere'))
    setting.nothing_left()
    assert setting.history() == []


def test_an_undo_that_cannot_be_confirmed_is_503_and_stays(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    setting.cloud.hooks['after plug'] = raising(exceptions.PlugFailed())
    setting.cloud.hooks['before unplug'] = raising(exceptions.Unavailable())
    with pytest.raises(exceptions.UndoPending) as caught:
        manager.attach(CTXT, setting.server, by_port(port))
    assert caught.value.code == 503
    [record] = setting.records()
    assert (record.state, record.reason, record.attempts, record.owner) == (
        State.UNPLUGGING,
        Reason.UNDO,
        1,
        None,
    )
    assert manager.list(CTXT, setting.server) == []
    with pytest.raises(exceptions.NotAttached):
        manager.show(CTXT, setting.server, port)
    with pytest.raises(exceptions.Busy):
        manager.attach(CTXT, setting.other, by_port(port))
    # Asked for again, it is carried on.
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)


@pytest.mark.parametrize('outage', [False, True], ids=['at once', 'later'])
def test_a_nic_of_somebody_else_does_not_hold_up_an_undo(setting: Setting, manager: Manager, outage: bool) -> None:
    """The driver refuses to plug the port, and to take out what it does not know."""
    port = setting.free_port()
    setting.cloud.hooks['before plug'] = raising(exceptions.PlugFailed())
    if outage:
        setting.cloud.hooks['before unplug'] = raising(exceptions.Unavailable())
        with pytest.raises(exceptions.UndoPending):
            manager.attach(CTXT, setting.server, by_port(port))
        setting.cloud.hooks['before unplug'] = raising(exceptions.NotSupported())
        manager.detach(CTXT, setting.server, port)
    else:
        setting.cloud.hooks['before unplug'] = raising(exceptions.NotSupported())
        with pytest.raises(exceptions.PlugFailed):
            manager.attach(CTXT, setting.server, by_port(port))
    setting.nothing_left(port)
    manager.attach(CTXT, setting.other, by_port(port))


def _cannot_tell(*args: object) -> set[str]:
    raise exceptions.NotSupported()


@pytest.mark.parametrize('knows', [True, False])
def test_an_undo_that_takes_nothing_out_of_what_is_plugged_stays(
    setting: Setting, manager: Manager, knows: bool
) -> None:
    port = setting.free_port()
    setting.cloud.hooks['after plug'] = raising(RuntimeError('bug'))
    setting.cloud.hooks['before unplug'] = raising(exceptions.NotSupported())
    if not knows:
        setting.cloud.plugged = _cannot_tell  # type: ignore[method-assign]
    with pytest.raises(exceptions.UndoPending):
        manager.attach(CTXT, setting.server, by_port(port))
    [record] = setting.records()
    assert (record.state, record.reason) == (State.UNPLUGGING, Reason.UNDO)
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)


def test_a_delete_during_an_attach_undoes_it(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    setting.cloud.hooks['after plug'] = lambda: manager.detach(CTXT, setting.server, port)
    with pytest.raises(exceptions.DetachedMeanwhile, match='detached while it was being attached'):
        manager.attach(CTXT, setting.server, by_port(port))
    setting.nothing_left(port)


def test_a_delete_during_an_attach_that_fails_too_undoes_it(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()

    def hook() -> None:
        manager.detach(CTXT, setting.server, port)
        raise exceptions.PlugFailed()

    setting.cloud.hooks['after plug'] = hook
    with pytest.raises(exceptions.PlugFailed):
        manager.attach(CTXT, setting.server, by_port(port))
    setting.nothing_left(port)


# ------------------------------------------------------------------ detach that takes its time


def test_a_detach_that_is_not_done_goes_on_when_asked_again(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    shown = manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.hooks['before unplug'] = raising(exceptions.InProgress())
    manager.detach(CTXT, setting.server, port)
    view = schemas.dumper(microversions.TAG_IN_RESPONSE)
    assert [view(one) for one in manager.list(CTXT, setting.server)] == [view(shown)]
    [record] = setting.records()
    assert (record.state, record.reason, record.attempts) == (State.UNPLUGGING, Reason.DETACH, 1)
    with pytest.raises(exceptions.Busy):
        manager.attach(CTXT, setting.other, by_port(port))
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)
    with pytest.raises(exceptions.NotAttached):
        manager.detach(CTXT, setting.server, port)


def test_a_repeated_delete_leaves_the_work_to_its_holder(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    calls = []
    setting.cloud.hooks['before unplug'] = lambda: calls.append(manager.detach(CTXT, setting.server, port))
    manager.detach(CTXT, setting.server, port)
    assert calls == [None]
    setting.nothing_left(port)
    assert len(setting.history()) == 1


def test_a_driver_bug_in_a_detach_keeps_the_record(
    setting: Setting, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.hooks['before unbind'] = raising(ZeroDivisionError('bug'))
    manager.detach(CTXT, setting.server, port)
    [record] = setting.records()
    assert record.state is State.RELEASING
    assert record.last_error == 'ZeroDivisionError: bug'
    assert [one for one in caplog.records if one.exc_info]
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)


def test_unplug_not_supported_leaves_the_attachment_as_it_was(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    shown = manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.hooks['before unplug'] = raising(exceptions.NotSupported())
    with pytest.raises(exceptions.NotSupported):
        manager.detach(CTXT, setting.server, port)
    assert manager.list(CTXT, setting.server) == [shown]
    manager.detach(CTXT, setting.server, port)
    setting.nothing_left(port)


# ------------------------------------------------------------------ repeats and conflicts


def test_attach_again_answers_with_the_attachment(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    shown = manager.attach(CTXT, setting.server, by_port(port, tag='t'))
    assert manager.attach(CTXT, setting.server, by_port(port)) == shown
    boot = setting.cloud.add_port_of_server(setting.network_id, setting.server)
    assert manager.attach(CTXT, setting.server, by_port(boot.id)).id == boot.id
    assert len(setting.records()) == 1
    strict = setting.manager(strict_nova=True)
    for one in (port, boot.id):
        with pytest.raises(exceptions.PortInUse):
            strict.attach(CTXT, setting.server, by_port(one))


def test_an_address_asked_for_again_is_the_same_attachment(setting: Setting, manager: Manager) -> None:
    request = AttachRequest(network_id=setting.network_id, ip_address='10.0.0.77', tag='t')
    shown = manager.attach(CTXT, setting.server, request)
    assert manager.attach(CTXT, setting.server, request) == shown
    for server, asked in (
        (setting.other, request),
        (setting.server, dataclasses.replace(request, tag=None)),
    ):
        with pytest.raises(exceptions.AddressInUse):
            manager.attach(CTXT, server, asked)
    with pytest.raises(exceptions.AddressInUse):
        setting.manager(strict_nova=True).attach(CTXT, setting.server, request)
    assert len(setting.cloud._ports) == 1


def test_a_port_of_another_server_is_in_use(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    with pytest.raises(exceptions.PortInUse):
        manager.attach(CTXT, setting.other, by_port(port))
    with pytest.raises(exceptions.NotAttached):
        manager.detach(CTXT, setting.other, port)
    assert len(manager.list(CTXT, setting.server)) == 1


def test_a_port_of_another_project_is_not_usable_even_when_attached(setting: Setting, manager: Manager) -> None:
    stranger = setting.cloud.add_server('project-b')
    port = setting.cloud.add_port(setting.network_id, 'project-b', device_id=stranger.id)
    with pytest.raises(exceptions.PortNotUsable):
        manager.attach(CTXT, setting.server, by_port(port.id))


def test_one_port_for_many_servers_goes_to_exactly_one(setting: Setting) -> None:
    manager = setting.manager(wait=10.0)
    port = setting.free_port()
    servers = [setting.cloud.add_server(PROJECT) for _ in range(16)]

    def attach(server: base.Server) -> bool:
        try:
            manager.attach(CTXT, server, by_port(port))
        except exceptions.PortInUse:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(attach, servers))
    assert results.count(True) == 1
    winner = servers[results.index(True)]
    found = setting.cloud.find_port(port)
    assert found is not None
    assert found.device_id == winner.id
    assert setting.cloud.nics(winner) == [port]


def test_detach_detach_attach_keeps_the_fresh_attachment(setting: Setting, manager: Manager) -> None:
    # Nova bug 1892870: the late second detach unbinds what was attached in between.
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    record = setting.store.of_port(port)
    manager.detach(CTXT, setting.server, port)
    manager.attach(CTXT, setting.server, by_port(port))
    assert record is not None
    with pytest.raises(exceptions.LostHold):
        setting.store.take(record, state=State.UNPLUGGING, reason=Reason.DETACH)
    assert len(manager.list(CTXT, setting.server)) == 1


# ------------------------------------------------------------------ ports without a record


def test_detach_of_a_port_without_a_record(setting: Setting, manager: Manager) -> None:
    made = setting.cloud.add_port_of_server(setting.network_id, setting.server)
    brought = setting.cloud.add_port(setting.network_id, PROJECT, device_id=setting.server.id)
    for port in (made, brought):
        manager.detach(CTXT, setting.server, port.id)
    setting.nothing_left(brought.id)


def test_unknown_origin_is_never_deleted(setting: Setting, manager: Manager) -> None:
    setting.cloud.created_by_server = lambda *args: None  # type: ignore[method-assign,assignment]
    port = setting.cloud.add_port_of_server(setting.network_id, setting.server)
    manager.detach(CTXT, setting.server, port.id)
    setting.nothing_left(port.id)


def test_a_port_that_left_while_the_detach_began_is_left_alone(setting: Setting, manager: Manager) -> None:
    port = setting.cloud.add_port(setting.network_id, PROJECT, device_id=setting.server.id)
    real = setting.cloud.created_by_server

    def moves_away(*args: Any) -> bool | None:
        setting.cloud.change_port(port.id, device_id=setting.other.id)
        return real(*args)

    setting.cloud.created_by_server = moves_away  # type: ignore[method-assign]
    manager.detach(CTXT, setting.server, port.id)
    assert setting.records() == []
    found = setting.cloud.find_port(port.id)
    assert found is not None
    assert found.device_id == setting.other.id


# ------------------------------------------------------------------ the world moves


@pytest.mark.parametrize('created', [True, False])
def test_a_stale_record_gives_way_to_what_the_network_says(
    setting: Setting, manager: Manager, created: bool
) -> None:
    manager = setting.manager(wait=5.0)
    port = setting.free_port()
    if created:
        port = manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id)).id
    else:
        manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.change_port(port, device_id=None)
    shown = manager.attach(CTXT, setting.other, by_port(port))
    assert manager.list(CTXT, setting.other) == [shown]
    assert manager.list(CTXT, setting.server) == []
    assert setting.cloud.nics(setting.server) == []
    [result] = setting.history()
    assert (result.server_id, result.reason) == (setting.server.id, 'gone')


def test_a_port_bound_elsewhere_behind_our_back_can_be_detached_there(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    manager.attach(CTXT, setting.server, by_port(port))
    setting.cloud.change_port(port, device_id=setting.other.id)
    assert [one.id for one in manager.list(CTXT, setting.other)] == [port]
    manager.detach(CTXT, setting.other, port)
    setting.nothing_left(port)


# ------------------------------------------------------------------ hold and fence


def expire(setting: Setting) -> None:
    with setting.database.write() as connection:
        connection.execute(sa.update(tables.attachments).values(lease_expires=0.0))


def test_who_lost_the_hold_does_nothing_more(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    taken = []

    def overtake() -> None:
        expire(setting)
        record = setting.store.of_port(port)
        assert record is not None
        taken.append(setting.store.take(record))

    setting.cloud.hooks['after plug'] = overtake
    with pytest.raises(exceptions.LostHold):
        manager.attach(CTXT, setting.server, by_port(port))
    # Not even an undo: what was done is the new holder's to judge.
    assert setting.cloud.nics(setting.server) == [port]
    [record] = setting.records()
    assert record.generation == taken[0].record.generation == 2
    assert record.state is State.PLUGGING


def test_a_hold_is_not_taken_from_a_living_holder(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    refused = []

    def try_to_take() -> None:
        record = setting.store.of_port(port)
        assert record is not None
        with pytest.raises(exceptions.LostHold):
            setting.store.take(record)
        refused.append(True)

    setting.cloud.hooks['before plug'] = try_to_take
    manager.attach(CTXT, setting.server, by_port(port))
    assert refused == [True]


def test_no_side_effect_is_begun_after_the_deadline(setting: Setting) -> None:
    setting.store = Store(setting.database, lease=-1.0)
    manager = setting.manager()
    with pytest.raises(exceptions.DeadlinePassed):
        manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    setting.nothing_left()


# ------------------------------------------------------------------ capabilities


def test_capabilities_are_asked_before_any_side_effect(setting: Setting, manager: Manager) -> None:
    setting.cloud.capabilities = lambda *args: frozenset()  # type: ignore[method-assign,assignment]
    port = setting.free_port()
    with pytest.raises(exceptions.BadRequest, match='without a tag'):
        manager.attach(CTXT, setting.server, by_port(port, tag='t'))
    with pytest.raises(exceptions.PortNotUsable, match='vnic_type normal'):
        manager.attach(CTXT, setting.server, by_port(port))
    boot = setting.cloud.add_port_of_server(setting.network_id, setting.server)
    with pytest.raises(exceptions.NotSupported):
        manager.detach(CTXT, setting.server, boot.id)
    assert setting.records() == []


def test_a_port_whose_vnic_type_is_changed_meanwhile_is_not_plugged(setting: Setting, manager: Manager) -> None:
    port = setting.free_port()
    setting.cloud.hooks['after claim'] = lambda: setting.cloud.change_port(port, vnic_type='direct')
    setting.cloud.hooks['before plug'] = pytest.fail
    with pytest.raises(exceptions.PlugFailed) as raised:
        manager.attach(CTXT, setting.server, by_port(port))
    assert raised.value.operator == f'port {port} is of vnic_type direct'
    setting.nothing_left(port)
    stated = frozenset({base.vnic_capability('normal'), base.vnic_capability('direct')})
    setting.cloud.capabilities = lambda *args: stated  # type: ignore[method-assign,assignment]
    del setting.cloud.hooks['before plug']
    manager.attach(CTXT, setting.server, by_port(port))
    assert setting.cloud.nics(setting.server) == [port]


def _away(*args: object) -> frozenset[str]:
    raise exceptions.Unavailable(operator='the host does not answer')


def test_an_attach_is_not_begun_where_nobody_answers(setting: Setting, manager: Manager) -> None:
    setting.cloud.capabilities = _away  # type: ignore[method-assign,assignment]
    port = setting.free_port()
    for request in (by_port(port), AttachRequest(network_id=setting.network_id)):
        with pytest.raises(exceptions.Unavailable):
            manager.attach(CTXT, setting.server, request)
    setting.nothing_left(port)


def test_a_detach_is_accepted_where_nobody_answers(setting: Setting, manager: Manager) -> None:
    port_id = manager.attach(CTXT, setting.server, by_port(setting.free_port())).id
    setting.cloud.capabilities = _away  # type: ignore[method-assign,assignment]
    setting.cloud.hooks['before unplug'] = _away
    manager.detach(CTXT, setting.server, port_id)
    (record,) = setting.records()
    assert (record.state, record.reason) == (State.UNPLUGGING, Reason.DETACH)
    manager.detach(CTXT, setting.server, port_id)
    assert setting.records() == []


def _on_no_host(ctxt: Any, server: base.Server) -> frozenset[str]:
    raise exceptions.ServerNotReady(server.id)


@pytest.mark.parametrize('is_recorded', [True, False])
def test_a_detach_is_accepted_of_a_server_on_no_host(
    setting: Setting, manager: Manager, is_recorded: bool
) -> None:
    if is_recorded:
        port_id = manager.attach(CTXT, setting.server, by_port(setting.free_port())).id
    else:
        port_id = setting.cloud.add_port_of_server(setting.network_id, setting.server).id
    setting.cloud.capabilities = _on_no_host  # type: ignore[method-assign,assignment]
    manager.detach(CTXT, dataclasses.replace(setting.server, host=None), port_id)
    assert setting.records() == []


def test_where_nobody_answers_a_post_is_still_told_what_is_known(setting: Setting, manager: Manager) -> None:
    mine, others = (setting.free_port() for _ in range(2))
    attached = manager.attach(CTXT, setting.server, by_port(mine))
    manager.attach(CTXT, setting.other, by_port(others))
    on_network = AttachRequest(network_id=setting.network_id, ip_address='10.0.0.77')
    with_address = manager.attach(CTXT, setting.server, on_network)
    setting.cloud.capabilities = _away  # type: ignore[method-assign,assignment]
    before = setting.records()
    assert manager.attach(CTXT, setting.server, by_port(mine)) == attached
    assert manager.attach(CTXT, setting.server, on_network) == with_address
    with pytest.raises(exceptions.PortInUse):
        manager.attach(CTXT, setting.server, by_port(others))
    with pytest.raises(exceptions.PortNotFound):
        manager.attach(CTXT, setting.server, by_port(str(uuid.uuid4())))
    with pytest.raises(exceptions.Unavailable):
        manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    assert setting.records() == before


def test_a_fence_names_its_record_which_tells_the_time_that_is_left(setting: Setting, manager: Manager) -> None:
    fences, left = [], []
    real = setting.cloud.plug

    def time_left() -> float:
        (record,) = setting.records()
        return setting.store.time_left(record)

    def plug(ctxt: Any, server: Any, port: Any, fence: Any) -> Any:
        fences.append(fence)
        left.append(time_left())
        return real(ctxt, server, port, fence)

    setting.cloud.plug = plug  # type: ignore[method-assign]
    manager.attach(CTXT, setting.server, AttachRequest(network_id=setting.network_id))
    (record,) = setting.records()
    assert [(fence.record, fence.generation) for fence in fences] == [(record.id, record.generation)]
    # By the database's clock: half of the lease. Whoever holds a record no more has none.
    assert 10.0 < left[0] <= 15.0
    assert time_left() == 0.0
