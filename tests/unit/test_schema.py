"""The schema of the database: migrations and tables say the same, and a wrong one is refused."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.db import migrations, schema, tables
from os_interface_ext.db.engine import Database, now
from os_interface_ext.inventory import tables as inventory_tables


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = Database.of(config.new([], database={'connection': empty_database_url}))
    yield database
    database.dispose()


def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    assert inventory_tables.ALL
    schema.upgrade(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={'version_table': tables.VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []


def test_the_code_knows_the_newest_revision() -> None:
    assert migrations.head() == tables.REVISION


def test_upgrade_twice_is_harmless_and_keeps_the_installation(database: Database) -> None:
    schema.upgrade(database)
    with database.read() as connection:
        first = connection.scalar(sa.select(tables.installation.c.uuid))
    schema.upgrade(database)
    with database.read() as connection:
        assert connection.scalar(sa.select(tables.installation.c.uuid)) == first
    assert schema.version(database) == tables.REVISION


def test_no_schema_is_refused_with_its_cure(database: Database) -> None:
    with pytest.raises(exceptions.ConfigurationError, match=r'has no schema .*db sync') as caught:
        schema.require_current(database)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('found', 'words'), [('0000', 'older than this code'), ('9999', 'newer than this code')])
def test_another_schema_is_refused(database: Database, found: str, words: str) -> None:
    schema.upgrade(database)
    with database.write() as connection:
        connection.execute(sa.text(f"UPDATE {tables.VERSION_TABLE} SET version_num = '{found}'"))
    with pytest.raises(exceptions.ConfigurationError, match=words):
        schema.require_current(database)


def test_a_database_out_of_reach_is_told_without_its_password() -> None:
    url = 'sqlite:////proc/nowhere/osif.sqlite'
    database = Database.of(config.new([], database={'connection': url}))
    with pytest.raises(exceptions.ConfigurationError, match='cannot be used'):
        schema.upgrade(database)


@pytest.mark.parametrize('url', ['nonsense', 'sqlite://', 'nosuchdb://user:secret@host/x'])
def test_a_bad_url_is_one_line_without_its_password(url: str) -> None:
    database = Database.of(config.new([], database={'connection': url}))
    with pytest.raises(exceptions.ConfigurationError, match=r'\[database\] connection') as caught:
        database.engine  # noqa: B018
    assert 'secret' not in str(caught.value)
    assert '\n' not in str(caught.value)


def test_the_clock_of_the_database_goes(database: Database) -> None:
    schema.upgrade(database)
    with database.read() as connection:
        first, second = (connection.scalar(sa.select(now())) for _ in range(2))
    assert first is not None
    assert 1.7e9 < first <= second


@pytest.mark.service
def test_a_look_at_the_schema_keeps_the_locks_of_this_process(tmp_path: pathlib.Path) -> None:
    # POSIX: closing any descriptor of a file drops all locks of the process on it. SQLite in another process
    # would then believe that it is alone, and delete the WAL that is in use here.
    path = tmp_path / 'file.sqlite'
    first, second = (Database.of(config.new([], database={'connection': f'sqlite:///{path}'})) for _ in range(2))
    schema.upgrade(first)
    with first.read() as connection:
        connection.execute(sa.select(tables.installation)).all()
        schema.require_current(second)
        code = (
            'import sqlite3, sys\n'
            'connection = sqlite3.connect(sys.argv[1])\n'
            "connection.execute('SELECT * FROM osif_installation').fetchall()\n"
            'connection.close()\n'
        )
        subprocess.run([sys.executable, '-c', code, str(path)], check=True)
        assert path.with_name('file.sqlite-wal').exists()
