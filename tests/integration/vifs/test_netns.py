"""The VIF driver `netns` on real namespaces: servers and the host itself are namespaces that the tests make."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import fcntl
import itertools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import pytest
import webtest
from pyroute2.netlink.exceptions import NetlinkError

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.context import service_context
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base, links
from os_interface_ext.drivers.vifs import netns
from os_interface_ext.inventory import loader
from os_interface_ext.standalone import app as standalone
from os_interface_ext.testing import contract, vifs
from os_interface_ext.testing.faults import Faults, kill
from tests.integration import matrix, test_crash_matrix
from tests.integration.conftest import Start
from tests.integration.vifs import namespaces, plugging, zygote
from tests.integration.vifs.plugging import plug, unplug
from tests.integration.vifs.stopwatch import Stopwatch

pytestmark = pytest.mark.service

CYCLES = 100
TOKEN = 'a-member'
PROJECT = 'project-a'
NETWORK = '5bcc01ca-7e46-427a-9fdf-042bd9b0125c'
MTU = 1420


@pytest.fixture(scope='module', autouse=True)
def _possible() -> None:
    namespaces.require()


@dataclasses.dataclass
class Machine:
    """A host with two servers: three namespaces of this test's own."""

    host: str
    servers: tuple[base.Server, base.Server]
    options: dict[str, str]

    def driver(self) -> netns.NetnsVIFDriver:
        return netns.NetnsVIFDriver(self.conf())

    def conf(self, **groups: Any) -> Any:
        conf = config.new([], **groups)
        netns.options.register_opts(conf)
        for name, value in self.options.items():
            conf.set_override(name, value, group=netns.GROUP)
        return conf

    def links(self) -> list[str]:
        """What there is, but for what every namespace has."""
        names = [self.host, *(server.id for server in self.servers)]
        return [link['ifname'] for name in names for link in namespaces.links(name)]


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    host = f'osif-host-{uuid.uuid4().hex[:8]}'
    first, second = (base.Server(str(uuid.uuid4()), PROJECT, host='host-1') for _ in range(2))
    with namespaces.made(host, first.id, second.id):
        options = {'host_namespace': host, 'lock_path': str(tmp_path / 'lock')}
        yield Machine(host, (first, second), options)


make_port = plugging.makes_ports('10.31.0.0/16', 'fd31::/64', network_id=NETWORK, mtu=MTU)


# ---------------------------------------------------------------------- the contract


