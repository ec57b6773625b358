"""Transactions of the database: what is run again, and what its errors become."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import os
import pathlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import engine, errors, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.db.prepared import Connection
from os_interface_ext.inventory import transactions
from tests import migrated

SUSPECT = tables.suspects.insert().values(first_seen=1.0)


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[Database]:
    url = f'sqlite:///{tmp_path}/osif.sqlite'
    database = migrated.database_of(config.new([], database={'connection': url, 'busy_timeout': 0.1}))
    yield database
    database.dispose()


def suspects(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(sa.select(tables.suspects.c.port_id)))


@pytest.mark.parametrize('error', [errors.Deadlock(), errors.Disconnected()])
def test_what_the_database_takes_back_is_run_again(database: Database, error: Exception) -> None:
    turns: list[int] = []

    def work(connection: Connection) -> int:
        turns.append(len(turns))
        connection.execute(SUSPECT, {'port_id': f'port-{turns[-1]}'})
        if len(turns) < 3:
            raise error
        return turns[-1]

    assert database.transact(work) == 2
    assert suspects(database) == ['port-2']


def test_it_is_not_run_again_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def work(connection: Connection) -> None:
        turns.append(1)
        raise errors.Deadlock()

    with pytest.raises(exceptions.Unavailable) as caught:
        transactions.write(database, work)
    assert not isinstance(caught.value, exceptions.UnknownOutcome)
    assert 1 < len(turns) <= 20
    monkeypatch.setattr(engine, '_PATIENCE', -1.0)
    turns.clear()
    with pytest.raises(errors.Deadlock):
        database.transact(work)
    assert len(turns) == 1


def test_an_error_of_the_work_is_not_hidden(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(SUSPECT, {'port_id': 'port'})
        raise exceptions.LostHold()

    with pytest.raises(exceptions.LostHold):
        database.transact(work)
    assert suspects(database) == []


def test_a_row_that_is_there_is_known(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(SUSPECT, {'port_id': 'port'})

    transactions.write(database, work)
    with pytest.raises(transactions.Outdated):
        transactions.write(database, work)


def test_a_file_that_another_writer_has_is_unavailable(database: Database) -> None:
    store = Store(database, lease=30.0)
    with database.write():
        with pytest.raises(exceptions.Unavailable):
            store.insert(
                created=False, server_id='s', project_id='p', port_id='q', state=State.ALLOCATING, request_id='r'
            )
        assert store.of_port('q') is None
    store.resign('nothing')


def test_a_table_that_is_missing_is_unavailable(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text('DROP TABLE osif_attachments'))
    with pytest.raises(exceptions.Unavailable):
        Store(database, lease=30.0).of_port('q')


@pytest.mark.parametrize(
    ('url', 'limits'),
    [
        ('postgresql+psycopg://h/d?connect_timeout=1&tcp_user_timeout=7', {'connect_timeout', 'tcp_user_timeout'}),
        ('mysql+pymysql://h/d?read_timeout=1', {'read_timeout'}),
    ],
)
def test_the_limits_of_the_url_are_stronger(url: str, limits: set[str]) -> None:
    plain = engine._connect_args(sa.make_url(url.partition('?')[0]), patient=False)
    assert plain.keys() - engine._connect_args(sa.make_url(url), patient=False).keys() == limits


def test_a_change_of_the_schema_may_take_its_time() -> None:
    for url in ('postgresql+psycopg://h/d', 'mysql+pymysql://h/d'):
        found = engine._connect_args(sa.make_url(url), patient=True)
        assert 'read_timeout' not in found
        assert 'lock_wait' not in found.get('init_command', '')


def handles(folder: pathlib.Path) -> int:
    """How many files of a folder this process has open."""
    links = pathlib.Path('/proc/self/fd').iterdir()
    return sum(link.is_symlink() and os.path.realpath(link).startswith(str(folder)) for link in links)


READ = sa.select(tables.suspects.c.port_id)


def test_a_thread_has_one_connection_to_a_sqlite_file_and_leaves_none(
    database: Database, tmp_path: pathlib.Path
) -> None:
    def use() -> int:
        for _ in range(3):
            database.fetch(READ)
            database.transact(lambda connection: None)
        return handles(tmp_path)

    def after_a_thread() -> int:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(use).result() == pool.submit(use).result()
        gc.collect()
        return handles(tmp_path)

    assert use() == use()
    # SQLite itself keeps a file that a connection has closed while another one has locks, for the next one.
    assert len({after_a_thread() for _ in range(5)}) == 1
    database.dispose()
    assert handles(tmp_path) == 0
    assert use() > 0


@pytest.mark.parametrize('error', [exceptions.LostHold(), errors.DatabaseError('broken'), SystemExit()])
def test_the_connection_of_a_thread_is_whole_after_an_error(database: Database, error: BaseException) -> None:
    def work(connection: Connection) -> None:
        connection.execute(SUSPECT, {'port_id': 'port'})
        raise error

    with pytest.raises(type(error)):
        database.transact(work)
    assert list(database.fetch(READ)) == []
    # No lock is left that another thread would wait for.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(database.transact, lambda connection: connection.execute(SUSPECT, {'port_id': 'x'})).result()
    assert [row.port_id for row in database.fetch(READ)] == ['x']


def add(database: Database, port: str) -> None:
    database.transact(lambda connection: connection.execute(SUSPECT, {'port_id': port}))


def test_what_is_done_together_is_one_transaction(database: Database) -> None:
    def work() -> list[str]:
        add(database, 'one')
        database.together(lambda: add(database, 'two'))
        add(database, 'three')
        with concurrent.futures.ThreadPoolExecutor() as pool:
            assert pool.submit(suspects, database).result() == []
        return [row.port_id for row in database.fetch(sa.select(tables.suspects.c.port_id))]

    assert sorted(database.together(work)) == sorted(suspects(database)) == ['one', 'three', 'two']


def test_an_error_that_is_caught_fails_all_that_is_done_together(database: Database) -> None:
    add(database, 'port')

    def work() -> None:
        add(database, 'another')
        with contextlib.suppress(errors.DuplicateEntry):
            add(database, 'port')
        with pytest.raises(errors.DuplicateEntry):
            database.fetch(sa.select(tables.suspects.c.port_id))

    with pytest.raises(errors.DuplicateEntry):
        database.together(work)
    assert suspects(database) == ['port']
    add(database, 'later')
    assert sorted(suspects(database)) == ['later', 'port']


def test_the_cause_of_an_error_is_kept(database: Database) -> None:
    root = ValueError()

    def work() -> None:
        raise exceptions.BindingFailed() from root

    with pytest.raises(exceptions.BindingFailed) as caught:
        database.together(work)
    assert caught.value.__cause__ is root
