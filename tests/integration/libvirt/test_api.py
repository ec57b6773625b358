"""Through the API: servers are domains that run Linux, ports are those of the embedded inventory."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import webtest

from os_interface_ext import exceptions
from os_interface_ext.cmd import main
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.standalone import app as standalone
from os_interface_ext.testing import contract
from tests.integration.conftest import Start, environment, wait_until
from tests.integration.vifs import namespaces
from tests.integration.vifs.plugging import plug, unplug
from tests.integration.vifs.stopwatch import Stopwatch
from tests.services.libvirt import proxy
from tests.services.libvirt.hypervisor import GATEWAY, LINUX_BRIDGE, PREFIX

from .conftest import MTU, NETWORK, OTHER_PROJECT, PROJECT, Machine, foreign, make_port

pytestmark = pytest.mark.service

TOKENS = {PROJECT: 'a-member', OTHER_PROJECT: 'a-stranger'}
SUBNET = '1f5d3b37-2f0a-4e08-9a5a-0e5d3d4e9a01'
CYCLES = 20
BY_NETWORK = {'interfaceAttachment': {'net_id': NETWORK}}


class Cloud:
    """The standalone controller in this process, and a reconciler that looks when it is told to."""

    def __init__(self, conf: Any) -> None:
        self.database = Database.of(conf)
        schema.upgrade(self.database)
        with self.database.write() as connection:
            loader.load(connection, loader.parse(json.dumps(inventory()), 'inventory'))
        extension = Extension(conf)
        self.parts = extension.parts
        self._application = webtest.TestApp(standalone.create(conf, extension=extension))

    def call(
        self, method: str, server: base.Server, port_id: str = '', body: Any = None, status: int = 200
    ) -> Any:
        """A request, and what is attached according to its answer."""
        path = f'/v2.1/servers/{server.id}/os-interface' + (f'/{port_id}' if port_id else '')
        more: dict[str, Any] = {} if body is None else {'body': json.dumps(body).encode()}
        answer = self._application.request(
            path,
            method=method,
            headers={'X-Auth-Token': TOKENS[PROJECT], 'OpenStack-API-Version': 'compute 2.70'},
            content_type='application/json',
            status=status,
            **more,
        )
        return answer.json.get('interfaceAttachment') if answer.body else None

    def attach(self, server: base.Server) -> dict[str, Any]:
        attached: dict[str, Any] = self.call('POST', server, body=BY_NETWORK)
        return attached

    def detach(self, server: base.Server, port_id: str) -> None:
        self.call('DELETE', server, port_id, status=202)

    def is_listed(self, server: base.Server, port_id: str) -> bool:
        """Whether the API shows it, in the list and by itself."""
        path = f'/v2.1/servers/{server.id}/os-interface'
        headers = {'X-Auth-Token': TOKENS[PROJECT]}
        found = {}

        def agrees() -> bool:
            listed = self._application.get(path, headers=headers).json['interfaceAttachments']
            found['listed'] = port_id in {one['port_id'] for one in listed}
            shown = self._application.get(f'{path}/{port_id}', headers=headers, status='*').status_int
            return bool(shown == (200 if found['listed'] else 404))

        # A reconciler may be done with it between the two looks.
        wait_until(agrees)
        return found['listed']

    def carry_on(self) -> None:
        self.parts.reconciler.carry_on()


def inventory() -> dict[str, Any]:
    """Its server is nobody's: the domains are the servers."""
    return {
        'servers': [{'id': str(uuid.uuid4()), 'name': 'none', 'project_id': PROJECT}],
        'callers': [
            {'token': token, 'user_id': token, 'project_id': project, 'roles': ['member', 'reader']}
            for project, token in TOKENS.items()
        ],
        'networks': [
            {
                'id': NETWORK,
                'name': 'private',
                'project_id': PROJECT,
                'mtu': MTU,
                'subnets': [{'id': SUBNET, 'cidr': f'10.34.0.0/{PREFIX}', 'gateway_ip': GATEWAY}],
            }
        ],
    }


def groups(path: pathlib.Path) -> dict[str, Any]:
    return {
        'database': {'connection': f'sqlite:///{path}/osif.sqlite'},
        'os_interface': {'server_driver': 'libvirt', 'vif_driver': 'libvirt'},
        'reconciler': {'backoff': 0.01, 'backoff_cap': 0.01, 'stuck_attempts': 3},
    }


