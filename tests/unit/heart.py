"""The heart in a world that can be looked at from all sides: what its tests share."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import types
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.attachments import reconciler as reconciler_module
from os_interface_ext.attachments import store as store_module
from os_interface_ext.attachments.manager import AttachRequest, Manager
from os_interface_ext.attachments.reconciler import Reconciler, Report
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Record, Store
from os_interface_ext.context import RequestContext
from os_interface_ext.db import tables
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.testing.faults import Faults, wrap
from os_interface_ext.testing.memory import MemoryCloud
from tests import migrated

PROJECT = 'project-a'
CTXT = RequestContext(user_id='user', project_id=PROJECT, roles=['member', 'reader'])
ADDRESS = '10.0.0.77'
#: Looks after which a world that does not change is at rest.
LOOKS = 6
RECORD_TABLES = (tables.attachments, tables.history, tables.suspects, tables.heartbeats)


class Died(BaseException):
    """A process ends at this point; nothing catches it."""


def die() -> None:
    raise Died()


class Clock:
    """The clock by which fences are read, to be put forward."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        real = base.time.monotonic
        self._ahead = 0.0
        clock = types.SimpleNamespace(monotonic=lambda: real() + self._ahead)
        for module in (base, store_module, reconciler_module):
            patch.setattr(module, 'time', clock)

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


def _hurry(database: Database) -> Database:
    # What a test commits need not outlive the machine.
    for engine in (database.engine, database._read_engine):
        sa.event.listen(
            engine, 'connect', lambda connection, _: connection.execute('PRAGMA synchronous=OFF').close()
        )
    return database


@dataclasses.dataclass
class Process:
    """What one process has of its own: connections, drivers, faults."""

    faults: Faults
    store: Store
    manager: Manager
    reconciler: Reconciler


