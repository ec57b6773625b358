"""The filter in the pipeline of a real nova-api, as clients and Nova itself see it."""

from __future__ import annotations

import concurrent.futures
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from keystoneauth1 import adapter
from tempest.lib import auth
from tempest.lib import exceptions as tempest_exceptions
from tempest.lib.services.compute import base_compute_client
from tempest.lib.services.compute.interfaces_client import InterfacesClient

from ..conftest import PATIENCE
from .conftest import InNova, World

pytestmark = pytest.mark.service


@pytest.fixture
def api(world: World, filtered: str) -> adapter.Adapter:
    """The ordinary user at the nova-api with the filter."""
    return world.compute('demo', filtered)


@pytest.fixture
def server_id(world: World) -> str:
    return world.server('inside')


def attach(api: adapter.Adapter, server_id: str, **wanted: Any) -> dict[str, Any]:
    answer = api.post(f'/servers/{server_id}/os-interface', json={'interfaceAttachment': wanted})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()['interfaceAttachment'])


def detach(api: adapter.Adapter, server_id: str, port_id: str) -> None:
    answer = api.delete(f'/servers/{server_id}/os-interface/{port_id}')
    assert answer.status_code == 202, answer.text


def settle(condition: Callable[[], object]) -> None:
    """Wait until a condition has stayed true for longer than Neutron holds its events back."""
    since = None
    deadline = time.monotonic() + PATIENCE
    while since is None or time.monotonic() < since + 4.0:
        assert time.monotonic() < deadline, 'it does not stay true'
        if not condition():
            since = None
        elif since is None:
            since = time.monotonic()
        time.sleep(0.05)


def addresses(told: dict[str, Any]) -> set[str]:
    return {address['addr'] for network in told['addresses'].values() for address in network}


# ------------------------------------------------------------------ what Nova knows


def test_addresses_of_the_server_follow_at_once(world: World, api: adapter.Adapter, server_id: str) -> None:
    port = world.new_port()
    for wanted in ({'port_id': port.id}, {'net_id': world.network.id}):
        attached = attach(api, server_id, **wanted)
        address = attached['fixed_ips'][0]['ip_address']
        assert address in addresses(world.told(server_id))
        settle(lambda address=address: address in addresses(world.told(server_id)))
        detach(api, server_id, attached['port_id'])
        assert address not in addresses(world.told(server_id))
    assert world.port(port.id).device_id == ''
    assert world.port(attached['port_id']) is None
    world.connection().network.delete_port(port.id)


def test_addresses_of_what_is_detached_at_once_go(world: World, api: adapter.Adapter, server_id: str) -> None:
    # nova-compute, still at work on Neutron's event of the attach, may bring them back for a moment.
    port = world.new_port()
    for _ in range(3):
        attach(api, server_id, port_id=port.id)
        detach(api, server_id, port.id)
    settle(lambda: not addresses(world.told(server_id)))
    world.connection().network.delete_port(port.id)


def test_neutron_has_what_nova_gives_it(world: World, api: adapter.Adapter, server_id: str) -> None:
    attached = attach(api, server_id, net_id=world.network.id)
    port = world.port(attached['port_id'])
    told = world.told(server_id)
    assert port.device_id == server_id
    assert port.device_owner == f'compute:{told["OS-EXT-AZ:availability_zone"]}'
    assert port.binding_host_id == told['OS-EXT-SRV-ATTR:host']
    assert attached['port_state'] == port.status == 'ACTIVE'
    detach(api, server_id, port.id)


def test_novas_own_answer_shows_the_tag(world: World, api: adapter.Adapter, server_id: str) -> None:
    attached = attach(api, server_id, net_id=world.network.id, tag='management')
    own = world.compute().get(f'/servers/{server_id}/os-interface').json()['interfaceAttachments']
    assert [one for one in own if one['port_id'] == attached['port_id']] == [attached]
    assert attached['tag'] == 'management'
    detach(api, server_id, attached['port_id'])


