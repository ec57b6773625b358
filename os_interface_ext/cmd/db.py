"""``os-interface-ext db``: the schema."""

from __future__ import annotations

import argparse

from os_interface_ext.cmd import common, shell
from os_interface_ext.db import schema, tables


def run(options: argparse.Namespace) -> int:
    """Create, upgrade or tell the schema."""
    database = common.database(options)
    if options.action == 'sync':
        schema.upgrade(database)
    found = schema.version(database)
    if options.json:
        shell.print_json({'database': database.url, 'version': found, 'wanted': tables.REVISION})
        return 0
    print(f'{database.url}: {"no schema" if found is None else f"version {found}"} (this code: {tables.REVISION})')
    return 0
