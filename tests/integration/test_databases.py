"""The three databases: the drivers' contracts, many at once, and connections that break."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments import store as store_module
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Store
from os_interface_ext.context import RequestContext
from os_interface_ext.db import engine as engine_module
from os_interface_ext.db import errors, schema, tables
from os_interface_ext.db.engine import Database, DatabaseError
from os_interface_ext.db.prepared import Connection
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.inventory import loader, transactions
from os_interface_ext.inventory import tables as inventory_tables
from os_interface_ext.testing import networks, servers
from tests.integration.conftest import wait_until
from tests.services import proxy
from tests.services.databases import DatabaseServer
from tests.unit.fakes import SQLWorld

pytestmark = pytest.mark.service

PROJECT = 'project-a'
CTXT = RequestContext(user_id='user', project_id=PROJECT, roles=['member', 'reader'])
FENCE = base.Fence(1, float('inf'))
#: Thirteen addresses: neither the network, nor the broadcast address, nor the gateway.
NARROW_SIZE = 13


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


WIDE, NARROW = _id('wide'), _id('narrow')
SERVERS = [_id(f'server-{n}') for n in range(40)]
PORTS = [_id(f'port-{n}') for n in range(24)]
INVENTORY = loader.parse(
    json.dumps(
        {
            'networks': [
                {
                    'id': network,
                    'name': cidr,
                    'project_id': PROJECT,
                    'subnets': [{'id': _id(cidr), 'cidr': cidr, 'gateway_ip': gateway}],
                }
                for network, cidr, gateway in (
                    (WIDE, '10.1.0.0/16', '10.1.0.1'),
                    (NARROW, '10.2.0.0/28', '10.2.0.1'),
                )
            ],
            'quotas': [{'project_id': PROJECT, 'ports': 200}],
            'servers': [{'id': one, 'name': one, 'project_id': PROJECT, 'host': 'host'} for one in SERVERS],
            'ports': [{'id': one, 'project_id': PROJECT, 'network_id': WIDE, 'fixed_ips': []} for one in PORTS],
        }
    ),
    'inventory',
)


def connect(url: str, **options: Any) -> Database:
    return Database.of(config.new([], database={'connection': url} | options))


def assemble(url: str, *, wait: float = 20.0, lease: float = 30.0) -> deploy.Parts:
    """The parts of a process."""
    conf = config.new(
        [],
        database={'connection': url},
        attachments={'wait': wait, 'lease': lease},
        reconciler={'grace': 0.0, 'backoff': 0.01, 'backoff_cap': 0.01},
    )
    return deploy.assemble(conf)


@pytest.fixture(scope='module')
def _parts(database_url: str) -> Iterator[deploy.Parts]:
    schema.upgrade(connect(database_url))
    parts = assemble(database_url)
    yield parts
    parts.database.dispose()


@pytest.fixture
def parts(_parts: deploy.Parts) -> deploy.Parts:
    """A process with the inventory as it was written, and no records."""
    begin_anew(_parts.database)
    return _parts


def begin_anew(database: Database) -> None:
    with database.write() as connection:
        store_module.clear(connection)
        for table in (tables.suspects, tables.heartbeats):
            connection.execute(sa.delete(table))
        loader.load(connection, INVENTORY)


@pytest.fixture(scope='module', params=['postgresql', 'mariadb'])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def url(server: DatabaseServer) -> str:
    """A database of its own, with the schema and the inventory."""
    url = server.new_database()
    database = connect(url)
    schema.upgrade(database)
    begin_anew(database)
    database.dispose()
    return url


def attach(parts: deploy.Parts, server_id: str, **wanted: Any) -> str:
    """The port that was attached, or the name of the error."""
    try:
        return _attach(parts, server_id, **wanted)
    except exceptions.OsInterfaceError as error:
        return type(error).__name__


def _attach(parts: deploy.Parts, server_id: str, **wanted: Any) -> str:
    server = parts.drivers.server.get(CTXT, server_id)
    return parts.manager.attach(CTXT, server, AttachRequest(**wanted)).id


def detach(parts: deploy.Parts, server_id: str, port_id: str) -> None:
    server = parts.drivers.server.get(CTXT, server_id)
    parts.manager.detach(CTXT, server, port_id)


def shown(parts: deploy.Parts, server_id: str) -> list[str]:
    server = parts.drivers.server.get(CTXT, server_id)
    return [one.id for one in parts.manager.list(CTXT, server)]


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each of the calls gave; all begin at one moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return call()

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def attach_all(parts: deploy.Parts, servers: list[str], **wanted: Any) -> list[str]:
    """What each of these servers got, all at once."""
    return at_once([functools.partial(attach, parts, server_id, **wanted) for server_id in servers])


def check(parts: deploy.Parts) -> None:
    """The records, the ports and the addresses agree with each other."""
    records = {record.port_id: record for record in parts.store.listed()}
    assert {record.state for record in records.values()} <= {State.ATTACHED}
    ports, addresses = inventory_tables.ports, inventory_tables.addresses
    with parts.database.read() as connection:
        devices = {row.id: row.device_id for row in connection.execute(sa.select(ports.c.id, ports.c.device_id))}
        given = list(connection.execute(sa.select(addresses.c.port_id, addresses.c.ip_address)))
    assert set(PORTS) <= devices.keys()
    assert devices.keys() - set(PORTS) <= records.keys(), 'a port is left over'
    for port_id, device_id in devices.items():
        assert device_id == (records[port_id].server_id if port_id in records else None)
    assert len({address for _, address in given}) == len(given)
    assert {port_id for port_id, _ in given} == devices.keys() - set(PORTS)


# ------------------------------------------------------------------ what drivers promise


@pytest.fixture(scope='module')
def sql_world(server: DatabaseServer) -> SQLWorld:
    return SQLWorld(server.new_database())


class TestSQLServers(servers.ServerDriverContract):
    @pytest.fixture
    def backend(self, sql_world: SQLWorld) -> servers.ServerBackend:
        return sql_world.server_backend()


class TestSQLNetworks(networks.NetworkDriverContract):
    @pytest.fixture
    def backend(self, sql_world: SQLWorld) -> networks.NetworkBackend:
        return sql_world.network_backend()


# ------------------------------------------------------------------ each statement of the records


class Recorder:
    """A store that remembers which of its methods were called."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self._store, name)