@contextlib.contextmanager
def without_files() -> Iterator[None]:
    """The process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def failing_afterwards() -> Iterator[None]:
    """The kernel does each thing that it is asked, and is then out of buffers for the answer."""
    real = links.Links.change

    def change(self: Any, command: str, **attributes: Any) -> None:
        real(self, command, **attributes)
        raise NetlinkError(errno.ENOBUFS)

    with mock.patch.object(links.Links, 'change', change):
        yield


class TestContract(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self, machine: Machine) -> vifs.VIFBackend:
        return vifs.VIFBackend(
            driver=machine.driver(),
            server=machine.servers[0],
            other_server=machine.servers[1],
            make_port=make_port,
            nics=lambda server: namespaces.ports(server.id),
            # Its kernel takes the rest, but no address on a link of so few bytes.
            make_port_without_use=lambda server: make_port(server, mtu=300),
            unreachable=without_files,
            answers_lost=failing_afterwards,
        )


# ---------------------------------------------------------------------- what a plug makes


def test_both_ends_are_as_the_port_says(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    (inner,) = namespaces.links(server.id)
    assert (inner['ifname'], inner['address'], inner['mtu']) == ('eth0', port.mac_address, MTU)
    assert namespaces.is_up(inner)
    assert namespaces.addresses(inner) == {f'{ip.ip_address}/{ip.prefix_length}' for ip in port.fixed_ips}
    assert told == {'host_interface': told['host_interface'], 'interface': 'eth0'}
    by_name = {link['ifname']: link for link in namespaces.links(machine.host)}
    assert len(by_name) == 2
    end = by_name.pop(told['host_interface'])
    (bridge,) = by_name.values()
    assert (end['mtu'], end['master']) == (MTU, bridge['ifname'])
    assert namespaces.is_up(end)
    assert end['ifalias'] == f'osif:{port.id}:{server.id}'
    assert bridge['ifalias'] == f'osif-network:{NETWORK}'
    # The host is nobody on the network of the servers.
    assert bridge['addr_info'] == end['addr_info'] == []


def test_the_installation_is_in_the_alias_of_the_hosts_end(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    # As an earlier version has plugged it.
    name = plug(driver, server, port)['host_interface']
    before = {link['ifname']: link for link in namespaces.links(machine.host)}[name]
    fence = dataclasses.replace(contract.fence(), installation='an-installation')
    driver.plug(contract.member(server), server, port, fence)
    after = {link['ifname']: link for link in namespaces.links(machine.host)}[name]
    assert (before['ifalias'], after['ifalias']) == (
        f'osif:{port.id}:{server.id}',
        f'osif:{port.id}:{server.id}#an-installation',
    )
    assert after == before | {'ifalias': after['ifalias']}
    unplug(driver, server, port.id)
    assert machine.links() == []


def test_without_prefixes_those_of_the_options_are_taken(machine: Machine) -> None:
    machine.options |= {'prefix_v4': '25', 'prefix_v6': '80'}
    server = machine.servers[0]
    fixed_ips = (base.FixedIP('v4', '10.32.0.5'), base.FixedIP('v6', 'fd32::5'))
    plug(machine.driver(), server, make_port(server, fixed_ips=fixed_ips))
    assert namespaces.addresses(namespaces.links(server.id)[0]) == {'10.32.0.5/25', 'fd32::5/80'}


def test_names_that_are_taken_are_not_used(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    subprocess.run(['ip', '-n', server.id, 'link', 'add', 'eth0', 'type', 'dummy'], check=False)
    subprocess.run(['ip', '-n', server.id, 'link', 'add', 'eth1', 'type', 'bridge'], check=True)
    taken = {link['ifname'] for link in namespaces.links(server.id)}
    ports = [make_port(server) for _ in range(2)]
    names = {plug(driver, server, port)['interface'] for port in ports}
    assert len(names) == 2
    assert not names & taken
    for port in ports:
        unplug(driver, server, port.id)
    assert {link['ifname'] for link in namespaces.links(server.id)} == taken


def test_links_of_others_are_left_alone(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    name = plug(driver, server, port)['host_interface']
    bridge = next(link['ifname'] for link in namespaces.links(machine.host) if link['ifname'] != name)
    unplug(driver, server, port.id)
    for taken in (name, bridge):
        subprocess.run(['ip', '-n', machine.host, 'link', 'add', taken, 'type', 'bridge'], check=True)
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, port)
        unplug(driver, server, port.id)
        assert machine.links() == [taken]
        subprocess.run(['ip', '-n', machine.host, 'link', 'del', taken], check=True)


def test_a_port_that_another_server_has_by_mistake(machine: Machine) -> None:
    """Never two NICs with one MAC address: who is told to plug has the port now."""
    driver, (first, second) = machine.driver(), machine.servers
    port = make_port(first)
    plug(driver, first, port)
    plug(driver, second, port)
    assert namespaces.links(first.id) == []
    assert namespaces.ports(second.id) == [port.id]
    unplug(driver, first, port.id)
    assert namespaces.ports(second.id) == [port.id]
    unplug(driver, second, port.id)
    assert machine.links() == []


@pytest.mark.parametrize('again', ['plug', 'unplug'])
def test_ends_that_somebody_has_renamed(machine: Machine, again: str) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    for name, end, new in (
        (machine.host, told['host_interface'], 'renamed-0'),
        (server.id, told['interface'], 'renamed-1'),
    ):
        subprocess.run(['ip', '-n', name, 'link', 'set', end, 'down'], check=True)
        subprocess.run(['ip', '-n', name, 'link', 'set', end, 'name', new], check=True)
    if again == 'plug':
        plug(driver, server, port)
        assert namespaces.ports(server.id) == [port.id]
        assert 'renamed-0' not in machine.links()
    unplug(driver, server, port.id)
    assert machine.links() == []


def test_what_somebody_has_changed_is_mended(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    before = namespaces.links(server.id)
    for name, change in (
        (machine.host, [told['host_interface'], 'nomaster']),
        (machine.host, [told['host_interface'], 'down']),
        (server.id, [told['interface'], 'mtu', '1400', 'address', 'fa:16:3e:ff:ff:ff']),
    ):
        subprocess.run(['ip', '-n', name, 'link', 'set', *change], check=True)
    subprocess.run(['ip', '-n', server.id, 'address', 'flush', 'dev', told['interface']], check=True)
    assert plug(driver, server, port) == told
    (inner,) = namespaces.links(server.id)
    assert namespaces.addresses(inner) == namespaces.addresses(before[0])
    assert [inner[key] for key in ('ifindex', 'address', 'mtu')] == [
        before[0][key] for key in ('ifindex', 'address', 'mtu')
    ]
    unplug(driver, server, port.id)
    assert machine.links() == []


def test_a_bridge_with_an_uplink_stays(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    end = plug(driver, server, port)['host_interface']
    bridge = next(link['ifname'] for link in namespaces.links(machine.host) if link['ifname'] != end)
    uplink = ['type', 'veth', 'peer', 'name', 'uplink-peer']
    subprocess.run(['ip', '-n', machine.host, 'link', 'add', 'uplink', 'master', bridge, *uplink], check=True)
    unplug(driver, server, port.id)
    assert set(machine.links()) == {bridge, 'uplink', 'uplink-peer'}


# ---------------------------------------------------------------------- namespaces that are not there


def test_a_server_without_a_namespace(machine: Machine) -> None:
    driver = machine.driver()
    for server_id in (str(uuid.uuid4()), '..', '../netns', f'../netns/{machine.servers[0].id}', 'a\0b', ''):
        server = base.Server(server_id, PROJECT)
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, make_port(server))
        assert driver.plugged(contract.member(server), server) == set()
        unplug(driver, server, str(uuid.uuid4()))
    assert machine.links() == []


def test_a_namespace_that_is_gone_leaves_nothing(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    ports = [make_port(server) for _ in range(2)]
    for port in ports:
        plug(driver, server, port)
    namespaces.remove(server.id)
    for port in ports:
        unplug(driver, server, port.id)
    assert driver.plugged(contract.member(server), server) == set()
    assert namespaces.links(machine.host) == []
    # What is there again under its name is another one.
    with namespaces.made(server.id):
        plug(driver, server, ports[0])
        assert namespaces.ports(server.id) == [ports[0].id]
        unplug(driver, server, ports[0].id)


def test_a_namespace_that_was_made_anew_gets_its_nic_again(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    with open(f'/run/netns/{server.id}'):
        # Somebody is still in the old one: the pair stays, and its other end is out of reach.
        namespaces.remove(server.id)
        with namespaces.made(server.id):
            plug(driver, server, port)
            assert namespaces.ports(server.id) == [port.id]
            assert len(namespaces.links(machine.host)) == 2
            unplug(driver, server, port.id)
    assert namespaces.links(machine.host) == []


def test_a_host_namespace_that_is_not_there(machine: Machine) -> None:
    machine.options['host_namespace'] = 'osif-nowhere'
    driver, (server, _) = machine.driver(), machine.servers
    with pytest.raises(exceptions.Unavailable):
        plug(driver, server, make_port(server))
    with pytest.raises(exceptions.Unavailable):
        unplug(driver, server, str(uuid.uuid4()))


def test_check_of_what_every_plug_needs(machine: Machine, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'file').touch()
    for host in ('osif-nowhere', str(tmp_path / 'file')):
        machine.options['host_namespace'] = host
        with pytest.raises(exceptions.Unavailable, match='host_namespace'):
            machine.driver().check(service_context())
    machine.options['host_namespace'] = machine.host
    for lock_path in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        machine.options['lock_path'] = str(lock_path)
        with pytest.raises(exceptions.Unavailable, match='lock_path'):
            machine.driver().check(service_context())
    machine.options['lock_path'] = str(tmp_path / 'lock' / 'below')
    machine.driver().check(service_context())
    assert not (tmp_path / 'lock').exists()
    (tmp_path / 'lock' / 'below' / 'netns.lock').mkdir(parents=True)
    with pytest.raises(exceptions.Unavailable, match='lock_path'):
        machine.driver().check(service_context())
    (tmp_path / 'lock' / 'below' / 'netns.lock').rmdir()
    server = machine.servers[0]
    plug(machine.driver(), server, make_port(server))
    machine.driver().check(service_context())


def test_a_lock_that_another_one_keeps(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    directory = pathlib.Path(machine.options['lock_path'])
    directory.mkdir()
    with open(directory / 'netns.lock', 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fence = base.Fence(1, time.monotonic() + 0.1)
        with pytest.raises(exceptions.DeadlinePassed):
            driver.plug(contract.member(server), server, make_port(server), fence)
    assert machine.links() == []


# ---------------------------------------------------------------------- killed between two requests


@pytest.mark.parametrize('again', ['plug', 'unplug'])
def test_killed_at_each_request_to_the_kernel(machine: Machine, again: str) -> None:
    """A first plug, which makes the bridge too, and a last unplug, which removes it."""
    driver, (server, _) = machine.driver(), machine.servers
    for operation in ('plug', 'unplug'):
        for number in itertools.count(1):
            port = make_port(server)
            if operation == 'unplug':
                plug(driver, server, port)
            died = _killed(driver, server, port, operation, number)
            if again == 'plug':
                plug(driver, server, port)
                (inner,) = namespaces.links(server.id)
                assert namespaces.ports(server.id) == [port.id]
                assert (inner['address'], inner['mtu']) == (port.mac_address, MTU)
                assert len(namespaces.addresses(inner)) == 2
                assert namespaces.is_up(inner)
                assert namespaces.come_up(machine.host)
                ends = namespaces.links(machine.host)
                assert all(link['ifalias'] for link in ends)
                assert all(link['addr_info'] == [] for link in ends)
            unplug(driver, server, port.id)
            assert machine.links() == []
            if not died:
                break
        assert number > (16 if operation == 'plug' else 4)


def _killed(driver: base.VIFDriver, server: base.Server, port: base.Port, operation: str, number: int) -> bool:
    """Have a process die at a point; whether there are so many."""
    child = os.fork()
    if child == 0:
        zygote.watch(_DiesAt(number))
        try:
            plug(driver, server, port) if operation == 'plug' else unplug(driver, server, port.id)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class _DiesAt(Faults):
    """Kills the process at the n-th point, whichever it is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def at(self, point: str) -> None:
        super().at(point)
        if len(self.passed) == self._number:
            kill()


