"""The VIF driver `libvirt` on a real libvirtd: what it puts where, and what it leaves alone."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import traceback
import uuid
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.drivers import base
from os_interface_ext.testing import contract
from tests.integration.conftest import wait_until
from tests.integration.vifs.plugging import plug, plugged, unplug
from tests.services import databases
from tests.services.libvirt import guest, proxy
from tests.services.libvirt.hypervisor import LINUX_BRIDGE, OVS_BRIDGE, Hypervisor
from tests.services.openvswitch import OpenVSwitch

from .conftest import MTU, OVS_NETWORK, Machine, foreign, make_port

pytestmark = pytest.mark.service


def nic(machine: Machine, server: base.Server, *, live: bool) -> dict[str, str]:
    """The only NIC of a domain, as it runs or is configured."""
    (element,) = machine.hypervisor.nics(server.id, live=live)

    def attribute(path: str, name: str) -> str:
        found = element.find(path)
        return found.get(name, '') if found is not None else ''

    return {
        'mac': attribute('mac', 'address'),
        'bridge': attribute('source', 'bridge'),
        'tap': attribute('target', 'dev'),
        'model': attribute('model', 'type'),
        'mtu': attribute('mtu', 'size'),
        'alias': attribute('alias', 'name'),
        'switch': attribute('virtualport', 'type'),
        'interfaceid': attribute('virtualport/parameters', 'interfaceid'),
    }


# ---------------------------------------------------------------------- what a plug makes


def test_a_nic_is_as_the_port_says(machine: Machine) -> None:
    driver, (server, _) = machine.driver(model='e1000e'), machine.servers
    port = make_port(server)
    told = plug(driver, server, port)
    tap = f'tap{port.id[:11]}'
    assert told == {'host_interface': tap, 'bridge': LINUX_BRIDGE}
    for live in (True, False):
        assert nic(machine, server, live=live) == {
            'mac': port.mac_address,
            'bridge': LINUX_BRIDGE,
            'tap': tap,
            'model': 'e1000e',
            'mtu': str(MTU),
            'alias': f'ua-{port.id}',
            'switch': '',
            'interfaceid': '',
        }
    link = machine.hypervisor.ip('-o', 'link', 'show', tap)
    assert f'mtu {MTU} ' in link
    assert f'master {LINUX_BRIDGE} ' in link


def test_who_has_plugged_a_nic_stands_in_the_metadata_of_its_domain(machine: Machine) -> None:
    import libvirt

    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)

    def notes(server: base.Server) -> list[str]:
        # In the domain as it runs, and as it is configured.
        told = []
        for flag in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            domain = ElementTree.fromstring(machine.hypervisor.find(server.id).XMLDesc(flag))
            found = domain.find(f'metadata/{{urn:os-interface-ext:port:{port.id}}}nic')
            told += [found.get('installation', '')] if found is not None else []
        return told

    # As an earlier version has plugged it.
    plug(driver, server, port)
    assert notes(server) == []
    for installation in ('one', 'another'):
        fence = dataclasses.replace(contract.fence(), installation=installation)
        driver.plug(contract.member(server), server, port, fence)
        assert notes(server) == [installation] * 2
        assert machine.everywhere(server) == [port.id]
    unplug(driver, server, port.id)
    assert notes(server) == []
    with machine.defined(boots=False) as other:
        driver.plug(contract.member(other), other, port, fence)
        assert notes(other) == ['another'] * 2
        unplug(driver, other, port.id)
        assert notes(other) == []


@pytest.mark.parametrize(
    ('vif_type', 'details', 'expected'),
    [
        ('bridge', {'bridge_name': LINUX_BRIDGE}, (LINUX_BRIDGE, '')),
        ('bridge', {}, ('brq7e0c3f2d-3f', '')),
        ('ovs', {'bridge_name': OVS_BRIDGE}, (OVS_BRIDGE, 'openvswitch')),
        ('ovs', {}, ('br-int', 'openvswitch')),
        ('ovs', {'ovs_hybrid_plug': True}, None),
        ('vhostuser', {'bridge_name': OVS_BRIDGE}, None),
        (None, {}, None),
    ],
)
def test_without_a_mapping_the_binding_tells_the_bridge(
    machine: Machine, vif_type: str | None, details: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    machine.options |= {'ovs_bridges': {}}
    driver = machine.driver()
    with machine.defined(boots=False) as server:
        port = make_port(server, network_id=OVS_NETWORK, vif_type=vif_type, vif_details=details)
        if expected is None:
            with pytest.raises(exceptions.PlugFailed):
                plug(driver, server, port)
            assert machine.nics(server, live=False) == []
        else:
            plug(driver, server, port)
            told = nic(machine, server, live=False)
            assert (told['bridge'], told['switch']) == expected
            assert told['interfaceid'] == (port.id if expected[1] else '')


def test_a_star_stands_for_every_other_network(machine: Machine) -> None:
    driver = machine.driver(linux_bridges={'*': LINUX_BRIDGE}, ovs_bridges={OVS_NETWORK: OVS_BRIDGE})
    with machine.defined(boots=False) as server:
        bridges = [
            plug(driver, server, make_port(server, network_id=network))['bridge']
            for network in (OVS_NETWORK, str(uuid.uuid4()))
        ]
    assert bridges == [OVS_BRIDGE, LINUX_BRIDGE]


def test_one_port_by_many_at_once(machine: Machine) -> None:
    """Two processes' worth of drivers, each with a connection of its own."""
    drivers, (server, _) = [machine.driver() for _ in range(2)], machine.servers
    port = make_port(server)
    answers = contract.at_once(*[lambda driver=driver: plug(driver, server, port) for driver in drivers * 4])
    assert answers == [answers[0]] * 8
    assert isinstance(answers[0], dict)
    assert machine.everywhere(server) == [port.id]
    assert set(machine.guest(server).wait_for(port.mac_address)) == {port.mac_address}
    answers = contract.at_once(*[lambda driver=driver: unplug(driver, server, port.id) for driver in drivers * 4])
    assert answers == [None] * 8
    assert machine.hypervisor.taps() == set()


