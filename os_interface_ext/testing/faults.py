"""Fault drivers: any driver, with failures at named points.

A point is a name, ``before <method>`` or ``after <method>`` of a driver (``after create``), and ``before
transaction``, ``before commit`` and ``after commit`` of a database. What happens there is an action: a
callable without arguments. In a test both are objects::

    faults = Faults()
    faults.add('before plug', raises(exceptions.PlugFailed()))
    faults.add('after create', kill, on=2)
    manager = ...(wrap(driver, faults))

In a running process they are configured. A fault driver is named in ``[os_interface]``, the real one and
what befalls it in ``[faults]``::

    [os_interface]
    network_driver = faulty

    [faults]
    network_driver = sql
    faults = after create:kill, before unbind:raise=Unavailable*2

and whoever wants that declares the entry points, in a distribution of his own that he installs beside
this one::

    [options.entry_points]
    os_interface_ext.server_drivers = faulty = os_interface_ext.testing.faults:FaultyServerDriver
    os_interface_ext.network_drivers = faulty = os_interface_ext.testing.faults:FaultyNetworkDriver
    os_interface_ext.vif_drivers = faulty = os_interface_ext.testing.faults:FaultyVIFDriver

A fault is ``<point>[#<n>]:<action>[=<argument>][*[<times>]]``: from the n-th passing of the point on (the
first, if not given), so many times (once; ``*`` alone: for ever). The actions:

- ``kill``: the process is gone at once (SIGKILL);
- ``raise=<name>``: an error of :mod:`os_interface_ext.exceptions`, or a built-in one;
- ``unknown``: at an ``after`` point, it was done, but the answer is lost (UnknownOutcome);
- ``delay=<seconds>``; ``hang``: for ever.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg
from stevedore import driver as stevedore_driver
from stevedore.exception import NoMatches

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, proxies

Action = Callable[[], object]
T = TypeVar('T')

GROUP = 'faults'
OPTS = [
    cfg.StrOpt('server_driver', default='sql', help='The server driver that faults befall.'),
    cfg.StrOpt('network_driver', default='sql', help='The network driver that faults befall.'),
    cfg.StrOpt('vif_driver', default='noop', help='The VIF driver that faults befall.'),
    cfg.ListOpt('faults', default=[], help='The faults, such as: after create:kill, before plug:raise=PlugFailed'),
]

FILE_VIF_GROUP = 'file_vif'
FILE_VIF_OPTS = [cfg.StrOpt('path', required=True, help='The directory of the NICs.')]

_FAULT = re.compile(
    r'(?P<point>(?:before|after) [a-z_]+)(?:#(?P<on>[1-9]\d*))?:'
    r'(?P<action>[a-z]+)(?:=(?P<argument>[^*]+))?(?:(?P<star>\*)(?P<times>\d*))?'
)


# ---------------------------------------------------------------------- actions


def raises(error: Exception | type[Exception]) -> Action:
    """Fail with an error; at an ``after`` point, once it is done."""

    def action() -> None:
        raise error

    return action


def unknown() -> None:
    """Lose the answer."""
    raise exceptions.UnknownOutcome(operator='the answer is lost: a fault')


def waits(event: threading.Event, timeout: float | None = None) -> Action:
    """Go on when the event is set."""
    return lambda: event.wait(timeout)


def delays(seconds: float) -> Action:
    """Take so much longer."""
    return lambda: time.sleep(seconds)


def hang() -> None:
    """Never return."""
    threading.Event().wait()


def kill() -> None:
    """End this process as a power failure does: nothing is cleaned up, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------- faults


@dataclasses.dataclass
class _Fault:
    action: Action
    #: passings of the point before it
    skip: int
    #: how often it is to happen; None: for ever
    left: int | None


