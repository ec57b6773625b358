"""What an operation costs: requests to Neutron, counted at the wire, and the connections that carry them."""

from __future__ import annotations

from typing import Any

import pytest

from os_interface_ext.drivers import base

from .conftest import Host, Project, World

pytestmark = pytest.mark.service


@pytest.fixture(scope='module')
def project(world: World) -> Project:
    return world.project('requests')


@pytest.fixture(scope='module')
def network(world: World, project: Project) -> str:
    return world.network(project, cidr='10.42.0.0/20')


@pytest.fixture(scope='module')
def host(world: World, tmp_path_factory: pytest.TempPathFactory, project: Project, network: str) -> Host:
    host = Host(world, tmp_path_factory.mktemp('host'))
    # Which networks are external is asked once in a while, and whether Neutron takes tags once.
    server = host.server(project)
    host.attach(server, port_id=world.port(project, network))
    host.attach(server, net_id=network)
    return host


@pytest.fixture(params=[0, 12], ids=['no other NIC', 'a dozen other NICs'])
def server(
    request: pytest.FixtureRequest, host: Host, world: World, project: Project, network: str
) -> base.Server:
    server = host.server(project)
    for _ in range(request.param):
        world.port(project, network, device_id=server.id, device_owner='compute:az1')
    return server


def asked(world: World) -> list[str]:
    """The requests since the last look: methods, and paths without ids and queries."""
    found = [
        f'{one.method} {one.path.split("?")[0].replace("/v2.0/", "")[:8].rstrip("/")}'
        for one in world.proxy.passed
    ]
    world.proxy.clear()
    return found


def test_list(host: Host, world: World, server: base.Server) -> None:
    world.proxy.clear()
    host.list(server)
    assert asked(world) == ['GET ports']


def test_show(host: Host, world: World, server: base.Server, network: str) -> None:
    port_id = host.attach(server, net_id=network)
    world.proxy.clear()
    host.show(server, port_id)
    assert [one.split('/')[0] for one in asked(world)] == ['GET ports']


@pytest.mark.parametrize('wanted', ['port', 'network', 'address'])
def test_attach_and_detach(
    host: Host, world: World, server: base.Server, project: Project, network: str, wanted: str
) -> None:
    body: dict[str, Any] = {'net_id': network}
    if wanted == 'port':
        body = {'port_id': world.port(project, network)}
    elif wanted == 'address':
        free = world.port(project, network)
        body['fixed_ips'] = [{'ip_address': (world.look(free) or {})['fixed_ips'][0]['ip_address']}]
        world.neutron('DELETE', f'/ports/{free}')
    world.proxy.clear()
    port_id = host.attach(server, **body)
    attach = asked(world)
    assert len(attach) <= 3, attach
    host.detach(server, port_id)
    detach = asked(world)
    assert len(detach) <= 3, detach
    left = world.look(port_id)
    assert (left is not None) == (wanted == 'port')
    assert not (left or {}).get('device_id')


def test_connections_are_kept(host: Host, world: World, server: base.Server, network: str) -> None:
    host.list(server)
    before = world.proxy.connections
    for _ in range(5):
        host.detach(server, host.attach(server, net_id=network))
        host.list(server)
    assert world.proxy.connections == before


def test_the_request_id_of_the_caller_goes_along(host: Host, world: World, server: base.Server) -> None:
    world.proxy.clear()
    sent = 'req-0123abcd-0123-4567-89ab-0123456789ab'
    host.list(server, headers={'X-OpenStack-Request-ID': sent})
    answer = host.list(server)
    told = [one.headers['X-OpenStack-Request-ID'] for one in world.proxy.passed]
    assert told == [sent, answer.headers['x-openstack-request-id']]


def test_who_asks(host: Host, world: World, server: base.Server, project: Project, network: str) -> None:
    """Ports are looked up and made with the caller's token, ours beside it, and bound with ours alone."""
    token = world.token(project)
    world.proxy.clear()
    port_id = host.attach(server, net_id=network)
    host.attach(server, port_id=world.port(project, network))
    authority = {
        (
            one.method,
            one.path.split('/')[2].split('?')[0],
            one.headers['X-Auth-Token'] == token,
            'X-Service-Token' in one.headers,
        )
        for one in world.proxy.passed
    }
    assert authority == {
        ('GET', 'networks', True, True),
        ('POST', 'ports', True, True),
        ('GET', 'ports', True, True),
        ('PUT', 'ports', False, False),
    }
    made = world.look(port_id) or {}
    assert made['project_id'] == project.id
    assert made['device_owner'] == 'compute:az1'
    assert (made['binding:host_id'], made['status'], made['device_id']) == ('compute1', 'ACTIVE', server.id)
