"""Processes of `os-interface-ext serve`, and what tests ask of them."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

COMMAND = [sys.executable, '-m', 'os_interface_ext.cmd.main']
RECORDED = pathlib.Path(__file__).parent.parent / 'data' / 'conformance'
INVENTORY = str(RECORDED / 'inventory.yaml')
_NAMES = json.loads((RECORDED / 'names.json').read_text())
#: symbolic name -> id, and caller -> token, as the recorded cases have them
NAMES: dict[str, str] = _NAMES['names']
TOKENS: dict[str, str] = _NAMES['tokens']

#: Seconds after which something that is waited for is not going to happen any more.
PATIENCE = 30.0


@dataclasses.dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: Any


@dataclasses.dataclass
class Service:
    """A running `serve`: its first words, where it listens, and its process."""

    process: subprocess.Popen[str]
    greeting: str
    url: str

    def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request; ``body`` is sent as JSON."""
        sent = dict(headers or {})
        if token is not None:
            sent['X-Auth-Token'] = token
        data = None if body is None else json.dumps(body)
        if data is not None:
            sent.setdefault('Content-Type', 'application/json')
        target = urllib.parse.urlsplit(self.url)
        with contextlib.closing(
            http.client.HTTPConnection(target.hostname or '', target.port, timeout=60)
        ) as peer:
            peer.request(method, path, data, sent)
            response = peer.getresponse()
            text = response.read()
        return Answer(response.status, response.headers, json.loads(text) if text else None)

    def reset(self) -> None:
        assert self.call('POST', '/standalone/reset').status == 204

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()


Start = Callable[..., Service]


def environment(home: pathlib.Path, **variables: str) -> dict[str, str]:
    """The environment of a process: nothing of this machine's clouds and configurations."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('OS_', 'XDG_', 'GUNICORN', 'LISTEN_', 'NOTIFY_'))
    }
    return {**kept, 'HOME': str(home), **variables}


def run(home: pathlib.Path, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_serve(home: pathlib.Path, *arguments: str) -> Service:
    """Start `serve` on a free port, and wait until it listens."""
    log = (home / 'serve.log').open('a')
    process = subprocess.Popen(
        [*COMMAND, 'serve', '--port', '0', *arguments],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    log.close()
    assert process.stdout is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    lines = []
    try:
        # The greeting ends with the line for the openstack client.
        for line in process.stdout:
            lines.append(line)
            if line.lstrip().startswith('openstack '):
                break
        else:
            raise AssertionError(f'serve did not start: {(home / "serve.log").read_text()}')
    finally:
        watchdog.cancel()
    url = next(word for word in lines[0].split() if word.startswith('http://'))
    return Service(process, ''.join(lines), url)


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, 'it has not come true'
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts services that end with the test."""
    started: list[Service] = []

    def start_one(*arguments: str) -> Service:
        started.append(start_serve(tmp_path, *arguments))
        return started[-1]

    yield start_one
    for service in started:
        service.stop()


def _session(factory: pytest.TempPathFactory, name: str, *arguments: str) -> Iterator[Service]:
    home = factory.mktemp(name)
    service = start_serve(home, *arguments)
    yield service
    assert service.stop() == 0
    assert 'Traceback' not in (home / 'serve.log').read_text()


@pytest.fixture(scope='session')
def _recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    yield from _session(tmp_path_factory, 'recorded', '--inventory', INVENTORY, '--allow-reset')


@pytest.fixture(scope='session')
def _demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    yield from _session(tmp_path_factory, 'demo', '--allow-reset', '--workers', '2')


@pytest.fixture
def recorded(_recorded: Service) -> Service:
    """A service at the starting state of the recorded cases."""
    _recorded.reset()
    return _recorded


@pytest.fixture
def demo(_demo: Service) -> Service:
    """A service with the demo inventory, as a newcomer has it; two workers."""
    _demo.reset()
    return _demo
