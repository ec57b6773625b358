"""Cases of our own beside the recorded ones: what the contract says for the neighbours of each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import webtest
import yaml

from os_interface_ext.api import faults
from os_interface_ext.db import tables as records
from os_interface_ext.drivers import base
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.inventory import tables as inventory

from .conftest import DATA, NAMES, Build, World

JSON = 'application/json'
VENDOR = 'application/vnd.openstack.compute+json'
VERSIONS = [f'2.{minor}' for minor in range(1, 105)]

INVENTORY = yaml.safe_load((DATA / 'inventory.yaml').read_text())
SERVERS = {one['name'].replace('-', '_'): one for one in INVENTORY['servers']}
PORTS = {one['name'] or 'auto_port_0': one for one in INVENTORY['ports']}
NETWORKS = {one['name']: one for one in INVENTORY['networks']}
PROJECT_OF = {'b_member': 'project_b', 'c_member': 'project_c', 'd_member': 'project_d', 'q_member': 'project_q'}
STRANGERS = ['b_member', 'c_member', 'd_member', 'q_member']
READERS = ['a_reader', 'a_member', 'a_manager', 'admin']
WRITERS = ['a_member', 'a_manager', 'admin']


def id_of(name: str) -> str:
    return NAMES[name]


def by_id(entries: dict[str, Any], wanted: str) -> Any:
    return next(one for one in entries.values() if one['id'] == wanted)


def view(port: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the API shows of a port of the inventory from 2.70."""
    return {
        'port_id': port['id'],
        'net_id': port['network_id'],
        'mac_addr': port['mac_address'],
        'port_state': port['status'],
        'fixed_ips': port['fixed_ips'],
        'tag': port['tag'],
        **changes,
    }


def check(answer: webtest.TestResponse, status: int) -> Any:
    """The status, the type and the shape; returns what is inside."""
    assert answer.status_int == status, answer.body[:300]
    assert 'link' not in answer.headers
    assert answer.headers['x-openstack-request-id'] == answer.headers['x-compute-request-id']
    if status == 202:
        assert answer.body == b''
        return None
    ((key, inside),) = answer.json.items()
    if status == 200:
        assert key in ('interfaceAttachment', 'interfaceAttachments')
    else:
        assert answer.content_type == JSON
        assert key == faults.TYPES[status]
        assert set(inside) == {'code', 'message'}
        assert inside['code'] == status
    return inside


def rows(world: World) -> dict[str, list[str]]:
    tables = (inventory.ports, inventory.addresses, records.attachments)
    with world.database.read() as connection:
        return {table.name: sorted(map(repr, connection.execute(sa.select(table)))) for table in tables}


@contextlib.contextmanager
def unchanged(world: World) -> Iterator[None]:
    before = rows(world)
    yield
    assert rows(world) == before


