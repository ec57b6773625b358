"""Where the description of the API is served: by the hosts of this project, for everybody, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import flask
import pytest
import webtest
import yaml
from microversion_parse import Version

from os_interface_ext import conf as config
from os_interface_ext.api import description, faults
from os_interface_ext.standalone import app
from os_interface_ext.wsgi import paste, versions

from .conftest import NAMES, Build

URL = '/v2.1/openapi.json'


@pytest.fixture(params=['serve', 'composite'])
def host(request: pytest.FixtureRequest, build: Build) -> webtest.TestApp:
    """A host of this project, up to 2.75."""
    if request.param == 'serve':
        world = build(api={'max_microversion': '2.75'})
        return webtest.TestApp(app.create(world.conf, extension=world.extension))
    filtered = versions.Versions(lambda environ, start_response: _elsewhere(environ, start_response), '2.75')
    return webtest.TestApp(_below('/v2.1', filtered))


def _below(prefix: str, application: Any) -> Any:
    from os_interface_ext.middleware.composite import URLMap

    return URLMap({prefix: application})


def _elsewhere(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response('401 Unauthorized', [('Content-Type', 'text/plain')])
    return [b'']


def expected(version: str) -> dict[str, Any]:
    major, minor = map(int, version.split('.'))
    made = description.make(Version(major, minor), Version(2, 75), 'http://localhost/v2.1')
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def test_it_is_that_of_the_version_asked_for(host: webtest.TestApp) -> None:
    assert host.get(URL).json == expected('2.1')
    for headers, version in (
        ({'OpenStack-API-Version': 'compute 2.49'}, '2.49'),
        ({'X-OpenStack-Nova-API-Version': '2.70'}, '2.70'),
        ({'OpenStack-API-Version': 'compute latest'}, '2.75'),
    ):
        answer = host.get(URL, headers=headers)
        assert answer.json == expected(version)
        assert answer.headers['OpenStack-API-Version'] == f'compute {version}'
        assert 'OpenStack-API-Version' in answer.headers['Vary']


def test_a_url_alone_can_ask_for_a_version(host: webtest.TestApp) -> None:
    headers = {'OpenStack-API-Version': 'compute 2.1'}
    assert host.get(f'{URL}?microversion=2.70', headers=headers).json == expected('2.70')
    assert host.get(f'{URL}?microversion=latest').json['info']['version'] == '2.70'


def test_yaml_and_head(host: webtest.TestApp) -> None:
    answer = host.get('/v2.1/openapi.yaml?microversion=2.70')
    assert answer.content_type == 'application/yaml'
    assert yaml.safe_load(answer.text) == expected('2.70')
    assert host.head(URL).content_type == 'application/json'


@pytest.mark.parametrize(('version', 'status', 'code'), [('2.x', 400, 'malformed_version'), ('2.76', 406, None)])
def test_a_version_that_is_none(host: webtest.TestApp, version: str, status: int, code: str | None) -> None:
    code = code or 'version_not_acceptable'
    asked = {'OpenStack-API-Version': f'compute {version}'}
    for answer in (
        host.get(f'{URL}?microversion={version}', status=status),
        host.get(URL, headers=asked, status=status),
    ):
        assert answer.json[faults.TYPES[status]]['code'] == status
        assert answer.headers[faults.ERROR_HEADER] == code


def test_the_version_document_leads_to_it(host: webtest.TestApp) -> None:
    links = {link['rel']: link['href'] for link in host.get('/v2.1/').json['version']['links']}
    assert host.get(links['service-desc']).json == expected('2.1')


def test_other_requests_go_on(host: webtest.TestApp) -> None:
    host.get('/v2.1/openapi.xml', status=401)
    host.get('/v2.1/openapi.json/', status=401)
    assert host.post(URL, status='*').status_int in (401, 405)


def test_another_host_keeps_the_url(build: Build) -> None:
    """Neither the blueprint nor the filter takes it."""
    theirs = flask.Flask('theirs')
    theirs.add_url_rule(URL, 'own', lambda: 'theirs')
    world = build(app=theirs)
    assert webtest.TestApp(theirs).get(URL).text == 'theirs'
    filtered = paste.Filter(theirs, world.extension, '/v2.1')
    assert webtest.TestApp(filtered).get(URL).text == 'theirs'
    assert webtest.TestApp(flask.Flask('none')).get(URL, status=404)


def test_both_composites_serve_it(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from paste import deploy

    from os_interface_ext import paths

    world = build()
    file = tmp_path / 'osif.conf'
    connection = world.conf.database.connection
    file.write_text(
        f'[database]\nconnection = {connection}\n[keystone_authtoken]\nwww_authenticate_uri = http://127.0.0.1:9/\n'
        'auth_type = password\nauth_url = http://127.0.0.1:9/\n'
    )
    monkeypatch.setenv(config.ENV_FILES, str(file))
    for name in ('keystone', 'static_tokens'):
        host = webtest.TestApp(deploy.loadapp(f'config:{paths.find("api-paste.ini")}', name=name))
        assert host.get(f'{URL}?microversion=2.70').json['info']['version'] == '2.70'
        assert host.get('/v2.1/').json['version']['id'] == 'v2.1'
        host.get(f'/v2.1/servers/{NAMES["srv_active"]}/os-interface', status=401)
