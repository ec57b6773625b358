"""The database of one configuration: its engine, its transactions, its clock."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from oslo_db import exception as db_exc
from oslo_db.sqlalchemy import exc_filters
from sqlalchemy.ext import compiler
from sqlalchemy.sql import functions

from os_interface_ext import exceptions
from os_interface_ext.db import prepared
from os_interface_ext.db.prepared import Connection

#: How often a transaction is begun that the database takes back.
_TURNS = 12
#: Seconds to wait for a database server that does not answer.
_CONNECT_TIMEOUT = 5

_T = TypeVar('_T')

_databases: weakref.WeakKeyDictionary[cfg.ConfigOpts, Database] = weakref.WeakKeyDictionary()
_databases_lock = threading.Lock()


class Database:
    """An engine that is made lazily, anew in each process, and two ways to use it.

    The errors are oslo.db's (``DBDuplicateEntry``, ``DBDeadlock``, ``DBConnectionError``). oslo.db's own
    engine factory is not used: it opens a SQLite file anew for each transaction and begins it DEFERRED.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf.database
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._engine: sa.Engine | None = None
        self._read_engine: sa.Engine | None = None

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Database:
        """The database of a configuration object: the same one for all that are given this object."""
        with _databases_lock:
            if conf not in _databases:
                _databases[conf] = cls(conf)
            return _databases[conf]

    @property
    def url(self) -> str:
        """The URL without its password."""
        return sa.make_url(self._conf.connection).render_as_string(hide_password=True)

    @property
    def engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # Of the parent process: its connections are not ours to close.
                    self._dispose(close=False)
                    self._engine = _create(self._conf)
                    self._statements = prepared.Statements(self._engine)
                    if self._engine.dialect.name == 'sqlite':
                        self._read_engine = self._engine
                        self._begin: str | None = 'BEGIN IMMEDIATE'
                    else:
                        # A SELECT alone needs no BEGIN before and no ROLLBACK after it: a third of the
                        # round trips. A connection that broke meanwhile is noticed by the SELECT itself.
                        self._read_engine = _create(
                            self._conf,
                            isolation_level='AUTOCOMMIT',
                            pool_reset_on_return=None,
                            pool_pre_ping=False,
                        )
                        # These begin by themselves with the first statement.
                        self._begin = None
                    self._write_engine = self._engine.execution_options(osif_write=True)
                    self._pid = os.getpid()
        assert self._engine is not None
        return self._engine

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading, without a transaction around it."""
        with self.engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end of the block, rolled back if an error leaves it."""
        self.engine  # noqa: B018 (made on first use)
        with self._write_engine.begin() as connection:
            yield connection

    def fetch(self, statement: sa.Select[Any], values: prepared.Values = prepared.NOTHING) -> prepared.Result:
        """One SELECT of a request (see :mod:`.prepared`); it may be repeated, and is if a connection breaks."""
        self.engine  # noqa: B018 (made on first use)
        try:
            return self._fetch(statement, values)
        except db_exc.DBConnectionError:
            # The pool may have been full of connections that a restart of the database had broken.
            self._dispose()
            return self._fetch(statement, values)

    def _fetch(self, statement: sa.Select[Any], values: prepared.Values) -> prepared.Result:
        connection = self._checkout(self._read_engine)
        try:
            return prepared.Connection(connection, self._statements).execute(statement, values)
        finally:
            connection.close()

    @contextlib.contextmanager
    def prepared(self) -> Iterator[prepared.Connection]:
        """As ``write``, for the statements of requests (see :mod:`.prepared`)."""
        connection = self._checkout(self.engine)
        try:
            if self._begin:
                connection.execute(self._begin)
            yield prepared.Connection(connection, self._statements)
            connection.commit()
        except BaseException as error:
            with contextlib.suppress(Exception):
                connection.rollback()
            if isinstance(error, self._statements.dialect.loaded_dbapi.Error):
                raise self._statements.translate(error, 'COMMIT', connection) from error
            raise
        finally:
            connection.close()

    def transact(self, work: Callable[[Connection], _T]) -> _T:
        """Do ``work`` in one transaction; again, while the database takes it back to end a deadlock.

        :raises DBDeadlock: it went on doing so
        """
        for attempt in range(_TURNS):
            try:
                with self.prepared() as connection:
                    return work(connection)
            except db_exc.DBDeadlock:
                if attempt == _TURNS - 1:
                    raise
                # Not in step with the other one.
                time.sleep(random.uniform(0.0, 0.005 * 2 ** min(attempt, 6)))
        raise AssertionError

    def _checkout(self, engine: sa.Engine | None) -> Any:
        assert engine is not None
        try:
            return engine.raw_connection()
        except (engine.dialect.loaded_dbapi.Error, sa.exc.SQLAlchemyError) as error:
            raise DatabaseError(error) from error

    def dispose(self) -> None:
        """Close all connections (before a fork, at the end)."""
        if self._pid == os.getpid():
            self._dispose()

    def _dispose(self, *, close: bool = True) -> None:
        for engine in {self._engine, self._read_engine} - {None}:
            engine.dispose(close=close)  # type: ignore[union-attr]