class Faults:
    """What happens at which point; shared by the drivers and the database of one process.

    ``passed`` are all points that were passed, in order: a run without faults tells what there is.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._faults: dict[str, list[_Fault]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Faults:
        """The configured ones: the same for all drivers of a configuration.

        :raises ConfigurationError: one cannot be understood
        """
        kept = _kept(conf)
        with _configured_lock:
            if 'faults' not in kept:
                conf.register_opts(OPTS, group=GROUP)
                kept['faults'] = cls.parse(conf[GROUP].faults)
            faults: Faults = kept['faults']
            return faults

    @classmethod
    def parse(cls, texts: list[str]) -> Faults:
        """:raises ConfigurationError: one cannot be understood"""
        faults = cls()
        for text in texts:
            _parse_into(faults, text)
        return faults

    def add(self, point: str, action: Action, *, on: int = 1, times: int | None = 1) -> None:
        """Have an action at a point.

        :param on: from this passing of the point on, counted from now
        :param times: how often; None: always
        """
        with self._lock:
            self._faults.setdefault(point, []).append(_Fault(action, on - 1, times))

    def clear(self) -> None:
        """Forget all faults, and what was passed."""
        with self._lock:
            self._faults.clear()
            self.passed.clear()

    def at(self, point: str) -> None:
        """A point is passed."""
        for action in self._due(point):
            action()

    def _due(self, point: str) -> list[Action]:
        due = []
        with self._lock:
            self.passed.append(point)
            for fault in self._faults.get(point, ()):
                if fault.skip:
                    fault.skip -= 1
                elif fault.left is None:
                    due.append(fault.action)
                elif fault.left:
                    fault.left -= 1
                    due.append(fault.action)
        return due

    def watch(self, database: Any) -> None:
        """Make points of the transactions of a :class:`~os_interface_ext.db.engine.Database` object.

        ``before transaction`` holds nothing yet; at ``before commit`` all is written but nothing lasts.
        """
        real = database.prepared

        @contextlib.contextmanager
        def prepared() -> Iterator[Any]:
            self.at('before transaction')
            with real() as connection:
                yield connection
                self.at('before commit')
            self.at('after commit')

        database.prepared = prepared


_configured_lock = threading.Lock()


def _kept(conf: Any) -> dict[str, Any]:
    """What lives as long as a configuration."""
    kept: dict[str, Any] = conf.kept
    return kept


def _parse_into(faults: Faults, text: str) -> None:
    found = _FAULT.fullmatch(text.strip())
    if found is None:
        raise _bad(text, 'is not <before|after> <method>[#n]:<action>[=argument][*times]')
    times: int | None = 1
    if found['star']:
        times = int(found['times']) if found['times'] else None
    action = _action(text, found['action'], found['argument'])
    faults.add(found['point'], action, on=int(found['on'] or 1), times=times)


def _action(text: str, name: str, argument: str | None) -> Action:
    simple: dict[str, Action] = {'kill': kill, 'hang': hang, 'unknown': unknown}
    if name in simple and argument is None:
        return simple[name]
    if name == 'raise' and argument:
        return _raises_anew(text, argument)
    if name == 'delay' and argument:
        try:
            return delays(float(argument))
        except ValueError as error:
            raise _bad(text, f'has {argument!r} for seconds') from error
    raise _bad(text, 'has no action of kill, hang, unknown, raise=<name>, delay=<seconds>')


def _raises_anew(text: str, name: str) -> Action:
    found = getattr(exceptions, name, None) or getattr(builtins, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise _bad(text, f'names {name!r}, which is not an error of os_interface_ext.exceptions')
    error_class = found

    def action() -> None:
        try:
            error = error_class()
        except TypeError:
            # Those that are about something want to know what.
            error = error_class('a fault')
        raise error

    return action


def _bad(text: str, why: str) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(f'option [{GROUP}] faults: {text!r} {why}')


# ---------------------------------------------------------------------- drivers


class Faulty:
    """A driver with faults; whatever is not a method of a driver is the wrapped one's own."""

    wrapped: Any
    faults: Faults

    def __getattr__(self, name: str) -> Any:
        if name == 'wrapped':
            raise AttributeError(name)
        return getattr(self.wrapped, name)


