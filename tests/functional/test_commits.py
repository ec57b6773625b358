"""What an attach and a detach commit where ports and records share a database, and what may go wrong with that."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import webtest

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.db import errors, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.inventory import tables as inventory
from os_interface_ext.testing.faults import Faults, raises
from tests.functional.conftest import NAMES, Build, Plugs, World

COMMITS = ('before commit', 'after commit')
BY_NETWORK, BY_PORT = {'net_id': 'net1'}, {'port_id': 'p_free'}
ways_to_attach = pytest.mark.parametrize('wanted', [BY_NETWORK, BY_PORT], ids=['network', 'port'])


class Died(BaseException):
    """The process is gone."""


class Elsewhere(SQLNetworkDriver):
    """It does not say that its ports are in this database alone."""


class Told(SQLServerDriver):
    """A host that is told, and looks at once, over a connection of its own."""

    url: str
    seen: list[Any]

    def attachments_changed(self, ctxt: Any, server_id: str, event: Any) -> None:
        database = Database(config.new([], database={'connection': self.url}))
        with database.read() as connection:
            ports = sa.select(inventory.ports.c.id).where(inventory.ports.c.device_id == server_id)
            self.seen.append((str(event), set(connection.scalars(ports))))
        database.dispose()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def make(build: Build, faults: Faults) -> Iterator[Any]:
    def made(*, lease: float = 30.0, **more: Any) -> World:
        options = {'grace': 0.0, 'backoff': 0.01, 'backoff_cap': 0.01}
        world = build(reconciler=options, attachments={'wait': 0.0, 'lease': lease}, **more)
        faults.watch(world.database)
        return world

    return made


def everything(world: World) -> Any:
    """All ports, addresses and records."""
    with world.database.read() as connection:
        return [
            sorted(map(tuple, connection.execute(sa.select(table))), key=str)
            for table in (inventory.ports, inventory.addresses, tables.attachments)
        ]


def attach(world: World, wanted: dict[str, str]) -> str:
    answer = world.attach(**wanted)
    assert answer.status_int == 200, answer.text
    return answer.json['interfaceAttachment']['port_id']


def detach(world: World, port: str) -> int:
    return world.call('DELETE', world.url('srv_active', port)).status_int


def reconcile(world: World) -> None:
    """As when the lease of whoever died has run out, and some time has gone by."""
    for _ in range(4):
        with world.database.write() as connection:
            connection.execute(sa.update(tables.attachments).values(lease_expires=0.0, next_attempt=None))
        world.extension.parts.reconciler.once()


@pytest.mark.parametrize(
    ('drivers', 'commits'),
    [({}, (2, 2)), ({'vif_driver': Plugs}, (3, 2)), ({'network_driver': Elsewhere}, (3, 3))],
    ids=['nothing plugged', 'plugged', 'ports elsewhere'],
)
@ways_to_attach
def test_how_many_there_are(
    make: Any, faults: Faults, drivers: Any, commits: tuple[int, int], wanted: dict[str, str]
) -> None:
    world = make(**drivers)
    port = attach(world, wanted)
    attaching = faults.passed.count('after commit')
    faults.clear()
    assert detach(world, port) == 202
    assert (attaching, faults.passed.count('after commit')) == commits


@pytest.mark.parametrize('drivers', [{}, {'vif_driver': Plugs}], ids=['nothing plugged', 'plugged'])
@ways_to_attach
def test_death_at_each_point(make: Any, faults: Faults, drivers: Any, wanted: dict[str, str]) -> None:
    world = make(**drivers)
    before = everything(world)
    done = 0
    for on in range(1, 6):
        for point in COMMITS:
            for kind in ('attach', 'detach'):
                faults.clear()
                port = attach(world, wanted) if kind == 'detach' else None
                faults.add(point, raises(Died()), on=on)
                try:
                    attach(world, wanted) if port is None else detach(world, port)
                    continue
                except Died:
                    done += 1
                finally:
                    faults.clear()
                reconcile(world)
                for record in world.extension.parts.store.of_server(NAMES['srv_active']):
                    assert detach(world, record.port_id) == 202
                assert everything(world) == before, f'{kind}: {point} #{on}'
    assert done == 8 if not drivers else 10


@pytest.mark.parametrize('error', [errors.Deadlock(), errors.Disconnected()])
@ways_to_attach
def test_what_the_database_takes_back_is_done_again(
    make: Any, faults: Faults, error: Exception, wanted: dict[str, str]
) -> None:
    world = make()
    before = everything(world)
    for on in (1, 2):
        faults.add('before commit', raises(error), on=on)
        port = attach(world, wanted)
        faults.add('before commit', raises(error), on=on)
        assert detach(world, port) == 202
        assert everything(world) == before


@pytest.mark.parametrize('drivers', [{}, {'vif_driver': Plugs}], ids=['nothing plugged', 'plugged'])
@ways_to_attach
def test_an_attach_whose_commit_got_no_answer(
    make: Any, faults: Faults, drivers: Any, wanted: dict[str, str]
) -> None:
    world = make(**drivers)
    before = everything(world)
    faults.add('before commit', raises(errors.CommitLost()), on=2)
    assert world.attach(**wanted).status_int == 503
    assert everything(world) == before
    faults.add('after commit', raises(errors.CommitLost()), on=2)
    port = attach(world, wanted)
    assert port in world.ports()
    assert detach(world, port) == 202
    assert everything(world) == before


@pytest.mark.parametrize('point', COMMITS)
@ways_to_attach
def test_a_detach_whose_commit_got_no_answer_comes_to_its_end(
    make: Any, faults: Faults, point: str, wanted: dict[str, str]
) -> None:
    world = make()
    before = everything(world)
    port = attach(world, wanted)
    faults.add(point, raises(errors.CommitLost()), on=2)
    assert detach(world, port) == 202
    reconcile(world)
    assert everything(world) == before


@ways_to_attach
def test_an_attach_that_is_to_be_undone_by_then(make: Any, faults: Faults, wanted: dict[str, str]) -> None:
    world = make()
    before = everything(world)

    def ask() -> None:
        (record,) = world.extension.parts.store.of_server(NAMES['srv_active'])
        assert world.extension.parts.store.ask_undo(record)

    # The question is itself a transaction.
    faults.add('before transaction', ask, on=2)
    assert world.attach(**wanted).status_int == 409
    assert everything(world) == before


def test_an_attach_of_which_somebody_else_has_taken_hold_by_then(make: Any, faults: Faults) -> None:
    world = make()
    before = everything(world)
    faults.add('before transaction', lambda: reconcile(world), on=2)
    assert world.attach(**BY_NETWORK).status_int >= 500
    assert everything(world) == before


@pytest.mark.parametrize('is_lost', [False, True], ids=['answered', 'lost'])
def test_what_is_plugged_after_the_commit(make: Any, faults: Faults, is_lost: bool) -> None:
    seen = []

    class Sees(Plugs):
        def plug(self, ctxt: Any, server: Any, port: Any, fence: Any) -> dict[str, Any]:
            seen.append((port.mtu, [one.prefix_length for one in port.fixed_ips]))
            return {}

    world = make(vif_driver=Sees)
    if is_lost:
        faults.add('after commit', raises(errors.CommitLost()), on=2)
    attach(world, BY_NETWORK)
    [(mtu, lengths)] = seen
    assert mtu
    assert lengths
    assert all(lengths)


def test_a_nic_that_is_out_is_not_taken_out_again(make: Any, faults: Faults) -> None:
    calls = []

    class Once(Plugs):
        def unplug(self, *args: Any) -> None:
            calls.append(args)
            if len(calls) > 1:
                raise exceptions.NotSupported('Somebody else has plugged it.')

    world = make(vif_driver=Once)
    before = everything(world)
    port = attach(world, BY_NETWORK)
    faults.add('before commit', raises(errors.DatabaseError('the disk is full')), on=2)
    assert detach(world, port) == 202
    reconcile(world)
    assert len(calls) == 1
    assert everything(world) == before


def test_a_nic_that_takes_all_the_time_to_go(make: Any) -> None:
    class Slow(Plugs):
        def unplug(self, ctxt: Any, server: Any, port_id: str, plug_data: Any, fence: Any) -> None:
            while fence.remaining():
                time.sleep(0.01)

    world = make(vif_driver=Slow, lease=1.0)
    before = everything(world)
    assert detach(world, attach(world, BY_NETWORK)) == 202
    assert everything(world) == before


def test_a_commit_without_an_answer_and_then_no_database(
    make: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()

    def lose() -> None:
        faults.add('before transaction', raises(errors.DatabaseError('down')), times=None)
        monkeypatch.setattr(world.extension.parts.store, 'get', lambda _: raises(exceptions.Unavailable())())
        raise errors.CommitLost()

    faults.add('after commit', lose, on=2)
    answer = world.attach(**BY_NETWORK)
    assert (answer.status_int, answer.headers['OS-Interface-Error']) == (503, 'outcome_unknown')


def test_a_refusal_is_counted_as_what_it_is(make: Any, tmp_path: pathlib.Path) -> None:
    world = make(metrics={'directory': str(tmp_path / 'metrics')})
    taken = world.call('GET', world.url('srv_active')).json['interfaceAttachments'][0]
    body = {'net_id': taken['net_id'], 'fixed_ips': [{'ip_address': taken['fixed_ips'][0]['ip_address']}]}
    assert world.attach(**body).headers['OS-Interface-Error'] == 'address_in_use'
    parts = world.extension.parts
    page = (
        webtest.TestApp(deploy.metrics_application(world.conf, parts.metrics, world.database)).get('/metrics').text
    )
    assert 'method="create",outcome="AddressInUse"' in page


def test_a_port_whose_mark_was_taken_off_is_let_go(make: Any) -> None:
    world = make()
    port = attach(world, BY_NETWORK)
    with world.database.write() as connection:
        connection.execute(sa.update(inventory.ports).where(inventory.ports.c.id == port).values(mark=None))
    assert detach(world, port) == 202
    assert world.extension.parts.store.of_server(NAMES['srv_active']) == []
    with world.database.read() as connection:
        assert (
            connection.scalar(sa.select(inventory.ports.c.device_id).where(inventory.ports.c.id == port)) is None
        )


def test_a_refusal_leaves_nothing(make: Any, faults: Faults) -> None:
    world = make()
    before = everything(world)
    faults.add('before commit', raises(exceptions.NoAddress()), on=2)
    assert world.attach(**BY_NETWORK).status_int == 400
    assert everything(world) == before


def test_a_host_is_told_of_what_others_can_see(make: Any) -> None:
    Told.seen = []
    world = make(server_driver=Told)
    Told.url = f'sqlite:///{world.database.engine.url.database}'
    booted = set(world.ports())
    port = attach(world, BY_NETWORK)
    assert detach(world, port) == 202
    assert Told.seen == [('attached', booted | {port}), ('detached', booted)]
