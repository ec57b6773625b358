"""From the names in the configuration to driver objects; whatever is wrong is told in one line."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any, cast

from oslo_config import cfg
from stevedore import named

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.drivers import base

_GROUP = 'os_interface'


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of driver: the option of ``[os_interface]`` that names one, and what all of them subclass."""

    option: str
    abstract: type

    @property
    def namespace(self) -> str:
        """The entry-point namespace."""
        return f'os_interface_ext.{self.option}s'


SERVER = Kind('server_driver', base.ServerDriver)
NETWORK = Kind('network_driver', base.NetworkDriver)
VIF = Kind('vif_driver', base.VIFDriver)
KINDS = (SERVER, NETWORK, VIF)


@dataclasses.dataclass(frozen=True, slots=True)
class Drivers:
    """The three drivers of one assembly; one object may be several of them."""

    server: base.ServerDriver
    network: base.NetworkDriver
    vif: base.VIFDriver


def load_all(
    conf: cfg.ConfigOpts,
    *,
    server_driver: base.ServerDriver | None = None,
    network_driver: base.NetworkDriver | None = None,
    vif_driver: base.VIFDriver | None = None,
) -> Drivers:
    """The three drivers: an object that is handed in wins over the name in the configuration.

    A class that several options name is constructed once. An object that is handed in is used for its own
    kind alone.

    :raises ConfigurationError:
    """
    handed_in = (server_driver, network_driver, vif_driver)
    for kind, driver in zip(KINDS, handed_in, strict=True):
        if driver is not None:
            _check_object(kind, driver)
    made: dict[type, Any] = {}
    drivers: list[Any] = []
    for kind, driver in zip(KINDS, handed_in, strict=True):
        if driver is None:
            name = conf[_GROUP][kind.option]
            driver_class = load_class(kind, name)
            if driver_class not in made:
                made[driver_class] = _construct(kind, name, driver_class, conf)
            driver = made[driver_class]
        drivers.append(driver)
    # Those of objects that were handed in, too.
    configuration.check(conf)
    return Drivers(*drivers)


def load(kind: Kind, name: str, conf: cfg.ConfigOpts) -> Any:
    """A driver of one kind by its name, constructed and with its options checked.

    :raises ConfigurationError:
    """
    return _construct(kind, name, load_class(kind, name), conf)


def installed(kind: Kind) -> list[str]:
    """The names of the kind that are installed; nothing is imported for it."""
    return sorted(set(named.NamedExtensionManager(kind.namespace, names=[]).entry_points_names()))


def load_class(kind: Kind, name: str) -> type:
    """The class behind a name.

    :raises ConfigurationError: unknown, declared twice, fails to import, or not a driver of the kind
    """
    failures: list[tuple[metadata.EntryPoint, BaseException]] = []
    try:
        manager: named.NamedExtensionManager[Any] = named.NamedExtensionManager(
            kind.namespace,
            names=[name],
            on_load_failure_callback=lambda _manager, found, error: failures.append((found, error)),
            on_missing_entrypoints_callback=lambda _names: None,
        )
    except AssertionError as error:
        # The only one that stevedore does not hand to the callback.
        raise _error(kind, name, f'cannot be imported: {_reason(error)}') from error
    declared = [found for found in manager.list_entry_points() if found.name == name]
    if not declared:
        raise _error(kind, name, f'is not installed; installed: {", ".join(installed(kind)) or "none"}')
    if len(declared) > 1:
        raise _error(kind, name, f'is declared twice, {_declarations(kind, name)}: uninstall one of them')
    if failures:
        entry_point, failure = failures[0]
        raise _error(kind, name, f'cannot be imported: {_import_failure(entry_point, failure)}') from failure
    return _check_class(kind, name, manager.extensions[0].plugin)


def _construct(kind: Kind, name: str, driver_class: type, conf: cfg.ConfigOpts) -> Any:
    try:
        driver = driver_class(conf)
    except exceptions.ConfigurationError:
        raise
    except Exception as error:
        if isinstance(error, cfg.Error):
            # It knows better which option it was, unless that one is not registered at all.
            configuration.check(conf)
        raise _error(kind, name, f'cannot be started: {_reason(error)}') from error
    configuration.check(conf)
    return driver


def _check_class(kind: Kind, name: str, found: Any) -> type:
    where = f'{getattr(found, "__module__", "?")}.{getattr(found, "__qualname__", repr(found))}'
    if not (isinstance(found, type) and issubclass(found, kind.abstract)):
        raise _error(kind, name, f'is {where}, which is not a subclass of {_abstract(kind)}')
    if inspect.isabstract(found):
        missing = ', '.join(sorted(cast(Any, found).__abstractmethods__))
        raise _error(kind, name, f'is {where}, which lacks {missing}')
    return found


def _check_object(kind: Kind, driver: object) -> None:
    if not isinstance(driver, kind.abstract):
        raise exceptions.ConfigurationError(
            f'{kind.option}: {_one_line(repr(driver))} was handed in, '
            f'which is not an object of a subclass of {_abstract(kind)}'
        )


def _abstract(kind: Kind) -> str:
    return f'{kind.abstract.__module__}.{kind.abstract.__name__}'


def _declarations(kind: Kind, name: str) -> str:
    return ' and '.join(
        f'by {distribution.name} ({entry_point.value})'
        for entry_point, distribution in _distributions(kind.namespace, name)
    )


def _distributions(namespace: str, name: str) -> Iterator[tuple[metadata.EntryPoint, metadata.Distribution]]:
    # stevedore's entry points do not know their distribution.
    for entry_point in metadata.entry_points(group=namespace, name=name):
        if entry_point.dist is not None:
            yield entry_point, entry_point.dist


def _import_failure(entry_point: metadata.EntryPoint, error: BaseException) -> str:
    package = entry_point.module.partition('.')[0]
    if isinstance(error, ImportError) and (error.name or '').partition('.')[0] != package:
        # By convention a distribution calls the extra that a driver needs by the driver's name.
        for _found, distribution in _distributions(entry_point.group, entry_point.name):
            extras = distribution.metadata.get_all('Provides-Extra') or ()
            if _normal(entry_point.name) in map(_normal, extras):
                return f'{_reason(error)}; install {distribution.name}[{entry_point.name}]'
    return _reason(error)


def _normal(extra: str) -> str:
    """The name of an extra as PEP 685 has it, which newer build backends write."""
    return re.sub(r'[-_.]+', '-', extra).lower()


def _error(kind: Kind, name: str, what: str) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(f'option [{_GROUP}] {kind.option}: {name!r} {what}')


def _reason(error: BaseException) -> str:
    return _one_line(f'{type(error).__name__}: {error}')


def _one_line(text: str) -> str:
    return ' '.join(text.split())
