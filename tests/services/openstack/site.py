"""The services of the cloud: how each is started, and how it is known to answer."""

from __future__ import annotations

import http.client
import os
import pathlib
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from .. import databases, processes, rabbitmq
from . import configuration

#: what is served over HTTP -> its WSGI application
_APPLICATIONS = {
    'keystone': 'keystone.wsgi.api:application',
    'neutron': 'neutron.wsgi.api:application',
    'placement': 'placement.wsgi.api:application',
    'glance': 'glance.wsgi.api:application',
    'nova': 'nova.wsgi.osapi_compute:application',
}
#: Processes and threads of each of them, where nothing else is asked for.
_WORKERS = (1, 4)
_MARIADB = ('mariadb-server-core', 'mariadb-client-core')


class Site:
    """A folder with all of the cloud's data, and the processes that work there.

    ``workers``: what is served over HTTP -> its processes, and the threads of each. ``logs``: a folder that stays;
    without it the logs go with all the rest.
    """

    def __init__(
        self,
        venv: pathlib.Path,
        logs: pathlib.Path | None = None,
        workers: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        databases.need('mariadbd', *_MARIADB)
        databases.need('mariadb-install-db', *_MARIADB)
        databases.need('memcached', 'memcached')
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='osif-cloud-'))
        self._guard = processes.Guard(self.folder)
        self._workers = workers or {}
        ports = processes.free_ports(configuration.LISTENERS)
        self.place = configuration.Place(self.folder, venv, logs or self.folder / 'log', ports)
        for path in (self.place.logs, self.folder / 'tmp', self.folder / 'home'):
            path.mkdir(parents=True, exist_ok=True)
        configuration.write(self.place)
        self.daemons: dict[str, processes.Daemon] = {}

    def close(self) -> None:
        """End all of it, and remove the folder."""
        for daemon in reversed(self.daemons.values()):
            # Nobody is going to ask for the data again: no need to be gentle.
            daemon.kill()
        self._guard.close()

    def daemon(self, name: str) -> processes.Daemon:
        if name not in self.daemons:
            if name in _APPLICATIONS:
                self.daemons[name] = self._served(name)
            elif name.startswith('nova-'):
                self.daemons[name] = self._nova(name)
            else:
                self.daemons[name] = getattr(self, f'_{name}')()
        return self.daemons[name]

    def start(self, *names: str) -> None:
        """Start services side by side, and wait until all of them answer."""
        for name in names:
            self.daemon(name).launch()
        for name in names:
            self.daemon(name).wait()

    def command(self, name: str, *arguments: str) -> None:
        """Run one of OpenStack's commands to its end."""
        command = [str(self.place.venv / 'bin' / name), *arguments]
        processes.run(command, self._environment(), self.place.log(name))

    def sql(self, statement: str, database: str = '', **parameters: object) -> list[tuple[Any, ...]]:
        """The rows that an SQL statement gives."""
        engine = sa.create_engine(
            self.place.database(database), isolation_level='AUTOCOMMIT', poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            result = connection.execute(sa.text(statement), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []

    def _environment(self, **variables: str) -> dict[str, str]:
        """Nothing of this machine's clouds, proxies and homes."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(('OS_', 'XDG_', 'PYTHON', 'GUNICORN', 'RABBITMQ_', 'VIRTUAL_ENV'))
            and not name.lower().endswith('_proxy')
        }
        return {
            **kept,
            'HOME': str(self.folder / 'home'),
            'TMPDIR': str(self.folder / 'tmp'),
            # What is known of the entry points of the packages, so that not every process has to find them.
            'XDG_CACHE_HOME': str(self.place.venv / 'cache'),
            'PYTHONWARNINGS': 'ignore',
            **variables,
        }

    def _make(
        self,
        name: str,
        command: Sequence[object],
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        logs: Sequence[str] = (),
    ) -> processes.Daemon:
        return processes.Daemon(
            name,
            self._guard,
            [str(part) for part in command],
            environment or self._environment(),
            ready,
            [self.place.log(one) for one in (name, *logs)],
        )

    def _served(self, name: str) -> processes.Daemon:
        """Gunicorn with threads, for its connections stay open: idle ones keep no thread from its work.

        (uWSGI's either close after each answer, or have a thread each.) What an application has not read of a body
        is read after its answer, all of it: Gunicorn itself would close the connection after the first 64 KiB.
        """
        port = self.place.ports[name]
        count, threads = self._workers.get(name, _WORKERS)
        etc = self.place.etc(name)
        settings = {
            'bind': f'127.0.0.1:{port}',
            'workers': count,
            'threads': threads,
            'worker_class': 'gthread',
            'worker_connections': 1000,
            'keepalive': 75,
            # A busy machine is no reason to kill a worker.
            'timeout': 0,
            'graceful_timeout': 5,
            'control_socket_disable': True,
        }
        # The applications take the arguments of the server for theirs.
        lines = ['import sys', f"sys.argv[1:] = ['--log-file', {str(self.place.log(name))!r}]"]
        lines += [f'{setting} = {value!r}' for setting, value in settings.items()]
        lines += [
            'def post_request(worker, request, environ, answer):',
            '    while request.body.read(65536): pass',
        ]
        path = etc / 'gunicorn.py'
        path.write_text('\n'.join(lines) + '\n')
        files = {
            'keystone': str(etc / 'keystone.conf'),
            'neutron': 'neutron.conf;ml2_conf.ini',
            'placement': 'placement.conf',
            'glance': 'glance-api.conf',
            'nova': f'{self.place.venv}/etc/nova/api-paste.ini;nova.conf',
        }
        variable = f'OS_{name.upper()}_CONFIG'
        return self._make(
            f'{name}-server',
            [self.place.venv / 'bin/python', '-m', 'gunicorn', '-c', path, _APPLICATIONS[name]],
            lambda: _answers(port),
            self._environment(**{f'{variable}_DIR': str(etc), f'{variable}_FILES': files[name]}),
            logs=[name],
        )

    def _nova(self, name: str) -> processes.Daemon:
        def ready() -> bool:
            return bool(
                self.sql(
                    'SELECT 1 FROM services WHERE `binary` = :name AND deleted = 0 AND last_seen_up >= :since',
                    'nova',
                    name=name,
                    since=self.daemons[name].launched.replace(microsecond=0),
                )
            )

        path = self.place.etc('nova') / 'nova.conf'
        return self._make(name, [self.place.venv / 'bin' / name, '--config-file', path], ready)

    def _mariadb(self) -> processes.Daemon:
        def ready() -> bool:
            try:
                self.sql('SELECT 1')
            except sa.exc.DBAPIError:
                return False
            return True

        data = self.folder / 'mysql'
        if not data.exists():
            processes.run(
                [
                    'mariadb-install-db',
                    '--no-defaults',
                    f'--datadir={data}',
                    '--auth-root-authentication-method=normal',
                    '--skip-test-db',
                    '--skip-name-resolve',
                    *_as_root('--user=root'),
                ],
                self._environment(),
                self.place.log('mariadb'),
            )
        return self._make(
            'mariadb',
            [
                databases.need('mariadbd', *_MARIADB),
                '--no-defaults',
                *_as_root('--user=root'),
                f'--datadir={data}',
                f'--socket={self.folder}/mariadb.socket',
                f'--pid-file={self.folder}/mariadb.pid',
                '--bind-address=127.0.0.1',
                f'--port={self.place.ports["mariadb"]}',
                '--skip-name-resolve',
                '--max-connections=500',
                '--performance-schema=OFF',
                '--innodb-buffer-pool-size=256M',
                '--innodb-log-file-size=32M',
                # The data need not survive the machine.
                '--innodb-flush-log-at-trx-commit=0',
                '--innodb-doublewrite=0',
                '--innodb-flush-method=nosync',
            ],
            ready,
        )

    def _memcached(self) -> processes.Daemon:
        port = self.place.ports['memcached']
        return self._make(
            'memcached',
            [
                databases.need('memcached', 'memcached'),
                *_as_root('-u', 'root'),
                *('-l', '127.0.0.1', '-p', port, '-m', 128),
            ],
            lambda: processes.listens(port),
        )

    def _epmd(self) -> processes.Daemon:
        return rabbitmq.epmd(self._broker())

    def _rabbitmq(self) -> processes.Daemon:
        return rabbitmq.broker(self._broker())

    def _broker(self) -> rabbitmq.Place:
        return rabbitmq.Place(
            self.place.state('rabbitmq'), self.place.logs, self.place.ports, self._guard, self._environment()
        )


def node_of(host: str) -> str:
    """The id that Nova's fake driver gives the node of a host."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, host))


def _as_root(*arguments: str) -> tuple[str, ...]:
    """Arguments without which servers refuse to run as root."""
    return arguments if os.geteuid() == 0 else ()


def _answers(port: int) -> bool:
    """Whether an API answers; it does not until its application is loaded."""
    peer = http.client.HTTPConnection('127.0.0.1', port, timeout=processes.PATIENCE)
    try:
        peer.request('GET', '/')
        return peer.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        peer.close()
