"""What the records say of orders that are carried out where no database is."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
from collections.abc import Iterator

import pytest

from os_interface_ext import exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.orders import RecordOrders
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Held
from os_interface_ext.drivers.base import Direction, Order
from tests.unit import heart

HOST = 'here'


@dataclasses.dataclass
class Setting:
    world: heart.World
    orders: RecordOrders

    def held(self, state: State, host: str | None = HOST, **values: object) -> Held:
        """A record that somebody holds."""
        port = self.world.cloud.add_port(self.world.network_id, heart.PROJECT)
        return self.world.process.store.insert(
            created=False,
            server_id=self.world.server.id,
            project_id=heart.PROJECT,
            host=host,
            port_id=port.id,
            state=state,
            **values,
        )

    def left(self, held: Held, direction: Direction, host: str = HOST, **changes: object) -> float:
        record = held.record
        assert record.port_id is not None
        order = Order(direction, record.server_id, record.port_id, record.id, record.generation)
        return self.orders.time_left(dataclasses.replace(order, **changes), host)

    def review(self, *nics: tuple[str, str]) -> list[Order]:
        return [order for _, order in self.orders.review(HOST, nics).orders]

    def move(self, host: str | None, **fields: object) -> None:
        """The server, to another host."""
        server = dataclasses.replace(self.world.server, host=host, **fields)  # type: ignore[arg-type]
        self.world.cloud._servers[self.world.server.id] = server


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> Iterator[Setting]:
    world = heart.World(tmp_path)
    setting = Setting(world, RecordOrders(world.conf.reconciler, world.process.store, world.cloud, world.cloud))
    setting.move(HOST)
    yield setting
    world.database.dispose()


# ------------------------------------------------------------------ whether one holds


@pytest.mark.parametrize('state', list(State))
@pytest.mark.parametrize('direction', list(Direction))
def test_the_state_says_whose_turn_it_is(setting: Setting, state: State, direction: Direction) -> None:
    held = setting.held(state, reason=Reason.UNDO if state in (State.UNPLUGGING, State.RELEASING) else None)
    holds = (state, direction) in {(State.PLUGGING, Direction.PLUG), (State.UNPLUGGING, Direction.UNPLUG)}
    left = setting.left(held, direction)
    # As long as its holder may begin something: half of the lease.
    assert (13.0 < left <= 15.0) if holds else left == 0.0


def test_another_generation_port_server_or_record_does_not_hold(setting: Setting) -> None:
    held = setting.held(State.PLUGGING)
    for changes in (
        {'generation': 2},
        {'port_id': 'another'},
        {'server_id': 'another'},
        {'record': str(uuid.uuid4())},
    ):
        assert setting.left(held, Direction.PLUG, **changes) == 0.0
    assert setting.left(held, Direction.PLUG) > 0.0


def test_only_the_host_of_the_record_plugs(setting: Setting) -> None:
    held = setting.held(State.PLUGGING)
    assert setting.left(held, Direction.PLUG, host='elsewhere') == 0.0


def test_every_host_may_unplug(setting: Setting) -> None:
    held = setting.held(State.UNPLUGGING, reason=Reason.DETACH)
    assert setting.left(held, Direction.UNPLUG, host='elsewhere') > 0.0


def test_nobodys_time_is_over(setting: Setting) -> None:
    held = setting.held(State.UNPLUGGING, reason=Reason.DETACH)
    setting.world.process.store.settle(held.record)
    assert setting.left(held, Direction.UNPLUG) == 0.0


# ------------------------------------------------------------------ what an agent finds at its start


def attached(setting: Setting) -> tuple[str, str]:
    port = setting.world.cloud.add_port(setting.world.network_id, heart.PROJECT)
    server = setting.world.cloud._servers[setting.world.server.id]
    setting.world.process.manager.attach(heart.CTXT, server, AttachRequest(port_id=port.id))
    return server.id, port.id


def test_what_has_a_record_stays(setting: Setting) -> None:
    nic = attached(setting)
    assert setting.review(nic) == []
    assert [record.state for record in setting.world.records()] == [State.ATTACHED]


def test_what_the_server_has_left_on_another_host_goes_at_once(setting: Setting) -> None:
    nic = attached(setting)
    setting.move('elsewhere')
    (order,) = setting.review(nic)
    (record,) = setting.world.records()
    assert order == Order(Direction.UNPLUG, *nic, record.id, record.generation)
    assert setting.orders.time_left(order, HOST) > 0.0
    assert setting.orders.time_left(order, 'elsewhere') == 0.0, 'there the NIC is the right one'
    setting.move(HOST)
    assert setting.orders.time_left(order, HOST) == 0.0, 'it has come back'


def test_what_another_server_has_now_goes_at_once(setting: Setting) -> None:
    server_id, port_id = attached(setting)
    (order,) = setting.review((setting.world.other.id, port_id))
    assert (order.server_id, order.port_id) == (setting.world.other.id, port_id)
    assert setting.orders.time_left(order, HOST) > 0.0
    assert setting.review((server_id, port_id)) == []


def test_what_somebody_only_tries_to_attach_elsewhere_stays(setting: Setting) -> None:
    """The port is a living server's that has no record; the attempt is about to fail for that."""
    held = setting.held(State.ALLOCATING)
    port_id = held.record.port_id
    assert port_id is not None
    setting.world.cloud.change_port(port_id, device_id=setting.world.other.id)
    review = setting.orders.review(HOST, [(setting.world.other.id, port_id)])
    assert (review.orders, review.suspects, review.unsettled) == ([], [], 1)
    order = Order(Direction.UNPLUG, setting.world.other.id, port_id, held.record.id, held.record.generation)
    assert setting.orders.time_left(order, HOST) == 0.0
    setting.world.cloud.change_port(port_id, device_id=setting.world.server.id)
    assert setting.orders.time_left(order, HOST) > 0.0


