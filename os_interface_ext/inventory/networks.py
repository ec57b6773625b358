"""What a project may know of a network, and use."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import tables
from os_interface_ext.inventory.ids import is_id
from os_interface_ext.inventory.transactions import fetch

_t = tables.networks
_PROJECT: sa.BindParameter[str] = sa.bindparam('project_id')
_SHARED = sa.exists().where(
    tables.network_shares.c.network_id == _t.c.id,
    sa.or_(tables.network_shares.c.project_id == _PROJECT, tables.network_shares.c.project_id == '*'),
)
_BY_ID = sa.select(
    _t.c.id,
    _t.c.project_id,
    _t.c.external,
    _t.c.admin_state_up,
    _t.c.port_security_enabled,
    _t.c.mtu,
    sa.exists().where(tables.subnets.c.network_id == _t.c.id).label('has_subnets'),
    _SHARED.label('shared'),
).where(_t.c.id == sa.bindparam('network_id'))
_AVAILABLE = sa.select(_t.c.id).where(sa.or_(_t.c.project_id == _PROJECT, _SHARED)).order_by(_t.c.id)


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """A network, as a project sees it: ``shared`` with that project, or with all."""

    id: str
    project_id: str
    external: bool
    admin_state_up: bool
    port_security_enabled: bool
    mtu: int
    has_subnets: bool
    shared: bool

    @property
    def lacks_subnets(self) -> bool:
        """Port security needs addresses: without a subnet no server can use the network."""
        return self.port_security_enabled and not self.has_subnets


def find(database: Database, network_id: str, project_id: str | None) -> Network | None:
    """A network, whether the project may see it or not."""
    if not is_id(network_id):
        return None
    row = fetch(database, _BY_ID, {'network_id': network_id, 'project_id': project_id}).first()
    return None if row is None else Network(*row)


def available(database: Database, project_id: str) -> list[str]:
    """The ids of the networks that the project owns, and of those that are shared with it."""
    return [row[0] for row in fetch(database, _AVAILABLE, {'project_id': project_id}).rows]
