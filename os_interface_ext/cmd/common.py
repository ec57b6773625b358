"""What the commands share: their configuration and database."""

from __future__ import annotations

import argparse

from os_interface_ext import conf as config
from os_interface_ext.conf import Config
from os_interface_ext.db.engine import Database


def configuration(options: argparse.Namespace) -> Config:
    """The configuration that the command line names.

    :raises ConfigurationError:
    """
    conf = config.new(options.config_file, **overrides(options))
    conf.is_own_process = True
    return conf


def overrides(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """What the command line says instead of the files."""
    return {'database': {'connection': options.database}} if options.database is not None else {}


def database(options: argparse.Namespace) -> Database:
    """The database that the command line names.

    :raises ConfigurationError:
    """
    # It is kept as long as its configuration is.
    conf = options.conf = configuration(options)
    return Database.of(conf)
