"""The cloud that the tests carry: that it is what they take it for."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import openstack.connection
import pytest
import requests
import sqlalchemy as sa
from openstack.network.v2 import network as sdk_network

from ..services.openstack import Cloud
from .conftest import wait_until

pytestmark = pytest.mark.service

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def demo(cloud: Cloud) -> openstack.connection.Connection:
    return cloud.connection('demo')


@pytest.fixture
def admin(cloud: Cloud) -> openstack.connection.Connection:
    return cloud.connection('admin')


@pytest.fixture
def network(cloud: Cloud, demo: openstack.connection.Connection) -> Iterator[sdk_network.Network]:
    made = cloud.network(demo, name=f'cloud-{uuid.uuid4()}')
    yield made
    for port in demo.network.ports(network_id=made.id):
        demo.network.delete_port(port)
    demo.network.delete_network(made)


def test_tokens_name_projects_and_roles(cloud: Cloud) -> None:
    headers = {'X-Auth-Token': cloud.token('admin'), 'X-Subject-Token': cloud.token('demo_reader')}
    token = requests.get(f'{cloud.keystone_url}/auth/tokens', headers=headers, timeout=30).json()['token']
    assert token['user']['name'] == 'demo_reader'
    assert token['project']['name'] == 'demo'
    assert [role['name'] for role in token['roles']] == ['reader']
    assert {service['type'] for service in token['catalog']} >= {'identity', 'network'}


def test_a_port_with_a_host_is_bound_and_active(
    demo: openstack.connection.Connection,
    admin: openstack.connection.Connection,
    network: sdk_network.Network,
) -> None:
    port = demo.network.create_port(network_id=network.id)
    assert port.status == 'DOWN'
    assert [address['ip_address'].startswith('10.1.') for address in port.fixed_ips] == [True]
    bound = admin.network.update_port(port, binding_host_id='host1')
    assert bound.binding_vif_type == 'ovs'
    assert demo.network.get_port(port.id).status == 'ACTIVE'
    unbound = admin.network.update_port(port, binding_host_id='')
    assert unbound.binding_vif_type == 'unbound'
    assert unbound.status == 'DOWN'


@pytest.mark.parametrize(('host', 'vif_type'), [('unbindable1', 'binding_failed'), ('noagent1', 'ovs')])
def test_hosts_that_do_not_wire(
    admin: openstack.connection.Connection, network: sdk_network.Network, host: str, vif_type: str
) -> None:
    port = admin.network.create_port(network_id=network.id, binding_host_id=host)
    port = admin.network.get_port(port.id)
    assert (port.binding_vif_type, port.status) == (vif_type, 'DOWN')


@pytest.mark.parametrize(('service', 'path'), [('neutron', '/v2.0/networks'), ('keystone', '/v3/users')])
def test_connections_stay_open(cloud: Cloud, service: str, path: str) -> None:
    good = {'X-Auth-Token': cloud.token('admin'), 'Content-Type': 'application/json'}
    bad = {**good, 'X-Auth-Token': 'bad'}
    # More than what the sockets buffer: it is under way when the answer comes.
    body = json.dumps({'network': {'name': 'x' * 1_000_000}})
    with contextlib.closing(http.client.HTTPConnection('127.0.0.1', cloud.port(service), timeout=60)) as peer:
        peer.connect()
        socket = peer.sock
        for method, sent, headers, refused in (
            ('GET', None, good, False),
            ('POST', body, bad, True),
            ('PUT', body, bad, True),
            ('POST', '{', good, True),
            ('GET', None, good, False),
        ):
            peer.request(method, path, sent, headers)
            response = peer.getresponse()
            response.read()
            assert (response.status in range(400, 500)) == refused
            assert refused or response.status == 200
            assert peer.sock is socket, f'{service} has closed the connection after {method}'


def test_a_session_has_one_connection(cloud: Cloud) -> None:
    headers = {'X-Auth-Token': cloud.token()}
    with requests.Session() as session:
        for _ in range(5):
            assert session.get(f'{cloud.neutron_url}/v2.0/networks', headers=headers, timeout=30).ok
        pools = session.get_adapter(cloud.neutron_url).poolmanager.pools  # type: ignore[attr-defined]
        [pool] = [pools[key] for key in pools.keys()]  # noqa: SIM118 - it is no mapping
        assert (pool.num_connections, pool.num_requests) == (1, 5)


def test_neutron_goes_and_comes_back(cloud: Cloud, network: sdk_network.Network) -> None:
    url = f'{cloud.neutron_url}/v2.0/networks/{network.id}'
    headers = {'X-Auth-Token': cloud.token('demo')}
    for end in (cloud.stop, cloud.kill):
        end('neutron')
        with pytest.raises(requests.ConnectionError):
            requests.get(url, headers=headers, timeout=30)
        cloud.start('neutron')
        assert requests.get(url, headers=headers, timeout=30).status_code == 200


def test_the_catalog_names_what_it_is_told(cloud: Cloud) -> None:
    for url in ('http://127.0.0.1:9/first', 'http://127.0.0.1:9/second'):
        cloud.set_endpoint('example', url)
        assert cloud.session('demo').get_endpoint(service_type='example', region_name=cloud.region) == url


def test_clients_are_told_by_the_environment(cloud: Cloud, network: sdk_network.Network) -> None:
    listed = subprocess.check_output(
        [sys.executable, '-m', 'openstackclient.shell', 'network', 'list', '-f', 'value', '-c', 'ID'],
        env={**os.environ, **cloud.environment('demo')},
        text=True,
    )
    assert network.id in listed.split()


def test_databases_are_new(cloud: Cloud) -> None:
    for _ in range(2):
        engine = sa.create_engine(cloud.database('cloud_test'), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text('CREATE TABLE something (id INT)'))


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    code = (
        'import signal\n'
        'from tests.services.openstack import Cloud\n'
        'cloud = Cloud()\n'
        "names = ('mariadb', 'memcached', 'keystone', 'neutron')\n"
        'print(cloud.logs, *(cloud.pid(name) for name in names), flush=True)\n'
        'signal.pause()\n'
    )
    with subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            logs, *pids = process.stdout.readline().split()
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(pids) == 4
    wait_until(lambda: not any(pathlib.Path('/proc', pid).exists() for pid in pids))
    wait_until(lambda: not pathlib.Path(logs).parent.exists())


def test_nova_starts_servers(nova_cloud: Cloud) -> None:
    demo = nova_cloud.connection('demo')
    network = nova_cloud.network(demo, name='cloud-nova')
    image = demo.image.find_image('tiny')
    server = demo.compute.create_server(
        name='cloud', flavor_id='1', image_id=image.id, networks=[{'uuid': network.id}]
    )
    try:
        assert demo.compute.wait_for_server(server, wait=60, interval=1).status == 'ACTIVE'
        [port] = nova_cloud.connection('admin').network.ports(device_id=server.id)
        assert (port.status, port.binding_host_id) == ('ACTIVE', nova_cloud.compute_host)
    finally:
        demo.compute.delete_server(server)
        demo.compute.wait_for_delete(server, interval=1)
    demo.network.delete_network(network)


def test_nova_services_start_again(nova_cloud: Cloud) -> None:
    for name in ('nova-compute', 'nova'):
        nova_cloud.kill(name)
        nova_cloud.start(name)
    services = nova_cloud.connection('admin').compute.services(binary='nova-compute')
    assert [(one.host, one.state) for one in services] == [(nova_cloud.compute_host, 'up')]