@pytest.fixture
def cloud_of(machine: Machine, tmp_path: pathlib.Path) -> Iterator[Callable[..., Cloud]]:
    """Makes the controller, with more options of the group [libvirt]; it takes out what is left at the end."""
    made: list[Cloud] = []

    def make(**options: Any) -> Cloud:
        machine.options |= {'unplug_wait': 0.3, **options}
        made.append(Cloud(machine.conf(**groups(tmp_path))))
        return made[0]

    yield make
    for cloud in made:
        cloud.database.dispose()


# ---------------------------------------------------------------------- a guest that runs


def test_the_guest_has_it_until_it_is_gone_from_everywhere(
    machine: Machine, cloud_of: Callable[..., Cloud]
) -> None:
    cloud, (server, _) = cloud_of(unplug_wait=10.0), machine.servers
    attached = cloud.attach(server)
    port_id, mac = attached['port_id'], attached['mac_addr']
    address = attached['fixed_ips'][0]['ip_address']
    assert machine.everywhere(server) == [port_id]
    assert machine.hypervisor.taps() == {f'tap{port_id[:11]}'}
    guest = machine.guest(server)
    name, mtu = guest.wait_for(mac)[mac]
    assert mtu == MTU
    guest.run(f'ip address add {address}/{PREFIX} dev {name}; ip link set {name} up')
    assert guest.pings(GATEWAY)
    assert namespaces.pings(machine.hypervisor.namespace, address)
    cloud.detach(server, port_id)
    # Once it is not shown, it is nowhere; nothing is waited for.
    assert not cloud.is_listed(server, port_id)
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()
    assert guest.nics() == {}
    assert not namespaces.pings(machine.hypervisor.namespace, address, patience=0.3)


def test_a_server_of_another_project_is_not_found(machine: Machine, cloud_of: Callable[..., Cloud]) -> None:
    cloud = cloud_of()
    cloud.call('GET', machine.servers[0])
    cloud.call('GET', machine.servers[1], status=404)
    cloud.call('POST', machine.servers[1], body=BY_NETWORK, status=404)


def test_a_tag_is_refused(machine: Machine, cloud_of: Callable[..., Cloud]) -> None:
    tagged = {'interfaceAttachment': {'net_id': NETWORK, 'tag': 'nic'}}
    cloud_of().call('POST', machine.servers[0], body=tagged, status=400)
    assert machine.everywhere(machine.servers[0]) == []


def test_what_cannot_be_plugged_is_undone(machine: Machine, cloud_of: Callable[..., Cloud]) -> None:
    cloud, (server, _) = cloud_of(linux_bridges={'*': 'br-nowhere'}), machine.servers
    cloud.call('POST', server, body=BY_NETWORK, status=500)
    assert machine.everywhere(server) == []
    assert cloud.parts.store.of_server(server.id) == []


def test_a_port_that_somebody_else_has_plugged_is_free_again(
    machine: Machine, cloud_of: Callable[..., Cloud]
) -> None:
    """Neither the NIC nor the port is held up by an attach that had to fail."""
    cloud, (server, _) = cloud_of(), machine.servers
    network, ctxt, fence = cloud.parts.drivers.network, contract.member(server), contract.fence()
    port = network.create(ctxt, server, base.PortRequest(NETWORK), 'a-mark', fence)
    network.unbind(ctxt, port.id, server.id, fence)
    foreign(machine, server, f"<mac address='{port.mac_address}'/><target dev='tap{port.id[:11]}'/>")
    cloud.call('POST', server, body={'interfaceAttachment': {'port_id': port.id}}, status=500)
    assert cloud.parts.store.of_server(server.id) == []
    assert not network.get_port(ctxt, port.id).device_id
    assert len(machine.hypervisor.nics(server.id, live=True)) == 1


# ---------------------------------------------------------------------- guests that do not answer


def test_a_paused_guest(machine: Machine, cloud_of: Callable[..., Cloud]) -> None:
    cloud, (server, _) = cloud_of(), machine.servers
    attached = cloud.attach(server)
    port_id = attached['port_id']
    machine.guest(server).wait_for(attached['mac_addr'])
    machine.domain(server).suspend()
    for _ in range(2):
        cloud.detach(server, port_id)
        assert cloud.is_listed(server, port_id)
        cloud.carry_on()
        assert cloud.is_listed(server, port_id)
        assert machine.nics(server, live=True) == [port_id]
    # The port is nobody else's meanwhile.
    assert cloud.parts.drivers.network.get_port(contract.member(server), port_id).device_id == server.id
    machine.domain(server).resume()
    wait_until(lambda: (cloud.carry_on() or True) and not cloud.is_listed(server, port_id))
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()
    assert machine.guest(server).nics() == {}


