"""`os-interface-ext-reconciler`, and the reconciler within `serve`, as processes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import schema, tables
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from tests.integration.conftest import (
    INVENTORY,
    NAMES,
    PATIENCE,
    TOKENS,
    Start,
    environment,
    run,
    wait_until,
)

pytestmark = pytest.mark.service

RECONCILER = [sys.executable, '-m', 'os_interface_ext.cmd.reconciler']
SERVER, PROJECT = NAMES['srv_active'], NAMES['project_a']
PORTS = [NAMES['p_free'], NAMES['p_free2']]

#: An attach whose process is killed while it plugs.
KILLED = """
import os, signal, sys
from os_interface_ext import conf, context
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.extension import Extension

class Killer(NoopVIFDriver):
    has_side_effects = True

    def plug(self, *args):
        os.kill(os.getpid(), signal.SIGKILL)

conf = conf.new([], database={'connection': sys.argv[1]}, attachments={'lease': 1.0})
parts = Extension(conf, vif_driver=Killer(conf)).parts
ctxt = context.service_context()
parts.manager.attach(ctxt, parts.drivers.server.get(ctxt, sys.argv[2]), AttachRequest(port_id=sys.argv[3]))
"""

#: A distribution of somebody else: listeners, and NICs that take as long as a file says.
THEIRS = """
import os, pathlib, time
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver

FOLDER = pathlib.Path(os.environ['THEIR_FOLDER'])

def listen(event, attachment):
    with (FOLDER / 'heard').open('a') as file:
        print(event, attachment.port_id, attachment.reason, file=file)

def broken(event, attachment):
    raise ValueError('a fault of theirs')

class SlowVIFs(NoopVIFDriver):
    has_side_effects = True

    def unplug(self, ctxt, server, port_id, plug_data, fence):
        (FOLDER / 'begun').touch()
        while not (FOLDER / 'go on').exists():
            time.sleep(0.01)
"""

THEIR_ENTRY_POINTS = """
[os_interface_ext.listeners]
theirs = their_osif:listen
broken = their_osif:broken
missing = their_osif:missing

