"""A real Nova: its servers, processes with its code, and its API with the plug-in inside."""

from __future__ import annotations

import configparser
import contextlib
import functools
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import openstack.connection
import pytest
from keystoneauth1 import adapter

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from tests.services import processes
from tests.services.openstack.cloud import IMAGE, Cloud

from ..conftest import wait_until
from ..test_packaging import copy_checkout

#: What this project needs beside what every OpenStack service has, by the names of packages.
_ADDED = ('marshmallow', 'orjson', 'gunicorn')
FILTER = """
[filter:os_interface]
use = egg:os-interface-ext#os_interface
config_file = {config_file}
auth_strategy = keystone
"""
#: The last of Nova's own filters before its application, in the pipeline of /v2.1 alone.
_BEFORE = 'authtoken keystonecontext osapi_compute_app_v21'
_AFTER = 'authtoken keystonecontext os_interface osapi_compute_app_v21'


class World:
    """The cloud as its users see it, and folders for what is put beside it."""

    def __init__(self, cloud: Cloud, home: pathlib.Path) -> None:
        self.cloud = cloud
        self.home = home
        self._kept: dict[str, str] = {}
        # The guard removes its folder; the logs are to stay.
        guarded = home / 'guarded'
        guarded.mkdir()
        self._guard = processes.Guard(guarded)

    def close(self) -> None:
        for user in ('demo', 'alt'):
            for server in self.compute(user).get('/servers').json()['servers']:
                self.remove_server(server['id'])
        self._guard.close()

    # ------------------------------------------------------------------ users

    @functools.cache  # noqa: B019
    def connection(self, user: str = 'demo') -> openstack.connection.Connection:
        return self.cloud.connection(user)

    @functools.cache  # noqa: B019
    def compute(self, user: str = 'demo', url: str | None = None) -> adapter.Adapter:
        """Requests to a Compute API, Nova's own unless a URL is given; an error is an answer."""
        return adapter.Adapter(
            self.cloud.session(user),
            service_type='compute',
            endpoint_override=url or self.cloud.nova_url,
            raise_exc=False,
            default_microversion='2.70',
        )

    def project(self, user: str = 'demo') -> str:
        found = self.cloud.session(user).get_project_id()
        assert found
        return str(found)

    # ------------------------------------------------------------------ servers

    def new_server(self, user: str = 'demo', networks: Any = 'none') -> str:
        """A new server that is active; its id."""
        connection = self.connection(user)
        image = connection.image.find_image(IMAGE).id
        body = {'server': {'name': f'of-{user}', 'flavorRef': '1', 'imageRef': image, 'networks': networks}}
        answer = self.compute(user).post('/servers', json=body)
        assert answer.status_code == 202, answer.text
        server_id = str(answer.json()['server']['id'])
        wait_until(lambda: self.told(server_id)['status'] in ('ACTIVE', 'ERROR'))
        assert self.told(server_id)['status'] == 'ACTIVE', self.told(server_id)
        return server_id

    def server(self, name: str, user: str = 'demo') -> str:
        """A server that tests share, made anew if one of them has removed it; its id."""
        if name not in self._kept or self.compute('admin').get(f'/servers/{self._kept[name]}').status_code == 404:
            self._kept[name] = self.new_server(user)
        return self._kept[name]

    def told(self, server_id: str, url: str | None = None) -> dict[str, Any]:
        """What Nova tells an administrator of a server."""
        answer = self.compute('admin', url).get(f'/servers/{server_id}')
        return dict(answer.json()['server'])

    def remove_server(self, server_id: str) -> None:
        self.compute('admin').delete(f'/servers/{server_id}')
        wait_until(lambda: self.compute('admin').get(f'/servers/{server_id}').status_code == 404)

    def as_driver_tells(self, server_id: str) -> base.Server:
        told = self.told(server_id)
        return base.Server(
            id=server_id,
            project_id=told['tenant_id'],
            name=told['name'],
            host=told['OS-EXT-SRV-ATTR:host'],
            vm_state=told['OS-EXT-STS:vm_state'],
            task_state=told['OS-EXT-STS:task_state'],
            availability_zone=told['OS-EXT-AZ:availability_zone'],
        )

    # ------------------------------------------------------------------ ports

    @functools.cached_property
    def network(self) -> Any:
        return self.cloud.network(self.connection(), '10.77.0.0/20', 'nova-tests')

    def new_port(self, server_id: str | None = None) -> Any:
        """A port of the ordinary user, given to a server by nobody in particular."""
        more = {'device_id': server_id} if server_id else {}
        return self.connection().network.create_port(network_id=self.network.id, **more)

    def port(self, port_id: str) -> Any:
        """The port as an administrator sees it, or None."""
        return self.connection('admin').network.find_port(port_id)

    # ------------------------------------------------------------------ processes with Nova's code

    @property
    def python(self) -> str:
        return str(self.cloud.place.venv / 'bin/python')

    @functools.cached_property
    def packages(self) -> pathlib.Path:
        """A folder with what an operator installs into Nova's environment."""
        folder = self.home / 'packages'
        source = copy_checkout(self.home / 'checkout')
        wanted = [str(source), *(f'{name}=={metadata.version(name)}' for name in _ADDED)]
        command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation']
        subprocess.run([*command, '--target', str(folder), *wanted], check=True)
        return folder

    def environment(self, etc: pathlib.Path) -> dict[str, str]:
        dropped = ('OS_', 'PYTHON', 'GUNICORN', 'VIRTUAL_ENV')
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        return kept | {
            'PYTHONPATH': str(self.packages),
            'PYTHONWARNINGS': 'ignore',
            'HOME': str(self.home),
            'OS_NOVA_CONFIG_DIR': str(etc),
            'OS_NOVA_CONFIG_FILES': 'api-paste.ini;nova.conf',
        }

    def configure(self, etc: pathlib.Path, **overrides: dict[str, str]) -> pathlib.Path:
        """Nova's configuration with the filter in its pipeline, and the filter's own; the path of the latter."""
        place = self.cloud.place
        etc.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.etc('nova') / 'nova.conf', etc)
        paste = (place.venv / 'etc/nova/api-paste.ini').read_text()
        assert paste.count(_BEFORE) == 1
        config_file = etc / 'os-interface-ext.conf'
        paste = paste.replace(_BEFORE, _AFTER) + FILTER.format(config_file=config_file)
        (etc / 'api-paste.ini').write_text(paste)
        parser = configparser.RawConfigParser()
        sections: dict[str, dict[str, str]] = {
            'os_interface': {'server_driver': 'nova-local', 'network_driver': 'neutron', 'vif_driver': 'noop'},
            'database': {'connection': self.cloud.database(f'osif_{etc.name}')},
            'neutron': self.authority(),
            'nova_local': {'config_files': str(etc / 'nova.conf')},
        }
        for section, values in overrides.items():
            sections[section] = sections.get(section, {}) | values
        parser.read_dict(sections)
        with config_file.open('w') as file:
            parser.write(file)
        return config_file

    def authority(self) -> dict[str, str]:
        """The options with which the service under test authenticates."""
        return {
            'auth_type': 'password',
            'auth_url': self.cloud.keystone_url,
            'username': 'osif',
            'password': self.cloud.password,
            'project_name': 'service',
            'user_domain_id': 'default',
            'project_domain_id': 'default',
            'region_name': self.cloud.region,
        }

    @contextlib.contextmanager
    def nova_api(self, name: str, **settings: Any) -> Iterator[str]:
        """Another nova-api of the same cloud, with the filter; its URL, with ``/v2.1``."""
        etc = self.home / name
        config_file = self.configure(etc)
        environment = self.environment(etc)
        command = [self.python, '-m', 'os_interface_ext.cmd.main', 'db', 'sync', '--config-file', str(config_file)]
        processes.run(command, environment, etc / 'sync.log')
        port = processes.free_ports([name])[name]
        options = {
            'bind': f'127.0.0.1:{port}',
            'worker_class': 'gthread',
            'threads': 4,
            'timeout': 0,
            'graceful_timeout': 5,
            'control_socket_disable': True,
        } | settings
        log = etc / 'nova-api.log'
        lines = ['import sys', f'sys.argv[1:] = ["--log-file", {str(log)!r}]']
        (etc / 'gunicorn.py').write_text(
            '\n'.join([*lines, *(f'{option} = {value!r}' for option, value in options.items())])
        )
        module = 'nova.wsgi.osapi_compute:application'
        daemon = processes.Daemon(
            name,
            self._guard,
            [self.python, '-m', 'gunicorn', '-c', str(etc / 'gunicorn.py'), module],
            environment,
            lambda: processes.listens(port),
            [etc / 'server.log', log],
        )
        daemon.start()
        try:
            yield f'http://127.0.0.1:{port}/v2.1'
        finally:
            daemon.stop()


