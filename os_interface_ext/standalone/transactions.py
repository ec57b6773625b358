"""Readings and transactions beside those of requests: statements of any kind, made for one use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from oslo_db import exception as db_exc

from os_interface_ext import exceptions
from os_interface_ext.db.engine import Database, DatabaseError

_ATTEMPTS = 20


@contextlib.contextmanager
def reading(database: Database) -> Iterator[sa.Connection]:
    """A connection for reading.

    :raises Unavailable: the database does not answer
    """
    try:
        with database.read() as connection:
            yield connection
    except DatabaseError as error:
        raise exceptions.Unavailable(operator=f'database: {error}') from error


def write(database: Database, work: Callable[[sa.Connection], None]) -> None:
    """Do ``work`` in one transaction; again, while the database takes it back to end a deadlock.

    :raises Unavailable: the database does not answer
    """
    for _ in range(_ATTEMPTS):
        try:
            with database.write() as connection:
                return work(connection)
        except db_exc.DBDeadlock:
            continue
        except DatabaseError as error:
            raise exceptions.Unavailable(operator=f'database: {error}') from error
    raise exceptions.Unavailable(operator=f'database: {_ATTEMPTS} deadlocks')
