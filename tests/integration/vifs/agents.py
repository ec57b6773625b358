"""Hypervisor hosts that a test makes: a network namespace for each, with an agent in it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

from os_interface_ext.testing.faults import Faults
from tests.integration.conftest import PATIENCE, environment, wait_until
from tests.integration.vifs import namespaces
from tests.services import proxy, rabbitmq

_ROOT = pathlib.Path(__file__).parents[3]
_FAULTS = 'OSIF_TEST_FAULTS'
_BROKER = 5672


class Host:
    """A host with its agent. The broker is reached at a port of the namespace's own loopback, which passes on.

    :param locks: where the agents of one host lock each other out
    """

    def __init__(
        self, name: str, topic: str, folder: pathlib.Path, way: proxy.Proxy, locks: pathlib.Path | None = None
    ) -> None:
        self.name = name
        self.way = way
        self.log = folder / f'{name}.log'
        self._config = folder / f'{name}.conf'
        self._faults = folder / f'{name}.faults'
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            '[DEFAULT]',
            f'transport_url = {rabbitmq.url(way.port)}',
            '[os_interface]',
            'vif_driver = netns',
            '[rpc]',
            f'host = {name}',
            f'topic = {topic}',
            'ping_timeout = 3',
            'timeout = 5',
            '[netns]',
            f'lock_path = {locks or folder / f"{name}.lock"}',
            '[oslo_messaging_rabbit]',
            'rabbit_interval_max = 1',
        ]
        self._config.write_text('\n'.join(lines))

    def start(self) -> None:
        """Start the agent, and wait until it takes orders."""
        assert self._process is None or self._process.poll() is not None, 'it runs'
        begun = self._said()
        # Not `ip netns exec`: that would hide the namespaces that are made later.
        enter = ['nsenter', f'--net=/run/netns/{self.name}']
        command = [sys.executable, '-m', 'tests.integration.vifs.agents', '--config-file', str(self._config)]
        with self.log.open('ab') as log:
            self._process = subprocess.Popen(
                [*enter, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env=environment(self.log.parent, **{_FAULTS: str(self._faults)}),
            )
        wait_until(lambda: self._said() > begun or self.has_ended())
        assert not self.has_ended(), self.log.read_text()

    @contextlib.contextmanager
    def under_name(self, name: str) -> Iterator[None]:
        """What the agent takes for the name of its host, when it is started next."""
        right = self._config.read_text()
        self._config.write_text(right.replace(f'host = {self.name}\n', f'host = {name}\n', 1))
        try:
            yield
        finally:
            self._config.write_text(right)

    def befall(self, fault: str) -> None:
        """Have something happen to the agent that runs, at a point of what it does next."""
        new = self._faults.with_suffix('.new')
        new.write_text(fault)
        new.rename(self._faults)

    def _said(self) -> int:
        return self.log.read_text().count('taking orders for host') if self.log.exists() else 0

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """SIGSTOP and SIGCONT, say."""
        os.kill(self.pid, number)

    def hears(self, word: str, begun: int = 0) -> int:
        """How often its log has a word."""
        return self.log.read_text().count(word) - begun

    def wait(self) -> int:
        """Its status, when it has ended."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it as a power failure does."""
        if self._process is not None and not self.has_ended():
            self.signal(signal.SIGKILL)
            self.wait()

    def stop(self) -> int:
        """End it in an orderly way; its status."""
        self.signal(signal.SIGTERM)
        return self.wait()


@contextlib.contextmanager
def made(name: str, topic: str, folder: pathlib.Path, broker: rabbitmq.RabbitMQ) -> Iterator[Host]:
    """A host for the time of a block; its agent is started by the test."""
    with namespaces.made(name):
        namespaces.set_up(name, 'lo')
        listening = namespaces.within(name, lambda: socket.create_server(('127.0.0.1', _BROKER)))
        with proxy.before(broker.port, listening) as way:
            host = Host(name, topic, folder, way)
            try:
                yield host
            finally:
                host.kill()


class _Befalling(Faults):
    """Faults that a file tells, once each."""

    def __init__(self, file: pathlib.Path) -> None:
        super().__init__()
        self._file = file

    def at(self, point: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            told = Faults.parse(self._file.read_text().split(','))
            self._file.unlink()
            self._faults = told._faults
        super().at(point)


def _main() -> int:
    """The agent, with points at its requests to the kernel, and before and after its driver's plug and unplug."""
    from os_interface_ext.cmd import agent
    from os_interface_ext.drivers.vifs.netns import NetnsVIFDriver
    from tests.integration.vifs import zygote

    faults = _Befalling(pathlib.Path(os.environ[_FAULTS]))
    zygote.watch(faults)
    for name in ('plug', 'unplug'):
        setattr(NetnsVIFDriver, name, zygote.passing(name, getattr(NetnsVIFDriver, name), faults))
    return agent.main()


if __name__ == '__main__':
    sys.exit(_main())