def test_every_statement_of_the_records(parts: deploy.Parts) -> None:
    store = Recorder(parts.store)
    odd = 'ä\0€😀'
    values = {'server_id': 's', 'project_id': 'p', 'request_id': 'r', 'state': State.ALLOCATING}
    first = store.insert(created=True, requested_network_id='n', requested_address='10.0.0.9', tag=odd, **values)
    second = store.insert(created=False, port_id='b', **values)
    with pytest.raises(store_module.PortTaken):
        store.insert(created=False, port_id='b', **values)
    assert first.record.mark == f'osif:{store.installation}:{first.record.id}'
    assert store.of_mark(first.record.mark).tag == odd
    assert [one.id for one in store.of_request('s', 'n', '10.0.0.9')] == [first.record.id]
    assert [one.id for one in store.of_server('s')] == [first.record.id, second.record.id]
    assert [one.id for one in store.listed(state=State.ALLOCATING, server_id='s', page=1)] == [
        first.record.id,
        second.record.id,
    ]
    assert list(store.listed(server_id='t')) == []
    assert [one[1:] for one in store.sights('s')] == [
        (None, first.record.mark, odd, False, None),
        ('b', None, None, False, None),
    ]
    assert store.ask_undo(second.record)
    with pytest.raises(exceptions.LostHold):
        store.swap(second.record, state=State.PLUGGING)
    with pytest.raises(exceptions.LostHold):
        store.take(store.get(first.record.id))
    plugging = store.swap(first.record, state=State.PLUGGING, port_id='a', plug_data={'nic': odd})
    assert store.of_port('a').plug_data == {'nic': odd}
    attached = store.settle(plugging.record, state=State.ATTACHED)
    assert store.sights('s')[0][1:] == ('a', None, odd, True, None)
    assert [[one.id for one in page] for page in store.attached(1)] == [[attached.id]]
    store.moved(attached, 'elsewhere')
    store.missing(attached)
    assert store.is_missing_for(attached, -1.0)
    assert not store.is_missing_for(attached, 60.0)
    assert abs(store.of_port('a').missing_since - store.clock()) < 60
    store.found(attached)
    assert (store.of_port('a').missing_since, store.of_port('a').host) == (None, 'elsewhere')
    undone = store.get(second.record.id)
    assert 0.0 < store.time_left(undone) < 30.0
    assert store.time_left(attached) == 0.0
    assert store.states() == {('ATTACHED', None): 1, ('ALLOCATING', 'undo'): 1}
    counted = {one.state: one.records for one in store.census(attempts=8, rest=600.0)}
    assert counted == {State.ATTACHED: 1, State.ALLOCATING: 1}
    assert store.hosts() == {'elsewhere': 's'}
    assert store.due(10) == []
    later = store.postpone(undone, 60.0, state=State.RELEASING, last_error=odd.replace('\0', ''))
    assert store.due(10) == []
    # A statement that changes nothing has found its row all the same.
    assert [store.retry(later.id), store.retry(later.id), store.retry('nothing')] == [True, True, False]
    assert [one.id for one in store.due(10)] == [later.id]
    store.drop(store.take(store.due(1)[0]).record)
    assert store.result_of(later.id) == ('s', Reason.UNDO)
    [result] = store.results(port_id='b')
    assert (result.attachment_id, result.last_error) == (later.id, 'ä€😀')
    assert store.suspect(['x', 'y'], 60.0) == set()
    assert store.suspect(['y', 'z'], -1.0) == {'y'}
    assert store.old_suspects(-1.0) == {'y', 'z'}
    assert store.orphans() == 2
    assert store.heartbeat('role', 60.0)
    assert [(one.name, one.owner) for one in store.heartbeats()] == [('role', store_module.owner())]
    assert store.heartbeat('role', -60.0)
    store.resign('role')
    assert store.heartbeat('role', 60.0)
    assert store.prune(3600.0) == 0
    assert store.prune(-1.0) == 1
    seen = store_module.Snapshot('n', 'fa:16:3e:00:00:01', 'ACTIVE', (base.FixedIP('subnet', '10.0.0.9'),))
    leaving = {'state': State.UNPLUGGING, 'reason': Reason.DETACH, 'snapshot': seen}
    store.insert(created=False, port_id='c', tag=odd, server_id='t', project_id='p', request_id='r', **leaving)
    assert [one[1:] for one in store.sights('t')] == [('c', None, odd, False, seen.port('c', 'p', odd))]
    assert store.is_shared_with(parts.drivers.network)
    with pytest.raises(exceptions.Unavailable):
        store.together(lambda: [store.insert(created=False, port_id=one, **values) for one in ('d', 'c')])
    assert store.of_port('d') is None
    assert store.called >= {name for name in vars(Store) if not name.startswith('_')}


