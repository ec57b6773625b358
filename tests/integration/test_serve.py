"""`os-interface-ext serve` and the other commands, as processes: how they start, share, reset and end."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
import yaml

from tests.integration.conftest import (
    COMMAND,
    INVENTORY,
    NAMES,
    PATIENCE,
    TOKENS,
    Service,
    Start,
    environment,
    run,
    wait_until,
)

pytestmark = pytest.mark.service

TOKEN = TOKENS['a_member']
COLLECTION = f'/v2.1/servers/{NAMES["srv_active"]}/os-interface'
FREE = {'interfaceAttachment': {'port_id': NAMES['p_free']}}
ITEM = f'{COLLECTION}/{NAMES["p_free"]}'

OTHER = """
callers:
- {token: t, user_id: u, project_id: p, roles: [member]}
servers:
- {id: s, name: s, project_id: p}
"""


@pytest.fixture
def url(tmp_path: pathlib.Path) -> str:
    return f'sqlite:///{tmp_path}/shared.sqlite'


@pytest.fixture
def other(tmp_path: pathlib.Path) -> str:
    path = tmp_path / 'other.yaml'
    path.write_text(OTHER)
    return str(path)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on standard error that says what is wrong, a status that is not 0."""
    assert result.returncode != 0
    assert result.stdout == ''
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


# ------------------------------------------------------------------ starting wrongly


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--port', '70000'], ['--port', '70000']),
        (['--workers', '0'], ['--workers']),
        (['--no-such-option'], ['--no-such-option']),
        (['--config-file', 'missing.conf'], ['missing.conf']),
        (['--inventory', 'missing.yaml'], ['missing.yaml']),
        (['--inventory', '/'], ["'/'", 'directory']),
        (['--database', 'nonsense'], ['[database] connection']),
        (['--database', 'sqlite:////proc/nowhere/osif.sqlite'], ['[database] connection', '/proc/nowhere']),
        (['--host', '0.0.0.0'], ['0.0.0.0', '--i-know-this-is-not-for-production']),
        (['--host', '192.0.2.1'], ['192.0.2.1']),
        (['--host', '192.0.2.1', '--i-know-this-is-not-for-production'], ['192.0.2.1']),
        (['--host', 'no such host'], ['no such host']),
    ],
    ids=' '.join,
)
def test_a_wrong_start_is_one_line(tmp_path: pathlib.Path, arguments: list[str], words: list[str]) -> None:
    refused(run(tmp_path, 'serve', '--port', '0', *arguments), *words)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[os_interface]\nvif_driver = nosuch\n', ['vif_driver', 'nosuch', 'noop']),
        ('[os_interface]\nserver_driver = nosuch\n', ['server_driver', 'nosuch', 'sql']),
        ('[api]\nmax_microversion = 9.9\n', ['max_microversion']),
        ('[database]\nmax_pool_size = many\n', ['max_pool_size']),
        ('not an ini file', ['configuration']),
    ],
    ids=['vif driver', 'server driver', 'bad value', 'bad type', 'broken file'],
)
def test_a_wrong_configuration_is_one_line(tmp_path: pathlib.Path, text: str, words: list[str]) -> None:
    (tmp_path / 'osif.conf').write_text(text)
    refused(run(tmp_path, 'serve', '--port', '0', '--config-file', 'osif.conf'), *words)


@pytest.mark.parametrize(
    'text',
    [
        'servers: [',
        '[]',
        'servers:\n- {id: 1}\n- {name: x}\n',
        OTHER + 'ports:\n- {id: nothing}\n',
        '\0',
        '\udce9',
    ],
    ids=['no YAML', 'a list', 'two errors', 'bad port', 'NUL', 'not UTF-8'],
)
def test_a_bad_inventory_is_one_line(tmp_path: pathlib.Path, url: str, text: str) -> None:
    (tmp_path / 'bad.yaml').write_text(text, errors='surrogateescape')
    refused(run(tmp_path, 'serve', '--port', '0', '--database', url, '--inventory', 'bad.yaml'), 'bad.yaml')


