"""What the contract suites share."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base

T = TypeVar('T')

#: Texts that may stand in a URL where an id is expected, and are the id of nothing.
ODD_IDS = (
    '',
    ' ',
    'a b',
    'nul\0byte',
    'x' * 300,
    'größe-☃-😀',
    '%',
    '_',
    "it's",
    '"',
    '../ports',
    'a/b?c=d&e#f',
    '-1',
    'None',
)
#: Seconds that a side effect of a suite may take, a slow backend included.
PATIENCE = 60.0

odd_ids = pytest.mark.parametrize('odd', ODD_IDS, ids=[ascii(odd)[:24] for odd in ODD_IDS])


def member(server: base.Server) -> RequestContext:
    """An ordinary caller of the server's project."""
    return RequestContext(user_id='contract-suite', project_id=server.project_id, roles=['member', 'reader'])


def new_id() -> str:
    """An id that nothing has."""
    return str(uuid.uuid4())


def servers_like(server: base.Server, count: int) -> list[base.Server]:
    """Servers of the same project that no controller knows."""
    return [dataclasses.replace(server, id=new_id()) for _ in range(count)]


def fence() -> base.Fence:
    """A fence with ample time, of a later generation than all before it."""
    return base.Fence(generation=time.monotonic_ns(), deadline=time.monotonic() + PATIENCE)


def past_fence() -> base.Fence:
    """A fence whose time is over."""
    return base.Fence(generation=time.monotonic_ns(), deadline=time.monotonic() - 1.0)


def need(value: T | None, name: str) -> T:
    """The value of an optional field of the backend under test; without it the test is skipped."""
    if value is None:
        pytest.skip(f'the backend under test has no {name}')
    return value


def need_override(driver: object, kind: type, method: str) -> None:
    """Skip the test of an optional method that the driver leaves at its default."""
    if getattr(type(driver), method) is getattr(kind, method):
        pytest.skip(f'{type(driver).__name__} leaves the optional {method} at its default')


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What each call answered, or the error that it raised; all are begun at one moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE)
        try:
            return settled(call)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def settled(call: Callable[[], T], tries: int = 10) -> T:
    """The answer to a call that is asked again while it is Unavailable, as every caller does."""
    for _ in range(tries - 1):
        try:
            return call()
        except exceptions.DeadlinePassed:
            raise
        except exceptions.Unavailable:
            continue
    return call()


@contextlib.contextmanager
def refused_by_fence() -> Iterator[base.Fence]:
    """A fence past its deadline for the call in the block, which must raise DeadlinePassed."""
    with pytest.raises(exceptions.DeadlinePassed):
        yield past_fence()


@contextlib.contextmanager
def answer_lost(answers_lost: Callable[[], contextlib.AbstractContextManager[object]] | None) -> Iterator[None]:
    """The call in the block has its effect, but its answer is lost, which it must tell."""
    with need(answers_lost, 'answers_lost')(), pytest.raises(exceptions.UnknownOutcome):
        yield


@contextlib.contextmanager
def unanswered(unreachable: Callable[[], contextlib.AbstractContextManager[object]] | None) -> Iterator[None]:
    """The call in the block is not answered, which it must tell."""
    with need(unreachable, 'unreachable')(), pytest.raises(exceptions.Unavailable):
        yield


def through_json(value: T) -> T:
    """The value as it comes back from a record."""
    copy: T = json.loads(json.dumps(value))
    return copy


def assert_full_str(value: object) -> None:
    assert isinstance(value, str)
    assert value


def assert_optional_str(value: object) -> None:
    assert value is None or isinstance(value, str)
