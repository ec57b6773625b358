"""The starting state of the recorded cases in a real Neutron, its names mapped to what is there."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
import yaml

from os_interface_ext.attachments import store
from os_interface_ext.context import RequestContext, request_ids
from os_interface_ext.db import schema
from os_interface_ext.db import tables as records
from os_interface_ext.db.engine import Database
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.wsgi.paste import make_application
from tests.integration.conftest import INVENTORY, NAMES, TOKENS
from tests.integration.identities import Identities
from tests.integration.test_conformance import in_process

from .conftest import World

_NAME_OF = {value: name for name, value in NAMES.items()}
#: What tells of a port who uses it and where: all that an attachment changes.
_USE = ('device_id', 'device_owner', 'binding:host_id')
_FREE = dict.fromkeys(_USE, '')

Body = dict[str, Any]
#: Ports of Neutron by their ids.
Ports = dict[str, Body]


@dataclasses.dataclass(frozen=True)
class Caller:
    """Whom Keystone takes a recorded caller for."""

    token: str
    user_id: str
    project_id: str
    roles: list[str]


class RecordedCloud:
    """The recorded callers in Keystone, networks and ports in Neutron, and the API in this process.

    Ports keep their MAC addresses; all ids are new. Neutron knows neither the tag of a NIC nor that a port was
    made by an attachment: ports that have the one or the other come from an attachment here too.
    """

    def __init__(self, world: World, identities: Identities, directory: pathlib.Path) -> None:
        self._world = world
        with open(INVENTORY, encoding='utf-8') as file:
            self._inventory = yaml.safe_load(file)
        #: recorded id of a server, a project, a network, a subnet, a port -> id here
        self._here: dict[str, str] = {one['id']: str(uuid.uuid4()) for one in self._inventory['servers']}
        #: id here -> the server
        self._servers = {self._here[one['id']]: one for one in self._inventory['servers']}
        self._mac_addresses: dict[str, str] = {}
        #: token of the records -> who it is
        self._callers: dict[str, Caller] = {}
        self._by_token: dict[str, Caller] = {}
        #: the ports that nobody has attached, as they are before each case: id here -> use
        self._ports: dict[str, Body] = {}
        #: those that are attached before each case: recorded id -> use, record
        self._attached: dict[str, tuple[Body, Body]] = {}
        #: the ports that a case has detached
        self._detached: set[str] = set()
        self._make_callers(identities)
        self._database, self._application = self._make_application(directory)
        self._make_cloud()
        self.restore({})

    def close(self) -> None:
        self._database.dispose()

    # ------------------------------------------------------------------ as the replay wants it

    @property
    def names(self) -> dict[str, str]:
        """Symbolic name -> id or MAC address here."""
        names = {name: self._here.get(value, value) for name, value in NAMES.items()}
        return {**names, **self._mac_addresses}

    @property
    def headers(self) -> dict[str, dict[str, str]]:
        """Caller -> the header that tells who he is."""
        return {name: {'X-Auth-Token': self._callers[token].token} for name, token in TOKENS.items()}

    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """One request to the API."""
        answer = in_process(self._application, method, path, headers, body)
        if method == 'DELETE' and answer[0] == 202:
            self._detached.add(path.rpartition('/')[2])
        return answer

    # ------------------------------------------------------------------ the API and its callers

    def _make_callers(self, identities: Identities) -> None:
        for one in self._inventory['callers']:
            if one['project_id'] not in self._here:
                self._here[one['project_id']] = identities.new_project()
            project_id = self._here[one['project_id']]
            user_id = identities.new_user(f'/projects/{project_id}', *one['roles'])
            token = identities.token(user_id, project_id=project_id)
            caller = Caller(token, user_id, project_id, one['roles'])
            self._callers[one['token']] = self._by_token[token] = caller

    def _identify(self, environ: Mapping[str, Any]) -> RequestContext | None:
        caller = self._by_token.get(environ.get('HTTP_X_AUTH_TOKEN', ''))
        if caller is None:
            return None
        return RequestContext(
            auth_token=caller.token,
            user_id=caller.user_id,
            project_id=caller.project_id,
            roles=caller.roles,
            **request_ids(environ),
        )

    def _make_application(self, directory: pathlib.Path) -> tuple[Database, Any]:
        conf = self._world.conf(
            directory,
            neutron={'endpoint_override': self._world.cloud.neutron_url},
            os_interface={'network_driver': 'neutron', 'server_driver': 'sql', 'vif_driver': 'noop'},
            database={'connection': f'sqlite:///{directory}/osif.sqlite'},
        )
        database = Database.of(conf)
        schema.upgrade(database)
        servers = [
            {**one, 'id': server_id, 'project_id': self._here[one['project_id']]}
            for server_id, one in self._servers.items()
        ]
        with database.write() as connection:
            loader.load(connection, loader.parse(yaml.safe_dump({'servers': servers}), 'servers'))
        return database, make_application(Extension(conf, identity=self._identify), '/v2.1')

    # ------------------------------------------------------------------ Neutron

    def _make_cloud(self) -> None:
        networks = self._inventory['networks']
        self._make('networks', [(one['id'], self._network(one)) for one in networks])
        subnets = [(one, subnet) for one in networks for subnet in one['subnets']]
        self._make('subnets', [(subnet['id'], self._subnet(one, subnet)) for one, subnet in subnets])
        for network, project_id in ((one, to) for one in networks for to in one['shared_with']):
            policy = {
                'project_id': self._here[network['project_id']],
                'object_type': 'network',
                'object_id': self._here[network['id']],
                'action': 'access_as_shared',
                'target_tenant': self._here[project_id],
            }
            self._world.neutron('POST', '/rbac-policies', {'rbac_policy': policy})
        ports = {
            one['id']: self._port(one) for one in self._inventory['ports'] if not one.get('created_by_attach')
        }
        self._make('ports', list(ports.items()))
        self._ports = {self._here[known]: _use(port) for known, port in ports.items()}
        for one in self._inventory['quotas']:
            project_id = self._here[one['project_id']]
            self._world.neutron('PUT', f'/quotas/{project_id}', {'quota': {'port': one['ports']}})

    def _make(self, kind: str, bodies: list[tuple[str, Body]]) -> None:
        made = self._world.neutron('POST', f'/{kind}', {kind: [body for _, body in bodies]})[kind]
        self._here |= {known: one['id'] for (known, _), one in zip(bodies, made, strict=True)}

    def _network(self, one: Body) -> Body:
        return {
            'name': one['name'],
            'project_id': self._here[one['project_id']],
            'router:external': one['external'],
            'admin_state_up': one['admin_state_up'],
            'mtu': one['mtu'],
            'port_security_enabled': one['port_security_enabled'],
        }

    def _subnet(self, network: Body, one: Body) -> Body:
        return {
            'name': one['name'],
            'project_id': self._here[network['project_id']],
            'network_id': self._here[network['id']],
            'ip_version': 6 if ':' in one['cidr'] else 4,
            'cidr': one['cidr'],
            'gateway_ip': one['gateway_ip'],
            'allocation_pools': one['allocation_pools'],
            'enable_dhcp': False,
        }

    def _port(self, one: Body) -> Body:
        # What has a tag is attached later; a router is no server, and keeps its id.
        device_id = '' if one['tag'] else self._here.get(one['device_id'], one['device_id'] or '')
        server = self._servers.get(device_id, {})
        return {
            'name': one['name'],
            'project_id': self._here[one['project_id']],
            'network_id': self._here[one['network_id']],
            'mac_address': one['mac_address'],
            'fixed_ips': [{**fixed, 'subnet_id': self._here[fixed['subnet_id']]} for fixed in one['fixed_ips']],
            'admin_state_up': one['admin_state_up'],
            'binding:vnic_type': one['vnic_type'],
            'device_id': device_id,
            'device_owner': one.get('device_owner', 'compute:nova' if device_id else ''),
            # What is bound to a host becomes ACTIVE there; what is not stays DOWN.
            'binding:host_id': server.get('host', '') if one['status'] == 'ACTIVE' else '',
            **{key: one[key] for key in ('port_security_enabled',) if key in one},
        }

    def ports(self) -> Ports:
        """All ports of the projects of the cases."""
        projects = sorted({caller.project_id for caller in self._callers.values()})
        query = '&'.join(f'project_id={project_id}' for project_id in projects)
        fields = '&'.join(f'fields={name}' for name in ('id', 'status', *_USE))
        return {one['id']: one for one in self._world.neutron('GET', f'/ports?{query}&{fields}')['ports']}

    # ------------------------------------------------------------------ after a case

    def check(self, ports: Ports) -> None:
        """Neutron and the records tell the same: only what was detached is free, and nothing is left behind."""
        attached = {record['port_id']: record for record in self._records()}
        for port_id, record in attached.items():
            server_id = record['server_id']
            bound = {'device_id': server_id, 'device_owner': 'compute:nova', 'status': 'ACTIVE'}
            bound |= {'binding:host_id': self._servers[server_id]['host'], 'id': port_id}
            assert record['state'] == 'ATTACHED'
            assert ports.get(port_id) == bound
        for port_id, port in ports.items():
            if port_id not in attached:
                assert port_id in self._ports, f'left behind: {port}'
                assert _use(port) == (_FREE if port_id in self._detached else self._ports[port_id])
        made = {record['port_id'] for record in attached.values() if record['created']}
        assert made == ports.keys() - self._ports.keys()

    def restore(self, ports: Ports) -> None:
        """Bring the cloud back from where it is to the starting state."""
        with self._database.write() as connection:
            store.clear(connection)
        self._detached.clear()
        kept = []
        for known, (use, record) in self._attached.items():
            if (port_id := self._here[known]) in ports and _use(ports[port_id]) == use:
                kept.append(known)
                with self._database.write() as connection:
                    connection.execute(sa.insert(records.attachments).values(record))
                ports = {other: port for other, port in ports.items() if other != port_id}
        for port_id in ports.keys() - self._ports.keys():
            self._world.neutron('DELETE', f'/ports/{port_id}')
        for port_id in ports.keys() & self._ports.keys():
            if _use(ports[port_id]) != self._ports[port_id]:
                self._world.neutron('PUT', f'/ports/{port_id}', {'port': self._ports[port_id]})
        for one in self._inventory['ports']:
            if (one['tag'] or one.get('created_by_attach')) and one['id'] not in kept:
                self._attach(one)

    def _attach(self, one: Body) -> None:
        wanted: Body = {'tag': one['tag']} if one['tag'] else {}
        if one.get('created_by_attach'):
            (fixed,) = one['fixed_ips']
            wanted |= {'net_id': self._here[one['network_id']]}
            wanted |= {'fixed_ips': [{'ip_address': fixed['ip_address']}]}
        else:
            wanted |= {'port_id': self._here[one['id']]}
        headers = {**self.headers['a_member'], 'OpenStack-API-Version': 'compute 2.70'}
        headers |= {'Content-Type': 'application/json'}
        path = f'/v2.1/servers/{self._here[one["device_id"]]}/os-interface'
        body = json.dumps({'interfaceAttachment': wanted}).encode()
        status, _, content = self.call('POST', path, headers, body)
        assert status == 200, content
        view = json.loads(content)['interfaceAttachment']
        self._here[one['id']] = view['port_id']
        self._mac_addresses[f'mac_{_NAME_OF[one["id"]]}'] = view['mac_addr']
        (record,) = (record for record in self._records() if record['port_id'] == view['port_id'])
        self._attached[one['id']] = (_use(self.ports()[view['port_id']]), record)

    def _records(self) -> list[Body]:
        with self._database.read() as connection:
            return [dict(row) for row in connection.execute(sa.select(records.attachments)).mappings()]


def _use(port: Mapping[str, Any]) -> Body:
    return {key: port[key] for key in _USE}
