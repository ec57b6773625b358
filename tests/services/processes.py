"""The processes of the cloud: started, waited for, and ended with the tests."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

#: Seconds after which something that does not answer is not going to.
PATIENCE = 180.0
#: Seconds that a process has to end when it is asked to.
_GRACE = 15.0
#: Below the range that the kernel takes the ports of outgoing connections from: what is free now stays free.
_PORTS = range(17000, 32000)


class Broken(Exception):
    """A process or a command of the cloud failed; with the last lines of its log."""


class Guard:
    """Kills what is left of the cloud when the tests were killed themselves."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-I', str(pathlib.Path(__file__).with_name('guard.py'))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            cwd='/',
            start_new_session=True,
        )
        self._say(str(folder))

    def watch(self, group: int) -> None:
        self._say(f'+{group}')

    def forget(self, group: int) -> None:
        self._say(f'-{group}')

    def close(self) -> None:
        """End it; it kills and removes what it still knows of."""
        self._process.communicate()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f'{word}\n')
            self._process.stdin.flush()


class Daemon:
    """A process, with its children in a group of their own.

    ``ready`` tells whether it answers; ``logs`` are what there is to read when it does not.
    """

    def __init__(
        self,
        name: str,
        guard: Guard,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: Callable[[], bool],
        logs: Sequence[pathlib.Path],
    ) -> None:
        self.name = name
        self._guard = guard
        self._command = list(command)
        self._environment = dict(environment)
        self._ready = ready
        self._logs = list(logs)
        self._process: subprocess.Popen[bytes] | None = None
        #: when it was started last, in UTC, as databases have it
        self.launched = datetime.datetime.min

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f'{self.name} is not running'
        return self._process.pid

    def launch(self) -> None:
        """Start it, and do not wait."""
        if self.is_running:
            return
        self._discard()
        self.launched = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        with self._logs[0].open('ab') as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd='/',
                env=self._environment,
                start_new_session=True,
            )
        self._guard.watch(self._process.pid)

    def wait(self) -> None:
        """Wait until it answers.

        :raises Broken: if it does not
        """
        until = time.monotonic() + PATIENCE
        while not self._ready():
            if not self.is_running:
                raise Broken(f'{self.name} ended at its start\n{last_lines(*self._logs)}')
            if time.monotonic() > until:
                raise Broken(f'{self.name} does not answer\n{last_lines(*self._logs)}')
            time.sleep(0.05)

    def start(self) -> None:
        self.launch()
        self.wait()

    def request_end(self) -> None:
        """Ask it to end, and do not wait."""
        if self.is_running:
            # Only the first of the group: it knows best how to end the others.
            self._process.terminate()  # type: ignore[union-attr]

    def stop(self) -> None:
        """End it in an orderly way."""
        self.request_end()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self.kill()

    def kill(self) -> None:
        """End it and its children at once, by SIGKILL."""
        self._discard()

    def _discard(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._guard.forget(self._process.pid)
        self._process = None


def run(command: Sequence[str], environment: Mapping[str, str], log: pathlib.Path) -> None:
    """Run a command to its end.

    :raises Broken: if it fails
    """
    with log.open('ab') as output:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment), cwd='/'
        ).returncode
    if status:
        raise Broken(f'{" ".join(command)} ended with {status}\n{last_lines(log)}')


def last_lines(*logs: pathlib.Path, count: int = 30) -> str:
    """The ends of log files, as the text of an error."""
    parts = []
    for log in logs:
        with contextlib.suppress(FileNotFoundError):
            lines = log.read_text(errors='replace').splitlines()[-count:]
            parts.append('\n'.join([f'--- {log.name}', *lines]))
    return '\n'.join(parts)


def listens(port: int) -> bool:
    """Whether a port of 127.0.0.1 accepts connections."""
    try:
        socket.create_connection(('127.0.0.1', port), timeout=5).close()
    except OSError:
        return False
    return True


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A free port of 127.0.0.1 for each name."""
    found: list[int] = []
    while len(found) < len(names):
        port = random.choice(_PORTS)
        if port not in found and _is_free(port):
            found.append(port)
    return dict(zip(names, found, strict=True))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
    return True