def test_what_somebody_has_taken_out_of_one_description_is_mended(machine: Machine) -> None:
    import libvirt

    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    machine.domain(server).detachDeviceAlias(f'ua-{port.id}', libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    assert machine.nics(server, live=False) == []
    assert plugged(driver, server) == {port.id}
    plug(driver, server, port)
    assert machine.everywhere(server) == [port.id]


# ---------------------------------------------------------------------- what is not ours


def test_nics_of_others_are_left_alone(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    foreign(machine, server, f"<mac address='{port.mac_address}'/>")
    assert plugged(driver, server) == set()
    unplug(driver, server, port.id)
    assert len(machine.hypervisor.nics(server.id, live=True)) == 1
    assert len(machine.hypervisor.nics(server.id, live=False)) == 1


def test_a_port_that_somebody_else_has_plugged(machine: Machine) -> None:
    """It is not taken for gone, and not plugged a second time."""
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    foreign(machine, server, f"<mac address='{port.mac_address}'/><target dev='tap{port.id[:11]}'/>")
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, server, port)
    with pytest.raises(exceptions.NotSupported):
        unplug(driver, server, port.id)
    for live in (True, False):
        assert nic(machine, server, live=live)['mac'] == port.mac_address


def test_a_port_that_another_domain_has(machine: Machine) -> None:
    """Never two NICs with one MAC address."""
    driver, (first, second) = machine.driver(), machine.servers
    port = make_port(first)
    plug(driver, first, port)
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, second, port)
    assert machine.everywhere(second) == []
    assert machine.everywhere(first) == [port.id]


# ---------------------------------------------------------------------- domains in other states


