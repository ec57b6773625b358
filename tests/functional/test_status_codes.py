"""One test for each status code that an operation of the API has."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from os_interface_ext import exceptions
from os_interface_ext.api import faults
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver

from .conftest import NAMES, Build, World

BOOM = RuntimeError('secret: postgresql://user:password@db/osif')


class FailingServers(SQLServerDriver):
    error: Exception = BOOM

    def get(self, *args: Any) -> base.Server:
        raise self.error


class UnavailableServers(FailingServers):
    error = exceptions.Unavailable(operator='cannot connect to 192.0.2.1')


class UnsupportedNetworks(SQLNetworkDriver):
    def list_ports(self, *args: Any) -> list[base.Port]:
        raise exceptions.NotSupported()

    def get_port(self, *args: Any) -> base.Port:
        raise exceptions.NotSupported()

    def create(self, *args: Any) -> base.Port:
        raise exceptions.NotSupported()


class NoUnplug(NoopVIFDriver):
    def capabilities(self, *args: Any) -> frozenset[str]:
        return super().capabilities(*args) - {base.LIVE_UNPLUG}


def check(answer: Any, status: int) -> None:
    """The status, and a fault in Nova's shape that carries nothing internal."""
    assert answer.status_int == status, answer.body
    assert answer.content_type == 'application/json'
    assert answer.json == {
        faults.TYPES[status]: {'code': status, 'message': answer.json[faults.TYPES[status]]['message']}
    }
    message = answer.json[faults.TYPES[status]]['message']
    assert message
    for internal in ('secret', '192.0.2.1', 'Traceback', 'sqlite', 'RuntimeError'):
        assert internal not in message
    assert answer.headers['x-openstack-request-id'] == answer.headers['x-compute-request-id']
    assert answer.headers['x-openstack-request-id'].startswith('req-')


OPERATIONS = {
    'list': ('GET', ('srv_active',), None),
    'show': ('GET', ('srv_active', 'p_active'), None),
    'create': ('POST', ('srv_active',), {'interfaceAttachment': {'port_id': NAMES['p_free']}}),
    'delete': ('DELETE', ('srv_active', 'p_active'), None),
}
SUCCESS = {'list': 200, 'show': 200, 'create': 200, 'delete': 202}


@pytest.fixture(params=list(OPERATIONS))
def operation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(world: World, operation: str, server: str | None = None, **kwargs: Any) -> Any:
    method, path, body = OPERATIONS[operation]
    return world.call(method, world.url(*((server, *path[1:]) if server else path)), body, **kwargs)


def test_success(world: World, operation: str) -> None:
    answer = run(world, operation)
    assert answer.status_int == SUCCESS[operation]
    assert answer.content_type == 'application/json'
    assert (answer.body == b'') == (operation == 'delete')


def test_400_malformed_version(world: World, operation: str) -> None:
    answer = run(world, operation, version='2.x')
    check(answer, 400)
    assert 'OpenStack-API-Version' not in answer.headers


def test_400_other_project_in_the_url(world: World, operation: str) -> None:
    method, path, body = OPERATIONS[operation]
    url = world.url(*path).replace('/v2.1/', f'/v2.1/{NAMES["project_b"]}/')
    check(world.call(method, url, body), 400)
    check(world.call(method, url, body, who='admin'), 400)


def test_the_own_project_in_the_url(world: World, operation: str) -> None:
    method, path, body = OPERATIONS[operation]
    url = world.url(*path).replace('/v2.1/', f'/v2.1/{NAMES["project_a"]}/')
    assert world.call(method, url, body).status_int == SUCCESS[operation]


def test_401(world: World, operation: str) -> None:
    answer = run(world, operation, who=None)
    check(answer, 401)
    assert answer.headers['WWW-Authenticate']
    check(run(world, operation, who=None, headers={'X-Auth-Token': 'nonsense'}), 401)


def test_403(world: World, operation: str) -> None:
    check(run(world, operation, who='a_other'), 403)


def test_404_server_of_another_project(world: World, operation: str) -> None:
    hidden = run(world, operation, who='b_member')
    missing = run(world, operation, server='missing_server', who='b_member')
    check(hidden, 404)
    check(missing, 404)
    text = hidden.json['itemNotFound']['message']
    assert text.replace(NAMES['srv_active'], NAMES['missing_server']) == missing.json['itemNotFound']['message']


@pytest.mark.parametrize('operation', ['show', 'delete'])
def test_404_port_that_is_not_attached(world: World, operation: str) -> None:
    method = OPERATIONS[operation][0]
    for port in ('missing_port', 'p_free', 'p_b', 'p_multi_a'):
        check(world.call(method, world.url('srv_active', port)), 404)


@pytest.mark.parametrize('wanted', [{'port_id': 'missing_port'}, {'net_id': 'missing_net'}, {'net_id': 'net_b'}])
def test_404_unknown_port_or_network(world: World, wanted: dict[str, str]) -> None:
    check(world.attach(**wanted), 404)


