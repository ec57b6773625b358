"""A Flask host keeps everything of its own, and our URLs are ours alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import flask
import pytest
import werkzeug.exceptions

from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import callers

from .conftest import NAMES, TOKENS, Build, World

SERVER = NAMES['srv_active']
LIST = f'/v2.1/servers/{SERVER}/os-interface'
ITEM = f'{LIST}/{NAMES["p_active"]}'


class FailingServers(SQLServerDriver):
    def get(self, *args: Any) -> base.Server:
        raise RuntimeError('a bug in a driver')


@dataclasses.dataclass
class Host:
    """A Flask application with habits of its own, and what its hooks have seen."""

    app: flask.Flask
    handled: list[str]
    hooks: list[str]

    def send(self, method: str, path: str, who: str | None = 'a_member', **kwargs: Any) -> Any:
        headers = {'X-Auth-Token': TOKENS[who]} if who else {}
        headers |= kwargs.pop('headers', {})
        return self.app.test_client().open(path, method=method, headers=headers, **kwargs)


def make_host(
    handlers: str = 'codes', *, strict_slashes: bool = True, catch_all: bool = False, **settings: Any
) -> Host:
    app = flask.Flask('host')
    app.secret_key = 'a secret of the host'
    app.url_map.strict_slashes = strict_slashes
    app.config.update(settings)
    host = Host(app, handled=[], hooks=[])

    def handler(error: Exception) -> tuple[str, int]:
        host.handled.append(type(error).__name__)
        return f'the host regrets: {type(error).__name__}', getattr(error, 'code', None) or 500

    of_kind: dict[str, list[Any]] = {
        'codes': [400, 401, 403, 404, 405, 406, 409, 413, 415, 500, 503],
        'http': [werkzeug.exceptions.HTTPException],
        'exception': [Exception],
        'none': [],
    }
    for key in of_kind[handlers]:
        app.register_error_handler(key, handler)

    @app.before_request
    def before() -> None:
        flask.g.visitor = 'somebody'
        host.hooks.append('before')

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        response.headers['X-Host'] = flask.g.visitor
        host.hooks.append('after')
        return response

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        host.hooks.append(f'teardown {type(error).__name__}')

    @app.context_processor
    def processor() -> dict[str, str]:
        return {'motto': 'steady'}

    app.add_url_rule('/', 'root', lambda: {'versions': ['of the host']})
    app.add_url_rule('/v2.1/', 'version', lambda: {'version': 'of the host'})
    app.add_url_rule('/v2.1/servers/', 'servers', lambda: {'servers': []}, methods=['GET', 'POST'])
    app.add_url_rule('/v2.1/servers/<id>', 'server', lambda id: {'server': id})
    app.add_url_rule('/<project_id>/servers', 'of_project', lambda project_id: {'project': project_id})
    app.add_url_rule('/leaf', 'leaf', lambda: 'leaf')
    app.add_url_rule('/template', 'template', lambda: flask.render_template_string('{{ motto }}, {{ g.visitor }}'))
    app.add_url_rule('/upload', 'upload', lambda: flask.request.get_data(), methods=['POST'])
    app.add_url_rule('/abort/<int:code>', 'abort', lambda code: flask.abort(code))
    app.add_url_rule('/field', 'field', lambda: flask.request.form['missing'], methods=['POST'])

    @app.get('/count')
    def count() -> str:
        flask.session['visits'] = flask.session.get('visits', 0) + 1
        return str(flask.session['visits'])

    @app.get('/boom')
    def boom() -> str:
        raise LookupError('of the host')

    if catch_all:
        methods = ['GET', 'POST', 'PUT', 'DELETE']
        app.add_url_rule('/<path:rest>', 'rest', lambda rest: f'caught {rest!r}', methods=methods)
    return host


def extension(world: World, **kwargs: Any) -> Extension:
    """On the world's configuration, for the callers of its inventory."""

    def identity(environ: Mapping[str, Any]) -> RequestContext | None:
        found = callers.find(world.database, environ.get('HTTP_X_AUTH_TOKEN', ''))
        return RequestContext(**found) if found else None

    return Extension(world.conf, identity=identity, **kwargs)