@contextlib.contextmanager
def trying(*values: Any) -> Iterator[None]:
    """Names the values with which it failed; a world for each of so many would take too long."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f'tried: {ascii(values)[:300]}')
        raise


def body_of(answer: webtest.TestResponse) -> Any:
    return answer.json if answer.body else None


# ------------------------------------------------------------------ microversions

# (OpenStack-API-Version, X-OpenStack-Nova-API-Version, the version it is)
VERSION_HEADERS = [
    (None, None, '2.1'),
    ('', None, '2.1'),
    ('', '2.70', '2.70'),
    (' ', '2.70', '2.70'),
    (',', '2.70', '2.70'),
    ('compute 2.70', None, '2.70'),
    ('compute 2.70', '2.1', '2.70'),
    ('compute 2.70', '', '2.70'),
    ('compute 2.70', 'latest', '2.70'),
    ('compute 2.1', 'abc', '2.1'),
    ('compute 2.1', '9.9', '2.1'),
    ('COMPUTE 2.70', None, '2.70'),
    ('cOmPuTe 2.70', None, '2.70'),
    ('  compute   2.70  ', None, '2.70'),
    ('compute\t2.70', None, '2.70'),
    ('compute 2.70,', None, '2.70'),
    (',compute 2.70', None, '2.70'),
    ('compute 2.70 , volume 3.50', None, '2.70'),
    ('volume 3.50,compute 2.70,identity 3', None, '2.70'),
    ('compute 2.1,compute 2.70', None, '2.70'),
    ('compute 2.70,compute 2.1', None, '2.1'),
    ('compute abc,compute 2.70', None, '2.70'),
    ('compute 9.9,compute 2.70', None, '2.70'),
    ('compute 2.70,compute', None, '2.70'),
    ('volume 3.50', None, '2.1'),
    ('volume 3.50', '2.70', '2.70'),
    ('volume 2.70', None, '2.1'),
    ('volume abc', '2.70', '2.70'),
    ('computer 2.70', '2.60', '2.60'),
    ('compute: 2.70', None, '2.1'),
    ('"compute" 2.70', None, '2.1'),
    ('2.70', None, '2.1'),
    ('latest', None, '2.1'),
    ('compute2.70', None, '2.1'),
    ('compute/2.70', '2.60', '2.60'),
    (None, '2.70', '2.70'),
    (None, ' 2.70 ', '2.70'),
    (None, '2.1,2.70', '2.70'),
    (None, 'abc, 2.70', '2.70'),
    ('compute latest', None, '2.104'),
    ('compute 2.1, compute latest', None, '2.104'),
    (None, 'latest', '2.104'),
    (None, ' latest', '2.104'),
    ('volume latest', 'latest', '2.104'),
]
MALFORMED = [
    *('2', '2.', '.1', '.', '2.x', 'x.1', '2.1.1', '02.1', '2.01', '2.00', '2.1a', 'a2.1', 'v2.1', '2,1.x', '2:1'),
    *('-2.1', '+2.1', '2.-1', '2.+1', '2_1', '2. 1', '2 .1', '2.1 2.2', '2.1;', '0.1', '00.1', '0x2.1', '2.1e1'),
    *('LATEST', 'Latest', 'latest.', 'latest 2.1', 'None', 'null', '*', '2.*', '\xb2.1', "'2.1'", '2.70\x0070'),
]
OUT_OF_RANGE = [
    *('1.0', '1.1', '1.99', '1.104', '2.0', '2.105', '2.999', '2.1000', '3.0', '3.1', '10.1', '20.70', '99.99'),
    *('2.' + '9' * 20, '2.' + '9' * 100, '9' * 20 + '.1', '9' * 30 + '.' + '9' * 30),
]


def with_headers(world: World, standard: str | None, legacy: str | None, **kwargs: Any) -> webtest.TestResponse:
    headers = {'OpenStack-API-Version': standard, 'X-OpenStack-Nova-API-Version': legacy}
    sent = {name: value for name, value in headers.items() if value is not None}
    return world.call('GET', world.url('srv_tagged', 'p_tag_a'), version=None, headers=sent, **kwargs)


def test_version_headers(world: World) -> None:
    for standard, legacy, version in VERSION_HEADERS:
        with trying(standard, legacy):
            answer = with_headers(world, standard, legacy)
            shown = check(answer, 200)
            assert answer.headers['OpenStack-API-Version'] == f'compute {version}'
            assert answer.headers['X-OpenStack-Nova-API-Version'] == version
            assert ('tag' in shown) == (int(version[2:]) >= 70)


def test_malformed_versions(world: World) -> None:
    for version in MALFORMED:
        for answer in (
            with_headers(world, f'compute {version}', None),
            with_headers(world, f'compute {version}', '2.70'),
            with_headers(world, None, version),
            with_headers(world, 'volume 3.50', version),
        ):
            with trying(version):
                check(answer, 400)
                for name in ('OpenStack-API-Version', 'X-OpenStack-Nova-API-Version', 'Vary'):
                    assert name not in answer.headers
    check(with_headers(world, None, ''), 400)
    check(with_headers(world, 'compute abc', None, who=None), 401)


def test_versions_out_of_range(world: World) -> None:
    for version in OUT_OF_RANGE:
        for answer in (
            with_headers(world, f'compute {version}', None),
            with_headers(world, f'compute {version}', '2.70'),
            with_headers(world, None, version),
        ):
            with trying(version):
                assert version in check(answer, 406)['message']
                assert answer.headers['OpenStack-API-Version'] == f'compute {version}'
                assert answer.headers['X-OpenStack-Nova-API-Version'] == version
                assert set(answer.headers['Vary'].split(', ')) == {
                    'OpenStack-API-Version',
                    'X-OpenStack-Nova-API-Version',
                }
    check(with_headers(world, 'compute 9.9', None, who=None), 401)


def test_every_version(world: World) -> None:
    """``tag`` in POST exactly from 2.49, in every answer exactly from 2.70; all else is the same."""
    shown = view(PORTS['p_free'], port_state='ACTIVE', tag='nic')
    url, item = world.url('srv_active'), world.url('srv_active', 'p_free')
    wanted = {'interfaceAttachment': {'port_id': id_of('p_free'), 'tag': 'nic'}}
    for version in VERSIONS:
        minor = int(version[2:])
        with trying(version):
            posted = world.call('POST', url, wanted, version=version)
            if minor < 49:
                check(posted, 400)
                posted = world.call('POST', url, wanted, version='2.49')
            expected = shown if minor >= 70 else {key: shown[key] for key in shown if key != 'tag'}
            if minor >= 49:
                assert check(posted, 200) == expected
            assert check(world.call('GET', item, version=version), 200) == expected
            listed = check(world.call('GET', url, version=version), 200)
            assert listed[-1] == expected
            assert all(('tag' in one) == (minor >= 70) for one in listed)
            answer = world.call('DELETE', item, version=version)
            check(answer, 202)
            assert answer.headers['OpenStack-API-Version'] == f'compute {version}'


@pytest.mark.parametrize('maximum', ['2.1', '2.48', '2.60', '2.69', '2.101'])
def test_a_lower_maximum(build: Build, maximum: str) -> None:
    world = build(api={'max_microversion': maximum})
    for version in VERSIONS:
        answer = with_headers(world, f'compute {version}', None)
        with trying(version):
            if int(version[2:]) <= int(maximum[2:]):
                check(answer, 200)
            else:
                assert maximum in check(answer, 406)['message']
    latest = with_headers(world, 'compute latest', None)
    assert latest.headers['OpenStack-API-Version'] == f'compute {maximum}'
    assert ('tag' in check(latest, 200)) == (int(maximum[2:]) >= 70)
    check(world.call('GET', world.url('srv_active') + '?a=b', version='latest'), 200)


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize('who', [*READERS, 'a_other', 'b_member', 'c_member'])
def test_list_and_show_work_in_every_state(world: World, who: str) -> None:
    """All that the network has for the server, by id; a stranger does not learn that it exists."""
    with unchanged(world):
        for name, server in SERVERS.items():
            own = server['project_id'] == id_of(PROJECT_OF.get(who, 'project_a'))
            expected = 404 if not own and who != 'admin' else 403 if who == 'a_other' else 200
            ports = [one for one in PORTS.values() if one['device_id'] == server['id']]
            with trying(name):
                listed = check(world.call('GET', world.url(name), who=who), expected)
                if expected == 200:
                    assert listed == [view(one) for one in sorted(ports, key=lambda one: str(one['id']))]
                for port in ports:
                    shown = check(world.call('GET', world.url(name, port['id']), who=who), expected)
                    if expected == 200:
                        assert shown == view(port)


def test_only_the_own_ports_are_shown(world: World) -> None:
    for server, port in itertools.product(['srv_active', 'srv_multi', 'srv_nonic', 'srv_error'], PORTS):
        here = PORTS[port]['device_id'] == SERVERS[server]['id']
        for who in ('a_member', 'admin'):
            with trying(server, port, who):
                check(world.call('GET', world.url(server, port), who=who), 200 if here else 404)


def test_ids_in_paths_have_one_spelling(world: World) -> None:
    for odd in ('srv_active_UP', 'srv_active_NH', 'net1', 'p_active', 'project_a', 'srv_deleted'):
        with trying(odd):
            check(world.call('GET', world.url(odd)), 404)
            check(world.call('GET', world.url(odd, 'p_active')), 404)
            check(world.call('DELETE', world.url(odd, 'p_active')), 404)
            check(world.call('POST', world.url(odd), {'interfaceAttachment': {'port_id': id_of('p_free')}}), 404)
    for odd in ('p_active_UP', 'p_active_NH', 'srv_active', 'net1', 'subnet1'):
        with trying(odd):
            check(world.call('GET', world.url('srv_active', odd)), 404)
            check(world.call('DELETE', world.url('srv_active', odd)), 404)
    assert world.ports() == [id_of('p_active')]


def test_404_messages_begin_as_clients_look_for_them(world: World) -> None:
    for who in ('a_member', 'admin'):
        for answer, word in (
            (world.call('GET', world.url('missing_server'), who=who), 'Instance'),
            (world.call('GET', world.url('srv_active', 'missing_port'), who=who), 'Instance'),
            (world.call('DELETE', world.url('srv_active', 'missing_port'), who=who), 'Instance'),
            (world.attach(port_id='missing_port', who=who), 'Port'),
            (world.attach(net_id='missing_net', who=who), 'Network'),
        ):
            assert check(answer, 404)['message'].startswith(f'{word} ')


def test_order_of_the_list(world: World) -> None:
    """Ports without a record by id, then the others by order of attachment."""
    before = [id_of(name) for name in ('p_multi_a', 'p_multi_b', 'p_multi_c')]
    assert world.ports('srv_multi') == sorted(before)
    attached = []
    for name in ('p_free_shared', 'p_free2', 'p_free', 'p_free_down', 'p_qos', 'p_dns'):
        check(world.attach('srv_multi', port_id=name), 200)
        attached.append(id_of(name))
    made = check(world.attach('srv_multi', net_id='net1'), 200)['port_id']
    assert world.ports('srv_multi') == [*sorted(before), *attached, made]
    # Out of the middle, and in again: now it is the last.
    check(world.call('DELETE', world.url('srv_multi', 'p_free2')), 202)
    check(world.attach('srv_multi', port_id='p_free2'), 200)
    attached.remove(id_of('p_free2'))
    assert world.ports('srv_multi') == [*sorted(before), *attached, made, id_of('p_free2')]
    # What was there at first has no place of its own any more either.
    check(world.call('DELETE', world.url('srv_multi', 'p_multi_a')), 202)
    check(world.attach('srv_multi', port_id='p_multi_a'), 200)
    before.remove(id_of('p_multi_a'))
    assert world.ports('srv_multi')[:2] == sorted(before)
    assert world.ports('srv_multi')[-1] == id_of('p_multi_a')
    # The same again changes nothing.
    check(world.attach('srv_multi', port_id='p_free_shared'), 200)
    assert world.ports('srv_multi').index(id_of('p_free_shared')) == 2


def test_pages_end(world: World) -> None:
    """openstacksdk, asked for a limit, asks for what follows the last one until nothing does."""
    ports = world.ports('srv_multi')
    for version in ('2.1', '2.101'):
        for marker, rest in ((ports[0], ports[1:]), (ports[1], ports[2:]), (ports[-1], [])):
            for query in (f'marker={marker}', f'limit=1&marker={marker}', f'marker={marker}&limit=100'):
                listed = check(world.call('GET', world.url('srv_multi') + f'?{query}', version=version), 200)
                assert [one['port_id'] for one in listed] == rest
        for query in (
            'limit=1',
            'limit=0',
            'limit=-1',
            'limit=x',
            'marker=',
            'marker=x',
            'marker=%00',
            'offset=1',
        ):
            with trying(query):
                listed = check(world.call('GET', world.url('srv_multi') + f'?{query}', version=version), 200)
                assert [one['port_id'] for one in listed] == ports
    check(world.call('GET', world.url('srv_multi') + f'?marker={ports[0]}', version='2.102'), 400)


# ------------------------------------------------------------------ the order of the checks


@dataclasses.dataclass
class Sent:
    """A request that would succeed, until the faults are put in."""

    who: str | None = 'a_member'
    version: str = '2.102'
    content_type: str = JSON
    project: str | None = None
    query: str = ''
    server: str = 'srv_active'
    port: str = 'p_active'
    wanted: dict[str, Any] = dataclasses.field(default_factory=lambda: {'port_id': id_of('p_free')})
    cut: bool = False
    state: dict[str, Any] = dataclasses.field(default_factory=dict)

    def send(self, world: World, method: str, item: bool) -> webtest.TestResponse:
        if self.state:
            change = sa.update(inventory.servers).where(inventory.servers.c.id == id_of('srv_active'))
            with world.database.write() as connection:
                connection.execute(change.values(**self.state))
        url = world.url(self.server, self.port if item else None)
        if self.project:
            url = url.replace('/v2.1/', f'/v2.1/{id_of(self.project)}/')
        body = json.dumps({'interfaceAttachment': self.wanted}).encode()[: -1 if self.cut else None]
        return world.call(
            method,
            url + self.query,
            body if method == 'POST' else None,
            who=self.who,
            version=self.version,
            headers={'Content-Type': self.content_type},
        )


Fault = tuple[str, int, str, Callable[[Sent], Any]]


def setting(**values: Any) -> Callable[[Sent], Any]:
    return lambda sent: [setattr(sent, name, value) for name, value in values.items()]


# (name, status, a word of the message, what makes the request wrong), in the order of the contract
FAULTS: list[Fault] = [
    ('no token', 401, 'token', setting(who=None)),
    ('malformed version', 400, 'API Version', setting(version='2.x')),
    ('unsupported version', 406, 'not supported', setting(version='2.105')),
    ('content type', 415, 'Content-Type', setting(content_type='application/xml')),
    ('no JSON', 400, 'not JSON', setting(cut=True)),
    ('project of the URL', 400, 'URL', setting(project='project_c')),
    ('query', 400, 'query', setting(query='?foo=bar')),
    ('schema', 400, 'Invalid input', lambda sent: sent.wanted.update(foo=1)),
    ('no server', 404, 'Instance', setting(server='missing_server')),
    ('stranger', 404, 'Instance', setting(who='b_member')),
    ('policy', 403, 'Policy', setting(who='a_other')),
    ('both ids', 400, 'both', lambda sent: sent.wanted.update(net_id=id_of('net1'))),
    (
        'address without network',
        400,
        'IP address',
        lambda sent: sent.wanted.update(fixed_ips=[{'ip_address': '10.1.0.99'}]),
    ),
    ('locked', 409, 'locked', lambda sent: sent.state.update(locked_by='owner')),
    ('vm_state', 409, 'vm_state', lambda sent: sent.state.update(vm_state='suspended')),
    ('task_state', 409, 'task_state', lambda sent: sent.state.update(task_state='rebooting')),
    (
        'no port',
        404,
        'missing',
        lambda sent: [sent.wanted.update(port_id=id_of('missing_port')), setattr(sent, 'port', 'missing_port')],
    ),
]
OF_A_BODY = {'content type', 'no JSON', 'schema', 'both ids', 'address without network'}
OF_A_CHANGE = {'locked', 'vm_state', 'task_state'}
# They set the same thing, so that only one of them can be wrong.
EXCLUSIVE = [{'no token', 'stranger', 'policy'}, {'malformed version', 'unsupported version'}]

OPERATIONS = {
    'create': ('POST', False, FAULTS),
    'list': ('GET', False, [one for one in FAULTS if one[0] not in OF_A_BODY | OF_A_CHANGE | {'no port'}]),
    'show': ('GET', True, [one for one in FAULTS if one[0] not in OF_A_BODY | OF_A_CHANGE]),
    'delete': ('DELETE', True, [one for one in FAULTS if one[0] not in OF_A_BODY | {'query'}]),
}


@pytest.mark.parametrize('operation', OPERATIONS)
def test_the_order_of_the_checks(world: World, operation: str) -> None:
    """Of any two things that are wrong, the one that stands first is told."""
    method, item, wrong = OPERATIONS[operation]
    for first, second in itertools.combinations(wrong, 2):
        if any({first[0], second[0]} <= one for one in EXCLUSIVE):
            continue
        sent = Sent()
        first[3](sent)
        second[3](sent)
        with trying(first[0], second[0]):
            answer = sent.send(world, method, item)
            message = check(answer, first[1])['message']
            if first[0] != 'no port':
                assert first[2] in message
        with world.database.write() as connection:
            healthy = {'locked_by': None, 'vm_state': 'active', 'task_state': None}
            connection.execute(
                sa.update(inventory.servers).where(inventory.servers.c.id == id_of('srv_active')).values(**healthy)
            )
    assert world.ports() == [id_of('p_active')]
    check(Sent().send(world, method, item), 202 if operation == 'delete' else 200)


def test_the_query_of_a_delete_is_ignored(world: World) -> None:
    for query in ('?foo=bar', '?foo', '?%ff', '?', '?limit=1&limit=2'):
        check(world.call('DELETE', world.url('srv_active', 'missing_port') + query, version='2.104'), 404)
    check(world.call('DELETE', world.url('srv_active', 'p_active') + '?%ff=1', version='2.104'), 202)


@pytest.mark.parametrize('version', ['2.1', '2.70', '2.101', '2.102', '2.104', 'latest'])
def test_the_query_of_the_others(world: World, version: str) -> None:
    """Unknown parameters are refused from 2.102, before anything is attached; no text ever in a GET."""
    closed = version in ('2.102', '2.104', 'latest')
    wanted = {'interfaceAttachment': {'port_id': id_of('missing_port')}}
    for query, is_text, is_empty in (
        ('foo=bar', True, False),
        ('foo', True, False),
        ('=1', True, False),
        ('=', True, False),
        ('a=1&b=2', True, False),
        ('limit=1', True, False),
        ('marker=x&limit=5', True, False),
        ('%C3%A9=1', True, False),
        ('', True, True),
        ('&', True, True),
        ('&&', True, True),
        ('%FF', False, False),
        ('a=%FF', False, False),
        ('a=1&%C3=1', False, False),
    ):
        with trying(query):
            for item in (None, 'p_active'):
                status = 400 if not is_text or (closed and not is_empty) else 200
                check(world.call('GET', f'{world.url("srv_active", item)}?{query}', version=version), status)
            status = 400 if closed and not is_empty else 404
            check(world.call('POST', f'{world.url("srv_active")}?{query}', wanted, version=version), status)


# ------------------------------------------------------------------ the state of the server


def allowed(server: dict[str, Any], who: str) -> bool:
    if server['locked_by'] and who != 'admin':
        return False
    return server['vm_state'] in ('active', 'paused', 'stopped') and server['task_state'] is None


@pytest.mark.parametrize('who', [*WRITERS, 'a_reader', 'a_other', 'b_member'])
def test_attach_and_detach_in_every_state(world: World, who: str) -> None:
    for name, server in SERVERS.items():
        if server['project_id'] != id_of('project_a'):
            continue
        refusal = {'a_reader': 403, 'a_other': 403, 'b_member': 404}.get(who, 409)
        can = who in WRITERS and allowed(server, who)
        own = sorted(one['id'] for one in PORTS.values() if one['device_id'] == server['id'])
        with trying(name):
            check(world.attach(name, port_id='p_free', who=who), 200 if can else refusal)
            assert world.ports(name) == [*own, *([id_of('p_free')] if can else [])]
            gone = 404 if can else refusal
            check(world.call('DELETE', world.url(name, 'missing_port'), who=who), gone)
            check(world.call('DELETE', world.url(name, 'p_free'), who=who), 202 if can else refusal)
            for port in own:
                check(world.call('DELETE', world.url(name, port), who=who), 202 if can else refusal)
                check(world.call('GET', world.url(name, port), who='admin'), 404 if can else 200)
                check(world.call('DELETE', world.url(name, port), who=who), gone)
            assert world.ports(name) == ([] if can else own)


def test_what_a_detach_leaves(world: World) -> None:
    """A port that was made for its server goes with it; a brought one is free again."""
    made = check(world.attach(net_id='net1'), 200)['port_id']
    check(world.attach(port_id='p_free'), 200)
    for port in (made, 'p_free', 'p_active'):
        check(world.call('DELETE', world.url('srv_active', port)), 202)
    check(world.call('DELETE', world.url('srv_autonic', 'auto_port_0')), 202)
    for port in ('p_free', 'p_active'):
        check(world.attach('srv_multi', port_id=port), 200)
    check(world.attach('srv_multi', port_id=made), 404)
    check(world.attach('srv_multi', port_id='auto_port_0'), 404)


def test_states_that_nova_does_not_know_yet(world: World) -> None:
    for vm_state in ('deleted', 'soft-delete', 'shelved', 'rescued', 'ACTIVE', 'whatever'):
        sent = Sent(state={'vm_state': vm_state})
        with trying(vm_state):
            check(sent.send(world, 'POST', False), 409)
            check(sent.send(world, 'DELETE', True), 409)
            check(sent.send(world, 'GET', True), 200)


# ------------------------------------------------------------------ ports

# Why a port of the inventory cannot be attached to srv_active by a member of its project.
NOT_USABLE = {
    'p_accel': 400,
    'p_direct': 400,
    'p_remote': 400,
    'p_vdpa': 400,
    'p_free_nosubnet': 400,
    'p_a_on_net_b': 400,
}


@pytest.mark.parametrize('who', [*WRITERS, 'a_reader', 'a_other', *STRANGERS])
@pytest.mark.parametrize('strict', [False, True])
def test_attach_each_port(build: Build, who: str, strict: bool) -> None:
    world = build(api={'strict_nova': strict})
    for name, port in PORTS.items():
        if who in STRANGERS:
            status = 404
        elif who not in WRITERS:
            status = 403
        elif port['project_id'] != id_of('project_a'):
            status = 400
        elif port['device_id'] == id_of('srv_active'):
            status = 409 if strict else 200
        elif port['device_id']:
            status = 409
        elif name == 'p_a_on_net_b' and who == 'admin':
            status = 200
        else:
            status = NOT_USABLE.get(name, 200)
        with trying(name):
            if status != 200:
                with unchanged(world):
                    check(world.attach(port_id=port['id'], who=who), status)
                continue
            state = 'ACTIVE' if port['admin_state_up'] else 'DOWN'
            shown = view(port, port_state=state)
            assert check(world.attach(port_id=port['id'], who=who), 200) == shown
            assert check(world.call('GET', world.url('srv_active', port['id'])), 200) == shown
            # Once more, and by another way of writing it.
            with unchanged(world):
                again = world.attach(port_id=port['id'].upper(), who=who)
                check(again, 409 if strict else 200)
                check(world.attach('srv_multi', port_id=port['id'], who=who), 409)


@pytest.mark.parametrize('who', ['a_member', 'admin'])
def test_attach_a_port_in_each_spelling(world: World, who: str) -> None:
    port = id_of('p_free')
    for spelling in (
        port,
        port.upper(),
        port.replace('-', ''),
        port.replace('-', '').upper(),
        port.swapcase(),
        f'{port[:10]}-{port[10:]}',
    ):
        with trying(spelling):
            assert check(world.attach(port_id=spelling, who=who), 200)['port_id'] == port
            check(world.call('DELETE', world.url('srv_active', 'p_free')), 202)
    for spelling in ('net1', 'net1_UP', 'net1_NH'):
        with trying(spelling):
            assert check(world.attach(net_id=spelling, who=who), 200)['net_id'] == id_of('net1')
    for wrapped in (f'{{{port}}}', f'urn:uuid:{port}', f'uuid:{port}'):
        assert world.attach(port_id=wrapped, who=who).status_int in (200, 400, 404)


def test_what_a_failed_attach_leaves(world: World) -> None:
    """Nothing."""
    with unchanged(world):
        for wanted in (
            {'port_id': 'missing_port'},
            {'port_id': 'net1'},
            {'port_id': 'srv_active'},
            {'net_id': 'missing_net'},
            {'net_id': 'p_free'},
            {'net_id': 'subnet1'},
            {'net_id': 'net_full'},
            {'net_id': 'net_ext'},
            {'net_id': 'net1', 'port_id': 'p_free'},
            {'net_id': 'net1', 'port_id': 'p_free', 'fixed_ips': [{'ip_address': '10.1.0.99'}]},
            {'port_id': 'p_free', 'fixed_ips': [{'ip_address': '10.1.0.50'}]},
            {'fixed_ips': [{'ip_address': '10.1.0.99'}], 'tag': 'x'},
            {'tag': 'x'},
        ):
            with trying(wanted):
                answer = world.attach(**wanted)
                assert answer.status_int in (400, 403, 404)
                check(answer, answer.status_int)


# ------------------------------------------------------------------ networks

# network -> status by caller, for a server of project a
TO_SRV_ACTIVE = {
    'net1': {'a_member': 200, 'a_manager': 200, 'admin': 200},
    'net2': {'a_member': 200, 'a_manager': 200, 'admin': 200},
    'net_b': {'a_member': 404, 'a_manager': 404, 'admin': 200},
    'net_c': {'a_member': 404, 'a_manager': 404, 'admin': 200},
    'net_ext': {'a_member': 403, 'a_manager': 403, 'admin': 200},
    'net_full': {'a_member': 400, 'a_manager': 400, 'admin': 400},
    'net_nosec': {'a_member': 200, 'a_manager': 200, 'admin': 200},
    'net_nosubnet': {'a_member': 400, 'a_manager': 400, 'admin': 400},
    'net_physnet': {'a_member': 200, 'a_manager': 200, 'admin': 200},
    'net_q': {'a_member': 404, 'a_manager': 404, 'admin': 200},
    'net_qos': {'a_member': 200, 'a_manager': 200, 'admin': 200},
    'net_shared': {'a_member': 200, 'a_manager': 200, 'admin': 200},
}


@pytest.mark.parametrize('who', [*WRITERS, 'a_reader', 'a_other', *STRANGERS])
def test_attach_each_network(world: World, who: str) -> None:
    assert set(TO_SRV_ACTIVE) == set(NETWORKS)
    for name, network in NETWORKS.items():
        status = TO_SRV_ACTIVE[name].get(who, 404 if who in STRANGERS else 403)
        with trying(name):
            if status != 200:
                with unchanged(world):
                    check(world.attach(net_id=name, who=who), status)
                continue
            shown = check(world.attach(net_id=name, who=who, tag='new'), 200)
            assert shown['net_id'] == network['id']
            assert shown['port_state'] == 'ACTIVE'
            assert shown['tag'] == 'new'
            assert re.fullmatch('fa:16:3e(:[0-9a-f]{2}){3}', shown['mac_addr'])
            assert [ip['subnet_id'] for ip in shown['fixed_ips']] == [one['id'] for one in network['subnets']]
            assert check(world.call('GET', world.url('srv_active', shown['port_id'])), 200) == shown


@pytest.mark.parametrize(
    ('who', 'server', 'network', 'status'),
    [
        ('b_member', 'srv_b', 'net_b', 200),
        ('b_member', 'srv_b', 'net_shared', 200),
        ('b_member', 'srv_b', 'net1', 404),
        ('b_member', 'srv_b', 'net_c', 404),
        # Everybody sees an external network, and only admin may attach to it.
        ('b_member', 'srv_b', 'net_ext', 403),
        ('c_member', 'srv_c', 'net_c', 200),
        ('c_member', 'srv_c', 'net_shared', 404),
        ('c_member', 'srv_c', 'net_ext', 403),
        ('d_member', 'srv_d', 'net_c', 404),
        ('q_member', 'srv_q', 'net_q', 403),
        ('q_member', 'srv_q', 'net1', 404),
        ('admin', 'srv_b', 'net_b', 200),
        ('admin', 'srv_b', 'net1', 200),
        ('admin', 'srv_b', 'net_ext', 200),
        ('admin', 'srv_d', 'net_c', 200),
        ('admin', 'srv_q', 'net_q', 403),
        ('admin', 'srv_q', 'missing_net', 404),
    ],
)
def test_networks_of_others(world: World, who: str, server: str, network: str, status: int) -> None:
    check(world.attach(server, net_id=network, who=who), status)


@pytest.mark.parametrize(
    ('who', 'server', 'expected'),
    [
        ('a_member', 'srv_active', 400),
        ('a_manager', 'srv_nonic', 400),
        ('b_member', 'srv_b', 400),
        ('c_member', 'srv_c', 'net_c'),
        ('d_member', 'srv_d', 400),
        ('q_member', 'srv_q', 403),
        ('admin', 'srv_active', 400),
        ('admin', 'srv_c', 'net_c'),
        ('admin', 'srv_d', 400),
        ('admin', 'srv_q', 403),
        ('a_reader', 'srv_active', 403),
        ('a_member', 'srv_c', 404),
    ],
)
def test_nothing_is_named(world: World, who: str, server: str, expected: int | str) -> None:
    """The only network of the server's project, else a 400."""
    for body, version in (
        ({}, '2.1'),
        ({}, '2.104'),
        ({'interfaceAttachment': {}}, '2.1'),
        ({'interfaceAttachment': {}}, '2.104'),
        ({'interfaceAttachment': {'tag': 'x'}}, '2.49'),
    ):
        with trying(body, version):
            answer = world.call('POST', world.url(server), body, who=who, version=version)
            if isinstance(expected, str):
                assert check(answer, 200)['net_id'] == id_of(expected)
            else:
                check(answer, expected)


