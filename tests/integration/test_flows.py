"""The main job, end to end: real clients, tokens of a real Keystone, ports of a real Neutron."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import novaclient.client
import novaclient.exceptions
import openstack.exceptions
import pytest
import yaml
from keystoneauth1 import session as keystone_session
from keystoneauth1.identity import v3
from openstack.connection import Connection
from tempest.lib import auth as tempest_auth
from tempest.lib import exceptions as tempest_exceptions
from tempest.lib.services.compute import base_compute_client
from tempest.lib.services.compute.interfaces_client import InterfacesClient

from os_interface_ext import conf as config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from tests.integration.conftest import PATIENCE, environment, wait_until
from tests.integration.identities import Identities
from tests.services.openstack.cloud import Cloud

pytestmark = [
    pytest.mark.service,
    pytest.mark.filterwarnings(r'ignore:::openstack\..*'),
]

ROOT = pathlib.Path(__file__).parents[2]
INI = ROOT / 'etc' / 'os-interface-ext' / 'api-paste.ini'
NETWORKS = {'front': '10.70.1.0/24', 'back': '10.70.2.0/24'}
HOST, ZONE = 'compute1', 'az1'

Port = dict[str, Any]


@dataclasses.dataclass
class World:
    """A project with two servers and two networks, its people, and the host that serves its servers."""

    cloud: Cloud
    identities: Identities
    project: str
    users: dict[str, str]
    region: str
    url: str
    servers: dict[str, str]
    networks: dict[str, str]
    member: Connection
    admin: Connection

    # ------------------------------------------------------------------ who asks

    def variables(self, who: str) -> dict[str, str]:
        """What the command line clients are told of one of our people, or of one of the cloud's users."""
        told = self.cloud.environment('admin' if who in self.users else who)
        if who in self.users:
            for name in ('OS_USERNAME', 'OS_PROJECT_NAME'):
                del told[name]
            told |= {'OS_USER_ID': self.users[who], 'OS_PROJECT_ID': self.project}
        return {**told, 'OS_REGION_NAME': self.region}

    def auth(self, who: str) -> v3.Password:
        return v3.Password(
            auth_url=self.cloud.keystone_url,
            user_id=self.users[who],
            password=self.cloud.password,
            project_id=self.project,
        )

    def token(self, who: str) -> str:
        return self.identities.token(self.users[who], project_id=self.project)

    # ------------------------------------------------------------------ Neutron, behind the back of the host

    def port(self, network: str = 'back', **attributes: Any) -> str:
        """A port that a member of the project has made; its id."""
        made = self.member.network.create_port(  # type: ignore[attr-defined]
            network_id=self.networks[network], **attributes
        )
        return str(made.id)

    def look(self, port_id: str) -> Port | None:
        """A port as the administrator sees it, with its revision; None if there is none."""
        found = self.admin.network.find_port(port_id)  # type: ignore[attr-defined]
        return None if found is None else found.to_dict(computed=False)

    def ports(self, server: str) -> list[Port]:
        found = self.admin.network.ports(device_id=self.servers[server])  # type: ignore[attr-defined]
        return [one.to_dict(computed=False) for one in found]

    def check_bound(self, port_id: str, server: str) -> None:
        port = self.look(port_id)
        assert port is not None
        assert (port['device_id'], port['device_owner']) == (self.servers[server], f'compute:{ZONE}')
        assert (port['binding_host_id'], port['binding_vif_type'], port['status']) == (HOST, 'ovs', 'ACTIVE')

    def check_free(self, port_id: str) -> None:
        port = self.look(port_id)
        assert port is not None
        assert (port['device_id'], port['device_owner'], port['binding_host_id']) == ('', '', '')
        assert (port['binding_vif_type'], port['status']) == ('unbound', 'DOWN')

    # ------------------------------------------------------------------ the host, without a client

    def call(
        self, method: str, path: str, token: str | None = None, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """The status, and the body."""
        sent = {'OpenStack-API-Version': 'compute 2.70', 'Content-Type': 'application/json', **headers}
        if token is not None:
            sent['X-Auth-Token'] = token
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        return status, json.loads(text) if text else None


# ------------------------------------------------------------------ the host


def _write(path: pathlib.Path, sections: dict[str, dict[str, Any]]) -> None:
    path.write_text(
        ''.join(
            f'[{name}]\n' + ''.join(f'{key} = {value}\n' for key, value in section.items())
            for name, section in sections.items()
        )
    )


def _load(url: str, inventory: dict[str, Any]) -> None:
    database = Database.of(config.new([], database={'connection': url}))
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(yaml.safe_dump(inventory), 'inventory'))
    database.dispose()


