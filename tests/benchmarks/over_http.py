"""The complete pipeline beside the floor, each behind a gunicorn of its own on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import floor
import in_process
from harness import Case, Figure

_HERE = pathlib.Path(__file__).parent
_CLIENTS = 4
_PATIENCE = 60.0


def floor_application() -> object:
    """For gunicorn: the floor on the file that the environment names."""
    return floor.make_app(os.environ['BENCHMARK_FILE'], ports=1)


def our_application() -> object:
    """For gunicorn: the complete pipeline on the file that the environment names."""
    from os_interface_ext import conf as config
    from os_interface_ext.db.engine import Database
    from os_interface_ext.extension import Extension
    from os_interface_ext.middleware.static_tokens import StaticTokens
    from os_interface_ext.wsgi.paste import make_application

    conf = config.new([], database={'connection': f'sqlite:///{os.environ["BENCHMARK_FILE"]}'})
    return StaticTokens(make_application(Extension(conf)), Database.of(conf))


class Peer:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection('127.0.0.1', port)

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        self._connection.request(
            method, path, data, {'Content-Type': 'application/json', **dict(in_process.HEADERS)}
        )
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def _served(name: str, path: pathlib.Path, *, workers: int = 1, threads: int = 1) -> Iterator[int]:
    """The port of a gunicorn that serves one of the applications."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [
            sys.executable,
            *('-m', 'gunicorn', f'over_http:{name}()', '--bind', f'127.0.0.1:{port}', '--log-level', 'error'),
            *('--worker-class', 'gthread', '--keep-alive', '60'),
            *('--workers', str(workers), '--threads', str(threads)),
        ],
        cwd=_HERE,
        env={**os.environ, 'BENCHMARK_FILE': str(path)},
    )
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError), contextlib.closing(Peer(port)._connection):
                if in_process.lister(Peer(port))():
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f'gunicorn does not serve {name}')
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def cases(folder: pathlib.Path) -> Iterator[Case]:
    """One client that keeps its connection."""
    in_process.new_database(folder / 'http-ours', 1)[1].dispose()
    with (
        _served('floor_application', folder / 'http-floor') as base,
        _served('our_application', folder / 'http-ours') as ours,
    ):
        theirs, mine = Peer(base), Peer(ours)
        yield Case('HTTP: list, 1 port', in_process.lister(theirs), in_process.lister(mine))
        yield Case('HTTP: show', in_process.shower(theirs), in_process.shower(mine))
        yield Case('HTTP: attach + detach', in_process.cycler(theirs), in_process.cycler(mine))


def figures(folder: pathlib.Path, seconds: float) -> Iterator[Figure]:
    """Answers to several clients at once, by workers and threads."""
    in_process.new_database(folder / 'load-ours', 1)[1].dispose()
    for workers, threads in ((1, 1), (1, 4), (2, 2), (4, 1)):
        for name, path in (('floor_application', 'load-floor'), ('our_application', 'load-ours')):
            file = folder / (f'{path}{workers}{threads}' if name.startswith('floor') else path)
            # The floor makes its file anew in each worker: one has to do.
            if name.startswith('floor') and workers > 1:
                continue
            with _served(name, file, workers=workers, threads=threads) as port:
                rate = _rate(port, seconds)
            side = name.partition('_')[0]
            yield Figure(f'list, {_CLIENTS} clients, {workers} x {threads} ({side})', rate, 'answers a second')


def _rate(port: int, seconds: float) -> float:
    counts = [0] * _CLIENTS
    until = time.monotonic() + seconds

    def ask(number: int) -> None:
        listed = in_process.lister(Peer(port))
        while time.monotonic() < until:
            listed()
            counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds
