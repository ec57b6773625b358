"""The contract suite of server drivers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

import pytest

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext, service_context
from os_interface_ext.drivers import base
from os_interface_ext.testing import contract


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerBackend:
    """A server driver under test, and the world around it; made anew for each test.

    What is None is not there: the tests that need it are skipped.
    """

    driver: base.ServerDriver
    #: A server as ``get`` must tell it, field by field.
    server: base.Server
    #: A server of another project, likewise.
    foreign_server: base.Server
    #: The context of an ordinary caller of a server's project.
    context: Callable[[base.Server], RequestContext] = contract.member
    #: Deletes a server, behind the driver's back.
    remove_server: Callable[[str], None] | None = None
    #: The events that the controller has been told for a server, if the driver passes them on.
    events: Callable[[str], Collection[str]] | None = None
    #: Within it the controller does not answer.
    unreachable: Callable[[], AbstractContextManager[object]] | None = None


class ServerDriverContract:
    """The promises of :class:`~os_interface_ext.drivers.base.ServerDriver`, as tests to inherit."""

    @pytest.fixture
    def backend(self) -> ServerBackend:
        """What is under test: to be overridden."""
        raise NotImplementedError('override the fixture `backend`: it gives a ServerBackend')

    def test_is_a_server_driver(self, backend: ServerBackend) -> None:
        assert isinstance(backend.driver, base.ServerDriver)

    # -------------------------------------------------------------- check, optional

    def test_check_of_a_backend_that_answers(self, backend: ServerBackend) -> None:
        backend.driver.check(service_context())

    def test_check_of_one_that_does_not(self, backend: ServerBackend) -> None:
        contract.need_override(backend.driver, base.Driver, 'check')
        with contract.unanswered(backend.unreachable):
            backend.driver.check(service_context())

    # -------------------------------------------------------------- get

    def test_get_tells_the_server(self, backend: ServerBackend) -> None:
        assert _get(backend, backend.server) == backend.server
        assert _get(backend, backend.foreign_server) == backend.foreign_server

    def test_get_answers_the_right_types(self, backend: ServerBackend) -> None:
        server = _get(backend, backend.server)
        assert isinstance(server, base.Server)
        assert isinstance(server.name, str)
        for text in (server.id, server.project_id, server.vm_state):
            contract.assert_full_str(text)
        for optional in (server.host, server.task_state, server.availability_zone):
            contract.assert_optional_str(optional)
        assert server.host != '', 'a server without a host has None'
        assert server.locked_by in (None, 'owner', 'admin')

    def test_get_again_tells_the_same(self, backend: ServerBackend) -> None:
        assert _get(backend, backend.server) == _get(backend, backend.server)

    def test_get_answers_whoever_asks(self, backend: ServerBackend) -> None:
        foreigner = backend.context(backend.foreign_server)
        assert backend.driver.get(foreigner, backend.server.id) == backend.server
        assert backend.driver.get(service_context(), backend.server.id) == backend.server

    def test_get_by_threads_at_once(self, backend: ServerBackend) -> None:
        wanted = [backend.server, backend.foreign_server] * 4
        calls = [lambda server=server: _get(backend, server) for server in wanted]
        assert contract.at_once(*calls) == wanted

    def test_get_of_an_unknown_server(self, backend: ServerBackend) -> None:
        _assert_not_found(backend, contract.new_id())

    @contract.odd_ids
    def test_get_of_an_odd_id(self, backend: ServerBackend, odd: str) -> None:
        _assert_not_found(backend, odd)

    @pytest.mark.parametrize('pattern', ['{} ', ' {}', '{}%', '{}\0', '{}/', '{}{}'])
    def test_get_of_an_id_that_is_nearly_right(self, backend: ServerBackend, pattern: str) -> None:
        _assert_not_found(backend, pattern.replace('{}', backend.server.id))

    def test_get_of_a_server_that_is_gone(self, backend: ServerBackend) -> None:
        remove_server = contract.need(backend.remove_server, 'remove_server')
        remove_server(backend.server.id)
        _assert_not_found(backend, backend.server.id)
        assert _get(backend, backend.foreign_server) == backend.foreign_server

    def test_unreachable_is_not_the_same_as_gone(self, backend: ServerBackend) -> None:
        with contract.unanswered(backend.unreachable):
            _get(backend, backend.server)
        assert _get(backend, backend.server) == backend.server

    # -------------------------------------------------------------- attachments_changed, optional

    @pytest.mark.parametrize('event', ['attached', 'detached'])
    def test_attachments_changed_may_be_repeated(self, backend: ServerBackend, event: str) -> None:
        contract.need_override(backend.driver, base.ServerDriver, 'attachments_changed')
        for _ in range(2):
            _tell(backend, event)
        assert _get(backend, backend.server).id == backend.server.id

    @pytest.mark.parametrize('event', ['attached', 'detached'])
    def test_attachments_changed_is_there_when_it_returns(self, backend: ServerBackend, event: str) -> None:
        contract.need_override(backend.driver, base.ServerDriver, 'attachments_changed')
        events = contract.need(backend.events, 'events')
        _tell(backend, event)
        assert event in events(backend.server.id)
        assert event not in events(backend.foreign_server.id)

    def test_attachments_changed_of_a_server_that_is_gone(self, backend: ServerBackend) -> None:
        contract.need_override(backend.driver, base.ServerDriver, 'attachments_changed')
        gone = contract.new_id()
        backend.driver.attachments_changed(backend.context(backend.server), gone, base.Change('detached'))

    def test_attachments_changed_without_an_answer(self, backend: ServerBackend) -> None:
        contract.need_override(backend.driver, base.ServerDriver, 'attachments_changed')
        with contract.unanswered(backend.unreachable):
            _tell(backend, 'attached')


def _get(backend: ServerBackend, server: base.Server) -> base.Server:
    return backend.driver.get(backend.context(server), server.id)


def _tell(backend: ServerBackend, kind: str) -> None:
    change = base.Change(kind, contract.new_id())
    backend.driver.attachments_changed(backend.context(backend.server), backend.server.id, change)


def _assert_not_found(backend: ServerBackend, server_id: str) -> None:
    with pytest.raises(exceptions.ServerNotFound):
        backend.driver.get(backend.context(backend.server), server_id)
