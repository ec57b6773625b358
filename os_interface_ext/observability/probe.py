"""A question to a backend that is put in a bounded time, and not again and again."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: a value, or an error; ``TimeoutError`` if none of both came in time."""

    value: Any = None
    error: BaseException | None = None


class Probe:
    """:param timeout: seconds to wait for the answer
    :param cache: seconds for which an answer is given again

    One thread asks, whoever waits for it: of a backend that hangs, no more threads hang than one.
    """

    def __init__(self, name: str, ask: Callable[[], Any], timeout: float, cache: float) -> None:
        self.name = name
        self._ask = ask
        self._timeout = timeout
        self._cache = cache
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self._asking = False
        self._answer: Answer | None = None
        self._until = 0.0

    @staticmethod
    def ask(probes: Iterable[Probe]) -> list[Answer]:
        """The answers of several, which are asked at the same time."""
        probes = list(probes)
        begun = time.monotonic()
        for probe in probes:
            probe._start()
        return [probe._wait(begun) for probe in probes]

    def _start(self) -> None:
        with self._changed:
            if self._pid != os.getpid():
                # Threads do not survive a fork.
                self._pid, self._asking, self._answer = os.getpid(), False, None
            if self._asking or self._fresh() is not None:
                return
            self._asking = True
        threading.Thread(target=self._run, name=f'probe {self.name}', daemon=True).start()

    def _run(self) -> None:
        try:
            answer = Answer(self._ask())
        except BaseException as error:
            answer = Answer(error=error)
        with self._changed:
            self._answer = answer
            self._until = time.monotonic() + self._cache
            self._asking = False
            self._changed.notify_all()

    def _wait(self, begun: float) -> Answer:
        with self._changed:
            left = begun + self._timeout - time.monotonic()
            if not self._changed.wait_for(lambda: not self._asking, max(0.0, left)) or self._answer is None:
                return Answer(error=TimeoutError(f'no answer in {self._timeout:g} s'))
            return self._answer

    def _fresh(self) -> Answer | None:
        return self._answer if time.monotonic() < self._until else None