def test_the_clock_is_that_of_the_database(parts: deploy.Parts) -> None:
    # On this machine it is the machine's.
    assert abs(parts.store.clock() - time.time()) < 2.0
    assert parts.store.clock() <= parts.store.clock()


# ------------------------------------------------------------------ many at once


def test_one_port_goes_to_one_of_many(parts: deploy.Parts) -> None:
    for port in PORTS[:5]:
        answers = attach_all(parts, SERVERS[:16], port_id=port)
        assert sorted(answers) == sorted([port] + ['PortInUse'] * 15)
        assert port in shown(parts, SERVERS[answers.index(port)])
    check(parts)


def test_a_small_network_gives_exactly_what_it_has(parts: deploy.Parts) -> None:
    answers = attach_all(parts, SERVERS, network_id=NARROW)
    assert answers.count('NoAddress') == len(SERVERS) - NARROW_SIZE
    assert len(set(answers)) == NARROW_SIZE + 1
    check(parts)


def test_one_address_goes_to_one_of_many(parts: deploy.Parts) -> None:
    for number in range(5):
        answers = attach_all(parts, SERVERS[:16], network_id=WIDE, ip_address=f'10.1.7.{number}')
        assert answers.count('AddressInUse') == 15
        assert len(set(answers)) == 2
    check(parts)