class InNova:
    """The process of :mod:`in_nova`: each attribute is one of its functions."""

    def __init__(self, world: World, etc: pathlib.Path, config_file: pathlib.Path) -> None:
        self._guard = threading.Lock()
        script = pathlib.Path(__file__).with_name('in_nova.py')
        with (etc / 'in_nova.log').open('ab') as log:
            self._process = subprocess.Popen(
                [world.python, str(script), str(config_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=world.environment(etc),
                cwd=etc,
            )

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._ask, name)

    def _ask(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._guard:
            pickle.dump((name, arguments), self._process.stdin)
            self._process.stdin.flush()
            answered, *values = pickle.load(self._process.stdout)
        if answered:
            return values[0]
        kind, text = values
        raise getattr(exceptions, kind)(text)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class RemoteServerDriver(base.ServerDriver):
    """The driver nova-local of another process."""

    def __init__(self, process: InNova) -> None:
        self._process = process

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        found = self._process.get(_who(ctxt), server_id)
        assert isinstance(found, base.Server)
        return found

    def attachments_changed(self, ctxt: RequestContext, server_id: str, event: base.Change) -> None:
        self._process.attachments_changed(
            _who(ctxt), server_id, str(event), event.port_id, event.created, event.tag
        )


def _who(ctxt: RequestContext) -> Mapping[str, Any]:
    return {'user_id': ctxt.user_id, 'project_id': ctxt.project_id, 'roles': list(ctxt.roles)}


@pytest.fixture(scope='session')
def world(nova_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(nova_cloud, tmp_path_factory.mktemp('nova'))
    yield world
    world.close()


@pytest.fixture(scope='session')
def in_nova(world: World) -> Iterator[InNova]:
    """A process with Nova's code and the driver nova-local."""
    etc = world.home / 'in_nova'
    process = InNova(world, etc, world.configure(etc))
    yield process
    process.close()


@pytest.fixture(scope='session')
def filtered(world: World) -> Iterator[str]:
    """The URL of a nova-api with the filter."""
    with world.nova_api('filtered') as url:
        yield url
