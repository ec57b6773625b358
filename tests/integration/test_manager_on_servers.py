"""The heart, on PostgreSQL and on MariaDB: the very tests that run on SQLite."""

import pytest

from tests.unit.test_manager import *  # noqa: F403

pytestmark = pytest.mark.service


@pytest.fixture(params=['postgresql', 'mariadb'])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param).new_database()
    return url