# ------------------------------------------------------------------ addresses

ADDRESSES = [
    # network, address as asked for, status, address as shown
    ('net1', '10.1.0.99', 200, '10.1.0.99'),
    ('net1', '10.1.0.10', 409, None),
    ('net1', '10.1.0.201', 200, '10.1.0.201'),
    ('net1', '10.1.0.254', 200, '10.1.0.254'),
    ('net1', '10.1.0.2', 200, '10.1.0.2'),
    ('net1', '10.1.0.11', 409, None),
    ('net1', '10.1.0.50', 409, None),
    ('net1', '10.1.0.60', 409, None),
    ('net1', '10.1.0.1', 409, None),
    ('net1', '10.1.0.0', 400, None),
    ('net1', '10.1.0.255', 400, None),
    ('net1', '10.2.0.99', 400, None),
    ('net1', '10.1.1.0', 400, None),
    ('net1', '127.0.0.1', 400, None),
    ('net1', '224.0.0.1', 400, None),
    ('net1', '255.255.255.255', 400, None),
    ('net1', 'fd00:2::99', 400, None),
    ('net1', '::1', 400, None),
    ('net1', '::ffff:10.1.0.99', 400, None),
    ('net2', '10.2.0.99', 200, '10.2.0.99'),
    ('net2', '10.2.0.1', 400, None),
    ('net2', '10.2.0.12', 409, None),
    ('net2', 'fd00:2::99', 200, 'fd00:2::99'),
    ('net2', 'FD00:2::9A', 200, 'fd00:2::9a'),
    ('net2', 'fd00:0002:0000:0000:0000:0000:0000:009b', 200, 'fd00:2::9b'),
    ('net2', 'fd00:2:0::9c', 200, 'fd00:2::9c'),
    ('net2', 'fd00:2::0.0.0.157', 200, 'fd00:2::9d'),
    ('net2', 'fd00:2::12', 409, None),
    ('net2', 'FD00:0002::0012', 409, None),
    ('net2', 'fd00:2::1', 400, None),
    ('net2', 'fd00:3::1', 400, None),
    ('net2', 'fe80::1', 400, None),
    ('net_nosec', '10.1.0.99', 400, None),
    ('net_nosubnet', '10.1.0.99', 400, None),
    ('net_full', '10.3.0.2', 409, None),
    ('net_full', '10.3.0.3', 200, '10.3.0.3'),
    ('net_shared', '10.5.0.77', 200, '10.5.0.77'),
    ('net_b', '10.6.0.99', 404, None),
    ('net_ext', '203.0.113.99', 403, None),
    ('missing_net', '10.1.0.99', 404, None),
]


