"""Ports of the embedded inventory."""

from __future__ import annotations

import dataclasses
import json
import operator
import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.db.prepared import Connection
from os_interface_ext.drivers import base
from os_interface_ext.inventory import ipam, networks, tables, transactions
from os_interface_ext.inventory.ids import is_id
from os_interface_ext.inventory.networks import Network
from os_interface_ext.inventory.transactions import fetch

_ATTEMPTS = 20

_t = tables.ports
_ADDRESS = (tables.addresses.c.position, tables.addresses.c.subnet_id, tables.addresses.c.ip_address)
# What a list shows, for as many ports as a server has: each further column costs a tenth of the statement.
_LISTED = (_t.c.id, _t.c.network_id, _t.c.mac_address, _t.c.project_id, _t.c.status, _t.c.mark, _t.c.tag)
_OTHERS = (_t.c.device_id, _t.c.device_owner, _t.c.host, _t.c.vnic_type, _t.c.admin_state_up, _t.c.name)


def _with_addresses(*columns: sa.Column[Any]) -> sa.Select[Any]:
    """Ports with their addresses, a row for each address, or one without."""
    # Put in order by _fixed_ips: a database sorts all these columns for the sake of one port in a hundred.
    with_addresses = _t.outerjoin(tables.addresses, tables.addresses.c.port_id == _t.c.id)
    return sa.select(*columns, *_ADDRESS).select_from(with_addresses)


_PORTS = _with_addresses(*_LISTED, *_OTHERS)
_BY_ID = _PORTS.where(_t.c.id == sa.bindparam('id'))
_BY_DEVICE = _with_addresses(*_LISTED).where(_t.c.device_id == sa.bindparam('device_id'))
_BY_MARK = _PORTS.where(_t.c.mark == sa.bindparam('mark'))
_BY_PREFIX = _PORTS.where(_t.c.mark.startswith(sa.bindparam('prefix'), escape='/'))

_NETWORK = (
    sa.select(tables.networks.c.mtu, tables.subnets.c.id, tables.subnets.c.cidr)
    .select_from(tables.networks.outerjoin(tables.subnets))
    .where(tables.networks.c.id == sa.bindparam('network_id'))
)
_CREATED_BY_ATTACH = sa.select(_t.c.created_by_attach, _t.c.mark).where(_t.c.id == sa.bindparam('id'))
_NETWORK_IS_UP = sa.exists().where(
    tables.networks.c.id == _t.c.network_id, tables.networks.c.admin_state_up.is_(sa.true())
)
_BOUND = {
    'host': sa.bindparam('new_host'),
    'status': sa.case((sa.and_(_t.c.admin_state_up.is_(sa.true()), _NETWORK_IS_UP), 'ACTIVE'), else_='DOWN'),
}
_CLAIM = (
    sa.update(_t)
    .where(
        _t.c.id == sa.bindparam('port_id'),
        _t.c.project_id == sa.bindparam('owner_id'),
        _t.c.device_id.is_(None),
    )
    .values(device_id=sa.bindparam('server_id'), device_owner=sa.bindparam('owner'), tag=None, **_BOUND)
)
_BIND = (
    sa.update(_t)
    .where(_t.c.id == sa.bindparam('port_id'), _t.c.device_id == sa.bindparam('server_id'))
    .values(**_BOUND)
)
_UNBIND = (
    sa.update(_t)
    .where(_t.c.id == sa.bindparam('port_id'), _t.c.device_id == sa.bindparam('server_id'))
    .values(device_id=None, device_owner='', host=None, tag=None, created_by_attach=False, status='DOWN')
)
_LOCK_BY_ID = (
    sa.select(_t.c.id, _t.c.mark, _t.c.created_by_attach)
    .where(_t.c.id == sa.bindparam('port_id'))
    .with_for_update()
)
_LOCK_BY_MARK = (
    sa.select(_t.c.id, _t.c.mark, _t.c.created_by_attach)
    .where(_t.c.mark == sa.bindparam('mark'))
    .with_for_update()
)
_DELETE = sa.delete(_t).where(_t.c.id == sa.bindparam('port_id'))


