"""The contract suite of VIF drivers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext, service_context
from os_interface_ext.drivers import base
from os_interface_ext.testing import contract

#: Bytes of JSON that plug data may have: it is kept in a column of the record.
LARGEST_PLUG_DATA = 4096


def _pause() -> None:
    time.sleep(0.05)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VIFBackend:
    """A VIF driver under test, and the world around it; made anew for each test.

    What is None is not there: the tests that need it are skipped. What the tests leave behind is for the
    fixture to take away.
    """

    driver: base.VIFDriver
    #: A server that runs, without a NIC that the driver tells.
    server: base.Server
    #: Another one.
    other_server: base.Server
    #: Makes a port that is claimed by the server and bound to its host, ready to be plugged.
    make_port: Callable[[base.Server], base.Port]
    #: The context of an ordinary caller of a server's project.
    context: Callable[[base.Server], RequestContext] = contract.member
    #: The ids of the ports of the server's NICs, one for each NIC, seen behind the driver's back.
    nics: Callable[[base.Server], Iterable[str]] | None = None
    #: Makes a port that the driver cannot plug.
    make_port_without_use: Callable[[base.Server], base.Port] | None = None
    #: Called after each InProgress: lets the world go on, and returns when it is worth asking again.
    settle: Callable[[], None] = _pause
    #: How often a NIC may be InProgress before it has to be gone.
    tries: int = 400
    #: Within it the backend does not answer and does nothing.
    unreachable: Callable[[], AbstractContextManager[object]] | None = None
    #: Within it the backend does what it is asked, but every answer is lost.
    answers_lost: Callable[[], AbstractContextManager[object]] | None = None

    def plug(self, port: base.Port, server: base.Server | None = None) -> dict[str, Any]:
        """Plug a port; the plug data as they come back from the record."""
        server = server or self.server
        return contract.through_json(self.driver.plug(self.context(server), server, port, contract.fence()))

    def unplug(
        self, port_id: str, plug_data: dict[str, Any] | None = None, server: base.Server | None = None
    ) -> None:
        """Unplug a port, and ask again while it is in progress."""
        server = server or self.server
        for _ in range(self.tries):
            try:
                self.driver.unplug(self.context(server), server, port_id, dict(plug_data or {}), contract.fence())
            except exceptions.InProgress:
                self.settle()
            else:
                return
        pytest.fail(f'the NIC of port {port_id} is still InProgress after {self.tries} tries')

    def plugged(self, server: base.Server | None = None) -> set[str]:
        server = server or self.server
        return self.driver.plugged(self.context(server), server)

    def find_plugged(self, installation: str = '') -> set[tuple[str, str]]:
        return set(self.driver.find_plugged(self.context(self.server), installation))

    def assert_nics(self, *ports: base.Port, server: base.Server | None = None) -> None:
        """That the server has exactly the NICs of these ports, one of each."""
        server = server or self.server
        ids = [port.id for port in ports]
        if not self.driver.has_side_effects:
            # Nothing is plugged by it, whatever it was asked for.
            ids = []
        else:
            assert self.plugged(server) == set(ids)
        if self.nics is not None:
            assert Counter(self.nics(server)) == Counter(ids)


class VIFDriverContract:
    """The promises of :class:`~os_interface_ext.drivers.base.VIFDriver`, as tests to inherit."""

    @pytest.fixture
    def backend(self) -> VIFBackend:
        """What is under test: to be overridden."""
        raise NotImplementedError('override the fixture `backend`: it gives a VIFBackend')

    def test_is_a_vif_driver(self, backend: VIFBackend) -> None:
        assert isinstance(backend.driver, base.VIFDriver)
        assert isinstance(backend.driver.has_side_effects, bool)

    def test_check_of_a_backend_that_answers(self, backend: VIFBackend) -> None:
        backend.driver.check(service_context())

    # -------------------------------------------------------------- plug

    def test_plug_puts_the_nic_in(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        backend.assert_nics()
        backend.plug(port)
        backend.assert_nics(port)
        backend.assert_nics(server=backend.other_server)

    def test_plug_answers_small_json(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        plug_data = backend.driver.plug(backend.context(backend.server), backend.server, port, contract.fence())
        assert isinstance(plug_data, dict)
        text = json.dumps(plug_data, allow_nan=False)
        assert json.loads(text) == plug_data, 'only the types of JSON come back from the record'
        assert len(text.encode()) <= LARGEST_PLUG_DATA

    def test_plug_again_makes_no_second_nic(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        backend.plug(port)
        plug_data = backend.plug(port)
        backend.assert_nics(port)
        backend.unplug(port.id, plug_data)
        backend.assert_nics()

    def test_plug_again_after_the_answer_was_lost(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        with contract.answer_lost(backend.answers_lost):
            backend.plug(port)
        backend.plug(port)
        backend.assert_nics(port)

    def test_plug_of_two_ports(self, backend: VIFBackend) -> None:
        ports = [backend.make_port(backend.server) for _ in range(2)]
        for port in ports:
            backend.plug(port)
        backend.assert_nics(*ports)

    def test_plug_of_many_ports_at_once(self, backend: VIFBackend) -> None:
        ports = [backend.make_port(backend.server) for _ in range(4)]
        for answer in contract.at_once(*[lambda port=port: backend.plug(port) for port in ports]):
            assert isinstance(answer, dict), repr(answer)
        backend.assert_nics(*ports)

    def test_plug_into_two_servers(self, backend: VIFBackend) -> None:
        port, other = backend.make_port(backend.server), backend.make_port(backend.other_server)
        backend.plug(port)
        backend.plug(other, backend.other_server)
        backend.assert_nics(port)
        backend.assert_nics(other, server=backend.other_server)

    def test_plug_that_fails_leaves_nothing(self, backend: VIFBackend) -> None:
        make_port = contract.need(backend.make_port_without_use, 'make_port_without_use')
        port, useless = backend.make_port(backend.server), make_port(backend.server)
        backend.plug(port)
        with pytest.raises(exceptions.PlugFailed):
            backend.plug(useless)
        backend.assert_nics(port)
        backend.unplug(useless.id)
        backend.assert_nics(port)

    def test_plug_past_the_deadline(self, backend: VIFBackend) -> None:
        _need_side_effects(backend)
        port = backend.make_port(backend.server)
        with contract.refused_by_fence() as fence:
            backend.driver.plug(backend.context(backend.server), backend.server, port, fence)
        backend.assert_nics()

    # -------------------------------------------------------------- unplug

    def test_unplug_takes_the_nic_out(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        backend.unplug(port.id, backend.plug(port))
        backend.assert_nics()

    def test_unplug_again_has_nothing_to_do(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        plug_data = backend.plug(port)
        for _ in range(2):
            backend.unplug(port.id, plug_data)
            backend.assert_nics()

    def test_unplug_again_after_the_answer_was_lost(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        plug_data = backend.plug(port)
        with contract.answer_lost(backend.answers_lost):
            backend.unplug(port.id, plug_data)
        backend.unplug(port.id, plug_data)
        backend.assert_nics()

    def test_unplug_without_plug_data(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        backend.plug(port)
        for _ in range(2):
            backend.unplug(port.id, {})
            backend.assert_nics()

    def test_unplug_of_a_port_that_was_never_plugged(self, backend: VIFBackend) -> None:
        kept, absent = backend.make_port(backend.server), backend.make_port(backend.server)
        plug_data = backend.plug(kept)
        for port_id in (absent.id, contract.new_id()):
            backend.unplug(port_id, {})
        # What is recorded of another port must not take that one out.
        backend.assert_nics(kept)
        backend.unplug(kept.id, plug_data)

    def test_unplug_leaves_the_other_nic(self, backend: VIFBackend) -> None:
        first, second = (backend.make_port(backend.server) for _ in range(2))
        first_data, second_data = backend.plug(first), backend.plug(second)
        backend.unplug(first.id, first_data)
        backend.assert_nics(second)
        backend.unplug(second.id, second_data)
        backend.assert_nics()

    def test_unplug_leaves_the_other_server(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        plug_data = backend.plug(port)
        backend.unplug(port.id, {}, backend.other_server)
        backend.assert_nics(port)
        backend.unplug(port.id, plug_data)
        backend.assert_nics()

    def test_unplug_of_many_ports_at_once(self, backend: VIFBackend) -> None:
        ports = [backend.make_port(backend.server) for _ in range(4)]
        data = [backend.plug(port) for port in ports]
        answers = contract.at_once(
            *[
                lambda port=port, plug_data=plug_data: backend.unplug(port.id, plug_data)
                for port, plug_data in zip(ports, data, strict=True)
            ]
        )
        assert answers == [None] * 4
        backend.assert_nics()

    def test_plug_after_unplug(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        for _ in range(2):
            plug_data = backend.plug(port)
            backend.assert_nics(port)
            backend.unplug(port.id, plug_data)
            backend.assert_nics()

    def test_unplug_past_the_deadline(self, backend: VIFBackend) -> None:
        _need_side_effects(backend)
        port = backend.make_port(backend.server)
        plug_data = backend.plug(port)
        with contract.refused_by_fence() as fence:
            backend.driver.unplug(backend.context(backend.server), backend.server, port.id, plug_data, fence)
        backend.assert_nics(port)

    # -------------------------------------------------------------- plugged

    def test_plugged_answers_a_set_of_ids(self, backend: VIFBackend) -> None:
        _need_side_effects(backend)
        for count in range(2):
            plugged = backend.plugged()
            assert isinstance(plugged, set)
            assert all(isinstance(port_id, str) for port_id in plugged)
            assert len(plugged) == count
            backend.plug(backend.make_port(backend.server))

    def test_plugged_without_side_effects_is_not_known(self, backend: VIFBackend) -> None:
        if backend.driver.has_side_effects:
            pytest.skip(f'{type(backend.driver).__name__} has side effects')
        backend.plug(backend.make_port(backend.server))
        # An empty set would say that the NIC is gone.
        with pytest.raises(exceptions.NotSupported):
            backend.plugged()

    def test_find_plugged_tells_the_nics_of_all_servers(self, backend: VIFBackend) -> None:
        contract.need_override(backend.driver, base.VIFDriver, 'find_plugged')
        _need_side_effects(backend)
        before = backend.find_plugged()
        port, other = backend.make_port(backend.server), backend.make_port(backend.other_server)
        plug_data = backend.plug(port)
        backend.plug(other, backend.other_server)
        both = {(backend.server.id, port.id), (backend.other_server.id, other.id)}
        assert backend.find_plugged() - before == both
        backend.unplug(port.id, plug_data)
        assert backend.find_plugged() - before == {(backend.other_server.id, other.id)}

    def test_find_plugged_leaves_out_the_nics_of_another_installation(self, backend: VIFBackend) -> None:
        contract.need_override(backend.driver, base.VIFDriver, 'find_plugged')
        _need_side_effects(backend)
        one, another = contract.new_id(), contract.new_id()
        before = backend.find_plugged()
        port = backend.make_port(backend.server)
        nic = {(backend.server.id, port.id)}

        def plug(installation: str) -> dict[str, Any]:
            fence = dataclasses.replace(contract.fence(), installation=installation)
            return backend.driver.plug(backend.context(backend.server), backend.server, port, fence)

        # As an earlier version has plugged it, it may be anybody's.
        plug('')
        assert backend.find_plugged(one) - before == backend.find_plugged(another) - before == nic
        # Whoever is told to plug what is there has it from then on: the network backend says whose the port is.
        for installation, other in ((one, another), (another, one)):
            plug_data = plug(installation)
            assert backend.find_plugged(installation) - before == nic
            assert backend.find_plugged(other) - before == set()
            assert backend.find_plugged() - before == nic
            backend.assert_nics(port)
        # An order is about a port, whoever has plugged it.
        backend.unplug(port.id, plug_data)
        backend.assert_nics()

    # -------------------------------------------------------------- capabilities

    def test_capabilities_are_asked_without_a_side_effect(self, backend: VIFBackend) -> None:
        port = backend.make_port(backend.server)
        for ports in ((), (port,)):
            asked = [
                backend.driver.capabilities(backend.context(backend.server), backend.server) for _ in range(2)
            ]
            assert asked[0] == asked[1]
            assert isinstance(asked[0], frozenset)
            assert all(isinstance(capability, str) and capability for capability in asked[0])
            backend.assert_nics(*ports)
            backend.plug(port)

    # -------------------------------------------------------------- a backend that does not answer

    def test_unreachable_is_not_the_same_as_gone(self, backend: VIFBackend) -> None:
        port, other = (backend.make_port(backend.server) for _ in range(2))
        plug_data = backend.plug(port)
        calls: list[Callable[[], object]] = [
            backend.plugged,
            lambda: backend.plug(other),
            lambda: backend.unplug(port.id, plug_data),
        ]
        for call in calls:
            with contract.unanswered(backend.unreachable):
                call()
        backend.assert_nics(port)


def _need_side_effects(backend: VIFBackend) -> None:
    if not backend.driver.has_side_effects:
        pytest.skip(f'{type(backend.driver).__name__} has no side effects')