def test_addresses(world: World) -> None:
    for network, asked, status, shown in ADDRESSES:
        with trying(network, asked):
            answer = check(world.attach(net_id=network, fixed_ips=[{'ip_address': asked}]), status)
            if status == 200:
                assert [ip['ip_address'] for ip in answer['fixed_ips']] == [shown]


@pytest.mark.parametrize('unspecified', ['0.0.0.0', '::', '0::0', '0:0:0:0:0:0:0:0'])
def test_the_unspecified_address_is_none(world: World, unspecified: str) -> None:
    fixed_ips = [{'ip_address': unspecified}]
    one = check(world.attach(net_id='net1', fixed_ips=fixed_ips), 200)
    assert len(one['fixed_ips']) == 1
    assert one['fixed_ips'][0]['ip_address'].startswith('10.1.0.')
    assert len(check(world.attach(net_id='net2', fixed_ips=fixed_ips), 200)['fixed_ips']) == 2
    assert check(world.attach(net_id='net_nosec', fixed_ips=fixed_ips), 200)['fixed_ips'] == []
    # It was asked for all the same, so it needs a network.
    check(world.attach(fixed_ips=fixed_ips), 400)
    check(world.attach(port_id='p_free', fixed_ips=fixed_ips), 400)
    check(world.attach(net_id='net1', port_id='p_free', fixed_ips=fixed_ips), 400)


