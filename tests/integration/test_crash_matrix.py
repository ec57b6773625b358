"""SIGKILL before and after every commit and every side effect, on each database: nothing leaks or is lost."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments import store
from os_interface_ext.attachments.states import State
from os_interface_ext.db import schema, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from os_interface_ext.inventory import tables as inventory_tables
from os_interface_ext.testing.faults import Faults
from tests.integration import crash

pytestmark = pytest.mark.service

PROJECT = 'project-a'
SERVER = 'f6de9c1e-8a24-4d5f-a488-daeacc94609f'
NETWORK = '5bcc01ca-7e46-427a-9fdf-042bd9b0125c'
V4 = 'a69f19c7-6464-4b67-ace3-f3b97524ab35'
V6 = '172face0-2c54-4abc-891d-70180d77a81b'
BROUGHT = '20fb9f86-d480-4c15-a0b3-30f0d976b05b'
BOOTED = '50f6619b-4fb7-4614-a814-2c201c9a80a8'
ADDRESS = '10.20.0.77'
#: What has an effect that a crash could leave behind. Reads and the begin of a transaction have none.
EFFECTS = {'commit', 'create', 'claim', 'bind', 'unbind', 'delete', 'plug', 'unplug'}
FAILED = 'FAILED'
#: Looks of the reconciler after which everything has to be at rest.
LOOKS = 8

INVENTORY = {
    # One more than the inventory has: a port that leaks makes the repetition fail.
    'quotas': [{'project_id': PROJECT, 'ports': 3}],
    'networks': [
        {
            'id': NETWORK,
            'name': 'private',
            'project_id': PROJECT,
            'subnets': [
                {'id': V4, 'cidr': '10.20.0.0/24', 'gateway_ip': '10.20.0.1'},
                {'id': V6, 'cidr': 'fd20::/64', 'gateway_ip': 'fd20::1'},
            ],
        }
    ],
    'servers': [{'id': SERVER, 'name': 'web-1', 'project_id': PROJECT, 'host': 'compute-1'}],
    'ports': [
        {
            'id': BROUGHT,
            'project_id': PROJECT,
            'network_id': NETWORK,
            'fixed_ips': [{'subnet_id': V4, 'ip_address': '10.20.0.50'}],
        },
        {
            'id': BOOTED,
            'project_id': PROJECT,
            'network_id': NETWORK,
            'fixed_ips': [{'subnet_id': V4, 'ip_address': '10.20.0.11'}],
            'device_id': SERVER,
            'created_by_attach': True,
        },
    ],
}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is done when the process dies; ``prepare``: what was attached, or died, before that."""

    name: str
    operation: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: an attach before; its port is what is detached then
    prepare: dict[str, Any] | None = None
    #: faults of the attach before, of which its process dies
    prepare_faults: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


BY_NETWORK = {'network_id': NETWORK}
BY_PORT = {'port_id': BROUGHT}
PLUG_FAILS = ('after plug:raise=PlugFailed',)
SCENARIOS = [
    Scenario('attach by network', 'attach', BY_NETWORK),
    Scenario('attach by port', 'attach', BY_PORT),
    Scenario('attach with an address', 'attach', BY_NETWORK | {'ip_address': ADDRESS}),
    Scenario('detach of a created port', 'detach', prepare=BY_NETWORK),
    Scenario('detach of a brought port', 'detach', prepare=BY_PORT),
    Scenario('detach without a record', 'detach', {'port_id': BOOTED}),
    Scenario('undo: plug fails, created', 'attach', BY_NETWORK, faults=PLUG_FAILS),
    Scenario('undo: plug fails, brought', 'attach', BY_PORT, faults=PLUG_FAILS),
    Scenario('undo: create unknown', 'attach', BY_NETWORK, faults=('after create:unknown',)),
    Scenario('undo: claim unknown', 'attach', BY_PORT, faults=('after claim:unknown',)),
    Scenario('reconciler, created', 'reconcile', prepare=BY_NETWORK, prepare_faults=('after plug:kill',)),
    Scenario('reconciler, brought', 'reconcile', prepare=BY_PORT, prepare_faults=('after plug:kill',)),
]


