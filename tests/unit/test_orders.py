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
        return [order for _, order in self.orders.review(HOST, nics)]

    def move(self, host: str | None) -> None:
        """The server, to another host."""
        self.world.cloud._servers[self.world.server.id] = dataclasses.replace(self.world.server, host=host)


@pytest.fixture
def setting(tmp_path: pathlib.Path) -> Iterator[Setting]:
    world = heart.World(tmp_path)
    setting = Setting(world, RecordOrders(world.process.store, world.cloud, world.cloud))
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


@pytest.mark.parametrize('server_is_gone', [False, True])
def test_what_has_no_record_goes_under_one_of_its_own(setting: Setting, server_is_gone: bool) -> None:
    server_id = str(uuid.uuid4()) if server_is_gone else setting.world.server.id
    port = setting.world.cloud.add_port(setting.world.network_id, heart.PROJECT)
    assert setting.review((server_id, port.id)) == []
    (record,) = setting.world.records()
    assert (record.state, record.reason, record.host) == (State.UNPLUGGING, Reason.GONE, HOST)
    assert record.owner is None, 'for the next look of a reconciler'
    # Nobody can attach it meanwhile; and asked again, it is the same.
    with pytest.raises(exceptions.Busy):
        setting.world.process.manager.attach(heart.CTXT, setting.world.server, AttachRequest(port_id=port.id))
    setting.review((server_id, port.id))
    assert setting.world.records() == [record]
    setting.world.process.reconciler.once()
    assert setting.world.records() == []
    assert setting.world.cloud.get_port(heart.CTXT, port.id).id == port.id


def test_what_the_network_says_to_be_the_servers_is_left_alone(setting: Setting) -> None:
    """A database that was restored does not know it."""
    port = setting.world.cloud.add_port_of_server(setting.world.network_id, setting.world.server)
    assert setting.review((setting.world.server.id, port.id)) == []
    assert setting.world.records() == []


def test_one_that_cannot_be_looked_at_keeps_no_other_waiting(setting: Setting) -> None:
    broken, fine = (setting.world.free_port() for _ in range(2))
    real = setting.world.cloud.get_port

    def get_port(ctxt: object, port_id: str) -> object:
        if port_id == broken:
            raise exceptions.Unavailable()
        return real(ctxt, port_id)  # type: ignore[arg-type]

    setting.world.cloud.get_port = get_port  # type: ignore[method-assign,assignment]
    setting.review((setting.world.server.id, broken), (setting.world.server.id, fine))
    assert [record.port_id for record in setting.world.records()] == [fine]
