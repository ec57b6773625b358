"""The VIF driver `ovs` on a real Open vSwitch with its datapath in userspace, in namespaces of the tests' own."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import itertools
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import webtest

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.context import service_context
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.drivers.vifs import ovs
from os_interface_ext.inventory import loader
from os_interface_ext.standalone import app as standalone
from os_interface_ext.testing import contract, vifs
from tests.integration.vifs import namespaces, plugging
from tests.integration.vifs.plugging import plug, plugged, unplug
from tests.integration.vifs.stopwatch import Stopwatch
from tests.services import databases, openvswitch

pytestmark = pytest.mark.service

CYCLES = 50
PROJECT = 'project-a'
NETWORK = '5bcc01ca-7e46-427a-9fdf-042bd9b0125c'
TOKEN = 'a-member'
BRIDGE = 'br-int'
MTU = 1420
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17


@pytest.fixture(scope='module')
def switch() -> Iterator[openvswitch.OpenVSwitch]:
    namespaces.require()
    if not os.path.exists('/dev/net/tun'):
        pytest.skip('this machine has no tap devices')
    with contextlib.ExitStack() as stack:
        host = f'osif-host-{uuid.uuid4().hex[:8]}'
        stack.enter_context(namespaces.made(host))
        try:
            switch = stack.enter_context(openvswitch.running(host))
        except databases.Unobtainable as error:
            pytest.skip(str(error))
        switch.add_bridge(BRIDGE)
        switch.add_bridge('br-other')
        Machine.host = host
        yield switch


@dataclasses.dataclass
class Machine:
    """A host with a switch, and two servers."""

    switch: openvswitch.OpenVSwitch
    servers: tuple[base.Server, base.Server]
    options: dict[str, Any]
    host = ''

    def conf(self, groups: Any = None, **options: Any) -> Any:
        conf = config.new([], **(groups or {}))
        ovs.options.register_opts(conf)
        for name, value in (self.options | options).items():
            conf.set_override(name, value, group=ovs.GROUP)
        return conf

    def driver(self, **options: Any) -> ovs.OVSVIFDriver:
        return ovs.OVSVIFDriver(self.conf(**options))

    def links(self) -> dict[str, dict[str, Any]]:
        """Those of the NICs: what Open vSwitch has for itself and its bridges is not among them."""
        own = {'br-int', 'br-other', 'ovs-netdev'}
        return {link['ifname']: link for link in namespaces.links(self.host) if link['ifname'] not in own}

    def nics(self, server: base.Server) -> list[str]:
        """The ports of those that are in the bridge and up, and whose link is the one that is in use."""
        links, there = self.links(), self.switch.ports(BRIDGE)
        return [
            row['external_ids']['iface-id']
            for name, row in self.switch.interfaces().items()
            if row['external_ids'].get('vm-uuid') == server.id
            and name in there
            and 'UP' in links[name]['flags']
            and row['ofport'] > 0
            and row['ifindex'] == links[name]['ifindex']
        ]

    def assert_empty(self) -> None:
        assert self.switch.interfaces() == {}
        assert self.switch.ports(BRIDGE) == self.switch.ports('br-other') == set()
        assert self.links() == {}


@pytest.fixture(params=['tap', 'veth'])
def machine(switch: openvswitch.OpenVSwitch, request: pytest.FixtureRequest) -> Iterator[Machine]:
    servers = (base.Server(str(uuid.uuid4()), PROJECT), base.Server(str(uuid.uuid4()), PROJECT))
    options = {
        'ovsdb_connection': switch.socket,
        'host_namespace': Machine.host,
        'device': request.param,
        'timeout': 10.0,
    }
    yield Machine(switch, servers, options)
    for name in switch.interfaces():
        switch.vsctl('del-port', name)
    for link in namespaces.links(Machine.host):
        if link['ifname'].startswith('tap'):
            # A pair goes as one.
            subprocess.run(['ip', '-n', Machine.host, 'link', 'del', link['ifname']], check=True)


only_tap = pytest.mark.parametrize('machine', ['tap'], indirect=True)
only_veth = pytest.mark.parametrize('machine', ['veth'], indirect=True)
make_port = plugging.makes_ports(network_id=NETWORK, mtu=MTU, vif_type='ovs')


# ---------------------------------------------------------------------- the contract


@contextlib.contextmanager
def failing_afterwards() -> Iterator[None]:
    """The database does each thing that it is asked, and the answer is lost."""
    real = ovs._World._change

    def change(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        raise ovs._Silent('the answer is lost')

    with mock.patch.object(ovs._World, '_change', change):
        yield


def test_the_check_names_the_cure(machine: Machine) -> None:
    ovs.OVSVIFDriver(machine.conf()).check(service_context())
    conf = machine.conf()
    conf.set_override('timeout', 0.3, group=ovs.GROUP)
    with machine.switch.silent(machine.switch.database), pytest.raises(exceptions.Unavailable) as told:
        ovs.OVSVIFDriver(conf).check(service_context())
    assert told.value.operator_cure.startswith('start Open vSwitch')


class TestContract(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self, machine: Machine) -> vifs.VIFBackend:
        conf = machine.conf()
        driver = ovs.OVSVIFDriver(conf)

        @contextlib.contextmanager
        def unreachable() -> Iterator[None]:
            conf.set_override('timeout', 0.3, group=ovs.GROUP)
            with machine.switch.silent(machine.switch.database):
                yield
            conf.clear_override('timeout', group=ovs.GROUP)

        return vifs.VIFBackend(
            driver=driver,
            server=machine.servers[0],
            other_server=machine.servers[1],
            make_port=make_port,
            nics=machine.nics,
            # No link of the kernel's is as small.
            make_port_without_use=lambda server: make_port(server, mtu=20),
            unreachable=unreachable,
            answers_lost=failing_afterwards,
        )


# ---------------------------------------------------------------------- what a plug makes


def test_everything_is_as_agents_expect_it(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    name = f'tap{port.id[:11]}'
    (row,) = machine.switch.interfaces().values()
    assert row['name'] == name
    assert row['external_ids'] == {
        'iface-id': port.id,
        'iface-status': 'active',
        'attached-mac': port.mac_address,
        'vm-uuid': server.id,
        'osif': 'plugged',
    }
    # Of one that is there, the mark alone is changed by whoever plugs it next.
    fence = dataclasses.replace(contract.fence(), installation='an-installation')
    assert driver.plug(contract.member(server), server, port, fence) == told
    before = row
    (row,) = machine.switch.interfaces().values()
    assert row == before | {'external_ids': before['external_ids'] | {'osif-installation': 'an-installation'}}
    assert row['ofport'] > 0
    assert row['error'] == ['set', []]
    assert machine.switch.ports(BRIDGE) == {name}
    links = machine.links()
    assert links[name]['mtu'] == MTU
    assert 'UP' in links[name]['flags']
    assert links[name]['ifalias'] == f'osif:{port.id}:{server.id}'
    # The host is nobody on the network of the servers.
    assert links[name]['addr_info'] == []
    if machine.options['device'] == 'tap':
        assert links[name]['linkinfo']['info_kind'] == 'tun'
        assert links[name]['linkinfo']['info_data'] == links[name]['linkinfo']['info_data'] | {
            'type': 'tap',
            'persist': True,
        }
        assert told == {'bridge': BRIDGE, 'device': name}
    else:
        peer = f'nic{port.id[:11]}'
        assert told == {'bridge': BRIDGE, 'device': name, 'peer': peer}
        assert (links[peer]['address'], links[peer]['mtu']) == (port.mac_address, MTU)
    unplug(driver, server, port.id)
    machine.assert_empty()


def test_plug_again_changes_nothing(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    before = machine.switch.interfaces(), {name: link['ifindex'] for name, link in machine.links().items()}
    count = machine.switch.vsctl('get', 'Open_vSwitch', '.', 'next_cfg')
    assert plug(driver, server, port) == told
    assert machine.switch.vsctl('get', 'Open_vSwitch', '.', 'next_cfg') == count
    after = machine.switch.interfaces()
    for rows in (before[0], after):
        for row in rows.values():
            # They count all the time.
            row.pop('statistics')
    assert (after, {name: link['ifindex'] for name, link in machine.links().items()}) == before
    for _ in range(2):
        unplug(driver, server, port.id)
        machine.assert_empty()
    assert plugged(driver, server) == set()


def test_the_switch_sees_no_link_that_is_not_complete(machine: Machine) -> None:
    """One that is put up while ovs-vswitchd opens it may be down again: that writes the flags that it has read."""
    driver, (server, _) = machine.driver(), machine.servers
    port, log = make_port(server), machine.switch.folder / 'vswitchd.log'
    begun = log.stat().st_size
    for _ in range(3):
        name = plug(driver, server, port)['device']
        unplug(driver, server, port.id)
    said = [line for line in log.read_text()[begun:].splitlines() if name in line]
    assert [line for line in said if 'added interface' in line]
    assert [line for line in said if '|INFO|' not in line] == []


def test_the_bridge_that_the_binding_names(machine: Machine) -> None:
    driver, (server, _) = machine.driver(ovsdb_connection=machine.switch.tcp), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    elsewhere = dataclasses.replace(port, vif_details={'bridge_name': 'br-other'})
    assert plug(driver, server, elsewhere)['bridge'] == 'br-other'
    name = f'tap{port.id[:11]}'
    assert (machine.switch.ports(BRIDGE), machine.switch.ports('br-other')) == (set(), {name})
    for bad in ('br-none', 'tbr-0', "a'b"):
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, make_port(server, vif_details={'bridge_name': bad}))
    unplug(driver, server, port.id)
    machine.assert_empty()


def test_what_somebody_has_changed_is_mended(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    name = told['device']
    in_host = ['ip', '-n', machine.host, 'link']
    breaks: list[Callable[[], object]] = [
        lambda: subprocess.run([*in_host, 'set', name, 'down', 'mtu', '1400'], check=True),
        lambda: subprocess.run([*in_host, 'del', name], check=True),
        lambda: machine.switch.vsctl('del-port', name),
        lambda: machine.switch.vsctl('set', 'interface', name, 'external_ids:attached-mac=00:00:00:00:00:01'),
        lambda: machine.switch.vsctl('set', 'interface', name, 'external_ids:osif=plugging'),
        lambda: subprocess.run([*in_host, 'set', name, 'alias', ''], check=True),
    ]
    for break_it in breaks:
        break_it()
        assert plug(driver, server, port) == told
        assert machine.nics(server) == [port.id]
        (row,) = machine.switch.interfaces().values()
        assert row['external_ids'] == row['external_ids'] | {'attached-mac': port.mac_address, 'osif': 'plugged'}
        assert (machine.links()[name]['mtu'], machine.links()[name]['ifalias'][:5]) == (MTU, 'osif:')
    machine.switch.vsctl('set', 'interface', name, 'external_ids:of-an-agent=kept')
    plug(driver, server, dataclasses.replace(port, mac_address='fa:16:3e:ff:ff:fe'))
    (row,) = machine.switch.interfaces().values()
    assert (row['external_ids']['of-an-agent'], row['external_ids']['attached-mac'][-2:]) == ('kept', 'fe')
    for break_it in breaks[:3]:
        plug(driver, server, port)
        break_it()
        unplug(driver, server, port.id)
        machine.assert_empty()


def test_what_a_reboot_leaves_is_not_plugged(machine: Machine) -> None:
    """The database is kept, and the devices are not."""
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    name = plug(driver, server, port)['device']
    for again in (plug, unplug):
        machine.switch.switch.kill()
        subprocess.run(['ip', '-n', machine.host, 'link', 'del', name], check=True)
        machine.switch.switch.start()
        until = time.monotonic() + 20
        while plugged(driver, server):
            assert time.monotonic() < until
            time.sleep(0.02)
        # An agent is told of it all the same.
        assert set(driver.find_plugged(service_context(), '')) == {(server.id, port.id)}
        if again is plug:
            plug(driver, server, port)
            assert plugged(driver, server) == {port.id}
            assert machine.nics(server) == [port.id]
        else:
            unplug(driver, server, port.id)
    machine.assert_empty()


def test_a_device_of_the_other_kind_is_replaced(machine: Machine) -> None:
    (server, _), port = machine.servers, make_port(machine.servers[0])
    for device in ('tap', 'veth', 'tap'):
        plug(machine.driver(device=device), server, port)
        assert machine.nics(server) == [port.id]
        assert len(machine.links()) == (2 if device == 'veth' else 1)
    unplug(machine.driver(), server, port.id)
    machine.assert_empty()


def test_where_the_devices_are(machine: Machine) -> None:
    (server, _), port = machine.servers, make_port(machine.servers[0])
    here, by_path = machine.driver(host_namespace=''), machine.driver(host_namespace=f'/run/netns/{machine.host}')
    for driver in (here, by_path):
        namespaces.within(machine.host, lambda driver=driver: plug(driver, server, port))
        assert machine.nics(server) == [port.id]
        namespaces.within(machine.host, lambda driver=driver: unplug(driver, server, port.id))
        machine.assert_empty()


def test_what_is_not_ours_is_left_alone(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    name = f'tap{port.id[:11]}'
    ids = [f'external_ids:iface-id={port.id}', f'external_ids:vm-uuid={server.id}']
    tap = ['ip', '-n', machine.host, 'tuntap', 'add', name, 'mode', 'tap']
    subprocess.run(tap, check=True)
    for row in (False, True):
        if row:
            # As Nova has plugged it at the boot of the server.
            machine.switch.vsctl('add-port', BRIDGE, name, '--', 'set', 'interface', name, *ids)
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, port)
        unplug(driver, server, port.id)
        assert set(machine.links()) == {name}
        assert plugged(driver, server) == set()
        assert machine.switch.ports(BRIDGE) == ({name} if row else set())


@only_tap
def test_a_tap_that_somebody_else_makes_meanwhile(machine: Machine) -> None:
    """When the driver has seen that there is none."""
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    name = f'tap{port.id[:11]}'
    real = ovs._Device._tap

    def late(self: Any) -> Any:
        subprocess.run(['ip', '-n', machine.host, 'tuntap', 'add', name, 'mode', 'tap'], check=True)
        return real(self)

    with mock.patch.object(ovs._Device, '_tap', late), pytest.raises(exceptions.PlugFailed):
        plug(driver, server, port)
    unplug(driver, server, port.id)
    assert {found: link.get('ifalias') for found, link in machine.links().items()} == {name: None}
    assert machine.switch.interfaces() == {}


def test_ports_whose_names_are_the_same(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    twin = make_port(server, id=port.id[:-1] + ('0' if port.id[-1] != '0' else '1'))
    plug(driver, server, port)
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, server, twin)
    unplug(driver, server, twin.id)
    assert machine.nics(server) == [port.id]
    for odd in contract.ODD_IDS:
        unplug(driver, server, odd)
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, server, make_port(server, id='../../x'))
    assert machine.nics(server) == [port.id]


def test_a_port_that_another_server_has_by_mistake(machine: Machine) -> None:
    driver, (first, second) = machine.driver(), machine.servers
    port = make_port(first)
    plug(driver, first, port)
    plug(driver, second, port)
    assert (plugged(driver, first), plugged(driver, second)) == (set(), {port.id})
    unplug(driver, first, port.id)
    assert machine.nics(second) == [port.id]
    unplug(driver, second, port.id)
    machine.assert_empty()


# ---------------------------------------------------------------------- as os-vif does

_OS_VIF = """
import sys
from oslo_config import cfg
import os_vif
from os_vif import objects
from vif_plug_ovs import privsep

