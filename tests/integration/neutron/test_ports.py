"""What ports are like: addresses, MTU, security, kinds; and what of it stays as the user had it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from os_interface_ext import exceptions
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.neutron import NeutronNetworkDriver

from .conftest import Host, Project, World

pytestmark = pytest.mark.service

V6 = 'fd42:1::/64'


@pytest.fixture(scope='module')
def project(world: World) -> Project:
    return world.project('ports')


@pytest.fixture(scope='module')
def network(world: World, project: Project) -> str:
    """A network with IPv4 and IPv6, and an MTU of its own."""
    network_id = world.network(project, cidr='10.44.0.0/24', mtu=1400)
    world.subnet(project, network_id, V6)
    return network_id


@pytest.fixture(scope='module')
def host(world: World, tmp_path_factory: pytest.TempPathFactory, network: str) -> Host:
    return Host(world, tmp_path_factory.mktemp('host'))


@pytest.fixture
def server(host: Host, project: Project) -> base.Server:
    return host.server(project)


def look(world: World, port_id: str) -> dict[str, Any]:
    found = world.look(port_id)
    assert found is not None
    return found


def test_a_new_port_has_an_address_of_each_family(host: Host, server: base.Server, network: str) -> None:
    port_id = host.attach(server, net_id=network)
    addresses = [one['ip_address'] for one in host.show(server, port_id).json['interfaceAttachment']['fixed_ips']]
    assert sorted(':' in address for address in addresses) == [False, True]


def test_an_address_of_ipv6_that_is_asked_for(host: Host, server: base.Server, network: str) -> None:
    port_id = host.attach(server, net_id=network, fixed_ips=[{'ip_address': 'FD42:1::00ab'}])
    shown = host.show(server, port_id).json['interfaceAttachment']
    assert [one['ip_address'] for one in shown['fixed_ips']] == ['fd42:1::ab']


def test_a_brought_port_stays_as_its_owner_made_it(
    host: Host, world: World, server: base.Server, project: Project, network: str
) -> None:
    group = world.neutron('POST', '/security-groups', {'security_group': {'name': 'g', 'project_id': project.id}})
    group_id = group['security_group']['id']
    secured = world.port(project, network, security_groups=[group_id], name='mine', description='about it')
    open_port = world.port(project, network, port_security_enabled=False, security_groups=[])
    for port_id in (secured, open_port):
        before = look(world, port_id)
        host.attach(server, port_id=port_id)
        host.detach(server, port_id)
        after = look(world, port_id)
        changed = {name for name in after if after[name] != before[name]}
        assert changed <= {'revision_number', 'updated_at'}, changed
    host.attach(server, port_id=secured)
    attached = look(world, secured)
    assert attached['security_groups'] == [group_id]
    assert (attached['name'], attached['description'], attached['tags']) == ('mine', 'about it', [])


def test_a_created_port_has_the_default_security_group(
    host: Host, world: World, server: base.Server, project: Project, network: str
) -> None:
    made = look(world, host.attach(server, net_id=network))
    default = world.neutron('GET', f'/security-groups?project_id={project.id}&name=default')['security_groups']
    assert made['security_groups'] == [group['id'] for group in default]
    assert made['port_security_enabled']


def test_a_network_without_port_security_gives_ports_without_groups(
    host: Host, world: World, server: base.Server, project: Project
) -> None:
    network_id = world.network(project, port_security_enabled=False)
    made = look(world, host.attach(server, net_id=network_id))
    assert (made['security_groups'], made['port_security_enabled']) == ([], False)
    bare = world.network(project, cidr=None, port_security_enabled=False)
    port_id = host.attach(server, net_id=bare)
    assert host.show(server, port_id).json['interfaceAttachment']['fixed_ips'] == []


def test_a_kind_that_the_vif_driver_cannot_plug(
    host: Host, world: World, server: base.Server, project: Project, network: str
) -> None:
    port_id = world.port(project, network, **{'binding:vnic_type': 'direct'})
    answer = host.call('POST', server, body={'port_id': port_id})
    assert answer.status_int == 400, answer
    assert 'vnic_type direct' in answer.json['badRequest']['message']
    assert look(world, port_id)['device_id'] == ''


def test_what_plugging_needs_to_know(
    world: World, project: Project, network: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    driver = NeutronNetworkDriver(world.conf(tmp_path_factory.mktemp('neutron')))
    ctxt = world.member(project)
    one = base.Server('5b4f6c30-5a43-4f3c-9d23-000000000001', project.id, host='compute1')
    fence = base.Fence(1, time.monotonic() + 60)
    mark = 'osif:5b4f6c30-5a43-4f3c-9d23-000000000002:5b4f6c30-5a43-4f3c-9d23-000000000003'
    port = driver.create(ctxt, one, base.PortRequest(network), mark, fence)
    bound = driver.details(ctxt, driver.bind(ctxt, port, 'compute1', fence))
    assert bound.mtu == 1400
    assert sorted(one.prefix_length or 0 for one in bound.fixed_ips) == [24, 64]
    assert bound.vif_type == 'ovs'
    assert bound.vif_details['bridge_name'] == 'br-int'
    assert bound.vnic_type == 'normal'
    driver.delete(ctxt, port.id, mark, fence)


def test_a_port_that_lost_its_mark_is_unbound_and_not_deleted(
    host: Host, world: World, server: base.Server, network: str
) -> None:
    port_id = host.attach(server, net_id=network)
    world.neutron('PUT', f'/ports/{port_id}', {'port': {'description': 'mine now'}})
    world.neutron('PUT', f'/ports/{port_id}/tags', {'tags': []})
    host.detach(server, port_id)
    left = look(world, port_id)
    assert (left['device_id'], left['device_owner'], left['binding:host_id']) == ('', '', '')


def test_a_port_that_a_caller_of_a_third_project_does_not_see(
    world: World, project: Project, network: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    driver = NeutronNetworkDriver(world.conf(tmp_path_factory.mktemp('neutron')))
    ctxt = world.member(world.project('ports-third'))
    one = base.Server('5b4f6c30-5a43-4f3c-9d23-000000000004', project.id, host='compute1')
    port_id = world.port(project, network)
    with pytest.raises(exceptions.PortNotFound):
        driver.claim(ctxt, one, port_id, base.Fence(1, time.monotonic() + 60))
    driver.get_port(ctxt, port_id)
    with pytest.raises(exceptions.PortNotFound):
        driver.claim(ctxt, one, port_id, base.Fence(1, time.monotonic() + 60))
    assert look(world, port_id)['device_id'] == ''