OF_THE_HOST = [
    ('GET', '/', {}),
    ('GET', '/v2.1', {}),
    ('GET', '/v2.1/', {}),
    ('GET', '/v2.1/servers', {}),
    ('GET', '/v2.1/servers/', {}),
    ('POST', '/v2.1/servers/', {'json': {'server': {}}}),
    ('DELETE', '/v2.1/servers/', {}),
    ('OPTIONS', '/v2.1/servers/', {}),
    ('GET', f'/v2.1/servers/{SERVER}', {}),
    ('GET', f'/v2.1/servers/{SERVER}/', {}),
    ('PUT', f'/v2.1/servers/{SERVER}', {}),
    ('GET', f'/v2.1/servers/{SERVER}/ips', {}),
    ('GET', f'/v2.1/servers/{SERVER}/os-interfaces', {}),
    ('GET', f'/v2.1/servers/{SERVER}/os-interface.json', {}),
    ('GET', '/v2.1/os-interface', {}),
    ('GET', '/v2.1/servers/os-interface', {}),
    ('GET', '/project/servers', {}),
    ('GET', '/project/servers/', {}),
    ('GET', '/leaf', {}),
    ('GET', '/leaf/', {}),
    ('POST', '/leaf', {}),
    ('GET', '//leaf', {}),
    ('GET', '/template', {}),
    ('POST', '/upload', {'data': b'small'}),
    ('POST', '/upload', {'data': b'x' * 100}),
    ('GET', '/abort/409', {}),
    ('GET', '/abort/404', {}),
    ('GET', '/abort/418', {}),
    ('POST', '/field', {'data': {'other': 'x'}}),
    ('GET', '/boom', {}),
    ('GET', '/nowhere', {}),
    ('PATCH', '/nowhere', {}),
]
#: what looks like ours and is not
SLASHES = [
    f'{LIST}/',
    f'{ITEM}/',
    f'/{LIST}',
    LIST.replace('/servers', '//servers'),
    LIST.replace('/os-interface', '//os-interface'),
    ITEM.replace('/os-interface/', '/os-interface//'),
    f'/v2.1//servers/{SERVER}/os-interface/{NAMES["p_active"]}/',
    f'{ITEM}/more',
    f'/v2.1/a/b/servers/{SERVER}/os-interface',
]


def answer(host: Host, method: str, path: str, kwargs: dict[str, Any]) -> tuple[Any, ...]:
    try:
        response = host.send(method, path, base_url='http://host.example/', **kwargs)
    except Exception as error:
        return type(error), str(error)
    headers = sorted((name, value) for name, value in response.headers if name != 'Allow')
    return response.status, headers, sorted(response.allow), response.get_data()


HOSTS = {
    'codes': {},
    'http': {'handlers': 'http'},
    'exception': {'handlers': 'exception'},
    'no handlers': {'handlers': 'none'},
    'lenient slashes': {'strict_slashes': False},
    'catch-all': {'catch_all': True},
    'lenient catch-all': {'catch_all': True, 'strict_slashes': False},
    'propagating': {'handlers': 'none', 'PROPAGATE_EXCEPTIONS': True},
    'testing': {'handlers': 'none', 'TESTING': True, 'TRAP_BAD_REQUEST_ERRORS': True},
    'debug': {'handlers': 'none', 'DEBUG': True, 'TRAP_HTTP_EXCEPTIONS': True},
    'small bodies': {'MAX_CONTENT_LENGTH': 32},
}


@pytest.mark.parametrize('options', HOSTS.values(), ids=HOSTS)
def test_the_host_keeps_its_own(world: World, options: dict[str, Any]) -> None:
    alone, hosting = make_host(**options), make_host(**options)
    extension(world).register(hosting.app)
    requests = OF_THE_HOST + [
        (method, path, {}) for path in SLASHES for method in ('GET', 'POST', 'DELETE', 'PUT')
    ]
    for method, path, kwargs in requests:
        expected = answer(alone, method, path, kwargs)
        assert answer(hosting, method, path, kwargs) == expected, (method, path)
    assert hosting.handled == alone.handled
    assert hosting.hooks == alone.hooks