# ---------------------------------------------------------------------- many at once

_MANY = """
import json, sys
from os_interface_ext.drivers import base, links
from os_interface_ext.drivers.vifs import netns
from os_interface_ext import conf as config
from os_interface_ext.testing import contract

options, server_id, ports, rounds = json.loads(sys.argv[1])
conf = config.new([])
driver = netns.NetnsVIFDriver(conf)
for name, value in options.items():
    conf.set_override(name, value, group='netns')
server = base.Server(server_id, 'project-a')
print('ready', flush=True)
sys.stdin.readline()
for _ in range(rounds):
    for network_id, port_id, mac, address in ports:
        port = base.Port(port_id, network_id, mac, 'project-a', (base.FixedIP('v4', address, 16),), mtu=1420)
        driver.plug(contract.member(server), server, port, contract.fence())
        driver.plug(contract.member(server), server, port, contract.fence())
        assert port_id in driver.plugged(contract.member(server), server)
    for _, port_id, _, _ in ports:
        driver.unplug(contract.member(server), server, port_id, {}, contract.fence())
driver.plug(contract.member(server), server, port, contract.fence())
print('done')
"""


def test_many_processes_on_one_network(machine: Machine) -> None:
    """The bridge comes and goes all the time; in the end each has one port in it, and they reach each other."""
    processes, last = [], []
    for number in range(4):
        server = machine.servers[number % 2]
        ports = [make_port(server) for _ in range(2)]
        last.append((server, ports[-1]))
        rows = [[NETWORK, port.id, port.mac_address, port.fixed_ips[0].ip_address] for port in ports]
        argument = json.dumps([machine.options, server.id, rows, 8])
        pipes: dict[str, Any] = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        processes.append(subprocess.Popen([sys.executable, '-c', _MANY, argument], **pipes))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
    for process in processes:
        out, _ = process.communicate('go\n', timeout=120)
        assert (process.returncode, out) == (0, 'done\n')
    for server in machine.servers:
        assert sorted(namespaces.ports(server.id)) == sorted(port.id for owner, port in last if owner == server)
    ends = [link for link in namespaces.links(machine.host) if link['ifname'].startswith('osv')]
    (bridge,) = (link for link in namespaces.links(machine.host) if link['ifname'].startswith('osb'))
    assert [end['master'] for end in ends] == [bridge['ifname']] * 4
    for (server, _), (_, peer) in itertools.pairwise(last):
        assert namespaces.pings(server.id, peer.fixed_ips[0].ip_address)
    for server, port in last:
        unplug(machine.driver(), server, port.id)
    assert machine.links() == []


