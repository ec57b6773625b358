"""How drivers ask libvirt: over one connection, for how long, and what its errors mean.

**Time.** Nothing in libvirt bounds a call: a libvirtd that stands still, or a QEMU that does not answer it, keeps
it for ever. So each call is made in a thread of its own, and who has asked waits for so long and no longer.

**A connection that breaks** is opened again by the next call; what only reads is repeated at once, so that a
libvirtd that was restarted meanwhile is not noticed.

**Events** need libvirt's event loop, of which a process has one for all that use libvirt in it. It runs, in a
thread of its own, in the processes of this project; a host's process is left without one, and asks instead.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libvirt
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import libvirt as options
from os_interface_ext.drivers import base

LOG = logging.getLogger(__name__)

T = TypeVar('T')

GROUP = options.GROUP.name

#: Calls that a process has under way: more would only pile up behind a libvirtd that does not answer.
_CALLS = 32
#: Seconds between keepalive messages, and how many may go unanswered.
_KEEPALIVE = (5, 3)
#: Errors of these have their cause on the way to libvirtd.
_ON_THE_WAY = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
#: What can be the UUID of a domain; libvirt itself takes other forms too.
_UUID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def find(connection: libvirt.virConnect, server_id: str) -> libvirt.virDomain | None:
    """The domain whose UUID is the server's id; None if there is none, or the id can be nobody's."""
    wanted = server_id.lower()
    if not _UUID.fullmatch(wanted):
        return None
    try:
        return connection.lookupByUUIDString(wanted)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def is_on_the_way(error: libvirt.libvirtError) -> bool:
    """Whether it was not libvirtd that has answered with this error."""
    return error.get_error_domain() in _ON_THE_WAY


class Libvirt:
    """One libvirt, asked over a connection that is opened with the first call, anew in each process.

    :raises ConfigurationError: the options do not make a connection
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        group = conf[GROUP]
        self._uri: str = group.uri
        self._timeout: float = group.call_timeout
        wanted = group.event_loop
        self._with_loop: bool = getattr(conf, 'is_own_process', False) if wanted is None else wanted
        self._check(conf)
        self._session: _Session | None = None
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Libvirt:
        """That of a configuration object: the same one for all drivers that are given this object."""
        kept: dict[str, Any] = conf.kept
        return kept.setdefault('libvirt', kept.get('libvirt') or cls(conf))

    def _check(self, conf: cfg.ConfigOpts) -> None:
        if not re.match(r'[a-z][a-z0-9]*(\+[a-z0-9]+)?://', self._uri):
            raise exceptions.ConfigurationError(
                f'option [{GROUP}] uri: {self._uri!r} is no connection URI: give one such as qemu:///system'
            )
        base.require_below_half_lease(conf, f'[{GROUP}] call_timeout', self._timeout)

    def _begin(self) -> None:
        """With nothing: a fork has neither the threads nor a connection of its own."""
        # To close the parent's, or only to let go of it, would end it for the parent too.
        if self._session is not None:
            _FORSAKEN.append(self._session)
        self._session = None
        self._lock = threading.Lock()
        self._calls = threading.BoundedSemaphore(_CALLS)
        self._watchers: set[tuple[str, threading.Event]] = set()

    # ------------------------------------------------------------------ asking

    def read(self, work: Callable[[libvirt.virConnect], T]) -> T:
        """What ``work`` answers, which is given the connection, and may be called twice.

        :raises Unavailable: there is no answer
        :raises libvirtError: libvirt has answered with it
        """
        return self._ask(lambda connection, _: work(connection), None)

    def write(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], fence: base.Fence) -> T:
        """The same of what changes something.

        ``work`` is also given what it has to call right before each change: it raises when it is too late, because
        the time of the fence is over, or nobody waits any more. Only before that is it called twice.

        :raises Unavailable: nothing has happened
        :raises UnknownOutcome: it may have had its effect
        :raises libvirtError: libvirt has answered with it
        """
        return self._ask(work, fence)

    def check(self) -> None:
        """Ask something that libvirtd itself has to answer.

        :raises Unavailable: it does not
        """
        try:
            self.read(lambda connection: connection.getHostname())
        except libvirt.libvirtError as error:
            raise self._refusal(exceptions.Unavailable, error) from error

    def _ask(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], fence: base.Fence | None) -> T:
        try:
            return self._call(work, _Attempt(fence))
        except _Broken as error:
            if error.has_changed:
                raise self._refusal(exceptions.UnknownOutcome, error.cause) from error.cause
        LOG.debug('[%s] %s is connected to anew', GROUP, self._uri)
        try:
            return self._call(work, _Attempt(fence))
        except _Broken as error:
            kind = exceptions.UnknownOutcome if error.has_changed else exceptions.Unavailable
            raise self._refusal(kind, error.cause) from error.cause

    def _refusal(self, kind: type[exceptions.Unavailable], cause: Exception | str) -> exceptions.Unavailable:
        cure = f'start libvirtd, or correct [{GROUP}] uri; let this user into its group (libvirt)'
        return kind(operator=f'[{GROUP}] {self._uri}: {cause}', operator_cure=cure)

    def _call(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], attempt: _Attempt) -> T:
        """:raises _Broken: on the way to libvirtd, or back"""
        calls = self._calls
        if not calls.acquire(timeout=self._timeout):
            raise self._refusal(exceptions.Unavailable, f'none of {_CALLS} calls is answered')
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(self._work(work, attempt))
            except BaseException as error:
                future.set_exception(error)
            finally:
                calls.release()

        try:
            threading.Thread(target=run, name='libvirt', daemon=True).start()
        except RuntimeError as error:
            calls.release()
            raise self._refusal(exceptions.Unavailable, error) from error
        done, _ = concurrent.futures.wait([future], self._timeout)
        if done:
            return future.result()
        has_changed = attempt.give_up()
        # The next one shall not wait behind this one.
        self._forget(attempt.session)
        kind = exceptions.UnknownOutcome if has_changed else exceptions.Unavailable
        raise self._refusal(kind, f'no answer within {self._timeout:g} s')

    def _work(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], attempt: _Attempt) -> T:
        """In the thread of the call."""
        try:
            attempt.session = self._open()
            return work(attempt.session.connection, attempt.before_change)
        except libvirt.libvirtError as error:
            if attempt.session is not None and not is_on_the_way(error):
                raise
            self._forget(attempt.session)
            raise _Broken(error, attempt.has_changed) from error

    # ------------------------------------------------------------------ the connection

    def _open(self) -> _Session:
        """All wait for the one that opens it."""
        with self._lock:
            if self._session is None:
                self._session = _Session(self._uri, self._on_removed if self._with_loop else None)
            return self._session

    def _forget(self, session: _Session | None) -> None:
        """Open another one with the next call; this one is closed when the last call that is on it ends."""
        # Without the lock, which is kept for as long as another opening takes.
        if session is not None and self._session is session:
            self._session = None
            session.end()

    # ------------------------------------------------------------------ events

    def _on_removed(self, _connection: Any, _domain: Any, alias: str, _opaque: Any) -> None:
        for watched, event in list(self._watchers):
            if watched == alias:
                event.set()

    @property
    def tells_removals(self) -> bool:
        """Whether :meth:`watched` may be set at all; never to be relied on: an event can be lost."""
        return self._with_loop and _Loop.runs()

    @contextlib.contextmanager
    def watched(self, alias: str) -> Iterator[threading.Event]:
        """Set when libvirt tells that the device with this alias has been removed from a guest."""
        watcher = (alias, threading.Event())
        self._watchers.add(watcher)
        try:
            yield watcher[1]
        finally:
            self._watchers.discard(watcher)


