"""What the entries of an inventory must fulfil together; each of them alone is checked by its schema.

Entries may lack fields here: those whose own error has been found already.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from os_interface_ext.inventory.addresses import Subnet

Entry = Mapping[str, Any]
Entries = Mapping[str, Sequence[Entry]]
#: Takes the field and the message.
_Add = Callable[[str, str], None]

_UNIQUE = (
    ('callers', 'token'),
    ('quotas', 'project_id'),
    ('networks', 'id'),
    ('servers', 'id'),
    ('ports', 'id'),
    ('ports', 'mac_address'),
)


class Problem(NamedTuple):
    """One error of an inventory: in which entry, in which field of it (may be empty), and what it is."""

    entry: str
    field: str
    message: str

    def __str__(self) -> str:
        return ': '.join(part for part in self if part)


def label(section: str, index: int, entry: Any) -> str:
    """How an entry is called in an error; never by its token."""
    fields = ('name', 'id', 'user_id', 'project_id') if isinstance(entry, Mapping) else ()
    names = (entry.get(field) for field in fields)
    name = next((name for name in names if isinstance(name, str) and name), None)
    return f'{section}[{index}]' + (f' "{name}"' if name else '')


def check(entries: Entries) -> list[Problem]:
    """All problems that entries have with each other."""
    return [*_duplicates(entries), *_in_networks(entries), *_in_ports(entries)]


# ------------------------------------------------------------------ duplicates


def _duplicates(entries: Entries) -> Iterator[Problem]:
    for section, field in _UNIQUE:
        values = [
            (label(section, index, entry), field, entry.get(field)) for index, entry in enumerate(entries[section])
        ]
        yield from _repeated(values)
    yield from _repeated(
        [
            (label('networks', index, network), f'subnets[{number}].id', subnet.get('id'))
            for index, network in enumerate(entries['networks'])
            for number, subnet in enumerate(network.get('subnets') or ())
        ]
    )


def _repeated(values: list[tuple[str, str, Any]]) -> Iterator[Problem]:
    first: dict[Any, str] = {}
    for entry, field, value in values:
        if value is None:
            continue
        if value in first:
            yield Problem(entry, field, f'is already the {first[value]}')
        else:
            first[value] = f'{field} of {entry}'


# ------------------------------------------------------------------ networks


def subnet_of(entry: Entry) -> Subnet | None:
    """The subnet of an entry; None if it is not complete."""
    if 'id' not in entry or 'cidr' not in entry:
        return None
    return Subnet.of(entry['id'], entry['cidr'], entry.get('gateway_ip'))


def _in_networks(entries: Entries) -> Iterator[Problem]:
    for index, network in enumerate(entries['networks']):
        problems: list[Problem] = []
        add = _adder(problems, label('networks', index, network))
        shares = network.get('shared_with') or []
        if len(set(shares)) != len(shares):
            add('shared_with', 'names a project twice')
        subnets = list(network.get('subnets') or ())
        for number, entry in enumerate(subnets):
            _check_subnet(entry, f'subnets[{number}]', add)
        _check_overlap(subnets, add)
        yield from problems


def _check_subnet(entry: Entry, path: str, add: _Add) -> None:
    subnet = subnet_of(entry)
    if subnet is None:
        return
    if subnet.gateway is not None and subnet.gateway not in subnet.network:
        add(f'{path}.gateway_ip', f'lies outside {subnet.network}')
    ranges: list[tuple[int, int]] = []
    for number, pool in enumerate(entry.get('allocation_pools') or ()):
        _check_pool(subnet, pool, f'{path}.allocation_pools[{number}]', ranges, add)


def _check_pool(subnet: Subnet, pool: Entry, path: str, ranges: list[tuple[int, int]], add: _Add) -> None:
    ends = [ipaddress.ip_address(pool[field]) for field in ('start', 'end') if field in pool]
    outside = [end for end in ends if end not in subnet.network]
    for end in outside:
        add(path, f'{end} lies outside {subnet.network}')
    if outside or len(ends) < 2:
        return
    first, last = int(ends[0]), int(ends[1])
    if first > last:
        add(path, 'ends before it starts')
        return
    if subnet.gateway is not None and first <= int(subnet.gateway) <= last:
        add(path, f'holds the gateway {subnet.gateway}')
    if any(first <= other_last and other_first <= last for other_first, other_last in ranges):
        add(path, 'overlaps another pool of the subnet')
    ranges.append((first, last))


def _check_overlap(entries: Sequence[Entry], add: _Add) -> None:
    subnets = [(number, subnet_of(entry)) for number, entry in enumerate(entries)]
    for (_, one), (number, other) in itertools.combinations(subnets, 2):
        if one and other and one.version == other.version and one.network.overlaps(other.network):
            add(f'subnets[{number}].cidr', f'{other.network} overlaps {one.network} of the same network')


# ------------------------------------------------------------------ ports


def _in_ports(entries: Entries) -> Iterator[Problem]:
    networks = {network.get('id') for network in entries['networks']}
    servers = {server.get('id') for server in entries['servers']}
    subnets = {
        subnet.get('id'): (network.get('id'), subnet_of(subnet))
        for network in entries['networks']
        for subnet in network.get('subnets') or ()
    }
    used: dict[tuple[str, str], str] = {}
    for index, port in enumerate(entries['ports']):
        problems: list[Problem] = []
        entry = label('ports', index, port)
        add = _adder(problems, entry)
        if 'network_id' in port and port['network_id'] not in networks:
            add('network_id', f'no network {port["network_id"]} is in the file')
        for number, fixed_ip in enumerate(port.get('fixed_ips') or ()):
            if {'subnet_id', 'ip_address'} <= fixed_ip.keys():
                path = f'fixed_ips[{number}]'
                _check_fixed_ip(fixed_ip, port.get('network_id'), subnets, path, add)
                where = (fixed_ip['subnet_id'], fixed_ip['ip_address'])
                if where in used:
                    add(f'{path}.ip_address', f'{where[1]} is already an address of {used[where]}')
                used.setdefault(where, entry)
        _check_device(port, servers, add)
        yield from problems


def _check_fixed_ip(
    fixed_ip: Entry,
    network_id: str | None,
    subnets: Mapping[Any, tuple[Any, Subnet | None]],
    path: str,
    add: _Add,
) -> None:
    subnet_id, address = fixed_ip['subnet_id'], fixed_ip['ip_address']
    if subnet_id not in subnets:
        add(f'{path}.subnet_id', f'no subnet {subnet_id} is in the file')
        return
    owner, subnet = subnets[subnet_id]
    if network_id is not None and owner != network_id:
        add(f'{path}.subnet_id', f'subnet {subnet_id} is not one of network {network_id}')
    if subnet is None:
        return
    parsed = ipaddress.ip_address(address)
    if parsed not in subnet.network:
        add(f'{path}.ip_address', f'{address} lies outside {subnet.network}')
    elif int(parsed) in subnet.unusable:
        add(f'{path}.ip_address', f'{address} is not an address for a device in {subnet.network}')


def _check_device(port: Entry, servers: set[Any], add: _Add) -> None:
    device_id, owner = port.get('device_id'), port.get('device_owner') or ''
    if device_id in servers and device_id is not None:
        return
    if owner.startswith('compute:'):
        add('device_owner', 'is that of a server, but the device_id is none of a server in the file')
    elif device_id is not None and not owner:
        add('device_id', f'no server {device_id} is in the file; another device needs its device_owner')
    if port.get('created_by_attach'):
        add('created_by_attach', 'is only for the port of a server')


def _adder(problems: list[Problem], entry: str) -> _Add:
    return lambda field, message: problems.append(Problem(entry, field, message))