def test_one_port_by_many_threads(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    answers = contract.at_once(*[lambda: plug(driver, server, port)] * 8)
    assert answers == [answers[0]] * 8
    assert isinstance(answers[0], dict)
    assert namespaces.ports(server.id) == [port.id]
    assert contract.at_once(*[lambda: unplug(driver, server, port.id)] * 8) == [None] * 8
    assert machine.links() == []


# ---------------------------------------------------------------------- through the API


def inventory(servers: Iterable[base.Server]) -> dict[str, Any]:
    """What the embedded cloud has, with these servers."""
    return {
        'callers': [
            {'token': TOKEN, 'user_id': 'user', 'project_id': PROJECT, 'roles': ['member', 'reader']},
        ],
        'networks': [
            {
                'id': NETWORK,
                'name': 'private',
                'project_id': PROJECT,
                'mtu': MTU,
                'subnets': [
                    {'id': test_crash_matrix.V4, 'cidr': '10.33.0.0/20', 'gateway_ip': '10.33.0.1'},
                    {'id': test_crash_matrix.V6, 'cidr': 'fd33::/80', 'gateway_ip': 'fd33::1'},
                ],
            }
        ],
        'servers': [
            {'id': server.id, 'name': server.name or 'web', 'project_id': PROJECT, 'host': server.host}
            for server in servers
        ],
    }


Call = Callable[..., Any]


@pytest.fixture
def call(machine: Machine, tmp_path: pathlib.Path) -> Iterator[Call]:
    """A request to the standalone controller, in this process; its answer."""
    conf = machine.conf(
        database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'}, os_interface={'vif_driver': 'netns'}
    )
    database = Database.of(conf)
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(json.dumps(inventory(machine.servers)), 'inventory'))
    application = webtest.TestApp(standalone.create(conf))

    def request(method: str, server: base.Server, port_id: str = '', body: Any = None, status: int = 200) -> Any:
        path = f'/v2.1/servers/{server.id}/os-interface' + (f'/{port_id}' if port_id else '')
        more: dict[str, Any] = {} if body is None else {'body': json.dumps(body).encode()}
        answer = application.request(
            path,
            method=method,
            headers={'X-Auth-Token': TOKEN, 'OpenStack-API-Version': 'compute 2.70'},
            content_type='application/json',
            status=status,
            **more,
        )
        return answer.json.get('interfaceAttachment') if answer.body else None

    # Whatever is done once.
    request('GET', machine.servers[0])
    yield request
    database.dispose()


