"""The contract suite of network drivers."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext, service_context
from os_interface_ext.drivers import base
from os_interface_ext.testing import contract

_MAC = re.compile(r'[0-9a-f]{2}(:[0-9a-f]{2}){5}')
_STATUSES = {'ACTIVE', 'DOWN', 'BUILD', 'ERROR'}
_CLAIMANTS = 10


class MakePort(Protocol):
    """Makes a port on ``network_id`` as a user of the project would, behind the driver's back."""

    def __call__(self, project_id: str, *, device_id: str = '') -> str:
        """:returns: the id of the port"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkBackend:
    """A network driver under test, and the world around it; made anew for each test.

    What is None or empty is not there: the tests that need it are skipped. What the tests leave behind
    is for the fixture to take away.
    """

    driver: base.NetworkDriver
    #: A server whose project may make a dozen ports on ``network_id``; none of the servers has a port.
    server: base.Server
    #: Another server of the same project.
    other_server: base.Server
    #: A server of another project.
    foreign_server: base.Server
    #: A network with twenty free addresses or more.
    network_id: str
    make_port: MakePort
    #: The context of an ordinary caller of a server's project.
    context: Callable[[base.Server], RequestContext] = contract.member
    #: That many more servers of the project of the server; by default the controller knows none of them.
    more_servers: Callable[[base.Server, int], Sequence[base.Server]] = contract.servers_like
    #: Reads a port behind the driver's back, None if there is none; by default it asks the driver.
    read: Callable[[str], base.Port | None] | None = None

    #: Addresses that no port of ``network_id`` can have; the default suits a network without them.
    invalid_addresses: Sequence[str] = ('203.0.113.77', '2001:db8:ffff::77')
    #: A network that a member of the server's project cannot see.
    hidden_network_id: str | None = None
    #: A network that a member sees, but may not attach to (an external one).
    forbidden_network_id: str | None = None
    #: A network that is visible, but of no use to a server (one without a subnet).
    unusable_network_id: str | None = None
    #: A network of the server's project with exactly one free address.
    last_address_network_id: str | None = None
    #: A server whose project has no network.
    server_without_network: base.Server | None = None
    #: A server whose project has exactly one network, and the network's id.
    server_with_one_network: tuple[base.Server, str] | None = None
    #: A server whose project has more than one network.
    server_with_networks: base.Server | None = None
    #: A server whose project may make exactly one more port, and the network to make it on.
    server_with_last_quota: tuple[base.Server, str] | None = None
    #: A free port of the server's project that cannot be used for it (of a network without use).
    unusable_port_id: str | None = None
    #: A free port of the server's project on a network that is not for its callers.
    forbidden_port_id: str | None = None

    #: A host on which ports can be bound, and one on which they cannot.
    host: str = 'contract-host'
    host_without_binding: str | None = None
    #: Makes a port for a server as its controller does at boot, which the driver can tell.
    make_port_of_server: Callable[[base.Server], str] | None = None

    #: Within it the backend does not answer and does nothing.
    unreachable: Callable[[], AbstractContextManager[object]] | None = None
    #: Within it the backend does what it is asked, but every answer is lost.
    answers_lost: Callable[[], AbstractContextManager[object]] | None = None

    @property
    def ctxt(self) -> RequestContext:
        """An ordinary caller of the server's project."""
        return self.context(self.server)

    def look(self, port_id: str) -> base.Port | None:
        """The port as it is now, None if there is none."""
        if self.read is not None:
            return self.read(port_id)
        try:
            return self.driver.get_port(service_context(), port_id)
        except exceptions.PortNotFound:
            return None

    def ports(self, server: base.Server) -> list[base.Port]:
        """The ports of a server, as far as a list tells of them."""
        return self.driver.list_ports(self.context(server), server.id)

    def create(
        self,
        server: base.Server | None = None,
        mark: str | None = None,
        *,
        network_id: str | None = None,
        ip_address: str | None = None,
    ) -> base.Port:
        """A new port: of the server, on the network, with a mark of its own, if nothing else is named."""
        return self.request(
            server or self.server,
            base.PortRequest(network_id or self.network_id, ip_address),
            mark or new_mark(),
        )

    def request(self, server: base.Server, request: base.PortRequest, mark: str | None = None) -> base.Port:
        """A new port, exactly as it is asked for."""
        return self.driver.create(self.context(server), server, request, mark or new_mark(), contract.fence())

    def brought(self, server: base.Server | None = None) -> str:
        """The id of a free port of the server's project."""
        return self.make_port((server or self.server).project_id)

    def claim(self, port_id: str, server: base.Server | None = None) -> base.Port:
        server = server or self.server
        return self.driver.claim(self.context(server), server, port_id, contract.fence())

    def unbind(self, port_id: str, server_id: str | None = None) -> None:
        self.driver.unbind(
            self.ctxt, port_id, self.server.id if server_id is None else server_id, contract.fence()
        )

    def delete(self, port_id: str | None, mark: str | None) -> None:
        self.driver.delete(self.ctxt, port_id, mark, contract.fence())