def test_a_port_in_use_is_one_line(tmp_path: pathlib.Path, url: str) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        result = run(tmp_path, 'serve', '--port', str(port), '--database', url)
    refused(result, f'127.0.0.1:{port}')
    assert not (tmp_path / 'shared.sqlite').exists()


def test_another_inventory_is_refused_unless_it_replaces(
    tmp_path: pathlib.Path, url: str, other: str, start: Start
) -> None:
    first = start('--database', url, '--inventory', INVENTORY)
    assert first.call('POST', COLLECTION, TOKEN, FREE).status == 200
    assert first.stop() == 0

    refused(run(tmp_path, 'serve', '--port', '0', '--database', url, '--inventory', other), other, '--replace')
    # The same inventory, or none: the database is used as it is, attachments and all.
    for arguments in ([], ['--inventory', INVENTORY], ['--inventory', INVENTORY, '--replace']):
        again = start('--database', url, *arguments)
        assert again.call('GET', ITEM, TOKEN).status == 200
        again.stop()

    replaced = start('--database', url, '--inventory', other, '--replace')
    assert [server['id'] for server in replaced.call('GET', '/v2.1/servers', 't').body['servers']] == ['s']
    assert replaced.call('GET', ITEM, TOKEN).status == 401


# ------------------------------------------------------------------ running


def test_it_says_what_it_is(start: Start, url: str) -> None:
    service = start('--database', url)
    assert service.url.startswith('http://127.0.0.1:')
    assert 'server sql, network sql, VIF noop' in service.greeting
    assert url in service.greeting


def test_without_a_database_each_start_is_a_new_cloud(start: Start, tmp_path: pathlib.Path) -> None:
    one, two = start('--inventory', INVENTORY), start('--inventory', INVENTORY)
    assert one.call('POST', COLLECTION, TOKEN, FREE).status == 200
    assert two.call('GET', ITEM, TOKEN).status == 404
    line = next(line for line in one.greeting.splitlines() if line.startswith('database: '))
    path = pathlib.Path(line.split()[1].removeprefix('sqlite:///'))
    assert path.exists()
    one.stop()
    assert not path.parent.exists()


def test_the_version_documents_are_public(recorded: Service) -> None:
    listed = recorded.call('GET', '/')
    (version,) = listed.body['versions']
    assert (version['id'], version['status']) == ('v2.1', 'CURRENT')
    assert (version['min_version'], version['version']) == ('2.1', '2.104')
    assert {'rel': 'self', 'href': f'{recorded.url}/v2.1/'} in version['links']
    for path in ('/v2.1', '/v2.1/'):
        assert recorded.call('GET', path).body == {'version': version}


def test_a_second_process_sees_the_same(start: Start, url: str) -> None:
    one = start('--database', url, '--inventory', INVENTORY, '--workers', '2')
    two = start('--database', url)
    assert one.call('POST', COLLECTION, TOKEN, FREE).status == 200
    assert two.call('GET', ITEM, TOKEN).status == 200
    assert two.call('DELETE', ITEM, TOKEN).status == 202
    assert one.call('GET', ITEM, TOKEN).status == 404


def test_with_noop_a_detach_is_complete_at_once(recorded: Service) -> None:
    for _ in range(5):
        assert recorded.call('POST', COLLECTION, TOKEN, FREE).status == 200
        assert recorded.call('DELETE', ITEM, TOKEN).status == 202
        assert recorded.call('GET', ITEM, TOKEN).status == 404


def test_a_connection_is_kept_even_over_a_body_that_nobody_reads(recorded: Service) -> None:
    target = urllib.parse.urlsplit(recorded.url)
    with socket.create_connection((target.hostname or '', target.port or 0), timeout=30) as peer:
        body = b'x' * 50_000
        for _ in range(2):
            peer.sendall(b'POST /v2.1/nothing HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %b\r\n' % TOKEN.encode())
            peer.sendall(b'Content-Length: %d\r\n\r\n%b' % (len(body), body))
            answer = b''
            while b'"code":404' not in answer:
                chunk = peer.recv(65536)
                assert chunk
                answer += chunk


# ------------------------------------------------------------------ reset


