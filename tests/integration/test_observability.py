"""Metrics of four gunicorn workers and a reconciler, added up; notifications, read off a real RabbitMQ."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from os_interface_ext import conf as config
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store, owner
from os_interface_ext.db import schema, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from tests.services.rabbitmq import RabbitMQ

from .conftest import INVENTORY, NAMES, PATIENCE, TOKENS, Start, environment, wait_until

pytestmark = pytest.mark.service

WORKERS = 4
REQUESTS = 480
COLLECTION = f'/v2.1/servers/{NAMES["srv_active"]}/os-interface'


class Host:
    """The delivered paste file on gunicorn: the API, its health and its metrics."""

    def __init__(self, home: pathlib.Path) -> None:
        self.config = home / 'os-interface-ext.conf'
        self.metrics = home / 'metrics'
        database = f'sqlite:///{home}/osif.sqlite'
        self.config.write_text(
            f'[database]\nconnection = {database}\n[api]\nauth_strategy = static_tokens\n'
            f'[metrics]\ndirectory = {self.metrics}\n'
        )
        conf = config.new([str(self.config)])
        schema.upgrade(Database.of(conf))
        with Database.of(conf).write() as connection:
            loader.load(connection, loader.parse(pathlib.Path(INVENTORY).read_text(), 'inventory'))
        Database.of(conf).dispose()
        self.environment = environment(home, **{config.ENV_FILES: str(self.config)})
        self.log = home / 'gunicorn.log'
        with socket.create_server(('127.0.0.1', 0)) as listening, self.log.open('w') as log:
            self.port = listening.getsockname()[1]
            options = ['--workers', str(WORKERS), '--worker-class', 'gthread', '--threads', '4']
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'gunicorn', '--bind', f'fd://{listening.fileno()}', *options,
                 'os_interface_ext.wsgi.api:application'],
                env=self.environment,
                cwd=home,
                stdout=log,
                stderr=log,
                pass_fds=[listening.fileno()],
            )  # fmt: skip

    def ask(self, method: str, path: str, body: Any = None, token: str = 'a_member', version: str = '2.70') -> Any:
        with contextlib.closing(http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)) as peer:
            headers = {
                'X-Auth-Token': TOKENS[token],
                'OpenStack-API-Version': f'compute {version}',
                'Content-Type': 'application/json',
            }
            peer.request(method, path, None if body is None else json.dumps(body), headers)
            answer = peer.getresponse()
            return answer.status, answer.read().decode()

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return bool(self.ask('GET', '/healthcheck/ready')[0] == 200)
        return False

    def samples(self) -> dict[str, dict[tuple[str, ...], float]]:
        status, text = self.ask('GET', '/metrics')
        assert status == 200
        found: dict[str, dict[tuple[str, ...], float]] = collections.defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                found[sample.name.removeprefix('os_interface_ext_')][labels] = sample.value
        return found

    def workers(self) -> list[int]:
        """Those that have counted something."""
        return [int(path.name.partition('-')[0]) for path in self.metrics.glob('*.mmap')]


@pytest.fixture(scope='module')
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp('host'))
    try:
        wait_until(host.answers)
        yield host
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(PATIENCE) == 0
    finally:
        host.process.kill()
        host.process.wait()


def burst(host: Host, seen: collections.Counter[tuple[str, str, str]]) -> None:
    """Many requests at once, of which some fail; ``seen`` counts the answers as the metrics do."""
    made = {'interfaceAttachment': {'net_id': NAMES['net1']}}
    kinds = [
        ('list', 'GET', COLLECTION, None, 'a_member', '2.70'),
        ('list', 'GET', COLLECTION, None, 'a_member', '2.1'),
        ('list', 'GET', COLLECTION, None, 'b_member', '2.70'),
        ('show', 'GET', f'{COLLECTION}/{NAMES["p_active"]}', None, 'a_member', '2.70'),
        ('show', 'GET', f'{COLLECTION}/{NAMES["missing_port"]}', None, 'a_member', '2.70'),
        ('delete', 'DELETE', f'{COLLECTION}/{NAMES["missing_port"]}', None, 'a_member', '2.70'),
        ('create', 'POST', COLLECTION, {'interfaceAttachment': {}, 'wrong': 1}, 'a_member', '2.70'),
        ('create', 'POST', COLLECTION, made, 'a_member', '2.49'),
        ('list', 'GET', COLLECTION, None, 'a_member', '2.999'),
        ('other', 'PUT', COLLECTION, None, 'a_member', '2.70'),
    ]

    def one(number: int) -> tuple[str, str, str]:
        operation, method, path, body, token, version = kinds[number % len(kinds)]
        status, _ = host.ask(method, path, body, token, version)
        return ('2.1' if version == '2.999' else version, operation, str(status))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        seen.update(pool.map(one, range(REQUESTS)))


def test_four_workers_add_up_to_what_the_client_counted(host: Host) -> None:
    seen: collections.Counter[tuple[str, str, str]] = collections.Counter()
    burst(host, seen)
    # Whichever worker is asked.
    for _ in range(2 * WORKERS):
        assert host.samples()['requests_total'] == seen

    def all_have_counted() -> bool:
        seen['2.70', 'list', str(host.ask('GET', COLLECTION)[0])] += 1
        return len(host.workers()) == WORKERS

    wait_until(all_have_counted)
    assert sum(seen.values()) > REQUESTS
    assert {status for _, _, status in seen} >= {'200', '400', '404', '405', '406'}
    # A worker that is killed takes nothing with it, and is replaced.
    killed = host.workers()[0]
    os.kill(killed, signal.SIGKILL)
    for _ in range(2 * WORKERS):
        assert host.samples()['requests_total'] == seen
    burst(host, seen)
    found = host.samples()
    assert found['requests_total'] == seen
    by_operation: collections.Counter[tuple[str, ...]] = collections.Counter()
    for (_, operation, _), times in seen.items():
        by_operation[operation,] += times
    assert found['request_duration_seconds_count'] == by_operation
    attached = seen['2.49', 'create', '200']
    assert attached > 0
    assert found['attachment_events_total']['attach_ended',] == attached
    assert found['driver_call_duration_seconds_count']['network', 'create', 'ok'] == attached
    # The records are counted once in a while only.
    wait_until(
        lambda: (
            sum(value for labels, value in host.samples()['records'].items() if 'ATTACHED' in labels) == attached
        )
    )
    assert killed not in host.workers()


def test_a_reconciler_counts_in_the_same_place(host: Host) -> None:
    before = host.samples()['reconciler_looks_total'].get(('done',), 0.0)
    subprocess.run(
        [sys.executable, '-m', 'os_interface_ext.cmd.reconciler', '--once'],
        env=host.environment,
        check=True,
        capture_output=True,
    )
    assert host.samples()['reconciler_looks_total']['done',] == before + 1.0
    # The database is asked once in a while only.
    wait_until(lambda: len(host.samples()['reconciler_heartbeat_age_seconds']) >= 1)


def test_what_is_read_off_the_database(database_url: str) -> None:
    conf = config.new([], database={'connection': database_url})
    database = Database.of(conf)
    schema.upgrade(database)
    store = Store(database, lease=30.0)
    assert store.census(attempts=8, rest=600.0) == []
    assert (store.orphans(), store.heartbeats()) == (0, [])
    aged = [('ATTACHED', 0), ('ATTACHED', 100_000), ('RELEASING', 90), ('RELEASING', 4000)]
    for number, (state, age) in enumerate(aged):
        held = store.insert(
            created=False, server_id='s', project_id='p', port_id=f'port-{number}', state=State.ALLOCATING
        )
        store.settle(held.record, state=State(state), attempts=9 if age == 90 else 0)
        with database.write() as connection:
            then = tables.attachments.c.created_at - age
            statement = sa.update(tables.attachments).values(created_at=then, updated_at=then)
            connection.execute(statement.where(tables.attachments.c.id == held.record.id))
    attached, releasing = sorted(store.census(attempts=8, rest=600.0), key=lambda count: count.state)
    assert (attached.state, attached.records, attached.stuck) == (State.ATTACHED, 2, 0)
    assert attached.ages == {'minute': 1, 'hour': 0, 'day': 0, 'older': 1}
    assert (releasing.state, releasing.records, releasing.stuck) == (State.RELEASING, 2, 2)
    assert releasing.ages == {'minute': 0, 'hour': 1, 'day': 1, 'older': 0}
    assert 4000.0 <= releasing.oldest < 4000.0 + PATIENCE
    store.suspect(['port-8', 'port-9'], 0.0)
    assert store.orphans() == 2
    store.heartbeat('reconciler one', 3600.0)
    store.heartbeat('reconciler two', -1.0)
    beats = {beat.name: beat for beat in store.heartbeats()}
    assert {name: (beat.owner, beat.is_late) for name, beat in beats.items()} == {
        'reconciler one': (owner(), False),
        'reconciler two': (owner(), True),
    }
    assert all(0.0 <= beat.age < PATIENCE for beat in beats.values())
    database.dispose()


# ------------------------------------------------------------------ notifications


class Reader:
    """Takes notifications off the broker as any consumer does."""

    def __init__(self, port: int) -> None:
        self._port = port

    def take(self, level: str, number: int) -> list[dict[str, Any]]:
        """So many of one level, in their order, when they have come."""
        found: list[dict[str, Any]] = []

        def all_are_there() -> bool:
            with (
                contextlib.suppress(amqp.NotFound, OSError),
                amqp.Connection(f'127.0.0.1:{self._port}', connect_timeout=PATIENCE) as connection,
            ):
                channel = connection.channel()
                while (message := channel.basic_get(f'versioned_notifications.{level}')) is not None:
                    found.append(json.loads(json.loads(message.body)['oslo.message']))
                    channel.basic_ack(message.delivery_tag)
            return len(found) >= number

        wait_until(all_are_there)
        assert len(found) == number
        return found


def test_notifications_are_read_off_rabbitmq(start: Start, tmp_path: pathlib.Path, rabbitmq: RabbitMQ) -> None:
    path = tmp_path / 'notifying.conf'
    path.write_text(
        f'[DEFAULT]\ntransport_url = {rabbitmq.url}\n[notifications]\nenabled = true\n'
        '[oslo_messaging_rabbit]\nrabbit_retry_interval = 1\nrabbit_interval_max = 1\n'
        'kombu_reconnect_delay = 0.1\n'
    )
    service = start('--config-file', str(path), '--inventory', INVENTORY, '--workers', '2')
    reader, token = Reader(rabbitmq.port), TOKENS['a_member']

    def attach(**wanted: Any) -> Any:
        return service.call('POST', COLLECTION, token, {'interfaceAttachment': wanted})

    made = attach(net_id=NAMES['net1'])
    assert made.status == 200
    port = made.body['interfaceAttachment']
    start_, end = reader.take('info', 2)
    assert start_['event_type'] == 'instance.interface_attach.start'
    assert end['event_type'] == 'instance.interface_attach.end'
    assert end['publisher_id'] == f'os-interface-ext:{socket.gethostname()}'
    assert end['priority'] == 'INFO'
    assert end['_context_request_id'] == made.headers['x-openstack-request-id']
    data = end['payload']['nova_object.data']
    assert (data['uuid'], data['tenant_id']) == (NAMES['srv_active'], NAMES['project_a'])
    [ip] = data['ip_addresses']
    assert ip['nova_object.data']['address'] == port['fixed_ips'][0]['ip_address']
    assert ip['nova_object.data']['port_uuid'] == port['port_id']

    refused = attach(net_id=NAMES['net1'], fixed_ips=[{'ip_address': port['fixed_ips'][0]['ip_address']}])
    assert refused.status == 409
    [error] = reader.take('error', 1)
    assert error['event_type'] == 'instance.interface_attach.error'
    assert error['payload']['nova_object.data']['fault']['nova_object.data']['exception'] == 'AddressInUse'
    reader.take('info', 1)

    # A broker that is away delays nobody; what has happened meanwhile is told when it is back, by workers that
    # were connected to it and by those that were not.
    rabbitmq.kill()
    try:
        ports = [attach(net_id=NAMES['net1']).body['interfaceAttachment']['port_id'] for _ in range(8)]
        for port_id in ports:
            assert service.call('DELETE', f'{COLLECTION}/{port_id}', token).status == 202
    finally:
        rabbitmq.start()
    events = collections.Counter(one['event_type'] for one in reader.take('info', 4 * len(ports)))
    assert events == dict.fromkeys(
        [
            'instance.interface_attach.start',
            'instance.interface_attach.end',
            'instance.interface_detach.start',
            'instance.interface_detach.end',
        ],
        len(ports),
    )
    assert 'Could not send notification' not in (tmp_path / 'serve.log').read_text()
