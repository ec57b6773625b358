"""``os-interface-ext inventory``: the embedded inventory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from os_interface_ext.cmd import common, shell
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from os_interface_ext.inventory.schemas import SECTIONS
from os_interface_ext.standalone import seed, transactions


def run(options: argparse.Namespace) -> int:
    """Load, show or export the inventory."""
    database = common.database(options)
    if options.action == 'load':
        return _load(database, options.file, replace=options.replace)
    schema.require_current(database)
    with transactions.reading(database) as connection:
        document = loader.export(connection)
    if options.action == 'export':
        print(loader.dump(document), end='')
    elif options.json:
        shell.print_json(_without_tokens(document))
    else:
        print(show(document), end='')
    return 0


def _load(database: Database, path: str, *, replace: bool) -> int:
    try:
        with shell.progress() as progress:

            def tell(done: int, total: int, what: str) -> None:
                progress(f'{what}: {done} of {total}')

            inventory = seed.parse_file(path, tell)
            schema.upgrade(database)
            seed.load(database, inventory, replace=replace, progress=tell)
    except loader.InventoryError as error:
        for problem in error.errors:
            print(f'{path}: {problem}', file=sys.stderr)
        print(f'os-interface-ext: {_count(len(error.errors), "error")}, nothing was loaded', file=sys.stderr)
        return 1
    counted = {table.name.removeprefix('osif_'): len(rows) for table, rows in inventory.rows.items()}
    counts = [_count(counted[section], section.removesuffix('s')) for section in SECTIONS]
    print(f'{database.url}: loaded {", ".join(counts)}')
    return 0


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def _without_tokens(document: dict[str, Any]) -> dict[str, Any]:
    callers = [{key: value for key, value in caller.items() if key != 'token'} for caller in document['callers']]
    return document | {'callers': callers}


# ------------------------------------------------------------------ for people


def show(document: dict[str, Any]) -> str:
    """An inventory as tables; tokens are secrets, and not among it."""
    networks = {network['id']: network['name'] or network['id'] for network in document['networks']}
    servers = {server['id']: server['name'] or server['id'] for server in document['servers']}
    projects = {caller['project_id']: caller['project_name'] for caller in document['callers']}
    quotas = {quota['project_id']: quota['ports'] for quota in document['quotas']}

    def project(project_id: str) -> str:
        return projects.get(project_id) or project_id

    sections = [
        shell.table(
            'Callers',
            ('user', 'project', 'roles', 'port quota'),
            [
                (
                    caller['user_name'] or caller['user_id'],
                    project(caller['project_id']),
                    ' '.join(caller['roles']),
                    _quota(quotas.get(caller['project_id'])),
                )
                for caller in document['callers']
            ],
            is_one_of_several=True,
        ),
        shell.table(
            'Networks',
            ('name', 'id', 'project', 'subnets', 'kind'),
            [
                (
                    network['name'],
                    network['id'],
                    project(network['project_id']),
                    ' '.join(subnet['cidr'] for subnet in network['subnets']),
                    ' '.join(_kind(network)),
                )
                for network in document['networks']
            ],
            is_one_of_several=True,
        ),
        shell.table(
            'Servers',
            ('name', 'id', 'project', 'host', 'state'),
            [
                (
                    server['name'],
                    server['id'],
                    project(server['project_id']),
                    server['host'] or '',
                    ' '.join(_state(server)),
                )
                for server in document['servers']
            ],
            is_one_of_several=True,
        ),
        shell.table(
            'Ports',
            ('name', 'id', 'network', 'addresses', 'MAC', 'status', 'device'),
            [
                (
                    port['name'],
                    port['id'],
                    networks[port['network_id']],
                    ' '.join(ip['ip_address'] for ip in port['fixed_ips']),
                    port['mac_address'],
                    port['status'],
                    servers.get(port['device_id']) or port['device_owner'] or '',
                )
                for port in document['ports']
            ],
            is_one_of_several=True,
        ),
    ]
    return '\n'.join(sections)


def _quota(ports: int | None) -> str:
    return 'none' if ports is None or ports < 0 else str(ports)


def _kind(network: dict[str, Any]) -> Iterable[str]:
    if network['external']:
        yield 'external'
    if network['shared_with']:
        yield 'shared'
    if not network['admin_state_up']:
        yield 'down'


def _state(server: dict[str, Any]) -> Iterable[str]:
    yield server['vm_state']
    if server['task_state']:
        yield server['task_state']
    if server['locked_by']:
        yield f'locked by {server["locked_by"]}'