BY_NETWORK = {'interfaceAttachment': {'net_id': NETWORK}}


def test_two_servers_reach_each_other_until_the_detach(machine: Machine, call: Call) -> None:
    first, second = machine.servers
    _reach_each_other(
        machine,
        {server.id: call('POST', server, body=BY_NETWORK) for server in machine.servers},
        lambda port_id: call('DELETE', second, port_id, status=202),
    )
    call('DELETE', first, namespaces.ports(first.id)[0], status=202)
    assert machine.links() == []


def _reach_each_other(
    machine: Machine, attached: dict[str, dict[str, Any]], detach: Callable[[str], object]
) -> None:
    """Two servers on a network: they do, and not after the second one's detach."""
    addresses = {server_id: [ip['ip_address'] for ip in one['fixed_ips']] for server_id, one in attached.items()}
    for server_id, attachment in attached.items():
        (inner,) = namespaces.links(server_id)
        assert (inner['address'], inner['mtu']) == (attachment['mac_addr'], MTU)
        v4, v6 = addresses[server_id]
        assert namespaces.addresses(inner) == {f'{v4}/20', f'{v6}/80'}
    first, second = (server.id for server in machine.servers)
    for one, other in ((first, second), (second, first)):
        for address in addresses[other]:
            assert namespaces.pings(one, address), f'{address} does not answer'
    detach(attached[second]['port_id'])
    assert namespaces.links(second) == []
    for address in addresses[second]:
        assert not namespaces.pings(first, address, patience=0.5)


