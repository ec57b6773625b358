"""Two ways to do the same, measured in turn, and told as ratios."""

from __future__ import annotations

import cProfile
import dataclasses
import gc
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

#: Rounds that are not counted: for connections, caches and the interpreter to warm up.
WARM_UP = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured: ``ours`` beside ``base``, both doing one operation."""

    name: str
    base: Callable[[], Any]
    ours: Callable[[], Any]
    #: The ratio that is to be reached; None: none was named
    aim: float | None = None
    #: One round in so many: for what takes its time
    slower: int = 1


@dataclasses.dataclass(frozen=True)
class Result:
    """Medians in microseconds; the ratio of the medians, and the quartiles of the ratio of each round."""

    name: str
    base: float
    ours: float
    ratio: float
    quartiles: tuple[float, float]
    rounds: int
    aim: float | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A single figure that has nothing beside it."""

    name: str
    value: float
    unit: str


def measure(case: Case, rounds: int) -> Result:
    """Each side once in each round, and first as often as the other."""
    rounds = max(4, rounds // case.slower)
    for _ in range(max(2, WARM_UP // case.slower)):
        case.base()
        case.ours()
    gc.collect()
    times: dict[str, list[float]] = {'base': [], 'ours': []}
    sides = [('base', case.base), ('ours', case.ours)]
    for number in range(rounds):
        for side, call in sides if number % 2 else reversed(sides):
            begun = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - begun)
    base, ours = (1e6 * statistics.median(times[side]) for side in ('base', 'ours'))
    ratios = [mine / theirs for mine, theirs in zip(times['ours'], times['base'], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Result(case.name, base, ours, ours / base, (low, high), rounds, case.aim)


def profile(case: Case, rounds: int, lines: int = 30) -> None:
    """Where the time of our side goes, by the time spent in each function itself."""
    for _ in range(WARM_UP):
        case.ours()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(max(1, rounds // case.slower)):
        case.ours()
    profiler.disable()
    print(f'== {case.name}')
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats('tottime').print_stats(lines)


def show(results: Iterable[Result | Figure], *, as_json: bool) -> None:
    """All results as JSON, a line each, or as a table."""
    width = 46
    if not as_json:
        print(f'{"":{width}}{"base µs":>10}{"ours µs":>10}{"ratio":>7}{"quartiles":>14}{"aim":>6}')
    for result in results:
        if as_json:
            print(json.dumps(dataclasses.asdict(result)), flush=True)
        elif isinstance(result, Figure):
            print(f'{result.name:{width}}{result.value:>20.1f} {result.unit}', flush=True)
        else:
            quartiles = '{:.2f} - {:.2f}'.format(*result.quartiles)
            aim = '' if result.aim is None else f'{result.aim:.2f}'
            print(
                f'{result.name:{width}}{result.base:>10.0f}{result.ours:>10.0f}{result.ratio:>7.2f}'
                f'{quartiles:>14}{aim:>6}',
                flush=True,
            )