def mix(parts: deploy.Parts, number: int, steps: int = 12) -> None:
    """Whatever touches the same rows: one port, few addresses, one quota, the reconciler's notes."""
    dice = random.Random(number)
    server = SERVERS[number]
    for _ in range(steps):
        wanted = dice.choice(
            [
                {'port_id': dice.choice(PORTS[:4])},
                {'network_id': NARROW},
                {'network_id': WIDE, 'ip_address': f'10.1.9.{dice.randrange(3)}'},
            ]
        )
        answer = attach(parts, server, **wanted)
        assert answer in ('PortInUse', 'NoAddress', 'AddressInUse') or answer in shown(parts, server)
        if dice.random() < 0.5:
            for port in shown(parts, server):
                detach(parts, server, port)
        with contextlib.suppress(exceptions.Unavailable):
            parts.store.suspect(dice.sample(['x', 'y', 'z'], 2), 60.0)
        parts.store.heartbeat('role', 60.0)
        parts.store.prune(60.0)
    for port in shown(parts, server):
        detach(parts, server, port)


def test_a_mix_that_is_prone_to_deadlocks(parts: deploy.Parts) -> None:
    at_once([functools.partial(mix, parts, number) for number in range(16)])
    assert list(parts.store.listed()) == []
    check(parts)


def _process(url: str, first: int, barrier: Any) -> list[list[str]]:
    parts = assemble(url)
    mine = SERVERS[first : first + 8]
    barrier.wait(60)
    ports = at_once([functools.partial(attach, parts, mine[n], port_id=PORTS[n]) for n in range(8)])
    addresses = attach_all(parts, mine, network_id=NARROW)
    at_once([functools.partial(mix, parts, first + 16 + n, 4) for n in range(4)])
    return [ports, addresses]


def test_two_processes(parts: deploy.Parts, database_url: str) -> None:
    spawn = multiprocessing.get_context('spawn')
    with spawn.Manager() as manager, concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        barrier = manager.Barrier(2)
        told = [pool.submit(_process, database_url, first, barrier) for first in (0, 8)]
        (ports, addresses), (other_ports, other_addresses) = (one.result(120) for one in told)
    for port, *answers in zip(PORTS, ports, other_ports, strict=False):
        assert sorted(answers) == sorted([port, 'PortInUse'])
    given = set(addresses + other_addresses) - {'NoAddress'}
    assert len(given) == NARROW_SIZE
    check(parts)


# ------------------------------------------------------------------ what a transaction leaves and waits for


def in_transactions(database: Database) -> int:
    """Connections with an open transaction, besides the one that looks."""
    with database.read() as connection:
        if connection.dialect.name == 'postgresql':
            return connection.scalar(
                sa.text(
                    'SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() '
                    "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
                )
            )
        # Of the whole server; information_schema.innodb_trx is not up to date.
        status = connection.execute(sa.text('SHOW ENGINE INNODB STATUS')).one()[2]
        return len(re.findall(r'---TRANSACTION \(?\w+\)?, ACTIVE', status))


def test_no_connection_stays_in_a_transaction(url: str) -> None:
    parts = assemble(url)
    attached = _attach(parts, SERVERS[0], network_id=WIDE)
    assert shown(parts, SERVERS[0]) == [attached]
    assert attach(parts, SERVERS[1], port_id=attached) == 'PortInUse'

    def fail(connection: Connection) -> None:
        connection.execute(sa.select(tables.installation))
        raise KeyError

    with pytest.raises(KeyError):
        parts.database.transact(fail)
    assert in_transactions(parts.database) == 0
    with parts.database.prepared() as connection:
        connection.execute(sa.select(tables.installation).with_for_update())
        assert in_transactions(parts.database) == 1
    parts.database.dispose()


def hold(database: Database, released: threading.Event) -> Callable[[], None]:
    """Lock the row of the wide network's pool, until it is told to let go."""
    pools = inventory_tables.allocation_pools
    held = threading.Event()

    def run() -> None:
        # At its end the transaction may have been ended by the server.
        with contextlib.suppress(errors.DatabaseError), database.write() as connection:
            connection.execute(sa.select(pools).with_for_update())
            held.set()
            released.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    assert held.wait(30)
    return thread.join


def test_a_lock_is_not_waited_for_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, '_LOCK_TIMEOUT', 1)
    monkeypatch.setattr(engine_module, '_PATIENCE', 1.5)
    parts = assemble(url)
    released = threading.Event()
    join = hold(connect(url), released)
    begun = time.monotonic()
    try:
        assert attach(parts, SERVERS[0], network_id=WIDE) == 'Unavailable'
    finally:
        released.set()
        join()
    assert 1.0 <= time.monotonic() - begun < 10.0
    assert _attach(parts, SERVERS[0], network_id=WIDE)
    check(parts)


