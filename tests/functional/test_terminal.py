"""What the commands show at a terminal, and what to a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
import threading

import pytest

from os_interface_ext.cmd import main
from tests.functional.conftest import TOKENS, World

COLUMNS = 100


def at_a_terminal(*arguments: str, **variables: str) -> tuple[int, str]:
    """The status of a command at a terminal, and what it has shown there."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack('HHHH', 24, COLUMNS, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ('NO_COLOR', 'COLUMNS', 'LINES')
    }
    process = subprocess.Popen(
        [sys.executable, '-m', *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**environment, 'TERM': 'xterm', **variables},
    )
    os.close(its)
    shown: list[bytes] = []

    def read() -> None:
        # Linux reports the end as an error.
        try:
            while piece := os.read(mine, 65536):
                shown.append(piece)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    status = process.wait(60)
    reader.join(60)
    os.close(mine)
    return status, b''.join(shown).decode().replace('\r\n', '\n')


def doctor(world: World, **variables: str) -> tuple[int, str]:
    url = world.conf.database.connection
    return at_a_terminal('os_interface_ext.cmd.main', 'doctor', '--database', url, **variables)


@pytest.mark.service
def test_a_table_as_wide_as_the_terminal_in_colours(world: World) -> None:
    status, shown = doctor(world)
    assert status == 1
    assert '\033[32mok\033[0m' in shown
    assert '\033[31merror\033[0m' in shown
    # The line of the progress is gone when the table comes.
    table = shown.rpartition('\033[K')[2].lstrip('\r')
    plain = table.replace('\033[32m', '').replace('\033[31m', '').replace('\033[0m', '').splitlines()
    assert plain[0] == 'Checks (17)'
    assert plain[1].split() == ['name', 'state', 'what', 'cure']
    assert max(map(len, plain)) <= COLUMNS
    # The long cells of the reconciler go on below.
    assert len(plain) > 19


@pytest.mark.service
@pytest.mark.parametrize('variables', [{'NO_COLOR': '1'}, {'TERM': 'dumb'}], ids=str)
def test_no_colours_where_they_are_not_wanted(world: World, variables: dict[str, str]) -> None:
    _, shown = doctor(world, **variables)
    assert '\033[3' not in shown
    assert 'Checks (17)' in shown


@pytest.mark.service
def test_records(world: World) -> None:
    assert world.attach(net_id='net1').status_int == 200
    url = world.conf.database.connection
    status, shown = at_a_terminal('os_interface_ext.cmd.main', 'attachments', 'list', '--database', url)
    assert status == 0
    assert shown.startswith('Attachments (1)\n  id ')
    # Nobody can look for half an id.
    assert world.extension.parts.store.of_server(json.loads(read_ids(url))[0])[0].id in shown


def read_ids(url: str) -> str:
    command = [
        sys.executable,
        '-m',
        'os_interface_ext.cmd.main',
        'attachments',
        'list',
        '--json',
        '--database',
        url,
    ]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return json.dumps([one['server_id'] for one in found])


@pytest.mark.service
def test_progress_of_the_reconciler(world: World) -> None:
    assert world.attach(net_id='net1').status_int == 200
    url = world.conf.database.connection
    status, shown = at_a_terminal('os_interface_ext.cmd.reconciler', '--once', '--database', url)
    assert status == 0
    assert '\r\033[Kservers: 1\r\033[Knothing to do\n' in shown


# ------------------------------------------------------------------ for programs


def test_json_wherever_data_is_printed(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    def told(*arguments: str, program: str = 'main') -> object:
        command = [*arguments, '--json', '--database', world.conf.database.connection]
        if program == 'reconciler':
            from os_interface_ext.cmd import reconciler

            # In a thread of its own it could not set the handlers of signals.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(reconciler, '_on_signals', lambda action: None)
                assert reconciler.main(command) == 0
        else:
            assert main.main(command) == 0
        return json.loads(capsys.readouterr().out)

    assert world.attach(net_id='net1').status_int == 200
    capsys.readouterr()
    for action in ('version', 'sync'):
        found = told('db', action)
        assert isinstance(found, dict)
        assert found['version'] == found['wanted']
    shown = told('inventory', 'show')
    assert isinstance(shown, dict)
    assert shown['servers']
    assert not set(TOKENS.values()) & {value for caller in shown['callers'] for value in map(str, caller.values())}
    (record,) = told('attachments', 'list')  # type: ignore[misc, attr-defined]
    assert told('attachments', 'retry', record['id']) == {'id': record['id'], 'tried': False, 'held_by': None}
    assert told('--once', '--dry-run', program='reconciler') == {
        'carried_on': [],
        'pending': [],
        'gone': [],
        'deleted': [],
        'orphans': [],
    }