def test_registering_changes_nothing_but_routes(world: World) -> None:
    host = make_host()
    app = host.app

    def habits() -> dict[str, Any]:
        return {
            'config': dict(app.config),
            'handlers': {
                key: {k: dict(v) for k, v in value.items()} for key, value in app.error_handler_spec.items()
            },
            'before': {key: list(value) for key, value in app.before_request_funcs.items()},
            'after': {key: list(value) for key, value in app.after_request_funcs.items()},
            'teardown': {key: list(value) for key, value in app.teardown_request_funcs.items()},
            'app teardown': list(app.teardown_appcontext_funcs),
            'processors': list(app.template_context_processors[None]),
            'preprocessors': dict(app.url_value_preprocessors),
            'defaults': dict(app.url_default_functions),
            'wsgi_app': app.wsgi_app,
            'json': app.json,
            'classes': (app.request_class, app.response_class, app.session_interface, app.url_rule_class),
            'extensions': dict(app.extensions),
            'slashes': (app.url_map.strict_slashes, app.url_map.merge_slashes, app.url_map.redirect_defaults),
            'converters': dict(app.url_map.converters),
            'filters': set(app.jinja_env.filters) | set(app.jinja_env.globals),
            'commands': list(app.cli.commands),
            'loggers': (app.logger.level, list(app.logger.handlers)),
        }

    before = habits()
    routes = {rule.rule for rule in app.url_map.iter_rules()}
    extension(world).register(app)
    assert host.send('GET', LIST).status_code == 200
    assert habits() == before
    added = {rule.rule for rule in app.url_map.iter_rules()} - routes
    assert added == {
        '/v2.1/servers/<server_id>/os-interface',
        '/v2.1/servers/<server_id>/os-interface/<port_id>',
        '/v2.1/<project_id>/servers/<server_id>/os-interface',
        '/v2.1/<project_id>/servers/<server_id>/os-interface/<port_id>',
    }


def test_the_session_of_the_host(world: World) -> None:
    host = make_host()
    extension(world).register(host.app)
    client = host.app.test_client()
    headers = {'X-Auth-Token': TOKENS['a_member']}
    assert client.get('/count').text == '1'
    ours = client.get(LIST, headers=headers)
    assert ours.status_code == 200
    assert 'Set-Cookie' not in ours.headers
    assert 'Vary' in ours.headers
    assert 'Cookie' not in ours.headers['Vary']
    assert client.get('/count').text == '2'


OURS = [
    ('GET', LIST, None, None, 401),
    ('GET', LIST, 'a_other', None, 403),
    ('GET', LIST, 'b_member', None, 404),
    ('GET', f'{LIST}/{NAMES["missing_port"]}', 'a_member', None, 404),
    ('DELETE', f'{LIST}/{NAMES["missing_port"]}', 'a_member', None, 404),
    ('PUT', LIST, 'a_member', None, 405),
    ('POST', ITEM, 'a_member', None, 405),
    ('POST', LIST, 'a_member', b'{', 400),
    ('POST', LIST, 'a_member', b'x' * 120000, 413),
    ('POST', LIST, 'a_member', json.dumps({'interfaceAttachment': {'port_id': NAMES['p_multi_a']}}).encode(), 409),
]


@pytest.mark.parametrize('options', HOSTS.values(), ids=HOSTS)
def test_our_faults_are_ours(world: World, options: dict[str, Any]) -> None:
    host = make_host(**options)
    extension(world).register(host.app)
    for method, path, who, data, status in OURS:
        response = host.send(method, path, who, data=data)
        assert response.status_code == status, (method, path)
        assert response.content_type == 'application/json'
        ((_, fault),) = response.json.items()
        assert fault['code'] == status
        assert response.headers['x-compute-request-id'].startswith('req-')
    assert host.handled == []
    # The hooks of the host are for every request that it takes, ours too.
    assert host.hooks == ['before', 'after', 'teardown NoneType'] * len(OURS)


