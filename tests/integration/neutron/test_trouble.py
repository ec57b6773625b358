"""Neutron slow, cut off, refusing or talking nonsense: a clear fault, an undo, and a record that is carried on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import webtest

from os_interface_ext.attachments.states import State
from os_interface_ext.drivers import base
from tests.integration.conftest import wait_until
from tests.services import http_proxy
from tests.services.http_proxy import Passing

from .conftest import Host, Project, World

pytestmark = pytest.mark.service

#: Seconds that the host waits that is meant to give up; another one prepares, and looks afterwards.
IMPATIENCE = 0.5
NEUTRON_ERROR = b'{"NeutronError": {"type": "Sick", "message": "SELECT secret FROM somewhere", "detail": ""}}'
LATE = 'the answer comes too late'
DRIBBLES = 'the answer dribbles'
#: What befalls requests, and the statuses with which the API may answer a request that it befell.
TROUBLES: dict[str, tuple[http_proxy.Trouble, set[int]]] = {
    'the connection is cut before': (http_proxy.refuse, {503}),
    'the answer is lost': (http_proxy.lose, {503}),
    'the answer is cut in the middle': (http_proxy.cut, {503}),
    LATE: (http_proxy.delay(IMPATIENCE + 0.5), {503}),
    DRIBBLES: (http_proxy.dribble(0.02), {503}),
    'an error of the server': (http_proxy.answer(500, NEUTRON_ERROR), {503}),
    'an error of the server that did it': (http_proxy.answer(500, NEUTRON_ERROR, ask=True), {503}),
    'a balancer without servers': (http_proxy.answer(503, b'<html>', {'Retry-After': '9'}), {503}),
    'a gateway that gave up, but it was done': (http_proxy.answer(504, b'<html>', ask=True), {503}),
    'too many requests': (http_proxy.answer(429, b'', {'Retry-After': '7'}), {503}),
    'a token that is not accepted': (http_proxy.answer(401, b'{}'), {401, 503}),
    'not allowed': (http_proxy.answer(403, NEUTRON_ERROR), {403, 404, 503}),
    'a conflict': (http_proxy.answer(409, NEUTRON_ERROR), {400, 404, 503}),
    'out of date': (http_proxy.answer(412, NEUTRON_ERROR), {400, 404, 503}),
    'HTML': (http_proxy.answer(200, b'<html>Welcome</html>', {'Content-Type': 'text/html'}), {503}),
    'HTML, but it was done': (http_proxy.answer(200, b'<html>Welcome</html>', ask=True), {503}),
    'another shape': (http_proxy.change(lambda body: b'{"hello": [1, 2]}'), {503}),
    'ports without what they need': (http_proxy.change(lambda body: _without_mac(body)), {503}),
    'a redirection': (http_proxy.answer(302, b'', {'Location': 'http://127.0.0.1:9/'}), {503}),
}


def _without_mac(body: bytes) -> bytes:
    told = json.loads(body or b'{}')
    for port in [*told.get('ports', ()), told.get('port')]:
        if port:
            port.pop('mac_address', None)
    return json.dumps(told if 'port' in told or 'ports' in told else {}).encode()


@pytest.fixture(scope='module')
def project(world: World) -> Project:
    return world.project('trouble')


@pytest.fixture(scope='module')
def network(world: World, project: Project) -> str:
    return world.network(project, cidr='10.43.0.0/20')


@pytest.fixture(scope='module')
def host(world: World, tmp_path_factory: pytest.TempPathFactory, project: Project, network: str) -> Host:
    host = Host(world, tmp_path_factory.mktemp('host'), attachments={'wait': 0.2})
    server = host.server(project)
    # Which networks are external is asked once in a while.
    host.detach(server, host.attach(server, port_id=world.port(project, network)))
    return host


@pytest.fixture(scope='module')
def impatient(host: Host) -> Host:
    """The same installation in another process, say, with short time-outs."""
    return host.beside(neutron={'connect_timeout': 0.5, 'read_timeout': IMPATIENCE}, attachments={'wait': 0.2})


class Tenant:
    """A server, its ports, and what has to be true of them when there is peace again."""

    def __init__(self, host: Host, impatient: Host, world: World, project: Project, network: str) -> None:
        self.host = host
        self.impatient = impatient
        self.world = world
        self.network = network
        self.project = project
        self.server = host.server(project)
        self.brought = world.port(project, network)
        self.before = {port['id'] for port in self.ports()}

    def call(self, trouble: str, *arguments: Any, **more: Any) -> webtest.TestResponse:
        """A request that befalls a trouble."""
        host = self.impatient if trouble in (LATE, DRIBBLES) else self.host
        return host.call(*arguments, **more)

    def ports(self) -> list[dict[str, Any]]:
        return self.world.ports(project_id=self.project.id)

    def settle(self) -> None:
        """The reconciler looks until nothing is in motion."""
        wait_until(self._is_at_rest)

    def _is_at_rest(self) -> bool:
        self.host.parts.reconciler.carry_on()
        return all(one.state is State.ATTACHED for one in self.host.parts.store.of_server(self.server.id))

    def check(self) -> None:
        """What the API lists is what Neutron has, nothing is left behind, nothing of the user's is lost."""
        self.settle()
        if not self._is_sound():
            # A request that was given up may have come to its end afterwards: the sweep is for that.
            wait_until(self._is_swept)

    def _is_swept(self) -> bool:
        self.host.parts.reconciler.once()
        return self._is_sound()

    def _is_sound(self) -> bool:
        listed = {one['port_id'] for one in self.host.list(self.server).json['interfaceAttachments']}
        recorded = {record.port_id for record in self.host.parts.store.of_server(self.server.id)}
        ports = {port['id']: port for port in self.ports()}
        assert self.brought in ports
        left = ports[self.brought]
        bound = {port_id for port_id, port in ports.items() if port['device_id'] == self.server.id}
        return (
            listed == recorded == bound
            and set(ports) - self.before <= listed
            and all(ports[port_id]['binding:host_id'] == 'compute1' for port_id in listed)
            and (self.brought in listed or not (left['device_owner'] or left['binding:host_id']))
        )


