"""Addresses, quotas and MAC addresses of new ports.

All of it happens within the write transaction of the caller. The rows that a decision depends on are
locked before anything else is read, always in one order (inventory, quota, subnets, pools): of
transactions side by side each sees what the ones before it have done. SQLite has one writer anyway.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.db.prepared import Connection
from os_interface_ext.inventory import addresses, tables
from os_interface_ext.inventory.addresses import Subnet

#: Used addresses that are read at a time: at first, and at most.
_WINDOW = 64
_WIDEST = 4096

# Shared: only the load of another inventory, which holds it alone, has to wait.
_INVENTORY = sa.select(tables.inventory.c.id).with_for_update(read=True)
_QUOTA = (
    sa.select(tables.quotas.c.ports)
    .where(tables.quotas.c.project_id == sa.bindparam('project_id'))
    .with_for_update()
)
_COUNT = (
    sa.select(sa.func.count())
    .select_from(tables.ports)
    .where(tables.ports.c.project_id == sa.bindparam('project_id'))
)
_SUBNETS = (
    sa.select(tables.subnets.c.id, tables.subnets.c.cidr, tables.subnets.c.gateway_ip)
    .where(tables.subnets.c.network_id == sa.bindparam('network_id'))
    .order_by(tables.subnets.c.position)
    .with_for_update()
)
_POOLS = (
    sa.select(tables.allocation_pools)
    .where(tables.allocation_pools.c.subnet_id == sa.bindparam('subnet_id'))
    .order_by(tables.allocation_pools.c.position)
    .with_for_update()
)
_USED = (
    sa.select(tables.addresses.c.address_key)
    .where(
        tables.addresses.c.subnet_id == sa.bindparam('subnet_id'),
        tables.addresses.c.address_key.between(sa.bindparam('first'), sa.bindparam('last')),
    )
    .order_by(tables.addresses.c.address_key)
    .limit(sa.bindparam('window', type_=sa.Integer))
)
_MOVE_CURSOR = (
    sa.update(tables.allocation_pools)
    .where(
        tables.allocation_pools.c.subnet_id == sa.bindparam('in_subnet'),
        tables.allocation_pools.c.position == sa.bindparam('at_position'),
    )
    .values(next_key=sa.bindparam('moved'))
)
_INSERT_PORT = sa.insert(tables.ports)
_INSERT_ADDRESSES = sa.insert(tables.addresses)


class Given(NamedTuple):
    """An address for a new port."""

    subnet_id: str
    number: int
    ip_address: str


def reserve(connection: Connection, project_id: str, network_id: str, asked: str | None) -> list[Given]:
    """Decide whether the project may have one more port, and which addresses it gets.

    Without an address asked for these are one of each family that the network has, IPv4 first; none on a
    network without subnets. An address asked for is the only one that is given.

    :param asked: an address in its canonical form; it may lie outside the pools
    :raises QuotaExceeded:
    :raises NoAddress: none is left of a family
    :raises AddressInUse:
    :raises AddressInvalid: not in a subnet of the network, or not for ports
    """
    connection.execute(_INVENTORY)
    limit = connection.scalar(_QUOTA, {'project_id': project_id})
    subnets = [Subnet.of(*row) for row in connection.execute(_SUBNETS, {'network_id': network_id})]
    if limit is not None and limit >= 0 and connection.scalar(_COUNT, {'project_id': project_id}) >= limit:
        raise exceptions.QuotaExceeded()
    if asked is not None:
        return [_asked(connection, subnets, asked)]
    families = [[subnet for subnet in subnets if subnet.version == version] for version in (4, 6)]
    return [_any_of(connection, family) for family in families if family]


def insert_port(connection: Connection, values: dict[str, Any], given: Sequence[Given]) -> None:
    """Insert a port with its addresses.

    :param values: all columns of the port
    """
    connection.execute(_INSERT_PORT, values)
    if given:
        connection.execute(
            _INSERT_ADDRESSES,
            [
                {
                    'port_id': values['id'],
                    'position': position,
                    'subnet_id': one.subnet_id,
                    'address_key': addresses.key(one.number),
                    'ip_address': one.ip_address,
                }
                for position, one in enumerate(given)
            ],
        )


def random_mac() -> str:
    """A MAC address of OpenStack's usual range; whether it is free shows when it is inserted."""
    return mac(secrets.token_bytes(3))


def mac(tail: bytes) -> str:
    """The MAC address of OpenStack's usual range with these last three bytes."""
    return f'fa:16:3e:{tail.hex(":")}'


def _asked(connection: Connection, subnets: list[Subnet], asked: str) -> Given:
    address = ipaddress.ip_address(asked)
    number = int(address)
    subnet = next((subnet for subnet in subnets if address in subnet.network), None)
    if subnet is None:
        raise exceptions.AddressInvalid(asked)
    if _used(connection, subnet, number, number, 1):
        raise exceptions.AddressInUse(asked)
    if number in subnet.reserved:
        raise exceptions.AddressInvalid(asked)
    return Given(subnet.id, number, asked)


def _any_of(connection: Connection, family: list[Subnet]) -> Given:
    for subnet in family:
        for pool in connection.execute(_POOLS, {'subnet_id': subnet.id}).all():
            number = _next_free(connection, subnet, pool)
            if number is not None:
                return Given(subnet.id, number, addresses.text(number, subnet.version))
    raise exceptions.NoAddress()


def _next_free(connection: Connection, subnet: Subnet, pool: Any) -> int | None:
    first, last, cursor = (int(text, 16) for text in (pool.first_key, pool.last_key, pool.next_key))
    number = _free(connection, subnet, cursor, last)
    if number is None:
        number = _free(connection, subnet, first, cursor - 1)
    if number is not None:
        moved = addresses.key(number + 1 if number < last else first)
        connection.execute(_MOVE_CURSOR, {'in_subnet': subnet.id, 'at_position': pool.position, 'moved': moved})
    return number


def _free(connection: Connection, subnet: Subnet, first: int, last: int) -> int | None:
    """The lowest free address of a range; the cost grows only with the used ones right before it."""
    reserved = subnet.reserved
    window = _WINDOW
    candidate = first
    while candidate <= last:
        used = _used(connection, subnet, candidate, last, window)
        for taken in used:
            candidate = _unreserved(candidate, reserved)
            if candidate < taken:
                return candidate
            candidate = max(candidate, taken + 1)
        if len(used) < window:
            candidate = _unreserved(candidate, reserved)
            return candidate if candidate <= last else None
        window = min(4 * window, _WIDEST)
    return None


def _unreserved(number: int, reserved: frozenset[int]) -> int:
    while number in reserved:
        number += 1
    return number


def _used(connection: Connection, subnet: Subnet, first: int, last: int, window: int) -> list[int]:
    values = {
        'subnet_id': subnet.id,
        'first': addresses.key(first),
        'last': addresses.key(last),
        'window': window,
    }
    return [int(key, 16) for key in connection.scalars(_USED, values)]
