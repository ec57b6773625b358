"""A Neutron with networks of each kind, and a proxy before it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import webtest
from keystoneauth1 import adapter, session

from os_interface_ext import conf as config
from os_interface_ext.context import RequestContext, request_ids
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.extension import Extension
from os_interface_ext.testing import memory
from os_interface_ext.wsgi.paste import make_application
from tests.services import http_proxy
from tests.services.openstack.cloud import Cloud

#: A host on which the cloud's Neutron binds every port, and one on which it binds none.
HOST = 'compute1'
UNBINDABLE = 'unbindable1'


@dataclasses.dataclass(frozen=True)
class Project:
    id: str
    name: str


class World:
    """The cloud's Neutron as its users and operators see it, behind the driver's back."""

    def __init__(self, cloud: Cloud, proxy: http_proxy.Proxy) -> None:
        self.cloud = cloud
        self.proxy = proxy
        #: the projects that were asked for, by id
        self.known: dict[str, Project] = {}
        self._cidrs = (f'10.{64 + number // 256}.{number % 256}.0/24' for number in range(40000))
        self._admin = adapter.Adapter(
            session.Session(auth=cloud.auth('admin', 'admin')), service_type='network', interface='public'
        )
        self._identity = cloud.connection('admin').identity

    # ------------------------------------------------------------------ Neutron

    def neutron(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the administrator's, not through the proxy."""
        # What is gone already has been deleted.
        response = self._admin.request(f'/v2.0{path}', method, json=body, raise_exc=method != 'DELETE')
        return response.json() if response.content else None

    def network(self, project: Project, *, cidr: str | None = '', **attributes: Any) -> str:
        """A new network with a subnet (none if ``cidr`` is None); its id."""
        body = {'network': {'project_id': project.id, 'name': 'of-a-test', **attributes}}
        network_id = self.neutron('POST', '/networks', body)['network']['id']
        if cidr is not None:
            self.subnet(project, network_id, cidr or next(self._cidrs))
        return str(network_id)

    def subnet(self, project: Project, network_id: str, cidr: str, **attributes: Any) -> str:
        subnet = {
            'network_id': network_id,
            'project_id': project.id,
            'cidr': cidr,
            'ip_version': 6 if ':' in cidr else 4,
            'enable_dhcp': False,
            **attributes,
        }
        return str(self.neutron('POST', '/subnets', {'subnet': subnet})['subnet']['id'])

    def port(self, project: Project | str, network_id: str, **attributes: Any) -> str:
        """A new port; its id."""
        project_id = project.id if isinstance(project, Project) else project
        body = {'port': {'network_id': network_id, 'project_id': project_id, **attributes}}
        return str(self.neutron('POST', '/ports', body)['port']['id'])

    def look(self, port_id: str) -> dict[str, Any] | None:
        """A port as Neutron has it, None if there is none."""
        found = self.neutron('GET', f'/ports?id={port_id}')['ports']
        return found[0] if found else None

    def ports(self, **query: str) -> list[dict[str, Any]]:
        """The ports that a query finds."""
        text = '&'.join(f'{name}={value}' for name, value in query.items())
        return list(self.neutron('GET', f'/ports?{text}')['ports'])

    # ------------------------------------------------------------------ Keystone

    @functools.cache  # noqa: B019
    def project(self, name: str) -> Project:
        """A project of which the user demo is a member; made if it is not there."""
        found = self._identity.find_project(name, domain_id='default') or self._identity.create_project(
            name=name, domain_id='default'
        )
        user = self._identity.find_user('demo', domain_id='default')
        role = self._identity.find_role('member')
        self._identity.assign_project_role_to_user(found, user, role)
        self.known[found.id] = Project(found.id, found.name)
        return self.known[found.id]

    @functools.cache  # noqa: B019
    def token(self, project: Project) -> str:
        """A token of a member of the project."""
        return str(session.Session(auth=self.cloud.auth('demo', project.name)).get_token())

    def member(self, project: Project, **fields: Any) -> RequestContext:
        """A caller as keystonemiddleware tells him."""
        values = {
            'auth_token': self.token(project),
            'user_id': 'demo',
            'project_id': project.id,
            'roles': ['member', 'reader'],
            **fields,
        }
        return RequestContext(**values)

    @contextlib.contextmanager
    def without_tags(self) -> Iterator[None]:
        """As if ML2 did without tag_ports_during_bulk_creation: no port gets its tags when it is made."""

        def untag(passing: http_proxy.Passing) -> None:
            told = json.loads(passing.body)
            told['port'].pop('tags', None)
            passing.body = json.dumps(told).encode()

        with (
            self.proxy.trouble(http_proxy.before_it(untag), lambda passing: passing.method == 'POST'),
            self.proxy.trouble(http_proxy.answer(404), lambda passing: '/extensions/tag' in passing.path),
        ):
            yield

    # ------------------------------------------------------------------ ours

    def options(self, **overrides: Any) -> dict[str, Any]:
        """The group [neutron], with the proxy as its endpoint."""
        return {
            'auth_type': 'password',
            'auth_url': self.cloud.keystone_url,
            'username': 'osif',
            'password': self.cloud.password,
            'project_name': 'service',
            'user_domain_name': 'Default',
            'project_domain_name': 'Default',
            'endpoint_override': self.proxy.url,
            **overrides,
        }

    def conf(
        self, directory: Any, *, neutron: dict[str, Any] | None = None, **groups: dict[str, Any]
    ) -> config.Config:
        """A configuration from a file, as an operator writes it."""
        return config.new([write(directory, {'neutron': self.options(**(neutron or {})), **groups})])


