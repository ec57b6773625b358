"""Networks, subnets and ports of the inventory in Neutron's shapes, as far as a caller may see them."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import addresses, tables
from os_interface_ext.inventory.ids import is_id, is_storable
from os_interface_ext.standalone.request import Item
from os_interface_ext.standalone.transactions import reading

_n, _s, _p = tables.networks, tables.subnets, tables.ports
_PROJECT: sa.BindParameter[str] = sa.bindparam('project_id')
#: External networks are visible to everybody, as in Neutron.
_VISIBLE = sa.or_(
    _n.c.project_id == _PROJECT,
    _n.c.external.is_(sa.true()),
    _n.c.id.in_(
        sa.select(tables.network_shares.c.network_id).where(
            sa.or_(tables.network_shares.c.project_id == _PROJECT, tables.network_shares.c.project_id == '*')
        )
    ),
)


def _networks(connection: Any, statement: sa.Select[Any], values: dict[str, Any]) -> list[Item]:
    public = {row.network_id for row in connection.execute(_PUBLIC)}
    subnets: dict[str, list[str]] = {}
    for row in connection.execute(_SUBNET_IDS):
        subnets.setdefault(row.network_id, []).append(row.id)
    return [
        _common(row)
        | {
            'admin_state_up': row.admin_state_up,
            'mtu': row.mtu,
            'port_security_enabled': row.port_security_enabled,
            'router:external': row.external,
            'shared': row.id in public,
            'status': 'ACTIVE',
            'subnets': subnets.get(row.id, []),
        }
        for row in connection.execute(statement, values)
    ]


def _subnets(connection: Any, statement: sa.Select[Any], values: dict[str, Any]) -> list[Item]:
    pools: dict[str, list[Any]] = {}
    for row in connection.execute(_POOLS):
        pools.setdefault(row.subnet_id, []).append(row)
    return [_subnet(row, pools.get(row.id, [])) for row in connection.execute(statement, values)]


def _subnet(row: Any, pools: list[Any]) -> Item:
    version = addresses.Subnet.of(row.id, row.cidr, None).version
    return _common(row) | {
        'network_id': row.network_id,
        'cidr': row.cidr,
        'ip_version': version,
        'gateway_ip': row.gateway_ip,
        'enable_dhcp': False,
        'dns_nameservers': [],
        'host_routes': [],
        'allocation_pools': [
            {
                'start': addresses.text(int(pool.first_key, 16), version),
                'end': addresses.text(int(pool.last_key, 16), version),
            }
            for pool in pools
        ],
    }


def _ports(connection: Any, statement: sa.Select[Any], values: dict[str, Any]) -> list[Item]:
    rows = connection.execute(statement, values)
    return [_port(list(group)) for _, group in itertools.groupby(rows, operator.attrgetter('id'))]


def _port(rows: list[Any]) -> Item:
    row = rows[0]
    return _common(row) | {
        'network_id': row.network_id,
        'mac_address': row.mac_address,
        'fixed_ips': [
            {'subnet_id': row.subnet_id, 'ip_address': row.ip_address} for row in rows if row.ip_address
        ],
        'status': row.status,
        'admin_state_up': row.admin_state_up,
        'port_security_enabled': row.port_security_enabled,
        'device_id': row.device_id or '',
        'device_owner': row.device_owner,
        'binding:host_id': row.host or '',
        'binding:vnic_type': row.vnic_type,
        'security_groups': [],
        'allowed_address_pairs': [],
    }


def _for_members(item: Item) -> Item:
    """Without what only an administrator sees."""
    return {field: value for field, value in item.items() if field != 'binding:host_id'}


def _common(row: Any) -> Item:
    return {
        'id': row.id,
        'name': row.name,
        'project_id': row.project_id,
        'tenant_id': row.project_id,
        'description': '',
        'tags': [],
    }


_PUBLIC = sa.select(tables.network_shares.c.network_id).where(tables.network_shares.c.project_id == '*')
_SUBNET_IDS = sa.select(_s.c.id, _s.c.network_id).order_by(_s.c.position)
_POOLS = sa.select(tables.allocation_pools).order_by(tables.allocation_pools.c.position)


@dataclasses.dataclass(frozen=True)
class Collection:
    """One kind of resource; ``visible`` narrows the statement to what a project may see."""

    name: str
    table: sa.Table
    statement: sa.Select[Any]
    visible: sa.ColumnElement[bool]
    read: Callable[[Any, sa.Select[Any], dict[str, Any]], list[Item]]
    not_found: Callable[[str], exceptions.NotFound]

    @property
    def singular(self) -> str:
        return self.name[:-1]

    def find(self, database: Database, ctxt: RequestContext, wanted: Mapping[str, list[str]]) -> list[Item]:
        """What the caller may see, narrowed where a field that is wanted is a column."""
        statement, values = self.statement, {}
        is_admin = ctxt.check_is_admin()
        if not is_admin:
            statement, values = statement.where(self.visible), {'project_id': ctxt.project_id}
        for field, texts in wanted.items():
            column = self.table.c.get({'tenant_id': 'project_id'}.get(field, field))
            if column is not None and isinstance(column.type, sa.String):
                statement = statement.where(column.in_([text for text in texts if is_storable(text)]))
        with reading(database) as connection:
            items = self.read(connection, statement, values)
        return items if is_admin else [_for_members(item) for item in items]

    def get(self, database: Database, ctxt: RequestContext, item_id: str) -> Item:
        """:raises NotFound: there is none, or the caller may not see it"""
        found = self.find(database, ctxt, {'id': [item_id]}) if is_id(item_id) else []
        if not found:
            raise self.not_found(item_id)
        return found[0]


class SubnetNotFound(exceptions.NotFound):
    error_code = 'subnet_not_found'
    cause = 'There is no such subnet, or the caller may not see it.'
    cure = 'Correct the id.'

    def __init__(self, subnet_id: str) -> None:
        super().__init__(f'Subnet {subnet_id} could not be found.')


NETWORKS = Collection(
    'networks', _n, sa.select(_n).order_by(_n.c.name, _n.c.id), _VISIBLE, _networks, exceptions.NetworkNotFound
)
SUBNETS = Collection(
    'subnets',
    _s,
    sa.select(_s, _n.c.project_id).join_from(_s, _n).order_by(_s.c.name, _s.c.id),
    _VISIBLE,
    _subnets,
    SubnetNotFound,
)
PORTS = Collection(
    'ports',
    _p,
    sa.select(_p, tables.addresses.c.subnet_id, tables.addresses.c.ip_address)
    .join_from(_p, tables.addresses, tables.addresses.c.port_id == _p.c.id, isouter=True)
    .order_by(_p.c.id, tables.addresses.c.position),
    _p.c.project_id == _PROJECT,
    _ports,
    exceptions.PortNotFound,
)
