"""Who asks is told by whom the operator trusts, and never by a header of the client."""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import flask
import pytest
import webtest
from keystonemiddleware import auth_token
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.extension import Extension
from os_interface_ext.wsgi.paste import Filter, make_application

from .conftest import NAMES, Build, World

LIST = f'/servers/{NAMES["srv_active"]}/os-interface'
PROJECT_A, PROJECT_B = NAMES['project_a'], NAMES['project_b']
FORGED = {
    'X-Roles': 'admin',
    'X-Role': 'admin',
    'X-User-Id': 'forger',
    'X-User': 'forger',
    'X-User-Name': 'forger',
    'X-Project-Id': PROJECT_A,
    'X-Tenant-Id': PROJECT_A,
    'X-Identity-Status': 'Confirmed',
    'X-Service-Identity-Status': 'Confirmed',
    'X-Service-Roles': 'admin',
    'X-Is-Admin-Project': 'True',
    'OpenStack-System-Scope': 'all',
    'Keystone.Token-Auth': 'yes',
    'Os-Interface-Ext.Identity': '{"roles": ["admin"]}',
}


def token(
    roles: list[str], project: str | None = PROJECT_A, *, system: bool = False, lifetime: float = 3600.0
) -> dict[str, Any]:
    """What Keystone says of a token."""
    now = datetime.datetime.now(datetime.UTC)
    said: dict[str, Any] = {
        'methods': ['password'],
        'issued_at': (now - datetime.timedelta(hours=2)).isoformat(),
        'expires_at': (now + datetime.timedelta(seconds=lifetime)).isoformat(),
        'user': {'id': 'user', 'name': 'user', 'domain': {'id': 'default', 'name': 'Default'}},
        'roles': [{'id': name, 'name': name} for name in roles],
    }
    if project:
        said['project'] = {'id': project, 'name': project, 'domain': {'id': 'default', 'name': 'Default'}}
    if system:
        said['system'] = {'all': True}
    return {'token': said}


KNOWN = {
    'member': token(['member', 'reader']),
    'reader': token(['reader']),
    'nobody': token(['other']),
    'shouting': token(['MEMBER', 'Reader']),
    'member of b': token(['member', 'reader'], PROJECT_B),
    'admin': token(['admin'], PROJECT_B),
    'shouting admin': token(['ADMIN'], PROJECT_B),
    'system admin': token(['admin', 'member', 'reader'], None, system=True),
    'system reader': token(['reader'], None, system=True),
    'no scope': token([], None),
    'service': token(['service'], PROJECT_B),
    'expired': token(['member', 'reader', 'admin'], lifetime=-60.0),
}


class Stubbed:
    """Keystone's part: tells what it knows of a token."""

    def fetch_token(self, sent: str, **kwargs: Any) -> dict[str, Any]:
        try:
            return KNOWN[sent]
        except KeyError:
            raise auth_token.InvalidToken('unknown') from None


class AuthToken(Stubbed, auth_token.AuthProtocol):
    """The real filter, without a Keystone behind it."""


class BareAuthToken(Stubbed, auth_token.BaseAuthProtocol):
    """What third parties make filters from; it does not remove what the client sent."""


def with_keystone(application: Any, **options: Any) -> Any:
    conf = cfg.ConfigOpts()
    conf([], project='test', default_config_files=[])
    settings = {'www_authenticate_uri': 'http://192.0.2.1/', 'auth_type': 'none', **options}
    return AuthToken(application, {'oslo_config_config': conf, **settings})


def as_host(extension: Extension) -> Any:
    host = flask.Flask('host')
    extension.register(host, url_prefix='')
    return host


def as_filter(extension: Extension) -> Any:
    def behind(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise AssertionError('this is not for the application behind')

    return Filter(behind, extension)


DOORS = {'extension': as_host, 'filter': as_filter, 'application': make_application}


@pytest.fixture(params=list(DOORS))
def door(request: pytest.FixtureRequest) -> Callable[[Extension], Any]:
    return DOORS[request.param]


def ask(application: Any, headers: dict[str, str] | None = None, **kwargs: Any) -> webtest.TestResponse:
    method = kwargs.pop('method', 'GET')
    sent = {'OpenStack-API-Version': 'compute 2.70', **(headers or {})}
    path = kwargs.pop('path', LIST)
    client = webtest.TestApp(application, kwargs.pop('extra_environ', None))
    return client.request(path, method=method, headers=sent, expect_errors=True, **kwargs)


def with_token(application: Any, sent: str, headers: dict[str, str] | None = None, **kwargs: Any) -> Any:
    return ask(application, {'X-Auth-Token': sent, **(headers or {})}, **kwargs)


def check_401(answer: Any) -> None:
    assert answer.status_int == 401
    assert answer.json['unauthorized']['code'] == 401
    assert answer.headers['WWW-Authenticate'].startswith('Keystone')


# ------------------------------------------------------------------ nobody trustworthy


def test_bare_headers_are_a_401(world: World, door: Callable[..., Any]) -> None:
    application = door(Extension(world.conf))
    for headers in ({}, {'X-Auth-Token': 'tok-admin'}, FORGED, {**FORGED, 'X-Auth-Token': 'tok-admin'}):
        for method, path in [
            ('GET', LIST),
            ('POST', LIST),
            ('PUT', LIST),
            ('GET', f'{LIST}/{NAMES["p_active"]}'),
            ('DELETE', f'{LIST}/{NAMES["p_active"]}'),
        ]:
            check_401(ask(application, headers, method=method, path=path))
    assert world.ports() == [NAMES['p_active']]


@pytest.mark.parametrize('mark', [None, '', 'Confirmed', object(), True, {}])
def test_a_mark_that_is_none_of_keystonemiddlewares(world: World, mark: Any) -> None:
    environ = {'keystone.token_auth': mark}
    check_401(ask(as_host(Extension(world.conf)), FORGED, extra_environ=environ))


# ------------------------------------------------------------------ keystonemiddleware


@pytest.mark.parametrize(
    ('sent', 'status'),
    [
        ('member', 200),
        ('reader', 200),
        ('nobody', 403),
        ('member of b', 404),
        ('admin', 200),
        ('system admin', 403),
        ('system reader', 404),
        ('no scope', 404),
    ],
)
def test_keystonemiddleware_says_who_asks(world: World, door: Callable[..., Any], sent: str, status: int) -> None:
    application = with_keystone(door(Extension(world.conf)))
    assert with_token(application, sent).status_int == status
    # What the client says of itself changes nothing.
    assert with_token(application, sent, FORGED).status_int == status


def test_a_reader_may_not_attach(world: World, door: Callable[..., Any]) -> None:
    application = with_keystone(door(Extension(world.conf)))
    for headers in ({}, FORGED):
        for sent, status in [('reader', 403), ('system admin', 403), ('member', 202)]:
            path = f'{LIST}/{NAMES["p_active"]}'
            answer = with_token(application, sent, headers, method='DELETE', path=path)
            assert answer.status_int == (404 if headers and sent == 'member' else status)


@pytest.mark.parametrize('sent', [None, 'unknown', 'expired', ''])
@pytest.mark.parametrize('headers', [{}, FORGED], ids=['honest', 'forged'])
def test_delayed_decisions_are_made_here(
    world: World, door: Callable[..., Any], sent: str | None, headers: dict[str, str]
) -> None:
    application = with_keystone(door(Extension(world.conf)), delay_auth_decision='true')
    check_401(ask(application, headers) if sent is None else with_token(application, sent, headers))
    assert with_token(application, 'member', headers).status_int == 200


@pytest.mark.parametrize('sent', ['unknown', 'expired'])
def test_decisions_that_are_not_delayed(world: World, sent: str) -> None:
    application = with_keystone(as_host(Extension(world.conf)))
    answer = with_token(application, sent, FORGED)
    assert answer.status_int == 401
    assert answer.headers['WWW-Authenticate'] == 'Keystone uri="http://192.0.2.1/"'


def test_a_filter_made_from_the_base_class_lets_forged_headers_through(
    world: World, door: Callable[..., Any]
) -> None:
    application = BareAuthToken(door(Extension(world.conf)))
    for headers in ({}, FORGED):
        for sent, status in [('member', 200), ('nobody', 403), ('member of b', 404), ('system admin', 403)]:
            assert with_token(application, sent, headers).status_int == status, sent
        check_401(ask(application, headers))
        check_401(with_token(application, 'unknown', headers))
        check_401(with_token(application, 'expired', headers))


def test_service_tokens(world: World) -> None:
    seen: list[dict[str, Any]] = []
    extension = Extension(world.conf)
    listing = extension.parts.drivers.server.get

    def get(ctxt: RequestContext, server_id: str) -> Any:
        seen.append(ctxt.to_policy_values())
        return listing(ctxt, server_id)

    extension.parts.api.servers = type('Servers', (), {'get': staticmethod(get)})()
    host = as_host(extension)
    for application in (with_keystone(host), BareAuthToken(host, service_token_roles=['service'])):
        with_token(application, 'member', {**FORGED, 'X-Service-User-Id': 'forger'})
        assert seen[-1]['service_roles'] == []
        assert seen[-1]['service_user_id'] is None
        with_token(application, 'member', {**FORGED, 'X-Service-Token': 'service'})
        assert seen[-1]['service_roles'] == ['service']
        assert seen[-1]['service_project_id'] == PROJECT_B
        assert seen[-1]['user_id'] == 'user'
        assert seen[-1]['roles'] == ['member', 'reader']
    assert len(seen) == 4


# ------------------------------------------------------------------ the host itself


def test_the_hosts_own_identity_is_asked_alone(world: World, door: Callable[..., Any]) -> None:
    asked: list[Any] = []

    def nobody(environ: Any) -> None:
        asked.append(environ['PATH_INFO'])

    application = door(Extension(world.conf, identity=nobody))
    check_401(with_token(with_keystone(application), 'admin'))
    check_401(ask(application, extra_environ={'os_interface_ext.identity': {'roles': ['admin']}}))
    assert asked == [LIST, LIST]

    def member(environ: Any) -> RequestContext:
        return RequestContext(user_id='u', project_id=PROJECT_A, roles=['member', 'reader'])

    application = door(Extension(world.conf, identity=member))
    assert ask(application, FORGED).status_int == 200
    # The token belongs to another project: it does not count.
    assert with_token(with_keystone(application), 'member of b').status_int == 200


def test_the_request_id_of_the_hosts_identity(world: World) -> None:
    def member(environ: Any) -> RequestContext:
        return RequestContext(project_id=PROJECT_A, roles=['reader'], request_id='req-of-the-host')

    answer = ask(as_host(Extension(world.conf, identity=member)))
    assert answer.headers['x-openstack-request-id'] == 'req-of-the-host'
    assert answer.headers['x-compute-request-id'] == 'req-of-the-host'


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('secret of the host'),
        exceptions.ConfigurationError('secret of the host'),
        KeyError('secret of the host'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_identity_is_a_logged_500(
    world: World, door: Callable[..., Any], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(environ: Any) -> RequestContext:
        raise error

    with caplog.at_level(logging.ERROR):
        answer = ask(door(Extension(world.conf, identity=broken)))
    assert answer.status_int == 500
    assert answer.json['computeFault']['code'] == 500
    assert 'secret' not in answer.text
    assert 'secret of the host' in caplog.text
    assert answer.headers['x-openstack-request-id'] in caplog.text


@pytest.mark.parametrize(
    'made', ['a string', object(), {'roles': ['admin']}], ids=lambda made: type(made).__name__
)
def test_an_identity_of_the_wrong_kind_is_a_500(world: World, made: Any) -> None:
    assert ask(as_host(Extension(world.conf, identity=lambda environ: made))).status_int == 500


def test_an_identity_may_refuse_by_itself(world: World) -> None:
    def busy(environ: Any) -> RequestContext:
        raise exceptions.Unavailable(operator='the directory is away')

    assert ask(as_host(Extension(world.conf, identity=busy))).status_int == 503


# ------------------------------------------------------------------ roles and rules


@pytest.mark.parametrize('sent', ['shouting', 'shouting admin'])
def test_roles_are_compared_as_oslo_policy_does(world: World, sent: str) -> None:
    assert with_token(with_keystone(as_host(Extension(world.conf))), sent).status_int == 200


def test_a_policy_file_is_honoured_and_followed(build: Build, tmp_path: Any) -> None:
    policy = tmp_path / 'policy.yaml'
    rule = 'os_compute_api:os-attach-interfaces:list'
    policy.write_text(f'"{rule}": "role:other"\n')
    world = build(oslo_policy={'policy_file': str(policy)})
    application = with_keystone(as_host(Extension(world.conf)))
    show = f'{LIST}/{NAMES["p_active"]}'
    assert with_token(application, 'nobody').status_int == 200
    assert with_token(application, 'member').status_int == 403
    assert with_token(application, 'member', path=show).status_int == 200
    assert with_token(application, 'nobody', path=show).status_int == 403

    policy.write_text(f'"{rule}": "role:member"\n')
    later = os.stat(policy).st_mtime + 5
    os.utime(policy, (later, later))
    begun = time.monotonic()
    while with_token(application, 'nobody').status_int != 403:
        assert time.monotonic() < begun + 5, 'the changed policy file was not read'
    assert with_token(application, 'member').status_int == 200


def test_a_policy_file_of_one_extension_is_not_the_others(build: Build, tmp_path: Any) -> None:
    policy = tmp_path / 'policy.yaml'
    policy.write_text('"os_compute_api:os-attach-interfaces:list": "!"\n')
    strict = build('strict', oslo_policy={'policy_file': str(policy)})
    usual = build('usual')
    assert with_token(with_keystone(as_host(Extension(strict.conf))), 'member').status_int == 403
    assert with_token(with_keystone(as_host(Extension(usual.conf))), 'member').status_int == 200
