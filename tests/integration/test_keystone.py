"""The keystone composite of api-paste.ini before a real Keystone, with real tokens of every kind."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import webtest
import yaml
from paste import deploy

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.conf import keystone_authtoken
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from os_interface_ext.middleware import keystone
from tests.integration.conftest import wait_until
from tests.integration.identities import DOMAIN, Identities
from tests.services import http_proxy, proxy
from tests.services.openstack.cloud import Cloud

pytestmark = [
    pytest.mark.service,
    pytest.mark.filterwarnings(r'ignore:::openstack\..*'),
]

INI = pathlib.Path(__file__).parents[2] / 'etc' / 'os-interface-ext' / 'api-paste.ini'
#: What keystonemiddleware says to whoever has no good token, here as in the pipeline of nova-api 34.
REFUSED = {
    'error': {
        'code': 401,
        'title': 'Unauthorized',
        'message': 'The request you have made requires authentication.',
    }
}
#: Seconds for which a token that was good is believed in these tests.
CACHE_TIME = 2

Start = Callable[..., webtest.TestApp]


@dataclasses.dataclass
class World:
    """A database with a server of the project demo and one of the project alt, each with a port."""

    url: str
    server: str
    port: str
    foreign: str
    spare: list[str]


@pytest.fixture(scope='module')
def identities(cloud: Cloud) -> Iterator[Identities]:
    made = Identities(cloud)
    yield made
    made.close()


@pytest.fixture(scope='module')
def demo(identities: Identities) -> str:
    return identities.project('demo')


@pytest.fixture(scope='module')
def member(identities: Identities, demo: str) -> str:
    """The id of a user, member of demo."""
    return identities.new_user(f'/projects/{demo}', 'member')


@pytest.fixture(scope='module')
def world(identities: Identities, demo: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    network, ports = str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(20)]
    servers = {name: str(uuid.uuid4()) for name in ('demo', 'alt')}
    owner = {'project_id': demo, 'network_id': network}
    inventory = {
        'networks': [
            {
                'id': network,
                'project_id': demo,
                'subnets': [{'id': str(uuid.uuid4()), 'cidr': '10.9.0.0/24'}],
            }
        ],
        'servers': [{'id': id_, 'project_id': identities.project(name)} for name, id_ in servers.items()],
        'ports': [
            {'id': ports[0], **owner, 'device_id': servers['demo']},
            *({'id': port, **owner} for port in ports[1:]),
        ],
    }
    url = f'sqlite:///{tmp_path_factory.mktemp("keystone")}/osif.sqlite'
    database = Database.of(config.new([], database={'connection': url}))
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(yaml.safe_dump(inventory), 'inventory'))
    database.dispose()
    return World(url, servers['demo'], ports[0], servers['alt'], ports[1:])


@pytest.fixture(scope='module')
def options(cloud: Cloud) -> dict[str, Any]:
    """``[keystone_authtoken]`` as an operator writes it."""
    return {
        'www_authenticate_uri': cloud.keystone_url,
        'auth_url': cloud.keystone_url,
        'auth_type': 'password',
        'username': 'osif',
        'password': cloud.password,
        'project_name': 'service',
        'user_domain_name': 'Default',
        'project_domain_name': 'Default',
        'token_cache_time': CACHE_TIME,
    }


@pytest.fixture(scope='module')
def start(options: dict[str, Any], world: World, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Load the composite that is delivered, with other options than the usual ones."""

    def load(**changed: Any) -> webtest.TestApp:
        path = tmp_path_factory.mktemp('conf') / 'os-interface-ext.conf'
        sections = {'database': {'connection': world.url}, 'keystone_authtoken': {**options, **changed}}
        path.write_text(
            ''.join(
                f'[{name}]\n' + ''.join(f'{key} = {value}\n' for key, value in section.items())
                for name, section in sections.items()
            )
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(config.ENV_FILES, str(path))
            return webtest.TestApp(deploy.loadapp(f'config:{INI}', name='keystone'))

    return load


@pytest.fixture(scope='module')
def app(start: Start) -> webtest.TestApp:
    return start()


def ask(
    app: webtest.TestApp, world: World, token: str | None, method: str = 'GET', path: str = '', **kwargs: Any
) -> webtest.TestResponse:
    """A request about the server of demo, with a token."""
    headers = {'OpenStack-API-Version': 'compute 2.70', **kwargs.pop('headers', {})}
    if token is not None:
        headers['X-Auth-Token'] = token
    url = f'/v2.1/servers/{kwargs.pop("server", world.server)}/os-interface{path}'
    if 'body' in kwargs:
        return app.post_json(url, kwargs['body'], headers=headers, expect_errors=True)
    return app.request(url, method=method, headers=headers, expect_errors=True)


def check_refused(answer: webtest.TestResponse, cloud: Cloud) -> None:
    assert answer.status_int == 401
    assert answer.json == REFUSED
    assert answer.headers.getall('WWW-Authenticate') == [f'Keystone uri="{cloud.keystone_url}"']
    assert answer.headers['x-openstack-request-id'] == answer.headers['x-compute-request-id']


def check_away(answer: webtest.TestResponse) -> None:
    """Nobody can say whether the token is good: a fault of the API, and worth another try."""
    assert answer.status_int == 503, answer.text
    assert answer.json['serviceUnavailable']['code'] == 503
    assert 'eystone' not in answer.text
    assert int(answer.headers['Retry-After']) > 0
    assert answer.headers['x-openstack-request-id'] == answer.headers['x-compute-request-id']


# ------------------------------------------------------------------ what is public, and what is not


def test_public_without_a_token(app: webtest.TestApp) -> None:
    assert app.get('/healthcheck').status_int == 200
    (listed,) = app.get('/').json['versions']
    assert {'rel': 'self', 'href': 'http://localhost/v2.1/'} in listed['links']
    for path in ('/v2.1', '/v2.1/'):
        shown = app.get(path).json['version']
        assert shown == listed
        assert (shown['id'], shown['status'], shown['min_version'], shown['version']) == (
            'v2.1',
            'CURRENT',
            '2.1',
            '2.104',
        )
    assert app.get('/elsewhere', status=404).json['itemNotFound']
    assert app.post('/', status=404).json['itemNotFound']


def test_nothing_else_is_public(app: webtest.TestApp, world: World, cloud: Cloud) -> None:
    for method, path in [
        ('GET', f'/v2.1/servers/{world.server}/os-interface'),
        ('POST', f'/v2.1/servers/{world.server}/os-interface'),
        ('PUT', f'/v2.1/servers/{world.server}/os-interface'),
        ('DELETE', f'/v2.1/servers/{world.server}/os-interface/{world.port}'),
        ('GET', '/v2.1/servers'),
        ('GET', '/v2.1//'),
        ('POST', '/v2.1/'),
    ]:
        check_refused(app.request(path, method=method, expect_errors=True), cloud)


@pytest.mark.parametrize('token', ['', 'garbage', ' ', 'g' * 3000, '\xe9\xff', 'gAAAAAB' + 'x' * 200])
def test_tokens_that_are_none(app: webtest.TestApp, world: World, cloud: Cloud, token: str) -> None:
    check_refused(ask(app, world, token), cloud)
    check_refused(ask(app, world, token, 'DELETE', f'/{world.port}'), cloud)


def test_a_delayed_decision_is_ours(start: Start, world: World, cloud: Cloud) -> None:
    """Then it is a fault of the API, and still says where to authenticate."""
    app = start(delay_auth_decision=True)
    for token in (None, '', 'garbage'):
        answer = ask(app, world, token)
        assert answer.status_int == 401
        assert answer.json['unauthorized']['code'] == 401
        assert answer.headers.getall('WWW-Authenticate') == [f'Keystone uri="{cloud.keystone_url}"']
    assert ask(app, world, cloud.token('demo')).status_int == 200


# ------------------------------------------------------------------ roles and scope


#: who: the roles, where he has them, the scope of the token, and the answers to list, show, create, delete
CALLERS: dict[str, tuple[tuple[str, ...], str, dict[str, Any], tuple[int, int, int, int]]] = {
    'reader': (('reader',), 'demo', {}, (200, 200, 403, 403)),
    'member': (('member',), 'demo', {}, (200, 200, 200, 202)),
    'manager': (('manager',), 'demo', {}, (200, 200, 200, 202)),
    'admin': (('admin',), 'demo', {}, (200, 200, 200, 202)),
    'admin of another project': (('admin',), 'alt', {}, (200, 200, 200, 202)),
    'role without a meaning': (('osif-nothing',), 'demo', {}, (403, 403, 403, 403)),
    # A stranger is not told whether there is such a server.
    'member of another project': (('member',), 'alt', {}, (404, 404, 404, 404)),
    'manager of another project': (('manager',), 'alt', {}, (404, 404, 404, 404)),
    # The role of services is no right to what users have: Nova gives it none of these operations either.
    'service': (('service',), 'demo', {}, (403, 403, 403, 403)),
    'service elsewhere': (('service',), 'service', {}, (404, 404, 404, 404)),
    'service and admin': (('service', 'admin'), 'service', {}, (200, 200, 200, 202)),
    # The API wants a project, as Nova's does.
    'system admin': (('admin',), 'system', {'system_scope': 'all'}, (403, 403, 403, 403)),
    'system reader': (('reader',), 'system', {'system_scope': 'all'}, (404, 404, 404, 404)),
    'domain admin': (('admin',), 'domain', {'domain_id': DOMAIN}, (403, 403, 403, 403)),
    'domain member': (('member',), 'domain', {'domain_id': DOMAIN}, (404, 404, 404, 404)),
    'unscoped': (('member',), 'demo', {'unscoped': True}, (404, 404, 404, 404)),
}


@pytest.mark.parametrize('who', list(CALLERS))
def test_roles_and_scope(app: webtest.TestApp, world: World, identities: Identities, who: str) -> None:
    roles, place, scope, expected = CALLERS[who]
    if place in ('system', 'domain'):
        user = identities.new_user({'system': '/system', 'domain': f'/domains/{DOMAIN}'}[place], *roles)
    else:
        project = identities.project(place)
        user = identities.new_user(f'/projects/{project}', *roles)
        scope = scope or {'project_id': project}
    token = identities.token(user, **scope)
    port = world.spare.pop()
    answers = [
        ask(app, world, token),
        ask(app, world, token, 'GET', f'/{world.port}'),
        ask(app, world, token, body={'interfaceAttachment': {'port_id': port}}),
        # What he could not attach he tries to take away.
        ask(app, world, token, 'DELETE', f'/{port if expected[2] == 200 else world.port}'),
    ]
    assert tuple(answer.status_int for answer in answers) == expected
    for answer in answers:
        if answer.status_int == 403:
            assert answer.json['forbidden']['code'] == 403
        elif answer.status_int == 404:
            message = f'Instance {world.server} could not be found.'
            assert answer.json == {'itemNotFound': {'code': 404, 'message': message}}
    left = ask(app, world, identities.cloud.token('admin')).json['interfaceAttachments']
    assert [one['port_id'] for one in left] == [world.port]


def test_each_project_has_its_own(app: webtest.TestApp, world: World, cloud: Cloud) -> None:
    assert ask(app, world, cloud.token('demo'), server=world.foreign).status_int == 404
    assert ask(app, world, cloud.token('alt'), server=world.foreign).status_int == 200
    project_url = '/v2.1/{}/servers/{}/os-interface'
    alt = cloud.session('alt').get_project_id()
    headers = {'X-Auth-Token': cloud.token('alt')}
    assert app.get(project_url.format(alt, world.foreign), headers=headers).status_int == 200
    answer = app.get(project_url.format('other', world.foreign), headers=headers, status=400)
    assert answer.json['badRequest']


def test_access_rules_of_an_application_credential(
    app: webtest.TestApp, world: World, identities: Identities, member: str, demo: str, cloud: Cloud
) -> None:
    rule = {'service': 'compute', 'method': 'GET', 'path': '/v2.1/servers/*/os-interface'}
    # Keystone takes rules only of services that are in its catalog.
    with identities.region(compute='http://127.0.0.1:9/v2.1'):
        token = identities.token_of_credential(member, demo, access_rules=[rule])
        assert ask(app, world, token).status_int == 200
        check_refused(ask(app, world, token, 'DELETE', f'/{world.port}'), cloud)
        check_refused(ask(app, world, token, 'GET', f'/{world.port}'), cloud)


# ------------------------------------------------------------------ tokens that end


def test_an_expired_token_and_a_service_token_beside_it(
    app: webtest.TestApp, world: World, identities: Identities, member: str, demo: str, cloud: Cloud
) -> None:
    # Not asked before it has expired, so it is in no cache.
    other, _ = identities.expiring(member, demo)
    token, end = identities.expiring(member, demo)
    assert ask(app, world, token).status_int == 200
    wait_until(lambda: time.time() > end + 0.2)
    for sent in (token, other):
        check_refused(ask(app, world, sent), cloud)

    service = {'X-Service-Token': cloud.token('osif')}
    for sent in (token, other):
        assert ask(app, world, sent, headers=service).status_int == 200
        # The answer with the service token is no answer without it.
        check_refused(ask(app, world, sent), cloud)
    # What the caller may do is what his own token says.
    reader = identities.new_user(f'/projects/{demo}', 'reader')
    late, end = identities.expiring(reader, demo)
    wait_until(lambda: time.time() > end + 0.2)
    assert ask(app, world, late, 'DELETE', f'/{world.port}', headers=service).status_int == 403
    # A token of anybody else than a service buys nothing, nor does one that is none.
    for bad in (cloud.token('demo'), cloud.token('alt'), 'garbage', late):
        for sent in (token, late, cloud.token('demo')):
            check_refused(ask(app, world, sent, headers={'X-Service-Token': bad}), cloud)
    # A service token alone is nobody's.
    check_refused(ask(app, world, None, headers=service), cloud)


def test_a_revoked_token(
    app: webtest.TestApp, world: World, identities: Identities, member: str, demo: str, cloud: Cloud
) -> None:
    unseen, seen = (identities.token(member, project_id=demo) for _ in range(2))
    assert ask(app, world, seen).status_int == 200
    looked = time.monotonic()
    for token in (unseen, seen):
        identities.revoke(token)
    check_refused(ask(app, world, unseen), cloud)
    # One that was looked up lately is believed until [keystone_authtoken] token_cache_time is over, no longer.
    wait_until(lambda: ask(app, world, seen).status_int == 401)
    assert time.monotonic() - looked < CACHE_TIME + 2
    check_refused(ask(app, world, seen), cloud)


def test_a_revoked_token_without_a_cache(
    start: Start, world: World, identities: Identities, member: str, demo: str, cloud: Cloud
) -> None:
    app = start(token_cache_time=-1)
    token = identities.token(member, project_id=demo)
    assert ask(app, world, token).status_int == 200
    identities.revoke(token)
    check_refused(ask(app, world, token), cloud)


def test_users_and_projects_that_are_disabled(
    app: webtest.TestApp, world: World, identities: Identities, demo: str, cloud: Cloud
) -> None:
    user = identities.new_user(f'/projects/{demo}', 'member')
    token = identities.token(user, project_id=demo)
    identities.ask('PATCH', f'/users/{user}', {'user': {'enabled': False}})
    check_refused(ask(app, world, token), cloud)

    project = identities.new_project()
    token = identities.token(identities.new_user(f'/projects/{project}', 'admin'), project_id=project)
    identities.ask('PATCH', f'/projects/{project}', {'project': {'enabled': False}})
    check_refused(ask(app, world, token), cloud)

    # Who loses his role loses what it allowed.
    user = identities.new_user(f'/projects/{demo}', 'member')
    token = identities.token(user, project_id=demo)
    identities.ask('DELETE', f'/projects/{demo}/users/{user}/roles/{identities.role("member")}')
    check_refused(ask(app, world, token), cloud)


# ------------------------------------------------------------------ Keystone in trouble


@dataclasses.dataclass
class Distant:
    """A Keystone behind a proxy, and the options to ask it."""

    proxy: proxy.Proxy
    options: dict[str, Any]


@pytest.fixture
def distant(cloud: Cloud, identities: Identities) -> Iterator[Distant]:
    port = urllib.parse.urlsplit(cloud.keystone_url).port
    assert port is not None
    with contextlib.ExitStack() as stack:
        between = stack.enter_context(proxy.before(port))
        url = f'http://127.0.0.1:{between.port}/v3'
        region = stack.enter_context(identities.region(identity=url))
        yield Distant(
            between,
            {'auth_url': url, 'region_name': region, 'http_connect_timeout': 1, 'http_request_max_retries': 0},
        )


@pytest.mark.parametrize('delayed', [False, True])
@pytest.mark.parametrize('trouble', ['down', 'silent'])
def test_keystone_is_away(
    start: Start,
    world: World,
    distant: Distant,
    cloud: Cloud,
    trouble: str,
    delayed: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = start(**distant.options, delay_auth_decision=delayed, token_cache_time=300)
    cold = start(**distant.options, delay_auth_decision=delayed)
    seen, unseen = cloud.token('demo'), cloud.token('demo_reader')
    assert ask(app, world, seen).status_int == 200
    if trouble == 'down':
        distant.proxy.close()
    else:
        distant.proxy.silent = True
        distant.proxy.cut()
    with caplog.at_level(logging.WARNING):
        for asked in (app, cold):
            begun = time.monotonic()
            answer = ask(asked, world, unseen)
            took = time.monotonic() - begun
            check_away(answer)
            # Each of the few requests to Keystone takes no longer than it may.
            assert took < 6
    assert 'Traceback' not in caplog.text
    assert unseen not in caplog.text
    # Whoever was known goes on, and nobody is asked for who sends none.
    assert ask(app, world, seen).status_int == 200
    begun = time.monotonic()
    assert ask(app, world, None).status_int == 401
    assert time.monotonic() - begun < 1
    for public in ('/healthcheck', '/', '/v2.1/'):
        assert app.get(public).status_int == 200
    if trouble == 'silent':
        distant.proxy.silent = False
        for asked in (app, cold):
            assert ask(asked, world, unseen).status_int == 200


def test_options_and_their_defaults(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """keystonemiddleware by itself waits for a silent Keystone for ever."""

    def effective(paste: dict[str, str], **written: Any) -> list[Any]:
        path = tmp_path / 'os-interface-ext.conf'
        section = {**options, **written}
        path.write_text('[keystone_authtoken]\n' + ''.join(f'{key} = {value}\n' for key, value in section.items()))
        made = keystone.make(None, config.new([str(path)]), paste)
        return [made._conf.get(name) for name in keystone_authtoken.DEFAULTS]

    assert effective({}) == [5, 1, True, 'compute']
    assert effective({}, http_connect_timeout=7, service_type='other') == [7, 1, True, 'other']
    assert effective({'http_connect_timeout': '9'}, http_connect_timeout=7) == [9, 1, True, 'compute']


@pytest.mark.parametrize('status', [401, 403, 404, 429, 500, 503])
def test_keystone_refuses_the_service_itself(start: Start, world: World, cloud: Cloud, status: int) -> None:
    with http_proxy.before(cloud.keystone_url.removesuffix('/v3')) as between:
        app = start(auth_url=f'{between.url}/v3')
        with between.trouble(http_proxy.answer(status, b'{"error": {"message": "sorry"}}')):
            check_away(ask(app, world, cloud.token('demo')))
        assert ask(app, world, cloud.token('demo')).status_int == 200


@pytest.mark.parametrize(
    'wrong', [{'password': 'wrong'}, {'region_name': 'nowhere'}, {'project_name': 'nowhere'}], ids=str
)
def test_options_that_are_wrong(
    start: Start, world: World, cloud: Cloud, wrong: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = start(**wrong)
    with caplog.at_level(logging.WARNING):
        check_away(ask(app, world, cloud.token('demo')))
    assert 'Traceback' not in caplog.text


# ------------------------------------------------------------------ caching


def test_workers_share_what_memcached_knows(
    start: Start, world: World, distant: Distant, cloud: Cloud, identities: Identities, member: str, demo: str
) -> None:
    options = {**distant.options, 'memcached_servers': cloud.memcached, 'token_cache_time': 30}
    one, other = start(**options), start(**options)
    token = identities.token(member, project_id=demo)
    assert ask(one, world, token).status_int == 200
    distant.proxy.close()
    assert ask(other, world, token).status_int == 200
    check_away(ask(other, world, cloud.token('demo_manager')))


def test_without_memcached_it_goes_on(start: Start, world: World, cloud: Cloud) -> None:
    # Nobody listens there.
    app = start(memcached_servers='127.0.0.1:9')
    for _ in range(2):
        assert ask(app, world, cloud.token('demo')).status_int == 200


def test_a_memcached_that_is_silent_is_not_waited_for_long(start: Start, world: World, cloud: Cloud) -> None:
    with proxy.before(int(cloud.memcached.rpartition(':')[2])) as between:
        between.silent = True
        app = start(memcached_servers=f'127.0.0.1:{between.port}', memcache_pool_socket_timeout=1)
        begun = time.monotonic()
        for _ in range(2):
            assert ask(app, world, cloud.token('demo')).status_int == 200
        # It is asked once, and then taken for dead for a while.
        assert time.monotonic() - begun < 5


def test_a_client_of_memcached_that_is_missing_ends_the_start(
    start: Start, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'memcache', None)
    with pytest.raises(exceptions.ConfigurationError) as caught:
        start(memcached_servers=cloud.memcached)
    message = str(caught.value)
    assert 'install python-memcached' in message
    assert '\n' not in message