def test_a_stopped_domain_starts_with_its_nic_and_is_asked_again_while_it_boots(machine: Machine) -> None:
    driver = machine.driver(unplug_wait=30.0, unplug_repeat=1.0)
    with machine.defined() as server:
        first, second = (make_port(server) for _ in range(2))
        for port in (first, second):
            plug(driver, server, port)
        third = make_port(server)
        plug(driver, server, third)
        unplug(driver, server, third.id)
        assert machine.nics(server, live=True) == []
        assert sorted(machine.nics(server, live=False)) == sorted([first.id, second.id])
        domain = machine.domain(server)
        domain.create()
        asked = machine.proxy.calls.count(proxy.DETACH)
        # Its firmware does not hear it, and Linux does not come to know.
        unplug(driver, server, first.id)
        assert machine.proxy.calls.count(proxy.DETACH) > asked + 2
        assert machine.everywhere(server) == [second.id]
        with guest.connected(machine.hypervisor.console(server.id)) as shell:
            shell.wait()
            found = shell.wait_for(second.mac_address)
        assert found[second.mac_address][1] == MTU


def test_a_domain_that_is_not_defined(machine: Machine) -> None:
    """It has no configuration to be changed."""
    import libvirt

    driver = machine.driver(unplug_wait=0.2)
    with machine.defined(boots=False, runs=True) as server:
        domain = machine.domain(server)
        domain.undefine()
        port = make_port(server)
        plug(driver, server, port)
        assert not domain.isPersistent()
        assert machine.nics(server, live=True) == [port.id]
        assert plugged(driver, server) == {port.id}
        with pytest.raises(exceptions.InProgress):
            unplug(driver, server, port.id)
        domain.destroy()
        unplug(driver, server, port.id)
        with pytest.raises(libvirt.libvirtError):
            machine.domain(server)


def test_a_domain_that_ends_while_it_is_waited_for(machine: Machine) -> None:
    driver = machine.driver(unplug_wait=30.0)
    with machine.defined(boots=False, runs=True) as server:
        port = make_port(server)
        plug(driver, server, port)
        asked = machine.proxy.calls.count(proxy.DETACH)
        waiting = threading.Thread(target=unplug, args=(driver, server, port.id))
        waiting.start()
        wait_until(lambda: machine.proxy.calls.count(proxy.DETACH) > asked)
        machine.domain(server).destroy()
        waiting.join(20)
        assert not waiting.is_alive()
        assert machine.nics(server, live=False) == []


def test_a_saved_domain(machine: Machine) -> None:
    """It comes back with the devices that it had."""
    from os_interface_ext.drivers.servers import libvirt as servers

    driver = machine.driver()
    with machine.defined(boots=False, runs=True) as server:
        machine.domain(server).managedSave()
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, make_port(server))
        assert machine.nics(server, live=False) == []
        told = servers.LibvirtServerDriver(machine.conf()).get(contract.member(server), server.id)
        assert told == dataclasses.replace(server, vm_state='suspended')


def test_no_more_slots(machine: Machine) -> None:
    driver = machine.driver()
    with machine.defined(boots=False, runs=True, slots=2) as server:
        ports = [make_port(server) for _ in range(2)]
        for port in ports:
            plug(driver, server, port)
        for _ in range(2):
            with pytest.raises(exceptions.PlugFailed) as raised:
                plug(driver, server, make_port(server))
        assert 'slots' in str(raised.value)
        assert sorted(machine.everywhere(server)) == sorted(port.id for port in ports)
        assert len(machine.hypervisor.taps()) == 2


