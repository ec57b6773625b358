"""A host with the plug-in on the recorded starting state, in process."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import flask
import pytest
import webtest

from os_interface_ext import conf as config
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.middleware.static_tokens import StaticTokens
from tests import migrated

DATA = pathlib.Path(__file__).parent.parent / 'data' / 'conformance'
_NAMES = json.loads((DATA / 'names.json').read_text())
#: symbolic name -> id, as the recorded cases have them
NAMES: dict[str, str] = _NAMES['names']
TOKENS: dict[str, str] = _NAMES['tokens']


@dataclasses.dataclass
class World:
    """The host, and calls to it in the name of a caller (default: a member of project a)."""

    conf: Any
    database: Database
    extension: Extension
    app: webtest.TestApp

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = 'a_member',
        version: str | None = '2.70',
        headers: dict[str, str] | None = None,
    ) -> webtest.TestResponse:
        sent = dict(headers or {})
        if who:
            sent['X-Auth-Token'] = TOKENS[who]
        if version:
            sent['OpenStack-API-Version'] = f'compute {version}'
        data = b''
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault('Content-Type', 'application/json')
        return self.app.request(
            path, method=method, body=data, headers=sent, expect_errors=True, content_type=None
        )

    def url(self, server: str, port: str | None = None) -> str:
        """The URL of a server's interfaces, or of one of them; ids by symbolic name."""
        base = f'/v2.1/servers/{NAMES.get(server, server)}/os-interface'
        return base if port is None else f'{base}/{NAMES.get(port, port)}'

    def attach(self, server: str = 'srv_active', who: str = 'a_member', **wanted: Any) -> webtest.TestResponse:
        wanted = {
            key: NAMES.get(value, value) if isinstance(value, str) else value for key, value in wanted.items()
        }
        return self.call('POST', self.url(server), {'interfaceAttachment': wanted}, who=who)

    def ports(self, server: str = 'srv_active') -> list[str]:
        answer = self.call('GET', self.url(server), who='admin')
        return [one['port_id'] for one in answer.json['interfaceAttachments']]


class Plugs(NoopVIFDriver):
    """Plugs nothing, but is taken at its word as if it did."""

    has_side_effects = True


Build = Callable[..., World]


@pytest.fixture(scope='session')
def _template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A database with the starting state, made once."""
    path = tmp_path_factory.mktemp('template') / 'osif.sqlite'
    database = migrated.database_of(config.new([], database={'connection': f'sqlite:///{path}'}))
    text = (DATA / 'inventory.yaml').read_text()
    with database.write() as connection:
        loader.load(connection, loader.parse(text, 'inventory.yaml'))
    database.dispose()
    return path


@pytest.fixture
def build(_template: pathlib.Path, tmp_path: pathlib.Path) -> Build:
    """Make a world: ``build(server_driver=…, network_driver=…, vif_driver=…, api={…})``.

    A driver may be a class: it is constructed with the world's configuration.
    """

    def make(name: str = 'world', app: flask.Flask | None = None, **options: Any) -> World:
        path = tmp_path / f'{name}.sqlite'
        shutil.copy(_template, path)
        drivers = {key: options.pop(key) for key in list(options) if key.endswith('_driver')}
        conf = config.new([], database={'connection': f'sqlite:///{path}'}, **options)
        made = {key: driver(conf) if isinstance(driver, type) else driver for key, driver in drivers.items()}
        extension = Extension(conf, **made)
        host = app or flask.Flask('host')
        extension.register(host, url_prefix='/v2.1')
        database = Database.of(conf)
        return World(conf, database, extension, webtest.TestApp(StaticTokens(host, database)))

    return make


@pytest.fixture
def world(build: Build) -> World:
    return build()


# ------------------------------------------------------------------ what a run tells at its end

Report = Callable[[str, str], None]
_TOLD = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """``report(title, line)``: a line that the run shows at its end, whether or not the tests pass."""
    told = request.config.stash.setdefault(_TOLD, {})
    return lambda title, line: told.setdefault(title, []).append(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(_TOLD, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