class World:
    """A database with the inventory, and the NICs; looked at by a process that does not die."""

    def __init__(self, url: str, nics: pathlib.Path, zygote: crash.Zygote) -> None:
        self.url = url
        self._nics_root = nics
        self._zygote = zygote
        self._cases = 0
        self._inventory = loader.parse(json.dumps(INVENTORY), 'inventory')
        self.nics = nics
        empty = Database(config.new([], database={'connection': url}))
        schema.upgrade(empty)
        empty.dispose()
        self.parts: deploy.Parts = crash.assemble(url, str(nics), Faults())
        self._ctxt = crash.caller(PROJECT)

    # ------------------------------------------------------------------ what happens

    def begin(self) -> None:
        """The inventory as it was, no records, and no NIC but the one of the boot."""
        with self.parts.database.write() as connection:
            store.clear(connection)
            for table in (tables.suspects, tables.heartbeats):
                connection.execute(sa.delete(table))
            loader.load(connection, self._inventory)
        self._cases += 1
        self.nics = self._nics_root / str(self._cases)
        (self.nics / SERVER).mkdir(parents=True)
        (self.nics / SERVER / BOOTED).touch()
        self.parts.conf.set_override('path', str(self.nics), group='file_vif')
        self.at_first = self._ports(), self._addresses()

    def prepare(self, scenario: Scenario) -> dict[str, Any]:
        """What comes before; the arguments of the operation."""
        self.begin()
        if scenario.prepare is None:
            return scenario.arguments
        if scenario.prepare_faults:
            outcome = self.run('attach', scenario.prepare, *scenario.prepare_faults)
            assert outcome.status == -signal.SIGKILL
            self._expire()
            return {}
        return {'port_id': self.perform('attach', scenario.prepare)}

    def run(self, operation: str, arguments: dict[str, Any], *faults: str) -> crash.Outcome:
        """Have another process do it."""
        return self._zygote.run(
            crash.Case(self.url, str(self.nics), PROJECT, SERVER, operation, arguments, list(faults))
        )

    def perform(self, operation: str, arguments: dict[str, Any]) -> str | None:
        return crash.perform(self.parts, PROJECT, SERVER, operation, arguments)

    def reconcile(self) -> None:
        """Until two looks after another find nothing."""
        quiet = 0
        for _ in range(LOOKS):
            self._expire()
            lines = self.parts.reconciler.once().lines()
            quiet = 0 if lines else quiet + 1
            if quiet == 2:
                return
        raise AssertionError(f'the reconciler does not come to rest: {lines}')

    def _expire(self) -> None:
        with self.parts.database.write() as connection:
            connection.execute(sa.update(tables.attachments).values(lease_expires=0.0))

    # ------------------------------------------------------------------ what is there

    def attached(self) -> list[str]:
        """The ports of the server as the API shows them."""
        server = self.parts.drivers.server.get(self._ctxt, SERVER)
        return [one.port_id for one in self.parts.manager.list(self._ctxt, server)]

    def _ports(self) -> dict[str, Any]:
        ports = inventory_tables.ports
        columns = (ports.c.id, ports.c.device_id, ports.c.host, ports.c.status, ports.c.mark)
        with self.parts.database.read() as connection:
            return {row.id: row for row in connection.execute(sa.select(*columns))}

    def _addresses(self) -> dict[str, set[str]]:
        found = collections.defaultdict(set)
        addresses = inventory_tables.addresses
        with self.parts.database.read() as connection:
            for row in connection.execute(sa.select(addresses.c.port_id, addresses.c.ip_address)):
                found[row.port_id].add(row.ip_address)
        return dict(found)

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Nothing is leaked, lost, doubled or in motion."""
        records = list(self.parts.store.listed())
        assert {record.state for record in records} <= {State.ATTACHED}
        assert {record.owner for record in records} <= {None}
        recorded = {record.port_id for record in records}
        ports, addresses = self._ports(), self._addresses()
        marks = {record.mark for record in records if record.created}
        assert {port.mark for port in ports.values() if port.mark} == marks, 'a marked port without a record'
        assert BROUGHT in ports, 'a brought port was deleted'
        assert recorded <= set(ports), 'an attachment without its port'
        bound = {port.id for port in ports.values() if port.device_id}
        assert bound <= recorded | {BOOTED}, 'a port is bound without an attachment'
        assert recorded <= bound, 'the port of an attachment is not bound'
        plugged = {path.name for path in self.nics.rglob('*') if path.is_file()}
        assert plugged == bound, 'the NICs are not those of the attachments'
        assert set(self.attached()) == bound
        assert set(addresses) == set(ports), 'addresses without a port, or a port without addresses'
        known = self.at_first[1]
        assert all(addresses[port_id] == known[port_id] for port_id in ports if port_id in known)
        # Its quota of three ports leaves room for one that was made here.
        assert len(ports) <= 3
        with self.parts.database.read() as connection:
            assert connection.execute(sa.select(tables.suspects)).all() == []

    def check_as_at_first(self) -> None:
        """There is no trace of anything, but of the port that was made at boot and is gone with its detach."""
        self.check()
        assert list(self.parts.store.listed()) == []
        kept, there = (
            [{name: row for name, row in at.items() if name != BOOTED} for at in both]
            for both in (self.at_first, (self._ports(), self._addresses()))
        )
        assert there == kept


def points(passed: list[str]) -> list[tuple[str, int]]:
    """The points of a dry run that are to be killed at, each with its number among those of its name."""
    counted: collections.Counter[str] = collections.Counter()
    found = []
    for point in passed:
        counted[point] += 1
        if point.split()[1] in EFFECTS:
            found.append((point, counted[point]))
    return found


@pytest.fixture(scope='session')
def zygote() -> Iterator[crash.Zygote]:
    with crash.running() as started:
        yield started


#: database -> scenario -> point -> what came of the request
Table = dict[str, dict[str, dict[str, str]]]


@pytest.fixture(scope='session')
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Collects what came out, and prints it at the end."""
    begun = time.monotonic()
    results: Table = {}
    yield results
    capture = request.config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        print('\n' + render(results, time.monotonic() - begun))


