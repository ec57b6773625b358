"""SIGKILL before and after every commit and every side effect, on each database: nothing leaks or is lost."""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext.inventory import loader
from os_interface_ext.inventory import tables as inventory_tables
from tests.integration import crash, matrix

pytestmark = pytest.mark.service

PROJECT = 'project-a'
SERVER = 'f6de9c1e-8a24-4d5f-a488-daeacc94609f'
V4 = 'a69f19c7-6464-4b67-ace3-f3b97524ab35'
V6 = '172face0-2c54-4abc-891d-70180d77a81b'
THINGS = matrix.Things(
    network='5bcc01ca-7e46-427a-9fdf-042bd9b0125c',
    brought='20fb9f86-d480-4c15-a0b3-30f0d976b05b',
    booted='50f6619b-4fb7-4614-a814-2c201c9a80a8',
    address='10.20.0.77',
)

INVENTORY = {
    # One more than the inventory has: a port that leaks makes the repetition fail.
    'quotas': [{'project_id': PROJECT, 'ports': 3}],
    'networks': [
        {
            'id': THINGS.network,
            'name': 'private',
            'project_id': PROJECT,
            'subnets': [
                {'id': V4, 'cidr': '10.20.0.0/24', 'gateway_ip': '10.20.0.1'},
                {'id': V6, 'cidr': 'fd20::/64', 'gateway_ip': 'fd20::1'},
            ],
        }
    ],
    'servers': [{'id': SERVER, 'name': 'web-1', 'project_id': PROJECT, 'host': 'compute-1'}],
    'ports': [
        {
            'id': THINGS.brought,
            'project_id': PROJECT,
            'network_id': THINGS.network,
            'fixed_ips': [{'subnet_id': V4, 'ip_address': '10.20.0.50'}],
        },
        {
            'id': THINGS.booted,
            'project_id': PROJECT,
            'network_id': THINGS.network,
            'fixed_ips': [{'subnet_id': V4, 'ip_address': '10.20.0.11'}],
            'device_id': SERVER,
            'created_by_attach': True,
        },
    ],
}


class World(matrix.World):
    """The embedded inventory, in the database of the records."""

    @functools.cached_property
    def _inventory(self) -> Any:
        return loader.parse(json.dumps(INVENTORY), 'inventory')

    def restore(self) -> dict[str, matrix.Port]:
        with self.parts.database.write() as connection:
            loader.load(connection, self._inventory)
        return self.ports()

    def ports(self) -> dict[str, matrix.Port]:
        p, a = inventory_tables.ports, inventory_tables.addresses
        addresses = collections.defaultdict(set)
        with self.parts.database.read() as connection:
            for row in connection.execute(sa.select(a.c.port_id, a.c.ip_address)):
                addresses[row.port_id].add(row.ip_address)
            found = {
                row.id: matrix.Port(row.device_id, row.host, row.status, row.mark, frozenset(addresses[row.id]))
                for row in connection.execute(sa.select(p.c.id, p.c.device_id, p.c.host, p.c.status, p.c.mark))
            }
        assert set(addresses) <= set(found), 'addresses without a port'
        return found


@pytest.fixture(scope='module')
def zygote() -> Iterator[crash.Zygote]:
    with crash.running() as started:
        yield started


@pytest.fixture(scope='module')
def world(database_url: str, tmp_path_factory: pytest.TempPathFactory, zygote: crash.Zygote) -> Iterator[World]:
    nics = tmp_path_factory.mktemp('nics')
    made = World(crash.Place(database_url, str(nics), PROJECT, SERVER), THINGS, zygote)
    yield made
    made.parts.database.dispose()


@pytest.fixture(scope='session')
def table(request: pytest.FixtureRequest) -> Iterator[matrix.Table]:
    with matrix.printed(request.config) as results:
        yield results


@pytest.mark.parametrize('scenario', matrix.SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_point(world: World, scenario: matrix.Scenario, table: matrix.Table) -> None:
    kind = world.parts.conf.database.connection.partition(':')[0].partition('+')[0]
    matrix.go_through(world, scenario, table, 'mariadb' if kind == 'mysql' else kind)
