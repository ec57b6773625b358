"""A private Open vSwitch of Debian's packages: installed if it is missing, and ended with the tests.

Its datapath is the one in userspace (``netdev``): it needs nothing of the kernel but tap and veth devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from tests.services.databases import Unobtainable, install
from tests.services.processes import Daemon, Guard, free_ports, run

PACKAGES = ('openvswitch-switch',)
_SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'
_COMMANDS = ('ovsdb-tool', 'ovsdb-server', 'ovs-vswitchd', 'ovs-vsctl')


class OpenVSwitch:
    """ovsdb-server and ovs-vswitchd with a folder of their own; the devices are those of a namespace.

    :param namespace: the name of one that is there
    :raises Unobtainable: the machine has none, and it cannot be installed here
    """

    def __init__(self, namespace: str) -> None:
        if not _is_installed():
            install(PACKAGES)
        if not _is_installed():
            raise Unobtainable(f'{PACKAGES[0]} is not installed, and cannot be')
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='osif-ovs-'))
        self.socket = f'unix:{self.folder}/db.sock'
        number = free_ports(['ovsdb'])['ovsdb']
        self.tcp = f'tcp:127.0.0.1:{number}'
        self._guard = Guard(self.folder)
        folders = {f'OVS_{name}DIR': str(self.folder) for name in ('RUN', 'LOG', 'DB', 'SYSCONF')}
        self._environment = {**os.environ, **folders, 'PATH': _path()}
        database = self.folder / 'conf.db'
        run(['ovsdb-tool', 'create', str(database), _SCHEMA], self._environment, self.folder / 'tool.log')
        self.database = Daemon(
            'ovsdb-server',
            self._guard,
            [
                'ovsdb-server',
                str(database),
                f'--remote=p{self.socket}',
                f'--remote=ptcp:{number}:127.0.0.1',
                f'--unixctl={self.folder}/ovsdb.ctl',
            ],
            self._environment,
            lambda: self._answers('--no-wait', 'init'),
            [self.folder / 'ovsdb.log'],
        )
        self.switch = Daemon(
            'ovs-vswitchd',
            self._guard,
            [
                *('ip', 'netns', 'exec', namespace),
                *('ovs-vswitchd', self.socket, f'--unixctl={self.folder}/vswitchd.ctl'),
            ],
            self._environment,
            # It waits for the switch itself.
            lambda: self._answers('init'),
            [self.folder / 'vswitchd.log'],
        )

    def start(self) -> None:
        """:raises Broken: one of them does not answer"""
        self.database.start()
        self.switch.start()

    def remove(self) -> None:
        """End both, and remove all of it."""
        self.switch.kill()
        self.database.kill()
        self._guard.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def vsctl(self, *arguments: str) -> str:
        command = ['ovs-vsctl', f'--db={self.socket}', '--timeout=10', *arguments]
        result = subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True)
        return result.stdout.strip()

    def add_bridge(self, name: str) -> None:
        self.vsctl('add-br', name, '--', 'set', 'bridge', name, 'datapath_type=netdev')

    def interfaces(self) -> dict[str, dict[str, Any]]:
        """Their columns by their names; without those of the bridges themselves."""
        table = json.loads(self.vsctl('--format=json', 'list', 'interface'))
        rows = (dict(zip(table['headings'], values, strict=True)) for values in table['data'])
        return {row['name']: _plain(row) for row in rows if row['type'] != 'internal'}

    def ports(self, bridge: str) -> set[str]:
        return set(self.vsctl('list-ports', bridge).split())

    @contextlib.contextmanager
    def silent(self, daemon: Daemon) -> Iterator[None]:
        """One of both is there, and does nothing."""
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(daemon.pid, signal.SIGCONT)

    def _answers(self, *arguments: str) -> bool:
        try:
            self.vsctl('--timeout=1', *arguments)
        except subprocess.CalledProcessError:
            return False
        return True


@contextlib.contextmanager
def running(namespace: str) -> Iterator[OpenVSwitch]:
    """One for as long as the block lasts.

    :raises Unobtainable:
    """
    switch = OpenVSwitch(namespace)
    try:
        switch.start()
        yield switch
    finally:
        switch.remove()


def _is_installed() -> bool:
    return os.path.exists(_SCHEMA) and all(shutil.which(name, path=_path()) for name in _COMMANDS)


def _path() -> str:
    return f'{os.environ.get("PATH", os.defpath)}:/usr/sbin:/sbin'


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """With maps as such."""
    return {
        name: dict(value[1]) if isinstance(value, list) and value[0] == 'map' else value
        for name, value in row.items()
    }