def test_a_process_that_stands_still_does_not_keep_its_locks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, '_IDLE_TIMEOUT', 1)
    still = connect(url)
    released = threading.Event()
    join = hold(still, released)
    parts = assemble(url)
    # It waits until the other's transaction has been ended.
    assert _attach(parts, SERVERS[0], network_id=WIDE)
    released.set()
    join()


def test_a_deadlock_is_run_again(url: str) -> None:
    database = connect(url)
    store = Store(database, lease=30.0)
    values = {'server_id': 's', 'project_id': 'p', 'request_id': 'r', 'state': State.ALLOCATING}
    ids = [store.insert(created=False, **values).record.id for _ in range(2)]
    t = tables.attachments
    touch = sa.update(t).where(t.c.id == sa.bindparam('old_id')).values(attempts=t.c.attempts + 1)
    both = threading.Barrier(2)
    turns: list[int] = []

    def cross(first: str, second: str) -> None:
        def work(connection: Connection) -> None:
            connection.execute(touch, {'old_id': first})
            turns.append(1)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(30)
                both.abort()
            connection.execute(touch, {'old_id': second})

        database.transact(work)

    at_once([lambda: cross(ids[0], ids[1]), lambda: cross(ids[1], ids[0])])
    assert len(turns) >= 3
    assert [record.attempts for record in store.of_server('s')] == [2, 2]


@pytest.mark.parametrize('language', ['de_DE', 'ja_JP'])
def test_errors_are_known_in_any_language(mariadb: DatabaseServer, language: str) -> None:
    database = connect(mariadb.new_database())
    schema.upgrade(database)
    store = Store(database, lease=30.0)
    values = {'server_id': 's', 'project_id': 'p', 'request_id': 'r', 'state': State.ALLOCATING}
    with database.write() as connection:
        connection.execute(sa.text(f"SET GLOBAL lc_messages = '{language}'"))
    database.dispose()
    try:
        store.insert(created=False, port_id='p', **values)
        with pytest.raises(store_module.PortTaken):
            store.insert(created=False, port_id='p', **values)
        assert schema.version(database) == tables.REVISION
    finally:
        with database.write() as connection:
            connection.execute(sa.text("SET GLOBAL lc_messages = 'en_US'"))
        database.dispose()


# ------------------------------------------------------------------ connections that break


def kill_all(database: Database) -> None:
    """End all connections of a database but the one that does so."""
    with database.write() as connection:
        if connection.dialect.name == 'postgresql':
            connection.execute(
                sa.text(
                    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                    'WHERE datname = current_database() AND pid <> pg_backend_pid()'
                )
            )
        else:
            found = connection.execute(
                sa.text(
                    'SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()'
                )
            )
            for number in list(found.scalars()):
                # One that has left by itself meanwhile is unknown.
                with contextlib.suppress(DatabaseError):
                    connection.execute(sa.text(f'KILL {number}'))


@pytest.fixture
def killer(url: str) -> Iterator[Callable[[], None]]:
    database = connect(url)
    yield lambda: kill_all(database)
    database.dispose()


def test_broken_connections_of_the_pool_are_not_noticed(url: str, killer: Callable[[], None]) -> None:
    parts = assemble(url)
    for _ in range(3):
        at_once([functools.partial(shown, parts, server_id) for server_id in SERVERS[:8]])
        attach_all(parts, SERVERS[:8], network_id=WIDE)
        killer()
        answers = at_once([functools.partial(shown, parts, server_id) for server_id in SERVERS[:8]])
        killer()
        for server_id, ports in zip(SERVERS, answers, strict=False):
            for port in ports:
                detach(parts, server_id, port)
    check(parts)


def test_what_breaks_before_the_commit_is_run_again(url: str, killer: Callable[[], None]) -> None:
    database = connect(url)
    store = Store(database, lease=30.0)
    turns: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(tables.suspects.insert(), {'port_id': f'port-{len(turns)}', 'first_seen': 1.0})
        turns.append(1)
        if len(turns) == 1:
            killer()
        connection.execute(sa.select(tables.suspects))

    database.transact(work)
    assert len(turns) == 2
    assert store.old_suspects(0.0) == {'port-1'}


