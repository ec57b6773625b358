"""The version of the schema in a database: told, required, and brought up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.db import tables
from os_interface_ext.db.engine import Database
from os_interface_ext.db.errors import DatabaseError

_CURE = 'run "os-interface-ext db sync"'
#: "osif" in ASCII: the lock in PostgreSQL under which the schema is changed.
_LOCK = 0x6F736966
#: Seconds to wait for it in MySQL.
_LOCK_TIMEOUT = 60


def version(database: Database) -> str | None:
    """The revision of the schema; None where there is no schema of ours.

    :raises ConfigurationError: the database cannot be reached
    """
    url = sa.make_url(database.engine.url)
    if url.get_backend_name() == 'sqlite' and not os.path.exists(url.database or ''):
        return None
    try:
        if url.get_backend_name() == 'sqlite':
            _check_file(url.database or '')
        with database.read() as connection:
            if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
                return None
            found: str | None = connection.scalar(sa.text(f'SELECT version_num FROM {tables.VERSION_TABLE}'))
            return found
    except (DatabaseError, sa.exc.SQLAlchemyError, OSError) as error:
        raise _unreachable(database, error) from error


def require_current(database: Database) -> None:
    """:raises ConfigurationError: the schema is missing, older or newer than this code"""
    found = version(database)
    if found is None:
        raise exceptions.ConfigurationError(
            f'option [database] connection: {database.url} has no schema of os-interface-ext: {_CURE}'
        )
    if found < tables.REVISION:
        raise exceptions.ConfigurationError(
            f'option [database] connection: the schema of {database.url} is {found}, older than this code '
            f'({tables.REVISION}): {_CURE}'
        )
    if found > tables.REVISION:
        raise exceptions.ConfigurationError(
            f'option [database] connection: the schema of {database.url} is {found}, newer than this code '
            f'({tables.REVISION}): install the newer os-interface-ext'
        )


def upgrade(database: Database) -> None:
    """Create the schema, or bring it up to date; harmless when it is.

    :raises ConfigurationError: the database cannot be reached, or its schema is newer than this code
    """
    # Alembic is imported by those alone who change the schema: it is a third of the start-up time.
    from os_interface_ext.db import migrations

    found = version(database)
    if found is not None and found >= tables.REVISION:
        require_current(database)
        return
    url = sa.make_url(database.engine.url)
    if url.get_backend_name() == 'sqlite' and url.database:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(url.database)), exist_ok=True)
        except OSError as error:
            raise _unreachable(database, error) from error
    try:
        with database.patient() as connection:
            _lock(connection)
            migrations.upgrade(connection)
    except (DatabaseError, sa.exc.SQLAlchemyError) as error:
        raise _unreachable(database, error) from error


def _lock(connection: sa.Connection) -> None:
    """Wait for whoever changes the schema at the same time; until the connection ends nobody else does."""
    if connection.dialect.name == 'postgresql':
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    elif connection.dialect.name == 'mysql':
        # A lock of the whole server, not of the database.
        name = sa.func.left(sa.func.concat('osif ', sa.func.database()), 64)
        if not connection.scalar(sa.select(sa.func.get_lock(name, _LOCK_TIMEOUT))):
            raise DatabaseError('somebody else is changing the schema')


def _check_file(path: str) -> None:
    # By SQLite: who else opens and closes the file drops the locks of all connections of this process, and
    # other processes then take its WAL away. Not through the engine: oslo.db would log a traceback.
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute('PRAGMA schema_version')
    except sqlite3.DatabaseError as error:
        raise OSError(str(error)) from error


def _unreachable(database: Database, error: Exception) -> exceptions.ConfigurationError:
    inner = getattr(error, 'inner_exception', None) or error
    why = ' '.join(str(getattr(inner, 'orig', None) or inner).split())[:200]
    return exceptions.ConfigurationError(
        f'option [database] connection: {database.url} cannot be used ({why}): '
        'start the database, or correct the URL'
    )
