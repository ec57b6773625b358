"""Order of the whole run, and the database servers that are started once for it."""

import pathlib
from collections.abc import Iterator

import pytest

from .services import databases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What needs no service comes first: it is quick, and fails first.
    items.sort(key=lambda item: item.get_closest_marker('service') is not None)


def _server(kind: type[databases.DatabaseServer]) -> Iterator[databases.DatabaseServer]:
    try:
        context = databases.running(kind)
        server = context.__enter__()
    except databases.Unobtainable as error:
        pytest.skip(str(error))
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@pytest.fixture(scope='session')
def postgresql() -> Iterator[databases.DatabaseServer]:
    """A PostgreSQL server."""
    yield from _server(databases.PostgreSQL)


@pytest.fixture(scope='session')
def mariadb() -> Iterator[databases.DatabaseServer]:
    """A MariaDB server."""
    yield from _server(databases.MariaDB)


@pytest.fixture
def empty_database_url(tmp_path: pathlib.Path) -> str:
    """The URL of an empty database for one test; the integration tests give another kind."""
    return f'sqlite:///{tmp_path}/osif.sqlite'


@pytest.fixture(scope='module', params=['sqlite', 'postgresql', 'mariadb'])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == 'sqlite':
        return f'sqlite:///{tmp_path_factory.mktemp("database")}/osif.sqlite'
    url: str = request.getfixturevalue(request.param).new_database()
    return url
