"""How the embedded inventory uses its database: readings, transactions, and what their errors mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.db import errors
from os_interface_ext.db.engine import Database, DatabaseError
from os_interface_ext.db.prepared import Connection, Result, Values

_T = TypeVar('_T')


class Outdated(Exception):
    """A row is there already, or what it refers to is gone: read and decide anew."""


def fetch(database: Database, statement: sa.Select[Any], values: Values) -> Result:
    """What a SELECT finds.

    :raises Unavailable: the database does not answer
    """
    try:
        return database.fetch(statement, values)
    except DatabaseError as error:
        raise exceptions.Unavailable(operator=f'database: {error}') from error


def write(database: Database, work: Callable[[Connection], _T]) -> _T:
    """Do ``work`` in one transaction; again, while the database takes it back.

    :raises Outdated: nothing was written: another transaction has changed what ``work`` built on
    :raises Unavailable: nothing was written: the database does not answer, or goes on taking it back
    :raises UnknownOutcome: the answer to the commit was lost
    """
    try:
        return database.transact(work)
    except (errors.DuplicateEntry, errors.ReferenceError) as error:
        raise Outdated(error) from error
    except errors.CommitLost as error:
        raise exceptions.UnknownOutcome(operator=f'database: {error}') from error
    except DatabaseError as error:
        raise exceptions.Unavailable(operator=f'database: {error}') from error