def test_with_serve(machine: Machine, start: Start, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'inventory.yaml').write_text(json.dumps(inventory(machine.servers)))
    options = (f'{name} = {value}' for name, value in machine.options.items())
    lines = ['[os_interface]', 'vif_driver = netns', '[netns]', *options]
    (tmp_path / 'osif.conf').write_text('\n'.join(lines))
    where = ['--database', f'sqlite:///{tmp_path}/osif.sqlite', '--inventory', str(tmp_path / 'inventory.yaml')]
    service = start('--config-file', str(tmp_path / 'osif.conf'), '--workers', '2', *where)

    def attach(server: base.Server) -> dict[str, Any]:
        answer = service.call('POST', f'/v2.1/servers/{server.id}/os-interface', TOKEN, BY_NETWORK)
        assert answer.status == 200, answer.body
        attachment: dict[str, Any] = answer.body['interfaceAttachment']
        return attachment

    def detach(port_id: str, server: base.Server = machine.servers[1]) -> None:
        item = f'/v2.1/servers/{server.id}/os-interface/{port_id}'
        assert service.call('DELETE', item, TOKEN).status == 202
        assert service.call('GET', item, TOKEN).status == 404

    attached = {server.id: attach(server) for server in machine.servers}
    _reach_each_other(machine, attached, detach)
    detach(attached[machine.servers[0].id]['port_id'], machine.servers[0])
    assert machine.links() == []


def test_what_cannot_be_plugged_is_undone(machine: Machine, call: Call) -> None:
    first, _ = machine.servers
    tagged = {'interfaceAttachment': {'net_id': NETWORK, 'tag': 'nic'}}
    call('POST', first, body=tagged, status=400)
    namespaces.remove(first.id)
    call('POST', first, body=BY_NETWORK, status=500)
    assert namespaces.links(machine.host) == []


# ---------------------------------------------------------------------- nothing grows


def _held() -> dict[str, int]:
    """What this process has."""
    children = f'/proc/self/task/{os.getpid()}/children'
    return {
        'files': len(os.listdir('/proc/self/fd')),
        'threads': threading.active_count(),
        'processes': len(pathlib.Path(children).read_text().split()),
    }