def test_the_end_of_a_server_unbinds_what_was_brought_and_deletes_what_was_made(
    world: World, api: adapter.Adapter, in_nova: InNova
) -> None:
    server_id = world.new_server()
    brought = [world.new_port().id for _ in range(3)]
    made = []
    for port_id in brought:
        attach(api, server_id, port_id=port_id)
        made.append(attach(api, server_id, net_id=world.network.id)['port_id'])
    settle(lambda: all((in_nova.entry(server_id, port_id) or {}).get('kept') for port_id in brought))
    world.remove_server(server_id)
    for port_id in brought:
        port = world.port(port_id)
        assert (port.device_id, port.device_owner, port.binding_host_id) == ('', '', '')
        world.connection().network.delete_port(port_id)
    assert [world.port(port_id) for port_id in made] == [None] * len(made)


def test_neutrons_events_leave_the_marks_as_they_are(
    world: World, api: adapter.Adapter, in_nova: InNova, server_id: str
) -> None:
    port = world.new_port()
    for _ in range(3):
        attach(api, server_id, port_id=port.id)
        settle(lambda: (in_nova.entry(server_id, port.id) or {}).get('kept'))
        detach(api, server_id, port.id)
        assert in_nova.entry(server_id, port.id) is None
    world.connection().network.delete_port(port.id)


# ------------------------------------------------------------------ what is Nova's stays Nova's


def paths(world: World, server_id: str, port_id: str) -> Iterator[tuple[str, str, Any]]:
    """Requests that change nothing, or are refused, by user."""
    server = f'/servers/{server_id}'
    plain = (
        ['/', '', '/servers', '/servers/detail', '/servers/detail?name=of-demo', '/servers?limit=1', '/flavors']
        + [
            '/flavors/detail',
            '/os-keypairs',
            '/limits',
            '/os-availability-zone',
            '/os-server-groups',
            '/extensions',
        ]
        + ['/os-hypervisors', '/os-services', '/os-aggregates', '/os-simple-tenant-usage', '/no-such-thing']
        + ['/servers//os-interface', '/os-interface', '/images/detail', '/os-networks', '/os-floating-ips']
        + [f'{server}{rest}' for rest in ('', '/', '/metadata', '/ips', '/diagnostics', '/os-instance-actions')]
        + [
            f'{server}{rest}'
            for rest in ('/os-security-groups', '/os-volume_attachments', '/os-virtual-interfaces')
        ]
        + [f'{server}/os-interface/', f'{server}/os-interface/{port_id}/more', f'{server}/os-interfaces']
        + ['/servers/nothing', f'/servers/{port_id}']
    )
    yield from (('GET', path, None) for path in plain)
    yield from (('HEAD', path, None) for path in ('/servers', server))
    yield 'POST', '/servers', {'server': {}}
    yield 'POST', '/servers', {'server': {'name': 'x', 'flavorRef': 'nothing', 'imageRef': '', 'networks': 'none'}}
    yield 'POST', f'{server}/action', {'no-such-action': None}
    yield 'POST', f'{server}/metadata', {'metadata': {'key': 'value'}}
    yield 'PUT', f'{server}', {'server': {'name': 'of-demo'}}
    yield 'DELETE', f'{server}/metadata/nothing', None
    yield 'DELETE', '/servers/nothing', None


def comparable(answer: Any, url: str, without: str) -> tuple[Any, ...]:
    host, own_host = url.removesuffix('/v2.1'), without.removesuffix('/v2.1')
    # Their lengths differ with the port of the URL in the links; the server and its connections are not Nova's.
    dropped = ('date', 'x-openstack-request-id', 'x-compute-request-id', 'server', 'connection', 'content-length')
    headers = {
        name.lower(): value.replace(host, own_host)
        for name, value in answer.headers.items()
        if name.lower() not in (*dropped, 'keep-alive', 'transfer-encoding')
    }
    text = answer.text.replace(host, own_host)
    for volatile in (
        'req-[0-9a-f-]{36}',
        r'"(?:updated|last_seen_up|updated_at|stop)": "[^"]*"',
        r'[0-9]+\.[0-9]{4,}',
        # What is used up grows from one request to the next.
        r'"(?:total_\w+|hours|uptime)": [0-9.e-]+',
    ):
        text = re.sub(volatile, '', text)
    return answer.status_code, headers, text