def test_reset_is_not_there_without_its_flag(start: Start) -> None:
    assert start().call('POST', '/standalone/reset').status == 404


def test_reset_is_seen_by_all_workers(start: Start, url: str) -> None:
    service = start('--database', url, '--inventory', INVENTORY, '--allow-reset', '--workers', '2')
    for round_number in range(10):
        assert service.call('POST', COLLECTION, TOKEN, FREE).status == 200
        begun = time.monotonic()
        answer = service.call('POST', '/standalone/reset', body={'body': 'ignored'})
        assert answer.status == 204
        # The first rounds warm the workers up.
        assert round_number < 4 or time.monotonic() - begun < 0.1
        # New connections, that either worker may accept.
        assert {service.call('GET', ITEM, TOKEN).status for _ in range(10)} == {404}


def test_reset_takes_the_file_as_it_is_now(start: Start, tmp_path: pathlib.Path, other: str) -> None:
    service = start('--inventory', other, '--allow-reset')
    pathlib.Path(other).write_text(OTHER.replace('name: s', 'name: renamed'))
    service.reset()
    assert service.call('GET', '/v2.1/servers/s', 't').body['server']['name'] == 'renamed'
    pathlib.Path(other).write_text('broken: [')
    assert service.call('POST', '/standalone/reset').status == 500
    assert service.call('GET', '/v2.1/servers/s', 't').status == 200


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=['SIGTERM', 'SIGINT'])
def test_a_signal_ends_all_workers(start: Start, number: signal.Signals) -> None:
    service = start('--workers', '2')
    master = service.process.pid
    wait_until(lambda: len(_children(master)) == 2)
    # Not before they serve.
    assert service.call('GET', '/').status == 200
    workers = _children(master)
    assert service.stop(number) == 0
    wait_until(lambda: not any(pathlib.Path(f'/proc/{pid}').exists() for pid in workers))


def test_a_signal_while_it_starts_ends_it(tmp_path: pathlib.Path, url: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, 'serve', '--port', '0', '--database', url],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The schema is the first thing that it makes.
    wait_until(lambda: (tmp_path / 'shared.sqlite').exists())
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert 'Traceback' not in errors


def _children(pid: int) -> list[int]:
    found = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return [int(child) for child in found.split()]


# ------------------------------------------------------------------ the other commands


def test_inventory_round_trip(tmp_path: pathlib.Path, url: str) -> None:
    loaded = run(tmp_path, 'inventory', 'load', INVENTORY, '--database', url)
    assert (loaded.returncode, loaded.stderr) == (0, '')
    assert 'networks' in loaded.stdout

    exported = run(tmp_path, 'inventory', 'export', '--database', url)
    assert exported.returncode == 0
    document, source = yaml.safe_load(exported.stdout), yaml.safe_load(pathlib.Path(INVENTORY).read_text())
    for section in source:
        assert len(document[section]) == len(source[section])
    (tmp_path / 'exported.yaml').write_text(exported.stdout)
    copy = f'sqlite:///{tmp_path}/copy.sqlite'
    assert run(tmp_path, 'inventory', 'load', 'exported.yaml', '--database', copy).returncode == 0
    assert run(tmp_path, 'inventory', 'export', '--database', copy).stdout == exported.stdout

    shown = run(tmp_path, 'inventory', 'show', '--database', url)
    assert shown.returncode == 0
    for title in ('Callers', 'Networks', 'Servers', 'Ports'):
        assert f'{title} (' in shown.stdout
    assert NAMES['srv_active'] in shown.stdout
    assert TOKEN not in shown.stdout


def test_inventory_load_tells_every_error_and_loads_nothing(tmp_path: pathlib.Path, url: str, other: str) -> None:
    assert run(tmp_path, 'inventory', 'load', other, '--database', url).returncode == 0
    before = run(tmp_path, 'inventory', 'export', '--database', url).stdout
    (tmp_path / 'bad.yaml').write_text(OTHER + '- {id: s, project_id: p, vm_state: odd}\n- {name: anonymous}\n')
    result = run(tmp_path, 'inventory', 'load', 'bad.yaml', '--database', url)
    assert result.returncode == 1
    *errors, summary = result.stderr.splitlines()
    assert all(error.startswith('bad.yaml: servers[') for error in errors)
    assert {word for error in errors for word in ('vm_state', 'id', 'project_id') if word in error} == {
        'vm_state',
        'id',
        'project_id',
    }
    assert 'nothing was loaded' in summary
    assert run(tmp_path, 'inventory', 'export', '--database', url).stdout == before


