"""The driver nova against a Compute API that is told what to answer."""

from __future__ import annotations

import copy
import http.server
import json
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.context import service_context
from os_interface_ext.drivers import base
from os_interface_ext.drivers.servers.nova import MICROVERSION, NovaServerDriver
from os_interface_ext.testing import contract
from os_interface_ext.testing.servers import ServerBackend, ServerDriverContract

ID = '7d5b4f0a-94b5-4d9c-8b3e-3f0f6c0e7a11'
FOREIGN = '0b0f3f52-5f0c-4f34-9a4e-6d2f1f1f9c22'


def body_of(server_id: str, project: str, **changes: Any) -> dict[str, Any]:
    return {
        'id': server_id,
        'name': 'web',
        'status': 'ACTIVE',
        'tenant_id': project,
        'locked': False,
        'OS-EXT-SRV-ATTR:host': 'host-1',
        'OS-EXT-STS:vm_state': 'active',
        'OS-EXT-STS:task_state': None,
        'OS-EXT-AZ:availability_zone': 'nova',
        **changes,
    }


class Compute:
    """A Compute API: what it has, and what it answers instead while ``instead`` is set."""

    def __init__(self) -> None:
        self.servers = {ID: body_of(ID, 'one'), FOREIGN: body_of(FOREIGN, 'two')}
        self.sees_all = True
        self.instead: tuple[int, bytes] | None = None
        self.asked: list[str] = []
        self.versions: set[str | None] = set()
        compute = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:
                compute.asked.append(self.path)
                compute.versions.add(self.headers.get('OpenStack-API-Version'))
                status, content = compute.answer(self.path)
                self.send_response(status)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.instead is not None:
            return self.instead
        name, _, query = path.removeprefix('/v2.1/servers').partition('?')
        if not name:
            assert 'all_tenants=' in query
            return (200, b'{"servers": []}') if self.sees_all else (403, b'{"forbidden": {"code": 403}}')
        server = self.servers.get(name.removeprefix('/'))
        if server is None:
            return 404, b'{"itemNotFound": {"code": 404, "message": "Instance could not be found."}}'
        return 200, json.dumps({'server': server}).encode()


@pytest.fixture(scope='module')
def running() -> Iterator[Compute]:
    compute = Compute()
    yield compute
    compute.server.shutdown()
    compute.server.server_close()


@pytest.fixture
def compute(running: Compute) -> Compute:
    fresh = copy.deepcopy((body_of(ID, 'one'), body_of(FOREIGN, 'two')))
    running.servers = {body['id']: body for body in fresh}
    running.sees_all, running.instead = True, None
    running.asked.clear()
    return running


Make = Callable[..., NovaServerDriver]


@pytest.fixture
def make(compute: Compute, tmp_path: pathlib.Path) -> Make:
    """Makes drivers, with options of [nova]."""

    def make_one(**options: str) -> NovaServerDriver:
        url = f'http://127.0.0.1:{compute.server.server_address[1]}/v2.1'
        given = {'auth_type': 'none', 'endpoint_override': url, 'read_retries': '0', **options}
        file = tmp_path / 'driver.conf'
        file.write_text('[nova]\n' + '\n'.join(f'{name} = {value}' for name, value in given.items()))
        return NovaServerDriver(configuration.new([str(file)]))

    return make_one


@pytest.fixture
def driver(make: Make) -> NovaServerDriver:
    return make()


def get(driver: NovaServerDriver, server_id: str = ID) -> base.Server:
    return driver.get(service_context(), server_id)


class TestContract(ServerDriverContract):
    @pytest.fixture
    def backend(self, driver: NovaServerDriver, compute: Compute) -> ServerBackend:
        server = base.Server(ID, 'one', 'web', 'host-1', availability_zone='nova')
        return ServerBackend(
            driver=driver,
            server=server,
            foreign_server=base.Server(FOREIGN, 'two', 'web', 'host-1', availability_zone='nova'),
            remove_server=compute.servers.pop,
        )


def test_one_request_at_one_microversion(driver: NovaServerDriver, compute: Compute) -> None:
    for _ in range(3):
        get(driver)
    assert compute.asked == [f'/v2.1/servers/{ID}'] * 3
    assert compute.versions == {f'compute {MICROVERSION}'}


@pytest.mark.parametrize('odd', contract.ODD_IDS)
def test_an_odd_id_reaches_no_url(driver: NovaServerDriver, compute: Compute, odd: str) -> None:
    with pytest.raises(exceptions.ServerNotFound):
        get(driver, odd)
    assert compute.asked == []