def test_fixed_ips_is_always_a_list(world: World) -> None:
    for version in ('2.1', '2.70'):
        for name in ('p_free_noip', 'p_free_nosec'):
            wanted = {'interfaceAttachment': {'port_id': id_of(name)}}
            answer = world.call('POST', world.url('srv_active'), wanted, version=version)
            assert check(answer, 200)['fixed_ips'] == []
        listed = check(world.call('GET', world.url('srv_noip'), version=version), 200)
        assert [one['fixed_ips'] for one in listed] == [[]]
        shown = check(world.call('GET', world.url('srv_noip', 'p_noip_bound'), version=version), 200)
        assert shown['fixed_ips'] == []
        assert check(world.call('GET', world.url('srv_nonic'), version=version), 200) == []
        for name in ('p_free_noip', 'p_free_nosec'):
            check(world.call('DELETE', world.url('srv_active', name), version=version), 202)


# ------------------------------------------------------------------ tags

TAGS = [
    *(
        'a',
        'A',
        '0',
        ' ',
        '  ',
        'a b',
        '\t',
        '\n',
        'a\nb',
        'a\r\nb',
        '\0',
        'a\0b',
        '\0' * 60,
        '\x7f',
        '\x85',
        '\x1b[0m',
    ),
    *(
        '\\',
        '"',
        "'",
        '`',
        '%',
        '%s',
        '{}',
        '{0}',
        '$x',
        '<b>',
        '&amp;',
        '#',
        '?',
        '*',
        '.',
        '..',
        ':',
        ';',
        '|',
        '~',
    ),
    *(
        'null',
        'None',
        'true',
        '[]',
        "'; DROP TABLE osif_ports; --",
        '\u2028',
        '\u202e',
        '\ufeff',
        '\ufffe',
        '\uffff',
    ),
    *('é', 'e\u0301', '中', '\U0001f600', '\U0001f600' * 60, '\U0010ffff', '\u0301', 'ß' * 60, 'a' * 60, ' ' * 60),
]
NO_TAGS = [
    *('', ',', '/', 'a,b', 'a/b', ',' * 60, 'a' * 61, ' ' * 61, '\U0001f600' * 61, '\0' * 61, 'é' * 61, 'a' * 255),
    *('\ud800', 'a\udfff', '\udc00\ud800', None, 0, 1, 1.5, True, False, [], ['a'], {}, {'a': 'b'}),
]