connection, port_id, mac, server_id, bridge, mtu = sys.argv[1:]
privsep.vif_plug.set_client_mode(False)
cfg.CONF(['--config-file', '/dev/stdin'], project='test')
os_vif.initialize()
profile = objects.vif.VIFPortProfileOpenVSwitch(
    interface_id=port_id, datapath_type='netdev', create_port=True, create_tap=True
)
network = objects.network.Network(id=port_id, bridge=bridge, mtu=int(mtu))
vif = objects.vif.VIFOpenVSwitch(
    id=port_id, address=mac, network=network, port_profile=profile, vif_name='tap' + port_id[:11],
    bridge_name=bridge, plugin='ovs',
)
os_vif.plug(vif, objects.instance_info.InstanceInfo(uuid=server_id, name='one'))
"""


@only_tap
def test_the_same_as_the_plug_in_of_os_vif(machine: Machine) -> None:
    """What Nova's compute service would have made of the same port, but for our key; and it is not ours."""
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    ours, our_links = machine.switch.interfaces(), machine.links()
    unplug(driver, server, port.id)
    values = [machine.switch.socket, port.id, port.mac_address, server.id, BRIDGE, str(MTU)]
    options = f'[os_vif_ovs]\novsdb_connection = {machine.switch.socket}\n'
    command = ['ip', 'netns', 'exec', machine.host, sys.executable, '-W', 'ignore', '-c', _OS_VIF, *values]
    subprocess.run(command, input=options, text=True, check=True, capture_output=True, timeout=60)
    theirs = machine.switch.interfaces()
    assert set(theirs) == set(ours)
    for name, row in theirs.items():
        assert ours[name]['external_ids'] == row['external_ids'] | {'osif': 'plugged'}
        for column in ('type', 'options', 'mtu_request', 'other_config'):
            assert ours[name][column] == row[column], column
        one, other = (links[name] for links in (our_links, machine.links()))
        assert one['linkinfo']['info_data']['type'] == other['linkinfo']['info_data']['type'] == 'tap'
        assert (one['mtu'], 'UP' in one['flags']) == (other['mtu'], 'UP' in other['flags']) == (MTU, True)
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, server, port)
    unplug(driver, server, port.id)
    assert set(machine.switch.interfaces()) == set(theirs)


