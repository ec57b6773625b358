"""What those see who watch: metrics, health, the ids in log lines, notifications; in one process."""

from __future__ import annotations

import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flask
import prometheus_client
import prometheus_client.values
import pytest
import webtest
from oslo_messaging.notify import _impl_test as published
from prometheus_client.parser import text_string_to_metric_families

from os_interface_ext import conf as config
from os_interface_ext import exceptions, observability
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.extension import Extension
from os_interface_ext.middleware.static_tokens import StaticTokens
from os_interface_ext.observability import logs
from os_interface_ext.observability.shelf import Shelf
from os_interface_ext.testing.faults import Faults, wrap

from .conftest import NAMES, Build, Plugs, World

Samples = dict[tuple[str, ...], float]


def raises(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def page_of(world: World) -> webtest.TestApp:
    return webtest.TestApp(world.extension.metrics())


def samples(text: str) -> dict[str, Samples]:
    """Values by name and the values of the labels, in the order of the labels' names."""
    found: dict[str, Samples] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix('os_interface_ext_'), {})[labels] = sample.value
    return found


def scrape(world: World) -> dict[str, Samples]:
    return samples(page_of(world).get('/').text)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def measured(build: Build, tmp_path: pathlib.Path, faults: Faults) -> World:
    """A world that is measured, whose VIF driver can be made to fail."""
    options = {'metrics': {'directory': f'{tmp_path}/metrics'}}
    return build(vif_driver=wrap(Plugs(config.new([])), faults), **options)


# ------------------------------------------------------------------ metrics


def test_requests_by_operation_status_and_microversion(measured: World) -> None:
    port = measured.attach(net_id='net1').json['interfaceAttachment']['port_id']
    for _ in range(3):
        measured.call('GET', measured.url('srv_active'), version='2.49')
    measured.call('GET', measured.url('srv_active', port))
    measured.call('GET', measured.url('srv_active', 'missing_port'))
    measured.call('GET', measured.url('missing_server'), version='2.999')
    measured.call('PUT', measured.url('srv_active'))
    measured.call('DELETE', measured.url('srv_active', port))
    found = scrape(measured)
    assert found['requests_total'] == {
        ('2.70', 'create', '200'): 1.0,
        ('2.49', 'list', '200'): 3.0,
        ('2.70', 'show', '200'): 1.0,
        ('2.70', 'show', '404'): 1.0,
        ('2.1', 'list', '406'): 1.0,
        ('2.70', 'other', '405'): 1.0,
        ('2.70', 'delete', '202'): 1.0,
    }
    assert found['request_duration_seconds_count'][('list',)] == 4.0
    assert found['request_duration_seconds_bucket'][('+Inf', 'list')] == 4.0
    assert 0.0 < found['request_duration_seconds_sum'][('list',)] < 4 * 30.0
    buckets = [found['request_duration_seconds_bucket'][(le, 'list')] for le in ('0.001', '0.1', '10.0', '+Inf')]
    assert buckets == sorted(buckets)


def test_driver_calls_by_kind_method_and_outcome(measured: World, faults: Faults) -> None:
    measured.call('GET', measured.url('missing_server'))
    faults.add('before plug', raises(exceptions.PlugFailed()))
    assert measured.attach(net_id='net1').status_int == 500
    calls = scrape(measured)['driver_call_duration_seconds_count']
    assert calls[('server', 'get', 'ServerNotFound')] == 1.0
    assert calls[('vif', 'plug', 'PlugFailed')] == 1.0
    assert calls[('vif', 'unplug', 'ok')] == 1.0
    assert calls[('network', 'create', 'ok')] == 1.0
    assert calls[('network', 'delete', 'ok')] == 1.0


