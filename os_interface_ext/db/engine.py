"""The database of one configuration: its engine, its transactions, its clock."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy.ext import compiler
from sqlalchemy.sql import functions

from os_interface_ext import exceptions
from os_interface_ext.db import errors, prepared
from os_interface_ext.db.errors import DatabaseError, DuplicateEntry
from os_interface_ext.db.prepared import Connection

__all__ = ['Database', 'DatabaseError', 'DuplicateEntry', 'now']

#: How often a transaction is begun that the database takes back, and for how many seconds at most.
_TURNS = 12
_PATIENCE = 10.0
#: Seconds to wait for a database server that does not answer: to connect, and to be told of its death.
_CONNECT_TIMEOUT = 5
_ANSWER_TIMEOUT = 15
#: Seconds to wait for a row that another transaction has locked; seconds after which a transaction is ended
#: in which nothing happens, because its process stands still: others wait for its rows.
_LOCK_TIMEOUT = 5
_IDLE_TIMEOUT = 60

_T = TypeVar('_T')


class _OfThread(threading.local):
    """What a thread has: its connection to a SQLite file while it is idle, and a transaction to take part in."""

    connection: Connection | None = None
    shared: _Shared | None = None


class _Shared:
    """A transaction that several parts take part in, and the first failure in it, after which it is no use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.failure: BaseException | None = None

    def do(self, work: Callable[[Connection], _T]) -> _T:
        if self.failure is not None:
            raise self.failure
        try:
            return work(self._connection)
        except BaseException as error:
            # Half of the work may have been done: whoever bears the error must not go on with that.
            self.failure = error
            raise


