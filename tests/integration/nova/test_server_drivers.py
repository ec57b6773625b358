"""The drivers nova and nova-local against a real Nova."""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.context import service_context
from os_interface_ext.drivers.base import Change, Server
from os_interface_ext.drivers.servers.nova import NovaServerDriver
from os_interface_ext.testing import contract
from os_interface_ext.testing.servers import ServerBackend, ServerDriverContract
from tests.services import http_proxy, proxy

from ..conftest import wait_until
from .conftest import InNova, RemoteServerDriver, World

pytestmark = pytest.mark.service


# ------------------------------------------------------------------ over HTTP


@pytest.fixture(scope='module')
def before_nova(world: World) -> Iterator[http_proxy.Proxy]:
    parts = urllib.parse.urlsplit(world.cloud.nova_url)
    with http_proxy.before(f'{parts.scheme}://{parts.netloc}') as found:
        yield found


@pytest.fixture(scope='module')
def over_http(world: World, before_nova: http_proxy.Proxy) -> NovaServerDriver:
    authority = {**world.authority(), 'endpoint_override': f'{before_nova.url}/v2.1', 'read_retries': '0'}
    file = world.home / 'nova.conf'
    file.write_text('[nova]\n' + '\n'.join(f'{name} = {value}' for name, value in authority.items()))
    return NovaServerDriver(configuration.new([str(file)]))


class TestOverHTTP(ServerDriverContract):
    @pytest.fixture
    def backend(self, world: World, over_http: NovaServerDriver, before_nova: http_proxy.Proxy) -> ServerBackend:
        return ServerBackend(
            driver=over_http,
            server=world.as_driver_tells(world.server('one')),
            foreign_server=world.as_driver_tells(world.server('foreign', 'alt')),
            remove_server=world.remove_server,
            unreachable=lambda: before_nova.trouble(http_proxy.refuse),
        )


def test_a_look_is_one_request(world: World, over_http: NovaServerDriver, before_nova: http_proxy.Proxy) -> None:
    server_id = world.server('one')
    before_nova.clear()
    over_http.get(service_context(), server_id)
    assert [repr(one) for one in before_nova.passed] == [f'GET /v2.1/servers/{server_id}']


def test_who_may_not_see_all_servers_cannot_say_that_one_is_gone(world: World) -> None:
    authority = {**world.authority(), 'username': 'alt', 'project_name': 'alt'}
    file = world.home / 'member.conf'
    file.write_text('[nova]\n' + '\n'.join(f'{name} = {value}' for name, value in authority.items()))
    driver = NovaServerDriver(configuration.new([str(file)]))
    for server_id in (world.server('one'), world.server('foreign', 'alt'), contract.new_id()):
        with pytest.raises(exceptions.Unavailable):
            driver.get(service_context(), server_id)


def test_ports_that_are_brought_are_refused_unless_that_is_accepted_by_name(world: World) -> None:
    kept = {}
    for accepted in ('', 'brought_ports_are_deleted_with_their_server = true'):
        lines = [f'{name} = {value}' for name, value in world.authority().items()]
        file = world.home / 'accepts.conf'
        file.write_text('\n'.join(['[nova]', *lines, accepted]))
        kept[accepted] = NovaServerDriver(configuration.new([str(file)])).keeps_brought_ports
    assert list(kept.values()) == [False, True]


# ------------------------------------------------------------------ in Nova's process


@pytest.fixture(scope='module')
def before_database(world: World) -> Iterator[proxy.Proxy]:
    with proxy.before(sa.make_url(world.cloud.database('osif_unused')).port or 0) as found:
        yield found


@pytest.fixture(scope='module')
def local(world: World, before_database: proxy.Proxy) -> Iterator[RemoteServerDriver]:
    """The driver in a process that reaches the database of Nova's API through a proxy."""
    etc = world.home / 'local'
    config_file = world.configure(etc)
    nova_conf = etc / 'nova.conf'
    through = []
    for line in nova_conf.read_text().splitlines():
        name, _, value = line.partition('=')
        if name.strip() == 'connection' and '/nova_api' in value:
            url = sa.make_url(value.strip()).set(port=before_database.port)
            url = url.update_query_dict({'connect_timeout': '1', 'read_timeout': '5'})
            line = f'connection = {url.render_as_string(hide_password=False)}'
        through.append(line)
    nova_conf.write_text('\n'.join(through))
    process = InNova(world, etc, config_file)
    yield RemoteServerDriver(process)
    process.close()


class TestInNova(ServerDriverContract):
    @pytest.fixture
    def backend(self, world: World, local: RemoteServerDriver, before_database: proxy.Proxy) -> ServerBackend:
        @contextlib.contextmanager
        def unreachable() -> Iterator[None]:
            before_database.silent = True
            for connection in before_database._open:
                proxy._end(connection)
            yield
            before_database.silent = False

        return ServerBackend(
            driver=local,
            server=world.as_driver_tells(world.server('one')),
            foreign_server=world.as_driver_tells(world.server('foreign', 'alt')),
            remove_server=world.remove_server,
            unreachable=unreachable,
        )


# ------------------------------------------------------------------ both


@pytest.fixture(params=['over_http', 'local'])
def driver(request: pytest.FixtureRequest) -> NovaServerDriver | RemoteServerDriver:
    found: NovaServerDriver | RemoteServerDriver = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(('user', 'by'), [('demo', 'owner'), ('admin', 'admin')])
