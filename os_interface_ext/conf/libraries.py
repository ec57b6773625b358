"""The groups that libraries read in our files: their own entry points tell them."""

from __future__ import annotations

import copy
import warnings
from importlib import metadata
from typing import Any

#: One line for each; one that is not installed is left out.
_NAMES = (
    'oslo.log',
    'oslo.messaging',
    'oslo.middleware.cors',
    'oslo.middleware.healthcheck',
    'oslo.middleware.http_proxy_to_wsgi',
    'oslo.middleware.sizelimit',
)


def list_opts() -> list[Any]:
    declared = metadata.entry_points(group='oslo.config.opts')
    with warnings.catch_warnings():
        # oslo.messaging imports eventlet where that is installed, which warns of itself; nothing of it is used.
        warnings.simplefilter('ignore')
        found = [entry_point.load()() for name in _NAMES for entry_point in declared.select(name=name)]
    return copy.deepcopy([group for groups in found for group in groups])