def test_an_id_in_capitals_is_the_same(driver: NovaServerDriver) -> None:
    assert get(driver, ID.upper()) == get(driver)


@pytest.mark.parametrize(
    ('told', 'expected'),
    [
        ({'locked': True}, {'locked_by': 'admin'}),
        ({'OS-EXT-SRV-ATTR:host': None}, {'host': None}),
        ({'OS-EXT-SRV-ATTR:host': ''}, {'host': None}),
        ({'OS-EXT-STS:task_state': 'deleting'}, {'task_state': 'deleting'}),
        ({'OS-EXT-STS:vm_state': 'soft-delete'}, {'vm_state': 'soft-delete'}),
        ({'OS-EXT-AZ:availability_zone': ''}, {'availability_zone': None}),
        ({'name': None}, {'name': ''}),
    ],
)
def test_what_is_told(
    driver: NovaServerDriver, compute: Compute, told: dict[str, Any], expected: dict[str, Any]
) -> None:
    compute.servers[ID] |= told
    server = get(driver)
    assert {name: getattr(server, name) for name in expected} == expected


def test_a_server_that_has_just_been_deleted_is_not_found(driver: NovaServerDriver, compute: Compute) -> None:
    compute.servers[ID]['OS-EXT-STS:vm_state'] = 'deleted'
    with pytest.raises(exceptions.ServerNotFound):
        get(driver)


@pytest.mark.parametrize(
    'body',
    [
        {'id': ID, 'status': 'UNKNOWN', 'tenant_id': 'one', 'created': '2026-01-01T00:00:00Z', 'links': []},
        {key: value for key, value in body_of(ID, 'one').items() if key != 'OS-EXT-SRV-ATTR:host'},
        body_of(FOREIGN, 'one'),
        body_of(ID, ''),
        body_of(ID, 'one', locked=None),
        body_of(ID, 'one', **{'OS-EXT-STS:vm_state': None}),
        body_of(ID, 'one', **{'OS-EXT-SRV-ATTR:host': 7}),
        [],
    ],
    ids=[
        'cell down',
        'not an admin',
        'another server',
        'no project',
        'no lock',
        'no state',
        'host',
        'list',
    ],
)
def test_what_is_not_told_is_not_made_up(driver: NovaServerDriver, compute: Compute, body: Any) -> None:
    compute.servers[ID] = body
    with pytest.raises(exceptions.Unavailable):
        get(driver)


@pytest.mark.parametrize(
    'answer',
    [
        (200, b''),
        (200, b'<html>'),
        (200, b'{}'),
        (204, b''),
        (300, b'{"choices": []}'),
        (400, b'{"badRequest": {}}'),
        (401, b'{"error": {"code": 401}}'),
        (403, b'{"forbidden": {}}'),
        (404, b'<html>no such page</html>'),
        (404, b'{"error": "no route"}'),
        (406, b'{"computeFault": {}}'),
        (429, b'{"overLimit": {}}'),
        (500, b'{"computeFault": {}}'),
        (503, b''),
    ],
)
def test_other_answers_are_not_the_end_of_a_server(
    driver: NovaServerDriver, compute: Compute, answer: tuple[int, bytes]
) -> None:
    compute.instead = answer
    with pytest.raises(exceptions.Unavailable):
        get(driver)


def test_not_found_counts_only_where_all_can_be_seen(driver: NovaServerDriver, compute: Compute) -> None:
    compute.sees_all = False
    assert get(driver).id == ID
    with pytest.raises(exceptions.Unavailable, match='roles'):
        get(driver, contract.new_id())
    compute.sees_all = True
    with pytest.raises(exceptions.ServerNotFound):
        get(driver, contract.new_id())


def test_the_check_names_the_cure(driver: NovaServerDriver, compute: Compute) -> None:
    driver.check(service_context())
    compute.sees_all = False
    with pytest.raises(exceptions.Unavailable) as told:
        driver.check(service_context())
    assert told.value.operator_cure.startswith('give the user of [nova] the role')


def test_nobody_there(make: Make) -> None:
    driver = make(endpoint_override='http://127.0.0.1:1/v2.1')
    with pytest.raises(exceptions.Unavailable) as told:
        driver.check(service_context())
    assert told.value.operator_cure.startswith('start the service behind http://127.0.0.1:1/v2.1')
    with pytest.raises(exceptions.Unavailable):
        get(driver)


def test_brought_ports_are_refused_unless_that_is_accepted_by_name(make: Make) -> None:
    assert make().keeps_brought_ports is False
    assert make(brought_ports_are_deleted_with_their_server='true').keeps_brought_ports is True