def test_a_lock_is_told(world: World, driver: NovaServerDriver | RemoteServerDriver, user: str, by: str) -> None:
    server_id = world.server('one')
    assert world.compute(user).post(f'/servers/{server_id}/action', json={'lock': None}).status_code == 202
    try:
        # Over HTTP nobody is told whose lock it is.
        expected = 'admin' if isinstance(driver, NovaServerDriver) else by
        assert driver.get(service_context(), server_id).locked_by == expected
    finally:
        unlock = world.compute('admin').post(f'/servers/{server_id}/action', json={'unlock': None})
        assert unlock.status_code == 202
    assert driver.get(service_context(), server_id).locked_by is None


def test_a_state_is_told(world: World, driver: NovaServerDriver | RemoteServerDriver) -> None:
    server_id = world.server('stopped')
    world.compute().post(f'/servers/{server_id}/action', json={'os-stop': None})

    def told() -> Server:
        return driver.get(service_context(), server_id)

    wait_until(lambda: (told().vm_state, told().task_state) == ('stopped', None))
    assert told() == dataclasses.replace(world.as_driver_tells(server_id))


def test_the_checks_of_both_drivers(
    world: World, in_nova: InNova, over_http: NovaServerDriver, before_nova: http_proxy.Proxy
) -> None:
    in_nova.check({})
    over_http.check(service_context())
    with before_nova.trouble(http_proxy.refuse), pytest.raises(exceptions.Unavailable) as told:
        over_http.check(service_context())
    assert told.value.operator_cure.startswith('start the service behind')


# ------------------------------------------------------------------ Nova's records


@pytest.mark.parametrize('created', [False, True])
@pytest.mark.parametrize('tag', [None, 'nic-1'])
def test_an_attach_is_entered_as_nova_enters_it(
    world: World, in_nova: InNova, created: bool, tag: str | None
) -> None:
    server_id = world.server('one')
    port = world.new_port(server_id)
    for _ in range(2):
        in_nova.attachments_changed({}, server_id, 'attached', port.id, created, tag)
        assert in_nova.entry(server_id, port.id) == {
            'kept': not created,
            'mac': port.mac_address,
            'addresses': [ip['ip_address'] for ip in port.fixed_ips],
            'network': world.network.name,
            'vif_type': world.port(port.id).binding_vif_type,
        }
        assert in_nova.interface(server_id, port.id) == {'server': server_id, 'tag': tag, 'mac': port.mac_address}
    for _ in range(2):
        in_nova.attachments_changed({}, server_id, 'detached', port.id, created, tag)
        assert in_nova.entry(server_id, port.id) is None
        assert in_nova.interface(server_id, port.id) is None
    world.connection().network.delete_port(port.id)


def test_a_port_that_the_server_does_not_have_is_not_entered(world: World, in_nova: InNova) -> None:
    server_id = world.server('one')
    port = world.new_port()
    for port_id in (port.id, contract.new_id()):
        in_nova.attachments_changed({}, server_id, 'attached', port_id, False, None)
        assert in_nova.entry(server_id, port_id) is None
    world.connection().network.delete_port(port.id)


def test_what_nova_compute_writes_over_is_set_right(world: World, in_nova: InNova) -> None:
    server_id = world.server('one')
    kept, gone = world.new_port(server_id), world.new_port(server_id)
    for port in (kept, gone):
        in_nova.attachments_changed({}, server_id, 'attached', port.id, False, None)
    world.connection().network.update_port(gone.id, device_id='')
    in_nova.attachments_changed({}, server_id, 'detached', gone.id, False, None)
    in_nova.write_over(server_id, kept.id)
    in_nova.enter_unknown(server_id, gone.id)
    wait_until(lambda: in_nova.entry(server_id, kept.id)['kept'])
    wait_until(lambda: in_nova.entry(server_id, gone.id) is None)
    for port in (kept, gone):
        in_nova.attachments_changed({}, server_id, 'detached', port.id, False, None)
        world.connection().network.delete_port(port.id)


def test_changes_at_once_all_come_into_the_cache(world: World, in_nova: InNova, local: RemoteServerDriver) -> None:
    # Two processes, as two workers of nova-api are.
    server_id = world.server('one')
    ports = [world.new_port(server_id).id for _ in range(8)]
    other = local._process
    calls = [
        lambda port=port, process=process: process.attachments_changed(
            {}, server_id, 'attached', port, False, None
        )
        for port, process in zip(ports, [in_nova, other] * 4, strict=True)
    ]
    assert contract.at_once(*calls) == [None] * 8
    assert [bool(in_nova.entry(server_id, port)) for port in ports] == [True] * 8
    for port in ports:
        in_nova.attachments_changed({}, server_id, 'detached', port, False, None)
        world.connection().network.delete_port(port)


def test_the_end_of_a_server_is_no_error(world: World, in_nova: InNova) -> None:
    for kind in ('attached', 'detached'):
        in_nova.attachments_changed({}, contract.new_id(), kind, contract.new_id(), False, None)


def test_a_change_without_a_port_is_no_error(world: World, in_nova: InNova) -> None:
    in_nova.attachments_changed({}, world.server('one'), str(Change('detached')), None, True, None)


def test_nova_deletes_what_it_does_not_know_as_brought(world: World, in_nova: InNova) -> None:
    # Why the driver nova refuses ports that are brought, and nova-local enters them.
    server_id = world.new_server()
    unknown, entered = world.new_port(server_id), world.new_port(server_id)
    in_nova.attachments_changed({}, server_id, 'attached', entered.id, False, None)
    world.remove_server(server_id)
    assert world.port(unknown.id) is None
    assert world.port(entered.id).device_id == ''
    world.connection().network.delete_port(entered.id)