@pytest.fixture
def tenant(host: Host, impatient: Host, world: World, project: Project, network: str) -> Iterator[Tenant]:
    tenant = Tenant(host, impatient, world, project, network)
    yield tenant
    # Neutron takes the longer for a list the longer it is.
    for port in tenant.ports():
        world.neutron('DELETE', f'/ports/{port["id"]}')
    host.parts.reconciler.once()


def assert_fault(answer: webtest.TestResponse) -> None:
    """A fault of the contract, which tells nothing that is not the caller's business."""
    assert answer.content_type == 'application/json'
    ((_, fault),) = answer.json.items()
    assert fault['code'] == answer.status_int
    assert 'secret' not in fault['message']
    assert '127.0.0.1' not in fault['message']
    assert 'Traceback' not in fault['message']
    assert answer.headers['x-openstack-request-id'].startswith('req-')


def _reads(passing: Passing) -> bool:
    return passing.method == 'GET'


def _writes(passing: Passing) -> bool:
    return passing.method != 'GET'


def _second_write() -> Callable[[Passing], bool]:
    seen: list[Passing] = []

    def is_it(passing: Passing) -> bool:
        if _writes(passing):
            seen.append(passing)
        return len(seen) == 2 and passing is seen[-1]

    return is_it


@pytest.mark.parametrize('name', TROUBLES)
def test_reading(tenant: Tenant, name: str) -> None:
    trouble, statuses = TROUBLES[name]
    port_id = tenant.host.attach(tenant.server, net_id=tenant.network)
    for asked in ('', port_id):
        with tenant.world.proxy.trouble(trouble):
            answer = tenant.call(name, 'GET', tenant.server, asked)
        assert answer.status_int in statuses, answer
        assert_fault(answer)
    tenant.check()


#: Each trouble once at each place, with a brought port and a created one in turn.
_ATTACHES = [
    (name, when, ('port', 'network')[(number + turn) % 2])
    for number, name in enumerate(TROUBLES)
    for turn, when in enumerate(('the first write', 'the second write', 'everything'))
]
_DETACHES = [
    (name, when, ('port', 'network')[(number + turn) % 2])
    for number, name in enumerate(TROUBLES)
    for turn, when in enumerate(('the first write', 'everything'))
]


@pytest.mark.parametrize(('name', 'when', 'wanted'), _ATTACHES)
def test_attach(tenant: Tenant, name: str, when: str, wanted: str) -> None:
    trouble, statuses = TROUBLES[name]
    body = {'port_id': tenant.brought} if wanted == 'port' else {'net_id': tenant.network}
    with _trouble(tenant, trouble, when):
        answer = tenant.call(name, 'POST', tenant.server, body=body)
    if answer.status_int != 200:
        assert_fault(answer)
        assert answer.status_int in statuses, answer
    tenant.check()
    # Whatever was left to the reconciler, the same can be asked for again.
    assert tenant.host.call('POST', tenant.server, body=body).status_int == 200
    tenant.check()


@pytest.mark.parametrize(('name', 'when', 'wanted'), _DETACHES)
def test_detach(tenant: Tenant, name: str, when: str, wanted: str) -> None:
    trouble, statuses = TROUBLES[name]
    body = {'port_id': tenant.brought} if wanted == 'port' else {'net_id': tenant.network}
    port_id = tenant.host.attach(tenant.server, **body)
    with _trouble(tenant, trouble, when):
        answer = tenant.call(name, 'DELETE', tenant.server, port_id)
    if answer.status_int != 202:
        assert_fault(answer)
        assert answer.status_int in statuses, answer
    else:
        tenant.settle()
        assert tenant.host.call('GET', tenant.server, port_id).status_int == 404
    tenant.check()


@contextlib.contextmanager
def _trouble(tenant: Tenant, trouble: http_proxy.Trouble, when: str) -> Iterator[None]:
    proxy = tenant.world.proxy
    with {
        'the first write': lambda: proxy.trouble(trouble, _writes, times=1),
        'the second write': lambda: proxy.trouble(trouble, _second_write()),
        'everything': lambda: proxy.trouble(trouble),
    }[when]():
        yield