def test_a_slot_that_lets_nothing_go(machine: Machine) -> None:
    """A NIC that the machine was made with, on the root of its bus."""
    import libvirt

    driver = machine.driver()
    with machine.defined(boots=False) as server:
        port = make_port(server)
        description = (
            f"<interface type='bridge'><source bridge='{LINUX_BRIDGE}'/><mac address='{port.mac_address}'/>"
            f"<model type='virtio'/><alias name='ua-{port.id}'/>"
            "<address type='pci' domain='0' bus='0' slot='0x10' function='0'/></interface>"
        )
        domain = machine.domain(server)
        domain.attachDeviceFlags(description, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        domain.create()
        with pytest.raises(exceptions.NotSupported):
            unplug(driver, server, port.id)
        assert machine.everywhere(server) == [port.id]


def test_a_server_without_a_domain(machine: Machine) -> None:
    driver = machine.driver()
    for server_id in (str(uuid.uuid4()), *contract.ODD_IDS, machine.servers[0].id + ' '):
        server = base.Server(server_id, 'project-a')
        with pytest.raises(exceptions.PlugFailed):
            plug(driver, server, make_port(server))
        assert plugged(driver, server) == set()
        unplug(driver, server, str(uuid.uuid4()))


def test_odd_ports(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    for odd in contract.ODD_IDS:
        if odd not in ('_', '-1', 'None'):
            with pytest.raises(exceptions.PlugFailed):
                plug(driver, server, make_port(server, id=odd))
        unplug(driver, server, odd)
    assert machine.everywhere(server) == []
    port = make_port(server, id='a-port-with-a-name')
    told = plug(driver, server, port)
    assert machine.everywhere(server) == [port.id]
    assert len(told['host_interface']) == 14
    unplug(driver, server, port.id)


# ---------------------------------------------------------------------- Open vSwitch


@pytest.fixture
def switch(hypervisor: Hypervisor) -> Iterator[OpenVSwitch]:
    """Open vSwitch on the host, on its userspace datapath."""
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(hypervisor.switched())
        except databases.Unobtainable as error:
            pytest.skip(str(error))
        hypervisor.ip('address', 'add', '10.35.0.1/24', 'dev', OVS_BRIDGE)
        hypervisor.ip('link', 'set', OVS_BRIDGE, 'up')
        yield made


def test_on_a_bridge_of_open_vswitch(machine: Machine, switch: OpenVSwitch) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server, network_id=OVS_NETWORK)
    for _ in range(2):
        told = plug(driver, server, port)
    tap = told['host_interface']
    assert told == {'host_interface': tap, 'bridge': OVS_BRIDGE}
    assert switch.ports(OVS_BRIDGE) == {tap}
    told_to_agents = switch.interfaces()[tap]['external_ids']
    assert told_to_agents['iface-id'] == port.id
    assert told_to_agents['attached-mac'] == port.mac_address
    assert told_to_agents['vm-id'] == server.id
    shell = machine.guest(server)
    name, mtu = shell.wait_for(port.mac_address)[port.mac_address]
    assert mtu == MTU
    shell.run(f'ip address add 10.35.0.5/24 dev {name}; ip link set {name} up')
    assert shell.pings('10.35.0.1')
    unplug(driver, server, port.id)
    assert switch.ports(OVS_BRIDGE) == set()
    assert machine.everywhere(server) == []
    unplug(driver, server, port.id)


# ---------------------------------------------------------------------- a libvirtd that is not well


def test_a_libvirtd_that_was_restarted_is_not_noticed(machine: Machine) -> None:
    driver, (server, _) = machine.driver(), machine.servers
    port = make_port(server)
    for step in (lambda: plug(driver, server, port), lambda: unplug(driver, server, port.id)):
        with machine.hypervisor.away():
            pass
        step()
    assert machine.everywhere(server) == []


@pytest.mark.parametrize('is_own_process', [False, True], ids=['looking', 'with events'])
def test_killed_while_it_plugs(machine: Machine, is_own_process: bool) -> None:
    """Before it has begun, and when it is done: what the next one finds is one NIC, or none."""
    driver, (server, _) = machine.driver(is_own_process=is_own_process), machine.servers
    for at_reply in (False, True):
        port = make_port(server)
        with machine.killed_at(proxy.ATTACH, at_reply=at_reply), pytest.raises(exceptions.UnknownOutcome):
            plug(driver, server, port)
        with pytest.raises(exceptions.Unavailable):
            unplug(driver, server, port.id)
        machine.hypervisor.start()
        assert machine.everywhere(server) == ([port.id] if at_reply else [])
        plug(driver, server, port)
        assert machine.everywhere(server) == [port.id]
        unplug(driver, server, port.id)
        assert machine.everywhere(server) == []
        assert machine.hypervisor.taps() == set()


@pytest.mark.parametrize('is_own_process', [False, True], ids=['looking', 'with events'])
def test_killed_while_it_unplugs(machine: Machine, is_own_process: bool) -> None:
    """A guest that does not answer yet: libvirtd is gone, and comes back, while it is waited for."""
    driver, (server, _) = machine.driver(is_own_process=is_own_process), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    machine.domain(server).suspend()
    for at_reply in (False, True):
        with machine.killed_at(proxy.DETACH, at_reply=at_reply), pytest.raises(exceptions.UnknownOutcome):
            unplug(driver, server, port.id)
        machine.hypervisor.start()
        assert plugged(driver, server) == {port.id}
    # And while it waits.
    asked = machine.proxy.calls.count(proxy.DETACH)
    answers: list[BaseException | None] = []

    def wait() -> None:
        try:
            unplug(driver, server, port.id)
        except exceptions.DriverError as error:
            answers.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: machine.proxy.calls.count(proxy.DETACH) > asked)
    with machine.hypervisor.away():
        waiting.join(20)
    assert isinstance(answers[0], exceptions.Unavailable)
    machine.domain(server).resume()
    unplug(driver, server, port.id)
    assert machine.everywhere(server) == []
    machine.guest(server).wait_for()