def test_what_happens_to_attachments(measured: World, faults: Faults) -> None:
    port = measured.attach(net_id='net1').json['interfaceAttachment']['port_id']
    faults.add('before plug', raises(exceptions.PlugFailed()))
    measured.attach(net_id='net1')
    faults.add('before unplug', raises(exceptions.Unavailable()), times=2)
    assert measured.call('DELETE', measured.url('srv_active', port)).status_int == 202
    found = scrape(measured)
    assert found['attachment_events_total'] == {
        ('attach_started',): 2.0,
        ('attach_ended',): 1.0,
        ('attach_failed',): 1.0,
        ('detach_started',): 1.0,
        ('detach_failed',): 1.0,
    }
    assert found['undos_total'] == {(): 1.0}
    assert found['retries_total'] == {('detach', 'UNPLUGGING'): 1.0}
    assert found['records'][('minute', 'UNPLUGGING')] == 1.0
    assert sum(found['records'].values()) == 1.0
    store = measured.extension.parts.store
    for end in (False, True):
        store.retry(store.of_port(port).id)  # type: ignore[union-attr]
        measured.extension.parts.reconciler.once()
        assert (store.of_port(port) is None) is end
    found = scrape(measured)
    assert found['retries_total'] == {('detach', 'UNPLUGGING'): 2.0}
    assert found['reconciled_total'] == {('pending',): 1.0, ('carried_on',): 1.0}
    assert found['reconciler_looks_total'] == {('done',): 2.0}
    assert found['attachment_events_total'][('detach_ended',)] == 1.0
    assert found['attachment_events_total'][('detach_failed',)] == 1.0
    assert sum(found['records'].values()) == 0.0
    [age] = found['reconciler_heartbeat_age_seconds'].values()
    assert age < 60.0


def test_an_attach_whose_process_has_died(measured: World) -> None:
    Store(measured.database, lease=-1.0).insert(
        created=True,
        server_id=NAMES['srv_active'],
        project_id=NAMES['project_a'],
        requested_network_id=NAMES['net1'],
        state=State.ALLOCATING,
    )
    measured.extension.parts.reconciler.once()
    found = scrape(measured)
    assert found['attachment_events_total'] == {('attach_failed',): 1.0}
    assert found['undos_total'] == {(): 1.0}
    assert found['reconciled_total'] == {('carried_on',): 1.0}


def test_records_by_age(measured: World) -> None:
    measured.attach(net_id='net1')
    measured.attach(port_id='p_free')
    with measured.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE osif_attachments SET created_at = created_at - 4000, state = 'PLUGGING', attempts = 9 "
            'WHERE port_id = ?',
            (NAMES['p_free'],),
        )
    found = scrape(measured)
    assert {labels: value for labels, value in found['records'].items() if value} == {
        ('minute', 'ATTACHED'): 1.0,
        ('day', 'PLUGGING'): 1.0,
    }
    assert found['records_oldest_seconds'][('PLUGGING',)] >= 4000.0
    assert found['records_stuck'][('PLUGGING',)] == 1.0
    assert found['database_up'] == {(): 1.0}


def test_counts_are_told_while_the_database_is_away(measured: World, monkeypatch: pytest.MonkeyPatch) -> None:
    measured.call('GET', measured.url('srv_active'))
    page = page_of(measured)

    def away(*args: Any) -> Any:
        raise exceptions.DriverError

    monkeypatch.setattr(measured.database, 'fetch', away)
    found = samples(page.get('/').text)
    assert found['requests_total'] == {('2.70', 'list', '200'): 1.0}
    assert found['database_up'] == {(): 0.0}
    assert 'records' not in found


def test_two_extensions_of_one_process_count_for_themselves(build: Build, tmp_path: pathlib.Path) -> None:
    before = set(prometheus_client.REGISTRY._names_to_collectors)
    one, other = (build(name, metrics={'directory': f'{tmp_path}/{name}'}) for name in ('one', 'other'))
    for world, requests in ((one, 2), (other, 5)):
        for _ in range(requests):
            world.call('GET', world.url('srv_active'))
    assert scrape(one)['requests_total'] == {('2.70', 'list', '200'): 2.0}
    assert scrape(other)['requests_total'] == {('2.70', 'list', '200'): 5.0}
    # The host's prometheus_client is as it was.
    assert set(prometheus_client.REGISTRY._names_to_collectors) == before
    assert prometheus_client.values.ValueClass is prometheus_client.values.MutexValue
    assert not {name for name in os.environ if name.lower() == 'prometheus_multiproc_dir'}


def test_nothing_is_measured_unless_it_is_asked_for(world: World) -> None:
    parts = world.extension.parts
    # No object stands before the driver.
    assert parts.api.servers is parts.drivers.server
    assert parts.metrics is None
    assert '[metrics] directory' in page_of(world).get('/', status=404).text


def test_without_the_library_the_start_ends_in_one_line(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, 'prometheus_client', None)
    monkeypatch.delitem(sys.modules, 'os_interface_ext.observability.metrics', raising=False)
    monkeypatch.delattr(observability, 'metrics', raising=False)
    with pytest.raises(
        exceptions.ConfigurationError, match=r'\[metrics\] directory: .*os-interface-ext\[metrics\]'
    ):
        build(metrics={'directory': str(tmp_path)})


