"""Statements of SQLAlchemy's Core, compiled once and run on the DBAPI.

SQLAlchemy writes the SQL and keeps the pool; what it does around each execution (events, contexts, result
metadata) is left out, because a request runs up to a dozen small statements: a SELECT of one row costs
15 microseconds so, and 100 with a connection of SQLAlchemy's.

What can be run: statements with bound parameters of plain types (text, numbers, booleans, None).
"""

from __future__ import annotations

import collections
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from os_interface_ext.db import errors

Values = Mapping[str, Any]
NOTHING: Values = types.MappingProxyType({})


class Result:
    """What a statement gave: ``rows`` as the DBAPI has them, and the same with names."""

    __slots__ = ('_statement', 'rowcount', 'rows')

    def __init__(self, statement: _Compiled, rows: Sequence[tuple[Any, ...]], rowcount: int) -> None:
        self._statement = statement
        self.rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return map(self._statement.named, self.rows)

    def all(self) -> list[Any]:
        return list(self)

    def first(self) -> Any | None:
        return self._statement.named(self.rows[0]) if self.rows else None


class _Compiled:
    """A statement as SQL of one dialect."""

    def __init__(self, statement: Any, dialect: sa.Dialect, names: tuple[str, ...]) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(names))
        self.sql = str(compiled)
        self.returns_rows = isinstance(statement, sa.Select)
        required = object()
        self._defaults = {
            key: required if bind.required else bind.effective_value for bind, key in compiled.bind_names.items()
        }
        self._order = compiled.positiontup
        #: Whether all that is sent comes from the caller.
        self._is_plain = not any(value is not required for value in self._defaults.values())
        self.named: Callable[[Any], Any] = tuple
        if self.returns_rows:
            self._name(statement, dialect)

    def _name(self, statement: sa.Select[Any], dialect: sa.Dialect) -> None:
        columns = list(statement.selected_columns)
        make = collections.namedtuple('Row', [column.key or '' for column in columns], rename=True)._make  # type: ignore[attr-defined]
        numbers = [n for n, column in enumerate(columns) if isinstance(column.type, sa.Boolean)]
        if not numbers or dialect.supports_native_boolean:
            self.named = make
            return

        def named(row: Sequence[Any]) -> Any:
            cells = list(row)
            for n in numbers:
                if cells[n] is not None:
                    cells[n] = bool(cells[n])
            return make(cells)

        self.named = named

    def parameters(self, values: Values) -> Any:
        if self._is_plain and self._order is not None:
            return [values[name] for name in self._order]
        merged = {**self._defaults, **values}
        if self._order is None:
            return {name: merged[name] for name in self._defaults}
        return [merged[name] for name in self._order]


class Connection:
    """A DBAPI connection, in or out of a transaction, that runs Core statements."""

    __slots__ = ('_connection', '_driver', '_statements')

    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._driver = connection.driver_connection
        self._statements = statements

    @property
    def is_idle(self) -> bool:
        """Whether a connection to a SQLite file is whole, and not in a transaction."""
        return self._connection.is_valid and not self._driver.in_transaction

    def close(self) -> None:
        """Give it back to its pool."""
        self._connection.close()

    def execute(self, statement: Any, values: Values | list[Values] = NOTHING) -> Result:
        """Run a statement; several times over if ``values`` is a list.

        :raises DatabaseError:
        """
        many = isinstance(values, list)
        first: Values = values[0] if many else values  # type: ignore[index,assignment]
        compiled = self._statements.compiled(statement, first)
        try:
            cursor = self._connection.cursor()
            try:
                if many:
                    cursor.executemany(compiled.sql, [compiled.parameters(one) for one in values])  # type: ignore[arg-type]
                else:
                    cursor.execute(compiled.sql, compiled.parameters(first))
                return Result(compiled, cursor.fetchall() if compiled.returns_rows else (), cursor.rowcount)
            finally:
                cursor.close()
        except self._statements.dialect.loaded_dbapi.Error as error:
            raise self._statements.translate(error, compiled.sql, self._connection) from error

    def begin(self, sql: str) -> None:
        """Begin a transaction, on a database that does not do so by itself."""
        try:
            self._connection.execute(sql)
        except self._statements.dialect.loaded_dbapi.Error as error:
            raise self._statements.translate(error, sql, self._connection) from error

    def commit(self) -> None:
        """:raises CommitLost: whether it is committed is not known"""
        try:
            self._connection.commit()
        except self._statements.dialect.loaded_dbapi.Error as error:
            found = self._statements.translate(error, 'COMMIT', self._connection)
            raise found if isinstance(found, errors.REFUSED) else errors.CommitLost(found) from error

    def rollback(self) -> None:
        """Give up what was done; a connection that does not even do that is given up with it."""
        try:
            self._connection.rollback()
        except Exception as error:
            if self._connection.is_valid:
                self._connection.invalidate(error)

    def scalar(self, statement: Any, values: Values = NOTHING) -> Any:
        """The first cell of the first row; None if there is no row."""
        row = self.execute(statement, values).first()
        return None if row is None else row[0]

    def scalars(self, statement: Any, values: Values = NOTHING) -> list[Any]:
        """The first cell of each row."""
        return [row[0] for row in self.execute(statement, values)]


class Statements:
    """The compiled statements of one engine, and its errors."""

    def __init__(self, engine: sa.Engine) -> None:
        self.dialect = engine.dialect
        # Of statements that live as long as their module; one made for a single use goes with it.
        self._compiled: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], _Compiled]] = (
            weakref.WeakKeyDictionary()
        )

    def compiled(self, statement: Any, values: Values) -> _Compiled:
        names = () if isinstance(statement, sa.Select) else tuple(values)
        by_names = self._compiled.get(statement)
        if by_names is None:
            by_names = self._compiled.setdefault(statement, {})
        found = by_names.get(names)
        if found is None:
            found = by_names[names] = _Compiled(statement, self.dialect, names)
        return found

    def translate(self, error: Exception, sql: str, connection: Any) -> Exception:
        """An error of the DBAPI under its common name; a broken connection leaves the pool."""
        dbapi = self.dialect.loaded_dbapi
        gone = self.dialect.is_disconnect(error, getattr(connection, 'dbapi_connection', None), None)  # type: ignore[arg-type]
        context = types.SimpleNamespace(
            dialect=self.dialect,
            connection=None,
            is_disconnect=gone,
            original_exception=error,
            sqlalchemy_exception=sa.exc.DBAPIError.instance(
                sql,
                None,
                error,
                dbapi.Error,
                hide_parameters=True,
                connection_invalidated=gone,
                dialect=self.dialect,
            ),
        )
        try:
            found = errors.translated(context) or context.sqlalchemy_exception
        except sa.exc.SQLAlchemyError as untranslated:
            found = untranslated
        if context.is_disconnect and connection.is_valid:
            connection.invalidate(error)
        told: Exception = found if isinstance(found, errors.DatabaseError) else errors.DatabaseError(found)
        return told