_IMPORT = """
import sys
from oslo_config import cfg
from os_interface_ext.drivers.vifs import ovs
assert not {'eventlet', 'oslo_privsep', 'os_vif', 'ovs'} & set(sys.modules), sorted(sys.modules)
assert 'vif_plug_ovs_privileged' not in cfg.CONF._groups
"""


def test_nothing_of_os_vif_is_registered_in_the_process() -> None:
    subprocess.run([sys.executable, '-c', _IMPORT], check=True)


# ---------------------------------------------------------------------- traffic


@only_veth
def test_two_servers_reach_each_other_until_the_unplug(machine: Machine) -> None:
    """Through the datapath in userspace, with ICMP and TCP; ovs-vswitchd is restarted in between."""
    driver, (first, second) = machine.driver(), machine.servers
    ports = {server.id: make_port(server) for server in machine.servers}
    with namespaces.made(first.id, second.id):
        for number, server in enumerate(machine.servers, 1):
            peer = plug(driver, server, ports[server.id])['peer']
            _take(machine.host, peer, server.id, f'10.41.0.{number}/24')
            namespaces.within(server.id, lambda peer=peer: _turn_checksum_offload_off(peer))
            # The other end is where it is of use: nothing is made anew.
            plug(driver, server, ports[server.id])
        assert namespaces.pings(first.id, '10.41.0.2')
        assert namespaces.pings(second.id, '10.41.0.1')
        assert _sent_over_tcp(first.id, second.id, '10.41.0.2', b'x' * 20_000) == 20_000
        machine.switch.switch.kill()
        assert not namespaces.pings(first.id, '10.41.0.2', patience=0.5)
        machine.switch.switch.start()
        for server in machine.servers:
            plug(driver, server, ports[server.id])
            assert machine.nics(server) == [ports[server.id].id]
        assert namespaces.pings(first.id, '10.41.0.2', patience=5)
        unplug(driver, second, ports[second.id].id)
        assert namespaces.links(second.id) == []
        assert not namespaces.pings(first.id, '10.41.0.2', patience=0.5)
        unplug(driver, first, ports[first.id].id)
        machine.assert_empty()