def render(results: Table, seconds: float) -> str:
    """The matrix: a row for each point, a column for each database; a cell tells what became of the request."""
    databases = list(results)
    lines = [f'{"crash matrix: killed":<52}' + ''.join(f'{name:>22}' for name in databases)]
    cells: list[str] = []
    for scenario in dict.fromkeys(name for by in results.values() for name in by):
        lines.append(scenario)
        for point in dict.fromkeys(point for by in results.values() for point in by.get(scenario, {})):
            row = [results[name].get(scenario, {}).get(point, '-') for name in databases]
            cells += [cell for cell in row if cell != '-']
            lines.append(f'  {point:<50}' + ''.join(f'{cell:>22}' for cell in row))
    lost = cells.count(FAILED)
    lines.append(f'{len(cells)} processes killed in {seconds:.0f} s; points with a leak or a loss: {lost}')
    return '\n'.join(lines)


@pytest.fixture(scope='module')
def world(database_url: str, tmp_path_factory: pytest.TempPathFactory, zygote: crash.Zygote) -> Iterator[World]:
    made = World(database_url, tmp_path_factory.mktemp('nics'), zygote)
    yield made
    made.parts.database.dispose()


@pytest.mark.parametrize('scenario', SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_point(world: World, scenario: Scenario, table: Table, record_property: Any) -> None:
    arguments = world.prepare(scenario)
    dry = world.run(scenario.operation, arguments, *scenario.faults)
    assert dry.status == 0
    assert (dry.error is None) == (not scenario.faults), dry
    kind = world.url.partition(':')[0].partition('+')[0]
    database = 'mariadb' if kind == 'mysql' else kind
    results = table.setdefault(database, {}).setdefault(scenario.name, {})
    failures = []
    found = points(dry.passed)
    assert {'before commit', 'after commit'} <= {point for point, _ in found}
    for point, number in found:
        name = f'{point} #{number}'
        try:
            results[name] = killed_at(world, scenario, point, number)
        except AssertionError as error:
            results[name] = FAILED
            failures.append(f'{name}: {error}')
    record_property('points', len(found))
    assert not failures, '\n'.join(failures)


def killed_at(world: World, scenario: Scenario, point: str, number: int) -> str:
    """One cell of the matrix."""
    arguments = world.prepare(scenario)
    before = world.attached()
    outcome = world.run(scenario.operation, arguments, f'{point}#{number}:kill', *scenario.faults)
    assert outcome.status == -signal.SIGKILL, f'this point was not reached: {outcome}'
    world.reconcile()
    world.check()
    after = world.attached()
    if scenario.operation == 'attach':
        come_out = 'complete' if len(after) > len(before) else 'undone'
        if come_out == 'undone':
            world.check_as_at_first()
    else:
        come_out = 'not begun' if arguments.get('port_id') in after else 'finished'
    repeat(world, scenario, arguments, after)
    return come_out


def repeat(world: World, scenario: Scenario, arguments: dict[str, Any], there: list[str]) -> None:
    """The same request again, and then everything is taken off: nothing stands in the way, nothing is left."""
    if scenario.operation == 'attach':
        if arguments == BY_NETWORK:
            # Each POST is a new attachment; the quota is for one.
            for port_id in set(there) - {BOOTED}:
                world.perform('detach', {'port_id': port_id})
        attached = world.perform('attach', arguments)
        assert attached in world.attached()
        assert len(world.attached()) == 2
        world.check()
        world.perform('detach', {'port_id': attached})
    elif scenario.operation == 'detach':
        with contextlib.suppress(exceptions.NotAttached):
            world.perform('detach', arguments)
        assert arguments['port_id'] not in world.attached()
    world.check_as_at_first()