@pytest.mark.parametrize('is_own_process', [False, True], ids=['looking', 'with events'])
def test_a_guest_outlives_the_next_libvirtd(machine: Machine, is_own_process: bool) -> None:
    """However often it was asked for its NIC while it gave that back."""
    import libvirt

    driver = machine.driver(is_own_process=is_own_process, unplug_wait=20.0, unplug_repeat=0.1)
    server = machine.servers[0]
    domain = machine.domain(server)
    for _ in range(3):
        port = make_port(server)
        plug(driver, server, port)
        machine.guest(server).wait_for(port.mac_address)
        domain.suspend()
        domain.detachDeviceAlias(f'ua-{port.id}', libvirt.VIR_DOMAIN_AFFECT_LIVE)
        domain.resume()
        while port.id in domain.XMLDesc(0):
            with contextlib.suppress(libvirt.libvirtError):
                domain.detachDeviceAlias(f'ua-{port.id}', libvirt.VIR_DOMAIN_AFFECT_LIVE)
        unplug(driver, server, port.id)
    with machine.hypervisor.away():
        pass
    assert machine.domain(server).isActive()
    assert machine.guest(server).nics() == {}


def test_a_libvirtd_that_stands_still(machine: Machine) -> None:
    driver, (server, _) = machine.driver(call_timeout=0.3), machine.servers
    port, other = (make_port(server) for _ in range(2))
    plug(driver, server, port)
    with machine.hypervisor.frozen():
        for call in (
            lambda: plugged(driver, server),
            lambda: driver.capabilities(contract.member(server), server),
            lambda: plug(driver, server, other),
            lambda: unplug(driver, server, port.id),
        ):
            with pytest.raises(exceptions.Unavailable):
                call()
    # Nothing of it is done later either.
    assert contract.settled(lambda: plugged(driver, server)) == {port.id}
    assert machine.everywhere(server) == [port.id]


