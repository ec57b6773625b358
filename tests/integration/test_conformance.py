"""The recorded cases: what the reference answered, answered by us, over HTTP and in process."""

from __future__ import annotations

import io
import json
import pathlib
import urllib.parse
import wsgiref.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.standalone import app, seed
from tests.data.conformance import replay
from tests.integration.conftest import INVENTORY, NAMES, RECORDED, TOKENS, Service

CASES = [json.loads(line) for line in (RECORDED / 'cases.jsonl').read_text().splitlines() if line.strip()]
HEADERS = {caller: {'X-Auth-Token': token} for caller, token in TOKENS.items()}

Call = Callable[[str, str, dict[str, str], bytes], tuple[int, list[tuple[str, str]], bytes]]


def replay_all(call: Call, reset: Callable[[], None]) -> None:
    out = io.StringIO()
    report = replay.replay(CASES, call, NAMES, HEADERS, reset=reset, out=out)
    assert report['cases'] == len(CASES) > 300
    assert not report['failed'], out.getvalue()


@pytest.mark.service
def test_over_http(recorded: Service) -> None:
    replay_all(replay.http_call(recorded.url), recorded.reset)


@pytest.fixture
def controller(tmp_path: pathlib.Path) -> Iterator[tuple[app.WSGIApplication, Callable[[], None]]]:
    conf = config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'})
    database = Database.of(conf)
    schema.upgrade(database)
    file = seed.InventoryFile(INVENTORY)
    yield app.create(conf), lambda: seed.reset(database, file)
    database.dispose()


def test_in_process(controller: tuple[app.WSGIApplication, Callable[[], None]]) -> None:
    application, reset = controller

    def call(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[Any], bytes]:
        return in_process(application, method, path, headers, body)

    replay_all(call, reset)


def in_process(
    application: app.WSGIApplication, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """What a WSGI server makes of a request, nothing in it made tidy."""
    path, _, query = path.encode().decode('latin-1').partition('?')
    environ: dict[str, Any] = {
        'REQUEST_METHOD': method,
        'PATH_INFO': urllib.parse.unquote(path, 'latin-1'),
        'QUERY_STRING': query,
        'CONTENT_LENGTH': str(len(body)),
        'wsgi.input': io.BytesIO(body),
    }
    for name, value in headers.items():
        key = name.upper().replace('-', '_')
        environ[key if key in ('CONTENT_TYPE', 'CONTENT_LENGTH') else f'HTTP_{key}'] = value
    wsgiref.util.setup_testing_defaults(environ)
    started: list[Any] = []
    chunks = application(environ, lambda status, headers, exc_info=None: started.extend((status, headers)))
    try:
        data = b''.join(chunks)
    finally:
        getattr(chunks, 'close', lambda: None)()
    return int(started[0].split()[0]), started[1], data
