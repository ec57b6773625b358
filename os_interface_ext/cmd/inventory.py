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
    print(loader.dump(document) if options.action == 'export' else show(document), end='')
    return 0


def _load(database: Database, path: str, *, replace: bool) -> int:
    progress = _Progress() if sys.stderr.isatty() else None
    try:
        inventory = seed.parse_file(path, progress)
        schema.upgrade(database)
        seed.load(database, inventory, replace=replace, progress=progress)
    except loader.InventoryError as error:
        if progress:
            progress.end()
        for problem in error.errors:
            print(f'{path}: {problem}', file=sys.stderr)
        print(f'os-interface-ext: {_count(len(error.errors), "error")}, nothing was loaded', file=sys.stderr)
        return 1
    finally:
        if progress:
            progress.end()
    counted = {table.name.removeprefix('osif_'): len(rows) for table, rows in inventory.rows.items()}
    counts = [_count(counted[section], section.removesuffix('s')) for section in SECTIONS]
    print(f'{database.url}: loaded {", ".join(counts)}')
    return 0


class _Progress:
    """How far the work is, in one line of a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __call__(self, done: int, total: int, what: str) -> None:
        print(f'\r\033[K{what}: {done} of {total}', end='', file=sys.stderr, flush=True)
        self._shown = True

    def end(self) -> None:
        """Leave the line empty."""
        if self._shown:
            print('\r\033[K', end='', file=sys.stderr, flush=True)
        self._shown = False


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


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