[os_interface_ext.vif_drivers]
slow = their_osif:SlowVIFs
"""


@dataclasses.dataclass
class World:
    """A database with the recorded inventory, and processes that work on it."""

    home: pathlib.Path
    url: str
    database: Database
    store: Store
    variables: dict[str, str]
    options: list[str]

    def command(self, *arguments: str) -> list[str]:
        return [*RECONCILER, '--database', self.url, *self.options, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=environment(self.home, **self.variables),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def configure(self, text: str) -> None:
        path = self.home / 'osif.conf'
        path.write_text(text)
        self.options = ['--config-file', str(path)]

    def leave_in_motion(self, *ports: str) -> None:
        """Detaches of bound ports, whose process has died."""
        for port in ports:
            self.execute('UPDATE osif_ports SET device_id = ?, device_owner = ? WHERE id = ?', SERVER, 'c:n', port)
            self.store.insert(
                created=False,
                server_id=SERVER,
                project_id=PROJECT,
                port_id=port,
                state=State.UNPLUGGING,
                reason=Reason.DETACH,
            )
        self.execute("UPDATE osif_attachments SET lease_expires = 0, owner = 'elsewhere:1'")

    def attach(self) -> None:
        """An attachment that is at rest."""
        self.leave_in_motion(PORTS[0])
        self.execute("UPDATE osif_attachments SET state = 'ATTACHED', reason = NULL, owner = NULL")

    def execute(self, statement: str, *values: Any) -> None:
        with self.database.write() as connection:
            connection.exec_driver_sql(statement, values)

    def rows(self, statement: str) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.exec_driver_sql(statement))

    def everything(self) -> dict[str, list[Any]]:
        """All rows of all tables."""
        return {name: self.rows(f'SELECT * FROM {name}') for name in tables.metadata.tables}

    def is_settled(self) -> bool:
        return not self.rows('SELECT id FROM osif_attachments')

    def owner(self) -> str | None:
        """Who has the role."""
        found = self.rows("SELECT owner FROM osif_heartbeats WHERE name = 'reconciler'")
        return found[0][0] if found else None

    def heartbeats(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT owner FROM osif_heartbeats WHERE name LIKE 'reconciler %'")]


@pytest.fixture
def world(tmp_path: pathlib.Path) -> World:
    url = f'sqlite:///{tmp_path}/osif.sqlite'
    database = Database.of(config.new([], database={'connection': url}))
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(pathlib.Path(INVENTORY).read_text(), 'inventory'))
    made = World(tmp_path, url, database, Store(database, lease=30.0), {}, [])
    made.configure('[reconciler]\ninterval = 0.05\nworld_interval = 0.05\ngrace = 0\n')
    return made


Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin(world: World) -> Iterator[Begin]:
    """Starts reconcilers that end with the test; their log is the file `reconciler.log`."""
    started: list[subprocess.Popen[str]] = []

    def begin_one(*arguments: str) -> subprocess.Popen[str]:
        with (world.home / 'reconciler.log').open('a') as log:
            process = subprocess.Popen(
                world.command(*arguments),
                env=environment(world.home, **world.variables),
                cwd=world.home,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield begin_one
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def theirs(world: World) -> pathlib.Path:
    """The distribution of somebody else is installed; its folder."""
    site = world.home / 'site'
    info = site / 'their_osif-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: their-osif\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(THEIR_ENTRY_POINTS)
    (site / 'their_osif.py').write_text(THEIRS)
    world.variables |= {'PYTHONPATH': str(site), 'THEIR_FOLDER': str(world.home)}
    return world.home


def log_of(world: World) -> str:
    return (world.home / 'reconciler.log').read_text()


# ------------------------------------------------------------------ once


def test_once_tells_what_it_did(world: World) -> None:
    world.leave_in_motion(*PORTS)
    done = world.run('--once')
    assert (done.returncode, done.stderr) == (0, '')
    assert sorted(done.stdout.splitlines()) == sorted(
        f'carried_on: port {port} of server {SERVER} (UNPLUGGING, detach)' for port in PORTS
    )
    assert world.is_settled()
    assert world.rows(f"SELECT device_id FROM osif_ports WHERE id = '{PORTS[0]}'") == [(None,)]
    again = world.run('--once')
    assert (again.returncode, again.stdout) == (0, 'nothing to do\n')


def test_a_dry_run_tells_the_same_and_changes_nothing(world: World) -> None:
    world.attach()
    world.execute('UPDATE osif_attachments SET missing_since = 0')
    world.execute('UPDATE osif_ports SET device_id = NULL WHERE id = ?', PORTS[0])
    world.leave_in_motion(PORTS[1])
    # A port of ours that no record knows, seen so before, and one that is seen so for the first time.
    (installation,) = world.rows('SELECT uuid FROM osif_installation')[0]
    for port, number in ((NAMES['p_free_down'], 1), (NAMES['p_free_nosec'], 2)):
        world.execute('UPDATE osif_ports SET mark = ? WHERE id = ?', f'osif:{installation}:{number}', port)
    world.execute('INSERT INTO osif_suspects (port_id, first_seen) VALUES (?, 0)', NAMES['p_free_down'])

    before = world.everything()
    dry = world.run('--once', '--dry-run')
    assert (dry.returncode, dry.stderr) == (0, '')
    assert world.everything() == before
    kinds = [line.partition(':')[0] for line in dry.stdout.splitlines()]
    assert kinds == ['carried_on', 'gone', 'deleted', 'orphans']

    real = world.run('--once')
    assert real.returncode == 0
    assert real.stdout == dry.stdout
    assert world.is_settled()
    assert not world.rows(f"SELECT id FROM osif_ports WHERE id = '{NAMES['p_free_down']}'")


def test_what_a_killed_process_left_is_finished(world: World) -> None:
    killed = subprocess.run(
        [sys.executable, '-c', KILLED, world.url, SERVER, PORTS[0]],
        env=environment(world.home),
        cwd=world.home,
        timeout=PATIENCE,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    ((state, device),) = world.rows(
        'SELECT a.state, p.device_id FROM osif_attachments a JOIN osif_ports p ON p.id = a.port_id'
    )
    assert (state, device) == ('PLUGGING', SERVER)

    deadline = time.monotonic() + PATIENCE
    while not world.is_settled():
        assert time.monotonic() < deadline
        # Nothing, until the lease of the dead is over.
        assert world.run('--once').returncode == 0
    assert world.rows(f"SELECT device_id FROM osif_ports WHERE id = '{PORTS[0]}'") == [(None,)]


# ------------------------------------------------------------------ the loop


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=['SIGTERM', 'SIGINT'])
def test_it_goes_on_until_a_signal_ends_it(world: World, begin: Begin, number: signal.Signals) -> None:
    process = begin()
    wait_until(lambda: bool(world.heartbeats()))
    for _ in range(2):
        world.leave_in_motion(*PORTS)
        wait_until(world.is_settled)
    process.send_signal(number)
    assert process.wait(PATIENCE) == 0
    assert 'has come to its end' in log_of(world)
    assert 'Traceback' not in log_of(world)
    assert world.heartbeats() == []


def test_a_signal_while_it_starts_ends_it(begin: Begin) -> None:
    process = begin()
    time.sleep(0.3)
    process.terminate()
    assert process.wait(PATIENCE) in (0, -signal.SIGTERM)


@pytest.mark.parametrize('arguments', [[], ['--once']], ids=['loop', 'once'])
def test_the_record_at_hand_is_finished_first(
    world: World, begin: Begin, theirs: pathlib.Path, arguments: list[str]
) -> None:
    world.configure('[reconciler]\ninterval = 0.05\n[os_interface]\nvif_driver = slow\n')
    world.leave_in_motion(*PORTS)
    process = begin(*arguments)
    wait_until((theirs / 'begun').exists)
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    (theirs / 'go on').touch()
    assert process.wait(PATIENCE) == 0
    # The other one is as it was.
    assert world.rows('SELECT state, owner FROM osif_attachments') == [('UNPLUGGING', 'elsewhere:1')]


def test_two_side_by_side_do_everything_once(world: World, begin: Begin) -> None:
    processes = [begin(), begin()]
    wait_until(lambda: len(world.heartbeats()) == 2)
    rounds = 5
    for _ in range(rounds):
        world.leave_in_motion(*PORTS)
        wait_until(world.is_settled)
    for process in processes:
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert len(world.rows('SELECT attachment_id FROM osif_attachment_history')) == rounds * len(PORTS)
    assert 'Traceback' not in log_of(world)


def test_it_waits_for_a_database_that_is_away(world: World, begin: Begin) -> None:
    process = begin()
    wait_until(lambda: bool(world.heartbeats()))
    world.leave_in_motion(*PORTS)
    wait_until(world.is_settled)
    world.execute('ALTER TABLE osif_heartbeats RENAME TO away')
    wait_until(lambda: 'tries again' in log_of(world))
    assert process.poll() is None
    world.execute('ALTER TABLE away RENAME TO osif_heartbeats')
    world.leave_in_motion(*PORTS)
    wait_until(world.is_settled)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert 'Traceback' not in log_of(world)


# ------------------------------------------------------------------ starting wrongly


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (['--no-such-option'], 2, '--no-such-option'),
        (['--dry-run'], 2, '--once'),
        (['--config-file', 'missing.conf'], 1, 'missing.conf'),
        (['--database', 'nonsense'], 1, '[database] connection'),
        (['--database', 'sqlite:////proc'], 1, '/proc'),
        (['--database', 'sqlite:////proc/none.sqlite'], 1, 'db sync'),
        (['--once', '--database', 'sqlite:////proc'], 1, '/proc'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else None,
)
def test_a_wrong_start_is_one_line(world: World, arguments: list[str], status: int, words: str) -> None:
    done = world.run(*arguments)
    assert (done.returncode, done.stdout) == (status, '')
    (line,) = done.stderr.splitlines()
    assert words in line


# ------------------------------------------------------------------ listeners of somebody else


def test_listeners_are_found_by_their_entry_points(world: World, theirs: pathlib.Path) -> None:
    world.leave_in_motion(PORTS[0])
    done = world.run('--once')
    assert done.returncode == 0
    assert (theirs / 'heard').read_text() == f'detached {PORTS[0]} detach\n'
    assert world.is_settled()
    # One that is missing is a line, one that fails is told once.
    assert 'listener missing (their_osif:missing) is left out' in done.stderr
    assert done.stderr.count('listener broken (their_osif:broken) failed') == 1
    assert 'ValueError: a fault of theirs' in done.stderr


# ------------------------------------------------------------------ within serve


def workers(pid: int) -> list[int]:
    found = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return [int(child) for child in found.split()]


def pid_of(owner: str | None) -> int | None:
    return int(owner.rpartition(':')[2]) if owner else None


def test_serve_reconciles_in_one_worker_and_another_takes_over(world: World, start: Start) -> None:
    service = start('--database', world.url, *world.options, '--workers', '2')
    wait_until(lambda: len(workers(service.process.pid)) == 2)
    wait_until(lambda: world.owner() is not None)
    first = pid_of(world.owner())
    assert first in workers(service.process.pid)
    world.leave_in_motion(*PORTS)
    wait_until(world.is_settled)
    # One beats, and it is the one that has the role.
    assert [pid_of(owner) for owner in world.heartbeats()] == [first]

    assert first is not None
    os.kill(first, signal.SIGKILL)
    world.leave_in_motion(*PORTS)
    wait_until(world.is_settled)
    second = pid_of(world.owner())
    assert second != first
    assert second in workers(service.process.pid)
    assert service.call('GET', f'/v2.1/servers/{SERVER}/os-interface', TOKENS['a_member']).status == 200

    begun = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - begun < 5.0
    # Given up, so that the next process need not wait for it.
    assert world.owner() is None


def test_serve_ends_though_a_record_is_at_hand(world: World, theirs: pathlib.Path, start: Start) -> None:
    world.configure('[reconciler]\ninterval = 0.05\n[os_interface]\nvif_driver = slow\n')
    for name, value in world.variables.items():
        os.environ[name] = value
    try:
        service = start('--database', world.url, *world.options)
    finally:
        for name in world.variables:
            del os.environ[name]
    world.leave_in_motion(PORTS[0])
    wait_until((theirs / 'begun').exists)
    begun = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - begun < 5.0
    assert len(world.rows('SELECT id FROM osif_attachments')) == 1


def test_retry_and_history_by_the_command(world: World) -> None:
    world.leave_in_motion(PORTS[0])
    world.execute('UPDATE osif_attachments SET next_attempt = 1e12')
    assert world.run('--once').stdout == 'nothing to do\n'
    retried = run(world.home, 'attachments', 'retry', PORTS[0], '--database', world.url)
    assert (retried.returncode, retried.stderr) == (0, '')
    assert 'carried_on' in world.run('--once').stdout
    told = run(world.home, 'attachments', 'history', '--database', world.url)
    assert told.returncode == 0
    assert PORTS[0] in told.stdout
