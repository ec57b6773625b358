"""Attach, detach, crash, reconcile and a world that moves, in any order: what must hold after each step."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from os_interface_ext import exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.reconciler import Report
from os_interface_ext.attachments.states import State
from os_interface_ext.drivers import base
from os_interface_ext.testing.faults import raises
from tests.unit.heart import ADDRESS, CTXT, PROJECT, Died, Process, World, die

ERRORS = (
    exceptions.Unavailable,
    exceptions.UnknownOutcome,
    exceptions.PlugFailed,
    exceptions.NotSupported,
    exceptions.InProgress,
    RuntimeError,
)


def points(*effects: str) -> list[str]:
    return [f'{when} {effect}' for effect in effects for when in ('before', 'after')]


def trouble(*effects: str) -> st.SearchStrategy[Any]:
    """What may befall a request: an error of a driver, or the end of its process."""
    return st.lists(
        st.one_of(
            st.tuples(st.sampled_from(points(*effects)), st.just(1), st.sampled_from(ERRORS)),
            st.tuples(st.sampled_from(points(*effects)), st.just(1), st.just(die)),
            st.tuples(st.sampled_from(points('commit')), st.integers(1, 6), st.just(die)),
        ),
        max_size=1,
    )


def both(first: st.SearchStrategy[Any], then: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(list.__add__, first, then)


DETACH = trouble('unplug', 'unbind', 'delete')
# What fails is undone, and the undo may fail, too.
ATTACH_NETWORK = both(trouble('create', 'bind', 'plug'), DETACH)
ATTACH_PORT = both(trouble('claim', 'bind', 'plug'), DETACH)
# These errors say that nothing happened: not after something did.
CERTAIN = ('after create', 'after claim')
WHICH = st.integers(0, 7)


class Machine(RuleBasedStateMachine):
    world: World

    @initialize()
    def begin(self) -> None:
        self.world.begin()
        self.servers = [self.world.server, self.world.other]
        self.brought = [self.world.free_port() for _ in range(2)]
        #: ports that the world has bound or unbound behind our back: their place is the world's affair
        self.moved: set[str] = set()

    # ------------------------------------------------------------------ requests

    @rule(server=WHICH, port=WHICH, trouble=ATTACH_PORT)
    def attach_a_port(self, server: int, port: int, trouble: Any) -> None:
        self._attach(server, trouble, port_id=self._port(port))

    @rule(server=WHICH, trouble=ATTACH_NETWORK)
    def attach_a_network(self, server: int, trouble: Any) -> None:
        self._attach(server, trouble, network_id=self.world.network_id)

    @rule(server=WHICH, trouble=ATTACH_NETWORK)
    def attach_an_address(self, server: int, trouble: Any) -> None:
        self._attach(server, trouble, network_id=self.world.network_id, ip_address=ADDRESS)

    @rule(server=WHICH, port=WHICH, trouble=DETACH)
    def detach(self, server: int, port: int, trouble: Any) -> None:
        # Mostly something that is there to be detached.
        subject = self._server(server)
        shown = self.world.shown(subject)
        port_id = shown[port % len(shown)] if shown and port else self._port(server)
        with self._request(trouble) as process:
            process.manager.detach(CTXT, subject, port_id)

    def _attach(self, number: int, trouble: Any, **request: Any) -> None:
        server = self._server(number)
        with self._request(trouble) as process:
            shown = process.manager.attach(CTXT, server, AttachRequest(**request))
            # Answered means: complete, and visible.
            assert shown in process.manager.list(CTXT, server)

    @contextlib.contextmanager
    def _request(self, trouble: Any) -> Any:
        process = self._process(trouble)
        with contextlib.suppress(exceptions.OsInterfaceError, RuntimeError, Died):
            yield process

    def _process(self, trouble: Any) -> Process:
        process = self.world.process
        process.faults.clear()
        for point, on, what in trouble:
            if what is die:
                process.faults.add(point, die, on=on)
            else:
                process.faults.add(point, raises(exceptions.UnknownOutcome if point in CERTAIN else what), on=on)
        return process

    def _server(self, number: int) -> base.Server:
        server = self.servers[number % len(self.servers)]
        return self.world.cloud._servers.get(server.id, server)

    def _port(self, number: int) -> str:
        ports = list(self.world.cloud._ports) or ['no-port']
        return ports[number % len(ports)]

    # ------------------------------------------------------------------ the reconciler

    @rule(trouble=DETACH, expire=st.booleans())
    def reconcile(self, trouble: Any, expire: bool) -> None:
        if expire:
            self.world.expire()
        with self._request(trouble) as process:
            self._check_sweep(process.reconciler.once())

    def _check_sweep(self, report: Report) -> None:
        # Records are enough to leave nothing behind, as long as the world keeps its hands off.
        assert set(report.deleted) <= {f'port {port_id}' for port_id in self.moved}

    # ------------------------------------------------------------------ the world

    @rule(number=WHICH)
    def a_server_is_deleted(self, number: int) -> None:
        server = self._server(number)
        self.world.cloud.remove_server(server.id)
        # Another one takes its place among those that requests are made for, not its id.
        self.servers[self.servers.index(next(one for one in self.servers if one.id == server.id))] = (
            self.world.cloud.add_server(PROJECT)
        )

    @rule(number=WHICH)
    def a_server_moves(self, number: int) -> None:
        server = self._server(number)
        self.world.cloud._servers[server.id] = dataclasses.replace(server, host=f'host-{number}')

    @rule(number=WHICH)
    def a_port_is_deleted(self, number: int) -> None:
        port_id = self._port(number)
        self.world.cloud.remove_port(port_id)
        if port_id in self.brought:
            self.brought.remove(port_id)
            self.brought.append(self.world.free_port())

    @rule(number=WHICH, server=st.none() | WHICH)
    def a_port_is_bound_elsewhere(self, number: int, server: int | None) -> None:
        port_id = self._port(number)
        if port_id in self.world.cloud._ports:
            device_id = None if server is None else self._server(server).id
            self.world.cloud.change_port(port_id, device_id=device_id)
            self.moved.add(port_id)

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def no_port_is_lost_or_given_twice(self) -> None:
        if not hasattr(self, 'brought'):
            return
        self.world.process.faults.clear()
        assert set(self.brought) <= set(self.world.cloud._ports)
        ports = Counter(record.port_id for record in self.world.records() if record.port_id)
        assert ports.total() == len(ports)
        nics = Counter(port_id for ports in self.world.cloud._nics.values() for port_id in ports)
        assert nics.total() == len(nics), 'a port has two NICs'

    @invariant()
    def what_is_attached_is_listed_once(self) -> None:
        if not hasattr(self, 'brought'):
            return
        records = self.world.records()
        for server in self.servers:
            shown = self.world.shown(server)
            assert len(shown) == len(set(shown))
            for record in records:
                port = self.world.cloud.find_port(record.port_id or '')
                if record.server_id != server.id or port is None:
                    continue
                if record.state is State.ATTACHED and port.device_id == server.id:
                    assert record.port_id in shown
                if record.state in (State.ALLOCATING, State.PLUGGING):
                    assert record.port_id not in shown

    def teardown(self) -> None:
        if not hasattr(self, 'brought'):
            return
        world = self.world
        world.process.faults.clear()
        for report in world.reconcile():
            self._check_sweep(report)
        records = world.records()
        assert {record.state for record in records} <= {State.ATTACHED}
        assert {record.owner for record in records} <= {None}
        attached = {(record.server_id, record.port_id) for record in records}
        nics = {(server, port_id) for server, ports in world.cloud._nics.items() for port_id in ports}
        assert nics == attached
        known = {record.mark for record in records} | {
            port.mark for port in world.cloud._ports.values() if port.id in self.moved
        }
        for port in world.cloud._ports.values():
            assert not port.mark or port.mark in known, 'leaked'
            assert not port.device_id or port.id in self.moved or (port.device_id, port.id) in attached
        self.no_port_is_lost_or_given_twice()
        self.what_is_attached_is_listed_once()


def test_any_order_of_things(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tempfile.mkdtemp()
    monkeypatch.setattr(Machine, 'world', World(directory), raising=False)
    case = Machine.TestCase
    case.settings = settings(
        max_examples=120,
        stateful_step_count=30,
        derandomize=True,
        deadline=None,
        database=None,
        # Without shrinking, which takes minutes: the steps of a failure are printed all the same.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        case('runTest').runTest()
    finally:
        shutil.rmtree(directory)
