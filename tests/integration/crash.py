"""Processes that are killed at a named point.

Run as a module this is a zygote: everything is imported, nothing is begun, and there is one thread. For
each line on its standard input, a case as JSON, it forks a process that does the case and perhaps dies of
it, tells its id in a line, and in another how that ended. So a process costs a few milliseconds, not a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers.networks.neutron import NeutronNetworkDriver
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.testing.faults import Faults, FileVIFDriver, wrap

for _driver in ('psycopg', 'pymysql'):
    with contextlib.suppress(ImportError):
        __import__(_driver)


_NETWORKS = {'sql': SQLNetworkDriver, 'neutron': NeutronNetworkDriver}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process works: the database, the folder of the NICs, and configuration files for what else there is.

    ``token``: what the caller has for the services behind.
    """

    url: str
    nics: str
    project_id: str
    server_id: str
    files: tuple[str, ...] = ()
    token: str | None = None

    @property
    def caller(self) -> RequestContext:
        return RequestContext(
            user_id='user', project_id=self.project_id, roles=['member', 'reader'], auth_token=self.token
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process does: an operation with its arguments, with these faults."""

    place: Place
    operation: str
    arguments: dict[str, Any]
    faults: list[str]

    @classmethod
    def of(cls, text: str) -> Case:
        values = json.loads(text)
        return cls(**values | {'place': Place(**values['place'])})


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How it ended: the exit status (a signal: negative), and what a living process told.

    ``answer`` is the id of the port that was attached; ``error`` the name of the error.
    """

    status: int
    passed: list[str]
    answer: str | None = None
    error: str | None = None


def assemble(place: Place, faults: Faults) -> deploy.Parts:
    """The parts of a process, with servers of the embedded inventory and NICs that are files."""
    conf = config.new(
        place.files,
        database={'connection': place.url},
        attachments={'wait': 0.0},
        reconciler={'grace': 0.0, 'backoff': 0.01, 'backoff_cap': 0.01},
    )
    faults.watch(Database.of(conf))
    vifs = FileVIFDriver(conf)
    conf.set_override('path', place.nics, group='file_vif')
    return deploy.assemble(
        conf,
        server_driver=wrap(SQLServerDriver(conf), faults),
        network_driver=wrap(_NETWORKS[conf.os_interface.network_driver](conf), faults),
        vif_driver=wrap(vifs, faults),
    )


def perform(parts: deploy.Parts, place: Place, operation: str, arguments: dict[str, Any]) -> str | None:
    """Do what a case says; the id of the port that was attached."""
    ctxt = place.caller
    if operation == 'reconcile':
        parts.reconciler.once()
        return None
    server = parts.drivers.server.get(ctxt, place.server_id)
    if operation == 'attach':
        return parts.manager.attach(ctxt, server, AttachRequest(**arguments)).id
    parts.manager.detach(ctxt, server, **arguments)
    return None


# ---------------------------------------------------------------------- the zygote


def _serve() -> None:
    for line in sys.stdin:
        assert threading.active_count() == 1
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _do(Case.of(line), writing)
        os.close(writing)
        print(child, flush=True)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        outcome = {'passed': []} | json.loads(told or '{}') | {'status': os.waitstatus_to_exitcode(status)}
        print(json.dumps(outcome), flush=True)


def _do(case: Case, pipe: int) -> None:
    status = 1
    try:
        faults = Faults.parse(case.faults)
        parts = assemble(case.place, faults)
        told: dict[str, Any] = {}
        try:
            told['answer'] = perform(parts, case.place, case.operation, case.arguments)
        except exceptions.OsInterfaceError as error:
            told['error'] = type(error).__name__
        told['passed'] = faults.passed
        with os.fdopen(pipe, 'w') as file:
            file.write(json.dumps(told))
        status = 0
    finally:
        # Nothing of the zygote's is finished by its child.
        os._exit(status)


class Zygote:
    """The zygote, as seen by the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        #: the process that does the case at hand
        self._child: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self, case: Case) -> Outcome:
        """Have a process do a case, to its end."""
        assert self._process.stdin is not None
        self._child = queue.SimpleQueue()
        self._process.stdin.write(json.dumps(dataclasses.asdict(case)) + '\n')
        self._process.stdin.flush()
        self._child.put(int(self._line()))
        return Outcome(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, 'the zygote has ended'
        return line

    def kill(self) -> None:
        """Kill the process that does the case at hand; at most once, from another thread."""
        os.kill(self._child.get(timeout=10), signal.SIGKILL)


@contextlib.contextmanager
def running() -> Iterator[Zygote]:
    """A zygote, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.integration.crash'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    try:
        yield Zygote(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


if __name__ == '__main__':
    _serve()