class World:
    """A cloud, a database, and processes."""

    def __init__(self, directory: pathlib.Path, **options: Any) -> None:
        self.conf = config.new(
            [],
            database={'connection': f'sqlite:///{directory}/osif.sqlite'},
            # By itself nothing becomes due again while a test runs; `expire` has it due.
            reconciler={'grace': 0.0, 'backoff': 60.0, 'backoff_cap': 60.0} | options,
        )
        self.database = _hurry(migrated.database_of(self.conf))
        self._spare: list[Database] = []
        self._lent: list[Database] = []
        self.begin()

    def begin(self) -> None:
        """A new cloud, no records, and a process of its own."""
        self.cloud = MemoryCloud(self.conf)
        self.server, self.other = (self.cloud.add_server(PROJECT) for _ in range(2))
        self.network_id = self.cloud.add_network(PROJECT).id
        with self.database.write() as connection:
            for table in RECORD_TABLES:
                connection.execute(sa.delete(table))
        # Connections and compiled statements serve the next processes, too.
        self._spare += self._lent
        self._lent.clear()
        self.process = self.start()

    def start(self, **options: Any) -> Process:
        """A process that does not die and is not slow, until it is told."""
        faults = Faults()
        database = self._spare.pop() if self._spare else _hurry(Database(self.conf))
        database.__dict__.pop('prepared', None)
        self._lent.append(database)
        faults.watch(database)
        cloud = wrap(self.cloud, faults)
        store = Store(database, lease=30.0)
        conf = self.conf.reconciler
        stepper = Stepper(
            store,
            cloud,
            cloud,
            cloud,
            backoff=conf.backoff,
            backoff_cap=conf.backoff_cap,
            stuck_attempts=conf.stuck_attempts,
        )
        return Process(
            faults,
            store,
            Manager(store, cloud, cloud, cloud, stepper, **{'wait': 0.0} | options),
            Reconciler(conf, store, stepper, cloud, cloud),
        )

    # ------------------------------------------------------------------ what is there

    def records(self) -> list[Record]:
        return [record for state in State for record in self.process.store.listed(state=state)]

    def rows(self, *which: sa.Table) -> dict[str, list[Any]]:
        with self.database.read() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(sa.select(table))))
                for table in which or RECORD_TABLES
            }

    def history(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(tables.history).order_by(tables.history.c.sequence)))

    def state_of_cloud(self) -> Any:
        cloud = self.cloud
        return dict(cloud._ports), {server: list(nics) for server, nics in cloud._nics.items() if nics}

    def free_port(self) -> str:
        return self.cloud.add_port(self.network_id, PROJECT).id

    def shown(self, server: base.Server | None = None) -> list[str]:
        return [one.id for one in self.process.manager.list(CTXT, server or self.server)]

    # ------------------------------------------------------------------ what happens

    def attach(self, **request: Any) -> str:
        return self.process.manager.attach(CTXT, self.server, AttachRequest(**request)).id

    def attach_network(self) -> str:
        return self.attach(network_id=self.network_id)

    def expire(self) -> None:
        """All leases run out, and whatever is to be tried again is due."""
        with self.database.write() as connection:
            connection.execute(sa.update(tables.attachments).values(lease_expires=0.0))
            connection.execute(
                sa.update(tables.attachments)
                .where(tables.attachments.c.next_attempt.is_not(None))
                .values(next_attempt=0.0)
            )

    def reconcile(self, looks: int = LOOKS) -> list[Report]:
        """Look, with all leases run out, until the world is at rest."""
        reports = []
        for _ in range(looks):
            self.expire()
            reports.append(self.process.reconciler.once())
        return reports

    # ------------------------------------------------------------------ what must hold

    def check(self, *brought: str, unrecorded: str | None = None) -> None:
        """Nothing is leaked, lost, doubled or in motion.

        :param brought: ports of users: they are there, free or attached
        :param unrecorded: a port that the server has had from the beginning, without a NIC that we know
        """
        records = self.records()
        assert {record.state for record in records} <= {State.ATTACHED}, records
        attached = {(record.server_id, record.port_id) for record in records}
        assert len(attached) == len(records)
        nics = [(server, port) for server, ports in self.cloud._nics.items() for port in ports]
        assert sorted(nics) == sorted(attached)
        ports = self.cloud._ports
        assert {port.id for port in ports.values() if not port.mark} == {*brought, *filter(None, [unrecorded])}
        known = {record.mark for record in records if record.mark}
        assert {port.mark for port in ports.values() if port.mark} == known
        for server_id, port_id in attached:
            assert ports[port_id].device_id == server_id
        for port in ports.values():
            assert not port.device_id or port.id == unrecorded or (port.device_id, port.id) in attached

    def nothing_left(self, *brought: str) -> None:
        self.check(*brought)
        assert self.records() == []


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something that is done to a world: ``prepare`` is over when ``act`` is looked at."""

    name: str
    act: Callable[[World, Process, Any], object]
    prepare: Callable[[World], Any] = lambda world: None
    #: Set up before each act: faults that are a part of the scenario.
    faults: Callable[[Faults], None] = lambda faults: None
    attaches: bool = False


def _attach(world: World, process: Process, **request: Any) -> object:
    return process.manager.attach(CTXT, world.server, AttachRequest(**request))


def _detach(world: World, process: Process, port_id: str) -> None:
    process.manager.detach(CTXT, world.server, port_id)


def _fail_plug(faults: Faults) -> None:
    def fail() -> None:
        raise exceptions.PlugFailed()

    faults.add('after plug', fail)


def _lose_create(faults: Faults) -> None:
    def lose() -> None:
        raise exceptions.UnknownOutcome()

    faults.add('after create', lose)


def _undo_of_another(world: World, process: Process, port_id: str | None) -> None:
    process.reconciler.once()


def _died_plugging(world: World, **request: Any) -> None:
    process = world.start()
    process.faults.add('after plug', die)
    with pytest.raises(Died):
        _attach(world, process, **request)
    world.expire()


SCENARIOS = [
    Scenario(
        'attach by network',
        lambda world, process, _: _attach(world, process, network_id=world.network_id),
        attaches=True,
    ),
    Scenario(
        'attach with an address',
        lambda world, process, _: _attach(world, process, network_id=world.network_id, ip_address=ADDRESS),
        attaches=True,
    ),
    Scenario(
        'attach by port',
        lambda world, process, port: _attach(world, process, port_id=port),
        World.free_port,
        attaches=True,
    ),
    Scenario('detach of a created port', _detach, World.attach_network),
    Scenario('detach of a brought port', _detach, lambda world: world.attach(port_id=world.free_port())),
    Scenario(
        'detach of a port without a record',
        _detach,
        lambda world: world.cloud.add_port_of_server(world.network_id, world.server).id,
    ),
    Scenario(
        'undo of a plug, created',
        lambda world, process, _: _attach(world, process, network_id=world.network_id),
        faults=_fail_plug,
        attaches=True,
    ),
    Scenario(
        'undo of a plug, brought',
        lambda world, process, port: _attach(world, process, port_id=port),
        World.free_port,
        faults=_fail_plug,
        attaches=True,
    ),
    Scenario(
        'undo of a lost answer',
        lambda world, process, _: _attach(world, process, network_id=world.network_id),
        faults=_lose_create,
        attaches=True,
    ),
    Scenario(
        'undo by the reconciler, created',
        _undo_of_another,
        lambda world: _died_plugging(world, network_id=world.network_id),
    ),
]


def points_of(world: World, scenario: Scenario) -> list[tuple[str, int]]:
    """All points that a scenario passes, each with the how-many-th of its name it is."""
    world.begin()
    subject = scenario.prepare(world)
    process = world.start()
    scenario.faults(process.faults)
    with contextlib.suppress(exceptions.OsInterfaceError):
        scenario.act(world, process, subject)
    passed = list(process.faults.passed)
    return [(point, passed[: n + 1].count(point)) for n, point in enumerate(passed)]