def test_inventory_load_leaves_attachments_alone(
    tmp_path: pathlib.Path, url: str, other: str, start: Start
) -> None:
    service = start('--database', url, '--inventory', INVENTORY)
    assert service.call('POST', COLLECTION, TOKEN, FREE).status == 200
    refused(run(tmp_path, 'inventory', 'load', other, '--database', url), 'attachment record', '--replace')
    assert service.call('GET', ITEM, TOKEN).status == 200
    assert run(tmp_path, 'inventory', 'load', other, '--database', url, '--replace').returncode == 0
    # The process that runs sees it at once.
    assert service.call('GET', '/v2.1/servers', 't').status == 200


@pytest.mark.parametrize('arguments', [['inventory', 'show'], ['inventory', 'export']], ids=' '.join)
def test_a_database_without_a_schema_is_one_line(tmp_path: pathlib.Path, url: str, arguments: list[str]) -> None:
    refused(run(tmp_path, *arguments, '--database', url), 'db sync')


def test_db_sync_and_version(tmp_path: pathlib.Path, url: str) -> None:
    assert 'no schema' in run(tmp_path, 'db', 'version', '--database', url).stdout
    for _ in range(2):
        synced = run(tmp_path, 'db', 'sync', '--database', url)
        assert (synced.returncode, synced.stderr) == (0, '')
    assert 'version 0' in run(tmp_path, 'db', 'version', '--database', url).stdout


def test_output_that_nobody_reads_is_no_error(tmp_path: pathlib.Path, url: str) -> None:
    assert run(tmp_path, 'inventory', 'load', INVENTORY, '--database', url).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*COMMAND, 'inventory', 'export', '--database', url],
        env=environment(tmp_path),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    _, errors = process.communicate(timeout=30)
    assert errors == ''


@pytest.mark.parametrize(
    'arguments', [[], ['nonsense'], ['inventory'], ['inventory', 'load'], ['db', 'x']], ids=str
)
def test_a_wrong_command_is_one_line(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    refused(run(tmp_path, *arguments), '--help')


def test_help_and_version_are_quick(tmp_path: pathlib.Path) -> None:
    for arguments in (['--help'], ['serve', '--help'], ['--version']):
        assert run(tmp_path, *arguments).returncode == 0
    code = (
        'import sys\n'
        'from os_interface_ext.cmd import main\n'
        'try:\n'
        "    main.main(['serve', '--help'])\n"
        'except SystemExit:\n'
        "    print(sorted({'flask', 'sqlalchemy', 'oslo_config', 'gunicorn', 'yaml'} & set(sys.modules)))\n"
    )
    done = subprocess.run([COMMAND[0], '-c', code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == '[]'


def test_health_metrics_and_json_lines(start: Start, tmp_path: pathlib.Path) -> None:
    service = start('--inventory', INVENTORY, '--workers', '2', '--log-json')
    with urllib.request.urlopen(f'{service.url}/healthcheck', timeout=PATIENCE) as answer:
        assert answer.status == 200
    ready = service.call('GET', '/healthcheck/ready')
    assert (ready.status, ready.body['status']) == (200, 'ready')
    for _ in range(10):
        assert service.call('GET', COLLECTION, TOKEN).status == 200
    counted = 'requests_total{microversion="2.1",operation="list",status="200"} 10.0'
    for _ in range(4):
        with urllib.request.urlopen(f'{service.url}/metrics', timeout=PATIENCE) as answer:
            assert counted in answer.read().decode()
    assert service.stop() == 0
    for line in (tmp_path / 'serve.log').read_text().splitlines():
        json.loads(line)