# ---------------------------------------------------------------------- single promises


def test_a_read_is_repeated(tenant: Tenant) -> None:
    with tenant.world.proxy.trouble(http_proxy.answer(503, b''), _reads, times=1):
        tenant.host.list(tenant.server)
    with tenant.world.proxy.trouble(http_proxy.refuse, _reads, times=1):
        tenant.host.list(tenant.server)


def test_a_write_is_not_repeated(tenant: Tenant) -> None:
    tenant.world.proxy.clear()
    with tenant.world.proxy.trouble(http_proxy.answer(500, b''), lambda one: one.method == 'POST'):
        assert tenant.host.call('POST', tenant.server, body={'net_id': tenant.network}).status_int == 503
    assert [one.method for one in tenant.world.proxy.passed].count('POST') == 1
    tenant.check()


def test_what_neutron_says_about_when_to_come_again_is_passed_on(tenant: Tenant) -> None:
    with tenant.world.proxy.trouble(http_proxy.answer(429, b'', {'Retry-After': '7'})):
        answer = tenant.host.call('GET', tenant.server)
    assert answer.headers['Retry-After'] == '7'


def test_a_service_token_that_has_expired_is_renewed(tenant: Tenant) -> None:
    tenant.host.list(tenant.server)
    old = tenant.world.proxy.passed[-1].headers['X-Auth-Token']
    # As Neutron says of a token that is over: of the next request alone.
    with tenant.world.proxy.trouble(http_proxy.answer(401, b'{}'), lambda one: one.headers['X-Auth-Token'] == old):
        tenant.host.attach(tenant.server, net_id=tenant.network)
        tenant.host.list(tenant.server)
    assert tenant.world.proxy.passed[-1].headers['X-Auth-Token'] != old
    tenant.check()


def test_a_caller_whose_token_is_over_is_told_so(tenant: Tenant, world: World, project: Project) -> None:
    token = world.token(project)
    with world.proxy.trouble(http_proxy.answer(401, b'{}'), lambda one: one.headers['X-Auth-Token'] == token):
        for body in ({'net_id': tenant.network}, {'port_id': tenant.brought}):
            answer = tenant.host.call('POST', tenant.server, body=body)
            assert answer.status_int == 401, answer
            assert_fault(answer)
    tenant.check()


def test_a_host_on_which_nothing_binds(tenant: Tenant, project: Project) -> None:
    server = tenant.host.server(project, host='unbindable1')
    for body in ({'net_id': tenant.network}, {'port_id': tenant.brought}):
        answer = tenant.host.call('POST', server, body=body)
        assert answer.status_int == 500, answer
        assert_fault(answer)
        assert tenant.world.ports(device_id=server.id) == []
    tenant.check()


def test_an_answer_takes_a_bounded_time(tenant: Tenant) -> None:
    server: base.Server = tenant.server
    with tenant.world.proxy.trouble(http_proxy.dribble(0.02)):
        tenant.impatient.call('GET', server)
    # Three tries at the most, each with its own time, and nothing of it goes on.
    asked = [one for one in tenant.world.proxy.passed if one.path.endswith(server.id)]
    assert len(asked) <= 3


def test_a_claim_that_somebody_wrote_into_and_that_cannot_be_taken_back_stays_on_record(tenant: Tenant) -> None:
    proxy = tenant.world.proxy

    def as_if_somebody_wrote(body: bytes) -> bytes:
        told = json.loads(body)
        told['port']['revision_number'] += 1
        return json.dumps(told).encode()

    proxy.clear()
    claims = proxy.trouble(http_proxy.change(as_if_somebody_wrote), _writes, times=1)
    silence = proxy.trouble(http_proxy.answer(503, b''), lambda one: any(map(_writes, proxy.passed[:-1])))
    with claims, silence:
        answer = tenant.host.call('POST', tenant.server, body={'port_id': tenant.brought})
    assert answer.status_int == 503, answer
    tenant.check()
    assert tenant.host.call('POST', tenant.server, body={'port_id': tenant.brought}).status_int == 200


@pytest.mark.parametrize('status', [403, 404])
@pytest.mark.parametrize('wanted', ['port', 'network'])
def test_what_a_server_has_is_its_users_to_see_and_detach(
    tenant: Tenant, world: World, project: Project, status: int, wanted: str
) -> None:
    body = {'port_id': tenant.brought} if wanted == 'port' else {'net_id': tenant.network}
    port_id = tenant.host.attach(tenant.server, **body)
    token = world.token(project)
    with world.proxy.trouble(
        http_proxy.answer(status, NEUTRON_ERROR), lambda one: one.headers['X-Auth-Token'] == token
    ):
        tenant.host.show(tenant.server, port_id)
        tenant.host.detach(tenant.server, port_id)
        assert tenant.host.call('POST', tenant.server, body={'port_id': tenant.brought}).status_int == 404
    tenant.check()
    assert tenant.host.list(tenant.server).json == {'interfaceAttachments': []}
