"""How long the steps of a cycle take: told by the run, not judged."""

from __future__ import annotations

import collections
import contextlib
import statistics
import time
from collections.abc import Iterator

import pytest


class Stopwatch:
    def __init__(self) -> None:
        self._times: dict[str, list[float]] = collections.defaultdict(list)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._times[what].append(1000 * (time.perf_counter() - begun))

    def show(self, request: pytest.FixtureRequest, subject: str) -> None:
        """Print the median of each step, past what pytest captures."""
        medians = ', '.join(f'{what} {statistics.median(values):.1f}' for what, values in self._times.items())
        count = max(map(len, self._times.values()))
        capture = request.config.pluginmanager.getplugin('capturemanager')
        with capture.global_and_fixture_disabled():
            print(f'\n{subject}, medians of {count} in ms: {medians}')
