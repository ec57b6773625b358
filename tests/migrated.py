"""Databases with the current schema; a file of SQLite is a copy of one that was migrated once."""

from __future__ import annotations

import functools
import pathlib
import tempfile

import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database


@functools.cache
def _sqlite() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'osif.sqlite')
        database = Database.of(config.new([], database={'connection': f'sqlite:///{path}'}))
        schema.upgrade(database)
        database.dispose()
        return path.read_bytes()


def database_of(conf: config.Config) -> Database:
    """The database of a configuration, with the current schema; there must be none as yet."""
    database = Database.of(conf)
    url = sa.make_url(conf.database.connection)
    if url.get_backend_name() == 'sqlite':
        with pathlib.Path(str(url.database)).open('xb') as file:
            file.write(_sqlite())
    else:
        schema.upgrade(database)
    return database
