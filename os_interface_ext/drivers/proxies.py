"""Drivers in front of drivers: what counts, or befalls, each call of a driver without being one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from os_interface_ext.drivers import base

KINDS: tuple[type, ...] = (base.ServerDriver, base.NetworkDriver, base.VIFDriver)


def proxy(
    driver: Any, method: Callable[[str], Callable[..., Any]], kinds: tuple[type, ...], of: type, prefix: str = ''
) -> Any:
    """An object of a new class that is a subclass of ``of`` and of the kinds; not constructed, only made.

    An optional method that the driver leaves at its default is left there: callers ask for that.

    :param method: gives the method of a name
    :param prefix: for the name of the class
    """
    members: dict[str, Any] = {}
    for kind in kinds:
        for name, member in {**vars(base.Driver), **vars(kind)}.items():
            if name.startswith('_'):
                continue
            if not callable(member):
                members[name] = getattr(driver, name)
            elif getattr(type(driver), name) is not member:
                members[name] = method(name)
    return object.__new__(type(f'{prefix}{type(driver).__name__}', (of, *kinds), members))
