"""A queue with a thread of its own: whoever puts something in never waits for the one who handles it."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar('T')

#: Seconds that the end of the process waits for what is still in the queue.
_LAST_WORDS = 1.0


class Outbox(Generic[T]):
    """:param handle: called with one thing after the other, in the order in which they came; must not raise
    :param room: things that wait; more are refused
    """

    def __init__(self, name: str, handle: Callable[[T], object], room: int) -> None:
        self._name = name
        self._handle = handle
        self._room = room
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._waiting: queue.Queue[T] = queue.Queue(room)

    def put(self, thing: T) -> bool:
        """Have it handled later; False if there is no room for it."""
        self._ensure_thread()
        try:
            self._waiting.put_nowait(thing)
        except queue.Full:
            return False
        return True

    def flush(self, timeout: float) -> bool:
        """Wait so long until all is handled; False if it is not."""
        if self._pid != os.getpid():
            return True
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, timeout)

    def _ensure_thread(self) -> None:
        # Threads do not survive a fork, and what a parent has queued is the parent's to handle.
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._waiting = queue.Queue(self._room)
                    threading.Thread(target=self._run, args=(self._waiting,), name=self._name, daemon=True).start()
                    atexit.register(self.flush, _LAST_WORDS)
                    self._pid = os.getpid()

    def _run(self, waiting: queue.Queue[T]) -> None:
        while True:
            thing = waiting.get()
            try:
                self._handle(thing)
            finally:
                waiting.task_done()