@pytest.mark.parametrize(
    ('path', 'method', 'allow'),
    [
        (('srv_active',), 'PUT', 'GET, HEAD, OPTIONS, POST'),
        (('srv_active',), 'PATCH', 'GET, HEAD, OPTIONS, POST'),
        (('srv_active',), 'DELETE', 'GET, HEAD, OPTIONS, POST'),
        (('srv_active', 'p_active'), 'PUT', 'DELETE, GET, HEAD, OPTIONS'),
        (('srv_active', 'p_active'), 'POST', 'DELETE, GET, HEAD, OPTIONS'),
    ],
)
def test_405(world: World, path: tuple[str, ...], method: str, allow: str) -> None:
    answer = world.call(method, world.url(*path), {})
    check(answer, 405)
    assert answer.headers['Allow'] == allow
    assert world.call(method, world.url(*path), {}, who=None).status_int == 401


def test_406(world: World, operation: str) -> None:
    answer = run(world, operation, version='2.105')
    check(answer, 406)
    assert answer.headers['OpenStack-API-Version'] == 'compute 2.105'
    assert answer.headers['X-OpenStack-Nova-API-Version'] == '2.105'


@pytest.mark.parametrize('operation', ['create', 'delete'])
@pytest.mark.parametrize('server', ['srv_locked', 'srv_suspended', 'srv_task'])
def test_409_state_of_the_server(world: World, operation: str, server: str) -> None:
    check(run(world, operation, server=server), 409)


def test_409_port_in_use(world: World) -> None:
    check(world.attach(port_id='p_multi_a'), 409)


def test_409_address_in_use(world: World) -> None:
    check(world.attach(net_id='net1', fixed_ips=[{'ip_address': '10.1.0.12'}]), 409)


@pytest.mark.parametrize(
    'wanted',
    [
        {'port_id': 'p_free_b'},
        {'net_id': 'net_full'},
        {'net_id': 'net_nosubnet'},
        {'net_id': 'net1', 'fixed_ips': [{'ip_address': '10.1.0.255'}]},
        {'net_id': 'net2', 'fixed_ips': [{'ip_address': '10.2.0.1'}]},
        {'net_id': 'net1', 'fixed_ips': [{'ip_address': '198.51.100.1'}]},
        {'port_id': 'p_accel'},
        {'port_id': 'p_direct'},
        {},
    ],
    ids=str,
)
def test_400_what_cannot_be_attached(world: World, wanted: dict[str, Any]) -> None:
    check(world.attach(**wanted), 400)
    assert world.ports() == [NAMES['p_active']]


def test_403_external_network_and_quota(world: World) -> None:
    check(world.attach(net_id='net_ext'), 403)
    assert world.attach(net_id='net_ext', who='admin').status_int == 200
    check(world.attach('srv_q', who='q_member', net_id='net_q'), 403)


def test_413(world: World) -> None:
    body = b'{"interfaceAttachment": {"port_id": "' + b'x' * 114688 + b'"}}'
    check(world.call('POST', world.url('srv_active'), body), 413)
    fits = b'{}' + b' ' * (114688 - 2)
    assert world.call('POST', world.url('srv_c'), fits, who='c_member').status_int == 200


def test_415(world: World) -> None:
    headers = {'Content-Type': 'application/xml'}
    check(run(world, 'create', headers=headers), 415)


def test_500_carries_the_request_id_and_nothing_internal(
    build: Build, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = build(server_driver=FailingServers)
    with caplog.at_level(logging.ERROR):
        answer = run(world, operation)
    check(answer, 500)
    logged = [record for record in caplog.records if record.name.startswith('os_interface_ext')]
    assert len(logged) == 1
    assert logged[0].exc_info[1] is BOOM
    assert answer.headers['x-openstack-request-id'] in logged[0].getMessage()


@pytest.mark.parametrize('operation', ['list', 'create', 'delete'])
def test_501(build: Build, operation: str) -> None:
    if operation == 'delete':
        world = build(vif_driver=NoUnplug)
    else:
        world = build(network_driver=UnsupportedNetworks)
    check(run(world, operation), 501)


def test_503(build: Build, operation: str) -> None:
    answer = run(build(server_driver=UnavailableServers), operation)
    check(answer, 503)
    assert int(answer.headers['Retry-After']) > 0


def test_503_when_the_database_is_away(world: World, operation: str) -> None:
    with world.database.write() as connection:
        connection.exec_driver_sql('ALTER TABLE osif_attachments RENAME TO elsewhere')
    check(run(world, operation), 503)


def test_a_view_without_permission_asked_for_is_a_logged_500(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    import flask

    world = build()
    host = flask.Flask('tripwire')
    careless = world.extension.parts.api.operation(lambda call: (200, {'secret': 'data'}), 'GET')
    host.add_url_rule('/careless', 'careless', lambda: careless(flask.request))
    from os_interface_ext.middleware.static_tokens import StaticTokens

    world.app.app = StaticTokens(host, world.database)
    answer = world.call('GET', '/careless')
    check(answer, 500)
    assert 'without having asked for permission' in caplog.text