#: Those of the processes that this one was forked from.
_FORSAKEN: list[_Session] = []


class _Broken(Exception):
    """The call has not come to its end for a reason between here and libvirtd.

    ``has_changed``: it may have had its effect.
    """

    def __init__(self, cause: libvirt.libvirtError, has_changed: bool) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.has_changed = has_changed


class _Attempt:
    """How far a call has come, and whether anybody waits for it.

    :param fence: None: it changes nothing
    """

    def __init__(self, fence: base.Fence | None) -> None:
        self.session: _Session | None = None
        self.has_changed = False
        self._fence = fence
        self._is_given_up = False
        self._lock = threading.Lock()

    def before_change(self) -> None:
        """:raises DeadlinePassed: it must not be made any more"""
        assert self._fence is not None
        self._fence.check()
        with self._lock:
            if self._is_given_up:
                raise exceptions.DeadlinePassed()
            self.has_changed = True

    def give_up(self) -> bool:
        """Wait no more; whether a change may have been made."""
        with self._lock:
            self._is_given_up = True
            return self.has_changed


class _Session:
    """A connection that is open.

    :param on_removed: called of each device that a guest has given back, where this process has an event loop
    :raises libvirtError: it does not come about
    """

    def __init__(self, uri: str, on_removed: Callable[..., None] | None) -> None:
        listens = on_removed is not None and _Loop.start()
        self.connection = libvirt.open(uri)
        self._callback: int | None = None
        if listens:
            with contextlib.suppress(libvirt.libvirtError):
                # A libvirt within this process has none.
                self.connection.setKeepAlive(*_KEEPALIVE)
            with contextlib.suppress(libvirt.libvirtError):
                event = libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED
                self._callback = self.connection.domainEventRegisterAny(None, event, on_removed, None)

    def end(self) -> None:
        """Let go of it: libvirt keeps a connection that has a callback."""
        if self._callback is not None:
            threading.Thread(target=self._deregister, name='libvirt-end', daemon=True).start()

    def _deregister(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.domainEventDeregisterAny(self._callback)


class _Loop:
    """libvirt's event loop, of which each process has one at most."""

    _lock = threading.Lock()
    _pid: int | None = None

    @classmethod
    def start(cls) -> bool:
        """Start it, if there is none; whether it runs.

        A fork of a process that has one does without: libvirt would have it listen to its parent's connections.
        """
        with cls._lock:
            if cls._pid is None:
                libvirt.registerErrorHandler(_be_silent, None)
                libvirt.virEventRegisterDefaultImpl()
                threading.Thread(target=cls._run, name='libvirt-events', daemon=True).start()
                cls._pid = os.getpid()
            return cls.runs()

    @classmethod
    def runs(cls) -> bool:
        return cls._pid == os.getpid()

    @staticmethod
    def _run() -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                LOG.exception("libvirt's event loop")

    @classmethod
    def _after_fork(cls) -> None:
        cls._lock = threading.Lock()


def _be_silent(_context: Any, _error: Any) -> None:
    """Errors are raised; libvirt would print each of them as well."""


os.register_at_fork(after_in_child=_Loop._after_fork)