def test_tags(world: World) -> None:
    for tag in TAGS:
        with trying(tag):
            shown = view(PORTS['p_free'], port_state='ACTIVE', tag=tag)
            assert check(world.attach(port_id='p_free', tag=tag), 200) == shown
            assert check(world.call('GET', world.url('srv_active', 'p_free')), 200) == shown
            assert check(world.call('GET', world.url('srv_active')), 200)[-1] == shown
            check(world.call('DELETE', world.url('srv_active', 'p_free')), 202)


def test_no_tags(world: World) -> None:
    with unchanged(world):
        for tag in NO_TAGS:
            with trying(tag):
                check(world.attach(port_id='p_free', tag=tag), 400)
                check(world.attach(net_id='net1', tag=tag), 400)


def test_tags_may_be_the_same(world: World) -> None:
    for name in ('p_free', 'p_free2'):
        assert check(world.attach('srv_tagged', port_id=name, tag='eth-tag'), 200)['tag'] == 'eth-tag'
    listed = check(world.call('GET', world.url('srv_tagged')), 200)
    assert sorted(str(one['tag']) for one in listed) == ['None', 'eth-tag', 'eth-tag', 'eth-tag']


def test_the_tag_goes_with_the_attachment(world: World) -> None:
    check(world.call('DELETE', world.url('srv_tagged', 'p_tag_a')), 202)
    assert check(world.attach('srv_tagged', port_id='p_tag_a'), 200)['tag'] is None
    check(world.call('DELETE', world.url('srv_tagged', 'p_tag_a')), 202)
    assert check(world.attach('srv_active', port_id='p_tag_a', tag='other'), 200)['tag'] == 'other'
    # The same port again with another tag is the attachment that is there.
    assert check(world.attach('srv_active', port_id='p_tag_a', tag='third'), 200)['tag'] == 'other'


class Untagged(NoopVIFDriver):
    def capabilities(self, *args: Any) -> frozenset[str]:
        return super().capabilities(*args) - {base.TAGGED_ATTACH}


def test_a_tag_that_is_not_supported(build: Build) -> None:
    world = build(vif_driver=Untagged)
    with unchanged(world):
        check(world.attach(port_id='p_free', tag='x'), 400)
        check(world.attach(net_id='net1', tag='x'), 400)
        # Known before the port is looked for.
        check(world.attach(port_id='missing_port', tag='x'), 400)
        check(world.attach('srv_suspended', port_id='p_free', tag='x'), 409)
    assert check(world.attach(port_id='p_free'), 200)['tag'] is None


# ------------------------------------------------------------------ headers and bodies

CONTENT_TYPES = [
    '',
    ' ',
    'text/plain',
    'text/plain; charset=utf-8',
    'application/json',
    'application/json;charset=utf-8',
    'application/json; charset=latin-1',
    'application/json; x=y; z="a b"',
    VENDOR,
    f'{VENDOR};charset=utf-8',
]


def test_content_types_of_json(world: World) -> None:
    wanted = {'interfaceAttachment': {'port_id': id_of('p_active')}}
    for content_type in CONTENT_TYPES:
        with trying(content_type):
            headers = {'Content-Type': content_type}
            answer = world.call('POST', world.url('srv_active'), wanted, headers=headers)
            assert check(answer, 200) == view(PORTS['p_active'])
            assert answer.content_type == JSON


# Accept -> Content-Type of a success. Ties go to plain JSON, as does whatever cannot be read.
ACCEPTS = [
    ('', JSON),
    ('*/*', JSON),
    ('application/*', JSON),
    (JSON, JSON),
    ('text/html', JSON),
    ('garbage', JSON),
    (';q=', JSON),
    ('application/xml', JSON),
    (f'{JSON};q=0', JSON),
    (f'{VENDOR};q=0', JSON),
    (f'{VENDOR};q=0, */*', JSON),
    (f'{VENDOR};charset=utf-8', JSON),
    ('application/vnd.openstack.compute', JSON),
    ('application/vnd.openstack.compute+xml', JSON),
    ('application/vnd.openstack.volume+json', JSON),
    (f'{JSON}, {VENDOR}', JSON),
    (f'{VENDOR}, {JSON}', JSON),
    (f'{VENDOR};q=0.5, {JSON};q=0.5', JSON),
    (f'{VENDOR};q=0.5, {JSON}', JSON),
    (f'{VENDOR}, */*', JSON),
    (f'{VENDOR}, application/*', JSON),
    (f'{VENDOR};q=0.5, */*', JSON),
    (VENDOR, VENDOR),
    (f'{VENDOR};q=1', VENDOR),
    (f'{VENDOR};q=1.0', VENDOR),
    (f'{VENDOR};q=0.5', VENDOR),
    (f'{VENDOR};q=0.001', VENDOR),
    (f'{VENDOR}, {JSON};q=0.9', VENDOR),
    (f'{JSON};q=0.9, {VENDOR}', VENDOR),
    (f'{VENDOR}, {JSON};q=0', VENDOR),
    (f'{VENDOR}, */*;q=0.1', VENDOR),
    (f'text/html, {VENDOR};q=0.2', VENDOR),
    (f'text/html;q=0.1,{VENDOR};q=0.2,application/xml', VENDOR),
]