def _take(host: str, peer: str, namespace: str, address: str) -> None:
    for command in (
        ['-n', host, 'link', 'set', peer, 'netns', namespace],
        ['-n', namespace, 'address', 'add', address, 'dev', peer],
        ['-n', namespace, 'link', 'set', peer, 'up'],
    ):
        subprocess.run(['ip', *command], check=True)


def _turn_checksum_offload_off(device: str) -> None:
    """Of the sender: the datapath in userspace hands on the checksums that it is given, be they none."""
    value = ctypes.create_string_buffer(struct.pack('II', _ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack('16sP16x', device.encode(), ctypes.addressof(value)))


def _sent_over_tcp(sender: str, receiver: str, address: str, data: bytes) -> int:
    """How many bytes arrive."""
    with namespaces.within(receiver, lambda: socket.create_server((address, 0))) as listener:
        listener.settimeout(10)
        where = listener.getsockname()
        with namespaces.within(sender, lambda: socket.create_connection(where, timeout=10)) as out:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                out.sendall(data)
                out.shutdown(socket.SHUT_WR)
                return sum(map(len, iter(lambda: connection.recv(65536), b'')))


# ---------------------------------------------------------------------- what does not answer


@only_tap
def test_a_switch_that_is_away_or_silent(machine: Machine) -> None:
    (server, _), daemon = machine.servers, machine.switch.switch
    hasty, driver = machine.driver(timeout=0.5), machine.driver()
    kept, new = make_port(server), make_port(server)
    plug(driver, server, kept)

    def both() -> None:
        begun = time.monotonic()
        with pytest.raises(exceptions.UnknownOutcome):
            plug(hasty, server, new)
        with pytest.raises(exceptions.UnknownOutcome):
            unplug(hasty, server, kept.id)
        assert time.monotonic() < begun + 8
        # Nobody has confirmed it.
        assert new.id not in plugged(driver, server)

    with machine.switch.silent(daemon):
        both()
    unplug(driver, server, kept.id)
    plug(driver, server, new)
    assert machine.nics(server) == [new.id]
    unplug(driver, server, new.id)
    plug(driver, server, kept)
    daemon.kill()
    try:
        both()
    finally:
        daemon.start()
    unplug(driver, server, kept.id)
    plug(driver, server, new)
    assert machine.nics(server) == [new.id]
    unplug(driver, server, new.id)
    machine.assert_empty()


@only_tap
def test_the_waits_of_a_call_share_its_time(machine: Machine) -> None:
    """Each answer comes soon enough, but all together do not."""
    (server, _), port = machine.servers, make_port(machine.servers[0])
    real = ovs._Database._send

    def slow(self: Any, message: dict[str, Any]) -> None:
        time.sleep(0.3)
        real(self, message)

    with mock.patch.object(ovs._Database, '_send', slow), pytest.raises(exceptions.Unavailable):
        plug(machine.driver(timeout=1.0), server, port)
    unplug(machine.driver(), server, port.id)
    machine.assert_empty()


@only_tap
def test_a_database_that_is_away(machine: Machine) -> None:
    server, port = machine.servers[0], make_port(machine.servers[0])
    for connection in (f'unix:{machine.switch.folder}/none', 'tcp:127.0.0.1:1'):
        driver = machine.driver(ovsdb_connection=connection)
        calls: list[Callable[[], object]] = [
            functools.partial(plug, driver, server, port),
            functools.partial(unplug, driver, server, port.id),
            functools.partial(plugged, driver, server),
            functools.partial(driver.check, service_context()),
        ]
        for call in calls:
            with pytest.raises(exceptions.Unavailable) as caught:
                call()
            assert not isinstance(caught.value, exceptions.UnknownOutcome)
    nowhere = machine.driver(host_namespace='osif-nowhere')
    for call in (lambda: plug(nowhere, server, port), lambda: nowhere.check(service_context())):
        with pytest.raises(exceptions.Unavailable, match='host_namespace'):
            call()
    for bad in ('', 'unix:', 'ssl:127.0.0.1:6640', 'tcp:127.0.0.1', 'tcp::6640'):
        with pytest.raises(exceptions.ConfigurationError):
            machine.driver(ovsdb_connection=bad)
    too_long = r'\[ovs\] timeout: 15 s .* \[attachments\] lease, 15 s'
    with pytest.raises(exceptions.ConfigurationError, match=too_long):
        machine.driver(timeout=15.0)
    machine.assert_empty()


@only_tap
def test_a_lock_that_another_one_keeps(machine: Machine) -> None:
    driver, (server, _) = machine.driver(timeout=0.3), machine.servers
    port = make_port(server)
    with ovs._Database(machine.switch.socket, 1.0) as other:
        other.lock(f'tap{port.id[:11]}', contract.fence())
        with pytest.raises(exceptions.DeadlinePassed):
            driver.plug(contract.member(server), server, port, base.Fence(1, time.monotonic() + 0.1))
        with pytest.raises(exceptions.Unavailable):
            plug(driver, server, port)
    machine.assert_empty()
    plug(machine.driver(), server, port)


class _Until:
    """A fence that lets so many changes pass."""

    installation = ''

    def __init__(self, changes: int) -> None:
        self._changes = iter(range(changes))

    def check(self) -> None:
        if next(self._changes, None) is None:
            raise exceptions.DeadlinePassed()

    def remaining(self) -> float:
        return 10.0


def test_a_deadline_that_passes_in_between(machine: Machine) -> None:
    """Something has happened: that is not the same as too late to begin."""
    driver, (server, _) = machine.driver(), machine.servers
    for operation in ('plug', 'unplug'):
        for number in itertools.count():
            port = make_port(server)
            if operation == 'unplug':
                plug(driver, server, port)
            fence: Any = _Until(number)
            ctxt = contract.member(server)
            try:
                if operation == 'plug':
                    driver.plug(ctxt, server, port, fence)
                else:
                    driver.unplug(ctxt, server, port.id, {}, fence)
            except exceptions.DeadlinePassed:
                assert number == 0
            except exceptions.UnknownOutcome:
                assert number > 0
            else:
                break
            unplug(driver, server, port.id)
            machine.assert_empty()
        assert number > (4 if operation == 'plug' else 1)
        unplug(driver, server, port.id)
        machine.assert_empty()


def test_a_plug_that_cannot_be_completed_leaves_nothing(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    # Before it says that it is complete.
    changes = _changes_of_a_plug(machine)
    assert _killed(driver, server, port, 'plug', changes)
    assert plugged(driver, server) == set()
    assert len(machine.switch.interfaces()) == 1
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, server, dataclasses.replace(port, vif_details={'bridge_name': 'br-none'}))
    machine.assert_empty()


# ---------------------------------------------------------------------- killed in between


def _changes_of_a_plug(machine: Machine) -> int:
    driver, server = machine.driver(), machine.servers[0]
    port = make_port(server)
    with mock.patch.object(ovs._Progress, 'begin', autospec=True) as begin:
        plug(driver, server, port)
    unplug(driver, server, port.id)
    return begin.call_count


@pytest.mark.parametrize('again', ['plug', 'unplug'])
def test_killed_at_each_change(machine: Machine, again: str) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    for operation in ('plug', 'unplug'):
        for number in itertools.count(1):
            port = make_port(server)
            if operation == 'unplug':
                plug(driver, server, port)
            died = _killed(driver, server, port, operation, number)
            if again == 'plug':
                plug(driver, server, port)
                assert machine.nics(server) == [port.id]
                assert plugged(driver, server) == {port.id}
            unplug(driver, server, port.id)
            machine.assert_empty()
            if not died:
                break
        assert number > (4 if operation == 'plug' else 2)


def _killed(driver: base.VIFDriver, server: base.Server, port: base.Port, operation: str, number: int) -> bool:
    """Have a process die before its n-th change; whether it has so many."""
    child = os.fork()
    if child == 0:
        numbers = itertools.count(1)
        real = ovs._Progress.begin

        def begin(self: Any) -> None:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self)

        try:
            with mock.patch.object(ovs._Progress, 'begin', begin):
                plug(driver, server, port) if operation == 'plug' else unplug(driver, server, port.id)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_one_port_by_many_threads(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    answers = contract.at_once(*[lambda: plug(driver, server, port)] * 6)
    assert answers == [answers[0]] * 6
    assert isinstance(answers[0], dict)
    assert machine.nics(server) == [port.id]
    assert contract.at_once(*[lambda: unplug(driver, server, port.id)] * 6) == [None] * 6
    machine.assert_empty()


# ---------------------------------------------------------------------- through the API


def inventory(machine: Machine) -> dict[str, Any]:
    subnet = {'id': str(uuid.uuid4()), 'cidr': '10.42.0.0/20', 'gateway_ip': '10.42.0.1'}
    return {
        'callers': [{'token': TOKEN, 'user_id': 'user', 'project_id': PROJECT, 'roles': ['member', 'reader']}],
        'networks': [{'id': NETWORK, 'name': 'private', 'project_id': PROJECT, 'mtu': MTU, 'subnets': [subnet]}],
        'servers': [
            {'id': server.id, 'name': 'web', 'project_id': PROJECT, 'host': 'host-1'} for server in machine.servers
        ],
    }


@only_tap
def test_through_the_api(machine: Machine, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    groups = {
        'database': {'connection': f'sqlite:///{tmp_path}/osif.sqlite'},
        'os_interface': {'vif_driver': 'ovs'},
    }
    conf = machine.conf(groups)
    database = Database.of(conf)
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(json.dumps(inventory(machine)), 'inventory'))
    application = webtest.TestApp(standalone.create(conf))
    server = machine.servers[0]
    path = f'/v2.1/servers/{server.id}/os-interface'
    headers = {'X-Auth-Token': TOKEN, 'OpenStack-API-Version': 'compute 2.70'}
    body = {'interfaceAttachment': {'net_id': NETWORK}}
    tagged = {'interfaceAttachment': {'net_id': NETWORK, 'tag': 'nic'}}
    application.post_json(path, tagged, headers=headers, status=400)
    stopwatch = Stopwatch()
    for _ in range(10):
        with stopwatch.timed('POST'):
            attachment = application.post_json(path, body, headers=headers).json['interfaceAttachment']
        assert machine.nics(server) == [attachment['port_id']]
        (row,) = machine.switch.interfaces().values()
        assert row['external_ids']['attached-mac'] == attachment['mac_addr']
        assert machine.links()[row['name']]['mtu'] == MTU
        with stopwatch.timed('DELETE'):
            application.delete(f'{path}/{attachment["port_id"]}', headers=headers, status=202)
        application.get(f'{path}/{attachment["port_id"]}', headers=headers, status=404)
        machine.assert_empty()
    application.post_json(path, {'interfaceAttachment': {'net_id': NETWORK}}, headers=headers)
    conf.set_override('bridge', 'br-none', group=ovs.GROUP)
    application.post_json(path, body, headers=headers, status=500)
    (kept,) = application.get(path, headers=headers).json['interfaceAttachments']
    assert machine.nics(server) == [kept['port_id']]
    conf.clear_override('bridge', group=ovs.GROUP)
    conf.set_override('timeout', 0.5, group=ovs.GROUP)
    with machine.switch.silent(machine.switch.switch):
        application.post_json(path, body, headers=headers, status=503)
    database.dispose()
    stopwatch.show(request, 'ovs (tap) through the API')


# ---------------------------------------------------------------------- nothing is left of the tests

_LEFT = """
import sys, time
from tests.services import openvswitch
with openvswitch.running(sys.argv[1]) as switch:
    print(switch.database.pid, switch.switch.pid, switch.folder, flush=True)
    time.sleep(60)
"""


def test_of_tests_that_are_killed_no_daemon_is_left(switch: openvswitch.OpenVSwitch) -> None:
    name = f'osif-left-{uuid.uuid4().hex[:8]}'
    with namespaces.made(name):
        command = [sys.executable, '-c', _LEFT, name]
        root = pathlib.Path(__file__).parents[3]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            assert process.stdout is not None
            *pids, folder = process.stdout.readline().split()
            assert all(os.path.exists(f'/proc/{pid}') for pid in pids)
            process.kill()
        until = time.monotonic() + 20
        while _are_left(pids) or os.path.exists(folder):
            assert time.monotonic() < until
            time.sleep(0.05)


def _are_left(pids: list[str]) -> bool:
    """Whether one still runs; whose child it was may be slow to take notice of its end."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z':
                return True
    return False


# ---------------------------------------------------------------------- nothing grows


def _held(machine: Machine) -> dict[str, int]:
    """What this process and the daemons have, when they have noticed what is closed."""
    seen = []
    for _ in range(10):
        seen.append(_held_now(machine))
        time.sleep(0.03)
    return {name: min(one[name] for one in seen) for name in seen[0]}


def _held_now(machine: Machine) -> dict[str, int]:
    return {
        'files': len(os.listdir('/proc/self/fd')),
        'threads': threading.active_count(),
        'files of ovsdb-server': len(os.listdir(f'/proc/{machine.switch.database.pid}/fd')),
        'files of ovs-vswitchd': len(os.listdir(f'/proc/{machine.switch.switch.pid}/fd')),
        'children': len(pathlib.Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()),
    }


def test_cycles_without_growth(machine: Machine, request: pytest.FixtureRequest) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    stopwatch = Stopwatch()
    held: dict[str, int] = {}
    for number in range(CYCLES):
        port = make_port(server)
        for what in ('plug', 'plug again'):
            with stopwatch.timed(what):
                plug(driver, server, port)
        with stopwatch.timed('unplug'):
            unplug(driver, server, port.id)
        assert machine.links() == {}
        if number == CYCLES // 5:
            held = _held(machine)
    machine.assert_empty()
    assert _held(machine) == held
    stopwatch.show(request, f'ovs ({machine.options["device"]})')
