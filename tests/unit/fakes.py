"""What the contract suites are run against."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from os_interface_ext import conf
from os_interface_ext.db import tables as records
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.inventory import ipam, loader
from os_interface_ext.testing import contract, memory, networks, servers, vifs


def server_backend(cloud: memory.MemoryCloud) -> servers.ServerBackend:
    return servers.ServerBackend(
        driver=cloud,
        server=cloud.add_server('project', name='web', locked_by='owner', availability_zone='az1'),
        foreign_server=cloud.add_server('other-project', host=None, vm_state='stopped'),
        remove_server=cloud.remove_server,
        events=cloud.events,
        unreachable=cloud.unreachable,
    )


def network_backend(cloud: memory.MemoryCloud) -> networks.NetworkBackend:
    main = cloud.add_network('project')
    external = cloud.add_network('operator', '192.0.2.0/24', external=True)
    bare = cloud.add_network('project', None)
    limited = cloud.add_network('limited-project')
    cloud.set_quota('limited-project', 1)
    cloud.add_network('rich-project')
    cloud.add_network('rich-project')

    def make_port(project_id: str, *, device_id: str = '') -> str:
        return cloud.add_port(main.id, project_id, device_id=device_id).id

    return networks.NetworkBackend(
        driver=cloud,
        server=cloud.add_server('project'),
        other_server=cloud.add_server('project'),
        foreign_server=cloud.add_server('other-project'),
        network_id=main.id,
        make_port=make_port,
        read=cloud.find_port,
        invalid_addresses=('10.0.0.1', '10.0.0.255', '10.0.1.7', '2001:db8::7'),
        hidden_network_id=cloud.add_network('other-project').id,
        forbidden_network_id=external.id,
        unusable_network_id=bare.id,
        last_address_network_id=cloud.add_network('project', '10.9.0.0/30').id,
        server_without_network=cloud.add_server('poor-project'),
        server_with_one_network=(cloud.add_server('limited-project'), limited.id),
        server_with_networks=cloud.add_server('rich-project'),
        server_with_last_quota=(cloud.add_server('limited-project'), limited.id),
        unusable_port_id=cloud.add_port(bare.id, 'project').id,
        forbidden_port_id=cloud.add_port(external.id, 'project').id,
        host_without_binding='host-without-binding',
        make_port_of_server=lambda server: cloud.add_port_of_server(main.id, server).id,
        unreachable=cloud.unreachable,
        answers_lost=cloud.answers_lost,
    )


def vif_backend(cloud: memory.MemoryCloud, driver: base.VIFDriver | None = None) -> vifs.VIFBackend:
    network = cloud.add_network('project')

    def make_port(server: base.Server, vnic_type: str = 'normal') -> base.Port:
        return cloud.add_port(network.id, server.project_id, device_id=server.id, vnic_type=vnic_type)

    return vifs.VIFBackend(
        driver=driver or cloud,
        server=cloud.add_server('project'),
        other_server=cloud.add_server('project'),
        make_port=make_port,
        nics=cloud.nics,
        make_port_without_use=None if driver else lambda server: make_port(server, 'unpluggable'),
        settle=lambda: None,
        tries=5,
        unreachable=None if driver else cloud.unreachable,
        answers_lost=None if driver else cloud.answers_lost,
    )


def cloud_of(cloud_class: type[memory.MemoryCloud], **options: Any) -> memory.MemoryCloud:
    config = conf.new([])
    cloud = cloud_class(config)
    for name, value in options.items():
        config.set_override(name, value, group='memory')
    return cloud


class SQLWorld:
    """The embedded inventory in a database of its own, with one of everything.

    Making the tables takes longer than a test: one world serves many, and each backend begins it anew.
    """

    def __init__(self, url: str) -> None:
        self.conf = conf.new([], database={'connection': url})
        self._database = Database.of(self.conf)
        self._ids = {
            name: contract.new_id()
            for name in ('main', 'external', 'bare', 'last', 'hidden', 'one', 'rich-1', 'rich-2', 'last-quota')
        }
        self._servers = {
            name: base.Server(contract.new_id(), project, name, **fields)
            for name, project, fields in (
                ('first', 'project', {'host': 'host-1', 'locked_by': 'owner', 'availability_zone': 'az1'}),
                ('second', 'project', {'task_state': 'rebooting'}),
                ('foreign', 'other-project', {'vm_state': 'stopped'}),
                ('poor', 'poor-project', {}),
                ('one', 'one-project', {}),
                ('rich', 'rich-project', {}),
                ('last-quota', 'limited-project', {}),
            )
        }
        records.metadata.create_all(self._database.engine)
        self._inventory = loader.parse(json.dumps(self._document()), 'inventory')

    def server_backend(self) -> servers.ServerBackend:
        self._begin_anew()
        return servers.ServerBackend(
            driver=SQLServerDriver(self.conf),
            server=self._servers['first'],
            foreign_server=self._servers['foreign'],
            remove_server=lambda server_id: self._execute('DELETE FROM osif_servers WHERE id = :id', id=server_id),
            unreachable=lambda: self._without('osif_servers'),
        )

    def network_backend(self) -> networks.NetworkBackend:
        self._begin_anew()
        return networks.NetworkBackend(
            driver=SQLNetworkDriver(self.conf),
            server=self._servers['first'],
            other_server=self._servers['second'],
            foreign_server=self._servers['foreign'],
            network_id=self._ids['main'],
            make_port=self._make_port,
            invalid_addresses=('10.0.0.0', '10.0.0.1', '10.0.0.255', '10.0.1.7', 'fd00::1', '2001:db8::7'),
            hidden_network_id=self._ids['hidden'],
            forbidden_network_id=self._ids['external'],
            unusable_network_id=self._ids['bare'],
            last_address_network_id=self._ids['last'],
            server_without_network=self._servers['poor'],
            server_with_one_network=(self._servers['one'], self._ids['one']),
            server_with_networks=self._servers['rich'],
            server_with_last_quota=(self._servers['last-quota'], self._ids['last-quota']),
            unusable_port_id=self._make_port('project', network='bare'),
            forbidden_port_id=self._make_port('project', network='external'),
            make_port_of_server=lambda server: self._make_port(
                server.project_id, device_id=server.id, created_by_attach=True
            ),
            unreachable=lambda: self._without('osif_ports'),
        )

    def _begin_anew(self) -> None:
        with self._database.write() as connection:
            loader.load(connection, self._inventory)

    def _document(self) -> dict[str, Any]:
        def network(name: str, project_id: str, *cidrs: str, **fields: Any) -> dict[str, Any]:
            subnets = [
                {'id': contract.new_id(), 'cidr': cidr, 'gateway_ip': cidr.partition('/')[0][:-1] + '1'}
                for cidr in cidrs
            ]
            return {'id': self._ids[name], 'name': name, 'project_id': project_id, 'subnets': subnets} | fields

        return {
            'quotas': [{'project_id': 'limited-project', 'ports': 1}],
            'networks': [
                network('main', 'project', '10.0.0.0/24', 'fd00::0/64'),
                network('external', 'project', '192.0.2.0/24', external=True),
                network('bare', 'project'),
                network('last', 'project', '10.9.0.0/30'),
                network('hidden', 'other-project', '10.8.0.0/24'),
                network('one', 'one-project', '10.7.0.0/24'),
                network('rich-1', 'rich-project', '10.6.0.0/24'),
                network('rich-2', 'rich-project', '10.5.0.0/24'),
                network('last-quota', 'limited-project', '10.4.0.0/24'),
            ],
            'servers': [
                {name: getattr(server, name) for name in server.__dataclass_fields__}
                for server in self._servers.values()
            ],
        }

    def _make_port(
        self, project_id: str, *, device_id: str = '', network: str = 'main', created_by_attach: bool = False
    ) -> str:
        values = {
            'id': str(uuid.uuid4()),
            'name': 'brought',
            'project_id': project_id,
            'network_id': self._ids[network],
            'mac_address': ipam.random_mac(),
            'status': 'DOWN',
            'admin_state_up': True,
            'port_security_enabled': True,
            'vnic_type': 'normal',
            'device_id': device_id or None,
            'device_owner': 'compute:nova' if device_id else '',
            'host': None,
            'tag': None,
            'created_by_attach': created_by_attach,
            'mark': None,
        }
        with self._database.write() as connection:
            given = ipam.reserve(connection, project_id, values['network_id'], None)
            ipam.insert_port(connection, values, given)
        return values['id']

    @contextlib.contextmanager
    def _without(self, table: str) -> Iterator[None]:
        self._execute(f'ALTER TABLE {table} RENAME TO away')
        try:
            yield
        finally:
            self._execute(f'ALTER TABLE away RENAME TO {table}')

    def _execute(self, statement: str, **values: str) -> None:
        with self._database.write() as connection:
            connection.execute(sa.text(statement), values)