class SQLNetworkDriver(base.NetworkDriver):
    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._db = Database.of(conf)

    @property
    def database(self) -> Database | None:
        # A subclass may act elsewhere, too: it says so itself if it does not.
        return self._db if type(self) is SQLNetworkDriver else None

    # ------------------------------------------------------------------ reading

    def check(self, ctxt: RequestContext) -> None:
        fetch(self._db, _BY_ID, {'id': ''})

    def list_ports(self, ctxt: RequestContext, server_id: str) -> list[base.Port]:
        if not is_id(server_id):
            return []
        return _listed(fetch(self._db, _BY_DEVICE, {'device_id': server_id}).rows, server_id)

    def get_port(self, ctxt: RequestContext, port_id: str) -> base.Port:
        found = self._find(_BY_ID, id=port_id) if is_id(port_id) else []
        if not found:
            raise exceptions.PortNotFound(port_id)
        return found[0]

    def details(self, ctxt: RequestContext, port: base.Port) -> base.Port:
        rows = fetch(self._db, _NETWORK, {'network_id': port.network_id}).rows
        lengths = {subnet_id: int(cidr.rpartition('/')[2]) for _, subnet_id, cidr in rows if subnet_id}
        return dataclasses.replace(port.with_prefixes(lengths), mtu=rows[0][0] if rows else None)

    def find_marked(self, ctxt: RequestContext, installation: str) -> Iterable[base.Port]:
        prefix = f'osif:{installation}:'
        if not is_id(prefix):
            return []
        for special in '/%_':
            prefix = prefix.replace(special, f'/{special}')
        return self._find(_BY_PREFIX, prefix=prefix)

    def created_by_server(self, ctxt: RequestContext, server: base.Server, port: base.Port) -> bool | None:
        row = fetch(self._db, _CREATED_BY_ATTACH, {'id': port.id}).first()
        return row is not None and (row.created_by_attach or row.mark is not None)

    # ------------------------------------------------------------------ writing

    def create(
        self,
        ctxt: RequestContext,
        server: base.Server,
        request: base.PortRequest,
        mark: str,
        fence: base.Fence,
    ) -> base.Port:
        for _ in range(_ATTEMPTS):
            try:
                return self._create(ctxt, server, request, mark, fence)
            except (exceptions.DriverError, transactions.Outdated) as error:
                # The port of an earlier call may be what stood in the way: of the address, the quota.
                made = self._find(_BY_MARK, mark=mark)
                if made:
                    return made[0]
                if isinstance(error, exceptions.DriverError):
                    raise
        raise exceptions.Unavailable(operator=f'no port could be made in {_ATTEMPTS} attempts')

    def claim(self, ctxt: RequestContext, server: base.Server, port_id: str, fence: base.Fence) -> base.Port:
        for _ in range(_ATTEMPTS):
            port = self.get_port(ctxt, port_id)
            if port.project_id != server.project_id:
                raise exceptions.PortNotUsable(port_id, 'it belongs to another project')
            if port.device_id == server.id:
                return port
            if port.device_id:
                raise exceptions.PortInUse(port_id)
            self._check_network_of(ctxt, port)
            values = {
                'port_id': port_id,
                'owner_id': server.project_id,
                'server_id': server.id,
                'owner': _owner(server),
                'new_host': server.host,
            }
            claimed = self._change(_CLAIM, values, fence)
            if claimed is not None:
                return claimed
        raise exceptions.Unavailable(operator=f'port {port_id} changed in {_ATTEMPTS} attempts')

    def bind(self, ctxt: RequestContext, port: base.Port, host: str | None, fence: base.Fence) -> base.Port:
        # create and claim have bound it to the server's host already, in their one transaction.
        found = self._find(_BY_ID, id=port.id)
        if found and found[0].device_id == port.device_id and found[0].host == host:
            return found[0]
        values = {'port_id': port.id, 'server_id': port.device_id, 'new_host': host}
        bound = self._change(_BIND, values, fence)
        if bound is None:
            raise exceptions.BindingFailed(operator=f'port {port.id} is not of {port.device_id} any more')
        return bound

    def unbind(self, ctxt: RequestContext, port_id: str, server_id: str, fence: base.Fence) -> None:
        if is_id(port_id) and is_id(server_id):
            self._change(_UNBIND, {'port_id': port_id, 'server_id': server_id}, fence)

    def delete(self, ctxt: RequestContext, port_id: str | None, mark: str | None, fence: base.Fence) -> None:
        def work(connection: Connection) -> Any:
            if port_id is None:
                row = connection.execute(_LOCK_BY_MARK, {'mark': mark}).first()
            else:
                row = connection.execute(_LOCK_BY_ID, {'port_id': port_id}).first()
            if row is None:
                return None
            if row.mark != mark or (mark is None and not row.created_by_attach):
                return row
            fence.check()
            connection.execute(_DELETE, {'port_id': row.id})
            return None

        if is_id((port_id or mark) or ''):
            left = transactions.write(self._db, work)
            # Not within: it would fail a transaction that has nothing else against it.
            if left is not None:
                raise exceptions.NotOurs(operator=f'port {left.id} does not carry the mark {mark}')

    # ------------------------------------------------------------------ within

    def _find(self, statement: sa.Select[Any], **values: Any) -> list[base.Port]:
        return _ports(fetch(self._db, statement, values).rows)

    def _change(self, statement: sa.Update, values: dict[str, Any], fence: base.Fence) -> base.Port | None:
        """Change one port, as it is then; None if it is not as the statement wants it."""

        def work(connection: Connection) -> base.Port | None:
            fence.check()
            if connection.execute(statement, values).rowcount != 1:
                return None
            return _ports(connection.execute(_BY_ID, {'id': values['port_id']}).rows)[0]

        return transactions.write(self._db, work)

    def _create(
        self,
        ctxt: RequestContext,
        server: base.Server,
        request: base.PortRequest,
        mark: str,
        fence: base.Fence,
    ) -> base.Port:
        network = self._network_for(ctxt, server, request)
        values: dict[str, Any] = {
            'id': str(uuid.uuid4()),
            'name': '',
            'project_id': server.project_id,
            'network_id': network.id,
            'mac_address': ipam.random_mac(),
            'status': 'ACTIVE' if network.admin_state_up else 'DOWN',
            'admin_state_up': True,
            'port_security_enabled': network.port_security_enabled,
            'vnic_type': base.NORMAL,
            'device_id': server.id,
            'device_owner': _owner(server),
            'host': server.host,
            'tag': None,
            'created_by_attach': False,
            'mark': mark,
        }

        def work(connection: Connection) -> list[ipam.Given]:
            given = ipam.reserve(connection, server.project_id, network.id, request.ip_address)
            fence.check()
            ipam.insert_port(connection, values, given)
            return given

        given = transactions.write(self._db, work)
        return base.Port(
            id=values['id'],
            network_id=network.id,
            mac_address=values['mac_address'],
            project_id=server.project_id,
            fixed_ips=tuple(base.FixedIP(one.subnet_id, one.ip_address) for one in given),
            status=values['status'],
            device_id=server.id,
            device_owner=values['device_owner'],
            host=server.host,
            mark=mark,
        )

    def _network_for(self, ctxt: RequestContext, server: base.Server, request: base.PortRequest) -> Network:
        network_id = request.network_id
        if network_id is None:
            network_id = _only_network(self._db, server.project_id)
        network = networks.find(self._db, network_id, ctxt.project_id)
        if network is None or (request.network_id is not None and not _is_visible(ctxt, network)):
            raise exceptions.NetworkNotFound(network_id)
        _check_external(ctxt, network)
        if network.lacks_subnets:
            raise exceptions.NetworkNotUsable(
                f'Network {network.id} has no subnet. Create one, or choose another network.'
            )
        return network

    def _check_network_of(self, ctxt: RequestContext, port: base.Port) -> None:
        """Whether the caller can use an existing port, as far as its network goes."""
        network = networks.find(self._db, port.network_id, ctxt.project_id)
        if network is None or not _is_visible(ctxt, network):
            raise exceptions.PortNotUsable(port.id, 'its network is not visible to you')
        _check_external(ctxt, network)
        if network.lacks_subnets:
            raise exceptions.PortNotUsable(port.id, 'its network has port security, but no subnet')


