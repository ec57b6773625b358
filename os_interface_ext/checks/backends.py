"""What the service depends on: the database, its schema and clock, and the drivers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import sqlalchemy as sa

from os_interface_ext import context, exceptions
from os_interface_ext.checks.check import Finding, State, error, failure, ok, warning
from os_interface_ext.checks.installation import Installation
from os_interface_ext.db import schema as db_schema
from os_interface_ext.db import tables
from os_interface_ext.drivers import loader

#: Seconds by which clocks may differ: tokens and certificates are of one clock, records of another.
_SKEW = 2.0
#: The name of the drivers whose service is the database itself.
_EMBEDDED = 'sql'


def database(installation: Installation) -> Finding:
    """It can be reached with the user and password of its URL."""
    found = installation.database
    try:
        db_schema.version(found)
    except exceptions.ConfigurationError as failed:
        return failure(
            failed, 'start the database server, or correct host, user, password and name in [database] connection'
        )
    url = sa.make_url(found.engine.url)
    if url.get_backend_name() == 'sqlite' and url.database and os.path.exists(url.database):
        folder = os.path.dirname(os.path.abspath(url.database))
        locked = [path for path in (url.database, folder) if not os.access(path, os.W_OK)]
        if locked:
            cure = 'let the user of this service own the file and its directory'
            return error(f'{locked[0]} cannot be written to', cure)
    return ok(found.url)


def schema(installation: Installation) -> Finding:
    """It is the one that this code works with."""
    found = db_schema.version(installation.database)
    if found is None:
        return error('the database has no schema', 'run "os-interface-ext db sync"')
    if found < tables.REVISION:
        what = f'the schema is {found}, older than this code ({tables.REVISION})'
        return error(what, 'run "os-interface-ext db sync"')
    if found > tables.REVISION:
        what = f'the schema is {found}, newer than this code ({tables.REVISION})'
        return error(what, 'install the newer os-interface-ext here')
    return ok(f'version {found}')


def clock(installation: Installation) -> Finding:
    """That of the database and that of this host agree."""
    before = time.time()
    theirs = installation.store.clock()
    after = time.time()
    skew = max(before - theirs, theirs - after, 0.0)
    if skew > _SKEW:
        what = f'the clocks of this host and of the database differ by {skew:.1f} s'
        return warning(what, 'let both be set by NTP (chronyc tracking, timedatectl)')
    return ok(f'within {_SKEW:g} s of the database')


def driver(kind: loader.Kind) -> Callable[[Installation], Finding]:
    """The driver of a kind can be loaded, and its service be used."""

    def ask(installation: Installation) -> Finding:
        name = installation.conf.os_interface[kind.option]
        try:
            with installation.making:
                made = loader.load(kind, name, installation.conf)
        except exceptions.ConfigurationError as failed:
            names = ', '.join(loader.installed(kind))
            return failure(failed, f'correct that option, or choose another {kind.option} ({names})')
        if name == _EMBEDDED and not _is_current(installation):
            return Finding(State.SKIPPED, 'not looked at: database or schema')
        try:
            made.check(context.service_context())
        except Exception as failed:
            return failure(failed, f'see that the service behind the driver {name} runs, and its options')
        installation.drivers[kind.option] = made
        return ok(name)

    return ask


def _is_current(installation: Installation) -> bool:
    try:
        return db_schema.version(installation.database) == tables.REVISION
    except exceptions.ConfigurationError:
        return False
