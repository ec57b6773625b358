"""Inventories as text: parsed and checked, loaded into the tables, exported from them.

The format is documented by :data:`os_interface_ext.inventory.schemas.FORMAT`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import marshmallow as ma
import sqlalchemy as sa
import yaml

from os_interface_ext import exceptions
from os_interface_ext.inventory import addresses, checks, ipam, tables
from os_interface_ext.inventory.checks import Problem
from os_interface_ext.inventory.schemas import SECTIONS

#: Is told how much of the work is done, of how much, and of what.
Progress = Callable[[int, int, str], None]
Rows = Mapping[sa.Table, list[dict[str, Any]]]

#: The tables from which a delete spreads to all others; ports first, as everybody who deletes one does.
_ROOTS = (tables.ports, tables.networks, tables.servers, tables.quotas, tables.callers)
#: Rows and entries between two calls of a progress function.
_CHUNK = 1000


class InventoryError(exceptions.ConfigurationError):
    """An inventory cannot be used; ``errors`` holds every reason, and the text has a line for each."""

    def __init__(self, name: str, errors: Sequence[Problem]) -> None:
        self.errors = tuple(errors)
        super().__init__('\n'.join(f'{name}: {error}' for error in errors))


@dataclasses.dataclass(frozen=True)
class Inventory:
    """An inventory that has passed all checks, ready to be loaded any number of times.

    ``digest`` is the same for all texts that mean the same.
    """

    name: str
    rows: Rows
    digest: str


def parse(text: str, name: str, progress: Progress | None = None) -> Inventory:
    """Read and check an inventory.

    :param name: of the file, for errors
    :raises InventoryError: with every error of it
    """
    document = _read(text, name)
    entries, problems = _validate(document, progress or _silent)
    problems += checks.check(entries)
    if problems:
        raise InventoryError(name, problems)
    rows = _rows(entries)
    return Inventory(name, rows, _digest(_document(rows)))


def load(connection: sa.Connection, inventory: Inventory, progress: Progress | None = None) -> None:
    """Replace all that is in the tables of the inventory, within the transaction of the caller."""
    # Whoever makes a port shares this lock; without it he could meet half of each inventory.
    known = connection.scalar(sa.select(tables.inventory.c.id).with_for_update())
    for table in _ROOTS:
        connection.execute(sa.delete(table))
    done, total = 0, sum(map(len, inventory.rows.values()))
    for table, rows in inventory.rows.items():
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            connection.execute(sa.insert(table), chunk)
            done += len(chunk)
            if progress:
                progress(done, total, table.name.removeprefix('osif_'))
    # Not deleted and inserted: who waits for the lock would not find the new row.
    remember = sa.insert(tables.inventory) if known is None else sa.update(tables.inventory)
    connection.execute(remember.values(id=1, digest=inventory.digest))


def digest_of(connection: sa.Connection) -> str | None:
    """The digest of the inventory that was loaded last; None if none was."""
    return connection.scalar(sa.select(tables.inventory.c.digest))


def is_empty(connection: sa.Connection) -> bool:
    """Whether no table of the inventory has a row."""
    return all(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is None
        for table in tables.ALL
    )


def export(connection: sa.Connection) -> dict[str, Any]:
    """All that is in the tables, in the format of a file; sorted by name, with every field.

    A port that this project has made is one that is created by attach.
    """
    return _document(
        {table: [dict(row) for row in connection.execute(sa.select(table)).mappings()] for table in tables.ALL}
    )


def dump(document: dict[str, Any]) -> str:
    """A document as YAML."""
    return yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000
    )


# ------------------------------------------------------------------ from text to entries


class _Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'{key.value} is there twice', problem_mark=key.start_mark)
            seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


class _Dumper(getattr(yaml, 'CSafeDumper', yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _read(text: str, name: str) -> dict[Any, Any]:
    try:
        document = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None) or getattr(error, 'context_mark', None)
        where = f'line {mark.line + 1}, column {mark.column + 1}' if mark else ''
        what = getattr(error, 'problem', None) or ' '.join(str(error).split())
        raise InventoryError(name, [Problem(where, '', f'not YAML: {what}')]) from error
    except (ValueError, RecursionError) as error:
        raise InventoryError(name, [Problem('', '', f'not YAML: {error}')]) from error
    if not isinstance(document, dict):
        expected = f'must be a mapping of {", ".join(SECTIONS)}'
        raise InventoryError(name, [Problem('', '', expected)])
    return document


def _validate(
    document: dict[Any, Any], progress: Progress
) -> tuple[dict[str, list[dict[str, Any]]], list[Problem]]:
    """The entries, as far as they are valid, and the problems of each alone."""
    problems = [
        Problem(str(section), '', f'is not one of {", ".join(SECTIONS)}')
        for section in document
        if section not in SECTIONS
    ]
    entries: dict[str, list[dict[str, Any]]] = {}
    for section, schema in SECTIONS.items():
        found = document.get(section)
        entries[section] = []
        if found is None:
            continue
        if not isinstance(found, list):
            problems.append(Problem(section, '', 'must be a list'))
            continue
        for index, entry in enumerate(found):
            valid, errors = _load_entry(schema, entry)
            entries[section].append(valid)
            if errors:
                where = checks.label(section, index, entry)
                problems += [Problem(where, field, message) for field, message in _flat(errors)]
            if not (index + 1) % _CHUNK or index + 1 == len(found):
                progress(index + 1, len(found), section)
    return entries, problems


def _load_entry(schema: ma.Schema, entry: Any) -> tuple[dict[str, Any], Any]:
    try:
        return schema.load(entry), None
    except ma.ValidationError as error:
        valid = error.valid_data if isinstance(error.valid_data, dict) else {}
        return valid, error.messages


def _flat(errors: Any, path: str = '') -> Iterator[tuple[str, str]]:
    """The nested messages of a schema as pairs of a field (``subnets[0].cidr``) and a message."""
    if isinstance(errors, str):
        yield path, errors
    elif isinstance(errors, list):
        for error in errors:
            yield from _flat(error, path)
    else:
        for key, error in errors.items():
            if isinstance(key, int) and path:
                yield from _flat(error, f'{path}[{key}]')
            elif key == '_schema':
                yield from _flat(error, path)
            else:
                yield from _flat(error, f'{path}.{key}' if path else str(key))


def _silent(done: int, total: int, what: str) -> None:
    """Progress that nobody wants to see."""


# ------------------------------------------------------------------ from entries to rows


def _rows(entries: Mapping[str, list[dict[str, Any]]]) -> Rows:
    networks, ports = entries['networks'], entries['ports']
    subnets = [subnet for network in networks for subnet in network['subnets']]
    return {
        tables.callers: [caller | {'roles': json.dumps(caller['roles'])} for caller in entries['callers']],
        tables.quotas: entries['quotas'],
        tables.networks: [_without(network, 'shared_with', 'subnets') for network in networks],
        tables.network_shares: [
            {'network_id': network['id'], 'project_id': project_id}
            for network in networks
            for project_id in network['shared_with']
        ],
        tables.subnets: [
            {'network_id': network['id'], 'position': position, **_without(subnet, 'allocation_pools')}
            for network in networks
            for position, subnet in enumerate(network['subnets'])
        ],
        tables.allocation_pools: [row for subnet in subnets for row in _pool_rows(subnet)],
        tables.servers: entries['servers'],
        tables.ports: _port_rows(entries),
        tables.addresses: [row for port in ports for row in _address_rows(port)],
    }


def _without(entry: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {field: value for field, value in entry.items() if field not in fields}


def _pool_rows(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    pools = entry['allocation_pools']
    if pools is None:
        ranges = addresses.Subnet.of(entry['id'], entry['cidr'], entry['gateway_ip']).default_pools()
    else:
        ranges = [(addresses.number(pool['start']), addresses.number(pool['end'])) for pool in pools]
    for position, (first, last) in enumerate(ranges):
        yield {
            'subnet_id': entry['id'],
            'position': position,
            'first_key': addresses.key(first),
            'last_key': addresses.key(last),
            'next_key': addresses.key(first),
        }


def _port_rows(entries: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    networks = {network['id']: network for network in entries['networks']}
    servers = {server['id']: server for server in entries['servers']}
    macs = {port['mac_address'] for port in entries['ports']}
    rows = []
    for port in entries['ports']:
        server = servers.get(port['device_id'])
        row = _without(port, 'fixed_ips') | {
            'mac_address': port['mac_address'] or _mac(port['id'], macs),
            'tag': None if port['tag'] is None else json.dumps(port['tag']),
            'mark': None,
        }
        if row['port_security_enabled'] is None:
            row['port_security_enabled'] = networks[port['network_id']]['port_security_enabled']
        if row['device_owner'] is None:
            row['device_owner'] = f'compute:{server["availability_zone"] or "nova"}' if server else ''
        if row['host'] is None and server:
            row['host'] = server['host']
        rows.append(row)
    return rows


def _mac(port_id: str, macs: set[str]) -> str:
    """A MAC address made from the id: the same one each time the file is loaded."""
    seed = port_id.encode()
    while True:
        seed = hashlib.sha256(seed).digest()
        mac = ipam.mac(seed[:3])
        if mac not in macs:
            macs.add(mac)
            return mac


def _address_rows(port: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for position, fixed_ip in enumerate(port['fixed_ips']):
        key = addresses.key(addresses.number(fixed_ip['ip_address']))
        yield {'port_id': port['id'], 'position': position, 'address_key': key, **fixed_ip}


# ------------------------------------------------------------------ from rows to a document


def _document(rows: Rows) -> dict[str, Any]:
    shares = _grouped(rows[tables.network_shares], 'network_id')
    subnets = _grouped(rows[tables.subnets], 'network_id')
    pools = _grouped(rows[tables.allocation_pools], 'subnet_id')
    fixed_ips = _grouped(rows[tables.addresses], 'port_id')
    return {
        'callers': [
            _picked(caller, 'token user_id user_name project_id project_name')
            | {'roles': json.loads(caller['roles'])}
            for caller in sorted(rows[tables.callers], key=operator.itemgetter('token'))
        ],
        'quotas': [
            _picked(quota, 'project_id ports')
            for quota in sorted(rows[tables.quotas], key=operator.itemgetter('project_id'))
        ],
        'networks': [
            _picked(network, 'id name project_id external')
            | {'shared_with': sorted(share['project_id'] for share in shares.get(network['id'], []))}
            | _picked(network, 'admin_state_up mtu port_security_enabled')
            | {
                'subnets': [
                    _subnet(subnet, pools.get(subnet['id'], [])) for subnet in subnets.get(network['id'], [])
                ]
            }
            for network in sorted(rows[tables.networks], key=_by_name)
        ],
        'servers': [
            _picked(server, 'id name project_id host availability_zone vm_state task_state locked_by')
            for server in sorted(rows[tables.servers], key=_by_name)
        ],
        'ports': [_port(port, fixed_ips.get(port['id'], [])) for port in sorted(rows[tables.ports], key=_by_name)],
    }


def _subnet(subnet: dict[str, Any], pools: list[dict[str, Any]]) -> dict[str, Any]:
    version = addresses.Subnet.of(subnet['id'], subnet['cidr'], None).version
    return _picked(subnet, 'id name cidr gateway_ip') | {
        'allocation_pools': [
            {
                'start': addresses.text(int(pool['first_key'], 16), version),
                'end': addresses.text(int(pool['last_key'], 16), version),
            }
            for pool in pools
        ]
    }


def _port(port: dict[str, Any], fixed_ips: list[dict[str, Any]]) -> dict[str, Any]:
    return (
        _picked(port, 'id name project_id network_id mac_address')
        | {'fixed_ips': [_picked(fixed_ip, 'subnet_id ip_address') for fixed_ip in fixed_ips]}
        | _picked(port, 'status admin_state_up port_security_enabled vnic_type device_id device_owner host')
        | {
            'tag': None if port['tag'] is None else json.loads(port['tag']),
            'created_by_attach': port['created_by_attach'] or port['mark'] is not None,
        }
    )


def _picked(row: dict[str, Any], fields: str) -> dict[str, Any]:
    return {field: row[field] for field in fields.split()}


def _grouped(rows: list[dict[str, Any]], field: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each value of the field, in their order of position."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row.get('position', 0)):
        groups.setdefault(row[field], []).append(row)
    return groups


def _by_name(row: dict[str, Any]) -> tuple[str, str]:
    return row['name'], row['id']


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
