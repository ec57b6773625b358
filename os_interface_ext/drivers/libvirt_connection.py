"""How drivers ask libvirt: over which connection, for how long, and what its errors mean.

**Time.** Nothing in libvirt bounds a call: a libvirtd that stands still, or a QEMU that does not answer it, keeps
it for ever. So each call is made in a thread of its own, and who has asked waits for so long and no longer.

**A connection** has one call at a time. A second one would not always be sent before the first is answered (a race
in libvirt's client, measured with 9.0), nor a sixth be read by libvirtd (max_client_requests): it would be done
when everybody has given it up. One that breaks is opened again by the next call; what only reads is repeated at
once, so that a libvirtd that was restarted meanwhile is not noticed.

**A change that was given up** may still be made: while its request waits for libvirtd, or in libvirt for another
change of the domain. This process knows of those of its own calls (:meth:`Libvirt.may_appear`).

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
import time
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

#: Calls that are waited for in a process, and those that were given up and have not ended: more would only pile
#: up behind a libvirtd that does not answer.
_CALLS = 32
#: Seconds after which one more call is made all the same.
_TRY = 30.0
#: Connections that are kept while no call needs them.
_IDLE = 4
#: Seconds for which libvirt has a change of a domain wait for another one, before it refuses it (its
#: QEMU_JOB_WAIT_TIME).
_CHANGE_WAITS = 30.0
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
    """One libvirt, asked over connections that are opened when a call needs one, anew in each process.

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
        self._idle: list[_Session] = []
        self._busy: set[_Session] = set()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    @classmethod
    def of(cls, conf: cfg.ConfigOpts) -> Libvirt:
        """That of a configuration object: the same one for all drivers that are given this object."""
        kept: dict[str, Any] = conf.kept
        found: Libvirt = kept.setdefault('libvirt', kept.get('libvirt') or cls(conf))
        return found

    def _check(self, conf: cfg.ConfigOpts) -> None:
        if not re.match(r'[a-z][a-z0-9]*(\+[a-z0-9]+)?://', self._uri):
            raise exceptions.ConfigurationError(
                f'option [{GROUP}] uri: {self._uri!r} is no connection URI: give one such as qemu:///system'
            )
        base.require_below_half_lease(conf, f'[{GROUP}] call_timeout', self._timeout)

    def _begin(self) -> None:
        """With nothing: a fork has neither the threads nor a connection of its own."""
        # To close the parent's, or only to let go of them, would end them for the parent too.
        _FORSAKEN.extend([*self._idle, *self._busy])
        self._idle, self._busy = [], set()
        #: Never kept while libvirt is called.
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._calls = threading.BoundedSemaphore(_CALLS)
        #: those that were given up and have not ended
        self._hung: set[_Attempt] = set()
        self._hung_since = 0.0
        #: those of them by which a device may yet come to be, and such whose answer was lost
        self._unsettled: set[_Attempt] = set()
        self._watchers: set[tuple[str, threading.Event]] = set()

    # ------------------------------------------------------------------ asking

    def read(self, work: Callable[[libvirt.virConnect], T]) -> T:
        """What ``work`` answers, which is given the connection, and may be called twice.

        :raises Unavailable: there is no answer
        :raises libvirtError: libvirt has answered with it
        """
        return self._ask(lambda connection, _: work(connection), None)

    def write(
        self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], fence: base.Fence, adds: str = ''
    ) -> T:
        """The same of what changes something.

        ``work`` is also given what it has to call right before each change: it raises when it is too late, because
        the time of the fence is over, or nobody waits any more. Only before that is it called twice. ``adds`` is
        the alias of the device that comes to be by it, if one does.

        :raises Unavailable: nothing has happened
        :raises UnknownOutcome: it may have had its effect
        :raises libvirtError: libvirt has answered with it
        """
        return self._ask(work, fence, adds)

    def may_appear(self, alias: str) -> bool:
        """Whether a write of this process that was given up may yet add the device with this alias.

        Until libvirt has answered it. If its connection has ended instead: until libvirt itself gives it up.
        """
        with self._lock:
            now = time.monotonic()
            self._unsettled = {one for one in self._unsettled if one.is_unsettled(now)}
            return any(one.adds == alias for one in self._unsettled)

    def check(self) -> None:
        """Ask something that libvirtd itself has to answer.

        :raises Unavailable: it does not
        """
        try:
            self.read(lambda connection: connection.getHostname())
        except libvirt.libvirtError as error:
            raise self._refusal(exceptions.Unavailable, error) from error

    def _ask(
        self,
        work: Callable[[libvirt.virConnect, Callable[[], None]], T],
        fence: base.Fence | None,
        adds: str = '',
    ) -> T:
        try:
            return self._call(work, _Attempt(fence, adds))
        except _Broken as error:
            if error.has_changed:
                raise self._refusal(exceptions.UnknownOutcome, error.cause) from error.cause
        LOG.debug('[%s] %s is connected to anew', GROUP, self._uri)
        try:
            return self._call(work, _Attempt(fence, adds))
        except _Broken as error:
            kind = exceptions.UnknownOutcome if error.has_changed else exceptions.Unavailable
            raise self._refusal(kind, error.cause) from error.cause

    def _refusal(self, kind: type[exceptions.Unavailable], cause: Exception | str) -> exceptions.Unavailable:
        cure = f'start libvirtd, or correct [{GROUP}] uri; let this user into its group (libvirt)'
        return kind(operator=f'[{GROUP}] {self._uri}: {cause}', operator_cure=cure)

    def _call(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], attempt: _Attempt) -> T:
        """:raises _Broken: on the way to libvirtd, or back"""
        self._let_in(attempt)
        calls = self._calls
        if not calls.acquire(timeout=self._timeout):
            raise self._refusal(exceptions.Unavailable, f'none of {_CALLS} calls is answered')
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                result = self._work(work, attempt)
            except BaseException as error:
                self._end(attempt, is_answered=not isinstance(error, _Broken))
                future.set_exception(error)
            else:
                self._end(attempt, is_answered=True)
                future.set_result(result)

        try:
            threading.Thread(target=run, name='libvirt', daemon=True).start()
            done, _ = concurrent.futures.wait([future], self._timeout)
        except RuntimeError as error:
            raise self._refusal(exceptions.Unavailable, error) from error
        finally:
            calls.release()
        if done:
            return future.result()
        has_changed = self._give_up(attempt)
        kind = exceptions.UnknownOutcome if has_changed else exceptions.Unavailable
        raise self._refusal(kind, f'no answer within {self._timeout:g} s')

    def _let_in(self, attempt: _Attempt) -> None:
        """:raises Unavailable: so many calls hang already"""
        with self._lock:
            if len(self._hung) < _CALLS:
                return
            now = time.monotonic()
            if now < self._hung_since + _TRY:
                raise self._refusal(exceptions.Unavailable, f'none of {_CALLS} calls is answered')
            self._hung_since = now
            attempt.is_try = True

    def _give_up(self, attempt: _Attempt) -> bool:
        """Wait for it no more; whether a change may have been made."""
        has_changed = attempt.give_up()
        with self._lock:
            now = time.monotonic()
            if not attempt.has_ended:
                self._hung.add(attempt)
                self._hung_since = now
            self._unsettled = {one for one in self._unsettled if one.is_unsettled(now)}
            if has_changed and attempt.adds:
                self._unsettled.add(attempt)
            # They may lead nowhere as well.
            ended, self._idle = self._idle, []
            if attempt.session is None and self._opening is attempt.opening:
                # An opening may never end; the next call shall not wait for this one.
                self._opening = threading.Lock()
        for session in ended:
            session.end()
        return has_changed

    def _end(self, attempt: _Attempt, *, is_answered: bool) -> None:
        """In the thread of the call, at its end."""
        with self._lock:
            attempt.end(is_answered=is_answered)
            self._hung.discard(attempt)
            if is_answered:
                self._unsettled.discard(attempt)
                if attempt.is_try:
                    # Of the others, those that still hang do so on connections that lead nowhere.
                    self._hung.clear()
        if attempt.session is not None:
            self._put_back(attempt.session, is_well=is_answered)

    def _work(self, work: Callable[[libvirt.virConnect, Callable[[], None]], T], attempt: _Attempt) -> T:
        """In the thread of the call."""
        try:
            session = self._open(attempt)
            return work(session.connection, attempt.before_change)
        except libvirt.libvirtError as error:
            if attempt.session is not None and not is_on_the_way(error):
                raise
            raise _Broken(error, attempt.has_changed) from error

    # ------------------------------------------------------------------ the connections

    def _open(self, attempt: _Attempt) -> _Session:
        """One that no other call is on; all wait for the one that opens it."""
        if session := self._take(attempt):
            return session
        opening = attempt.opening = self._opening
        with opening:
            if session := self._take(attempt):
                return session
            attempt.require_waiting()
            session = _Session(self._uri, self._on_removed if self._with_loop else None)
        with self._lock:
            self._busy.add(session)
            attempt.session = session
        return session

    def _take(self, attempt: _Attempt) -> _Session | None:
        with self._lock:
            if not self._idle:
                return None
            session = attempt.session = self._idle.pop()
            self._busy.add(session)
            return session

    def _put_back(self, session: _Session, *, is_well: bool) -> None:
        """For the next call, or to be closed."""
        with self._lock:
            self._busy.discard(session)
            ended = []
            if not is_well:
                # What has ended one connection has mostly ended all of them.
                ended, self._idle = [session, *self._idle], []
            elif len(self._idle) < _IDLE:
                self._idle.append(session)
            else:
                ended = [session]
        for one in ended:
            one.end()

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
    :param adds: the alias of a device, or empty
    """

    def __init__(self, fence: base.Fence | None, adds: str = '') -> None:
        self.adds = adds
        self.session: _Session | None = None
        #: what it waits for, or waited for, to have a connection opened
        self.opening: threading.Lock | None = None
        #: made although too many hang
        self.is_try = False
        self.has_changed = False
        self.has_ended = False
        self._fence = fence
        self._is_given_up = False
        self._is_answered = False
        self._changed = 0.0
        self._lock = threading.Lock()

    def before_change(self) -> None:
        """:raises DeadlinePassed: it must not be made any more"""
        assert self._fence is not None
        self._fence.check()
        with self._lock:
            self._require_waiting()
            self.has_changed = True
            self._changed = time.monotonic()

    def require_waiting(self) -> None:
        """:raises DeadlinePassed: nobody waits any more"""
        with self._lock:
            self._require_waiting()

    def _require_waiting(self) -> None:
        if self._is_given_up:
            raise exceptions.DeadlinePassed()

    def give_up(self) -> bool:
        """Wait no more; whether a change may have been made."""
        with self._lock:
            self._is_given_up = True
            return self.has_changed

    def end(self, *, is_answered: bool) -> None:
        self.has_ended = True
        self._is_answered = is_answered

    def is_unsettled(self, now: float) -> bool:
        """Whether its change may yet be made."""
        return not self.has_ended or (not self._is_answered and now < self._changed + _CHANGE_WAITS)


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
