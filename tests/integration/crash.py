"""Processes that are killed at a named point.

Run as a module this is a zygote: everything is imported, nothing is begun, and there is one thread. For
each line on its standard input, a case as JSON, it forks a process that does the case and perhaps dies of
it, and answers with a line how that ended. So a process costs a few milliseconds, not a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
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
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.testing.faults import Faults, FileVIFDriver, wrap

for _driver in ('psycopg', 'pymysql'):
    with contextlib.suppress(ImportError):
        __import__(_driver)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process does: an operation with its arguments, with these faults."""

    url: str
    nics: str
    project_id: str
    server_id: str
    operation: str
    arguments: dict[str, Any]
    faults: list[str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How it ended: the exit status (a signal: negative), and what a living process told.

    ``answer`` is the id of the port that was attached; ``error`` the name of the error.
    """

    status: int
    passed: list[str]
    answer: str | None = None
    error: str | None = None


def assemble(url: str, nics: str, faults: Faults) -> deploy.Parts:
    """The parts of a process, with the embedded inventory and NICs that are files."""
    conf = config.new(
        [],
        database={'connection': url},
        attachments={'wait': 0.0},
        reconciler={'grace': 0.0, 'backoff': 0.01, 'backoff_cap': 0.01},
    )
    faults.watch(Database.of(conf))
    vifs = FileVIFDriver(conf)
    conf.set_override('path', nics, group='file_vif')
    return deploy.assemble(
        conf,
        server_driver=wrap(SQLServerDriver(conf), faults),
        network_driver=wrap(SQLNetworkDriver(conf), faults),
        vif_driver=wrap(vifs, faults),
    )


def caller(project_id: str) -> RequestContext:
    return RequestContext(user_id='user', project_id=project_id, roles=['member', 'reader'])


def perform(
    parts: deploy.Parts, project_id: str, server_id: str, operation: str, arguments: dict[str, Any]
) -> str | None:
    """Do what a case says; the id of the port that was attached."""
    ctxt = caller(project_id)
    if operation == 'reconcile':
        parts.reconciler.once()
        return None
    server = parts.drivers.server.get(ctxt, server_id)
    if operation == 'attach':
        return parts.manager.attach(ctxt, server, AttachRequest(**arguments)).port_id
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
            _do(Case(**json.loads(line)), writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        outcome = {'passed': []} | json.loads(told or '{}') | {'status': os.waitstatus_to_exitcode(status)}
        sys.stdout.write(json.dumps(outcome) + '\n')
        sys.stdout.flush()


def _do(case: Case, pipe: int) -> None:
    status = 1
    try:
        faults = Faults.parse(case.faults)
        parts = assemble(case.url, case.nics, faults)
        told: dict[str, Any] = {}
        try:
            told['answer'] = perform(parts, case.project_id, case.server_id, case.operation, case.arguments)
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

    def run(self, case: Case) -> Outcome:
        """Have a process do a case, to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dataclasses.asdict(case)) + '\n')
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, 'the zygote has ended'
        return Outcome(**json.loads(line))


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