@pytest.mark.parametrize('user', ['demo', 'admin'])
@pytest.mark.parametrize('version', ['2.1', '2.104'])
def test_novas_other_urls_are_unharmed(
    world: World, filtered: str, server_id: str, user: str, version: str
) -> None:
    own = world.cloud.nova_url
    headers = {'OpenStack-API-Version': f'compute {version}'}
    port = world.new_port()
    for method, path, body in paths(world, server_id, port.id):
        answers = [
            comparable(
                world.compute(user, url).request(path, method, json=body, headers=headers, redirect=False),
                url,
                own,
            )
            for url in (own, filtered)
        ]
        assert answers[0] == answers[1], f'{method} {path}'
    world.connection().network.delete_port(port.id)


def test_only_the_current_api_is_filtered(world: World, filtered: str, server_id: str) -> None:
    # Nova accepts the detach of a port that is not attached; this project does not.
    path = f'/servers/{server_id}/os-interface/{world.network.id}'
    old = filtered.replace('/v2.1', '/v2')
    assert world.compute('demo', filtered).delete(path).status_code == 404
    assert world.compute('demo', old).delete(path).status_code == 202
    assert 'openstack-api-version' in world.compute('demo', filtered).get(path).headers
    assert 'openstack-api-version' not in world.compute('demo', old).get(path).headers


def test_version_documents_are_novas_own_and_public(world: World, filtered: str) -> None:
    import requests

    for path in ('/', '/v2.1/'):
        answers = [
            requests.get(url.removesuffix('/v2.1') + path, timeout=30) for url in (world.cloud.nova_url, filtered)
        ]
        assert [answer.status_code for answer in answers] == [answers[0].status_code] * 2
        assert answers[0].status_code in (200, 300)


def test_novas_configuration_is_untouched(world: World, in_nova: InNova) -> None:
    etc = world.home / 'untouched'
    world.configure(etc)
    paste = etc / 'api-paste.ini'
    pipeline = 'use = call:nova.api.auth:pipeline_factory_v21\nkeystone = authtoken keystonecontext '
    paste.write_text(
        paste.read_text()
        + f'\n[composite:without]\n{pipeline}osapi_compute_app_v21\n'
        + f'\n[composite:with]\n{pipeline}os_interface osapi_compute_app_v21\n'
    )
    config_file = etc / 'os-interface-ext.conf'
    command = [world.python, '-m', 'os_interface_ext.cmd.main', 'db', 'sync', '--config-file', str(config_file)]
    subprocess.run(command, env=world.environment(etc), check=True, capture_output=True)
    assert in_nova.load_filter(str(paste)) == []


def test_the_start_warns_that_no_nic_reaches_a_guest(world: World, filtered: str) -> None:
    log = (world.home / 'filtered' / 'nova-api.log').read_text()
    assert 'vif_driver = noop: no NIC reaches a guest' in log


@pytest.mark.parametrize('preload', [False, True], ids=['loaded after the fork', 'loaded before the fork'])
def test_workers_may_be_forked(world: World, in_nova: InNova, preload: bool) -> None:
    name = 'before' if preload else 'after'
    with world.nova_api(f'forked_{name}', workers=2, preload_app=preload) as url:
        server_id = world.new_server()
        ports = [world.new_port().id for _ in range(4)]

        def there_and_back(port_id: str) -> None:
            # A client of its own, so a connection of its own, to whichever worker.
            api = adapter.Adapter(
                world.cloud.session('demo'), service_type='compute', endpoint_override=url, raise_exc=False
            )
            attach(api, server_id, port_id=port_id)
            assert api.get(f'/servers/{server_id}/os-interface/{port_id}').status_code == 200
            detach(api, server_id, port_id)
            attach(api, server_id, port_id=port_id)

        with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
            list(pool.map(there_and_back, ports))
        settle(lambda: all((in_nova.entry(server_id, port) or {}).get('kept') for port in ports))
        world.remove_server(server_id)
    for port_id in ports:
        assert world.port(port_id).device_id == ''
        world.connection().network.delete_port(port_id)