@contextlib.contextmanager
def serving(home: pathlib.Path, listening: socket.socket, sections: dict[str, dict[str, Any]]) -> Iterator[None]:
    """gunicorn with the host, on a socket that listens already."""
    path = home / 'os-interface-ext.conf'
    _write(path, sections)
    log = home / 'host.log'
    options = ['--workers', '2', '--worker-class', 'gthread', '--threads', '8', '--graceful-timeout', '5']
    with log.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', 'gunicorn', '--bind', f'fd://{listening.fileno()}', *options,
             'tests.integration.keystone_host:application'],
            env=environment(home, **{config.ENV_FILES: str(path), 'PYTHONPATH': str(ROOT)}),
            cwd=home,
            stdout=file,
            stderr=file,
            pass_fds=[listening.fileno()],
        )  # fmt: skip
    url = f'http://127.0.0.1:{listening.getsockname()[1]}/healthcheck'

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        # The socket takes connections before there is anybody to answer them.
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return bool(answer.status == 200)
        return False

    try:
        wait_until(answers)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert 'Traceback' not in log.read_text(), log.read_text()


@pytest.fixture(scope='module')
def world(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp('flows')
    with contextlib.ExitStack() as stack:
        identities = Identities(cloud)
        stack.callback(identities.close)
        project = identities.new_project()
        users = {role: identities.new_user(f'/projects/{project}', role) for role in ('member', 'reader')}
        listening = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
        url = f'http://127.0.0.1:{listening.getsockname()[1]}'
        region = stack.enter_context(
            identities.region(compute=f'{url}/v2.1', network=cloud.neutron_url, identity=cloud.keystone_url)
        )
        auth = v3.Password(
            auth_url=cloud.keystone_url, user_id=users['member'], password=cloud.password, project_id=project
        )
        member = Connection(session=keystone_session.Session(auth), region_name=region)
        admin = cloud.connection('admin')
        stack.callback(member.close)
        stack.callback(admin.close)
        networks = {}
        for name, cidr in NETWORKS.items():
            made = member.network.create_network(name=name)  # type: ignore[attr-defined]
            stack.callback(member.network.delete_network, made.id)  # type: ignore[attr-defined]
            member.network.create_subnet(  # type: ignore[attr-defined]
                network_id=made.id, name=name, cidr=cidr, ip_version=4, enable_dhcp=False
            )
            networks[name] = made.id

        def leave_nothing() -> None:
            for port in admin.network.ports(project_id=project):  # type: ignore[attr-defined]
                admin.network.delete_port(port.id)  # type: ignore[attr-defined]
            for group in admin.network.security_groups(project_id=project):  # type: ignore[attr-defined]
                stack.callback(admin.network.delete_security_group, group.id)  # type: ignore[attr-defined]

        stack.callback(leave_nothing)
        servers = {name: str(uuid.uuid4()) for name in ('web-1', 'web-2')}
        database = f'sqlite:///{home}/osif.sqlite'
        _load(
            database,
            {
                # Their names alone, for the addresses that the host shows.
                'networks': [
                    {'id': network, 'name': name, 'project_id': project} for name, network in networks.items()
                ],
                'servers': [
                    {
                        'id': server,
                        'name': name,
                        'project_id': project,
                        'host': HOST,
                        'availability_zone': ZONE,
                    }
                    for name, server in servers.items()
                ],
            },
        )
        ours = {
            'auth_type': 'password',
            'auth_url': cloud.keystone_url,
            'username': 'osif',
            'password': cloud.password,
            'project_name': 'service',
            'user_domain_name': 'Default',
            'project_domain_name': 'Default',
            'region_name': region,
        }
        stack.enter_context(
            serving(
                home,
                listening,
                {
                    'database': {'connection': database},
                    'os_interface': {'server_driver': 'sql', 'network_driver': 'neutron', 'vif_driver': 'noop'},
                    'api': {'paste_config': INI},
                    'neutron': ours,
                    'keystone_authtoken': {**ours, 'www_authenticate_uri': cloud.keystone_url},
                },
            )
        )
        yield World(cloud, identities, project, users, region, url, servers, networks, member, admin)


@pytest.fixture(autouse=True)
def _nothing_is_left(world: World) -> Iterator[None]:
    """Each test leaves both servers without a port."""
    yield
    assert [port['id'] for name in world.servers for port in world.ports(name)] == []


# ------------------------------------------------------------------ python-openstackclient


@dataclasses.dataclass
class Done:
    """What a command has said."""

    status: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def command(world: World, tmp_path: pathlib.Path) -> Command:
    """``openstack …`` in the name of one of our people or of the cloud's users; it must succeed unless told."""

    def run(who: str, *arguments: str, refused: bool = False, **variables: str) -> Done:
        told = {**world.variables(who), 'OS_COMPUTE_API_VERSION': '2.70', **variables}
        done = subprocess.run(
            [sys.executable, '-m', 'openstackclient.shell', *arguments],
            env=environment(tmp_path, **{name: text for name, text in told.items() if text}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode != 0) == refused, done.stderr or done.stdout
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def addresses(command: Command, who: str, server: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = command(who, 'server', 'show', server, '-f', 'json').json['addresses']
    return found


def test_a_member_attaches_by_names(world: World, command: Command) -> None:
    brought = world.port(name='brought')
    address = world.look(brought)['fixed_ips'][0]['ip_address']  # type: ignore[index]

    command('member', 'server', 'add', 'port', '--tag', 'data', 'web-1', 'brought')
    world.check_bound(brought, 'web-1')
    assert addresses(command, 'member', 'web-1') == {'back': [address]}
    command('member', 'server', 'add', 'network', '--tag', 'uplink', 'web-1', 'front')
    wanted = '10.70.1.77'
    command('member', 'server', 'add', 'fixed', 'ip', '--fixed-ip-address', wanted, 'web-1', 'front')

    listed = {
        port['ID']: port for port in command('member', 'port', 'list', '--server', 'web-1', '-f', 'json').json
    }
    assert len(listed) == 3
    assert {port['Status'] for port in listed.values()} == {'ACTIVE'}
    made = [port_id for port_id in listed if port_id != brought]
    for port_id in made:
        world.check_bound(port_id, 'web-1')
    assert set(addresses(command, 'member', 'web-1')) == {'front', 'back'}
    assert wanted in addresses(command, 'member', 'web-1')['front']
    status, body = world.call('GET', f'/v2.1/servers/{world.servers["web-1"]}/os-interface', world.token('reader'))
    assert (status, [one['tag'] for one in body['interfaceAttachments']]) == (200, ['data', 'uplink', None])
    assert body['interfaceAttachments'][0]['port_id'] == brought

    # A port that was brought is unbound, and another server's at once.
    command('member', 'server', 'remove', 'port', 'web-1', 'brought')
    world.check_free(brought)
    command('member', 'server', 'add', 'port', 'web-2', 'brought')
    world.check_bound(brought, 'web-2')
    command('member', 'server', 'remove', 'port', 'web-2', 'brought')
    world.check_free(brought)
    # Those that were made are deleted.
    command('member', 'server', 'remove', 'network', 'web-1', 'front')
    assert [world.look(port_id) for port_id in made] == [None, None]
    assert addresses(command, 'member', 'web-1') == {}


def test_a_reader_may_only_look(world: World, command: Command) -> None:
    spare, attached = world.port(name='spare'), world.port(name='attached')
    command('member', 'server', 'add', 'port', 'web-1', 'attached')
    before = [world.look(port) for port in (spare, attached)]

    assert [p['ID'] for p in command('reader', 'port', 'list', '--server', 'web-1', '-f', 'json').json] == [
        attached
    ]
    assert set(addresses(command, 'reader', 'web-1')) == {'back'}
    for words in (
        ('add', 'port', 'web-1', 'spare'),
        ('add', 'network', 'web-1', 'front'),
        ('remove', 'port', 'web-1', 'attached'),
    ):
        assert 'Policy does not allow' in command('reader', 'server', *words, refused=True).error
    assert [world.look(port) for port in (spare, attached)] == before
    assert [port['id'] for port in world.ports('web-1')] == [attached]
    command('member', 'server', 'remove', 'port', 'web-1', 'attached')


def test_a_stranger_sees_nothing(world: World, command: Command) -> None:
    spare, attached = world.port(name='not-yours'), world.port()
    command('member', 'server', 'add', 'port', 'web-1', attached)
    before = [world.look(port) for port in (spare, attached)]
    server = world.servers['web-1']
    for words in (
        ('add', 'port', server, spare),
        ('add', 'port', 'web-1', 'not-yours'),
        ('remove', 'port', server, attached),
    ):
        error = command('alt', 'server', *words, refused=True).error
        assert 'No Server found' in error or 'No Port found' in error or 'No Network found' in error, error
    # Nor without the client's own look at the server, and the port.
    stranger = world.cloud.token('alt')
    path = f'/v2.1/servers/{server}/os-interface'
    for method, url, body in (
        ('GET', path, None),
        ('GET', f'{path}/{attached}', None),
        ('POST', path, {'interfaceAttachment': {'port_id': spare}}),
        ('POST', path, {'interfaceAttachment': {'net_id': world.networks['front']}}),
        ('DELETE', f'{path}/{attached}', None),
    ):
        status, fault = world.call(method, url, stranger, body)
        assert (status, fault['itemNotFound']['message']) == (404, f'Instance {server} could not be found.')
    assert [world.look(port) for port in (spare, attached)] == before
    command('member', 'server', 'remove', 'port', 'web-1', attached)


def test_an_administrator_of_another_project(world: World, command: Command) -> None:
    port, server = world.port(), world.servers['web-2']
    command('admin', 'server', 'add', 'port', server, port)
    world.check_bound(port, 'web-2')
    command('admin', 'server', 'add', 'network', server, world.networks['front'])
    (made,) = [one for one in world.ports('web-2') if one['id'] != port]
    # It is the server's project's, not the administrator's.
    assert made['project_id'] == world.project
    world.check_bound(made['id'], 'web-2')
    command('admin', 'server', 'remove', 'port', server, port)
    command('admin', 'server', 'remove', 'port', server, made['id'])
    world.check_free(port)
    assert world.look(made['id']) is None


def test_what_belongs_to_others_is_not_attached(world: World) -> None:
    """A member's own server, and another project's port or network."""
    alt = world.cloud.connection('alt')
    with contextlib.ExitStack() as stack:
        stack.callback(alt.close)
        network = alt.network.create_network(name='foreign')  # type: ignore[attr-defined]
        stack.callback(alt.network.delete_network, network.id)  # type: ignore[attr-defined]
        alt.network.create_subnet(  # type: ignore[attr-defined]
            network_id=network.id, cidr='10.70.9.0/24', ip_version=4, enable_dhcp=False
        )
        foreign = alt.network.create_port(network_id=network.id)  # type: ignore[attr-defined]
        stack.callback(alt.network.delete_port, foreign.id)  # type: ignore[attr-defined]
        before = world.look(foreign.id)
        path = f'/v2.1/servers/{world.servers["web-1"]}/os-interface'
        for wanted, expected in (
            ({'port_id': foreign.id}, 400),
            ({'port_id': str(uuid.uuid4())}, 404),
            # Of a network that he cannot see he is not told that it is there.
            ({'net_id': network.id}, 404),
            ({'net_id': str(uuid.uuid4())}, 404),
        ):
            status, fault = world.call('POST', path, world.token('member'), {'interfaceAttachment': wanted})
            assert status == expected, fault
        status, _ = world.call('DELETE', f'{path}/{foreign.id}', world.token('member'))
        assert status == 404
        assert world.look(foreign.id) == before
        assert len(list(alt.network.ports(network_id=network.id))) == 1  # type: ignore[attr-defined]


# ------------------------------------------------------------------ tokens that are none any more


def test_tokens_that_are_none_any_more(world: World, command: Command) -> None:
    expired, end = world.identities.expiring(world.users['member'], world.project)
    revoked = world.token('member')
    world.identities.revoke(revoked)
    port, server = world.port(), world.servers['web-1']
    before = world.look(port)
    path = f'/v2.1/servers/{server}/os-interface'
    wait_until(lambda: time.time() > end + 0.2)

    for token in (expired, revoked):
        # Keystone itself refuses them, where the client asks it for the catalog.
        scope = {'OS_USER_ID': '', 'OS_PASSWORD': '', 'OS_USER_DOMAIN_ID': '', 'OS_PROJECT_DOMAIN_ID': ''}
        asked = ('server', 'add', 'port', server, port)
        refused = command('member', *asked, refused=True, OS_AUTH_TYPE='v3token', OS_TOKEN=token, **scope)
        assert 'HTTP 404' in refused.error or 'HTTP 401' in refused.error
        # And the host does, where the client goes to it at once.
        only = {'OS_AUTH_TYPE': 'admin_token', 'OS_ENDPOINT': f'{world.url}/v2.1', 'OS_TOKEN': token}
        without = dict.fromkeys(world.variables('member'), '')
        refused = command('member', *asked, refused=True, **{**without, **only})
        assert 'requires authentication' in refused.error
        assert '401' in refused.error
    sent: tuple[str | None, ...] = (None, '', 'garbage', expired, revoked)
    for nobody in sent:
        for method, url, body in (
            ('GET', path, None),
            ('POST', path, {'interfaceAttachment': {'port_id': port}}),
            ('POST', path, {'interfaceAttachment': {'net_id': world.networks['front']}}),
            ('DELETE', f'{path}/{port}', None),
        ):
            status, answer = world.call(method, url, nobody, body)
            assert (status, answer['error']['code']) == (401, 401)
    assert world.look(port) == before
    for public in ('/', '/v2.1/', '/healthcheck'):
        assert urllib.request.urlopen(world.url + public, timeout=60).status == 200


def test_a_service_goes_on_with_a_token_that_has_expired(world: World) -> None:
    """Another service (Heat, say) has worked on the user's behalf for longer than his token lives."""
    expired, end = world.identities.expiring(world.users['member'], world.project)
    port = world.port()
    path = f'/v2.1/servers/{world.servers["web-1"]}/os-interface'
    wait_until(lambda: time.time() > end + 0.2)
    service = {'X-Service-Token': world.cloud.token('osif')}
    for wanted in ({'port_id': port}, {'net_id': world.networks['front']}):
        status, body = world.call('POST', path, expired, {'interfaceAttachment': wanted}, **service)
        assert status == 200, body
        attached = body['interfaceAttachment']['port_id']
        world.check_bound(attached, 'web-1')
        status, _ = world.call('DELETE', f'{path}/{attached}', expired, **service)
        assert status == 202
    world.check_free(port)


def test_a_token_that_is_revoked_while_it_is_believed(world: World) -> None:
    """The cache of the host's filter still takes it; Neutron, asked with it, does not."""
    token = world.token('member')
    port = world.port()
    before = world.look(port)
    path = f'/v2.1/servers/{world.servers["web-1"]}/os-interface'
    for _ in range(4):
        assert world.call('GET', path, token)[0] == 200
    world.identities.revoke(token)
    for wanted in ({'port_id': port}, {'net_id': world.networks['front']}, {}):
        status, fault = world.call('POST', path, token, {'interfaceAttachment': wanted})
        assert (status, next(iter(fault.values()))['code']) == (401, 401)
    assert world.look(port) == before


# ------------------------------------------------------------------ the other clients


def test_openstacksdk(world: World) -> None:
    connection = Connection(session=keystone_session.Session(world.auth('member')), region_name=world.region)
    compute: Any = connection.compute
    server = compute.find_server('web-1').id
    assert server == world.servers['web-1']
    port = world.port()
    compute.create_server_interface(server, port_id=port)
    made = compute.create_server_interface(server, net_id=world.networks['front'], tag='blue')
    for one in (port, made.id):
        world.check_bound(one, 'web-1')
    assert [one.port_id for one in compute.server_interfaces(server)] == [port, made.id]
    shown = compute.get_server_interface(made.id, server=server)
    assert (shown.tag, shown.port_state) == ('blue', 'ACTIVE')
    for one in (port, made.id):
        compute.delete_server_interface(one, server=server, ignore_missing=False)
    with pytest.raises(openstack.exceptions.NotFoundException):
        compute.get_server_interface(port, server=server)
    world.check_free(port)
    assert world.look(made.id) is None
    connection.close()


def test_openstacksdk_of_a_reader(world: World) -> None:
    connection = Connection(session=keystone_session.Session(world.auth('reader')), region_name=world.region)
    compute: Any = connection.compute
    assert list(compute.server_interfaces(world.servers['web-1'])) == []
    with pytest.raises(openstack.exceptions.ForbiddenException):
        compute.create_server_interface(world.servers['web-1'], port_id=world.port())
    connection.close()


@pytest.mark.parametrize('version', ['2', '2.70'])
def test_novaclient(world: World, version: str) -> None:
    session = keystone_session.Session(world.auth('member'))
    nova = novaclient.client.Client(version, session=session, region_name=world.region)
    server = nova.servers.find(name='web-2')
    port = world.port()
    server.interface_attach(port, None, None)
    made = server.interface_attach(None, world.networks['back'], '10.70.2.200')
    assert [one.id for one in server.interface_list()] == [port, made.port_id]
    world.check_bound(made.port_id, 'web-2')
    server.interface_detach(port)
    server.interface_detach(made.port_id)
    assert server.interface_list() == []
    with pytest.raises(novaclient.exceptions.NotFound):
        server.interface_detach(port)
    world.check_free(port)


@pytest.mark.parametrize('version', ['2.1', '2.70'])
def test_tempest(world: World, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tempest_auth.KeystoneV3Credentials(
        user_id=world.users['member'], password=world.cloud.password, project_id=world.project
    )
    provider = tempest_auth.KeystoneV3AuthProvider(credentials, world.cloud.keystone_url)
    monkeypatch.setattr(base_compute_client, 'COMPUTE_MICROVERSION', version)
    client = InterfacesClient(provider, 'compute', world.region)
    server, port = world.servers['web-1'], world.port()
    brought = client.create_interface(server, port_id=port)['interfaceAttachment']
    made = client.create_interface(server, net_id=world.networks['front'])['interfaceAttachment']
    assert client.list_interfaces(server)['interfaceAttachments'] == [brought, made]
    assert client.show_interface(server, made['port_id'])['interfaceAttachment'] == made
    assert made['port_state'] == 'ACTIVE'
    with pytest.raises(tempest_exceptions.BadRequest):
        # Nothing named, and the project has two networks.
        client.create_interface(server)
    for one in (port, made['port_id']):
        client.delete_interface(server, one)
        with pytest.raises(tempest_exceptions.NotFound):
            client.show_interface(server, one)
    world.check_free(port)