def test_accept(world: World) -> None:
    wanted = {'interfaceAttachment': {'port_id': id_of('p_free')}}
    missing = {'interfaceAttachment': {'port_id': id_of('missing_port')}}
    for accept, content_type in ACCEPTS:
        headers = {'Accept': accept}
        with trying(accept):
            for method, path, body in (
                ('GET', ('srv_active',), None),
                ('GET', ('srv_active', 'p_active'), None),
                ('POST', ('srv_active',), wanted),
                ('DELETE', ('srv_active', 'p_free'), None),
            ):
                answer = world.call(method, world.url(*path), body, headers=headers)
                check(answer, 202 if method == 'DELETE' else 200)
                assert answer.content_type == content_type
            # A fault is JSON, whatever is asked for.
            check(world.call('GET', world.url('missing_server'), headers=headers), 404)
            check(world.call('POST', world.url('srv_active'), missing, headers=headers), 404)
            check(world.call('PUT', world.url('srv_active'), headers=headers), 405)
            check(world.call('GET', world.url('srv_active'), headers=headers, who=None), 401)


RAW_BODIES = [
    # Read as they are by any JSON reader; of a key that comes twice the last counts.
    (200, '{"interfaceAttachment": {"port_id": "@"}}'),
    (200, '{"interfaceAttachment":{"port_id":"@"}}'),
    (200, '\n\t\r {\n  "interfaceAttachment" : { "port_id" : "@" }\n}\r\n '),
    (200, '{"\\u0069nterfaceAttachment": {"port\\u005fid": "@"}}'),
    (200, '{"interfaceAttachment": 1, "interfaceAttachment": {"port_id": "@"}}'),
    (200, '{"interfaceAttachment": {"port_id": 1, "port_id": "@"}}'),
    (200, '{"interfaceAttachment": {"port_id": "@", "tag": "\\ud83d\\ude00"}}'),
    (200, '{"interfaceAttachment": {"port_id": "@", "tag": "\\u0000"}}'),
    (200, '{"interfaceAttachment": {"port_id": "@", "tag": "a\\/b", "tag": "c"}}'),
    (400, '{"interfaceAttachment": {"port_id": "@"}, "interfaceAttachment": 1}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "port_id": 1}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "tag": "a\\/b"}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "tag": "\\u002c"}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "tag": "\\ude00\\ud83d"}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "net_id": null}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "fixed_ips": null}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "fixed_ips": []}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "tag": null}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "security_groups": []}}'),
    (400, '{"interfaceAttachment": {"port_id": "@", "Port_Id": "@"}}'),
    (400, '{"interfaceAttachment": [{"port_id": "@"}]}'),
    (400, '{"interfaceAttachments": [{"port_id": "@"}]}'),
    (400, '[{"interfaceAttachment": {"port_id": "@"}}]'),
    (400, '{"port_id": "@"}'),
    (400, '"{}"'),
    (400, '[]'),
    (400, 'false'),
    (400, '""'),
]


@pytest.mark.parametrize('version', ['2.49', 'latest'])
def test_raw_bodies(world: World, version: str) -> None:
    for status, raw in RAW_BODIES:
        with trying(raw):
            body = raw.replace('@', id_of('p_free')).encode()
            check(world.call('POST', world.url('srv_active'), body, version=version), status)
            free = 404 if status == 400 else 202
            check(world.call('DELETE', world.url('srv_active', 'p_free'), version=version), free)


def test_delete_with_bodies(world: World) -> None:
    for body in (b'', b'{', b'null', b'{"a": 1}', b'\xff\xfe', b' ' * 200_000):
        for content_type in (JSON, 'text/plain', ''):
            with trying(body[:20], content_type):
                check(world.attach(port_id='p_free'), 200)
                headers = {'Content-Type': content_type}
                answer = world.call('DELETE', world.url('srv_active', 'p_free'), body, headers=headers)
                check(answer, 202)
                assert answer.content_type == JSON
                assert answer.headers['Content-Length'] == '0'


def test_get_with_bodies(world: World) -> None:
    for body in (b'{', b'null', b'\xff', b' ' * 200_000):
        check(world.call('GET', world.url('srv_active'), body), 200)
        check(world.call('GET', world.url('srv_active', 'p_active'), body), 200)


def test_head(world: World) -> None:
    for path, status in (
        (('srv_active',), 200),
        (('srv_active', 'p_active'), 200),
        (('missing_server',), 404),
        (('srv_active', 'missing_port'), 404),
    ):
        for version in ('2.1', '2.104'):
            head = world.call('HEAD', world.url(*path), version=version)
            get = world.call('GET', world.url(*path), version=version)
            assert head.status_int == get.status_int == status
            assert head.body == b''
            ids = ('x-openstack-request-id', 'x-compute-request-id')
            for name in set(get.headers) - {one for one in get.headers if one.lower() in ids}:
                assert head.headers[name] == get.headers[name]
    assert world.call('HEAD', world.url('srv_active') + '?a=b', version='2.102').status_int == 400
    assert world.call('HEAD', world.url('srv_active'), who=None).status_int == 401


KNOWN_VERSION = {
    'OpenStack-API-Version': 'compute 2.70',
    'X-OpenStack-Nova-API-Version': '2.70',
    'Vary': 'OpenStack-API-Version, X-OpenStack-Nova-API-Version',
}


def every_kind(world: World) -> Iterator[tuple[webtest.TestResponse, int]]:
    """One answer of each status, once the version is known."""
    url, item = world.url('srv_active'), world.url('srv_active', 'p_active')
    yield world.call('GET', url), 200
    yield world.call('GET', item), 200
    yield world.attach(port_id='p_free'), 200
    yield world.call('DELETE', world.url('srv_active', 'p_free')), 202
    yield world.call('POST', url, b'{'), 400
    yield world.call('POST', url, {'interfaceAttachment': {'net_id': 'x'}}), 400
    yield world.call('GET', url.replace('/v2.1/', f'/v2.1/{id_of("project_b")}/')), 400
    yield world.call('GET', item, who='a_other'), 403
    yield world.attach(net_id='net_ext'), 403
    yield world.call('GET', url, who='b_member'), 404
    yield world.call('DELETE', world.url('srv_active', 'missing_port')), 404
    yield world.call('PUT', url), 405
    yield world.call('POST', item), 405
    yield world.attach('srv_locked', port_id='p_free'), 409
    yield world.attach(port_id='p_multi_a'), 409
    yield world.call('POST', url, b' ' * 200_000), 413
    yield world.call('POST', url, {}, headers={'Content-Type': 'text/html'}), 415


def test_headers_of_every_answer(world: World) -> None:
    seen = set()
    for answer, status in every_kind(world):
        check(answer, status)
        for name, value in KNOWN_VERSION.items():
            assert answer.headers[name] == value
        assert 'www-authenticate' not in answer.headers
        assert 'set-cookie' not in answer.headers
        assert ('allow' in answer.headers) == (status == 405)
        request_id = answer.headers['x-openstack-request-id']
        assert re.fullmatch('req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', request_id)
        assert request_id not in seen
        seen.add(request_id)


def test_before_the_version_is_known(world: World) -> None:
    for who, token in ((None, None), (None, 'bogus'), (None, ''), (None, ' '), (None, 'TOK-A-MEMBER')):
        headers = {'X-Auth-Token': token} if token is not None else {}
        for method in ('GET', 'POST', 'DELETE', 'PUT', 'HEAD'):
            answer = world.call(method, world.url('srv_active'), who=who, headers=headers)
            assert answer.status_int == 401
            assert answer.headers['WWW-Authenticate']
            assert 'OpenStack-API-Version' not in answer.headers
            assert answer.headers['x-openstack-request-id'].startswith('req-')