# ------------------------------------------------------------------ clients


@pytest.fixture
def catalog(world: World, filtered: str) -> Iterator[None]:
    """The catalog names the nova-api with the filter."""
    before = world.cloud.nova_url
    world.cloud.set_endpoint('compute', filtered)
    yield
    world.cloud.set_endpoint('compute', before)


@pytest.mark.usefixtures('catalog')
def test_openstackclient_by_name_through_the_catalog(world: World) -> None:
    connection = world.connection()
    server_id = world.new_server()
    connection.compute.update_server(server_id, name='client')
    brought = connection.network.create_port(network_id=world.network.id, name='brought')

    def openstack(*words: str) -> Any:
        result = subprocess.run(
            [sys.executable, '-m', 'openstackclient.shell', *words],
            env={'PATH': '/usr/bin:/bin', 'HOME': str(world.home), **world.cloud.environment('demo')},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout) if '-f' in words else None

    def shown() -> set[str]:
        return addresses(world.told(server_id))

    openstack('server', 'add', 'port', '--tag', 'first', 'client', 'brought')
    assert brought.fixed_ips[0]['ip_address'] in shown()
    found = openstack('port', 'list', '--server', 'client', '-f', 'json')
    assert [port['Name'] for port in found] == ['brought']
    openstack('server', 'remove', 'port', 'client', 'brought')
    assert shown() == set()
    openstack('server', 'add', 'network', 'client', world.network.name)
    assert len(shown()) == 1
    openstack('server', 'remove', 'network', 'client', world.network.name)
    assert shown() == set()
    openstack('server', 'add', 'fixed', 'ip', '--fixed-ip-address', '10.77.9.9', 'client', world.network.name)
    assert shown() == {'10.77.9.9'}
    told = openstack('server', 'show', 'client', '-f', 'json')
    assert told['addresses'] == {world.network.name: ['10.77.9.9']}
    assert connection.network.find_port('brought').device_id == ''
    world.remove_server(server_id)
    assert list(connection.network.ports(device_id=server_id)) == []
    connection.network.delete_port(brought.id)


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('version', ['2.1', '2.70', '2.104'])
def test_tempest_with_its_response_schemas(
    world: World, server_id: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(base_compute_client, 'COMPUTE_MICROVERSION', version)
    credentials = auth.KeystoneV3Credentials(
        username='demo',
        password=world.cloud.password,
        project_name='demo',
        user_domain_name='Default',
        project_domain_name='Default',
    )
    provider = auth.KeystoneV3AuthProvider(credentials, world.cloud.keystone_url)
    client = InterfacesClient(provider, 'compute', world.cloud.region)
    port = world.new_port()
    before = client.list_interfaces(server_id)['interfaceAttachments']
    brought = client.create_interface(server_id, port_id=port.id)['interfaceAttachment']
    made = client.create_interface(server_id, net_id=world.network.id)['interfaceAttachment']
    listed = client.list_interfaces(server_id)['interfaceAttachments']
    assert listed == [*before, brought, made]
    assert client.show_interface(server_id, made['port_id'])['interfaceAttachment'] == made
    assert made['port_state'] == 'ACTIVE'
    for port_id in (port.id, made['port_id']):
        client.delete_interface(server_id, port_id)
        with pytest.raises(tempest_exceptions.NotFound):
            client.show_interface(server_id, port_id)
    world.connection().network.delete_port(port.id)
