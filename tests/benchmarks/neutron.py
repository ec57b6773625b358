"""The API beside the bare requests to Neutron that an operation is made of; a Keystone and a Neutron of its own.

The bare side has the same client library, with its connections kept and nothing else around it, and the same
authority. The VIF driver is noop: this is the network half of the work.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import floor
import requests
from harness import Case
from in_process import expect

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.integration.neutron.conftest import HOST, Host, Project, World, made
from tests.services import openstack

PORTS = 100


class Bare:
    """The same requests, sent by `requests` over one connection."""

    def __init__(self, world: World, project: Project, network: str) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._url = f'{world.cloud.neutron_url}/v2.0'
        self._service = {'X-Auth-Token': world.cloud.session('osif').get_token()}
        self._caller = {'X-Auth-Token': world.token(project), 'X-Service-Token': self._service['X-Auth-Token']}
        self._network = network

    def _ask(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        answer = self._session.request(method, self._url + path, headers=headers, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def list(self, server_id: str) -> None:
        self._ask('GET', f'/ports?device_id={server_id}', self._service)

    def show(self, port_id: str) -> None:
        self._ask('GET', f'/ports/{port_id}', self._caller)

    def port_there_and_back(self, server_id: str, port_id: str) -> None:
        """A port that is brought: claimed, bound, and let go of."""
        self.show(port_id)
        claim = {'port': {'device_id': server_id, 'device_owner': 'compute:az1'}}
        self._ask('PUT', f'/ports/{port_id}', self._service, claim)
        self._ask('PUT', f'/ports/{port_id}', self._service, {'port': {'binding:host_id': HOST}})
        self.show(port_id)
        free = {'port': {'device_id': '', 'device_owner': '', 'binding:host_id': ''}}
        self._ask('PUT', f'/ports/{port_id}', self._service, free)
        self._ask('GET', f'/ports/{port_id}', self._service)

    def network_there_and_back(self, server_id: str) -> None:
        """A port that is made, bound, and deleted."""
        self._ask('GET', f'/networks/{self._network}', self._caller)
        body = {'network_id': self._network, 'device_id': server_id, 'device_owner': 'compute:az1'}
        port_id = self._ask('POST', '/ports', self._caller, {'port': body})['port']['id']
        self._ask('PUT', f'/ports/{port_id}', self._service, {'port': {'binding:host_id': HOST}})
        self.show(port_id)
        self.show(port_id)
        self._ask('DELETE', f'/ports/{port_id}', self._service)


class Ours:
    """The API, called as a WSGI server does."""

    def __init__(self, host: Host, project: Project) -> None:
        self._application = host.app.app
        self._headers = (('X-Project', project.id), ('OpenStack-API-Version', 'compute 2.70'))

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        return floor.call(self._application, method, f'/v2.1/servers/{path}', body, self._headers)

    def list(self, server_id: str) -> None:
        expect(200, self._call('GET', f'{server_id}/os-interface'))

    def show(self, server_id: str, port_id: str) -> None:
        expect(200, self._call('GET', f'{server_id}/os-interface/{port_id}'))

    def there_and_back(self, server_id: str, **wanted: str) -> None:
        attached = expect(200, self._call('POST', f'{server_id}/os-interface', {'interfaceAttachment': wanted}))
        port_id = json.loads(attached)['interfaceAttachment']['port_id']
        expect(202, self._call('DELETE', f'{server_id}/os-interface/{port_id}'))


def cases(folder: pathlib.Path) -> Iterator[Case]:
    """List and show, and attach and detach of what is brought and of what is made."""
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(made(stack.enter_context(openstack.running())))
        project = world.project('benchmark')
        network = world.network(project, cidr='10.50.0.0/20')
        host = Host(world, folder, neutron={'endpoint_override': world.cloud.neutron_url})
        bare, ours = Bare(world, project, network), Ours(host, project)
        few, many, busy = (host.server(project).id for _ in range(3))
        shown = world.port(project, network, device_id=few, device_owner='compute:az1')
        for _ in range(PORTS):
            world.port(project, network, device_id=many, device_owner='compute:az1')
        theirs, mine = (world.port(project, network) for _ in range(2))
        yield Case('Neutron: list, 1 port', lambda: bare.list(few), lambda: ours.list(few), 1.1, 4)
        yield Case('Neutron: list, 100 ports', lambda: bare.list(many), lambda: ours.list(many), 1.1, 8)
        yield Case('Neutron: show', lambda: bare.show(shown), lambda: ours.show(few, shown), 1.1, 4)
        yield Case(
            'Neutron: attach + detach of a port',
            lambda: bare.port_there_and_back(busy, theirs),
            lambda: ours.there_and_back(busy, port_id=mine),
            1.25,
            12,
        )
        yield Case(
            'Neutron: attach + detach of a network',
            lambda: bare.network_there_and_back(busy),
            lambda: ours.there_and_back(busy, net_id=network),
            1.25,
            12,
        )