def test_a_guest_without_an_operating_system(
    machine: Machine,
    cloud_of: Callable[..., Cloud],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
) -> None:
    cloud = cloud_of()
    with machine.defined(boots=False, runs=True) as server:
        port_id = cloud.attach(server)['port_id']
        cloud.detach(server, port_id)
        assert machine.nics(server, live=True) == [port_id]
        for _ in range(3):
            time.sleep(0.02)
            cloud.carry_on()
        assert cloud.is_listed(server, port_id)
        (record,) = cloud.parts.store.of_server(server.id)
        assert record.attempts >= 3
        assert record.last_error is not None
        assert record.last_error.startswith('InProgress: ')
        warnings = [message for message in caplog.messages if 'is stuck in' in message]
        assert len(warnings) == 1
        assert port_id in warnings[0]
        (tmp_path / 'osif.conf').write_text('[reconciler]\nstuck_attempts = 3\n')
        where = ['--config-file', str(tmp_path / 'osif.conf'), '--database', str(cloud.database.url)]
        assert main.main(['attachments', 'list', '--stuck', *where]) == 0
        assert port_id in capsys.readouterr().out
        machine.domain(server).reset()
        wait_until(lambda: (cloud.carry_on() or True) and not cloud.is_listed(server, port_id))
        assert machine.everywhere(server) == []
        assert machine.hypervisor.taps() == set()


# ---------------------------------------------------------------------- a libvirtd that dies


@pytest.mark.parametrize('at_reply', [False, True], ids=['before it plugs', 'after it has plugged'])
def test_killed_in_the_middle_of_an_attach(
    machine: Machine, cloud_of: Callable[..., Cloud], at_reply: bool
) -> None:
    cloud, (server, _) = cloud_of(), machine.servers
    with machine.killed_at(proxy.ATTACH, at_reply=at_reply):
        cloud.call('POST', server, body=BY_NETWORK, status=503)
    # Neither is the server to be looked up, nor is anything forgotten.
    cloud.call('GET', server, status=503)
    (record,) = cloud.parts.store.of_server(server.id)
    with contextlib.suppress(exceptions.Unavailable):
        cloud.carry_on()
    machine.hypervisor.start()
    assert machine.everywhere(server) == ([record.port_id] if at_reply else [])
    wait_until(lambda: (cloud.carry_on() or True) and not cloud.parts.store.of_server(server.id))
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()
    attached = cloud.attach(server)
    machine.guest(server).wait_for(attached['mac_addr'])
    cloud.detach(server, attached['port_id'])


@pytest.mark.parametrize('at_reply', [False, True], ids=['before it is asked', 'after it was asked'])
def test_killed_in_the_middle_of_a_detach(
    machine: Machine, cloud_of: Callable[..., Cloud], at_reply: bool
) -> None:
    cloud, (server, _) = cloud_of(), machine.servers
    port_id = cloud.attach(server)['port_id']
    machine.domain(server).suspend()
    with machine.killed_at(proxy.DETACH, at_reply=at_reply):
        cloud.detach(server, port_id)
    machine.hypervisor.start()
    assert cloud.is_listed(server, port_id)
    assert machine.nics(server, live=True) == [port_id]
    machine.domain(server).resume()
    wait_until(lambda: (cloud.carry_on() or True) and not cloud.is_listed(server, port_id))
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()


# ---------------------------------------------------------------------- processes of ours


