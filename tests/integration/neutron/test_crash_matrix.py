"""SIGKILL before and after every commit, side effect and request to Neutron: no port is left behind or lost.

The requests are cut where a network has them: the process dies before its n-th request has reached Neutron, or
when Neutron has done what a writing one asks and its answer is on the way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from os_interface_ext.inventory import loader
from tests.integration import crash, load, matrix
from tests.services import http_proxy
from tests.services.http_proxy import Passing

from .conftest import HOST, Project, World, write

pytestmark = pytest.mark.service

OWNER = 'compute:az1'
BIND_FAILS = ('after bind:raise=BindingFailed',)
SCENARIOS = [
    *matrix.SCENARIOS,
    matrix.Scenario('undo: bind fails, created', 'attach', matrix.BY_NETWORK, faults=BIND_FAILS),
    matrix.Scenario('undo: bind fails, brought', 'attach', matrix.BY_PORT, faults=BIND_FAILS),
    matrix.Scenario('undo: bind unknown', 'attach', matrix.BY_PORT, faults=('after bind:unknown',)),
    matrix.Scenario(
        'reconciler, create lost', 'reconcile', prepare=matrix.BY_NETWORK, prepare_faults=('after create:kill',)
    ),
    matrix.Scenario(
        'reconciler, claim lost', 'reconcile', prepare=matrix.BY_PORT, prepare_faults=('after claim:kill',)
    ),
]


@dataclasses.dataclass(frozen=True)
class Port(matrix.Port):
    """As Neutron has it."""

    owner: str
    vif_type: str


class NeutronWorld(matrix.World):
    """Ports of a project of a real Neutron; servers of the embedded inventory, in SQLite."""

    repeats_always = load.SCALE >= 1
    _ELSEWHERE = ('commit', 'plug', 'unplug')

    def __init__(
        self,
        neutron: World,
        project: Project,
        things: matrix.Things,
        place: crash.Place,
        zygote: crash.Zygote,
        share: slice,
    ) -> None:
        super().__init__(place, things, zygote)
        self._neutron = neutron
        self._project = project
        self._share = share
        self._pristine: dict[str, matrix.Port] = {}
        inventory = {
            'servers': [
                {'id': place.server_id, 'project_id': project.id, 'host': HOST, 'availability_zone': 'az1'}
            ]
        }
        with self.parts.database.write() as connection:
            loader.load(connection, loader.parse(json.dumps(inventory), 'inventory'))

    def restore(self) -> dict[str, matrix.Port]:
        there = self.ports()
        if there == self._pristine:
            return there
        for port_id, port in there.items():
            device = self._place.server_id if port_id == self.things.booted else ''
            if port_id not in (self.things.brought, self.things.booted):
                self._neutron.neutron('DELETE', f'/ports/{port_id}')
            elif port.device_id != device:
                self._neutron.neutron('PUT', f'/ports/{port_id}', {'port': attached_to(device)})
        self._pristine = self.ports()
        return self._pristine

    def ports(self) -> dict[str, matrix.Port]:
        found: dict[str, matrix.Port] = {}
        for body in self._neutron.ports(project_id=self._project.id):
            port = Port(
                device_id=body['device_id'],
                host=body['binding:host_id'],
                status=body['status'],
                mark=next((tag for tag in [*body['tags'], body['description']] if tag.count(':') == 2), None),
                addresses=frozenset(one['ip_address'] for one in body['fixed_ips']),
                owner=body['device_owner'],
                vif_type=body['binding:vif_type'],
            )
            has = (port.host, port.owner, port.vif_type, port.status)
            # Of a port that is no server's nothing is left.
            wanted = (HOST, OWNER, 'ovs', 'ACTIVE') if port.device_id else ('', '', 'unbound', 'DOWN')
            assert has == wanted, f'port {body["id"]} of {port.device_id or "nobody"} has {has}'
            found[body['id']] = port
        return found

    # ------------------------------------------------------------------ requests to Neutron

    def dry_run(self, scenario: matrix.Scenario) -> tuple[crash.Outcome, list[str]]:
        arguments = self.prepare(scenario)
        self._neutron.proxy.clear()
        outcome = self.run(scenario.operation, arguments, *scenario.faults)
        requests = enumerate(self._neutron.proxy.passed, start=1)
        if load.SCALE >= 1:
            points = matrix.numbered(point for point in outcome.passed if point.split()[1] in matrix.EFFECTS)
        else:
            # The calls of the network driver begin and end with their requests; the modes share the rest.
            rest = matrix.numbered(point for point in outcome.passed if point.split()[1] in self._ELSEWHERE)
            points = rest[self._share] if makes_a_port(scenario) else rest
        for number, passing in requests:
            if load.SCALE >= 1 or passing.method != 'GET':
                points.append(f'before request {number}: {_kind(passing)}')
            if passing.method != 'GET':
                points.append(f'after request {number}: {_kind(passing)}')
        return outcome, points

    def run_killed(self, point: str, scenario: matrix.Scenario, arguments: dict[str, Any]) -> crash.Outcome:
        when, what, *rest = point.split()
        if what != 'request':
            return super().run_killed(point, scenario, arguments)
        number = int(rest[0].rstrip(':'))
        passed = self._neutron.proxy.passed
        passed.clear()
        trouble = self._cut_off if when == 'before' else http_proxy.after_it(lambda passing: self._zygote.kill())
        with self._neutron.proxy.trouble(trouble, lambda passing: len(passed) == number):
            return self.run(scenario.operation, arguments, *scenario.faults)

    def _cut_off(self, handler: Any, passing: Passing) -> bool:
        self._zygote.kill()
        return http_proxy.refuse(handler, passing)


def _kind(passing: Passing) -> str:
    return f'{passing.method} {passing.path.split("?")[0].split("/")[2]}'


def attached_to(server_id: str) -> dict[str, str]:
    """What Neutron shows of a port of a server, or of nobody's."""
    return {
        'device_id': server_id,
        'device_owner': OWNER if server_id else '',
        'binding:host_id': HOST if server_id else '',
    }


