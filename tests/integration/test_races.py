"""Many workers of several hosts at once: one winner, no port given twice, answers that the tables bear out."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext.db import tables
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import tables as inventory_tables

from . import load
from .conftest import Service

pytestmark = pytest.mark.service

ROUNDS = max(2, round(200 * load.SCALE))
OPERATIONS = round(20000 * load.SCALE)
RACERS = 32
CLOUD = load.Cloud.of(servers=RACERS, ports=24)
CONFIG = '[attachments]\nlease = 5\n[reconciler]\ninterval = 0.2\nworld_interval = 2\ngrace = 4\nbackoff = 0.1\n'

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Print a line of results, whatever is captured."""

    def out(line: str) -> None:
        with capsys.disabled():
            print(f'\n{line}')

    return out


def two_hosts(home: pathlib.Path, url: str) -> contextlib.AbstractContextManager[list[Service]]:
    return load.two_hosts(home, url, CONFIG, CLOUD.inventory(), '--allow-reset')


@pytest.fixture(scope='module')
def hosts(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    with two_hosts(tmp_path_factory.mktemp('hosts'), database_url) as found:
        yield found


@pytest.fixture
def urls(hosts: list[Service]) -> list[str]:
    hosts[0].reset()
    return [host.url for host in hosts]


def answers(results: list[tuple[int, Any]]) -> list[int]:
    return sorted(status for status, _ in results)


def winner(results: list[tuple[int, Any]]) -> tuple[str, str]:
    [(number, body)] = [(n, body) for n, (status, body) in enumerate(results) if status == 200]
    return CLOUD.servers[number], body['interfaceAttachment']['port_id']


def test_one_port_for_many_servers_goes_to_one(urls: list[str], say: Say) -> None:
    port = CLOUD.ports[0]
    tidy = load.Client(urls[0])
    for _ in range(ROUNDS):
        results = load.at_once(urls, [lambda c, s=server: c.attach(s, port_id=port) for server in CLOUD.servers])
        assert answers(results) == [200] + [409] * (RACERS - 1)
        tidy.detached(*winner(results))
    say(f'one port, {RACERS} servers at once, {ROUNDS} times: one 200 each time, the rest 409')


def test_one_address_for_many_servers_goes_to_one(urls: list[str], say: Say) -> None:
    wanted = {'net_id': CLOUD.wide, 'fixed_ips': [{'ip_address': '10.1.77.7'}]}
    tidy = load.Client(urls[0])
    for _ in range(ROUNDS):
        results = load.at_once(urls, [lambda c, s=server: c.attach(s, **wanted) for server in CLOUD.servers])
        assert answers(results) == [200] + [409] * (RACERS - 1)
        tidy.detached(*winner(results))
    say(f'one address, {RACERS} servers at once, {ROUNDS} times: one 200 each time, the rest 409')


def test_a_small_network_gives_exactly_what_it_has(urls: list[str]) -> None:
    tidy = load.Client(urls[0])
    for _ in range(max(2, ROUNDS // 20)):
        results = load.at_once(
            urls, [lambda c, s=server: c.attach(s, net_id=CLOUD.narrow) for server in CLOUD.servers]
        )
        given = CLOUD.narrow_size
        assert answers(results) == [200] * given + [400] * (RACERS - given)
        for server, (status, body) in zip(CLOUD.servers, results, strict=True):
            if status == 200:
                tidy.detached(server, body['interfaceAttachment']['port_id'])


def test_detach_detach_attach_keeps_the_fresh_attachment(urls: list[str]) -> None:
    # Nova bug 1892870.
    server, port = CLOUD.servers[0], CLOUD.ports[1]
    client = load.Client(urls[0])
    for _ in range(ROUNDS):
        assert client.attach(server, port_id=port)[0] == 200
        results = load.at_once(
            urls,
            [
                lambda c: c.call('DELETE', server, port),
                lambda c: c.call('DELETE', server, port),
                lambda c: c.attach(server, port_id=port),
            ],
        )
        assert {results[0][0], results[1][0]} <= {202, 404}
        # Whatever the order was: an attach from now on stays.
        assert client.attach(server, port_id=port)[0] == 200
        assert client.listed(server) == [port]
        client.detached(server, port)


def settled(database_url: str) -> Database:
    """The database, once no record is in motion any more."""
    database = Database.of(config.new([], database={'connection': database_url}))
    t = tables.attachments
    until = time.monotonic() + 2 * 30
    while time.monotonic() < until:
        with database.read() as connection:
            if not connection.scalar(sa.select(sa.func.count()).where(t.c.state != 'ATTACHED')):
                return database
        time.sleep(0.1)
    raise AssertionError('a record stays in motion')


def check_tables(database: Database, outcome: load.Outcome) -> None:
    """What the tables say is what the answers said, and nothing is left over."""
    t, p, a = tables.attachments, inventory_tables.ports, inventory_tables.addresses
    with database.read() as connection:
        records = {row.port_id: row for row in connection.execute(sa.select(t))}
        ports = {row.id: row for row in connection.execute(sa.select(p))}
        used = list(connection.execute(sa.select(a.c.port_id, a.c.ip_address)))
    assert set(CLOUD.ports) <= ports.keys(), 'a brought port was deleted'
    for port in ports.values():
        record = records.get(port.id)
        assert (port.device_id or None) == (record.server_id if record else None), f'port {port.id}'
        assert record or port.id in CLOUD.ports, f'port {port.id} is left over'
    assert records.keys() <= ports.keys()
    assert len(used) == len(ports) == len({address for _, address in used})
    for server, held in outcome.held.items():
        unsure = outcome.unsure[server]
        has = {record.port_id for record in records.values() if record.server_id == server}
        assert held - unsure <= has, f'{server} has lost {held - unsure - has}'
        if 'any' not in unsure:
            assert has <= held | unsure, f'{server} has {has - held - unsure}, which nobody was told of'


def test_random_operations(urls: list[str], database_url: str, say: Say) -> None:
    outcome = load.run(CLOUD, urls, OPERATIONS, seed=1)
    say(outcome.line(database_url.partition(':')[0]))
    assert outcome.problems == []
    assert outcome.count(0) == 0
    unexpected = {key: number for key, number in outcome.statuses.items() if key[1] >= 500 and key[1] != 503}
    assert unexpected == {}
    assert outcome.count(503) < 0.01 * outcome.operations
    check_tables(settled(database_url), outcome)


@pytest.mark.parametrize('kind', ['postgresql', 'mariadb'])
def test_the_database_restarted_under_load(
    kind: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path, say: Say
) -> None:
    server = request.getfixturevalue(kind)
    url = server.new_database()

    def restart() -> None:
        server.stop()
        # Long enough that every client has met it.
        time.sleep(1.0)
        server.start()

    with two_hosts(tmp_path, url) as found:
        outcome = load.run(CLOUD, [host.url for host in found], OPERATIONS, seed=2, disturb=restart)
        say(outcome.line(f'{kind} restarted'))
        assert outcome.problems == []
        unexpected = {key: number for key, number in outcome.statuses.items() if key[1] >= 500 and key[1] != 503}
        assert unexpected == {}
        assert outcome.count(503) > 0, 'the outage was not met'
        check_tables(settled(url), outcome)
        # Recovered without a hand.
        client = load.Client(found[0].url)
        status, body = client.attach(CLOUD.servers[0], net_id=CLOUD.wide)
        assert status == 200
        client.detached(CLOUD.servers[0], body['interfaceAttachment']['port_id'])
