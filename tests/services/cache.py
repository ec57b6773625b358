"""What takes long to make and is kept for later runs: folders of the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

_MARK = 'complete'
#: Seconds after which what was not used makes room for something new.
_KEPT = 14 * 24 * 3600


@contextlib.contextmanager
def made(name: str) -> Iterator[tuple[pathlib.Path, bool]]:
    """A folder of the cache, and whether the block has to fill it, which one at a time does.

    A folder without its mark was not finished, and is made anew. What the name has before its first dash is a
    kind: when one of them is made, old ones of the kind go.
    """
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'os-interface-ext'
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with (cache / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _MARK).exists():
            (folder / _MARK).touch()
            yield folder, False
            return
        for mark in cache.glob(f'{name.partition("-")[0]}-*/{_MARK}'):
            if mark.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(mark.parent, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder, True
        (folder / _MARK).touch()