def test_a_call_that_libvirtd_does_not_come_to(machine: Machine) -> None:
    """It has been sent: it may be done any time."""
    driver, (server, _) = machine.driver(call_timeout=0.3), machine.servers
    port = make_port(server)

    def freeze(procedure: int, is_reply: bool) -> bool:
        if procedure == proxy.ATTACH and not is_reply:
            machine.hypervisor.signal(signal.SIGSTOP)
        return False

    with machine.proxy.breaking(freeze), pytest.raises(exceptions.UnknownOutcome):
        plug(driver, server, port)
    machine.hypervisor.signal(signal.SIGCONT)
    # What is asked now comes after it.
    contract.settled(lambda: unplug(driver, server, port.id), tries=50)
    assert machine.everywhere(server) == []
    assert machine.hypervisor.taps() == set()


def test_a_qemu_that_stands_still(machine: Machine) -> None:
    """It holds up neither the changes of others, nor comes with a NIC when nobody expects one any more."""
    quick, driver, (other, _) = machine.driver(call_timeout=0.5), machine.driver(), machine.servers
    with machine.defined(boots=False, runs=True) as server:
        machine.domain(server).suspend()
        qemu = machine.hypervisor.qemu(server.id)
        ports = [make_port(server) for _ in range(6)]
        os.kill(qemu, signal.SIGSTOP)
        try:
            with pytest.raises(exceptions.UnknownOutcome):
                plug(quick, server, ports[0])
            with pytest.raises(exceptions.Unavailable):
                unplug(quick, server, ports[0].id)
            hung = [threading.Thread(target=_try, args=(driver, server, port)) for port in ports[1:]]
            asked = len(machine.proxy.calls)
            for thread in hung:
                thread.start()
            wait_until(lambda: len(machine.proxy.calls) >= asked + 5)
            port = make_port(other)
            plug(driver, other, port)
            unplug(driver, other, port.id)
        finally:
            os.kill(qemu, signal.SIGCONT)
        for thread in hung:
            thread.join(20)
        # What has come is found, and waits for the guest.
        wait_until(lambda: ports[0].id in plugged(driver, server))
        with pytest.raises(exceptions.InProgress):
            unplug(machine.driver(unplug_wait=0.0), server, ports[0].id)


def _try(driver: base.VIFDriver, server: base.Server, port: base.Port) -> None:
    with contextlib.suppress(exceptions.DriverError):
        plug(driver, server, port)


def test_a_domain_that_libvirt_itself_is_at(machine: Machine, tmp_path: pathlib.Path) -> None:
    """Its memory is being written to where nobody reads."""
    import libvirt

    driver = machine.driver(unplug_wait=0.0)
    with machine.defined(boots=False, runs=True) as server:
        port, other = make_port(server), make_port(server)
        plug(driver, server, port)
        domain, path = machine.domain(server), machine.hypervisor.folder / 'memory'
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

        def dump() -> None:
            flags = libvirt.VIR_DUMP_MEMORY_ONLY | libvirt.VIR_DUMP_LIVE
            with contextlib.suppress(libvirt.libvirtError):
                domain.coreDumpWithFormat(str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, flags)

        dumping = threading.Thread(target=dump)
        dumping.start()
        try:
            wait_until(lambda: domain.jobStats()['type'] != libvirt.VIR_DOMAIN_JOB_NONE)
            for call in (lambda: plug(driver, server, other), lambda: unplug(driver, server, port.id)):
                with pytest.raises(exceptions.Unavailable, match='libvirt itself'):
                    call()
            assert machine.everywhere(server) == [port.id]
        finally:
            os.close(reader)
            dumping.join(20)
            path.unlink()
        plug(driver, server, other)
        assert sorted(machine.everywhere(server)) == sorted([port.id, other.id])


def test_libvirt_tells_of_a_removal(machine: Machine) -> None:
    """Also over a connection that was opened after a libvirtd had died."""
    from os_interface_ext.drivers import libvirt_connection
    from os_interface_ext.drivers.vifs import libvirt as vifs

    conf, server = machine.conf(is_own_process=True), machine.servers[0]
    driver = vifs.LibvirtVIFDriver(conf)
    for _ in range(2):
        port = make_port(server)
        plug(driver, server, port)
        machine.guest(server).wait_for(port.mac_address)
        with libvirt_connection.Libvirt.of(conf).watched(f'ua-{port.id}') as removed:
            unplug(driver, server, port.id)
            assert removed.wait(guest.PATIENCE)
        with machine.hypervisor.away():
            pass


