"""The crash matrix: an operation dies at each of its points, and nothing leaks or is lost on any networks."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments import store
from os_interface_ext.attachments.states import State
from os_interface_ext.db import schema, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.testing.faults import Faults
from tests.integration import crash

#: What has an effect that a crash could leave behind. Reads and the begin of a transaction have none.
EFFECTS = {'commit', 'create', 'claim', 'bind', 'unbind', 'delete', 'plug', 'unplug'}
FAILED = 'FAILED'
#: Looks of the reconciler after which everything has to be at rest.
LOOKS = 8


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is done when the process dies; ``prepare``: what was attached, or died, before that.

    Arguments name things of the world: ``{'network_id': 'network'}`` is the attribute of its ``Things``.
    """

    name: str
    operation: str
    arguments: dict[str, str] = dataclasses.field(default_factory=dict)
    #: an attach before; its port is what is detached then
    prepare: dict[str, str] | None = None
    #: faults of the attach before, of which its process dies
    prepare_faults: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


BY_NETWORK = {'network_id': 'network'}
BY_PORT = {'port_id': 'brought'}
PLUG_FAILS = ('after plug:raise=PlugFailed',)
SCENARIOS = [
    Scenario('attach by network', 'attach', BY_NETWORK),
    Scenario('attach by port', 'attach', BY_PORT),
    Scenario('attach with an address', 'attach', BY_NETWORK | {'ip_address': 'address'}),
    Scenario('detach of a created port', 'detach', prepare=BY_NETWORK),
    Scenario('detach of a brought port', 'detach', prepare=BY_PORT),
    Scenario('detach without a record', 'detach', {'port_id': 'booted'}),
    Scenario('undo: plug fails, created', 'attach', BY_NETWORK, faults=PLUG_FAILS),
    Scenario('undo: plug fails, brought', 'attach', BY_PORT, faults=PLUG_FAILS),
    Scenario('undo: create unknown', 'attach', BY_NETWORK, faults=('after create:unknown',)),
    Scenario('undo: claim unknown', 'attach', BY_PORT, faults=('after claim:unknown',)),
    Scenario('reconciler, created', 'reconcile', prepare=BY_NETWORK, prepare_faults=('after plug:kill',)),
    Scenario('reconciler, brought', 'reconcile', prepare=BY_PORT, prepare_faults=('after plug:kill',)),
]


@dataclasses.dataclass(frozen=True)
class Things:
    """The names that scenarios use: a network, a port of the user's, one of the server's boot, a free address."""

    network: str
    brought: str
    booted: str
    address: str


@dataclasses.dataclass(frozen=True)
class Port:
    """What must be as it was when everything is undone."""

    device_id: str
    host: str
    status: str
    mark: str | None
    addresses: frozenset[str]


class World(abc.ABC):
    """A server with its ports, its records and its NICs, looked at by a process that does not die.

    :param place: its ``nics`` is a folder for those of each case
    """

    #: whether the request is repeated after each death, or only after the first with an outcome
    repeats_always = True

    def __init__(self, place: crash.Place, things: Things, zygote: crash.Zygote) -> None:
        self.things = things
        self._place = place
        self._root = pathlib.Path(place.nics)
        self._zygote = zygote
        self._cases = 0
        empty = Database(config.new([], database={'connection': place.url}))
        schema.upgrade(empty)
        empty.dispose()
        self.parts: deploy.Parts = crash.assemble(place, Faults())

    # ------------------------------------------------------------------ the networks

    @abc.abstractmethod
    def restore(self) -> dict[str, Port]:
        """Bring the networks to where they were at first, while nobody uses them; the ports."""

    @abc.abstractmethod
    def ports(self) -> dict[str, Port]:
        """All ports of the project."""

    # ------------------------------------------------------------------ what happens

    def begin(self) -> None:
        """The world as it was, no records, and no NIC but the one of the boot."""
        with self.parts.database.write() as connection:
            store.clear(connection)
            for table in (tables.suspects, tables.heartbeats):
                connection.execute(sa.delete(table))
        self.at_first = self.seen = self.restore()
        self._cases += 1
        nics = self._root / str(self._cases)
        self._place = dataclasses.replace(self._place, nics=str(nics))
        (nics / self._place.server_id).mkdir(parents=True)
        (nics / self._place.server_id / self.things.booted).touch()
        self.parts.conf.set_override('path', str(nics), group='file_vif')

    def prepare(self, scenario: Scenario) -> dict[str, Any]:
        """What comes before; the arguments of the operation."""
        self.begin()
        if scenario.prepare is None:
            return self.named(scenario.arguments)
        before = self.named(scenario.prepare)
        if scenario.prepare_faults:
            outcome = self.run('attach', before, *scenario.prepare_faults)
            assert outcome.status == -signal.SIGKILL
            self._expire()
            return {}
        return {'port_id': self.perform('attach', before)}

    def named(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        return {name: getattr(self.things, thing) for name, thing in arguments.items()}

    def run(self, operation: str, arguments: dict[str, Any], *faults: str) -> crash.Outcome:
        """Have another process do it."""
        return self._zygote.run(crash.Case(self._place, operation, arguments, list(faults)))

    def dry_run(self, scenario: Scenario) -> tuple[crash.Outcome, list[str]]:
        """A run to its end, and the points that are to be killed at, each with its number among its like."""
        outcome = self.run(scenario.operation, self.prepare(scenario), *scenario.faults)
        return outcome, numbered(point for point in outcome.passed if point.split()[1] in EFFECTS)

    def run_killed(self, point: str, scenario: Scenario, arguments: dict[str, Any]) -> crash.Outcome:
        """Have another process do it, and die at a point."""
        fault = f'{point.replace(" #", "#")}:kill'
        return self.run(scenario.operation, arguments, fault, *scenario.faults)

    def perform(self, operation: str, arguments: dict[str, Any]) -> str | None:
        return crash.perform(self.parts, self._place, operation, arguments)

    def reconcile(self) -> None:
        """Until a look finds nothing, and remembers nothing for the next one."""
        for _ in range(LOOKS):
            self._expire()
            lines = self.parts.reconciler.once().lines()
            if not lines and not self._is_suspicious():
                return
        raise AssertionError(f'the reconciler does not come to rest: {lines}')

    def _is_suspicious(self) -> bool:
        missing = sa.select(tables.attachments.c.id).where(tables.attachments.c.missing_since.is_not(None))
        with self.parts.database.read() as connection:
            return any(connection.execute(query).first() for query in (missing, sa.select(tables.suspects)))

    def _expire(self) -> None:
        with self.parts.database.write() as connection:
            connection.execute(sa.update(tables.attachments).values(lease_expires=0.0))

    # ------------------------------------------------------------------ what there is

    def attached(self) -> list[str]:
        """The ports of the server as the API shows them."""
        ctxt = self._place.caller
        server = self.parts.drivers.server.get(ctxt, self._place.server_id)
        return [one.id for one in self.parts.manager.list(ctxt, server)]

    # ------------------------------------------------------------------ what must hold

    def check(self) -> list[str]:
        """Nothing is leaked, lost, doubled or in motion; what is attached."""
        brought, booted = self.things.brought, self.things.booted
        records = list(self.parts.store.listed())
        assert {record.state for record in records} <= {State.ATTACHED}
        assert {record.owner for record in records} <= {None}
        recorded = {record.port_id for record in records}
        self.seen = ports = self.ports()
        marks = {record.mark for record in records if record.created}
        assert {port.mark for port in ports.values() if port.mark} == marks, 'a marked port without a record'
        assert brought in ports, 'a brought port was deleted'
        assert recorded <= set(ports), 'an attachment without its port'
        bound = {port_id for port_id, port in ports.items() if port.device_id}
        assert bound <= recorded | {booted}, 'a port is bound without an attachment'
        assert recorded <= bound, 'the port of an attachment is not bound'
        nics = pathlib.Path(self._place.nics)
        plugged = {path.name for path in nics.rglob('*') if path.is_file()}
        assert plugged == bound, 'the NICs are not those of the attachments'
        attached = self.attached()
        assert set(attached) == bound
        known = self.at_first
        assert all(port.addresses for port in ports.values()), 'a port without addresses'
        assert all(port.addresses == known[one].addresses for one, port in ports.items() if one in known)
        # One more than there were: the one that was made here.
        assert len(ports) <= 3
        return attached

    def check_as_at_first(self) -> None:
        """There is no trace of anything, but of the port that was made at boot and is gone with its detach."""
        self.check()
        self.was_as_at_first()

    def was_as_at_first(self) -> None:
        """The same, at the last check."""
        assert list(self.parts.store.listed()) == []
        kept, there = (
            {name: port for name, port in at.items() if name != self.things.booted}
            for at in (self.at_first, self.seen)
        )
        assert there == kept


def numbered(points: Iterator[str]) -> list[str]:
    """Each with its number among those of its name."""
    counted: collections.Counter[str] = collections.Counter()
    found = []
    for point in points:
        counted[point] += 1
        found.append(f'{point} #{counted[point]}')
    return found


# ---------------------------------------------------------------------- one scenario

#: column -> scenario -> point -> what came of the request
Table = dict[str, dict[str, dict[str, str]]]


def go_through(world: World, scenario: Scenario, table: Table, column: str) -> None:
    """Kill the operation at each of its points, and fail if anything leaks or is lost at one."""
    dry, points = world.dry_run(scenario)
    assert dry.status == 0
    assert (dry.error is None) == (not scenario.faults), dry
    assert {'before commit', 'after commit'} <= set(dry.passed)
    results = table.setdefault(column, {}).setdefault(scenario.name, {})
    failures = []
    repeated: set[str] = set()
    for point in points:
        try:
            results[point] = killed_at(world, scenario, point, repeated)
        except AssertionError as error:
            results[point] = FAILED
            failures.append(f'{point}: {error}')
    assert not failures, '\n'.join(failures)


def killed_at(world: World, scenario: Scenario, point: str, repeated: set[str]) -> str:
    """One cell of the matrix.

    :param repeated: what has come out before, so that it is known to stand in nobody's way
    """
    arguments = world.prepare(scenario)
    before = {port_id for port_id, port in world.at_first.items() if port.device_id}
    outcome = world.run_killed(point, scenario, arguments)
    assert outcome.status == -signal.SIGKILL, f'this point was not reached: {outcome}'
    world.reconcile()
    after = world.check()
    if scenario.operation == 'attach':
        come_out = 'complete' if len(after) > len(before) else 'undone'
        if come_out == 'undone':
            world.was_as_at_first()
    else:
        come_out = 'not begun' if arguments.get('port_id') in after else 'finished'
    if world.repeats_always or come_out not in repeated:
        repeat(world, scenario, arguments, after)
        repeated.add(come_out)
    return come_out


def repeat(world: World, scenario: Scenario, arguments: dict[str, Any], there: list[str]) -> None:
    """The same request again, and then everything is taken off: nothing stands in the way, nothing is left."""
    if scenario.operation == 'attach':
        if scenario.arguments == BY_NETWORK:
            # Each POST is a new attachment; the quota is for one.
            for port_id in set(there) - {world.things.booted}:
                world.perform('detach', {'port_id': port_id})
        attached = world.perform('attach', arguments)
        there = world.check()
        assert attached in there
        assert len(there) == 2
        world.perform('detach', {'port_id': attached})
    elif scenario.operation == 'detach':
        with contextlib.suppress(exceptions.NotAttached):
            world.perform('detach', arguments)
        assert arguments['port_id'] not in world.attached()
    world.check_as_at_first()


# ---------------------------------------------------------------------- the result


@contextlib.contextmanager
def printed(config: pytest.Config) -> Iterator[Table]:
    """A table that is printed at the end of the block."""
    begun = time.monotonic()
    results: Table = {}
    yield results
    capture = config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        print('\n' + render(results, time.monotonic() - begun))


def render(results: Table, seconds: float) -> str:
    """The matrix: a row for each point; a cell tells what became of the request."""
    columns = list(results)
    lines = [f'{"crash matrix: killed":<52}' + ''.join(f'{name:>22}' for name in columns)]
    cells: list[str] = []
    for scenario in dict.fromkeys(name for by in results.values() for name in by):
        lines.append(scenario)
        for point in dict.fromkeys(point for by in results.values() for point in by.get(scenario, {})):
            row = [results[name].get(scenario, {}).get(point, '-') for name in columns]
            cells += [cell for cell in row if cell != '-']
            lines.append(f'  {point:<50}' + ''.join(f'{cell:>22}' for cell in row))
    lost = cells.count(FAILED)
    lines.append(f'{len(cells)} processes killed in {seconds:.0f} s; points with a leak or a loss: {lost}')
    return '\n'.join(lines)