def listing(port: base.Port) -> dict[str, Any]:
    """What a list must tell of a port, by field."""
    return {name: getattr(port, name) for name in base.LISTED}


def new_mark(installation: str | None = None) -> str:
    """A mark that no port has."""
    return f'osif:{installation or contract.new_id()}:{contract.new_id()}'


class NetworkDriverContract:
    """The promises of :class:`~os_interface_ext.drivers.base.NetworkDriver`, as tests to inherit."""

    @pytest.fixture
    def backend(self) -> NetworkBackend:
        """What is under test: to be overridden."""
        raise NotImplementedError('override the fixture `backend`: it gives a NetworkBackend')

    def test_is_a_network_driver(self, backend: NetworkBackend) -> None:
        assert isinstance(backend.driver, base.NetworkDriver)

    # -------------------------------------------------------------- list_ports

    def test_list_of_a_server_without_ports(self, backend: NetworkBackend) -> None:
        backend.create(backend.other_server)
        backend.brought()
        assert backend.ports(backend.server) == []

    def test_list_tells_exactly_the_ports_of_the_server(self, backend: NetworkBackend) -> None:
        mine = {backend.create().id, backend.create().id, backend.claim(backend.brought()).id}
        backend.brought()
        others = {backend.create(backend.other_server).id}
        listed = backend.ports(backend.server)
        assert len(listed) == 3
        assert {port.id for port in listed} == mine
        assert {port.id for port in backend.ports(backend.other_server)} == others

    def test_list_tells_what_get_port_tells(self, backend: NetworkBackend) -> None:
        backend.create()
        backend.claim(backend.brought())
        listed = backend.ports(backend.server)
        read = [backend.driver.get_port(backend.ctxt, port.id) for port in listed]
        assert list(map(listing, listed)) == list(map(listing, read))

    def test_list_answers_the_right_types(self, backend: NetworkBackend) -> None:
        backend.create()
        listed = backend.ports(backend.server)
        assert isinstance(listed, list)
        for port in listed:
            assert_port(port)

    def test_list_answers_whoever_asks(self, backend: NetworkBackend) -> None:
        port = backend.create()
        for ctxt in (backend.context(backend.foreign_server), service_context()):
            assert [found.id for found in backend.driver.list_ports(ctxt, backend.server.id)] == [port.id]

    def test_list_of_an_unknown_server(self, backend: NetworkBackend) -> None:
        backend.create()
        assert backend.driver.list_ports(backend.ctxt, contract.new_id()) == []

    @contract.odd_ids
    def test_list_of_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        backend.create()
        backend.brought()
        assert backend.driver.list_ports(backend.ctxt, odd) == []

    # -------------------------------------------------------------- get_port

    def test_get_port_of_whichever_project(self, backend: NetworkBackend) -> None:
        port_id = backend.brought(backend.foreign_server)
        port = backend.driver.get_port(backend.ctxt, port_id)
        assert port.id == port_id
        assert port.project_id == backend.foreign_server.project_id

    def test_get_port_that_was_brought(self, backend: NetworkBackend) -> None:
        port = backend.driver.get_port(backend.ctxt, backend.brought())
        assert_port(port)
        assert port.network_id == backend.network_id
        assert port.project_id == backend.server.project_id
        assert port.mark is None
        assert not port.device_id

    def test_get_port_that_was_created(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.driver.get_port(backend.ctxt, backend.create(mark=mark).id)
        assert_port(port)
        assert port.mark == mark
        assert port.device_id == backend.server.id

    def test_get_port_of_an_unknown_id(self, backend: NetworkBackend) -> None:
        with pytest.raises(exceptions.PortNotFound):
            backend.driver.get_port(backend.ctxt, contract.new_id())

    @contract.odd_ids
    def test_get_port_of_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        backend.create()
        with pytest.raises(exceptions.PortNotFound):
            backend.driver.get_port(backend.ctxt, odd)

    @pytest.mark.parametrize('pattern', ['{} ', ' {}', '{}%', '{}\0', '{}/', '{}{}'])
    def test_get_port_of_an_id_that_is_nearly_right(self, backend: NetworkBackend, pattern: str) -> None:
        port_id = backend.create().id
        with pytest.raises(exceptions.PortNotFound):
            backend.driver.get_port(backend.ctxt, pattern.replace('{}', port_id))

    # -------------------------------------------------------------- create

    def test_create_makes_a_port_of_the_server(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        assert_port(port)
        assert port.project_id == backend.server.project_id
        assert port.device_id == backend.server.id
        assert port.network_id == backend.network_id
        assert port.mark == mark
        assert port.fixed_ips, 'a port of a network with subnets has an address'
        assert backend.look(port.id) == port

    def test_create_in_the_project_of_the_server_whoever_asks(self, backend: NetworkBackend) -> None:
        port = backend.driver.create(
            service_context(),
            backend.server,
            base.PortRequest(backend.network_id),
            new_mark(),
            contract.fence(),
        )
        assert port.project_id == backend.server.project_id

    def test_create_with_other_marks_makes_other_ports(self, backend: NetworkBackend) -> None:
        first, second = backend.create(), backend.create()
        assert first.id != second.id
        assert first.mac_address != second.mac_address
        assert not set(first.fixed_ips) & set(second.fixed_ips)

    def test_create_with_the_same_mark_gives_the_same_port(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        assert backend.create(mark=mark) == port
        assert _ids(backend.ports(backend.server)) == [port.id]

    def test_create_with_a_mark_that_is_the_beginning_of_another(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=f'{mark}-2')
        assert backend.create(mark=mark).id != port.id

    def test_create_with_the_same_mark_by_threads_at_once(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        answers = contract.at_once(*[lambda: backend.create(mark=mark)] * 4)
        assert _ids(backend.ports(backend.server)) == [_settled(answers, backend, mark).id]

    def test_create_again_after_the_answer_was_lost(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        with contract.answer_lost(backend.answers_lost):
            backend.create(mark=mark)
        port = backend.create(mark=mark)
        assert _ids(backend.ports(backend.server)) == [port.id]

    def test_create_with_the_address_asked_for(self, backend: NetworkBackend) -> None:
        address = _free_address(backend)
        port = backend.create(ip_address=address)
        assert [fixed_ip.ip_address for fixed_ip in port.fixed_ips] == [address]

    def test_create_again_with_the_address_asked_for(self, backend: NetworkBackend) -> None:
        address, mark = _free_address(backend), new_mark()
        port = backend.create(mark=mark, ip_address=address)
        assert backend.create(mark=mark, ip_address=address).id == port.id

    def test_create_with_an_address_in_use(self, backend: NetworkBackend) -> None:
        taken = backend.create(backend.other_server).fixed_ips[0].ip_address
        with pytest.raises(exceptions.AddressInUse):
            backend.create(ip_address=taken)
        assert backend.ports(backend.server) == []

    def test_create_with_one_address_by_threads_at_once(self, backend: NetworkBackend) -> None:
        address = _free_address(backend)
        answers = contract.at_once(*[lambda: backend.create(ip_address=address)] * 4)
        _assert_one_winner(answers, exceptions.AddressInUse)
        assert len(backend.ports(backend.server)) == 1

    def test_create_by_threads_at_once_gives_each_its_own_address(self, backend: NetworkBackend) -> None:
        answers = contract.at_once(*[lambda: backend.create()] * 6)
        for port in answers:
            assert_port(port)
        assert len({fixed_ip for port in answers for fixed_ip in port.fixed_ips}) == sum(
            len(port.fixed_ips) for port in answers
        )
        assert sorted(_ids(backend.ports(backend.server))) == sorted(_ids(answers))

    def test_create_with_an_invalid_address(self, backend: NetworkBackend) -> None:
        for address in backend.invalid_addresses:
            with pytest.raises(exceptions.AddressInvalid):
                backend.create(ip_address=address)
        assert backend.ports(backend.server) == []

    def test_create_on_an_unknown_network(self, backend: NetworkBackend) -> None:
        _assert_refused(backend, contract.new_id(), exceptions.NetworkNotFound)

    @contract.odd_ids
    def test_create_on_a_network_with_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        with pytest.raises(exceptions.NetworkNotFound):
            backend.request(backend.server, base.PortRequest(odd))
        assert backend.ports(backend.server) == []

    def test_create_on_a_network_that_the_caller_cannot_see(self, backend: NetworkBackend) -> None:
        network_id = contract.need(backend.hidden_network_id, 'hidden_network_id')
        _assert_refused(backend, network_id, exceptions.NetworkNotFound)

    def test_create_on_a_network_that_is_forbidden(self, backend: NetworkBackend) -> None:
        network_id = contract.need(backend.forbidden_network_id, 'forbidden_network_id')
        _assert_refused(backend, network_id, exceptions.NetworkForbidden)

    def test_create_on_a_network_without_use(self, backend: NetworkBackend) -> None:
        network_id = contract.need(backend.unusable_network_id, 'unusable_network_id')
        _assert_refused(backend, network_id, exceptions.NetworkNotUsable)

    def test_create_on_the_only_network(self, backend: NetworkBackend) -> None:
        server, network_id = contract.need(backend.server_with_one_network, 'server_with_one_network')
        assert backend.request(server, base.PortRequest()).network_id == network_id

    def test_create_where_networks_are_many(self, backend: NetworkBackend) -> None:
        server = contract.need(backend.server_with_networks, 'server_with_networks')
        with pytest.raises(exceptions.NetworkAmbiguous):
            backend.request(server, base.PortRequest())
        assert backend.ports(server) == []

    def test_create_where_no_network_is(self, backend: NetworkBackend) -> None:
        server = contract.need(backend.server_without_network, 'server_without_network')
        with pytest.raises(exceptions.NetworkNotUsable):
            backend.request(server, base.PortRequest())

    def test_create_with_the_last_address(self, backend: NetworkBackend) -> None:
        network_id = contract.need(backend.last_address_network_id, 'last_address_network_id')
        mark = new_mark()
        port = backend.create(mark=mark, network_id=network_id)
        with pytest.raises(exceptions.NoAddress):
            backend.create(network_id=network_id)
        assert backend.create(mark=mark, network_id=network_id).id == port.id
        assert _ids(backend.ports(backend.server)) == [port.id]
        backend.delete(port.id, mark)
        assert backend.create(network_id=network_id).fixed_ips

    def test_create_with_the_last_of_the_quota(self, backend: NetworkBackend) -> None:
        server, network_id = contract.need(backend.server_with_last_quota, 'server_with_last_quota')
        request, mark = base.PortRequest(network_id), new_mark()
        port = backend.request(server, request, mark)
        with pytest.raises(exceptions.QuotaExceeded):
            backend.request(server, request)
        assert backend.request(server, request, mark).id == port.id
        assert _ids(backend.ports(server)) == [port.id]
        backend.delete(port.id, mark)
        assert backend.request(server, request).id

    def test_create_past_the_deadline(self, backend: NetworkBackend) -> None:
        with contract.refused_by_fence() as fence:
            backend.driver.create(
                backend.ctxt, backend.server, base.PortRequest(backend.network_id), new_mark(), fence
            )
        assert backend.ports(backend.server) == []

    # -------------------------------------------------------------- claim

    def test_claim_of_a_free_port(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        before = backend.look(port_id)
        port = backend.claim(port_id)
        assert_port(port)
        assert port.id == port_id
        assert port.device_id == backend.server.id
        assert backend.look(port_id) == port
        assert _ids(backend.ports(backend.server)) == [port_id]
        assert before is not None
        for name in ('network_id', 'mac_address', 'project_id', 'fixed_ips', 'mark'):
            assert getattr(port, name) == getattr(before, name), f'claim changed {name}'

    def test_claim_of_a_port_that_the_server_has(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        port = backend.claim(port_id)
        assert backend.claim(port_id) == port
        created = backend.create()
        assert backend.claim(created.id).id == created.id

    def test_claim_again_after_the_answer_was_lost(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        with contract.answer_lost(backend.answers_lost):
            backend.claim(port_id)
        assert backend.claim(port_id).device_id == backend.server.id

    def test_claim_of_a_port_of_another_server(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        held = backend.claim(port_id, backend.other_server)
        with pytest.raises(exceptions.PortInUse):
            backend.claim(port_id)
        assert backend.look(port_id) == held

    def test_claim_of_a_port_of_a_device_that_is_no_server(self, backend: NetworkBackend) -> None:
        port_id = backend.make_port(backend.server.project_id, device_id=contract.new_id())
        held = backend.look(port_id)
        with pytest.raises(exceptions.PortInUse):
            backend.claim(port_id)
        assert backend.look(port_id) == held

    def test_claim_of_a_port_of_another_project(self, backend: NetworkBackend) -> None:
        port_id = backend.brought(backend.foreign_server)
        free = backend.look(port_id)
        with pytest.raises(exceptions.PortNotUsable):
            backend.claim(port_id)
        assert backend.look(port_id) == free

    def test_claim_of_a_port_of_another_project_by_an_administrator(self, backend: NetworkBackend) -> None:
        port_id = backend.brought(backend.foreign_server)
        with pytest.raises(exceptions.PortNotUsable):
            backend.driver.claim(service_context(), backend.server, port_id, contract.fence())

    def test_claim_of_a_port_without_use(self, backend: NetworkBackend) -> None:
        port_id = contract.need(backend.unusable_port_id, 'unusable_port_id')
        with pytest.raises(exceptions.PortNotUsable):
            backend.claim(port_id)
        assert backend.ports(backend.server) == []

    def test_claim_of_a_port_of_a_network_that_is_forbidden(self, backend: NetworkBackend) -> None:
        port_id = contract.need(backend.forbidden_port_id, 'forbidden_port_id')
        with pytest.raises(exceptions.NetworkForbidden):
            backend.claim(port_id)
        assert backend.ports(backend.server) == []

    def test_claim_of_an_unknown_port(self, backend: NetworkBackend) -> None:
        with pytest.raises(exceptions.PortNotFound):
            backend.claim(contract.new_id())

    @contract.odd_ids
    def test_claim_of_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        backend.brought()
        with pytest.raises(exceptions.PortNotFound):
            backend.claim(odd)
        assert backend.ports(backend.server) == []

    def test_claim_by_many_servers_at_once(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        servers = backend.more_servers(backend.server, _CLAIMANTS)
        answers = contract.at_once(*[lambda server=server: backend.claim(port_id, server) for server in servers])
        winner = _assert_one_winner(answers, exceptions.PortInUse)
        port = backend.look(port_id)
        assert port is not None
        assert port.device_id == winner.device_id == servers[answers.index(winner)].id
        assert [server.id for server in servers if backend.ports(server)] == [winner.device_id]

    def test_claim_by_one_server_many_times_at_once(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        answers = contract.at_once(*[lambda: backend.claim(port_id)] * 4)
        again = backend.claim(port_id)
        assert again.device_id == backend.server.id
        assert [getattr(answer, 'id', answer) for answer in answers] == [port_id] * 4

    def test_claim_past_the_deadline(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        free = backend.look(port_id)
        with contract.refused_by_fence() as fence:
            backend.driver.claim(backend.ctxt, backend.server, port_id, fence)
        assert backend.look(port_id) == free

    # -------------------------------------------------------------- unbind

    def test_unbind_frees_the_port(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        claimed = backend.claim(port_id)
        backend.unbind(port_id)
        port = backend.look(port_id)
        assert port is not None, 'unbind never deletes'
        assert_port(port)
        assert not port.device_id
        assert port.fixed_ips == claimed.fixed_ips
        assert port.mac_address == claimed.mac_address
        assert backend.ports(backend.server) == []

    def test_unbind_again_has_nothing_to_do(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        backend.claim(port_id)
        backend.unbind(port_id)
        free = backend.look(port_id)
        backend.unbind(port_id)
        assert backend.look(port_id) == free

    def test_unbind_again_after_the_answer_was_lost(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        backend.claim(port_id)
        with contract.answer_lost(backend.answers_lost):
            backend.unbind(port_id)
        backend.unbind(port_id)
        assert backend.ports(backend.server) == []

    def test_unbind_lets_another_server_claim(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        backend.claim(port_id)
        backend.unbind(port_id)
        assert backend.claim(port_id, backend.other_server).device_id == backend.other_server.id

    def test_unbind_of_a_port_of_another_server(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        held = backend.claim(port_id, backend.other_server)
        backend.unbind(port_id)
        assert backend.look(port_id) == held

    def test_unbind_leaves_the_other_ports_of_the_server(self, backend: NetworkBackend) -> None:
        kept = backend.create()
        port_id = backend.brought()
        backend.claim(port_id)
        backend.unbind(port_id)
        assert _ids(backend.ports(backend.server)) == [kept.id]

    def test_unbind_of_an_unknown_port(self, backend: NetworkBackend) -> None:
        kept = backend.create()
        backend.unbind(contract.new_id())
        assert _ids(backend.ports(backend.server)) == [kept.id]

    @contract.odd_ids
    def test_unbind_of_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        kept = backend.create()
        backend.unbind(odd)
        backend.unbind(kept.id, odd)
        assert _ids(backend.ports(backend.server)) == [kept.id]

    def test_unbind_past_the_deadline(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        held = backend.claim(port_id)
        with contract.refused_by_fence() as fence:
            backend.driver.unbind(backend.ctxt, port_id, backend.server.id, fence)
        assert backend.look(port_id) == held

    # -------------------------------------------------------------- delete

    def test_delete_by_id_and_mark(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port, kept = backend.create(mark=mark), backend.create()
        backend.delete(port.id, mark)
        _assert_gone(backend, port.id)
        assert _ids(backend.ports(backend.server)) == [kept.id]

    def test_delete_by_id_and_mark_again(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port, kept = backend.create(mark=mark), backend.create()
        for _ in range(2):
            backend.delete(port.id, mark)
        assert _ids(backend.ports(backend.server)) == [kept.id]

    def test_delete_by_mark_alone(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port, kept = backend.create(mark=mark), backend.create()
        for _ in range(2):
            backend.delete(None, mark)
            _assert_gone(backend, port.id)
        assert _ids(backend.ports(backend.server)) == [kept.id]

    def test_delete_by_a_mark_that_no_port_has(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        kept = [backend.create(mark=mark).id, backend.brought()]
        for other in (new_mark(), mark[:-1], mark + 'x', '%', ''):
            backend.delete(None, other)
        assert all(backend.look(port_id) for port_id in kept)

    def test_delete_by_mark_of_what_was_created_without_an_answer(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        with contract.answer_lost(backend.answers_lost):
            backend.create(mark=mark)
        backend.delete(None, mark)
        assert backend.ports(backend.server) == []

    def test_delete_again_after_the_answer_was_lost(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        with contract.answer_lost(backend.answers_lost):
            backend.delete(port.id, mark)
        backend.delete(port.id, mark)
        _assert_gone(backend, port.id)

    def test_delete_of_a_port_with_another_mark(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        for other in (new_mark(), mark[:-1], mark + 'x'):
            with pytest.raises(exceptions.NotOurs):
                backend.delete(port.id, other)
        assert backend.look(port.id) == port

    def test_delete_of_a_port_without_a_mark(self, backend: NetworkBackend) -> None:
        port_id = backend.brought()
        with pytest.raises(exceptions.NotOurs):
            backend.delete(port_id, new_mark())
        assert backend.look(port_id) is not None

    def test_delete_of_a_port_that_was_made_for_its_server(self, backend: NetworkBackend) -> None:
        make_port = contract.need(backend.make_port_of_server, 'make_port_of_server')
        port_id, kept = make_port(backend.server), backend.brought()
        for _ in range(2):
            backend.delete(port_id, None)
            _assert_gone(backend, port_id)
        assert backend.look(kept) is not None

    def test_delete_without_a_mark_of_a_port_that_has_one(self, backend: NetworkBackend) -> None:
        port = backend.create()
        with pytest.raises(exceptions.NotOurs):
            backend.delete(port.id, None)
        assert backend.look(port.id) == port

    def test_delete_of_an_unknown_port(self, backend: NetworkBackend) -> None:
        kept = backend.create()
        backend.delete(contract.new_id(), new_mark())
        backend.delete(contract.new_id(), None)
        assert backend.look(kept.id) == kept

    @contract.odd_ids
    def test_delete_of_an_odd_id(self, backend: NetworkBackend, odd: str) -> None:
        mark = new_mark()
        kept, brought = backend.create(mark=mark), backend.brought()
        backend.delete(odd, mark)
        backend.delete(odd, None)
        assert backend.look(kept.id) == kept
        assert backend.look(brought) is not None

    def test_delete_that_names_nothing_deletes_nothing(self, backend: NetworkBackend) -> None:
        kept = [backend.create().id, backend.brought()]
        # A mistake of the caller: the driver may say so in words of its own.
        with contextlib.suppress(Exception):
            backend.delete(None, None)
        assert all(backend.look(port_id) for port_id in kept)

    def test_delete_by_threads_at_once(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        answers = contract.at_once(*[lambda: backend.delete(port.id, mark)] * 4)
        assert answers == [None] * 4
        _assert_gone(backend, port.id)

    def test_delete_past_the_deadline(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port = backend.create(mark=mark)
        for port_id in (port.id, None):
            with contract.refused_by_fence() as fence:
                backend.driver.delete(backend.ctxt, port_id, mark, fence)
        assert backend.look(port.id) == port

    # -------------------------------------------------------------- check, optional

    def test_check_of_a_backend_that_answers(self, backend: NetworkBackend) -> None:
        backend.driver.check(service_context())

    def test_check_of_one_that_does_not(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.Driver, 'check')
        with contract.unanswered(backend.unreachable):
            backend.driver.check(service_context())

    # -------------------------------------------------------------- a backend that does not answer

    def test_unreachable_is_not_the_same_as_gone(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        port, free = backend.create(mark=mark), backend.brought()
        calls: list[Callable[[], object]] = [
            lambda: backend.ports(backend.server),
            lambda: backend.driver.get_port(backend.ctxt, port.id),
            lambda: backend.create(),
            lambda: backend.create(mark=mark),
            lambda: backend.claim(free),
            lambda: backend.unbind(port.id),
            lambda: backend.delete(port.id, mark),
            lambda: backend.delete(None, mark),
        ]
        for call in calls:
            with contract.unanswered(backend.unreachable):
                call()
        assert list(map(listing, backend.ports(backend.server))) == [listing(port)]

    # -------------------------------------------------------------- bind, optional

    def test_bind_answers_what_is_to_be_plugged(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        port = backend.create()
        bound = _bind(backend, port, backend.host)
        assert_port(bound)
        assert (bound.id, bound.device_id, bound.host) == (port.id, backend.server.id, backend.host)
        assert (bound.mac_address, bound.fixed_ips, bound.mark) == (
            port.mac_address,
            port.fixed_ips,
            port.mark,
        )
        assert backend.look(port.id) == bound

    def test_bind_again_answers_the_same(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        bound = _bind(backend, backend.create(), backend.host)
        assert _bind(backend, bound, backend.host) == bound

    def test_bind_where_the_server_is_on_no_host(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        port = backend.create()
        assert _bind(backend, port, None).id == port.id

    def test_bind_on_a_host_that_cannot(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        host = contract.need(backend.host_without_binding, 'host_without_binding')
        port = backend.create()
        with pytest.raises(exceptions.BindingFailed):
            _bind(backend, port, host)
        assert _ids(backend.ports(backend.server)) == [port.id]

    def test_bind_of_a_port_that_another_server_has_got_meanwhile(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        port = backend.claim(backend.brought())
        backend.unbind(port.id)
        held = backend.claim(port.id, backend.other_server)
        with pytest.raises(exceptions.DriverError):
            _bind(backend, port, backend.host)
        assert backend.look(port.id) == held

    def test_bind_past_the_deadline(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'bind')
        port = backend.create()
        with contract.refused_by_fence() as fence:
            backend.driver.bind(backend.ctxt, port, backend.host, fence)
        assert backend.look(port.id) == port

    def test_unbind_and_delete_of_a_bound_port(self, backend: NetworkBackend) -> None:
        mark = new_mark()
        claimed = _bind(backend, backend.claim(backend.brought()), backend.host)
        created = _bind(backend, backend.create(mark=mark), backend.host)
        backend.unbind(claimed.id)
        backend.delete(created.id, mark)
        assert backend.ports(backend.server) == []
        assert backend.claim(claimed.id, backend.other_server).device_id == backend.other_server.id

    # -------------------------------------------------------------- details, optional

    def test_details_are_more_of_the_same_port(self, backend: NetworkBackend) -> None:
        port = backend.create()
        detailed = backend.driver.details(backend.ctxt, port)
        assert_port(detailed)
        assert dataclasses.replace(detailed, mtu=port.mtu) == port
        assert backend.look(port.id) == port
        if port.mtu is not None:
            assert detailed.mtu == port.mtu

    # -------------------------------------------------------------- find_marked, optional

    def test_find_marked_finds_exactly_the_ports_of_the_installation(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'find_marked')
        installation = contract.new_id()
        ours = [backend.create(mark=new_mark(installation)) for _ in range(2)]
        ours.append(backend.create(backend.other_server, new_mark(installation)))
        backend.create()
        backend.create(mark=new_mark(f'{installation}x'))
        backend.claim(backend.brought())
        found = list(backend.driver.find_marked(service_context(), installation))
        assert sorted(_ids(found)) == sorted(_ids(ours))
        for port in found:
            assert_port(port)
            assert port.mark is not None
            assert port.mark.startswith(f'osif:{installation}:')

    def test_find_marked_finds_what_has_been_unbound(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'find_marked')
        installation = contract.new_id()
        port = backend.create(mark=new_mark(installation))
        backend.unbind(port.id)
        assert _ids(backend.driver.find_marked(service_context(), installation)) == [port.id]

    def test_find_marked_does_not_find_what_is_deleted(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'find_marked')
        installation = contract.new_id()
        mark = new_mark(installation)
        backend.delete(backend.create(mark=mark).id, mark)
        assert list(backend.driver.find_marked(service_context(), installation)) == []

    def test_find_marked_takes_nothing_for_a_pattern(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'find_marked')
        backend.create()
        for pattern in ('', '%', '*', '.*', '_' * 36, contract.new_id()):
            assert list(backend.driver.find_marked(service_context(), pattern)) == []

    def test_find_marked_without_an_answer(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'find_marked')
        with contract.unanswered(backend.unreachable):
            list(backend.driver.find_marked(service_context(), contract.new_id()))

    # -------------------------------------------------------------- created_by_server, optional

    def test_created_by_server_is_never_true_of_a_port_that_was_brought(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'created_by_server')
        port = backend.claim(backend.brought())
        for _ in range(2):
            answer = backend.driver.created_by_server(backend.ctxt, backend.server, port)
            assert answer is False or answer is None
        assert backend.look(port.id) == port

    def test_created_by_server_of_a_port_that_was_made_for_it(self, backend: NetworkBackend) -> None:
        contract.need_override(backend.driver, base.NetworkDriver, 'created_by_server')
        make_port = contract.need(backend.make_port_of_server, 'make_port_of_server')
        port = backend.driver.get_port(backend.ctxt, make_port(backend.server))
        assert backend.driver.created_by_server(backend.ctxt, backend.server, port) is True


def assert_port(port: object) -> None:
    """That a value is a port, each field of its type and in its canonical form."""
    assert isinstance(port, base.Port)
    for text in (port.id, port.network_id, port.project_id, port.vnic_type):
        contract.assert_full_str(text)
    assert isinstance(port.mac_address, str)
    assert _MAC.fullmatch(port.mac_address), f'{port.mac_address!r} is not in lower case, with colons'
    assert port.status in _STATUSES
    for text in (port.device_owner, port.name):
        assert isinstance(text, str)
    for optional in (port.device_id, port.host, port.mark, port.tag, port.vif_type):
        contract.assert_optional_str(optional)
    assert isinstance(port.admin_state_up, bool)
    assert port.mtu is None or (isinstance(port.mtu, int) and port.mtu > 0)
    assert isinstance(port.vif_details, Mapping)
    json.dumps(dict(port.vif_details))
    assert isinstance(port.fixed_ips, tuple)
    for fixed_ip in port.fixed_ips:
        assert isinstance(fixed_ip, base.FixedIP)
        contract.assert_full_str(fixed_ip.subnet_id)
        assert str(ipaddress.ip_address(fixed_ip.ip_address)) == fixed_ip.ip_address


def _ids(ports: object) -> list[str]:
    return [port.id for port in ports]  # type: ignore[attr-defined]


def _bind(backend: NetworkBackend, port: base.Port, host: str | None) -> base.Port:
    return backend.driver.bind(backend.ctxt, port, host, contract.fence())


def _free_address(backend: NetworkBackend) -> str:
    # The one that a port has had, which is gone now.
    mark = new_mark()
    port = backend.create(mark=mark)
    backend.delete(port.id, mark)
    return port.fixed_ips[0].ip_address


def _settled(answers: list[object], backend: NetworkBackend, mark: str) -> base.Port:
    # Whoever lost the race may have been told that the outcome is unknown: asking again settles it.
    port = backend.create(mark=mark)
    for answer in answers:
        assert isinstance(answer, base.Port), repr(answer)
        assert answer.id == port.id
    return port


def _assert_one_winner(answers: list[object], loss: type[Exception]) -> base.Port:
    winners = [answer for answer in answers if isinstance(answer, base.Port)]
    losers = [answer for answer in answers if not isinstance(answer, base.Port)]
    assert len(winners) == 1, f'{len(winners)} of {len(answers)} won: {answers!r}'
    for loser in losers:
        assert isinstance(loser, loss), repr(loser)
    return winners[0]


def _assert_refused(backend: NetworkBackend, network_id: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        backend.create(network_id=network_id)
    assert backend.ports(backend.server) == []


def _assert_gone(backend: NetworkBackend, port_id: str) -> None:
    assert backend.look(port_id) is None
    with pytest.raises(exceptions.PortNotFound):
        backend.driver.get_port(backend.ctxt, port_id)
