"""What the database is filled with: an inventory file, loaded at the start and at each reset."""

from __future__ import annotations

import os
import threading

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.attachments import store
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from os_interface_ext.inventory.loader import Inventory, Progress
from os_interface_ext.standalone import transactions


class InventoryFile:
    """A file, parsed anew when it has changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._inventory: Inventory | None = None

    def read(self) -> Inventory:
        """:raises ConfigurationError: it cannot be read; every error of an inventory as InventoryError"""
        with self._lock:
            seen = self._look()
            if self._inventory is None or seen != self._seen:
                self._inventory = parse_file(self.path)
                self._seen = seen
            return self._inventory

    def _look(self) -> tuple[int, ...]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise _unreadable(self.path, error.strerror) from error
        return found.st_ino, found.st_size, found.st_mtime_ns


def parse_file(path: str, progress: Progress | None = None) -> Inventory:
    """:raises ConfigurationError: it cannot be read; every error of an inventory as InventoryError"""
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read()
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, f'it is not UTF-8 at byte {error.start}') from error
    return loader.parse(text, path, progress)


def _unreadable(path: str, why: str | None) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(f'inventory file {path!r} cannot be read: {why}')


def prepare(database: Database, file: InventoryFile, *, replace: bool) -> None:
    """Fill an empty database; leave one that holds the same inventory as it is.

    :raises ConfigurationError: it holds something else, and is not to be replaced
    """
    inventory = file.read()

    def work(connection: sa.Connection) -> None:
        empty = loader.is_empty(connection)
        if not empty and loader.digest_of(connection) == inventory.digest:
            return
        if not empty and not replace:
            raise exceptions.ConfigurationError(
                f'{database.url} holds another inventory than {file.path}: '
                'name another database, or replace it all with --replace'
            )
        _load(connection, inventory, clear=not empty)

    transactions.write(database, work)


def is_empty(database: Database) -> bool:
    """Whether no inventory was ever loaded."""
    with transactions.reading(database) as connection:
        return loader.is_empty(connection)


def reset(database: Database, file: InventoryFile) -> None:
    """Back to the file, with no attachment record left: in one transaction, for all who share the database.

    :raises ConfigurationError: the file has become unusable; nothing has changed
    """
    inventory = file.read()

    def work(connection: sa.Connection) -> None:
        _load(connection, inventory, clear=True)

    transactions.write(database, work)


def load(database: Database, inventory: Inventory, *, replace: bool, progress: Progress | None = None) -> None:
    """Load an inventory in the place of the one that is there.

    :raises ConfigurationError: attachment records would be left without their ports
    """

    def work(connection: sa.Connection) -> None:
        records = store.count(connection)
        if records and not replace:
            raise exceptions.ConfigurationError(
                f'{database.url} has {records} attachment records, which are of the inventory that it holds: '
                'detach the ports first, or forget the records too with --replace'
            )
        _load(connection, inventory, progress, clear=records > 0)

    transactions.write(database, work)


def _load(
    connection: sa.Connection, inventory: Inventory, progress: Progress | None = None, *, clear: bool
) -> None:
    # Ports, then records: the order of an attach and a detach, or each would hold what the other waits for.
    loader.load(connection, inventory, progress)
    if clear:
        store.clear(connection)
