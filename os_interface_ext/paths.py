"""Where the files of ``etc/`` are: installed, or in a checkout."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Iterator
from importlib import metadata

from os_interface_ext import exceptions

_FOLDER = os.path.join('etc', 'os-interface-ext')


def find(name: str) -> str:
    """The path of a file of ours.

    Looked for in /etc/os-interface-ext (the operator's own), where the installation has put it, and in the
    checkout.

    :raises ConfigurationError: it is in none of these
    """
    tried: list[str] = []
    for path in _places(name):
        if os.path.exists(path):
            return path
        tried.append(path)
    raise exceptions.ConfigurationError(
        f'file {name} is in none of {", ".join(dict.fromkeys(tried))}: install it again'
    )


def _places(name: str) -> Iterator[str]:
    file = os.path.join(_FOLDER, name)
    beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield os.path.join('/', file)
    yield os.path.join(beside, file)
    # Not always below the interpreter's prefix (pip's --user, --prefix): the installation knows.
    with contextlib.suppress(metadata.PackageNotFoundError):
        for one in metadata.files('os-interface-ext') or []:
            if one.as_posix().endswith(file):
                yield os.path.abspath(str(one.locate()))
    yield os.path.join(sysconfig.get_path('data'), file)
