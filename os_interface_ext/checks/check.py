"""A check, what it finds, and how many of them are made in bounded time."""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from os_interface_ext import exceptions

T = TypeVar('T')

#: Questions that are asked at the same time.
_AT_ONCE = 32


class State(enum.StrEnum):
    """SKIPPED: not looked at, for what it needs is wrong itself."""

    OK = 'ok'
    WARNING = 'warning'
    ERROR = 'error'
    SKIPPED = 'skipped'


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: what it is, and what to do about it (nothing, if it is well)."""

    state: State
    what: str
    cure: str = ''


def ok(what: str) -> Finding:
    return Finding(State.OK, what)


def warning(what: str, cure: str) -> Finding:
    return Finding(State.WARNING, what, cure)


def error(what: str, cure: str) -> Finding:
    return Finding(State.ERROR, what, cure)


@dataclasses.dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """A question about a subject.

    :param ask: gives one finding, or several; whatever it raises is a finding too
    :param needs: the names of checks without whose success there is nothing to ask
    :param after: of those that only have to come before
    """

    name: str
    ask: Callable[[T], Finding | Sequence[Finding]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def run(checks: Sequence[Check[T]], subject: T, timeout: float) -> Iterator[tuple[str, Finding]]:
    """Make all checks, those at a time that need no other one any more; the findings in the order of ``checks``.

    :param timeout: seconds for which each is waited for
    """
    found: dict[str, Sequence[Finding]] = {}
    left = {check.name: check for check in checks}
    while left:
        ready = [check for check in left.values() if not left.keys() & {*check.needs, *check.after}]
        asked: dict[str, Callable[[], Finding | Sequence[Finding]]] = {}
        for check in ready:
            del left[check.name]
            broken = [name for name in check.needs if not _is_usable(found[name])]
            if broken:
                found[check.name] = [Finding(State.SKIPPED, f'not looked at: {", ".join(broken)}')]
            else:
                asked[check.name] = _asking(check, subject)
        for name, outcome in apart(asked, timeout).items():
            found[name] = _findings(outcome, timeout)
    for check in checks:
        for finding in found[check.name]:
            yield check.name, finding


def apart(works: Mapping[str, Callable[[], T]], timeout: float) -> dict[str, T | BaseException]:
    """What each work gives or raises, done side by side; a TimeoutError of one that takes longer.

    Its thread is left alone then: nothing can end it, and it does not keep the process alive.
    """
    outcomes: dict[str, T | BaseException] = {}
    names = list(works)
    for begin in range(0, len(names), _AT_ONCE):
        threads = [_Thread(name, works[name]) for name in names[begin : begin + _AT_ONCE]]
        until = time.monotonic() + timeout
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            outcomes[thread.name] = TimeoutError() if thread.is_alive() else thread.outcome
    return outcomes


class _Thread(threading.Thread):
    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.outcome: Any = None

    def run(self) -> None:
        try:
            self.outcome = self._work()
        except BaseException as error:
            self.outcome = error


def _asking(check: Check[T], subject: T) -> Callable[[], Finding | Sequence[Finding]]:
    return lambda: check.ask(subject)


def _is_usable(findings: Sequence[Finding]) -> bool:
    return all(finding.state in (State.OK, State.WARNING) for finding in findings)


def _findings(outcome: Finding | Sequence[Finding] | BaseException, timeout: float) -> Sequence[Finding]:
    if isinstance(outcome, Finding):
        return [outcome]
    if isinstance(outcome, TimeoutError):
        return [error(f'no answer within {timeout:g} s', 'see what keeps it waiting; --timeout gives it longer')]
    if isinstance(outcome, BaseException):
        return [failure(outcome)]
    return outcome


def failure(failed: BaseException, cure: str = '') -> Finding:
    """The finding that something has raised an error.

    :param cure: where the error itself knows none
    """
    if isinstance(failed, exceptions.OsInterfaceError):
        what = failed.operator
    else:
        what = f'{type(failed).__name__}: {failed}'
    cure = getattr(failed, 'operator_cure', '') or cure or 'mend the cause that is named'
    return error(' '.join(what.split()), cure)