def commit_on_a_broken_connection(database: Database, killer: Callable[[], None]) -> list[int]:
    turns: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(tables.suspects.insert(), {'port_id': f'port-{len(turns)}', 'first_seen': 1.0})
        turns.append(1)
        killer()

    with pytest.raises(exceptions.UnknownOutcome):
        transactions.write(database, work)
    return turns


def test_a_commit_of_unknown_outcome_is_told_and_not_repeated(url: str, killer: Callable[[], None]) -> None:
    database = connect(url)
    assert commit_on_a_broken_connection(database, killer) == [1]
    # The next transaction has a connection that works.
    database.transact(lambda connection: connection.execute(tables.suspects.delete()))


@dataclasses.dataclass
class Lossy:
    """Parts whose database is behind a proxy; and the same database without it."""

    proxy: proxy.Proxy
    parts: deploy.Parts
    direct: Database

    def lose_commit(self) -> None:
        """Lose the answer to the next commit."""
        # That a connection is made with may be a COMMIT too: it is there before.
        self.parts.store.resign('nothing')
        self.proxy.lost.clear()
        self.proxy.lose_answer_to = b'COMMIT'


@pytest.fixture
def lossy(server: DatabaseServer, url: str) -> Iterator[Lossy]:
    with proxy.before(server.port) as between:
        behind = sa.make_url(url).set(port=between.port).render_as_string(hide_password=False)
        parts = assemble(behind)
        yield Lossy(between, parts, connect(url))
        parts.database.dispose()


def test_an_insert_whose_answer_is_lost_is_told(lossy: Lossy) -> None:
    # Asked for once, before the first insert.
    assert lossy.parts.store.installation
    lossy.lose_commit()
    values = {'server_id': 's', 'project_id': 'p', 'request_id': 'r', 'state': State.ALLOCATING}
    with pytest.raises(exceptions.Unavailable):
        lossy.parts.store.insert(created=False, port_id='p', **values)
    assert lossy.proxy.lost.is_set()
    # It is there, held by somebody who does not know of it: the reconciler's, once the lease has run out.
    direct = Store(lossy.direct, lease=30.0)
    wait_until(lambda: direct.of_port('p') is not None)
    with pytest.raises(store_module.PortTaken):
        lossy.parts.store.insert(created=False, port_id='p', **values)


def test_a_swap_whose_answer_is_lost_can_be_done_again(lossy: Lossy) -> None:
    store = lossy.parts.store
    values = {'server_id': 's', 'project_id': 'p', 'request_id': 'r', 'state': State.ALLOCATING}
    held = store.insert(created=False, port_id='p', **values)
    lossy.lose_commit()
    with pytest.raises(exceptions.Unavailable):
        store.swap(held.record, state=State.PLUGGING)
    assert lossy.proxy.lost.is_set()
    assert store.swap(held.record, state=State.PLUGGING).record.generation == held.record.generation