@pytest.mark.parametrize('fields', [{'task_state': 'migrating'}, {'vm_state': 'resized'}], ids=str)
def test_a_server_that_is_being_moved_keeps_what_it_has_on_both_hosts(
    setting: Setting, fields: dict[str, object]
) -> None:
    nic = attached(setting)
    unrecorded = setting.world.server.id, setting.world.free_port()
    setting.move('elsewhere')
    (order,) = setting.review(nic)
    setting.move('elsewhere', **fields)
    review = setting.orders.review(HOST, [nic, unrecorded])
    assert (review.orders, review.suspects, review.unsettled, review.here) == ([], [], 2, 0)
    setting.orders.end(HOST, [unrecorded])
    assert setting.orders.time_left(order, HOST) == 0.0
    assert [record.port_id for record in setting.world.records()] == [nic[1]]


def test_a_review_tells_its_bounds_and_who_is_here(setting: Setting) -> None:
    setting.world.conf.set_override('max_gone', 7, group='reconciler')
    setting.world.conf.set_override('grace', 90.0, group='reconciler')
    review = setting.orders.review(HOST, [attached(setting)])
    assert (review.most, review.grace, review.here, review.unsettled) == (7, 90.0, 1, 0)


@pytest.mark.parametrize('server_is_gone', [False, True])
def test_what_has_no_record_goes_under_one_of_its_own(setting: Setting, server_is_gone: bool) -> None:
    server_id, port_id = attached(setting)
    setting.world.process.manager.detach(heart.CTXT, setting.world.server, port_id)
    port = setting.world.cloud.get_port(heart.CTXT, port_id)
    if server_is_gone:
        setting.world.cloud.remove_server(server_id)
    review = setting.orders.review(HOST, [(server_id, port.id)])
    assert (review.orders, review.suspects) == ([], [(server_id, port.id)])
    assert setting.world.records() == [], 'that was a question'
    assert setting.orders.end(HOST, review.suspects) == 0
    (record,) = setting.world.records()
    assert (record.state, record.reason, record.host) == (State.UNPLUGGING, Reason.GONE, HOST)
    assert record.owner is None, 'for the next look of a reconciler'
    # Nobody can attach it meanwhile; and asked again, it is the same.
    with pytest.raises(exceptions.Busy):
        setting.world.process.manager.attach(heart.CTXT, setting.world.server, AttachRequest(port_id=port.id))
    setting.orders.end(HOST, review.suspects)
    assert setting.world.records() == [record]
    setting.world.process.reconciler.once()
    assert setting.world.records() == []
    assert setting.world.cloud.get_port(heart.CTXT, port.id).id == port.id


@pytest.mark.parametrize('server_is_gone', [False, True])
def test_what_the_network_says_to_be_the_servers_is_left_alone(setting: Setting, server_is_gone: bool) -> None:
    """A database that was restored does not know it; and that the server is not found may pass."""
    port = setting.world.cloud.add_port_of_server(setting.world.network_id, setting.world.server)
    if server_is_gone:
        setting.world.cloud.remove_server(setting.world.server.id)
    left_alone(setting, (setting.world.server.id, port.id))


def left_alone(setting: Setting, nic: tuple[str, str]) -> None:
    review = setting.orders.review(HOST, [nic])
    assert (review.orders, review.suspects, review.unsettled) == ([], [], 0)
    # Not even if it was named before: each is looked at once more.
    assert setting.orders.end(HOST, [nic]) == 0
    assert setting.world.records() == []


def test_what_nobody_here_has_heard_of_is_left_alone(setting: Setting) -> None:
    """Another installation's, on the same host."""
    left_alone(setting, (str(uuid.uuid4()), str(uuid.uuid4())))


def test_one_that_cannot_be_looked_at_keeps_no_other_waiting(setting: Setting) -> None:
    broken, fine = (setting.world.free_port() for _ in range(2))
    real = setting.world.cloud.get_port

    def get_port(ctxt: object, port_id: str) -> object:
        if port_id == broken:
            raise exceptions.Unavailable()
        return real(ctxt, port_id)  # type: ignore[arg-type]

    setting.world.cloud.get_port = get_port  # type: ignore[method-assign,assignment]
    nics = [(setting.world.server.id, broken), (setting.world.server.id, fine)]
    review = setting.orders.review(HOST, nics)
    assert (review.suspects, review.unsettled) == ([nics[1]], 1)
    assert setting.orders.end(HOST, nics) == 1
    assert [record.port_id for record in setting.world.records()] == [fine]
