"""The routes of the controller's own, in process: identity, servers, the network API, and its faults."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import webtest

from os_interface_ext import conf as config
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import tables
from os_interface_ext.standalone import app, seed
from tests import migrated
from tests.integration.conftest import INVENTORY, NAMES, RECORDED, TOKENS

PROJECT = '9ccb04b696f5579493303111e43a46d8'
QUOTA_PROJECT = 'f29d4c28d54a5ab9b0b872dcf0fb6c99'
MEMBER, READER, STRANGER, ADMIN = (TOKENS[name] for name in ('a_member', 'a_reader', 'b_member', 'admin'))
SERVER = NAMES['srv_active']
#: Parsed by the first test that asks for it.
FILE = seed.InventoryFile(INVENTORY)


class Controller:
    """The controller at the starting state of the recorded cases."""

    def __init__(self, database: Database, application: app.WSGIApplication) -> None:
        self.database = database
        self.web = webtest.TestApp(application)

    def call(self, method: str, path: str, token: str | None = None, body: Any = None, **headers: str) -> Any:
        if token is not None:
            headers['X-Auth-Token'] = token
        return self.web.request(
            path,
            method=method,
            headers=headers,
            body=b'' if body is None else json.dumps(body).encode(),
            content_type='application/json',
            expect_errors=True,
        )

    def get(self, path: str, token: str = MEMBER, **headers: str) -> Any:
        return self.call('GET', path, token, **headers).json

    def names(self, path: str, token: str = MEMBER) -> list[str]:
        (items,) = (value for key, value in self.get(path, token).items() if not key.endswith('_links'))
        return [item['name'] for item in items]


@pytest.fixture
def controller(tmp_path: pathlib.Path) -> Iterator[Controller]:
    conf = config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'})
    database = migrated.database_of(conf)
    seed.prepare(database, FILE, replace=False)
    yield Controller(database, app.create(conf, FILE))
    database.dispose()


# ------------------------------------------------------------------ identity


def password(user: Any, secret: Any, **auth: Any) -> dict[str, Any]:
    methods = {'methods': ['password'], 'password': {'user': user | {'password': secret}}}
    return {'auth': {'identity': methods, **auth}}


USER = {'id': '7eee4b8f73815e2f8af41cf40881d095'}


@pytest.mark.parametrize(
    'body',
    [
        password(USER, MEMBER),
        password({'name': USER['id'], 'domain': {'id': 'default'}}, MEMBER),
        password(USER, MEMBER, scope={'project': {'id': PROJECT}}),
        password(USER, MEMBER, scope={'project': {'name': PROJECT, 'domain': {'name': 'Default'}}}),
        {'auth': {'identity': {'methods': ['token'], 'token': {'id': MEMBER}}}},
    ],
)
def test_a_token_for_a_password_or_a_token(controller: Controller, body: Any) -> None:
    answer = controller.call('POST', '/v3/auth/tokens', body=body)
    assert answer.status_int == 201
    assert answer.headers['X-Subject-Token'] == MEMBER
    token = answer.json['token']
    assert token['user']['id'] == USER['id']
    assert token['project']['id'] == PROJECT
    assert [role['name'] for role in token['roles']] == ['member', 'reader']
    assert token['is_domain'] is False
    assert token['issued_at'] < token['expires_at']
    assert {service['type'] for service in token['catalog']} == {'identity', 'compute', 'network'}
    for service in token['catalog']:
        assert [endpoint['interface'] for endpoint in service['endpoints']] == ['public', 'internal', 'admin']


@pytest.mark.parametrize(
    ('body', 'status'),
    [
        (password(USER, 'wrong'), 401),
        (password(USER, READER), 401),
        (password(USER, None), 401),
        (password({'name': 'nobody'}, MEMBER), 401),
        (password(USER, MEMBER, scope={'project': {'id': QUOTA_PROJECT}}), 401),
        (password(USER, MEMBER, scope={'domain': {'id': 'default'}}), 401),
        ({'auth': {'identity': {'methods': ['totp']}}}, 401),
        ({'auth': {'identity': {'methods': ['token'], 'token': {'id': ['x']}}}}, 401),
        ({'auth': {'identity': {'methods': 'password'}}}, 400),
        ({'auth': []}, 400),
        ([], 400),
        (None, 400),
    ],
)
def test_no_token_for_anything_else(controller: Controller, body: Any, status: int) -> None:
    answer = controller.call('POST', '/v3/auth/tokens', body=body)
    assert answer.status_int == status
    assert answer.json['error']['code'] == status
    assert 'X-Subject-Token' not in answer.headers


# ------------------------------------------------------------------ servers


def test_servers_of_the_project_and_of_all(controller: Controller) -> None:
    own = controller.get('/v2.1/servers/detail')['servers']
    assert {server['tenant_id'] for server in own} == {PROJECT}
    everybodys = controller.get('/v2.1/servers/detail?all_tenants=1', ADMIN)['servers']
    assert {server['id'] for server in own} < {server['id'] for server in everybodys}
    assert controller.get('/v2.1/servers', ADMIN)['servers'] == []
    of_project = controller.get(f'/v2.1/servers?all_tenants=True&project_id={PROJECT}', ADMIN)['servers']
    assert len(of_project) == len(own)
    assert controller.call('GET', '/v2.1/servers?all_tenants=1', MEMBER).status_int == 403


def test_one_server(controller: Controller) -> None:
    path = f'/v2.1/servers/{SERVER}'
    server = controller.get(path)['server']
    assert (server['name'], server['status'], server['OS-EXT-STS:vm_state']) == ('srv-active', 'ACTIVE', 'active')
    assert 'OS-EXT-SRV-ATTR:host' not in server
    assert 'OS-EXT-SRV-ATTR:host' in controller.get(path, ADMIN)['server']
    for token, status in ((STRANGER, 404), (ADMIN, 200), (READER, 200)):
        assert controller.call('GET', path, token).status_int == status
    for odd in ('nothing', '%00', '%ED%A0%80', 'x' * 5000, 'detail/'):
        answer = controller.call('GET', f'/v2.1/servers/{odd}', MEMBER)
        assert (answer.status_int, list(answer.json)) == (404, ['itemNotFound'])


def test_servers_by_name_page_and_state(controller: Controller) -> None:
    names = controller.names('/v2.1/servers')
    assert controller.names('/v2.1/servers?name=^srv-active$') == ['srv-active']
    assert controller.names('/v2.1/servers/detail?name=no-such-server') == []
    assert controller.call('GET', '/v2.1/servers?name=(', MEMBER).status_int == 400
    assert 0 < len(controller.names('/v2.1/servers?status=shutoff')) < len(names)

    found, path = [], '/v2.1/servers?limit=2'
    while path:
        page = controller.get(path)
        assert len(page['servers']) <= 2
        found += [server['name'] for server in page['servers']]
        path = page.get('servers_links', [{'href': ''}])[0]['href'].removeprefix('http://localhost')
    assert found == names
    for bad in ('limit=-1', 'limit=x', 'limit=²', 'marker=nothing'):
        assert controller.call('GET', f'/v2.1/servers?{bad}', MEMBER).status_int == 400


def test_the_microversion_of_servers(controller: Controller) -> None:
    path = f'/v2.1/servers/{SERVER}'
    old = controller.call('GET', path, MEMBER)
    assert old.headers['OpenStack-API-Version'] == 'compute 2.1'
    assert 'id' in old.json['server']['flavor']
    new = controller.call('GET', path, MEMBER, **{'OpenStack-API-Version': 'compute 2.96'})
    assert new.headers['X-OpenStack-Nova-API-Version'] == '2.96'
    assert 'original_name' in new.json['server']['flavor']
    assert controller.call('GET', path, MEMBER, **{'OpenStack-API-Version': 'compute 2.999'}).status_int == 406
    assert controller.call('GET', path, MEMBER, **{'OpenStack-API-Version': 'compute x'}).status_int == 400


def test_addresses_are_in_step_with_the_attachments(controller: Controller) -> None:
    path = f'/v2.1/servers/{SERVER}'
    before = controller.get(path)['server']['addresses']
    body = {'interfaceAttachment': {'net_id': NAMES['net2']}}
    attached = controller.call('POST', f'{path}/os-interface', MEMBER, body).json['interfaceAttachment']
    after = controller.get(path)['server']['addresses']
    assert after['net1'] == before['net1']
    assert [
        (address['addr'], address['OS-EXT-IPS-MAC:mac_addr'], address['OS-EXT-IPS:type'])
        for address in after['net2']
    ] == [(ip['ip_address'], attached['mac_addr'], 'fixed') for ip in attached['fixed_ips']]
    assert [address['version'] for address in after['net2']] == [4, 6]
    controller.call('DELETE', f'{path}/os-interface/{attached["port_id"]}', MEMBER)
    assert controller.get(path)['server']['addresses'] == before


# ------------------------------------------------------------------ the network API


@pytest.mark.parametrize('prefix', ['/v2.0', '/network/v2.0'])
def test_what_a_member_sees_of_the_network(controller: Controller, prefix: str) -> None:
    networks = controller.names(f'{prefix}/networks')
    assert {'net1', 'net2', 'net_shared', 'net_ext'} <= set(networks)
    assert 'net_b' not in networks
    assert 'net_b' in controller.names(f'{prefix}/networks', ADMIN)
    assert 'subnet_b' not in controller.names(f'{prefix}/subnets')
    ports = controller.get(f'{prefix}/ports')['ports']
    assert {port['project_id'] for port in ports} == {PROJECT}
    assert 'binding:host_id' not in ports[0]


def test_a_resource_by_its_id(controller: Controller) -> None:
    network = controller.get(f'/v2.0/networks/{NAMES["net2"]}')['network']
    assert network['name'] == 'net2'
    assert len(network['subnets']) == 2
    assert (network['router:external'], network['shared'], network['status']) == (False, False, 'ACTIVE')
    subnet = controller.get(f'/v2.0/subnets/{network["subnets"][1]}')['subnet']
    assert (subnet['ip_version'], subnet['network_id']) == (6, NAMES['net2'])
    assert subnet['allocation_pools'] == [{'start': 'fd00:2::10', 'end': 'fd00:2::ffff'}]
    port = controller.get(f'/v2.0/ports/{NAMES["p_active"]}')['port']
    assert (port['device_id'], port['mac_address']) == (SERVER, NAMES['mac_p_active'])
    for path, kind in (
        (f'networks/{NAMES["net_b"]}', 'NetworkNotFound'),
        ('subnets/nothing', 'SubnetNotFound'),
        ('ports/%00', 'PortNotFound'),
    ):
        answer = controller.call('GET', f'/v2.0/{path}', MEMBER)
        assert (answer.status_int, answer.json['NeutronError']['type']) == (404, kind)


def test_filters_of_the_network_api(controller: Controller) -> None:
    get = controller.get
    assert [port['id'] for port in get(f'/v2.0/ports?id={NAMES["p_free"]}')['ports']] == [NAMES['p_free']]
    assert {port['device_id'] for port in get(f'/v2.0/ports?device_id={SERVER}')['ports']} == {SERVER}
    both = get(f'/v2.0/ports?id={NAMES["p_free"]}&id={NAMES["p_free2"]}')['ports']
    assert {port['id'] for port in both} == {NAMES['p_free'], NAMES['p_free2']}
    address = get('/v2.0/ports?fixed_ips=ip_address%3D10.1.0.50')['ports']
    assert [port['id'] for port in address] == [NAMES['p_free']]
    assert controller.names('/v2.0/networks?router:external=True') == ['net_ext']
    assert controller.names('/v2.0/networks?name=net1&shared=false') == ['net1']
    assert controller.names(f'/v2.0/networks?tenant_id={PROJECT}&name=net_shared') == []
    assert controller.names('/v2.0/subnets?ip_version=6') == ['subnet2v6']
    assert controller.names('/v2.0/subnets?name=%00') == []
    for unknown in ('database=x', 'self=x', 'tags=x'):
        assert controller.names(f'/v2.0/networks?{unknown}') == []
    page = get('/v2.0/ports?limit=3&fields=id')
    assert len(page['ports']) == 3
    assert 'marker=' in page['ports_links'][0]['href']


def new_port(**values: Any) -> dict[str, Any]:
    return {'port': {'network_id': NAMES['net1'], **values}}


def test_a_port_is_made_attached_and_deleted(controller: Controller) -> None:
    made = controller.call(
        'POST', '/v2.0/ports', MEMBER, new_port(name='mine', fixed_ips=[{'ip_address': '10.1.0.77'}])
    )
    assert made.status_int == 201
    port = made.json['port']
    assert (port['name'], port['project_id'], port['device_id'], port['status']) == ('mine', PROJECT, '', 'DOWN')
    assert [ip['ip_address'] for ip in port['fixed_ips']] == ['10.1.0.77']
    assert controller.get(f'/v2.0/ports/{port["id"]}')['port'] == port

    collection = f'/v2.1/servers/{SERVER}/os-interface'
    body = {'interfaceAttachment': {'port_id': port['id']}}
    assert controller.call('POST', collection, MEMBER, body).status_int == 200
    assert controller.call('DELETE', f'{collection}/{port["id"]}', MEMBER).status_int == 202
    assert controller.call('DELETE', f'/v2.0/ports/{port["id"]}', STRANGER).status_int == 404
    assert controller.call('DELETE', f'/v2.0/ports/{port["id"]}', MEMBER).status_int == 204
    assert controller.call('DELETE', f'/v2.0/ports/{port["id"]}', MEMBER).status_int == 404
    with controller.database.read() as connection:
        left = sa.select(tables.addresses).where(tables.addresses.c.port_id == port['id'])
        assert connection.execute(left).all() == []


@pytest.mark.parametrize(
    ('token', 'body', 'status', 'kind'),
    [
        (MEMBER, new_port(network_id=NAMES['net_b']), 404, 'NetworkNotFound'),
        (MEMBER, new_port(network_id='nothing'), 404, 'NetworkNotFound'),
        (MEMBER, new_port(network_id=NAMES['net_full']), 409, 'IpAddressGenerationFailure'),
        (MEMBER, new_port(fixed_ips=[{'ip_address': '10.1.0.50'}]), 409, 'IpAddressAlreadyAllocated'),
        (MEMBER, new_port(fixed_ips=[{'ip_address': '192.0.2.1'}]), 400, 'InvalidIpForNetwork'),
        (MEMBER, new_port(fixed_ips=[{'ip_address': '10.1.0.78', 'subnet_id': 'x'}]), 400, 'InvalidIpForNetwork'),
        (MEMBER, new_port(fixed_ips=[{'ip_address': 'x'}]), 400, 'HTTPBadRequest'),
        (MEMBER, new_port(project_id=QUOTA_PROJECT), 403, 'PolicyNotAuthorized'),
        (ADMIN, new_port(project_id=QUOTA_PROJECT), 409, 'OverQuota'),
        (MEMBER, new_port(device_id=SERVER), 400, 'HTTPBadRequest'),
        (MEMBER, new_port(name='\0'), 400, 'HTTPBadRequest'),
        (MEMBER, {'port': {}}, 400, 'HTTPBadRequest'),
        (MEMBER, {'port': None}, 400, 'HTTPBadRequest'),
        (MEMBER, [], 400, 'HTTPBadRequest'),
        (MEMBER, None, 400, 'HTTPBadRequest'),
    ],
)
def test_a_port_that_cannot_be_made(controller: Controller, token: str, body: Any, status: int, kind: str) -> None:
    before = controller.get('/v2.0/ports', ADMIN)
    answer = controller.call('POST', '/v2.0/ports', token, body)
    assert (answer.status_int, answer.json['NeutronError']['type']) == (status, kind)
    assert controller.get('/v2.0/ports', ADMIN) == before


def test_a_port_without_addresses(controller: Controller) -> None:
    assert controller.call('POST', '/v2.0/ports', MEMBER, new_port(fixed_ips=[])).json['port']['fixed_ips'] == []


# ------------------------------------------------------------------ the frame


@pytest.mark.parametrize(
    'path', ['/v2.1/nothing', '/v2.1/servers', f'/v2.1/servers/{SERVER}', '/v2.0/ports', '/x']
)
def test_everything_else_wants_a_token(controller: Controller, path: str) -> None:
    for token in (None, 'wrong', '', '\xff'):
        answer = controller.call('GET', path, token)
        assert (answer.status_int, list(answer.json)) == (401, ['unauthorized'])
    assert controller.call('GET', path, MEMBER).status_int in (200, 404)


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/v2.1/nothing', 404),
        ('GET', '/v2.1//servers', 404),
        ('GET', '/v2.1/servers/', 404),
        ('POST', '/v2.1/servers', 405),
        ('PUT', '/v2.0/ports', 405),
        ('GET', '/standalone/reset', 405),
        ('POST', '/nothing', 404),
    ],
)
def test_every_fault_has_its_shape(controller: Controller, method: str, path: str, status: int) -> None:
    answer = controller.call(method, path, MEMBER)
    assert answer.status_int == status
    ((_, fault),) = answer.json.items()
    assert fault['code'] == status
    assert answer.headers['x-openstack-request-id'] == answer.headers['x-compute-request-id']
    assert ('Allow' in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    'path', ['/v2.1/servers', '/v3/auth/tokens', '/v2.0/ports', '/', '/standalone/reset', '/x']
)
def test_a_body_that_is_too_large(controller: Controller, path: str) -> None:
    answer = controller.call('POST', path, MEMBER, 'x' * 114688)
    assert (answer.status_int, answer.json['overLimit']['code']) == (413, 413)


def test_a_body_without_a_length_that_is_too_large(controller: Controller) -> None:
    def post(path: str, body: bytes) -> int:
        environ = {
            'wsgi.input': io.BytesIO(body),
            'wsgi.input_terminated': True,
            'HTTP_TRANSFER_ENCODING': 'chunked',
        }
        headers = {'X-Auth-Token': MEMBER, 'Content-Type': 'application/json'}
        request = webtest.TestRequest.blank(path, environ, method='POST', headers=headers)
        return int(controller.web.do_request(request, expect_errors=True).status_int)

    attach = json.dumps({'interfaceAttachment': {'port_id': NAMES['p_free']}}).encode()
    for path in (f'/v2.1/servers/{SERVER}/os-interface', '/v2.0/ports', '/v2.1/nothing'):
        assert post(path, attach + b' ' * 114688) == 413
    assert post(f'/v2.1/servers/{SERVER}/os-interface', attach) == 200


def test_deep_nesting_is_no_error_of_ours(controller: Controller) -> None:
    for path in ('/v3/auth/tokens', '/v2.0/ports'):
        answer = controller.web.post(path, '[' * 50_000, {'X-Auth-Token': MEMBER}, expect_errors=True)
        assert answer.status_int == 400


def test_a_request_has_one_id(controller: Controller) -> None:
    first, second = (controller.call('GET', '/').headers['x-openstack-request-id'] for _ in range(2))
    assert first.startswith('req-')
    assert first != second
    answer = controller.call('GET', f'/v2.1/servers/{SERVER}/os-interface', MEMBER)
    assert len(answer.headers.getall('x-openstack-request-id')) == 1


def test_reset_is_complete_or_nothing(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {'interfaceAttachment': {'port_id': NAMES['p_free']}}
    assert controller.call('POST', f'/v2.1/servers/{SERVER}/os-interface', MEMBER, body).status_int == 200
    item = f'/v2.1/servers/{SERVER}/os-interface/{NAMES["p_free"]}'

    def fail(*_: Any) -> None:
        raise RuntimeError('in the middle')

    with monkeypatch.context() as patch:
        patch.setattr(seed.loader, 'load', fail)
        answer = controller.call('POST', '/standalone/reset')
        assert (answer.status_int, list(answer.json)) == (500, ['computeFault'])
        assert 'middle' not in answer.text
    assert controller.call('GET', item, MEMBER).status_int == 200
    assert controller.call('POST', '/standalone/reset').status_int == 204
    assert controller.call('GET', item, MEMBER).status_int == 404
    with contextlib.closing(io.BytesIO(b'anything')) as stream:
        assert controller.web.post('/standalone/reset', stream.read()).status_int == 204


def test_the_recorded_files_are_there() -> None:
    assert {path.name for path in RECORDED.iterdir()} >= {
        'cases.jsonl',
        'inventory.yaml',
        'names.json',
        'replay.py',
    }
