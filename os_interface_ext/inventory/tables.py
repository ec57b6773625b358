"""The tables of the embedded inventory."""

from typing import Any

import sqlalchemy as sa

from os_interface_ext.db.tables import metadata

# Ids and tokens differ in upper and lower case.
_OPTIONS: dict[str, Any] = {'mysql_engine': 'InnoDB', 'mysql_charset': 'utf8mb4', 'mysql_collate': 'utf8mb4_bin'}


def _id(name: str, target: str | None = None, **kwargs: Any) -> sa.Column[str]:
    """A column for an id; with a target, a reference that goes away with what it names."""
    reference = [sa.ForeignKey(target, ondelete='CASCADE')] if target else []
    kwargs.setdefault('nullable', False)
    return sa.Column(name, sa.String(255), *reference, **kwargs)


def _key(name: str) -> sa.Column[str]:
    """A column for an address as the 32 hexadecimal digits of its number: in order as text."""
    return sa.Column(name, sa.String(32), nullable=False)


#: One row: what was loaded last.
inventory = sa.Table(
    'osif_inventory',
    metadata,
    sa.Column('id', sa.Integer, primary_key=True, autoincrement=False),
    sa.Column('digest', sa.String(64), nullable=False),
    **_OPTIONS,
)

callers = sa.Table(
    'osif_callers',
    metadata,
    _id('token', primary_key=True),
    _id('user_id'),
    sa.Column('user_name', sa.String(255)),
    _id('project_id'),
    sa.Column('project_name', sa.String(255)),
    # A JSON list.
    sa.Column('roles', sa.Text, nullable=False),
    **_OPTIONS,
)

quotas = sa.Table(
    'osif_quotas',
    metadata,
    _id('project_id', primary_key=True),
    # Negative: no limit.
    sa.Column('ports', sa.Integer, nullable=False),
    **_OPTIONS,
)

networks = sa.Table(
    'osif_networks',
    metadata,
    _id('id', primary_key=True),
    sa.Column('name', sa.String(255), nullable=False),
    _id('project_id', index=True),
    sa.Column('external', sa.Boolean, nullable=False),
    sa.Column('admin_state_up', sa.Boolean, nullable=False),
    sa.Column('mtu', sa.Integer, nullable=False),
    sa.Column('port_security_enabled', sa.Boolean, nullable=False),
    **_OPTIONS,
)

network_shares = sa.Table(
    'osif_network_shares',
    metadata,
    _id('network_id', 'osif_networks.id', primary_key=True),
    # '*': with every project.
    _id('project_id', primary_key=True, index=True),
    **_OPTIONS,
)

subnets = sa.Table(
    'osif_subnets',
    metadata,
    _id('id', primary_key=True),
    _id('network_id', 'osif_networks.id'),
    # The order within the network.
    sa.Column('position', sa.Integer, nullable=False),
    sa.Column('name', sa.String(255), nullable=False),
    sa.Column('cidr', sa.String(64), nullable=False),
    sa.Column('gateway_ip', sa.String(45)),
    sa.UniqueConstraint('network_id', 'position'),
    **_OPTIONS,
)

allocation_pools = sa.Table(
    'osif_allocation_pools',
    metadata,
    _id('subnet_id', 'osif_subnets.id', primary_key=True),
    sa.Column('position', sa.Integer, primary_key=True, autoincrement=False),
    _key('first_key'),
    _key('last_key'),
    # Where the next search begins.
    _key('next_key'),
    **_OPTIONS,
)

servers = sa.Table(
    'osif_servers',
    metadata,
    _id('id', primary_key=True),
    sa.Column('name', sa.String(255), nullable=False),
    _id('project_id', index=True),
    sa.Column('host', sa.String(255)),
    sa.Column('availability_zone', sa.String(255)),
    sa.Column('vm_state', sa.String(255), nullable=False),
    sa.Column('task_state', sa.String(255)),
    sa.Column('locked_by', sa.String(16)),
    **_OPTIONS,
)

ports = sa.Table(
    'osif_ports',
    metadata,
    _id('id', primary_key=True),
    sa.Column('name', sa.String(255), nullable=False),
    _id('project_id', index=True),
    _id('network_id', 'osif_networks.id', index=True),
    sa.Column('mac_address', sa.String(17), nullable=False, unique=True),
    sa.Column('status', sa.String(16), nullable=False),
    sa.Column('admin_state_up', sa.Boolean, nullable=False),
    sa.Column('port_security_enabled', sa.Boolean, nullable=False),
    sa.Column('vnic_type', sa.String(64), nullable=False),
    _id('device_id', nullable=True, index=True),
    sa.Column('device_owner', sa.String(255), nullable=False),
    sa.Column('host', sa.String(255)),
    # As JSON: a tag may hold U+0000, which PostgreSQL's text cannot.
    sa.Column('tag', sa.Text),
    # Made for its server by somebody else than this project, so that a detach deletes it.
    sa.Column('created_by_attach', sa.Boolean, nullable=False),
    _id('mark', nullable=True, unique=True),
    **_OPTIONS,
)

addresses = sa.Table(
    'osif_addresses',
    metadata,
    _id('port_id', 'osif_ports.id', primary_key=True),
    # The order within the port.
    sa.Column('position', sa.Integer, primary_key=True, autoincrement=False),
    _id('subnet_id', 'osif_subnets.id'),
    _key('address_key'),
    sa.Column('ip_address', sa.String(45), nullable=False),
    sa.UniqueConstraint('subnet_id', 'address_key'),
    **_OPTIONS,
)

#: All of them, each after those that it refers to.
ALL = (
    inventory,
    callers,
    quotas,
    networks,
    network_shares,
    subnets,
    allocation_pools,
    servers,
    ports,
    addresses,
)