def _create(conf: Any, **more: Any) -> sa.Engine:
    try:
        url = sa.make_url(conf.connection)
        options: dict[str, Any] = {'pool_recycle': conf.connection_recycle_time}
        if url.get_backend_name() == 'sqlite':
            if not url.database or url.database == ':memory:':
                raise exceptions.ConfigurationError(
                    f'option [database] connection: {conf.connection!r} is not a file; '
                    'records that nobody else sees are of no use: name a file'
                )
            options['connect_args'] = {'timeout': conf.busy_timeout, 'check_same_thread': False}
        else:
            options['pool_pre_ping'] = True
            # Of all of them: InnoDB's own default locks gaps, and gives deadlocks for it.
            options['isolation_level'] = 'READ COMMITTED'
            options['connect_args'] = {'connect_timeout': _CONNECT_TIMEOUT} | (
                {'charset': 'utf8mb4'} if url.get_backend_name() in ('mysql', 'mariadb') else {}
            )
        engine = sa.create_engine(
            url,
            poolclass=sa.QueuePool,
            pool_size=conf.max_pool_size,
            max_overflow=conf.max_overflow,
            pool_timeout=conf.pool_timeout,
            **options | more,
        )
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise exceptions.ConfigurationError(
            f'option [database] connection: {conf.connection.split("@")[-1]!r} is not a database URL ({error})'
        ) from error
    except ImportError as error:
        raise exceptions.ConfigurationError(
            f'option [database] connection: its driver is missing ({error}): '
            'install os-interface-ext[postgresql] or os-interface-ext[mysql]'
        ) from error
    exc_filters.register_engine(engine)
    if engine.dialect.name == 'sqlite':
        sa.event.listen(engine, 'connect', _sqlite_connect)
        sa.event.listen(engine, 'begin', _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver begins no transaction of its own; WAL lets readers and one writer of many processes live
    # side by side, and FULL makes each commit durable.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute('PRAGMA journal_mode=WAL')
    cursor.execute('PRAGMA synchronous=FULL')
    cursor.execute('PRAGMA foreign_keys=ON')
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    # IMMEDIATE: a transaction that reads first and writes later would otherwise fail with "locked" when
    # another writer came between, and no waiting would help it.
    if connection.get_execution_options().get('osif_write'):
        connection.exec_driver_sql('BEGIN IMMEDIATE')


class now(functions.FunctionElement[float]):
    """Seconds since 1970 by the clock of the database: one clock for all processes and hosts."""

    type = sa.Double()
    inherit_cache = True


@compiler.compiles(now, 'sqlite')
def _now_sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiler.compiles(now, 'postgresql')
def _now_postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return 'CAST(extract(epoch FROM clock_timestamp()) AS double precision)'


@compiler.compiles(now, 'mysql')
@compiler.compiles(now, 'mariadb')
def _now_mysql(element: now, compiler: Any, **kw: Any) -> str:
    return 'CAST(unix_timestamp(sysdate(6)) AS double)'


DuplicateEntry = db_exc.DBDuplicateEntry
DatabaseError = db_exc.DBError