_make_listed = base.quick(base.Port, *(column.key for column in _LISTED), 'device_id', 'fixed_ips')
_make_fixed_ip = base.quick(base.FixedIP, 'subnet_id', 'ip_address')
_POSITION = operator.itemgetter(-3)


def _by_port(rows: Iterable[Any]) -> Iterable[list[Any]]:
    """The rows of each port."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        of_one = found.get(row[0])
        if of_one is None:
            found[row[0]] = [row]
        else:
            of_one.append(row)
    return found.values()


def _fixed_ips(of_one: list[Any]) -> tuple[base.FixedIP, ...]:
    if len(of_one) > 1:
        return tuple([_make_fixed_ip(row[-2], row[-1]) for row in sorted(of_one, key=_POSITION)])
    # Most have one, and are spared the loop.
    row = of_one[0]
    return () if row[-1] is None else (_make_fixed_ip(row[-2], row[-1]),)


def _listed(rows: Iterable[Any], device_id: str) -> list[base.Port]:
    """The ports of a server, as far as a list shows them."""
    ports = []
    for of_one in _by_port(rows):
        port_id, network_id, mac_address, project_id, status, mark, tag, _, _, _ = of_one[0]
        ports.append(
            _make_listed(
                port_id,
                network_id,
                mac_address,
                project_id,
                status,
                mark,
                None if tag is None else json.loads(tag),
                device_id,
                _fixed_ips(of_one),
            )
        )
    return ports


def _ports(rows: Iterable[Any]) -> list[base.Port]:
    return [_port(of_one) for of_one in _by_port(rows)]


def _port(of_one: list[Any]) -> base.Port:
    port_id, network_id, mac_address, project_id, status, mark, tag, *others, _, _, _ = of_one[0]
    device_id, device_owner, host, vnic_type, admin_state_up, name = others
    return base.Port(
        id=port_id,
        network_id=network_id,
        mac_address=mac_address,
        project_id=project_id,
        fixed_ips=_fixed_ips(of_one),
        status=status,
        device_id=device_id,
        device_owner=device_owner,
        host=host,
        vnic_type=vnic_type,
        admin_state_up=bool(admin_state_up),
        name=name,
        mark=mark,
        tag=None if tag is None else json.loads(tag),
    )


def _owner(server: base.Server) -> str:
    return f'compute:{server.availability_zone or "nova"}'


def _only_network(database: Database, project_id: str) -> str:
    found = networks.available(database, project_id)
    if not found:
        raise exceptions.NetworkNotUsable(
            'The project has no network to attach to. Create one, or name one with net_id.'
        )
    if len(found) > 1:
        raise exceptions.NetworkAmbiguous()
    return found[0]


def _is_admin(ctxt: RequestContext) -> bool:
    return ctxt.check_is_admin() if ctxt.is_admin is None else ctxt.is_admin


def _is_visible(ctxt: RequestContext, network: Network) -> bool:
    return network.external or network.shared or network.project_id == ctxt.project_id or _is_admin(ctxt)


def _check_external(ctxt: RequestContext, network: Network) -> None:
    if network.external and not network.shared and not _is_admin(ctxt):
        raise exceptions.NetworkForbidden()