def test_whose_process_has_an_event_loop() -> None:
    from os_interface_ext.cmd import common

    assert not config.new([]).is_own_process
    assert common.configuration(argparse.Namespace(config_file=[], database=None)).is_own_process


def test_a_fork_has_a_connection_of_its_own(machine: Machine) -> None:
    driver, (server, _) = machine.driver(is_own_process=True), machine.servers
    port = make_port(server)
    plug(driver, server, port)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert plugged(driver, server) == {port.id}
            unplug(driver, server, port.id)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert plugged(driver, server) == set()
    plug(driver, server, port)
    assert machine.everywhere(server) == [port.id]


def test_nothing_grows(machine: Machine) -> None:
    driver, (server, _) = machine.driver(is_own_process=True), machine.servers

    def held() -> tuple[int, int]:
        return len(os.listdir('/proc/self/fd')), threading.active_count()

    for number in range(10):
        port = make_port(server)
        plug(driver, server, port)
        unplug(driver, server, port.id)
        if number == 2:
            before = held()
    wait_until(lambda: held() == before)


# ---------------------------------------------------------------------- configuration


def test_a_hypervisor_that_plugs_nothing(machine: Machine) -> None:
    """The test driver of libvirt itself: domains, but no hot-plug."""
    machine.options['uri'] = 'test:///default'
    driver = machine.driver()
    server = base.Server('6695eb01-f6a4-8304-79aa-97f2502e193f', 'project-a')
    assert driver.capabilities(contract.member(server), server) == frozenset()
    with pytest.raises(exceptions.NotSupported):
        plug(driver, server, make_port(server))
    with pytest.raises(exceptions.NotSupported):
        unplug(driver, server, str(uuid.uuid4()))
    with pytest.raises(exceptions.NotSupported):
        plugged(driver, server)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'uri': 'qemu'}, r"\[libvirt\] uri: 'qemu' .* qemu:///system"),
        ({'uri': ''}, r'\[libvirt\] uri'),
        ({'call_timeout': 15.0}, r'\[libvirt\] call_timeout: 15 s .* \[attachments\] lease, 15 s'),
        ({'linux_bridges': {'*': 'a'}, 'ovs_bridges': {'*': 'b'}}, r'\[libvirt\] ovs_bridges: '),
    ],
)
def test_bad_options_end_the_start(machine: Machine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(exceptions.ConfigurationError, match=words):
        machine.driver(**options)


def test_options_from_a_file(machine: Machine, tmp_path: pathlib.Path) -> None:
    from os_interface_ext.drivers import loader

    path = tmp_path / 'osif.conf'
    path.write_text('[libvirt]\nlinux_bridges = a:br-a, *:br-b\nuri = qemu+unix:///system?socket=/nowhere\n')
    conf = config.new([str(path)])
    drivers = [loader.load(kind, 'libvirt', conf) for kind in (loader.SERVER, loader.VIF)]
    assert conf.libvirt.linux_bridges == {'a': 'br-a', '*': 'br-b'}
    server = base.Server(str(uuid.uuid4()), 'project-a')
    with pytest.raises(exceptions.Unavailable, match='nowhere'):
        drivers[0].get(contract.member(server), server.id)
    with pytest.raises(exceptions.Unavailable, match='nowhere'):
        plugged(drivers[1], server)
    path.write_text('[libvirt]\nmodel = a b\n')
    with pytest.raises(exceptions.ConfigurationError, match=r'\[libvirt\] model'):
        loader.load(loader.VIF, 'libvirt', config.new([str(path)]))