# ---------------------------------------------------------------------- the mark: a tag, or the description

MODES: dict[str, Callable[[World], contextlib.AbstractContextManager[None]]] = {
    'tags': lambda neutron: contextlib.nullcontext(),
    'descriptions': lambda neutron: neutron.without_tags(),
}


def makes_a_port(scenario: matrix.Scenario) -> bool:
    return matrix.BY_NETWORK.items() <= (scenario.prepare or scenario.arguments).items()


#: Where no port is made there is no mark.
CASES = [
    (mode, scenario)
    for mode in MODES
    for scenario in SCENARIOS
    if mode == 'tags' or load.SCALE >= 1 or makes_a_port(scenario)
]


# ---------------------------------------------------------------------- the matrix


@pytest.fixture(scope='module')
def zygote() -> Iterator[crash.Zygote]:
    with crash.running() as started:
        yield started


@pytest.fixture(scope='module')
def table(request: pytest.FixtureRequest) -> Iterator[matrix.Table]:
    with matrix.printed(request.config) as results:
        yield results


@pytest.fixture(scope='module')
def mode(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    with MODES[request.param](world):
        yield request.param


@pytest.fixture(scope='module')
def killed(
    world: World, mode: str, tmp_path_factory: pytest.TempPathFactory, zygote: crash.Zygote
) -> Iterator[NeutronWorld]:
    home = tmp_path_factory.mktemp('crash')
    # One of its own, so that no other port is in the way.
    project = world.project(f'crash-{mode}')
    network = world.network(project, cidr='10.45.0.0/24')
    server_id = str(uuid.uuid4())
    things = matrix.Things(
        network=network,
        brought=world.port(project, network),
        booted=world.port(project, network, **attached_to(server_id)),
        address='10.45.0.77',
    )
    share = slice(list(MODES).index(mode), None, 2)
    yield made(world, project, things, server_id, home, zygote, share)
    for port in world.ports(project_id=project.id):
        world.neutron('DELETE', f'/ports/{port["id"]}')


def made(
    world: World,
    project: Project,
    things: matrix.Things,
    server_id: str,
    home: pathlib.Path,
    zygote: crash.Zygote,
    share: slice,
) -> NeutronWorld:
    groups = {
        'neutron': {
            # A token that is there: that every process authenticates itself would be most of the time.
            'auth_type': 'admin_token',
            'token': world.cloud.token('osif'),
            'endpoint': world.proxy.url,
            'endpoint_override': world.proxy.url,
        },
        'os_interface': {'network_driver': 'neutron'},
    }
    place = crash.Place(
        url=f'sqlite:///{home}/osif.sqlite',
        nics=str(home),
        project_id=project.id,
        server_id=server_id,
        files=(write(home, groups),),
        token=world.token(project),
    )
    return NeutronWorld(world, project, things, place, zygote, share)


@pytest.mark.parametrize(
    ('mode', 'scenario'), CASES, indirect=['mode'], ids=lambda it: it if isinstance(it, str) else it.name
)
def test_killed_at_every_point(
    killed: NeutronWorld, scenario: matrix.Scenario, table: matrix.Table, mode: str
) -> None:
    matrix.go_through(killed, scenario, table, mode)