class Host:
    """The API in this process, its ports from Neutron, its servers handed in."""

    def __init__(
        self,
        world: World,
        directory: Any,
        *,
        neutron: dict[str, Any] | None = None,
        servers: memory.MemoryCloud | None = None,
        **groups: Any,
    ) -> None:
        groups.setdefault('database', {'connection': f'sqlite:///{directory}/osif.sqlite'})
        groups.setdefault('reconciler', {'grace': 0, 'backoff': 0.05, 'backoff_cap': 0.1})
        conf = world.conf(directory, neutron=neutron, os_interface={'network_driver': 'neutron'}, **groups)
        schema.upgrade(Database.of(conf))
        self._world = world
        self._directory = directory
        self.servers = servers or memory.MemoryCloud(conf)
        self.extension = Extension(conf, identity=self._identify, server_driver=self.servers)
        self.parts = self.extension.parts
        self.app = webtest.TestApp(make_application(self.extension, '/v2.1'))

    def _identify(self, environ: Any) -> RequestContext:
        project = self._world.known[environ['HTTP_X_PROJECT']]
        return self._world.member(project, **request_ids(environ))

    def beside(self, **groups: Any) -> Host:
        """Another host of the same installation."""
        return Host(self._world, self._directory, servers=self.servers, **groups)

    def server(self, project: Project, **fields: Any) -> base.Server:
        """A new server of a project."""
        return self.servers.add_server(project.id, **{'host': HOST, 'availability_zone': 'az1', **fields})

    # ------------------------------------------------------------------ requests of a member

    def call(
        self,
        method: str,
        server: base.Server,
        port_id: str = '',
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> webtest.TestResponse:
        sent = {'X-Project': server.project_id, 'OpenStack-API-Version': 'compute 2.70', **(headers or {})}
        path = f'/v2.1/servers/{server.id}/os-interface' + (f'/{port_id}' if port_id else '')
        if method == 'POST':
            return self.app.post_json(path, {'interfaceAttachment': body}, headers=sent, expect_errors=True)
        return self.app.request(path, method=method, headers=sent, expect_errors=True)

    def list(self, server: base.Server, headers: dict[str, str] | None = None) -> webtest.TestResponse:
        return expect(self.call('GET', server, headers=headers), 200)

    def show(self, server: base.Server, port_id: str) -> webtest.TestResponse:
        return expect(self.call('GET', server, port_id), 200)

    def attach(self, server: base.Server, **body: Any) -> str:
        """The id of the port that is attached."""
        answer = expect(self.call('POST', server, body=body), 200)
        return str(answer.json['interfaceAttachment']['port_id'])

    def detach(self, server: base.Server, port_id: str) -> None:
        expect(self.call('DELETE', server, port_id), 202)


def expect(answer: webtest.TestResponse, status: int) -> webtest.TestResponse:
    assert answer.status_int == status, answer
    return answer


def write(directory: Any, groups: dict[str, dict[str, Any]]) -> str:
    """An ini file; its name."""
    path = directory / f'{uuid.uuid4()}.conf'
    path.write_text(
        ''.join(
            f'[{group}]\n' + ''.join(f'{name} = {value}\n' for name, value in options.items())
            for group, options in groups.items()
        )
    )
    return str(path)


def server(project: Project, host: str | None = HOST) -> base.Server:
    """A server that no controller knows."""
    return base.Server(str(uuid.uuid4()), project.id, host=host, availability_zone='az1')


@contextlib.contextmanager
def made(cloud: Cloud) -> Iterator[World]:
    with http_proxy.before(cloud.neutron_url) as proxy:
        yield World(cloud, proxy)


@pytest.fixture(scope='session')
def world(cloud: Cloud) -> Iterator[World]:
    with made(cloud) as one:
        yield one
