"""The public suite of network drivers, against a real Neutron."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.neutron import NeutronNetworkDriver
from os_interface_ext.testing import networks
from tests.services import http_proxy

from .conftest import HOST, UNBINDABLE, World, server

pytestmark = pytest.mark.service


@pytest.fixture(scope='module')
def shared_network(world: World) -> str:
    return world.network(world.project('contract'), cidr='10.40.0.0/20')


@pytest.fixture(scope='module')
def external_network(world: World) -> str:
    return world.network(world.project('contract-foreign'), **{'router:external': True})


@pytest.fixture(scope='module')
def driver(world: World, external_network: str, tmp_path_factory: pytest.TempPathFactory) -> NeutronNetworkDriver:
    # After the external network: which networks are external is asked once in a while.
    return NeutronNetworkDriver(world.conf(tmp_path_factory.mktemp('neutron'), neutron={'read_timeout': 10}))


class TestNeutronContract(networks.NetworkDriverContract):
    """With callers who have tokens."""

    with_tokens = True

    @pytest.fixture
    def backend(
        self,
        world: World,
        driver: NeutronNetworkDriver,
        shared_network: str,
        external_network: str,
        request: pytest.FixtureRequest,
        tmp_path: pathlib.Path,
    ) -> networks.NetworkBackend:
        ours, theirs = world.project('contract'), world.project('contract-foreign')
        projects = {project.id: project for project in (ours, theirs)}

        def context(of: base.Server) -> RequestContext:
            project = projects[of.project_id]
            return world.member(project, **({} if self.with_tokens else {'auth_token': None}))

        def make_port(project_id: str, *, device_id: str = '') -> str:
            return world.port(project_id, shared_network, device_id=device_id)

        return networks.NetworkBackend(
            driver=driver,
            server=server(ours),
            other_server=server(ours),
            foreign_server=server(theirs),
            network_id=shared_network,
            make_port=make_port,
            context=context,
            host=HOST,
            host_without_binding=UNBINDABLE,
            unreachable=lambda: world.proxy.trouble(http_proxy.refuse),
            answers_lost=lambda: world.proxy.trouble(http_proxy.lose, _writes),
            forbidden_network_id=external_network,
            **self._special(world, request.node.name, projects, external_network),
        )

    def _special(self, world: World, name: str, projects: dict[str, Any], external_network: str) -> dict[str, Any]:
        """What only some tests need, and takes its time to make."""
        ours = world.project('contract')
        if 'cannot_see' in name:
            return {'hidden_network_id': world.network(world.project('contract-foreign'))}
        if 'claim_of_a_port_of_a_network_that_is_forbidden' in name:
            return {'forbidden_port_id': world.port(ours, external_network)}
        if 'without_use' in name:
            empty = world.network(ours, cidr=None)
            if 'claim' in name:
                return {'unusable_port_id': world.port(ours, empty)}
            return {'unusable_network_id': empty}
        if 'last_address' in name:
            # An address of the network, one of the gateway, and one of broadcast: one is left.
            return {'last_address_network_id': world.network(ours, cidr='10.41.0.0/30')}
        for part, count in (('only_network', 1), ('networks_are_many', 2), ('no_network_is', 0)):
            if part in name:
                project = world.project(f'contract-with-{count}')
                projects[project.id] = project
                for left in world.neutron('GET', f'/networks?project_id={project.id}')['networks'][count:]:
                    world.neutron('DELETE', f'/networks/{left["id"]}')
                have = [
                    one['id'] for one in world.neutron('GET', f'/networks?project_id={project.id}')['networks']
                ]
                have += [world.network(project) for _ in range(count - len(have))]
                one = server(project)
                return {
                    0: {'server_without_network': one},
                    1: {'server_with_one_network': (one, have[0] if have else '')},
                    2: {'server_with_networks': one},
                }[count]
        if 'last_of_the_quota' in name:
            project = world.project('contract-with-quota')
            projects[project.id] = project
            network_id = world.network(project)
            used = len(world.ports(project_id=project.id))
            world.neutron('PUT', f'/quotas/{project.id}', {'quota': {'port': used + 1}})
            return {'server_with_last_quota': (server(project), network_id)}
        return {}


class TestNeutronContractWithoutTokens(TestNeutronContract):
    """With callers whom the host has authenticated itself: what they may is asked of Neutron all the same.

    And of a Neutron that takes no tags for a port that is made (ML2 without tag_ports_during_bulk_creation).
    """

    with_tokens = False

    @pytest.fixture(scope='class', autouse=True)
    def without_tags(self, world: World) -> Iterator[None]:
        with world.without_tags():
            yield

    @pytest.fixture(scope='class')
    def driver(
        self, world: World, external_network: str, tmp_path_factory: pytest.TempPathFactory
    ) -> NeutronNetworkDriver:
        return NeutronNetworkDriver(world.conf(tmp_path_factory.mktemp('neutron')))


def test_the_mark_is_a_tag_where_tags_can_be_given(world: World, driver: NeutronNetworkDriver) -> None:
    project = world.project('contract')
    network_id = world.network(project)
    one, mark = server(project), networks.new_mark()
    # Which it is, is learnt of the first port that is made.
    for _ in range(2):
        mark = networks.new_mark()
        fence = base.Fence(1, time.monotonic() + 60)
        port = driver.create(world.member(project), one, base.PortRequest(network_id), mark, fence)
    made = world.look(port.id)
    assert made is not None
    assert set(made['tags']) == {mark, mark.rpartition(':')[0]}
    assert made['description'] == ''


def _writes(passing: http_proxy.Passing) -> bool:
    return passing.method != 'GET'