def test_with_serve(
    machine: Machine, start: Start, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers with event loops of their own, and the reconciler in one of them."""
    if machine.hypervisor.python_path:
        monkeypatch.setenv('PYTHONPATH', machine.hypervisor.python_path)
    (tmp_path / 'inventory.yaml').write_text(json.dumps(inventory()))
    (tmp_path / 'osif.conf').write_text(
        '[os_interface]\nserver_driver = libvirt\nvif_driver = libvirt\n'
        f'[libvirt]\nuri = {machine.hypervisor.uri}\nlinux_bridges = {NETWORK}:{LINUX_BRIDGE}\nunplug_wait = 0.5\n'
        '[reconciler]\ninterval = 0.1\nbackoff = 0.1\n'
    )
    where = ['--database', f'sqlite:///{tmp_path}/osif.sqlite', '--inventory', str(tmp_path / 'inventory.yaml')]
    service = start('--config-file', str(tmp_path / 'osif.conf'), '--workers', '2', *where)
    server, guest = machine.servers[0], machine.guest(machine.servers[0])
    path, token = f'/v2.1/servers/{server.id}/os-interface', TOKENS[PROJECT]

    def attach() -> dict[str, Any]:
        answer = service.call('POST', path, token, BY_NETWORK)
        assert answer.status == 200, answer.body
        attachment: dict[str, Any] = answer.body['interfaceAttachment']
        return attachment

    def detach(port_id: str) -> int:
        assert service.call('DELETE', f'{path}/{port_id}', token).status == 202
        return service.call('GET', f'{path}/{port_id}', token).status

    for _ in range(3):
        attached = attach()
        guest.wait_for(attached['mac_addr'])
        assert detach(attached['port_id']) == 404
        assert machine.everywhere(server) == []
    attached = attach()
    guest.wait_for(attached['mac_addr'])
    machine.domain(server).suspend()
    assert detach(attached['port_id']) == 200
    with machine.hypervisor.away():
        assert service.call('GET', path, token).status == 503
    machine.domain(server).resume()
    wait_until(lambda: service.call('GET', f'{path}/{attached["port_id"]}', token).status == 404)
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()
    assert service.stop() == 0
    assert 'Traceback' not in (tmp_path / 'serve.log').read_text()


def test_the_reconciler_in_a_process_of_its_own(
    machine: Machine, cloud_of: Callable[..., Cloud], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if machine.hypervisor.python_path:
        monkeypatch.setenv('PYTHONPATH', machine.hypervisor.python_path)
    cloud, (server, _) = cloud_of(), machine.servers
    attached = cloud.attach(server)
    machine.guest(server).wait_for(attached['mac_addr'])
    machine.domain(server).suspend()
    cloud.detach(server, attached['port_id'])
    (tmp_path / 'osif.conf').write_text(
        '[os_interface]\nserver_driver = libvirt\nvif_driver = libvirt\n'
        f'[libvirt]\nuri = {machine.hypervisor.uri}\nunplug_wait = 0.5\n'
        '[reconciler]\ninterval = 0.1\nbackoff = 0.1\nbackoff_cap = 0.1\n'
    )
    command = [
        sys.executable,
        '-m',
        'os_interface_ext.cmd.reconciler',
        '--config-file',
        str(tmp_path / 'osif.conf'),
    ]
    with (tmp_path / 'reconciler.log').open('w') as log:
        process = subprocess.Popen(
            [*command, '--database', str(cloud.database.url)], env=environment(tmp_path), cwd=tmp_path, stderr=log
        )
    try:
        # It has looked at it, in vain, before the guest goes on.
        wait_until(lambda: cloud.parts.store.of_server(server.id)[0].attempts >= 2)
        machine.domain(server).resume()
        wait_until(lambda: not cloud.is_listed(server, attached['port_id']))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert 'Traceback' not in (tmp_path / 'reconciler.log').read_text()
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()


# ---------------------------------------------------------------------- figures


def test_cycles(machine: Machine, cloud_of: Callable[..., Cloud], request: pytest.FixtureRequest) -> None:
    """Each leaves nothing; how long they take is told, not judged."""
    cloud, (server, _) = cloud_of(unplug_wait=10.0), machine.servers
    guest, stopwatch = machine.guest(server), Stopwatch()
    timed = stopwatch.timed
    drivers = {'': machine.driver(), ' with events': machine.driver(is_own_process=True)}
    for number in range(CYCLES):
        which, driver = list(drivers.items())[number % 2]
        port = make_port(server)
        with timed(f'plug{which}'):
            plug(driver, server, port)
        with timed('plug again'):
            plug(driver, server, port)
        guest.wait_for(port.mac_address)
        with timed(f'unplug{which}'):
            unplug(driver, server, port.id)
        with timed('POST'):
            attached = cloud.attach(server)
        guest.wait_for(attached['mac_addr'])
        with timed('DELETE'):
            cloud.detach(server, attached['port_id'])
        assert machine.everywhere(server) == []
        assert machine.hypervisor.taps() == set()
        assert guest.nics() == {}
    stopwatch.show(request, 'libvirt')