def test_a_directory_that_cannot_be_used_ends_the_start(build: Build, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(exceptions.ConfigurationError, match=r'\[metrics\] directory: .*cannot be used'):
        build(metrics={'directory': f'{tmp_path}/file/metrics'})


def test_a_directory_that_is_lost_fails_no_request(measured: World, caplog: pytest.LogCaptureFixture) -> None:
    # As root, nothing but its absence keeps a process from writing.
    directory = pathlib.Path(measured.conf.metrics.directory)
    (directory / 'lock').unlink()
    directory.rmdir()
    for _ in range(2):
        assert measured.call('GET', measured.url('srv_active')).status_int == 200
    assert caplog.text.count('this process is not measured') == 1
    page_of(measured).get('/', status=503)


# ------------------------------------------------------------------ the shelf

COUNTS = """
import os, signal, sys
from os_interface_ext.observability.shelf import Shelf
shelf = Shelf(sys.argv[1])
for _ in range(int(sys.argv[2])):
    shelf.add([('a', 1.0), ('b', 0.5)])
if len(sys.argv) > 3:
    os.kill(os.getpid(), signal.SIGKILL)
print('counted', flush=True)
sys.stdin.read()
"""


def count(directory: pathlib.Path, times: int, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', COUNTS, str(directory), str(times), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.service
def test_what_the_dead_have_counted_is_kept_and_folded(tmp_path: pathlib.Path) -> None:
    shelf = Shelf(str(tmp_path))
    shelf.add([('a', 1.0)])
    living = count(tmp_path, 10)
    assert living.stdout is not None
    assert living.stdout.readline() == 'counted\n'
    for expected in (18.0, 25.0):
        killed = count(tmp_path, 7, 'killed')
        assert killed.wait() == -signal.SIGKILL
        for _ in range(2):
            assert shelf.totals() == {'a': expected, 'b': (expected - 1.0) / 2}
        assert len(list(tmp_path.glob('*.mmap'))) == 2
    living.communicate()
    assert shelf.totals() == {'a': 25.0, 'b': 12.0}
    assert len(list(tmp_path.glob('*.mmap'))) == 1


@pytest.mark.service
def test_a_crash_while_folding_doubles_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(tmp_path, 7, 'killed').wait() == -signal.SIGKILL
    shelf = Shelf(str(tmp_path))
    for method in ('rename', 'unlink'):
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, method, lambda self, *_: os.close(-1))
            with pytest.raises(OSError):
                shelf.totals()
    assert shelf.totals() == {'a': 7.0, 'b': 3.5}
    assert list(tmp_path.glob('*.mmap')) == []
    assert shelf.totals() == {'a': 7.0, 'b': 3.5}


@pytest.mark.service
def test_a_fork_counts_for_itself(tmp_path: pathlib.Path) -> None:
    shelf = Shelf(str(tmp_path))
    shelf.add([('a', 1.0)])
    child = os.fork()
    if child == 0:
        shelf.add([('a', 10.0)])
        os._exit(0)
    os.waitpid(child, 0)
    shelf.add([('a', 100.0)])
    assert shelf.totals() == {'a': 111.0}


def test_threads_lose_nothing(tmp_path: pathlib.Path) -> None:
    shelf = Shelf(str(tmp_path))

    def work() -> None:
        for _ in range(500):
            shelf.add([('a', 1.0)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.totals() == {'a': 4000.0}


# ------------------------------------------------------------------ health


def ready_of(world: World) -> webtest.TestApp:
    return webtest.TestApp(world.extension.ready())


class Checked(SQLNetworkDriver):
    """Counts how often it is asked, and does what it is told."""

    asked = 0
    act: Callable[[], None] = staticmethod(lambda: None)

    def check(self, ctxt: Any) -> None:
        self.asked += 1
        assert ctxt.is_admin
        self.act()


def test_ready(build: Build) -> None:
    answer = ready_of(build()).get('/')
    ok = {'status': 'ok'}
    assert answer.json == {
        'status': 'ready',
        'checks': {'database': ok, 'server_driver': ok, 'network_driver': ok, 'vif_driver': ok},
    }


@pytest.mark.parametrize(
    'error', [exceptions.Unavailable(operator='http://user:secret@10.0.0.1/ is away'), RuntimeError('secret')]
)
def test_not_ready_while_a_backend_is_away(
    build: Build, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world = build(network_driver=Checked, health={'cache': 0.0})
    driver: Any = world.extension.parts.drivers.network
    app = ready_of(world)
    driver.act = raises(error)
    for _ in range(3):
        answer = app.get('/', status=503)
        assert answer.json['status'] == 'not ready'
        assert answer.json['checks']['network_driver'] == {'status': 'failed', 'reason': 'unavailable'}
        assert answer.json['checks']['database'] == {'status': 'ok'}
        assert 'secret' not in answer.text
    # For the operator, and once.
    assert caplog.text.count('secret') == 1
    driver.act = lambda: None
    app.get('/', status=200)


def test_not_ready_with_another_schema(build: Build) -> None:
    world = build(health={'cache': 0.0})
    app = ready_of(world)
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE osif_alembic_version SET version_num = '0000'")
    answer = app.get('/', status=503)
    assert answer.json['checks']['database']['status'] == 'failed'
    assert 'sqlite' not in answer.text


def test_a_backend_that_hangs_is_not_waited_for_and_asked_once(build: Build) -> None:
    go_on = threading.Event()
    world = build(network_driver=Checked, health={'cache': 0.0, 'timeout': 0.2})
    driver: Any = world.extension.parts.drivers.network
    driver.act = lambda: go_on.wait(30) and None
    app = ready_of(world)
    for _ in range(3):
        answer = app.get('/', status=503)
        assert answer.json['checks']['network_driver'] == {'status': 'failed', 'reason': 'no answer in time'}
    assert driver.asked == 1
    go_on.set()


def test_a_health_check_cannot_hammer_a_backend(build: Build) -> None:
    world = build(network_driver=Checked, health={'cache': 3600.0})
    app = ready_of(world)
    for _ in range(20):
        app.get('/')
    assert world.extension.parts.drivers.network.asked == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize('driver_class', [SQLServerDriver, SQLNetworkDriver])
def test_the_embedded_drivers_look_at_their_tables(world: World, driver_class: Any) -> None:
    driver = driver_class(world.conf)
    driver.check(None)
    with world.database.write() as connection:
        for table in ('osif_servers', 'osif_ports'):
            connection.exec_driver_sql(f'ALTER TABLE {table} RENAME TO {table}_away')
    with pytest.raises(exceptions.Unavailable):
        driver.check(None)


def test_only_get_is_answered(measured: World) -> None:
    for app in (ready_of(measured), page_of(measured)):
        assert app.head('/').body == b''
        app.post('/', status=405)


# ------------------------------------------------------------------ the ids in log lines


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Callable[[], list[str]]]:
    """The lines of a host that knows nothing of ids, and formats its own way."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter('%(levelname)s|%(message)s'))
    logger = logging.getLogger('os_interface_ext')
    logger.addHandler(handler)
    yield lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler)


def test_a_line_within_a_request_carries_its_ids(
    measured: World, faults: Faults, lines: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    port = measured.attach(net_id='net1').json['interfaceAttachment']['port_id']
    faults.add('before unplug', raises(exceptions.Unavailable()), times=2)
    answer = measured.call('DELETE', measured.url('srv_active', port))
    request_id = answer.headers['x-openstack-request-id']
    project, server = NAMES['project_a'], NAMES['srv_active']
    told = f'[request_id={request_id} project_id={project} server_id={server} port_id={port}] '
    [line] = [line for line in lines() if 'goes on later' in line]
    assert line.startswith(f'WARNING|{told}detach of port {port}')
    record = caplog.records[-1]
    assert (record.request_id, record.server_id, record.port_id) == (request_id, NAMES['srv_active'], port)  # type: ignore[attr-defined]
    # What another process does about it later is told under the request that it comes from.
    store = measured.extension.parts.store
    store.retry(store.of_port(port).id)  # type: ignore[union-attr]
    caplog.set_level(logging.INFO)
    measured.extension.parts.reconciler.once()
    attach_id = store.of_port(port).request_id  # type: ignore[union-attr]
    [line] = [line for line in lines() if 'goes on later' in line][1:]
    assert f'[request_id={attach_id} project_id={NAMES["project_a"]} ' in line
    assert f'port_id={port}] ' in line


def test_a_line_outside_of_a_request_has_none(lines: Callable[[], list[str]]) -> None:
    logs.get('os_interface_ext.test').warning('100 %')
    assert lines() == ['WARNING|100 %']


def test_an_id_from_a_url_forges_no_line(lines: Callable[[], list[str]]) -> None:
    log = logs.get('os_interface_ext.test')
    with logs.about(server_id='x\nERROR|forged %s [', request_id=None):
        log.warning('here')
        log.warning('%s', 'there')
    assert lines() == [f'WARNING|[server_id=x?ERROR|forged?%s?[] {word}' for word in ('here', 'there')]


def test_bugs_are_told_once_with_the_request(build: Build, lines: Callable[[], list[str]]) -> None:
    class Broken(SQLServerDriver):
        def get(self, *args: Any) -> Any:
            raise RuntimeError('a bug')

    world = build(server_driver=Broken)
    answer = world.call('GET', world.url('srv_active'))
    told = [line for line in lines() if line.startswith('ERROR|')]
    assert len(told) == 1
    assert told[0].startswith(f'ERROR|[request_id={answer.headers["x-openstack-request-id"]} ')


SETUP = """
import logging, sys
from os_interface_ext.observability import logs
logs.setup(sys.argv[2:], json=sys.argv[1] == 'json')
with logs.about(request_id='req-1', server_id='s', port_id=None):
    logs.get('os_interface_ext.x').warning('%s it', 'found')
    logs.get('os_interface_ext.x').info('not told')
logging.getLogger('library').info('not told')
"""


@pytest.mark.service
@pytest.mark.parametrize(('flag', 'text'), [('json', ''), ('', 'use_json = true'), ('', '')])
def test_json_on_demand_in_our_own_processes(tmp_path: pathlib.Path, flag: str, text: str) -> None:
    path = tmp_path / 'file.conf'
    path.write_text(f'[DEFAULT]\n{text}\n[database]\nconnection = sqlite://\n')
    done = subprocess.run(
        [sys.executable, '-c', SETUP, flag, str(path)], capture_output=True, text=True, check=True
    )
    [line] = done.stderr.splitlines()
    if flag or text:
        told = json.loads(line)
        assert told['message'] == 'found it'
        assert told['extra'] == {'request_id': 'req-1', 'server_id': 's'}
        assert (told['levelname'], told['name']) == ('WARNING', 'os_interface_ext.x')
    else:
        form = r'[\d-]+ [\d:]+\.\d{3} \d+ WARNING os_interface_ext\.x \[request_id=req-1 server_id=s\] found it'
        assert re.fullmatch(form, line)


@pytest.mark.service
def test_a_wrong_option_of_the_log_is_one_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'file.conf'
    path.write_text('[DEFAULT]\nlog_config_append = /nowhere\n')
    done = subprocess.run(
        [sys.executable, '-m', 'os_interface_ext.cmd.main', 'serve', '--port', '0', '--config-file', str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert '/nowhere' in line


# ------------------------------------------------------------------ notifications


@pytest.fixture
def notifying(build: Build, tmp_path: pathlib.Path, faults: Faults) -> World:
    """A world that tells oslo.messaging's driver for tests, in memory, and has room for eight that wait."""
    world = build()
    path = tmp_path / 'notifying.conf'
    path.write_text(
        f'[DEFAULT]\ntransport_url = fake://\n[database]\nconnection = {world.database.url}\n'
        f'[metrics]\ndirectory = {tmp_path}/metrics\n'
        '[notifications]\nenabled = true\nqueue = 8\n[oslo_messaging_notifications]\ndriver = test\n'
    )
    conf = config.new([str(path)])
    extension = Extension(conf, vif_driver=wrap(NoopVIFDriver(conf), faults))
    published.reset()
    host = flask.Flask('host')
    extension.register(host)
    return World(conf, world.database, extension, webtest.TestApp(StaticTokens(host, world.database)))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, 'it has not come true'
        time.sleep(0.01)


def told(number: int) -> list[dict[str, Any]]:
    """The notifications, when so many have come."""
    wait_until(lambda: len(published.NOTIFICATIONS) >= number)
    return [message for _, message, _, _ in published.NOTIFICATIONS]


def test_notifications_of_an_attach_and_a_detach(notifying: World) -> None:
    made = notifying.attach(net_id='net1')
    attachment = made.json['interfaceAttachment']
    notifying.call('DELETE', notifying.url('srv_active', attachment['port_id']))
    messages = told(4)
    assert [(message['event_type'], message['priority']) for message in messages] == [
        ('instance.interface_attach.start', 'INFO'),
        ('instance.interface_attach.end', 'INFO'),
        ('instance.interface_detach.start', 'INFO'),
        ('instance.interface_detach.end', 'INFO'),
    ]
    for message in messages:
        assert message['publisher_id'].startswith('os-interface-ext:')
        payload = message['payload']
        assert payload['nova_object.name'] == 'InstanceActionPayload'
        assert payload['nova_object.namespace'] == 'nova'
        data = payload['nova_object.data']
        assert (data['uuid'], data['tenant_id']) == (NAMES['srv_active'], NAMES['project_a'])
        assert data['request_id'] == made.headers['x-openstack-request-id']
        assert data['fault'] is None
    for message in messages[1:]:
        ips = [ip['nova_object.data'] for ip in message['payload']['nova_object.data']['ip_addresses']]
        assert [ip['address'] for ip in ips] == [ip['ip_address'] for ip in attachment['fixed_ips']]
        assert {(ip['port_uuid'], ip['mac']) for ip in ips} == {(attachment['port_id'], attachment['mac_addr'])}


def test_notifications_of_failures(notifying: World, faults: Faults) -> None:
    faults.add('before plug', raises(exceptions.PlugFailed(operator='secret')))
    notifying.attach(net_id='net1')
    port = notifying.attach(net_id='net1').json['interfaceAttachment']['port_id']
    faults.add('before unplug', raises(exceptions.Unavailable(operator='secret')), times=2)
    notifying.call('DELETE', notifying.url('srv_active', port))
    store = notifying.extension.parts.store
    for _ in range(2):
        store.retry(store.of_port(port).id)  # type: ignore[union-attr]
        notifying.extension.parts.reconciler.once()
    messages = told(7)
    assert [message['event_type'].removeprefix('instance.interface_') for message in messages] == [
        'attach.start',
        'attach.error',
        'attach.start',
        'attach.end',
        'detach.start',
        'detach.error',
        'detach.end',
    ]
    for message in (messages[1], messages[5]):
        assert message['priority'] == 'ERROR'
        fault = message['payload']['nova_object.data']['fault']
        assert fault['nova_object.name'] == 'ExceptionPayload'
        assert fault['nova_object.data']['exception'] in ('PlugFailed', 'Unavailable')
        assert 'secret' not in json.dumps(message)


def test_a_broker_that_hangs_delays_nobody(
    notifying: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, real = threading.Event(), published.TestDriver.notify

    def hang(*args: Any) -> None:
        assert go_on.wait(30)
        real(*args)

    monkeypatch.setattr(published.TestDriver, 'notify', hang)
    for _ in range(12):
        assert notifying.attach(net_id='net1').status_int == 200
    # 24 in all: eight wait, and one is in the hands of the thread, if it was quick enough.
    dropped = scrape(notifying)['notifications_total'][('dropped',)]
    assert dropped in (15.0, 16.0)
    assert caplog.text.count('notifications are dropped') == 1
    go_on.set()
    wait_until(lambda: scrape(notifying)['notifications_total'].get(('published',), 0.0) == 24.0 - dropped)
    assert len(published.NOTIFICATIONS) == 24.0 - dropped


def test_none_by_default(build: Build, tmp_path: pathlib.Path) -> None:
    published.reset()
    world = build(metrics={'directory': f'{tmp_path}/metrics'})
    world.attach(net_id='net1')
    assert 'notifications_total' not in scrape(world)
    assert published.NOTIFICATIONS == []


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        ('[DEFAULT]\ntransport_url = rabid://user:secret@host/', 'option [DEFAULT] transport_url: '),
        ('[DEFAULT]\ntransport_url = rabbit://user:secret@[broken/', 'option [DEFAULT] transport_url: cannot be'),
        (
            '[oslo_messaging_notifications]\ntransport_url = rabid://user:secret@host/',
            'option [oslo_messaging_notifications] transport_url: ',
        ),
        (
            '[DEFAULT]\ntransport_url = rabbit://user:secret@host/?rabbit_retry_interval=seldom',
            '[oslo_messaging_rabbit]: ',
        ),
        ('[oslo_messaging_notifications]\ndriver = messagingv3', "driver: 'messagingv3' is not installed"),
    ],
)
def test_wrong_options_end_the_start(build: Build, tmp_path: pathlib.Path, text: str, named: str) -> None:
    path = tmp_path / 'wrong.conf'
    path.write_text(f'{text}\n[database]\nconnection = {build().database.url}\n[notifications]\nenabled = true\n')
    with pytest.raises(exceptions.ConfigurationError) as caught:
        Extension(config.new([str(path)]))
    assert named in str(caught.value)
    assert 'secret' not in str(caught.value)
