"""The real clients, pointed at a controller."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keystoneauth1.exceptions
import novaclient.client
import novaclient.exceptions
import openstack
import openstack.exceptions
import pytest
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from openstack.connection import Connection
from tempest.lib import auth
from tempest.lib import exceptions as tempest_exceptions
from tempest.lib.services.compute import base_compute_client
from tempest.lib.services.compute.interfaces_client import InterfacesClient

from tests.integration.conftest import NAMES, TOKENS, Service, environment, wait_until

pytestmark = [
    pytest.mark.service,
    # What a client will lack in its next version is not ours to mend.
    pytest.mark.filterwarnings(r'ignore:::openstack\..*'),
]

#: The caller of the tests at the starting state of the recorded cases: a user and his project by id.
USER = '7eee4b8f73815e2f8af41cf40881d095'
PROJECT = '9ccb04b696f5579493303111e43a46d8'
TOKEN = TOKENS['a_member']
SERVER = NAMES['srv_active']
PORT = NAMES['p_free']
NETWORK = NAMES['net2']


# ------------------------------------------------------------------ python-openstackclient


@pytest.fixture
def openstack_command(demo: Service, tmp_path: pathlib.Path) -> Callable[..., Any]:
    """The command of a newcomer, with the variables of the greeting, all servers and networks by name."""
    exports = next(line for line in demo.greeting.splitlines() if line.lstrip().startswith('export '))
    variables = dict(word.split('=', 1) for word in exports.split()[1:])

    def command(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, '-m', 'openstackclient.shell', *arguments],
            env=environment(tmp_path, **variables),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return command


def addresses(command: Callable[..., Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = command('server', 'show', 'web-1', '-f', 'json')['addresses']
    return found


def test_openstackclient_by_names(openstack_command: Callable[..., Any]) -> None:
    before = addresses(openstack_command)
    assert 'shared' not in before

    openstack_command('server', 'add', 'port', 'web-1', 'spare-shared')
    assert addresses(openstack_command)['shared'] == ['172.24.4.50']
    openstack_command('server', 'remove', 'port', 'web-1', 'spare-shared')
    assert addresses(openstack_command) == before

    openstack_command('server', 'add', 'network', 'web-1', 'shared')
    assert len(addresses(openstack_command)['shared']) == 1
    openstack_command('server', 'remove', 'network', 'web-1', 'shared')
    assert addresses(openstack_command) == before


def test_openstackclient_with_tags(openstack_command: Callable[..., Any], demo: Service) -> None:
    versioned = ('--os-compute-api-version', '2.49', 'server', 'add')
    openstack_command(*versioned, 'port', '--tag', 'blue', 'web-1', 'spare-shared')
    openstack_command(*versioned, 'network', '--tag', 'green', 'web-1', 'shared')
    server = next(
        s for s in demo.call('GET', '/v2.1/servers', 'demo-member').body['servers'] if s['name'] == 'web-1'
    )
    listed = demo.call(
        'GET',
        f'/v2.1/servers/{server["id"]}/os-interface',
        'demo-member',
        headers={'OpenStack-API-Version': 'compute 2.70'},
    ).body['interfaceAttachments']
    assert [attachment['tag'] for attachment in listed[-2:]] == ['blue', 'green']


def test_the_greeting_can_be_copied(openstack_command: Callable[..., Any], demo: Service) -> None:
    curl, _, client = [line.strip() for line in demo.greeting.splitlines()[-3:]]
    done = subprocess.run(['sh', '-c', curl], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)['interfaceAttachments']
    assert openstack_command(*client.split()[1:], '-f', 'json')['addresses']


# ------------------------------------------------------------------ openstacksdk


@pytest.fixture(params=['2.1', '2.49', '2.70', None], ids=lambda version: version or 'default')
def sdk(request: pytest.FixtureRequest, recorded: Service) -> Iterator[tuple[Connection, str | None]]:
    """A connection that sends one microversion, or the one that the client itself chooses."""
    connection = openstack.connect(
        load_envvars=False,
        load_yaml_config=False,
        auth_type='password',
        auth={
            'auth_url': f'{recorded.url}/v3',
            'user_id': USER,
            'password': TOKEN,
            'project_id': PROJECT,
        },
        compute_default_microversion=request.param,
    )
    yield connection, request.param
    connection.close()


def test_openstacksdk(sdk: tuple[Connection, str | None]) -> None:
    connection, version = sdk
    compute: Any = connection.compute
    before = [interface.port_id for interface in compute.server_interfaces(SERVER)]

    brought = compute.create_server_interface(SERVER, port_id=PORT)
    assert brought.id == brought.port_id == PORT
    tag = {'tag': 'blue'} if version != '2.1' else {}
    made = compute.create_server_interface(SERVER, net_id=NETWORK, **tag)
    assert made.net_id == NETWORK
    assert [interface.port_id for interface in compute.server_interfaces(SERVER)] == [*before, PORT, made.id]
    shown = compute.get_server_interface(made.id, server=SERVER)
    assert shown.fixed_ips == made.fixed_ips
    if version in ('2.70', None):
        assert shown.tag == 'blue'

    for port_id in (PORT, made.id):
        compute.delete_server_interface(port_id, server=SERVER, ignore_missing=False)
        with pytest.raises(openstack.exceptions.NotFoundException):
            compute.get_server_interface(port_id, server=SERVER)
    # It is gone: with ignore_missing that is as good as deleted.
    compute.delete_server_interface(made.id, server=SERVER)
    with pytest.raises(openstack.exceptions.NotFoundException):
        compute.delete_server_interface(made.id, server=SERVER, ignore_missing=False)
    assert connection.network.get_port(PORT).device_id == ''  # type: ignore[attr-defined]


def test_openstacksdk_with_a_limit(sdk: tuple[Connection, str | None]) -> None:
    compute: Any = sdk[0].compute
    several = NAMES['srv_multi']
    everything = [interface.port_id for interface in compute.server_interfaces(several)]
    assert len(everything) > 1
    assert [interface.port_id for interface in compute.server_interfaces(several, limit=1)] == everything


# ------------------------------------------------------------------ python-novaclient


@pytest.fixture
def session(recorded: Service) -> keystone_session.Session:
    return keystone_session.Session(
        v3.Password(auth_url=f'{recorded.url}/v3', user_id=USER, password=TOKEN, project_id=PROJECT)
    )


@pytest.mark.parametrize('version', ['2', '2.1', '2.49', '2.70'])
def test_novaclient(session: keystone_session.Session, version: str) -> None:
    nova = novaclient.client.Client(version, session=session)
    server = nova.servers.find(name='srv-active')
    assert server.id == SERVER
    before = [interface.id for interface in server.interface_list()]
    server.interface_attach(PORT, None, None)
    with_tag = {'tag': 'blue'} if version in ('2.49', '2.70') else {}
    made = nova.servers.interface_attach(SERVER, None, NETWORK, None, **with_tag)
    assert [interface.id for interface in server.interface_list()] == [*before, PORT, made.port_id]
    server.interface_detach(PORT)
    server.interface_detach(made.port_id)
    assert [interface.id for interface in server.interface_list()] == before
    with pytest.raises(novaclient.exceptions.NotFound):
        server.interface_detach(PORT)


# ------------------------------------------------------------------ Tempest


@pytest.fixture
def tempest_client(recorded: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], InterfacesClient]:
    credentials = auth.KeystoneV3Credentials(user_id=USER, password=TOKEN, project_id=PROJECT)
    provider = auth.KeystoneV3AuthProvider(credentials, f'{recorded.url}/v3')

    def client(version: str) -> InterfacesClient:
        monkeypatch.setattr(base_compute_client, 'COMPUTE_MICROVERSION', version)
        return InterfacesClient(provider, 'compute', 'RegionOne')

    return client


@pytest.mark.parametrize('version', ['2.1', '2.70'])
def test_tempest_with_its_response_schemas(
    tempest_client: Callable[[str], InterfacesClient], version: str
) -> None:
    client = tempest_client(version)
    before = client.list_interfaces(SERVER)['interfaceAttachments']
    brought = client.create_interface(SERVER, port_id=PORT)['interfaceAttachment']
    made = client.create_interface(SERVER, net_id=NETWORK)['interfaceAttachment']
    assert client.list_interfaces(SERVER)['interfaceAttachments'] == [*before, brought, made]
    assert client.show_interface(SERVER, made['port_id'])['interfaceAttachment'] == made
    assert made['port_state'] == 'ACTIVE'
    with pytest.raises(tempest_exceptions.BadRequest):
        # Nothing named, and more than one network there.
        client.create_interface(SERVER)
    for port_id in (PORT, made['port_id']):
        client.delete_interface(SERVER, port_id)
        with pytest.raises(tempest_exceptions.NotFound):
            client.show_interface(SERVER, port_id)


# ------------------------------------------------------------------ patterns of other clients


def test_terraform_deletes_until_it_is_gone(recorded: Service) -> None:
    collection = f'/v2.1/servers/{SERVER}/os-interface'
    attached = recorded.call('POST', collection, TOKEN, {'interfaceAttachment': {'net_id': NETWORK}})
    assert attached.status == 200
    item = f'{collection}/{attached.body["interfaceAttachment"]["port_id"]}'
    assert recorded.call('GET', item, TOKEN).status == 200

    def is_gone() -> bool:
        deleted = recorded.call('DELETE', item, TOKEN)
        assert deleted.status in (202, 404)
        return recorded.call('GET', item, TOKEN).status == 404

    wait_until(is_gone)
    assert recorded.call('DELETE', item, TOKEN).status == 404


def test_a_post_that_is_sent_again_is_no_error(recorded: Service) -> None:
    collection = f'/v2.1/servers/{SERVER}/os-interface'
    answers = [
        recorded.call('POST', collection, TOKEN, {'interfaceAttachment': {'port_id': PORT}}) for _ in range(2)
    ]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body


def test_a_wrong_password_is_refused(recorded: Service) -> None:
    wrong = v3.Password(auth_url=f'{recorded.url}/v3', user_id=USER, password='wrong', project_id=PROJECT)
    with pytest.raises(keystoneauth1.exceptions.Unauthorized):
        keystone_session.Session(wrong).get_token()
