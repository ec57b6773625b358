"""What clients do when a connection breaks or an answer takes long: they ask again, and in between."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import webtest

from os_interface_ext.attachments.states import State
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from tests.functional.conftest import NAMES, Build, World

PATIENCE = 30.0
OTHER = 'srv_paused'
ADDRESS = '10.1.0.77'


class Gate:
    """A point where whoever comes by first waits until he is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._first = threading.Lock()

    def open(self) -> None:
        self._open.set()

    def pass_by(self) -> None:
        if self._first.acquire(blocking=False):
            self.reached.set()
            assert self._open.wait(PATIENCE)


class Gates:
    """The gates of one test, by the name of the point."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def close(self, point: str) -> Gate:
        return self._gates.setdefault(point, Gate())

    def at(self, point: str) -> None:
        if point in self._gates:
            self._gates[point].pass_by()


class GatedVIFs(NoopVIFDriver):
    """Plugs nothing, but can be waited for as if it did."""

    has_side_effects = True

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    def plug(self, *args: Any) -> dict[str, Any]:
        self._gates.at('plug')
        return {}

    def unplug(self, *args: Any) -> None:
        self._gates.at('unplug')


class GatedNetworks(SQLNetworkDriver):
    """The embedded networks, which can be waited for once they have made a port, and others see it."""

    gates: Gates

    def create(self, *args: Any) -> base.Port:
        port = super().create(*args)
        self.gates.at('created')
        return port


class Client:
    """Requests that go on in the background."""

    def __init__(self, pool: concurrent.futures.Executor, world: World) -> None:
        self._pool = pool
        self.world = world

    def attach(self, server: str = 'srv_active', **wanted: Any) -> concurrent.futures.Future[webtest.TestResponse]:
        return self._pool.submit(self.world.attach, server, **wanted)

    def detach(self, port: str, server: str = 'srv_active') -> concurrent.futures.Future[webtest.TestResponse]:
        return self._pool.submit(self.delete, port, server)

    def delete(self, port: str, server: str = 'srv_active') -> webtest.TestResponse:
        return self.world.call('DELETE', self.world.url(server, port))

    def shown(self, port: str, server: str = 'srv_active') -> int:
        return self.world.call('GET', self.world.url(server, port)).status_int

    def states(self) -> list[State]:
        return [one.state for one in self.world.extension.parts.store.of_server(NAMES['srv_active'])]


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def client(build: Build, gates: Gates) -> Iterator[Client]:
    class Networks(GatedNetworks):
        pass

    Networks.gates = gates
    world = build(vif_driver=GatedVIFs(gates), network_driver=Networks, attachments={'wait': PATIENCE})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield Client(pool, world)


def status(answer: concurrent.futures.Future[webtest.TestResponse]) -> int:
    return answer.result(PATIENCE).status_int


def port_of(answer: concurrent.futures.Future[webtest.TestResponse]) -> str:
    found = answer.result(PATIENCE)
    assert found.status_int == 200, found.text
    return found.json['interfaceAttachment']['port_id']


@contextlib.contextmanager
def waiting_at(gate: Gate) -> Iterator[None]:
    """While somebody waits at a gate; it is opened at the end whatever comes."""
    try:
        assert gate.reached.wait(PATIENCE)
        yield
    finally:
        gate.open()


# ------------------------------------------------------------------ attach, and attach again

WANTED = [{'port_id': 'p_free'}, {'net_id': 'net1', 'fixed_ips': [{'ip_address': ADDRESS}]}]
by_port_and_by_address = pytest.mark.parametrize('wanted', WANTED, ids=['by port', 'by address'])


@by_port_and_by_address
def test_an_attach_repeated_after_its_answer_was_lost_is_one_attachment(
    client: Client, wanted: dict[str, Any]
) -> None:
    before = client.world.ports()
    first, second = (client.attach(**wanted).result(PATIENCE) for _ in range(2))
    assert (first.status_int, second.status_int) == (200, 200)
    assert first.json == second.json
    assert len(client.world.ports()) == len(before) + 1


@pytest.mark.parametrize(
    ('wanted', 'point'),
    [(WANTED[0], 'plug'), (WANTED[1], 'created'), (WANTED[1], 'plug')],
    ids=['by port', 'by address, making the port', 'by address, plugging'],
)
def test_an_attach_repeated_while_the_first_goes_on_is_one_attachment(
    client: Client, gates: Gates, wanted: dict[str, Any], point: str
) -> None:
    before = client.world.ports()
    gate = gates.close(point)
    first = client.attach(**wanted)
    with waiting_at(gate):
        second = client.attach(**wanted)
        with pytest.raises(concurrent.futures.TimeoutError):
            second.result(0.2)
    assert port_of(first) == port_of(second)
    assert len(client.world.ports()) == len(before) + 1


def test_an_attach_by_network_alone_is_a_new_one_each_time(client: Client) -> None:
    before = client.world.ports()
    made = {port_of(client.attach(net_id='net1')) for _ in range(2)}
    assert len(made) == 2
    assert set(client.world.ports()) == {*before, *made}


def test_an_address_is_given_again_once_it_is_detached(client: Client) -> None:
    first = port_of(client.attach(**WANTED[1]))
    assert client.delete(first).status_int == 202
    assert port_of(client.attach(**WANTED[1])) != first


# ------------------------------------------------------------------ detach, and detach again


def test_a_detach_repeated_is_202_while_it_goes_on_and_then_404(client: Client, gates: Gates) -> None:
    port_of(client.attach(port_id='p_free'))
    gate = gates.close('unplug')
    first = client.detach('p_free')
    with waiting_at(gate):
        for _ in range(3):
            assert client.delete('p_free').status_int == 202
            assert client.shown('p_free') == 200
        assert client.states() == [State.UNPLUGGING]
    assert status(first) == 202
    assert client.shown('p_free') == 404
    assert client.delete('p_free').status_int == 404
    assert port_of(client.attach(OTHER, port_id='p_free')) == NAMES['p_free']


def test_an_attach_waits_for_the_detach_of_its_port(client: Client, gates: Gates) -> None:
    port_of(client.attach(port_id='p_free'))
    gate = gates.close('unplug')
    detached = client.detach('p_free')
    with waiting_at(gate):
        attached = client.attach(OTHER, port_id='p_free')
        with pytest.raises(concurrent.futures.TimeoutError):
            attached.result(0.2)
    assert status(detached) == 202
    assert port_of(attached) == NAMES['p_free']
    assert client.shown('p_free') == 404
    assert client.shown('p_free', OTHER) == 200


# ------------------------------------------------------------------ a detach of what is being attached


def test_a_delete_of_an_attach_in_progress_undoes_it(client: Client, gates: Gates) -> None:
    gate = gates.close('plug')
    attached = client.attach(port_id='p_free')
    with waiting_at(gate):
        for _ in range(2):
            assert client.delete('p_free').status_int == 202
            assert client.shown('p_free') == 404
    answer = attached.result(PATIENCE)
    assert (answer.status_int, list(answer.json)) == (409, ['conflictingRequest'])
    assert client.states() == []
    assert client.shown('p_free') == 404
    assert client.delete('p_free').status_int == 404
    assert port_of(client.attach(OTHER, port_id='p_free')) == NAMES['p_free']


@pytest.mark.parametrize('point', ['created', 'plug'])
def test_a_delete_of_a_port_in_the_making_undoes_its_attach(client: Client, gates: Gates, point: str) -> None:
    before = client.world.ports()
    gate = gates.close(point)
    attached = client.attach(**WANTED[1])
    with waiting_at(gate):
        server, project = NAMES['srv_active'], NAMES['project_a']
        with client.world.database.read() as connection:
            (made,) = connection.exec_driver_sql(
                'SELECT id FROM osif_ports WHERE device_id = ? AND mark IS NOT NULL AND project_id = ?',
                (server, project),
            ).scalars()
        assert client.shown(made) == 404
        assert client.delete(made).status_int == 202
    assert status(attached) == 409
    assert client.world.ports() == before
    assert client.states() == []
    # Nothing of it is left: the address is free.
    port_of(client.attach(**WANTED[1]))


def test_a_port_whose_attach_is_being_undone_can_be_had_after_that(client: Client, gates: Gates) -> None:
    plug, unplug = gates.close('plug'), gates.close('unplug')
    attached = client.attach(port_id='p_free')
    with waiting_at(plug):
        assert client.delete('p_free').status_int == 202
    with waiting_at(unplug):
        again = client.attach(OTHER, port_id='p_free')
        with pytest.raises(concurrent.futures.TimeoutError):
            again.result(0.2)
    assert status(attached) == 409
    assert port_of(again) == NAMES['p_free']