def test_a_request_id_that_was_sent_is_not_ours(world: World) -> None:
    sent = 'req-00000000-0000-4000-8000-000000000001'
    for value in (sent, sent.upper(), 'req-x', 'x', '', 'req-' + '0' * 36):
        answer = world.call('GET', world.url('srv_active'), headers={'X-OpenStack-Request-ID': value})
        check(answer, 200)
        assert answer.headers['x-openstack-request-id'] not in (value, sent)


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize('who', ['a_member', 'a_reader', 'admin', 'b_member', 'a_other'])
def test_the_project_in_the_url(world: World, who: str) -> None:
    own = id_of({'admin': 'project_admin', 'b_member': 'project_b'}.get(who, 'project_a'))
    wanted = {'interfaceAttachment': {'port_id': id_of('missing_port')}}
    for project in ('project_a', 'project_b', 'project_admin', 'missing_server'):
        for method, port, body in (
            ('GET', None, None),
            ('GET', 'p_active', None),
            ('POST', None, wanted),
            ('DELETE', 'missing_port', None),
        ):
            plain = world.url('srv_active', port)
            url = plain.replace('/v2.1/', f'/v2.1/{id_of(project)}/')
            with trying(project, method):
                answer = world.call(method, url, body, who=who)
                without = world.call(method, plain, body, who=who)
                assert answer.status_int == (without.status_int if id_of(project) == own else 400)
                if answer.status_int == 200:
                    assert answer.json == without.json
    for odd in (own.upper(), own[:-1], own + '0', f'{own} '.replace(' ', '%20'), 'v2.1', '%00'):
        with trying(odd):
            check(world.call('GET', world.url('srv_active').replace('/v2.1/', f'/v2.1/{odd}/'), who=who), 400)


def test_methods_that_are_not_allowed(world: World) -> None:
    wanted = {'interfaceAttachment': {'port_id': id_of('p_free')}}
    with unchanged(world):
        for prefix in ('/v2.1/', f'/v2.1/{id_of("project_a")}/'):
            for port, methods, allow in (
                (None, ('PUT', 'PATCH', 'DELETE'), {'GET', 'HEAD', 'OPTIONS', 'POST'}),
                ('p_active', ('PUT', 'PATCH', 'POST'), {'DELETE', 'GET', 'HEAD', 'OPTIONS'}),
            ):
                for method in methods:
                    answer = world.call(method, world.url('srv_active', port).replace('/v2.1/', prefix), wanted)
                    check(answer, 405)
                    assert set(answer.headers['Allow'].split(', ')) == allow
                    # Not a matter of what is there, or whose it is.
                    check(world.call(method, world.url('missing_server', port), wanted, who='a_other'), 405)


def test_options_is_no_fault(world: World) -> None:
    for port, allow in (
        (None, {'GET', 'HEAD', 'OPTIONS', 'POST'}),
        ('p_active', {'DELETE', 'GET', 'HEAD', 'OPTIONS'}),
    ):
        answer = world.call('OPTIONS', world.url('srv_active', port))
        assert answer.status_int in (200, 204)
        assert answer.body == b''
        assert set(answer.headers['Allow'].split(', ')) == allow


# ------------------------------------------------------------------ strict_nova


@pytest.mark.parametrize('who', ['a_member', 'admin'])
def test_detach_of_what_is_not_attached(build: Build, who: str) -> None:
    """404; or with ``strict_nova`` 202, whatever the id is. Nothing happens either way."""
    odd_ids = ['missing_port', 'p_free', 'p_b', 'p_free_b', 'p_multi_a', 'p_router', 'net1', 'srv_active']
    odd_ids += [
        'p_active_UP',
        'p_active_NH',
        'not-a-uuid',
        'a%20b',
        '%C3%A9',
        '%00',
        '%0A',
        '%FF',
        '..',
        '~',
        "a'b",
    ]
    odd_ids += ['%7B%7D', 'x' * 255, 'x' * 1000]
    for strict, status in ((False, 404), (True, 202)):
        world = build(f'strict-{strict}', api={'strict_nova': strict})
        with unchanged(world):
            for odd in odd_ids:
                with trying(odd, strict):
                    check(world.call('DELETE', world.url('srv_active', odd), who=who), status)
                    check(world.call('GET', world.url('srv_active', odd), who=who), 404)
                    # The checks that come before are the same.
                    check(world.call('DELETE', world.url('missing_server', odd), who=who), 404)
                    check(world.call('DELETE', world.url('srv_suspended', odd), who=who), 409)
                    check(world.call('DELETE', world.url('srv_active', odd), who='a_reader'), 403)
                    check(world.call('DELETE', world.url('srv_active', odd), who='b_member'), 404)
                    check(world.call('DELETE', world.url('srv_locked', odd)), 409)


def test_detach_again_and_again(build: Build) -> None:
    """The way of Terraform: until GET says 404; strict or not, never a 409 or a 5xx."""
    for strict in (False, True):
        world = build(f'strict-{strict}', api={'strict_nova': strict})
        check(world.call('DELETE', world.url('srv_active', 'p_active')), 202)
        for _ in range(3):
            check(world.call('GET', world.url('srv_active', 'p_active')), 404)
            check(world.call('DELETE', world.url('srv_active', 'p_active')), 202 if strict else 404)
        # What another server has is not taken from it.
        check(world.attach('srv_multi', port_id='p_active'), 200)
        check(world.call('DELETE', world.url('srv_active', 'p_active')), 202 if strict else 404)
        assert id_of('p_active') in world.ports('srv_multi')


def test_attach_of_what_is_attached(build: Build) -> None:
    """200 with the attachment as it is; or with ``strict_nova`` 409. Nothing changes either way."""
    for strict, status in ((False, 200), (True, 409)):
        world = build(f'strict-{strict}', api={'strict_nova': strict})
        check(world.attach(port_id='p_free', tag='first'), 200)
        made = check(world.attach(net_id='net1', fixed_ips=[{'ip_address': '10.1.0.99'}], tag='made'), 200)
        with unchanged(world):
            for port, tag in (('p_free', 'first'), ('p_active', None), (made['port_id'], 'made')):
                for again in ({}, {'tag': 'second'}, {'tag': tag} if tag else {}):
                    with trying(strict, port, again):
                        answer = check(world.attach(port_id=port, **again), status)
                        if status == 200:
                            assert answer['tag'] == tag
                            assert answer == check(world.call('GET', world.url('srv_active', port)), 200)
                        check(world.attach('srv_multi', port_id=port, **again), 409)
            # The address of another attachment stays a conflict.
            address = [{'ip_address': '10.1.0.11'}]
            check(world.attach(net_id='net1', fixed_ips=address), 409)
            check(world.attach('srv_multi', net_id='net1', fixed_ips=[{'ip_address': '10.1.0.99'}]), 409)


def test_the_other_answers_are_the_same_when_strict(build: Build) -> None:
    world = build(api={'strict_nova': True})
    for answer, status in every_kind(world):
        # A 404 may be a 202 here.
        if status != 404:
            check(answer, status)


def test_two_configurations_side_by_side(build: Build) -> None:
    """What one says does not show in the other."""
    strict = build('strict', api={'strict_nova': True, 'max_microversion': '2.60'})
    plain = build('plain')
    check(strict.call('DELETE', strict.url('srv_active', 'missing_port'), version='2.60'), 202)
    check(plain.call('DELETE', plain.url('srv_active', 'missing_port'), version='2.104'), 404)
    check(strict.call('GET', strict.url('srv_active'), version='2.61'), 406)
