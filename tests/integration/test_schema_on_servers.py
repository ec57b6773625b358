"""The schema on PostgreSQL and MariaDB: the tests that run on SQLite, and what only servers can do."""

from __future__ import annotations

import concurrent.futures
import pathlib
import subprocess
import sys
import threading
import uuid

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import migrations, schema, tables
from os_interface_ext.db.engine import Database
from tests.integration.conftest import environment
from tests.services.databases import DatabaseServer
from tests.unit.test_schema import *  # noqa: F403

pytestmark = pytest.mark.service


@pytest.fixture(params=['postgresql', 'mariadb'])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def empty_database_url(server: DatabaseServer) -> str:
    return server.new_database()


def command(home: pathlib.Path, module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', f'os_interface_ext.cmd.{module}', *arguments],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def shape(database: Database) -> dict[str, list[str]]:
    """Tables and their columns."""
    with database.read() as connection:
        inspector = sa.inspect(connection)
        return {
            table: [f'{column["name"]} {column["type"]}' for column in inspector.get_columns(table)]
            for table in inspector.get_table_names()
        }


def work(store: Store) -> None:
    """What a worker does, whatever the newer tables are."""
    port_id = str(uuid.uuid4())
    held = store.insert(
        created=True, server_id='server', project_id='p', port_id=port_id, state=State.ALLOCATING, request_id='r'
    )
    held = store.swap(held.record, state=State.PLUGGING)
    record = store.settle(held.record, state=State.ATTACHED)
    store.drop(store.take(record, state=State.UNPLUGGING, reason=Reason.DETACH).record)
    assert store.of_port(port_id) is None


def test_revision_0002_only_adds_while_old_workers_work(database: Database) -> None:
    with database.write() as connection:
        migrations.upgrade(connection, '0001')
    before = shape(database)
    store = Store(database, lease=30.0)
    stop, worked = threading.Event(), threading.Event()

    def work_on() -> int:
        done = 0
        while not stop.is_set():
            work(store)
            worked.set()
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work_on) for _ in range(4)]
        try:
            assert worked.wait(30)
            schema.upgrade(database)
            worked.clear()
            assert worked.wait(30)
        finally:
            stop.set()
        assert all(worker.result() for worker in workers)
    after = shape(database)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {'osif_suspects', 'osif_heartbeats'}


def test_it_lives_beside_the_tables_of_the_host(database: Database) -> None:
    host = ('alembic_version', 'servers', 'ports')
    with database.write() as connection:
        for table in host:
            connection.execute(sa.text(f'CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL)'))
            connection.execute(sa.text(f"INSERT INTO {table} VALUES ('of the host')"))
    schema.upgrade(database)
    assert schema.version(database) == tables.REVISION
    work(Store(database, lease=30.0))
    with database.read() as connection:
        for table in host:
            assert list(connection.execute(sa.text(f'SELECT * FROM {table}'))) == [('of the host',)]
    assert {name for name in shape(database) if not name.startswith('osif_')} == set(host)


def test_many_hosts_may_bring_it_up_to_date_at_once(database: Database, tmp_path: pathlib.Path) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    started = [command(tmp_path, 'main', 'db', 'sync', '--database', url) for _ in range(4)]
    for process in started:
        told, _ = process.communicate(timeout=60)
        assert (process.returncode, told.count('\n')) == (0, 1), told
        assert f'version {tables.REVISION}' in told
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.installation)) == 1


@pytest.mark.parametrize('statement', [1, 8, 15, 22, 29])
def test_what_was_interrupted_is_finished_by_the_next(database: Database, statement: int) -> None:
    class Interrupted(BaseException):
        pass

    left = statement

    def interrupt(connection: object, cursor: object, sql: str, *args: object) -> None:
        nonlocal left
        if sql.lstrip().startswith(('CREATE', 'INSERT', 'UPDATE')):
            left -= 1
            if left == 0:
                raise Interrupted()

    sa.event.listen(sa.Engine, 'before_cursor_execute', interrupt)
    try:
        with pytest.raises(Interrupted):
            schema.upgrade(database)
    finally:
        sa.event.remove(sa.Engine, 'before_cursor_execute', interrupt)
    assert schema.version(database) in (None, '0001')
    schema.upgrade(database)
    test_migrations_make_the_tables_that_the_code_uses(database)  # noqa: F405
    assert schema.version(database) == tables.REVISION
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.installation)) == 1


@pytest.mark.parametrize(
    ('found', 'words'),
    [(None, 'has no schema'), ('0001', 'older than this code'), ('9999', 'newer than this code')],
)
def test_another_schema_ends_the_start_with_one_line(
    database: Database, tmp_path: pathlib.Path, found: str | None, words: str
) -> None:
    if found is not None:
        schema.upgrade(database)
        with database.write() as connection:
            connection.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '{found}'"))
    url = database.engine.url.render_as_string(hide_password=False)
    process = command(tmp_path, 'reconciler', '--database', url, '--once')
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert words in told
    assert told.count('\n') == 1


def test_a_server_out_of_reach_is_told_in_one_line_without_its_password(server: DatabaseServer) -> None:
    url = sa.make_url(server.new_database()).set(username='somebody', password='the-secret')
    refused = url.render_as_string(hide_password=False)
    for text in (
        refused,
        refused.replace(f':{url.port}/', ':1/'),
        refused.replace('127.0.0.1', 'nowhere.invalid'),
    ):
        database = Database(config.new([], database={'connection': text}))
        with pytest.raises(exceptions.ConfigurationError, match='cannot be used') as caught:
            schema.version(database)
        assert 'the-secret' not in str(caught.value)
        assert '\n' not in str(caught.value)


def test_the_other_name_of_mysql_means_the_same(mariadb: DatabaseServer) -> None:
    url = mariadb.new_database().replace('mysql+pymysql', 'mariadb+pymysql')
    database = Database.of(config.new([], database={'connection': url}))
    schema.upgrade(database)
    store = Store(database, lease=30.0)
    work(store)
    for mark in ('OSIF', 'osif'):
        # As on all databases, a text is no other text.
        store.insert(
            created=False, server_id=mark, project_id='p', port_id=mark, state=State.ALLOCATING, request_id='r'
        )
    assert len(store.of_server('osif')) == 1
    database.dispose()
