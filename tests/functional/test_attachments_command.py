"""``os-interface-ext attachments``: what an operator sees, and does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from os_interface_ext import exceptions
from os_interface_ext.attachments.store import Record
from os_interface_ext.cmd import main
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from tests.functional.conftest import NAMES, Build, World

SERVER, PORT = NAMES['srv_active'], NAMES['p_free']


class StuckVIFs(NoopVIFDriver):
    """NICs that cannot be taken out at present."""

    has_side_effects = True

    def unplug(self, *args: Any) -> None:
        raise exceptions.Unavailable(operator='the agent is away')


@pytest.fixture
def world(build: Build) -> World:
    return build(vif_driver=StuckVIFs, reconciler={'backoff': 60.0, 'backoff_cap': 300.0})


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(world: World, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command on the world's database: status, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main.main(['attachments', *arguments, '--database', world.conf.database.connection])
        output, errors = capsys.readouterr()
        return status, output, errors

    return run


def loads(done: tuple[int, str, str]) -> Any:
    status, output, errors = done
    assert (status, errors) == (0, '')
    return json.loads(output)


def change(world: World, assignments: str) -> None:
    with world.database.write() as connection:
        connection.exec_driver_sql(f'UPDATE osif_attachments SET {assignments}')


def record_of(world: World, port: str = PORT) -> Record:
    found = world.extension.parts.store.of_port(port)
    assert found is not None
    return found


def leave_in_motion(world: World) -> None:
    """A detach that has failed once."""
    assert world.attach(port_id='p_free').status_int == 200
    assert world.call('DELETE', world.url('srv_active', 'p_free')).status_int == 202


# ------------------------------------------------------------------ list


def test_nothing(command: Command) -> None:
    status, output, errors = command('list')
    assert (status, errors) == (0, '')
    assert output.startswith('id\tstate\t')
    assert len(output.splitlines()) == 1
    assert loads(command('list', '--json')) == []


def test_lines_for_a_pipe(world: World, command: Command) -> None:
    assert world.attach(net_id='net1').status_int == 200
    leave_in_motion(world)
    status, output, _ = command('list')
    head, attached, moving = (line.split('\t') for line in output.splitlines())
    assert status == 0
    assert head[:6] == ['id', 'state', 'reason', 'server', 'port', 'attempts']
    assert attached[1:4] == ['ATTACHED', '', SERVER]
    found = record_of(world)
    assert moving[:6] == [found.id, 'UNPLUGGING', 'detach', SERVER, PORT, '1']
    assert moving[-1] == 'Unavailable: the agent is away'
    # The first failure waits for [reconciler] backoff.
    assert moving[9] in ('in 60s', 'in 59s')


def test_json_for_programs(world: World, command: Command) -> None:
    leave_in_motion(world)
    (found,) = loads(command('list', '--json'))
    assert found['id'] == record_of(world).id
    assert (found['state'], found['reason'], found['attempts']) == ('UNPLUGGING', 'detach', 1)
    assert (found['server_id'], found['port_id']) == (SERVER, PORT)
    assert found['last_error'] == 'Unavailable: the agent is away'
    assert found['stuck'] is False
    assert found['next_attempt'].endswith('Z')
    assert 0 <= found['rest'] <= found['age'] < 60


def test_filters(world: World, command: Command) -> None:
    assert world.attach('srv_paused', net_id='net1').status_int == 200
    leave_in_motion(world)
    assert len(loads(command('list', '--json'))) == 2
    assert [one['port_id'] for one in loads(command('list', '--json', '--state', 'unplugging'))] == [PORT]
    assert loads(command('list', '--json', '--state', 'ALLOCATING')) == []
    assert [one['port_id'] for one in loads(command('list', '--json', '--server', SERVER))] == [PORT]
    assert loads(command('list', '--json', '--server', SERVER, '--state', 'ATTACHED')) == []


def test_many_records_are_all_listed(world: World) -> None:
    store = world.extension.parts.store
    for _ in range(5):
        assert world.attach(net_id='net1').status_int == 200
    assert [one.sequence for one in store.listed(page=2)] == sorted(
        one.sequence for one in store.of_server(SERVER)
    )
    assert len(list(store.listed(page=2))) == 5


def test_stuck_is_derived(world: World, command: Command) -> None:
    leave_in_motion(world)
    assert loads(command('list', '--stuck', '--json')) == []
    # Tried too often.
    change(world, 'attempts = 8')
    assert [one['stuck'] for one in loads(command('list', '--stuck', '--json'))] == [True]
    # Left lying: nobody reconciles.
    change(world, 'attempts = 1, updated_at = updated_at - 700')
    assert [one['port_id'] for one in loads(command('list', '--stuck', '--json'))] == [PORT]
    assert loads(command('list', '--stuck', '--stuck-age', '1000', '--json')) == []
    # What is at rest is never stuck.
    change(world, "state = 'ATTACHED', attempts = 9")
    assert loads(command('list', '--stuck', '--json')) == []


def test_the_owner_is_shown(world: World, command: Command) -> None:
    leave_in_motion(world)
    change(world, "owner = 'host-1:42', lease_expires = updated_at + 60")
    assert '\thost-1:42\t' in command('list')[1]
    change(world, 'lease_expires = updated_at - 1')
    assert '\thost-1:42 (expired)\t' in command('list')[1]


# ------------------------------------------------------------------ show


@pytest.mark.parametrize('by_port', [False, True], ids=['record', 'port'])
def test_show(world: World, command: Command, by_port: bool) -> None:
    leave_in_motion(world)
    found = record_of(world)
    wanted = PORT if by_port else found.id
    status, output, _ = command('show', wanted)
    shown = {line.split()[0]: line.split(None, 1)[1:] for line in output.splitlines()}
    assert status == 0
    assert shown['id'] == [found.id]
    assert shown['last_error'] == ['Unavailable: the agent is away']
    assert shown['mark'] == []
    assert '10.1.0.' in shown['snapshot'][0]
    assert loads(command('show', wanted, '--json'))['generation'] == found.generation


@pytest.mark.parametrize('action', ['show', 'retry'])
def test_what_is_not_there_is_one_line(command: Command, action: str) -> None:
    status, output, errors = command(action, 'nothing')
    assert (status, output) == (1, '')
    assert errors == "os-interface-ext: attachment 'nothing': there is no such record\n"


def test_what_has_ended_is_in_the_history(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    world = build('ended')
    assert world.attach(port_id='p_free').status_int == 200
    record_id = record_of(world).id
    assert world.call('DELETE', world.url('srv_active', 'p_free')).status_int == 202
    database = ['--database', world.conf.database.connection]
    assert main.main(['attachments', 'show', record_id, *database]) == 1
    assert 'attachments history' in capsys.readouterr().err

    assert main.main(['attachments', 'history', '--json', *database]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result['attachment_id'], result['reason'], result['port_id']) == (record_id, 'detach', PORT)
    assert result['created_at'] <= result['finished_at']

    assert world.attach(port_id='p_free2').status_int == 200
    assert world.call('DELETE', world.url('srv_active', 'p_free2')).status_int == 202
    assert main.main(['attachments', 'history', *database]) == 0
    _, latest, first = capsys.readouterr().out.splitlines()
    assert (NAMES['p_free2'] in latest, PORT in first) == (True, True)
    for arguments, count in (
        (['--limit', '1'], 1),
        (['--port', PORT], 1),
        (['--server', SERVER], 2),
        (['--server', 'another'], 0),
        (['--server', SERVER, '--port', 'another'], 0),
    ):
        assert main.main(['attachments', 'history', '--json', *arguments, *database]) == 0
        assert len(json.loads(capsys.readouterr().out)) == count


# ------------------------------------------------------------------ retry


def test_retry_makes_it_due(world: World, command: Command) -> None:
    leave_in_motion(world)
    store = world.extension.parts.store
    assert store.due(10) == []
    status, output, _ = command('retry', record_of(world).id)
    assert (status, 'at the next look of a reconciler' in output) == (0, True)
    assert [one.port_id for one in store.due(10)] == [PORT]
    change(world, "owner = 'host-1:42', lease_expires = updated_at + 60")
    assert 'when host-1:42 lets go of it' in command('retry', PORT)[1]


def test_retry_of_what_is_at_rest(world: World, command: Command) -> None:
    assert world.attach(port_id='p_free').status_int == 200
    status, output, _ = command('retry', PORT)
    assert (status, 'nothing to try' in output) == (0, True)


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['show'],
        ['list', '--state', 'NONSENSE'],
        ['list', '--stuck-age', 'x'],
        ['history', '--limit', '0'],
        ['retry', 'a', 'b'],
    ],
    ids=' '.join,
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(['attachments', *arguments])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_schema_it_is_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(['attachments', 'list', '--database', f'sqlite:///{tmp_path}/none.sqlite']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'db sync' in line
