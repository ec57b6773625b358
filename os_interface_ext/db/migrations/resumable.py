"""Steps of a migration that may be done already: MySQL commits each by itself, whatever stops the migration."""

from typing import Any

import sqlalchemy as sa
from alembic import op


def create_table(name: str, *columns: Any, **options: Any) -> None:
    """As Alembic's, unless there is such a table."""
    if not (_commits_each() and sa.inspect(op.get_bind()).has_table(name)):
        op.create_table(name, *columns, **options)


def create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """As Alembic's, unless there is such an index."""
    if not (_commits_each() and name in _indexes(table)):
        op.create_index(name, table, columns, **options)


def _commits_each() -> bool:
    return op.get_bind().dialect.name == 'mysql'


def _indexes(table: str) -> set[str | None]:
    return {index['name'] for index in sa.inspect(op.get_bind()).get_indexes(table)}
