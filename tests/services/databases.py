"""Private PostgreSQL and MariaDB servers of Debian's packages: installed if they are missing, and stopped."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import sqlalchemy as sa

#: Seconds after which a server that does not answer is not going to.
PATIENCE = 60.0


class Unobtainable(Exception):
    """The machine has no such server, and it cannot be installed here."""


class DatabaseServer:
    """A server with a data directory of its own, on a port of its own of 127.0.0.1."""

    #: Debian's packages, and the SQLAlchemy URL with ``{port}`` and ``{name}``
    packages: tuple[str, ...]
    url_form: str
    #: who runs it where the tests are root, which these servers refuse to be
    user: str
    stop_signal = signal.SIGTERM
    #: for one whose data nobody wants any more: it writes nothing
    end_signal = signal.SIGKILL

    def __init__(self) -> None:
        if not self._find():
            install(self.packages)
        if not self._find():
            raise Unobtainable(f'{self.packages[0]} is not installed, and cannot be')
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='osif-db-'))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.user)
        self._initialize()
        self.start()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self.folder.parent / f'{self.folder.name}.log').open('ab')
        self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, cwd='/', **self._identity())
        log.close()
        engine = sa.create_engine(self.url(None), poolclass=sa.NullPool)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with engine.connect():
                    return
            except sa.exc.DBAPIError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def stop(self, stop_signal: signal.Signals | None = None) -> None:
        """Stop it, breaking what is connected; the data stays."""
        if self._process is not None:
            self._process.send_signal(stop_signal or self.stop_signal)
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
            self._process = None

    def remove(self) -> None:
        """Stop it, and remove all of it."""
        self.stop(self.end_signal)
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder.parent / f'{self.folder.name}.log').unlink(missing_ok=True)

    def url(self, name: str | None) -> str:
        return self.url_form.format(port=self.port, name=name or self.maintenance)

    def new_database(self) -> str:
        """The URL of a database that is empty."""
        self._databases += 1
        name = f'osif{self._databases}'
        engine = sa.create_engine(self.url(None), poolclass=sa.NullPool, isolation_level='AUTOCOMMIT')
        with engine.connect() as connection:
            connection.execute(sa.text(f'CREATE DATABASE {name}'))
        return self.url(name)

    maintenance = ''

    def _find(self) -> bool:
        raise NotImplementedError

    def _initialize(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _identity(self) -> dict[str, object]:
        return {'user': self.user, 'group': self.user, 'extra_groups': []} if os.geteuid() == 0 else {}

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd='/', **self._identity())  # type: ignore[call-overload]


class PostgreSQL(DatabaseServer):
    packages = ('postgresql',)
    url_form = 'postgresql+psycopg://osif@127.0.0.1:{port}/{name}'
    user = 'postgres'
    maintenance = 'postgres'
    # "Fast": clients are cut off. "Immediate": as if it crashed, but all of its processes at once.
    stop_signal = signal.SIGINT
    end_signal = signal.SIGQUIT

    def _find(self) -> bool:
        found = sorted(glob.glob('/usr/lib/postgresql/*/bin'))
        self._bin = found[-1] if found else os.path.dirname(shutil.which('initdb') or '')
        return bool(self._bin)

    def _initialize(self) -> None:
        self._run(
            f'{self._bin}/initdb', '-D', f'{self.folder}/data', '-U', 'osif', '-A', 'trust', '-E', 'UTF8', '-N'
        )

    def _command(self) -> list[str]:
        settings = {
            'port': self.port,
            'listen_addresses': '127.0.0.1',
            'unix_socket_directories': self.folder,
            'max_connections': 300,
        }
        options = [part for name, value in settings.items() for part in ('-c', f'{name}={value}')]
        return [f'{self._bin}/postgres', '-D', f'{self.folder}/data', *options]


class MariaDB(DatabaseServer):
    packages = ('mariadb-server-core', 'mariadb-client-core')
    url_form = 'mysql+pymysql://root@127.0.0.1:{port}/{name}'
    user = 'nobody'

    def _find(self) -> bool:
        self._bin = shutil.which('mariadbd', path=os.environ.get('PATH', '') + ':/usr/sbin')
        return bool(self._bin and shutil.which('mariadb-install-db') and shutil.which('my_print_defaults'))

    def _initialize(self) -> None:
        self._run(
            'mariadb-install-db',
            '--no-defaults',
            f'--datadir={self.folder}/data',
            '--auth-root-authentication-method=normal',
            '--skip-test-db',
        )

    def _command(self) -> list[str]:
        assert self._bin is not None
        return [
            self._bin,
            '--no-defaults',
            f'--datadir={self.folder}/data',
            f'--socket={self.folder}/socket',
            f'--pid-file={self.folder}/pid',
            f'--port={self.port}',
            '--bind-address=127.0.0.1',
            '--max-connections=300',
            '--skip-name-resolve',
        ]

    def _identity(self) -> dict[str, object]:
        return {'user': 'nobody', 'group': 'nogroup', 'extra_groups': []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def running(kind: type[DatabaseServer]) -> Iterator[DatabaseServer]:
    """A server for as long as the block lasts.

    :raises Unobtainable:
    """
    server = kind()
    try:
        yield server
    finally:
        server.remove()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def install(packages: tuple[str, ...]) -> None:
    """Debian packages, without the services that they bring.

    :raises Unobtainable: this machine or user cannot
    """
    if os.geteuid() != 0 or shutil.which('apt-get') is None:
        raise Unobtainable(
            f'{packages[0]} is missing, and only root can install it: apt-get install {" ".join(packages)}'
        )
    environment = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive'}
    with _no_daemons():
        for command in (['update', '-q'], ['install', '-qy', '--no-install-recommends', *packages]):
            subprocess.run(['apt-get', *command], check=True, capture_output=True, env=environment)


def install_missing(packages: tuple[str, ...]) -> None:
    """Those Debian packages that are not installed.

    :raises Unobtainable: this machine or user cannot
    """
    missing = []
    for package in packages:
        if shutil.which('dpkg-query'):
            query = ['dpkg-query', '-W', '-f', '${db:Status-Status}', package]
            if subprocess.run(query, capture_output=True, text=True).stdout.startswith('installed'):
                continue
        missing.append(package)
    if missing:
        install(tuple(missing))


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    """Keep a package from starting its server at installation."""
    policy = pathlib.Path('/usr/sbin/policy-rc.d')
    if policy.exists():
        yield
        return
    policy.write_text('#!/bin/sh\nexit 101\n')
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def need(program: str, *packages: str) -> str:
    """The path of a program of Debian's packages, which are installed if it is missing.

    :raises Unobtainable: if that cannot be
    """
    path = os.environ.get('PATH', os.defpath) + ':/usr/sbin:/sbin'
    found = shutil.which(program, path=path)
    if found is None:
        try:
            install(packages)
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode(errors='replace').strip().splitlines()[-3:]
            raise Unobtainable(f'{packages[0]} cannot be installed: {" ".join(words)}') from error
        found = shutil.which(program, path=path)
    if found is None:
        raise Unobtainable(f'{packages[0]} has brought no {program}')
    return found