class Database:
    """An engine that is made lazily, anew in each process, and two ways to use it.

    The errors are those of :mod:`.errors`. oslo.db's own engine factory is not used: it opens a SQLite file
    anew for each transaction and begins it DEFERRED.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf.database
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._engine: sa.Engine | None = None
        self._read_engine: sa.Engine | None = None
        self._of_thread = _OfThread()
        self._inherited: list[Any] = []

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Database:
        """The database of a configuration object: the same one for all that are given this object."""
        kept: dict[str, Any] = conf.kept
        found: Database = kept.setdefault('database', kept.get('database') or cls(conf))
        return found

    @property
    def url(self) -> str:
        """The URL without its passwords: drivers take some in the query, too."""
        url = sa.make_url(self._conf.connection)
        hidden = {name: 'hidden' for name in url.query if 'password' in name.lower()}
        return url.update_query_dict(hidden).render_as_string(hide_password=True)

    @property
    def engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # Of the parent process: its connections are not ours to close.
                    self._dispose(close=False)
                    self._engine = _create(self._conf)
                    self._statements = prepared.Statements(self._engine)
                    self._is_sqlite = self._engine.dialect.name == 'sqlite'
                    if self._is_sqlite:
                        self._read_engine = _create(self._conf, poolclass=sa.NullPool)
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

    @contextlib.contextmanager
    def patient(self) -> Iterator[sa.Connection]:
        """As ``write``, without the time limits of a request: for changes to the schema."""
        if self.engine.dialect.name == 'sqlite':
            with self.write() as connection:
                yield connection
            return
        engine = _create(self._conf, patient=True)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def fetch(self, statement: sa.Select[Any], values: prepared.Values = prepared.NOTHING) -> prepared.Result:
        """One SELECT of a request (see :mod:`.prepared`); it may be repeated, and is if a connection breaks."""
        shared = self._of_thread.shared
        if shared is not None:
            return shared.do(lambda connection: connection.execute(statement, values))
        self.engine  # noqa: B018 (made on first use)
        assert self._read_engine is not None
        pool = self._read_engine.pool
        try:
            return self._fetch(statement, values)
        except errors.Disconnected:
            self._renew(pool)
            return self._fetch(statement, values)

    def _fetch(self, statement: sa.Select[Any], values: prepared.Values) -> prepared.Result:
        connection = self._take(self._read_engine)
        try:
            return connection.execute(statement, values)
        finally:
            self._give_back(connection)

    def _take(self, engine: sa.Engine | None) -> Connection:
        """A connection for statements of requests: of the pool, or the thread's own one to a SQLite file.

        To take one from the pool and to give it back costs 25 microseconds, more than a SELECT; a list has
        five. Where a server is asked, its answer takes longer than that, and connections are dear.
        """
        if self._is_sqlite:
            kept = self._of_thread.connection
            if kept is not None:
                self._of_thread.connection = None
                return kept
            engine = self._read_engine
        return Connection(self._checkout(engine), self._statements)

    def _give_back(self, connection: Connection) -> None:
        if self._is_sqlite and connection.is_idle:
            self._of_thread.connection = connection
        else:
            connection.close()

    def _renew(self, pool: sa.Pool) -> None:
        """Give up a pool: a restart of the database has broken all that is in it."""
        assert self._read_engine is not None
        with self._lock:
            # Only the first who notices: the new pool is in use already.
            if self._read_engine.pool is pool:
                self._read_engine.dispose()

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Connection]:
        """As ``write``, for the statements of requests (see :mod:`.prepared`).

        :raises CommitLost: whether it is committed is not known; after any other error nothing is
        """
        connection = self._take(self.engine)
        try:
            if self._begin:
                connection.begin(self._begin)
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            self._give_back(connection)

    def transact(self, work: Callable[[Connection], _T]) -> _T:
        """Do ``work`` in one transaction; again, while the database takes it back.

        That ends a deadlock, or a long wait for a lock; or the connection broke before the commit. Nothing is
        written then, and ``work`` is called once more: it must bear that. A commit whose answer was lost is
        never repeated here: only the caller knows what it would do a second time.

        :raises Deadlock: it went on doing so
        :raises CommitLost: whether it is committed is not known; after any other error nothing is
        """
        shared = self._of_thread.shared
        if shared is not None:
            return shared.do(work)
        give_up = time.monotonic() + _PATIENCE
        for turn in range(1, _TURNS + 1):
            try:
                with self.prepared() as connection:
                    return work(connection)
            except errors.TRANSIENT:
                # Not in step with the other one.
                pause = random.uniform(0.0, 0.005 * 2 ** min(turn, 6))
                if turn == _TURNS or time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)
        raise AssertionError

    def together(self, work: Callable[[], _T]) -> _T:
        """As ``transact``, for all that ``work`` reads and writes with ``fetch`` and ``transact`` in this thread.

        It is one transaction, all or nothing: an error in it fails it, also one that ``work`` catches, and is
        raised again by all that follows.
        """
        if self._of_thread.shared is not None:
            return work()

        def share(connection: Connection) -> _T:
            shared = self._of_thread.shared = _Shared(connection)
            try:
                done = work()
            except Exception as error:
                if shared.failure is None or shared.failure is error:
                    raise
            finally:
                self._of_thread.shared = None
            if shared.failure is not None:
                raise shared.failure
            return done

        return self.transact(share)

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
        if not close:
            self._inherited.append(self._of_thread)
        # The last reference: what the threads have kept is closed.
        self._of_thread = _OfThread()
        for engine in {self._engine, self._read_engine} - {None}:
            engine.dispose(close=close)  # type: ignore[union-attr]


def _create(
    conf: Any, *, patient: bool = False, poolclass: type[sa.Pool] = sa.QueuePool, **more: Any
) -> sa.Engine:
    try:
        url = sa.make_url(conf.connection)
        if url.get_backend_name() == 'mariadb':
            # One name for both: the tables have options for it.
            url = url.set(drivername=url.drivername.replace('mariadb', 'mysql', 1))
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
            options['connect_args'] = _connect_args(url, patient)
        if poolclass is sa.QueuePool:
            options |= {
                'pool_size': conf.max_pool_size,
                'max_overflow': conf.max_overflow,
                'pool_timeout': conf.pool_timeout,
            }
        engine = sa.create_engine(url, poolclass=poolclass, **options | more)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise exceptions.ConfigurationError(
            f'option [database] connection: {conf.connection.split("@")[-1]!r} is not a database URL ({error})'
        ) from error
    except ImportError as error:
        raise exceptions.ConfigurationError(
            f'option [database] connection: its driver is missing ({error}): '
            'install os-interface-ext[postgresql] or os-interface-ext[mysql]'
        ) from error
    sa.event.listen(engine, 'handle_error', errors.translated, retval=True)
    if engine.dialect.name == 'sqlite':
        sa.event.listen(engine, 'connect', _sqlite_connect)
        sa.event.listen(engine, 'begin', _sqlite_begin)
    elif engine.dialect.name == 'postgresql' and not patient:
        sa.event.listen(engine, 'connect', _postgresql_connect)
    return engine


def _connect_args(url: sa.URL, patient: bool) -> dict[str, Any]:
    """Limits for what a server that is gone, or another client of it, can hold up; the URL may name others."""
    found: dict[str, Any] = {'connect_timeout': _CONNECT_TIMEOUT}
    if url.get_backend_name() == 'postgresql':
        found |= {
            'keepalives_idle': _ANSWER_TIMEOUT // 2,
            'keepalives_interval': _ANSWER_TIMEOUT // 4,
            'keepalives_count': 2,
            'tcp_user_timeout': _ANSWER_TIMEOUT * 1000,
        }
    else:
        found['charset'] = 'utf8mb4'
        # In UTC no hour comes twice; in TRADITIONAL nothing is cut off to fit.
        found['init_command'] = "SET SESSION time_zone = '+00:00', sql_mode = 'TRADITIONAL'"
        if not patient:
            found['init_command'] += (
                f', innodb_lock_wait_timeout = {_LOCK_TIMEOUT}'
                f' /*M!100300 , idle_transaction_timeout = {_IDLE_TIMEOUT} */'
            )
            found |= {'read_timeout': _ANSWER_TIMEOUT, 'write_timeout': _ANSWER_TIMEOUT}
    return {name: value for name, value in found.items() if name not in url.query}


def _postgresql_connect(connection: Any, _record: Any) -> None:
    autocommit = connection.autocommit
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(
        f"SELECT set_config('lock_timeout', '{_LOCK_TIMEOUT}s', false),"
        f" set_config('idle_in_transaction_session_timeout', '{_IDLE_TIMEOUT}s', false)"
    )
    cursor.close()
    connection.autocommit = autocommit


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