def test_cycles_without_growth(machine: Machine, call: Call, request: pytest.FixtureRequest) -> None:
    driver, (server, other) = machine.driver(), machine.servers
    stopwatch = Stopwatch()
    timed = stopwatch.timed

    def cycle(beside: str = '') -> None:
        port = make_port(server)
        with timed(f'plug{beside}'):
            plug(driver, server, port)
        with timed(f'plug again{beside}'):
            plug(driver, server, port)
        with timed(f'unplug{beside}'):
            unplug(driver, server, port.id)
        with timed(f'POST{beside}'):
            port_id = call('POST', server, body=BY_NETWORK)['port_id']
        with timed(f'DELETE{beside}'):
            call('DELETE', server, port_id, status=202)

    for number in range(CYCLES):
        cycle()
        assert machine.links() == []
        if number == CYCLES // 10:
            held = _held()
    kept = make_port(other)
    plug(driver, other, kept)
    there = machine.links()
    for _ in range(CYCLES // 4):
        cycle(' beside another')
        assert machine.links() == there
    unplug(driver, other, kept.id)
    assert _held() == held
    stopwatch.show(request, 'netns')


# ---------------------------------------------------------------------- the crash matrix

THINGS, SERVER = test_crash_matrix.THINGS, test_crash_matrix.SERVER


class World(test_crash_matrix.World):
    """The embedded inventory, and NICs in a namespace; what is seen there fills the folder of the NICs."""

    def __init__(self, host: str, inside: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._host = host
        self._inside = inside
        self._vifs = netns.NetnsVIFDriver(self.parts.conf)

    def begin(self) -> None:
        super().begin()
        server = base.Server(SERVER, test_crash_matrix.PROJECT, host='compute-1')
        for port_id in namespaces.ports(self._inside):
            if port_id != THINGS.booted:
                unplug(self._vifs, server, port_id)
        ctxt = contract.member(server)
        networks = self.parts.drivers.network
        plug(self._vifs, server, networks.details(ctxt, networks.get_port(ctxt, THINGS.booted)))

    def dry_run(self, scenario: matrix.Scenario) -> Any:
        outcome, points = super().dry_run(scenario)
        requests = (point for point in outcome.passed if point.split()[1] in zygote.REQUESTS)
        return outcome, points + matrix.numbered(requests)

    def check(self) -> list[str]:
        nics = pathlib.Path(self._place.nics) / SERVER
        for path in nics.iterdir():
            path.unlink()
        links = namespaces.links(self._inside)
        plugged = {link['ifalias'].removeprefix('osif:'): link for link in links}
        assert len(plugged) == len(links), 'two NICs of one port'
        for port_id in plugged:
            (nics / port_id).touch()
        attached = super().check()
        for port_id, link in plugged.items():
            found = {address.partition('/')[0] for address in namespaces.addresses(link)}
            assert found == self.seen[port_id].addresses, 'the NIC has other addresses than its port'
        # On the host: an end for each, and the bridge while there is one.
        names = collections.Counter(link['ifname'][:3] for link in namespaces.links(self._host))
        assert names == collections.Counter({'osv': len(plugged), 'osb': min(1, len(plugged))})
        return attached


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp('netns')
    host = f'osif-host-{uuid.uuid4().hex[:8]}'
    server = f'osif-server-{uuid.uuid4().hex[:8]}'
    options = {'namespace': server, 'host_namespace': host, 'lock_path': str(home / 'lock')}
    lines = ['[netns]', *(f'{name} = {value}' for name, value in options.items())]
    (home / 'osif.conf').write_text('\n'.join(lines))
    place = zygote.crash.Place(
        f'sqlite:///{home}/osif.sqlite', str(home), test_crash_matrix.PROJECT, SERVER, (str(home / 'osif.conf'),)
    )
    with namespaces.made(host, server), zygote.running() as running, zygote.in_this_process():
        made = World(host, server, place, THINGS, running)
        yield made
        made.parts.database.dispose()


@pytest.fixture(scope='module')
def table(request: pytest.FixtureRequest) -> Iterator[matrix.Table]:
    with matrix.printed(request.config) as results:
        yield results


@pytest.mark.parametrize('scenario', matrix.SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_every_point(world: World, scenario: matrix.Scenario, table: matrix.Table) -> None:
    matrix.go_through(world, scenario, table, 'netns')
