"""The errors of all databases under one name each.

They are oslo.db's, with three differences: a code of the server is looked at before the text of its message,
which a server may tell in any language; an error that oslo.db lets through as SQLAlchemy's is a
``DatabaseError`` too; and there is ``CommitLost``.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import exc_filters

DatabaseError = db_exc.DBError
DuplicateEntry = db_exc.DBDuplicateEntry
ReferenceError = db_exc.DBReferenceError
#: Taken back by the database: to end a deadlock, or because somebody has held a lock for too long.
Deadlock = db_exc.DBDeadlock
Disconnected = db_exc.DBConnectionError

#: After these nothing has been written; the same again may well succeed.
TRANSIENT = (Deadlock, Disconnected)
#: What a COMMIT may be refused with; after any other error of it, nobody knows.
REFUSED = (Deadlock, DuplicateEntry, ReferenceError)


class CommitLost(db_exc.DBError):  # type: ignore[misc]
    """The answer to a COMMIT was lost: the transaction is committed, or it is not."""


def _reference(error: Exception) -> Exception:
    made: Exception = ReferenceError(None, None, None, None, error)
    return made


def _duplicate(error: Exception) -> Exception:
    made: Exception = DuplicateEntry(inner_exception=error)
    return made


_POSTGRESQL = {
    '23503': _reference,
    '23505': _duplicate,
    # Not serialisable; deadlock; lock_timeout.
    '40001': Deadlock,
    '40P01': Deadlock,
    '55P03': Deadlock,
    # Ended: idle for too long in a transaction, by an administrator, by a crash, starting up.
    '25P03': Disconnected,
    '57P01': Disconnected,
    '57P02': Disconnected,
    '57P03': Disconnected,
}
_MYSQL = {
    1062: _duplicate,
    1451: _reference,
    1452: _reference,
    # Changed since it was read; lock wait timeout; deadlock.
    1020: Deadlock,
    1205: Deadlock,
    1213: Deadlock,
    # Ended: by a shutdown, by an administrator, idle for too long.
    1053: Disconnected,
    1927: Disconnected,
    4031: Disconnected,
}


def translated(context: Any) -> Exception | None:
    """The error to raise for one of the DBAPI; a listener of SQLAlchemy's ``handle_error``."""
    known = _of_code(context.dialect.name, context.original_exception)
    if known is not None:
        error = known(context.sqlalchemy_exception)
        context.is_disconnect = context.is_disconnect or isinstance(error, Disconnected)
        # The pool looks for itself what a ping that fails means.
        return None if getattr(context, 'is_pre_ping', False) else error
    try:
        return exc_filters.handler(context)  # type: ignore[no-any-return]
    except sa.exc.OperationalError as error:
        made: Exception = DatabaseError(error)
        return made


def _of_code(dialect: str, error: BaseException) -> Any:
    if dialect == 'postgresql':
        return _POSTGRESQL.get(getattr(error, 'sqlstate', None) or '')
    if dialect == 'mysql' and error.args:
        return _MYSQL.get(error.args[0])
    return None
