"""The paste file that is delivered, and starts through each front door."""

from __future__ import annotations

import io
import json
import logging
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any
from wsgiref import simple_server

import flask
import pytest
import webtest
from paste import deploy

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.wsgi import paste

from .conftest import NAMES, TOKENS, Build
from .test_identity import FORGED, KNOWN

ROOT = pathlib.Path(__file__).parents[2]
INI = ROOT / 'etc' / 'os-interface-ext' / 'api-paste.ini'
LIST = f'/v2.1/servers/{NAMES["srv_active"]}/os-interface'
COMPOSITES = ['static_tokens', 'keystone']
#: Nobody listens there, and nobody is asked twice.
NO_KEYSTONE = {
    'www_authenticate_uri': 'http://127.0.0.1:9/',
    'auth_type': 'none',
    'endpoint': 'http://127.0.0.1:9/',
    'http_request_max_retries': '0',
    'http_connect_timeout': '1',
}

Sections = dict[str, dict[str, str]]
Configure = Callable[..., pathlib.Path]


@pytest.fixture
def database(build: Build) -> str:
    """The URL of a database with the starting state."""
    return build().database.engine.url.render_as_string()


@pytest.fixture
def configure(database: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write a configuration file, and have it found."""

    def write(**sections: dict[str, str]) -> pathlib.Path:
        path = tmp_path / 'os-interface-ext.conf'
        merged: Sections = {'database': {'connection': database}, 'keystone_authtoken': NO_KEYSTONE, **sections}
        path.write_text(
            ''.join(
                f'[{name}]\n' + ''.join(f'{key} = {value}\n' for key, value in options.items())
                for name, options in merged.items()
            )
        )
        monkeypatch.setenv(config.ENV_FILES, str(path))
        return path

    return write


def load(name: str) -> webtest.TestApp:
    return webtest.TestApp(deploy.loadapp(f'config:{INI}', name=name))


def as_member(**headers: str) -> dict[str, str]:
    return {'X-Auth-Token': TOKENS['a_member'], 'OpenStack-API-Version': 'compute 2.70', **headers}


# ------------------------------------------------------------------ the pipelines


def test_static_tokens_end_to_end(configure: Configure) -> None:
    configure()
    app = load('static_tokens')
    for prefix in (LIST, LIST.replace('/v2.1/', f'/v2.1/{NAMES["project_a"]}/')):
        listed = app.get(prefix, headers=as_member()).json['interfaceAttachments']
        assert [one['port_id'] for one in listed] == [NAMES['p_active']]
        body = {'interfaceAttachment': {'port_id': NAMES['p_free'], 'tag': 'new'}}
        made = app.post_json(prefix, body, headers=as_member()).json['interfaceAttachment']
        assert (made['port_id'], made['tag']) == (NAMES['p_free'], 'new')
        url = f'{prefix}/{NAMES["p_free"]}'
        assert app.get(url, headers=as_member()).json['interfaceAttachment'] == made
        assert app.delete(url, headers=as_member(), status=202).body == b''
        assert app.get(url, headers=as_member(), status=404).json['itemNotFound']
    assert app.get(LIST, status=401).json['unauthorized']
    assert app.get(LIST, headers=FORGED, status=401).json['unauthorized']
    for elsewhere in ('/v2.1/servers', f'{LIST}/'):
        assert app.get(elsewhere, headers=as_member(), status=404).json['itemNotFound']
    app.get('/elsewhere', status=404)
    app.get('/v2.10/servers', status=404)


def test_keystone_without_a_token(configure: Configure) -> None:
    configure()
    app = load('keystone')
    for headers in ({}, FORGED):
        answer = app.get(LIST, headers=headers, status=401)
        assert next(iter(answer.json.values()))['code'] == 401
        assert answer.headers['WWW-Authenticate'] == 'Keystone uri="http://127.0.0.1:9/"'
    # Nobody can tell whose token it is.
    app.get(LIST, headers={'X-Auth-Token': 'unknown'}, status=503)


def test_keystone_with_the_decision_delayed(configure: Configure) -> None:
    configure(keystone_authtoken={**NO_KEYSTONE, 'delay_auth_decision': 'true'})
    answer = load('keystone').get(LIST, headers=FORGED, status=401)
    assert answer.json['unauthorized']['code'] == 401


@pytest.fixture
def keystone() -> Iterator[str]:
    """An identity service that knows a few tokens."""
    app = flask.Flask('keystone')

    @app.get('/v3')
    def version() -> dict[str, Any]:
        links = [{'rel': 'self', 'href': flask.request.url_root + 'v3'}]
        return {'version': {'id': 'v3.14', 'status': 'stable', 'links': links}}

    @app.get('/v3/auth/tokens')
    def tokens() -> Any:
        return KNOWN.get(flask.request.headers['X-Subject-Token'], ({}, 404))

    class Quiet(simple_server.WSGIRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with simple_server.make_server('127.0.0.1', 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}/v3'
        server.shutdown()
        thread.join()


def test_keystone_end_to_end(configure: Configure, keystone: str) -> None:
    configure(keystone_authtoken={**NO_KEYSTONE, 'endpoint': keystone})
    app = load('keystone')
    for headers in ({}, FORGED):
        expected = {'member': 200, 'nobody': 403, 'member of b': 404, 'system admin': 403, 'unknown': 401}
        for sent, status in expected.items():
            app.get(LIST, headers={**headers, 'X-Auth-Token': sent}, status=status)
    url = f'{LIST}/{NAMES["p_active"]}'
    app.delete(url, headers={'X-Auth-Token': 'reader'}, status=403)
    app.delete(url, headers={'X-Auth-Token': 'member'}, status=202)


@pytest.mark.parametrize('name', COMPOSITES)
def test_healthcheck_wants_no_token(configure: Configure, name: str) -> None:
    configure()
    assert load(name).get('/healthcheck').status_int == 200


@pytest.mark.parametrize('name', COMPOSITES)
def test_healthcheck_is_configured_in_our_file(configure: Configure, name: str, tmp_path: pathlib.Path) -> None:
    marker = tmp_path / 'disabled'
    configure(healthcheck={'backends': 'disable_by_file', 'disable_by_file_path': str(marker)})
    app = load(name)
    assert app.get('/healthcheck').status_int == 200
    marker.write_text('')
    app.get('/healthcheck', status=503)


@pytest.mark.parametrize('name', COMPOSITES)
def test_cors(configure: Configure, name: str) -> None:
    preflight = {'Origin': 'https://horizon.example', 'Access-Control-Request-Method': 'POST'}
    configure()
    assert 'Access-Control-Allow-Origin' not in load(name).options(LIST, headers=preflight, status='*').headers

    configure(
        cors={
            'allowed_origin': 'https://horizon.example',
            'allow_methods': 'GET,POST,DELETE',
            'allow_headers': 'X-Auth-Token,OpenStack-API-Version',
            'expose_headers': 'x-compute-request-id',
        }
    )
    app = load(name)
    wanted = {**preflight, 'Access-Control-Request-Headers': 'X-Auth-Token'}
    answer = app.options(LIST, headers=wanted, status=200)
    assert answer.headers['Access-Control-Allow-Origin'] == 'https://horizon.example'
    assert 'POST' in answer.headers['Access-Control-Allow-Methods']
    assert 'X-Auth-Token' in answer.headers['Access-Control-Allow-Headers']
    foreign = app.options(LIST, headers={**wanted, 'Origin': 'https://evil.example'}, status='*')
    assert 'Access-Control-Allow-Origin' not in foreign.headers
    if name == 'static_tokens':
        answer = app.get(LIST, headers=as_member(Origin='https://horizon.example'))
        assert answer.headers['Access-Control-Allow-Origin'] == 'https://horizon.example'
        assert answer.headers['Access-Control-Expose-Headers'] == 'x-compute-request-id'


@pytest.mark.parametrize('name', COMPOSITES)
def test_size_limit(configure: Configure, name: str) -> None:
    configure()
    app = load(name)
    headers = as_member(**{'Content-Type': 'application/json'})
    answer = app.post(LIST, b'{"x": "' + b'x' * 114688 + b'"}', headers=headers, status=413)
    check_request_id(answer)
    if name == 'static_tokens':
        assert app.post(LIST, b'{}' + b' ' * (114688 - 2), headers=headers, status=400).json['badRequest']
        environ = {
            'wsgi.input': io.BytesIO(b'{"x": "' + b'x' * 114688 + b'"}'),
            'wsgi.input_terminated': True,
            'HTTP_TRANSFER_ENCODING': 'chunked',
        }
        request = webtest.TestRequest.blank(LIST, environ, headers=headers, method='POST')
        request.environ.pop('CONTENT_LENGTH', None)
        assert app.do_request(request, status=413).status_int == 413


def test_the_size_limit_is_configured_in_our_file(configure: Configure) -> None:
    configure(oslo_middleware={'max_request_body_size': '2000'})
    app = load('static_tokens')
    headers = as_member(**{'Content-Type': 'application/json'})
    app.post(LIST, b'{}' + b' ' * 1998, headers=headers, status=400)
    app.post(LIST, b'{}' + b' ' * 1999, headers=headers, status=413)


def check_request_id(answer: webtest.TestResponse) -> str:
    (one,) = answer.headers.getall('x-openstack-request-id')
    (other,) = answer.headers.getall('x-compute-request-id')
    assert one == other
    assert one.startswith('req-')
    return str(one)


def test_request_ids(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    configure()
    sent = 'req-11111111-2222-3333-4444-555555555555'
    seen = set()
    for name in COMPOSITES:
        app = load(name)
        for method, path, headers in [
            ('GET', LIST, as_member()),
            ('GET', LIST, as_member(**{'X-Openstack-Request-Id': sent})),
            ('GET', LIST, as_member(**{'X-Openstack-Request-Id': 'req-nonsense\t'})),
            ('GET', LIST, {}),
            ('PUT', LIST, as_member()),
            ('DELETE', f'{LIST}/{NAMES["missing_port"]}', as_member()),
            ('GET', '/v2.1/elsewhere', as_member()),
            ('OPTIONS', LIST, as_member()),
        ]:
            answer = app.request(path, method=method, headers=headers, expect_errors=True)
            seen.add(check_request_id(answer))
    assert len(seen) == 16
    assert sent not in seen


@pytest.mark.parametrize('name', COMPOSITES)
def test_health_and_metrics_are_public(configure: Configure, tmp_path: pathlib.Path, name: str) -> None:
    configure(metrics={'directory': f'{tmp_path}/metrics'})
    app = load(name)
    for path in ('/healthcheck', '/healthcheck/live'):
        app.get(path, status=200)
    assert app.get('/healthcheck/ready').json['status'] == 'ready'
    app.get(LIST, headers=as_member(), status=200 if name == 'static_tokens' else 503)
    counted = 'requests_total{microversion="2.70",operation="list",status="200"} 1.0'
    assert (counted in app.get('/metrics').text) is (name == 'static_tokens')
    assert counted in load('metrics').get('/').text or name == 'keystone'


def test_without_a_directory_there_are_no_metrics(configure: Configure) -> None:
    configure()
    app = load('static_tokens')
    app.get('/metrics', status=404)
    app.get('/healthcheck/ready', status=200)


@pytest.mark.parametrize('factory', [paste.metrics_factory, paste.ready_factory])
def test_an_unknown_option_of_health_and_metrics_is_refused(configure: Configure, factory: Any) -> None:
    configure()
    with pytest.raises(exceptions.ConfigurationError, match=r'unknown options unknown: .*known: config_file\)'):
        factory({}, unknown='1')


def test_http_proxy_to_wsgi(configure: Configure) -> None:
    def show(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [environ['wsgi.url_scheme'].encode(), b' ', environ['HTTP_HOST'].encode()]

    headers = {'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'public.example'}
    for enabled, expected in (('false', 'http localhost:80'), ('true', 'https public.example')):
        configure(oslo_middleware={'enable_proxy_headers_parsing': enabled})
        app = webtest.TestApp(deploy.loadfilter(f'config:{INI}', name='http_proxy_to_wsgi')(show))
        assert app.get('/', headers=headers).text == expected


def test_several_files(configure: Configure, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later file is the stronger one, for the filters too."""
    first = configure(
        cors={'allowed_origin': 'https://one.example'}, oslo_middleware={'max_request_body_size': '10'}
    )
    second = tmp_path / 'second.conf'
    second.write_text('[cors]\nallowed_origin = https://two.example\n')
    monkeypatch.setenv(config.ENV_FILES, f'{first}{os.pathsep}{second}')
    app = load('static_tokens')
    answer = app.get(LIST, headers=as_member(Origin='https://two.example'))
    assert answer.headers['Access-Control-Allow-Origin'] == 'https://two.example'
    app.post(LIST, b'x' * 11, headers=as_member(), status=413)


def test_a_file_per_section(configure: Configure, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``config_file`` of a paste section is stronger than the environment."""
    mine = configure(api={'max_microversion': '2.60'}, cors={'allowed_origin': 'https://mine.example'})
    other = tmp_path / 'other.conf'
    other.write_text('[database]\nconnection = sqlite:////nowhere/at/all\n[os_interface]\nvif_driver = nonsense\n')
    monkeypatch.setenv(config.ENV_FILES, str(other))
    ini = tmp_path / 'paste.ini'
    ini.write_text(
        textwrap.dedent(f"""
        [pipeline:main]
        pipeline = cors static_tokens os_interface rest
        [filter:cors]
        paste.filter_factory = os_interface_ext.middleware.configured:cors
        config_file = {mine}
        [filter:static_tokens]
        use = egg:os-interface-ext#static_tokens
        config_file = {mine}
        public = /open /v2.1/
        [filter:os_interface]
        use = egg:os-interface-ext#os_interface
        config_file = {mine}
        url_prefix = /v2.1
        [app:rest]
        use = egg:os-interface-ext#api
        config_file = {mine}
        """)
    )
    app = webtest.TestApp(deploy.loadapp(f'config:{ini}'))
    answer = app.get(LIST, headers={'X-Auth-Token': TOKENS['a_member'], 'Origin': 'https://mine.example'})
    assert answer.json['interfaceAttachments'][0]['port_id'] == NAMES['p_active']
    assert answer.headers['Access-Control-Allow-Origin'] == 'https://mine.example'
    assert app.get(LIST, headers=as_member(), status=406).json['computeFault']
    for path, status in (('/open', 404), ('/v2.1/', 404), ('/open/', 401), ('/closed', 401)):
        app.get(path, status=status)
    # Without its prefix the same URL is that of the application behind.
    bare = LIST.removeprefix('/v2.1')
    assert app.get(bare, headers={'X-Auth-Token': TOKENS['a_member']}).json['interfaceAttachments']


def test_static_tokens_while_the_database_is_away(configure: Configure, database: str) -> None:
    configure()
    app = load('static_tokens')
    path = database.removeprefix('sqlite:///')
    for suffix in ('-wal', '-shm'):
        pathlib.Path(path + suffix).unlink(missing_ok=True)
    pathlib.Path(path).write_bytes(b'no database' * 1000)
    answer = app.get(LIST, headers=as_member(), status=503)
    assert answer.json['serviceUnavailable']['code'] == 503
    assert int(answer.headers['Retry-After']) > 0
    assert 'sqlite' not in answer.text
    check_request_id(answer)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name.startswith('os_interface_ext')
    ]


def test_keystone_warns_of_drivers_for_development(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    configure()
    with caplog.at_level(logging.WARNING):
        load('keystone')
    server, network, vif = warnings_of(caplog)
    assert server.startswith('[os_interface] server_driver = sql: ')
    assert 'servers are rows of the embedded inventory' in server
    assert network.startswith('[os_interface] network_driver = sql: ')
    assert 'ports are rows of the embedded inventory' in network
    assert vif.startswith('[os_interface] vif_driver = noop: ')
    assert 'no NIC reaches a guest' in vif


def test_static_tokens_warns_of_nothing(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    configure()
    with caplog.at_level(logging.WARNING):
        load('static_tokens')
    assert warnings_of(caplog) == []


@pytest.mark.parametrize('name', ['http_proxy_to_wsgi', 'cors', 'sizelimit', 'healthcheck'])
def test_options_in_the_paste_section_are_not_ignored(name: str) -> None:
    """oslo.middleware's own factories would take them: what is not read is refused, and says where to."""
    from os_interface_ext.middleware import configured

    with pytest.raises(exceptions.ConfigurationError, match='allowed_origin is not read here'):
        getattr(configured, name)({}, allowed_origin='*')


# ------------------------------------------------------------------ entry points


@pytest.mark.parametrize(
    ('group', 'name'),
    [
        ('paste.app_factory', 'api'),
        ('paste.filter_factory', 'os_interface'),
        ('paste.filter_factory', 'static_tokens'),
        ('paste.composite_factory', 'urlmap'),
        ('os_interface_ext.extensions', 'os-interface'),
        ('oslo.config.opts', 'os_interface_ext'),
        ('oslo.policy.policies', 'os-interface-ext'),
        ('oslo.policy.enforcer', 'os-interface-ext'),
    ],
)
def test_entry_points(group: str, name: str) -> None:
    # Other distributions may have some of that name, too (Paste has an urlmap).
    ours = metadata.distribution('os-interface-ext').entry_points
    (found,) = ours.select(group=group, name=name)
    assert found.value.startswith('os_interface_ext.')
    assert callable(found.load())


def test_loading_by_entry_point(configure: Configure) -> None:
    path = configure()
    api = deploy.loadapp('egg:os-interface-ext#api')
    guarded = deploy.loadfilter('egg:os-interface-ext#static_tokens')(api)
    bare = LIST.removeprefix('/v2.1')
    assert webtest.TestApp(guarded).get(bare, headers=as_member()).status_int == 200

    def behind(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [b'behind']

    front = deploy.loadfilter('egg:os-interface-ext#os_interface')(behind)
    app = webtest.TestApp(front)
    assert app.get('/elsewhere').text == 'behind'
    assert app.get(bare, status=401).json['unauthorized']
    assert path.exists()


def test_urlmap_by_entry_point(configure: Configure, tmp_path: pathlib.Path) -> None:
    configure()
    ini = tmp_path / 'paste.ini'
    ini.write_text(
        textwrap.dedent("""
        [composite:main]
        use = egg:os-interface-ext#urlmap
        / = rest
        /compute/v2.1 = deeper
        /compute = rest
        [app:rest]
        use = egg:os-interface-ext#api
        [pipeline:deeper]
        pipeline = static_tokens api
        [filter:static_tokens]
        use = egg:os-interface-ext#static_tokens
        [app:api]
        use = egg:os-interface-ext#api
        """)
    )
    app = webtest.TestApp(deploy.loadapp(f'config:{ini}'))
    assert app.get(f'/compute{LIST}', headers=as_member()).status_int == 200
    assert app.get('/compute/v2.1', status=401).json['unauthorized']
    assert app.get('/compute/v2.10', status=404).json['itemNotFound']


# ------------------------------------------------------------------ processes


def run(code: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != config.ENV_FILES} | environ
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *args], capture_output=True, text=True, check=False, env=env
    )


ASK = """
import json, sys, webtest
from os_interface_ext.wsgi.api import application
app = webtest.TestApp(application)
path, token = sys.argv[1:]
answers = [
    app.get('/healthcheck').status_int,
    app.get(path, status=401).status_int,
    app.get(path, headers={'X-Auth-Token': token}).json,
]
print(json.dumps(answers))
"""


@pytest.mark.service
@pytest.mark.parametrize('paste', [None, 'a full path'])
def test_wsgi_application(configure: Configure, tmp_path: pathlib.Path, paste: str | None) -> None:
    api = {'auth_strategy': 'static_tokens'}
    if paste:
        copy = tmp_path / 'my-paste.ini'
        copy.write_text(INI.read_text())
        api['paste_config'] = str(copy)
    path = configure(api=api)
    result = run(ASK, LIST, TOKENS['a_member'], **{config.ENV_FILES: str(path)})
    assert result.returncode == 0, result.stderr
    health, refused, listed = json.loads(result.stdout)
    assert (health, refused) == (200, 401)
    assert [one['port_id'] for one in listed['interfaceAttachments']] == [NAMES['p_active']]


EXTENSION = """
import sys, flask
from os_interface_ext import conf
from os_interface_ext.extension import Extension
app = flask.Flask('host')
Extension(conf.new([sys.argv[1]])).register(app)
print('started')
"""
FILTER = """
import sys
from paste import deploy
from wsgiref.simple_server import demo_app
rest = lambda global_conf: demo_app
ini = sys.argv[1] + '.ini'
with open(ini, 'w') as out:
    out.write('[pipeline:main]\\npipeline = os_interface rest\\n'
              f'[filter:os_interface]\\nuse = egg:os-interface-ext#os_interface\\nconfig_file = {sys.argv[1]}\\n'
              '[app:rest]\\npaste.app_factory = __main__:rest\\n')
deploy.loadapp('config:' + ini)
print('started')
"""
WSGI = """
import os, sys
os.environ['OS_INTERFACE_EXT_CONFIG_FILES'] = sys.argv[1]
from os_interface_ext.wsgi.api import application
print('started')
"""
DOORS = {'extension': EXTENSION, 'filter': FILTER, 'wsgi': WSGI}


def wrong(**sections: dict[str, str]) -> Sections:
    return sections


WRONG: dict[str, tuple[Sections, list[str]]] = {
    'unknown driver': (
        wrong(os_interface={'vif_driver': 'nonsense'}),
        ['[os_interface] vif_driver', "'nonsense'", 'noop'],
    ),
    'bad number': (wrong(attachments={'lease': 'long'}), ['[attachments] lease', 'long']),
    'bad version': (wrong(api={'max_microversion': '3.1'}), ['[api] max_microversion', '3.1']),
    'no schema': (wrong(database={'connection': 'sqlite:///{tmp}/empty'}), ['[database] connection', 'db sync']),
    'no database': (
        wrong(database={'connection': 'sqlite:///{tmp}/none/at/all'}),
        ['[database] connection', 'db sync'],
    ),
    'not a database': (
        wrong(database={'connection': 'sqlite:///{tmp}/text'}),
        ['[database] connection', 'not a database'],
    ),
    'a folder': (wrong(database={'connection': 'sqlite:///{tmp}'}), ['[database] connection']),
    'not a URL': (
        wrong(database={'connection': 'where it always is'}),
        ['[database] connection', 'not a database URL'],
    ),
    'unknown database': (wrong(database={'connection': 'nosuch://u:hidden@h/n'}), ['[database] connection']),
}


def fill(sections: Sections, tmp_path: pathlib.Path) -> Sections:
    return {
        name: {key: value.format(tmp=tmp_path) for key, value in options.items()}
        for name, options in sections.items()
    }


@pytest.mark.service
@pytest.mark.parametrize('door', list(DOORS))
@pytest.mark.parametrize('what', [*WRONG, 'missing file', 'broken file'])
def test_a_wrong_start_ends_with_one_line(
    configure: Configure, tmp_path: pathlib.Path, door: str, what: str
) -> None:
    (tmp_path / 'empty').touch()
    (tmp_path / 'text').write_text('no database\n' * 1000)
    sections, expected = WRONG.get(what, ({}, []))
    path = configure(**fill(sections, tmp_path))
    if what == 'missing file':
        path.unlink()
        expected = [str(path)]
    elif what == 'broken file':
        path.write_text('[database\nconnection\n')
        expected = [str(path)]
    check_one_line(run(DOORS[door], str(path)), expected)


def check_one_line(result: subprocess.CompletedProcess[str], expected: list[str]) -> None:
    assert result.returncode == 1
    assert result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('os-interface-ext: ')
    for text in expected:
        assert text in line
    assert 'hidden' not in line
    assert 'sqlalche.me' not in line


@pytest.mark.service
@pytest.mark.parametrize('door', list(DOORS))
def test_the_same_starts_when_nothing_is_wrong(configure: Configure, door: str) -> None:
    result = run(DOORS[door], str(configure(api={'auth_strategy': 'static_tokens'})))
    assert (result.returncode, result.stdout, result.stderr) == (0, 'started\n', '')


@pytest.mark.service
@pytest.mark.parametrize(
    ('sections', 'expected'),
    [
        (wrong(api={'auth_strategy': 'password'}), ['[api] auth_strategy', 'password']),
        (wrong(api={'paste_config': 'nowhere.ini'}), ['nowhere.ini']),
        (wrong(api={'paste_config': '/nowhere/at/all.ini'}), ['/nowhere/at/all.ini']),
        (wrong(api={'paste_config': '{tmp}/empty.ini'}), ['[api] paste_config', 'keystone']),
        (wrong(api={'paste_config': '{tmp}/broken.ini'}), ['[api] paste_config', 'broken.ini']),
        (wrong(cors={'allowed_origin': '*', 'max_age': 'soon'}), ['[cors] max_age', 'soon']),
        (wrong(oslo_middleware={'max_request_body_size': 'much'}), ['[oslo_middleware] max_request_body_size']),
        (wrong(healthcheck={'detailed': 'perhaps'}), ['[healthcheck] detailed']),
        (wrong(keystone_authtoken={'auth_type': 'nonsense'}), ['authtoken', 'nonsense']),
        (wrong(keystone_authtoken={**NO_KEYSTONE, 'http_connect_timeout': 'soon'}), ['http_connect_timeout']),
    ],
    ids=str,
)
def test_a_wrong_start_of_the_whole_pipeline(
    configure: Configure, sections: Sections, expected: list[str]
) -> None:
    result = run(WSGI, str(configure(**sections)))
    # The warnings of the pipeline's other parts stand before it.
    lines = result.stderr.splitlines()
    result.stderr = '\n'.join(line for line in lines if line.startswith('os-interface-ext: '))
    assert not [line for line in lines if line.startswith(('Traceback', '  File'))], lines
    check_one_line(result, expected)


@pytest.mark.service
def test_keystonemiddleware_is_not_installed(configure: Configure) -> None:
    code = "import sys\nsys.modules['keystonemiddleware'] = None\n" + textwrap.dedent(WSGI)
    result = run(code, str(configure()))
    assert result.returncode == 1
    assert 'os-interface-ext[keystone]' in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr
