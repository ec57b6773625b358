"""Whose authority, for how long, how often: requests to a service that is told what to answer."""

from __future__ import annotations

import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext, service_context
from os_interface_ext.drivers import base
from os_interface_ext.drivers.rest import Service
from tests.services import http_proxy
from tests.services.http_proxy import Passing, Proxy

CALLER = RequestContext(auth_token='of-the-caller', project_id='p', roles=['member'])
TOKEN = {
    'token': {
        'methods': ['password'],
        'expires_at': '2099-01-01T00:00:00.000000Z',
        'user': {'id': 'u', 'name': 'osif', 'domain': {'id': 'default', 'name': 'Default'}},
        'project': {'id': 's', 'name': 'service', 'domain': {'id': 'default', 'name': 'Default'}},
        'catalog': [],
    }
}


def of_keystone(passing: Passing) -> bool:
    return passing.path.startswith('/v3/')


def of_service(passing: Passing) -> bool:
    return not of_keystone(passing)


def issue(handler: http_proxy._Handler, passing: Passing) -> bool:
    """Keystone gives a token, each time another one."""
    headers = [('X-Subject-Token', f'ours-{len(tokens(handler.owner)) - 1}'), ('Content-Type', 'application/json')]
    handler.answer(201, headers, json.dumps(TOKEN).encode())
    return True


@pytest.fixture
def world() -> Iterator[Proxy]:
    """Keystone and the service, with what they answer unless a test says something else."""
    with (
        http_proxy.before('http://127.0.0.1:9') as proxy,
        proxy.trouble(http_proxy.answer(300, b'{}'), lambda one: one.path in ('/v3', '/v3/')),
        proxy.trouble(issue, lambda one: one.path.startswith('/v3/auth/tokens')),
        proxy.trouble(http_proxy.answer(200, b'{"thing": {}}'), of_service),
    ):
        yield proxy


Make = Callable[..., Service]


@pytest.fixture
def make(world: Proxy, tmp_path: pathlib.Path) -> Make:
    def make_one(**changes: str) -> Service:
        options = {
            'auth_type': 'v3password',
            'auth_url': f'{world.url}/v3',
            'username': 'osif',
            'password': 'secret',
            'project_name': 'service',
            'user_domain_name': 'Default',
            'project_domain_name': 'Default',
            'endpoint_override': world.url,
            **changes,
        }
        path = tmp_path / 'osif.conf'
        path.write_text('[thing]\n' + ''.join(f'{name} = {text}\n' for name, text in options.items()))
        return Service(configuration.new([str(path)]), 'thing', 'thing', '/v2.0')

    return make_one


def fence(seconds: float = 60.0) -> base.Fence:
    return base.Fence(1, time.monotonic() + seconds)


def things(world: Proxy) -> list[Passing]:
    return [one for one in world.passed if of_service(one)]


def tokens(world: Proxy) -> list[Passing]:
    return [one for one in world.passed if one.method == 'POST' and of_keystone(one)]


def test_nothing_is_written_past_the_deadline_for_which_a_token_was_waited(world: Proxy, make: Make) -> None:
    service, deadline = make(), threading.Event()
    over = fence(0.3)

    def held(handler: http_proxy._Handler, passing: Passing) -> bool:
        return deadline.wait(5) and issue(handler, passing)

    threading.Timer(0.5, deadline.set).start()
    with world.trouble(held, of_keystone), pytest.raises(exceptions.DeadlinePassed):
        service.write(service_context(), 'PUT', '/things/1', over, {})
    assert things(world) == []


def test_a_silent_keystone_is_given_up(world: Proxy, make: Make) -> None:
    service, silent = make(connect_timeout='0.2', read_timeout='0.2'), threading.Event()
    held = http_proxy.before_it(lambda _passing: silent.wait(20))
    with world.trouble(held, of_keystone), pytest.raises(exceptions.Unavailable):
        service.write(service_context(), 'PUT', '/things/1', fence(), {})
    silent.set()
    assert things(world) == []


@pytest.mark.parametrize('status', [500, 503, 504])
def test_a_write_is_sent_once_whatever_the_configuration_says(world: Proxy, make: Make, status: int) -> None:
    service = make(status_code_retries='3', connect_retries='3', retriable_status_codes='500,503,504')
    with world.trouble(http_proxy.answer(status, b''), of_service), pytest.raises(exceptions.UnknownOutcome):
        service.write(service_context(), 'POST', '/things', fence(), {})
    assert len(things(world)) == 1


def test_our_own_token_is_renewed_once(world: Proxy, make: Make) -> None:
    service = make()
    with world.trouble(http_proxy.answer(401, b'{}'), of_service, times=1):
        assert service.write(service_context(), 'PUT', '/things/1', fence(), {}).status == 200
    assert [one.headers['X-Auth-Token'] for one in things(world)] == ['ours-0', 'ours-1']
    with world.trouble(http_proxy.answer(401, b'{}'), of_service), pytest.raises(exceptions.Unavailable):
        service.write(service_context(), 'PUT', '/things/1', fence(), {})
    assert len(things(world)) == 4


@pytest.mark.parametrize(('status', 'times'), [(401, 2), (403, 1)])
def test_a_refusal_of_our_own_user_is_not_tried_again_and_again(
    world: Proxy, make: Make, status: int, times: int
) -> None:
    service = make()
    with (
        world.trouble(http_proxy.answer(status, b'{}'), of_service),
        pytest.raises(exceptions.Unavailable) as raised,
    ):
        service.read(service_context(), '/things/1')
    assert 'look at its roles' in raised.value.operator
    # A new token may mend a 401, nothing else does.
    assert len(things(world)) == times


def test_callers_with_bad_tokens_do_not_cost_us_ours(world: Proxy, make: Make) -> None:
    service = make()
    with world.trouble(http_proxy.answer(401, b'{}'), of_service):
        for _ in range(5):
            assert service.read(CALLER, '/things/1', as_caller=True).status == 401
    assert len(tokens(world)) == 2
    assert world.connections <= 2


def test_whose_token_goes_along(world: Proxy, make: Make) -> None:
    service = make()
    service.read(CALLER, '/things/1', as_caller=True)
    service.read(CALLER, '/things/1')
    told = [(one.headers['X-Auth-Token'], one.headers['X-Service-Token']) for one in things(world)]
    assert told == [('of-the-caller', 'ours-0'), ('ours-0', None)]


@pytest.mark.parametrize('after', ['9' * 400, '-1', 'soon', 'Fri, 31 Dec 1999 23:59:59 GMT'])
def test_an_odd_retry_after(world: Proxy, make: Make, after: str) -> None:
    later = http_proxy.answer(503, b'', {'Retry-After': after})
    with world.trouble(later, of_service), pytest.raises(exceptions.Unavailable) as raised:
        make().read(service_context(), '/things/1')
    assert 1 <= raised.value.retry_after <= 3600


def test_json_without_a_bottom(world: Proxy, make: Make) -> None:
    with world.trouble(http_proxy.answer(200, b'[' * 200_000), of_service), pytest.raises(exceptions.Unavailable):
        make().read(service_context(), '/things/1')


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('cafile', '/no/such/file'),
        ('certfile', '/no/such/file'),
        ('endpoint_override', 'neutron:9696'),
        ('auth_url', ''),
        ('auth_url', 'keystone:5000'),
        ('auth_type', 'no_such_type'),
        ('read_timeout', '20'),
    ],
)
def test_what_can_be_known_to_be_wrong_stops_the_start(make: Make, option: str, value: str) -> None:
    with pytest.raises(exceptions.ConfigurationError) as raised:
        make(**{option: value})
    assert '[thing]' in str(raised.value)
    assert option in str(raised.value)
    assert '\n' not in str(raised.value)