@pytest.mark.parametrize('options', HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize(('method', 'path'), [('GET', LIST), ('GET', ITEM), ('DELETE', ITEM), ('POST', LIST)])
def test_a_bug_in_a_driver_is_our_500(
    world: World, options: dict[str, Any], method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host(**options)
    extension(world, server_driver=FailingServers(world.conf)).register(host.app)
    with caplog.at_level(logging.ERROR):
        response = host.send(method, path, data=b'{}' if method == 'POST' else None)
    assert response.status_code == 500
    assert response.json['computeFault']['code'] == 500
    assert 'bug in a driver' not in response.text
    assert 'a bug in a driver' in caplog.text
    assert host.handled == []


@pytest.mark.parametrize('prefix', ['', f'/{NAMES["project_a"]}'])
@pytest.mark.parametrize('options', [HOSTS['codes'], HOSTS['catch-all'], HOSTS['debug']])
def test_the_operations_in_a_host(world: World, options: dict[str, Any], prefix: str) -> None:
    host = make_host(**options)
    extension(world).register(host.app)
    url = LIST.replace('/v2.1', f'/v2.1{prefix}')
    body = {'interfaceAttachment': {'port_id': NAMES['p_free']}}
    assert [one['port_id'] for one in host.send('GET', url).json['interfaceAttachments']] == [NAMES['p_active']]
    assert host.send('POST', url, json=body).json['interfaceAttachment']['port_id'] == NAMES['p_free']
    assert host.send('GET', f'{url}/{NAMES["p_free"]}').status_code == 200
    assert host.send('HEAD', f'{url}/{NAMES["p_free"]}').status_code == 200
    assert host.send('DELETE', f'{url}/{NAMES["p_free"]}').status_code == 202
    assert host.send('GET', f'{url}/{NAMES["p_free"]}').status_code == 404


def test_a_body_that_the_host_allows_less_of_or_has_read_already(world: World) -> None:
    host = make_host(MAX_CONTENT_LENGTH=32)
    extension(world).register(host.app)
    body = {'interfaceAttachment': {'port_id': NAMES['p_free']}}
    assert host.send('POST', LIST, json=body).status_code == 200

    curious = make_host()
    curious.app.before_request(lambda: host.hooks.append(str(flask.request.get_json(silent=True))) or None)
    extension(world).register(curious.app)
    body = {'interfaceAttachment': {'port_id': NAMES['p_free2']}}
    answer = curious.send('POST', LIST, json=body)
    assert answer.json['interfaceAttachment']['port_id'] == NAMES['p_free2']


def test_a_host_that_answers_first(world: World) -> None:
    host = make_host()
    host.app.before_request(lambda: ('closed for the night', 503))
    extension(world).register(host.app)
    answer = host.send('GET', LIST)
    assert (answer.status_code, answer.text) == (503, 'closed for the night')


@pytest.mark.parametrize(
    ('path', 'allow'),
    [(LIST, {'GET', 'HEAD', 'POST', 'OPTIONS'}), (ITEM, {'GET', 'HEAD', 'DELETE', 'OPTIONS'})],
)
@pytest.mark.parametrize('options', [HOSTS['codes'], HOSTS['catch-all']])
def test_options(world: World, path: str, allow: set[str], options: dict[str, Any]) -> None:
    host = make_host(**options)
    extension(world).register(host.app)
    for url in (path, path.replace('/v2.1', '/v2.1/project')):
        response = host.send('OPTIONS', url, None)
        assert response.status_code in (200, 204)
        assert set(response.allow) == allow
    assert host.handled == []


@pytest.mark.parametrize('prefix', ['', '/', '/v2.1', '/compute/v2.1', '/v2.1/'])
def test_the_prefix_is_the_hosts_choice(world: World, prefix: str) -> None:
    host = make_host(handlers='none')
    extension(world).register(host.app, url_prefix=prefix)
    path = f'{prefix.rstrip("/")}/servers/{SERVER}/os-interface'
    assert host.send('GET', path).status_code == 200
    assert host.send('GET', f'/elsewhere/nested{path}').status_code == 404


def test_two_extensions_on_two_hosts(build: Build) -> None:
    one, other = build('one'), build('other', api={'strict_nova': True, 'max_microversion': '2.60'})
    hosts = make_host(), make_host()
    extension(one).register(hosts[0].app)
    extension(other).register(hosts[1].app)
    check_two([(hosts[0], LIST), (hosts[1], LIST)])


def test_two_extensions_on_one_host(build: Build) -> None:
    one, other = build('one'), build('other', api={'strict_nova': True, 'max_microversion': '2.60'})
    host = make_host()
    extension(one).register(host.app, url_prefix='/v2.1')
    extension(other).register(host.app, url_prefix='/region2/v2.1', name='region2')
    check_two([(host, LIST), (host, f'/region2{LIST}')])


def check_two(places: list[tuple[Host, str]]) -> None:
    """The first is as the defaults have it, the second is strict and ends at 2.60."""
    body = {'interfaceAttachment': {'port_id': NAMES['p_free']}}

    def ports(place: tuple[Host, str]) -> list[str]:
        host, url = place
        return [one['port_id'] for one in host.send('GET', url).json['interfaceAttachments']]

    (host, url), (other_host, other_url) = places
    assert host.send('POST', url, json=body).status_code == 200
    assert ports(places[0]) == [NAMES['p_active'], NAMES['p_free']]
    assert ports(places[1]) == [NAMES['p_active']]
    assert other_host.send('POST', other_url, json=body).status_code == 200
    assert host.send('DELETE', f'{url}/{NAMES["p_free"]}').status_code == 202
    assert ports(places[0]) == [NAMES['p_active']]
    assert ports(places[1]) == [NAMES['p_active'], NAMES['p_free']]

    again = {'interfaceAttachment': {'port_id': NAMES['p_active']}}
    assert host.send('POST', url, json=again).status_code == 200
    assert other_host.send('POST', other_url, json=again).status_code == 409
    newer = {'OpenStack-API-Version': 'compute 2.70'}
    assert host.send('GET', url, headers=newer).status_code == 200
    assert other_host.send('GET', other_url, headers=newer).status_code == 406


GLOBALS = """
import json, logging, signal, sys, threading, warnings

import flask
import requests, sqlalchemy  # these two touch the warnings and a logger when they are imported
from oslo_config import cfg
from oslo_context import context
from oslo_policy import _checks, policy

host_argv = ['host', '--config-file', '/nowhere.conf', '--config-dir', '/nowhere', '--version']
mine = context.RequestContext(user_id='of the host')
handler = logging.NullHandler()
logging.root.addHandler(handler)
logging.root.setLevel(logging.CRITICAL)
cfg.CONF([], project='host', default_config_files=[])
enforcer = policy.Enforcer(cfg.CONF)
enforcer.register_default(policy.RuleDefault('context_is_admin', '!'))
excepthook = sys.excepthook
foreign = ('sqlalchemy', 'werkzeug', 'flask', 'oslo_policy', 'oslo_config', 'stevedore')
for name in foreign:
    logging.getLogger(name)


def state():
    return {
        'context': context.get_current() is mine,
        'root': ([repr(one) for one in logging.root.handlers], logging.root.level, logging.root.filters),
        'disabled': logging.root.manager.disable,
        'levels': {name: logging.getLogger(name).level for name in foreign},
        'logger class': logging.getLoggerClass().__name__,
        'options': sorted(cfg.CONF),
        'groups': {name: sorted(cfg.CONF[name]) for name in cfg.CONF._groups},
        'rules': {name: str(rule) for name, rule in enforcer.registered_rules.items()},
        'checks': sorted(_checks.registered_checks, key=str),
        'threads': [thread.name for thread in threading.enumerate()],
        'argv': sys.argv,
        'hooks': (sys.excepthook is excepthook, threading.excepthook.__name__),
        'signals': {one.name: str(signal.getsignal(one)) for one in signal.Signals},
        'flask': sorted(vars(flask.Flask)),
        'filters': [str(one) for one in warnings.filters],
        'patched': threading.Thread.__module__,
    }


path, token, list_url, port = sys.argv[1:]
sys.argv = host_argv
before = json.loads(json.dumps(state(), default=str))

from os_interface_ext import conf as config
from os_interface_ext.context import RequestContext
from os_interface_ext.extension import Extension

conf = config.new([], database={'connection': f'sqlite:///{path}'})
who = lambda environ: RequestContext(user_id='u', project_id=token, roles=['member', 'reader'])
app = flask.Flask('host')
Extension(conf, identity=who).register(app)
client = app.test_client()
body = {'interfaceAttachment': {'port_id': port}}
answers = [
    client.get(list_url).status_code,
    client.post(list_url, json=body).status_code,
    client.get(f'{list_url}/{port}').status_code,
    client.delete(f'{list_url}/{port}').status_code,
    client.get(f'{list_url}/{port}').status_code,
]
after = json.loads(json.dumps(state(), default=str))
changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
print(json.dumps({'answers': answers, 'changed': changed}))
"""


@pytest.mark.service
def test_nothing_global_is_touched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment that oslo.config reads by default is the host's too.
    monkeypatch.setenv('OS_OS_INTERFACE__VIF_DRIVER', 'of-the-host')
    monkeypatch.setenv('OS_DATABASE__CONNECTION', 'sqlite:////of/the/host')
    path = world.database.engine.url.database
    result = subprocess.run(
        [sys.executable, '-c', GLOBALS, str(path), NAMES['project_a'], LIST, NAMES['p_free']],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {'answers': [200, 200, 200, 202, 404], 'changed': {}}
    assert result.stderr == ''