def wrap(driver: T, faults: Faults) -> T:
    """A driver that does what ``driver`` does, with faults: of the same kinds, with the same optional methods."""
    kinds = tuple(kind for kind in proxies.KINDS if isinstance(driver, kind))
    if not kinds:
        raise TypeError(f'{driver!r} is not a driver')
    faulty = proxies.proxy(driver, _passing, kinds, Faulty, 'Faulty')
    faulty.wrapped = driver
    faulty.faults = faults
    return faulty  # type: ignore[no-any-return]


def _passing(name: str) -> Callable[..., Any]:
    def method(self: Faulty, *args: Any, **kwargs: Any) -> Any:
        self.faults.at(f'before {name}')
        answer = getattr(self.wrapped, name)(*args, **kwargs)
        self.faults.at(f'after {name}')
        return answer

    method.__name__ = name
    return method


def _by_name(option: str, conf: cfg.ConfigOpts) -> Any:
    """The driver that an option of ``[faults]`` names, wrapped; one object for a class that several name."""
    faults = Faults.of(conf)
    namespace, name = f'os_interface_ext.{option}s', conf[GROUP][option]
    try:
        found: Any = stevedore_driver.DriverManager(namespace, name)
    except NoMatches as error:
        raise exceptions.ConfigurationError(f'option [{GROUP}] {option}: {name!r} is not installed') from error
    made = _kept(conf).setdefault('faulty drivers', {})
    if found.driver not in made:
        made[found.driver] = wrap(found.driver(conf), faults)
    return made[found.driver]


class FaultyServerDriver(base.ServerDriver):
    """The server driver that ``[faults]`` names, with the faults that it tells."""

    def __new__(cls, conf: cfg.ConfigOpts) -> Any:
        return _by_name('server_driver', conf)


class FaultyNetworkDriver(base.NetworkDriver):
    """The network driver that ``[faults]`` names, with the faults that it tells."""

    def __new__(cls, conf: cfg.ConfigOpts) -> Any:
        return _by_name('network_driver', conf)


class FaultyVIFDriver(base.VIFDriver):
    """The VIF driver that ``[faults]`` names, with the faults that it tells."""

    def __new__(cls, conf: cfg.ConfigOpts) -> Any:
        return _by_name('vif_driver', conf)


for _class in (FaultyServerDriver, FaultyNetworkDriver, FaultyVIFDriver):
    # Never instances of themselves: what they make is made for the driver that is wrapped.
    _class.__abstractmethods__ = frozenset()


class FileVIFDriver(base.VIFDriver):
    """NICs that are files, ``<path>/<server>/<port>``: what is plugged outlives the process."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        conf.register_opts(FILE_VIF_OPTS, group=FILE_VIF_GROUP)
        self._conf = conf[FILE_VIF_GROUP]

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        nic = self._nic(server, port.id)
        if not nic.exists():
            fence.check()
            nic.parent.mkdir(parents=True, exist_ok=True)
            nic.touch()
        return {'nic': nic.name}

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        nic = self._nic(server, port_id)
        if nic.exists():
            fence.check()
            nic.unlink(missing_ok=True)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        directory = self._directory(server)
        return {urllib.parse.unquote(nic.name) for nic in directory.iterdir()} if directory.is_dir() else set()

    def _nic(self, server: base.Server, port_id: str) -> pathlib.Path:
        return self._directory(server) / _file_name(port_id)

    def _directory(self, server: base.Server) -> pathlib.Path:
        return pathlib.Path(self._conf.path) / _file_name(server.id)


def _file_name(identifier: str) -> str:
    # No id leads out of the directory.
    return urllib.parse.quote(identifier, safe='').replace('.', '%2E')
