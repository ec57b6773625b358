"""Numbers of many processes in one directory, added up exactly whenever somebody asks.

Each process has a file of its own, mapped into its memory: to count is to write eight bytes there, and
whoever reads the file sees them at once. It is the format that prometheus_client has for the same purpose
(its multiprocess mode as a whole is a matter of the process, chosen by an environment variable at import:
a host may use it or not, and must not notice us).

A process holds a lock on its file as long as it lives, whatever its end. The numbers of a file that
nobody holds any more are folded into one file of the dead, so that no count is lost and the files do not
grow many. A crash at any point of that neither loses nor doubles anything: the file of the dead is
replaced in one step, and names those that it contains.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.mmap_dict import MmapedDict

#: Bytes that a process sets aside at its start: a full disk is then an error there, and no SIGBUS later.
_SIZE = 1 << 20
_DEAD = 'dead.json'
_SUFFIX = '.mmap'


class Shelf:
    """:param directory: made if it is not there
    :raises OSError: it cannot be used
    """

    def __init__(self, directory: str) -> None:
        self._directory = pathlib.Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._alone():
            pass
        self._page: _Page | None = None

    def add(self, amounts: Iterable[tuple[str, float]]) -> None:
        """Add to the numbers of this process, each known by a text.

        :raises OSError: this process has no file, and cannot make one
        """
        page = self._page
        if page is None or page.pid != os.getpid():
            # After a fork, too. Two threads may both come here: then both have a file, and the sum is right.
            with self._alone():
                self._fold()
                page = self._page = _Page(self._directory)
        page.add(amounts)

    def totals(self) -> Mapping[str, float]:
        """The sums over all processes, living and dead."""
        with self._alone():
            return self._fold()

    def _fold(self) -> dict[str, float]:
        """Make one of the dead; the sums."""
        dead = _read_dead(self._directory / _DEAD)
        total: dict[str, float] = collections.defaultdict(float, dead['values'])
        folded: list[pathlib.Path] = []
        for path in sorted(self._directory.glob(f'*{_SUFFIX}')):
            if path.name in dead['names']:
                path.unlink()
                continue
            values = _read(path)
            for key, value in values:
                total[key] += value
            if not _is_held(path):
                folded.append(path)
                for key, value in values:
                    dead['values'][key] = dead['values'].get(key, 0.0) + value
        if folded:
            dead['names'] = [path.name for path in folded]
            new = self._directory / f'{_DEAD}.new'
            new.write_text(json.dumps(dead))
            new.rename(self._directory / _DEAD)
            for path in folded:
                path.unlink()
        return total

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else makes a file, or folds, meanwhile; counting goes on."""
        handle = os.open(self._directory / 'lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _Page:
    """The numbers of this process."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.pid = os.getpid()
        path = directory / f'{self.pid}-{uuid.uuid4().hex}{_SUFFIX}'
        self._file = path.open('xb')
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.posix_fallocate(self._file.fileno(), 0, _SIZE)
        self._values = MmapedDict(str(path))
        self._lock = threading.Lock()

    def add(self, amounts: Iterable[tuple[str, float]]) -> None:
        values = self._values
        with self._lock:
            for key, amount in amounts:
                values.write_value(key, values.read_value(key)[0] + amount, 0.0)


def _read(path: pathlib.Path) -> list[tuple[str, float]]:
    if path.stat().st_size < 8:
        # Its process has died before it could write anything.
        return []
    return [(key, value) for key, value, *_ in MmapedDict.read_all_values_from_file(str(path))]


def _read_dead(path: pathlib.Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        # None yet, or one that went with the machine's power: counts begin anew.
        return {'names': [], 'values': {}}
    return found


def _is_held(path: pathlib.Path) -> bool:
    with path.open('rb') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