def lose_commit_of(lossy: Lossy, method: str) -> None:
    """Lose the answer to the commit of a method of the network driver, once."""
    driver = lossy.parts.drivers.network
    real = getattr(driver, method)

    def losing(*args: Any) -> Any:
        delattr(driver, method)
        lossy.lose_commit()
        return real(*args)

    setattr(driver, method, losing)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that commit by themselves, as where the ports are kept in another database."""
    monkeypatch.setattr(SQLNetworkDriver, 'database', None)


def test_a_port_whose_creation_was_not_confirmed_is_found_by_its_mark(apart: None, lossy: Lossy) -> None:
    lose_commit_of(lossy, 'create')
    port = _attach(lossy.parts, SERVERS[0], network_id=WIDE)
    assert lossy.proxy.lost.is_set()
    assert shown(lossy.parts, SERVERS[0]) == [port]
    check(lossy.parts)


def test_a_claim_that_was_not_confirmed_is_undone(apart: None, lossy: Lossy) -> None:
    lose_commit_of(lossy, 'claim')
    assert attach(lossy.parts, SERVERS[0], port_id=PORTS[0]) == 'UnknownOutcome'
    assert lossy.proxy.lost.is_set()
    assert list(lossy.parts.store.listed()) == []
    check(lossy.parts)


@pytest.mark.parametrize('method', ['unbind', 'delete'])
def test_a_way_out_that_was_not_confirmed_is_gone_again(apart: None, lossy: Lossy, method: str) -> None:
    wanted = {'port_id': PORTS[0]} if method == 'unbind' else {'network_id': WIDE}
    port = _attach(lossy.parts, SERVERS[0], **wanted)
    lose_commit_of(lossy, method)
    detach(lossy.parts, SERVERS[0], port)
    assert lossy.proxy.lost.is_set()
    [record] = lossy.parts.store.listed()
    assert 'UnknownOutcome' in (record.last_error or '')
    detach(lossy.parts, SERVERS[0], port)
    assert list(lossy.parts.store.listed()) == []
    check(lossy.parts)


@pytest.mark.parametrize('method', ['create', 'claim'])
def test_an_attach_that_was_not_confirmed_is_found(lossy: Lossy, method: str) -> None:
    lose_commit_of(lossy, method)
    wanted = {'port_id': PORTS[0]} if method == 'claim' else {'network_id': WIDE}
    port = _attach(lossy.parts, SERVERS[0], **wanted)
    assert lossy.proxy.lost.is_set()
    assert shown(lossy.parts, SERVERS[0]) == [port]
    check(lossy.parts)


@pytest.mark.parametrize('method', ['unbind', 'delete'])
def test_a_detach_that_was_not_confirmed_is_known_to_be_done(lossy: Lossy, method: str) -> None:
    wanted = {'port_id': PORTS[0]} if method == 'unbind' else {'network_id': WIDE}
    port = _attach(lossy.parts, SERVERS[0], **wanted)
    lose_commit_of(lossy, method)
    detach(lossy.parts, SERVERS[0], port)
    assert lossy.proxy.lost.is_set()
    assert list(lossy.parts.store.listed()) == []
    check(lossy.parts)


def test_a_server_that_is_silent_is_not_waited_for_for_ever(lossy: Lossy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('_CONNECT_TIMEOUT', '_ANSWER_TIMEOUT'):
        # libpq takes less than two seconds for two.
        monkeypatch.setattr(engine_module, name, 2)
    url = lossy.parts.conf.database.connection
    lossy.proxy.silent = True
    begun = time.monotonic()
    with pytest.raises(errors.DatabaseError):
        connect(url).fetch(sa.select(tables.installation))
    assert time.monotonic() - begun < 10.0


# ------------------------------------------------------------------ the server stopped and started again


def test_the_server_stopped_and_started_again(server: DatabaseServer, url: str) -> None:
    # The holder of what an outage cut off is this very process: it may go on when its lease has run out.
    parts = assemble(url, wait=0.1, lease=1.0)
    workers = 8
    refused, succeeded = ([threading.Event() for _ in range(workers)] for _ in range(2))
    stop = threading.Event()
    unexpected: list[Exception] = []
    slowest = [0.0] * workers

    def work(number: int) -> None:
        server_id, port_id = SERVERS[number], PORTS[number]
        while not stop.is_set():
            begun = time.monotonic()
            try:
                wanted = random.choice([{'port_id': port_id}, {'network_id': WIDE}])
                _attach(parts, server_id, **wanted)
                for attached in shown(parts, server_id):
                    detach(parts, server_id, attached)
                succeeded[number].set()
            except exceptions.Unavailable:
                refused[number].set()
            except exceptions.LostHold:
                # The lease is short, and the machine may be slow.
                pass
            except Exception as error:
                unexpected.append(error)
            slowest[number] = max(slowest[number], time.monotonic() - begun)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, number) for number in range(workers)]
        try:
            for _ in range(2):
                wait_until(lambda: all(event.is_set() for event in succeeded))
                for event in refused:
                    event.clear()
                server.stop()
                wait_until(lambda: all(event.is_set() for event in refused))
                with pytest.raises(exceptions.ConfigurationError) as caught:
                    schema.version(parts.database)
                assert '\n' not in str(caught.value)
                for event in succeeded:
                    event.clear()
                server.start()
        finally:
            if not server.is_running:
                server.start()
            wait_until(lambda: all(event.is_set() for event in succeeded) or bool(unexpected))
            stop.set()
        for one in running:
            one.result()
    assert unexpected == []
    assert max(slowest) < 20.0

    def settled() -> bool:
        parts.reconciler.once()
        return not list(parts.store.listed())

    wait_until(settled)
    check(parts)
    parts.database.dispose()
