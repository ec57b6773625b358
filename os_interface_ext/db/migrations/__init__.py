"""The history of the schema (Alembic), one for all databases."""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import command, config, script


def _config() -> config.Config:
    settings = config.Config()
    settings.set_main_option('script_location', os.path.dirname(__file__).replace('%', '%%'))
    return settings


def head() -> str | None:
    """The newest revision."""
    return script.ScriptDirectory.from_config(_config()).get_current_head()


def upgrade(connection: sa.Connection, revision: str = 'head') -> None:
    """Run what is missing, within the transaction of the caller."""
    settings = _config()
    settings.attributes['connection'] = connection
    command.upgrade(settings, revision)
