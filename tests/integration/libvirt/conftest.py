"""A host with two servers that run Linux, both without a NIC when a test begins."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from os_interface_ext import conf as config
from os_interface_ext.conf import libvirt as libvirt_options
from os_interface_ext.drivers import base
from tests.integration.vifs import plugging
from tests.services.libvirt import guest, proxy
from tests.services.libvirt.hypervisor import LINUX_BRIDGE, OVS_BRIDGE, Hypervisor

PROJECT, OTHER_PROJECT = 'project-a', 'project-b'
#: The networks of the tests: on the Linux bridge, on that of Open vSwitch, and on one that is not there.
NETWORK = '5bcc01ca-7e46-427a-9fdf-042bd9b0125c'
OVS_NETWORK = '7e0c3f2d-3f0e-4c53-9f49-6ab2a5a1b1a2'
NO_NETWORK = 'c2bd0cf7-8a39-4d31-8f0b-0a1b1c39b1c3'
MTU = 1420


def metadata(project: str) -> str:
    """What a domain says of its project."""
    return f'<osif:server xmlns:osif="urn:os-interface-ext:server:1" project="{project}"/>'


@dataclasses.dataclass
class Machine:
    """The host; ``servers`` are the two that run, ``guests`` their shells."""

    hypervisor: Hypervisor
    servers: tuple[base.Server, base.Server]
    guests: dict[str, guest.Guest]
    options: dict[str, Any]
    #: between the drivers and libvirtd
    proxy: proxy.Proxy

    def conf(self, *, is_own_process: bool = False, **groups: Any) -> Any:
        """A configuration of a host's process, or of one of ours, which may run libvirt's event loop."""
        conf = config.new([], **groups)
        conf.is_own_process = is_own_process
        libvirt_options.register_opts(conf)
        for name, value in self.options.items():
            conf.set_override(name, value, group='libvirt')
        return conf

    def driver(self, *, is_own_process: bool = False, **options: Any) -> base.VIFDriver:
        from os_interface_ext.drivers.vifs import libvirt as vifs

        conf = self.conf(is_own_process=is_own_process)
        for name, value in options.items():
            conf.set_override(name, value, group='libvirt')
        return vifs.LibvirtVIFDriver(conf)

    def guest(self, server: base.Server) -> guest.Guest:
        return self.guests[server.id]

    def domain(self, server: base.Server) -> Any:
        return self.hypervisor.find(server.id)

    def nics(self, server: base.Server, *, live: bool) -> list[str]:
        """The ports of a domain's NICs, one for each NIC with an alias of ours, as it runs or is configured."""
        aliases = []
        for nic in self.hypervisor.nics(server.id, live=live):
            alias = nic.find('alias')
            name = alias.get('name', '') if alias is not None else ''
            if name.startswith('ua-'):
                aliases.append(name.removeprefix('ua-'))
        return aliases

    def everywhere(self, server: base.Server) -> list[str]:
        """The ports of the NICs of a domain that runs, which must be the same in both descriptions of it."""
        live, configured = (self.nics(server, live=live) for live in (True, False))
        assert sorted(live) == sorted(configured)
        return live

    @contextlib.contextmanager
    def defined(self, *, runs: bool = False, **options: Any) -> Iterator[base.Server]:
        """One more server for the time of a block; without ``boots`` it never answers."""
        name = f'osif-{uuid.uuid4().hex[:8]}'
        domain = self.hypervisor.define(name, metadata=metadata(PROJECT), **options)
        try:
            if runs:
                domain.create()
            yield base.Server(domain.UUIDString(), PROJECT, name=name, host=domain.connect().getHostname())
        finally:
            self.hypervisor.undefine(domain)

    def clear(self) -> None:
        """Take out whatever the two servers have."""
        import libvirt

        deadline = time.monotonic() + guest.PATIENCE
        for server in self.servers:
            domain = self.domain(server)
            if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                domain.resume()
            while left := [
                (live, nic) for live in (True, False) for nic in self.hypervisor.nics(server.id, live=live)
            ]:
                assert time.monotonic() < deadline, 'a NIC does not go'
                for live, nic in left:
                    alias = nic.find('alias')
                    where = libvirt.VIR_DOMAIN_AFFECT_LIVE if live else libvirt.VIR_DOMAIN_AFFECT_CONFIG
                    with contextlib.suppress(libvirt.libvirtError):
                        if alias is not None:
                            domain.detachDeviceAlias(alias.get('name'), where)
                        else:
                            domain.detachDeviceFlags(ElementTree.tostring(nic, encoding='unicode'), where)
                time.sleep(0.1)
        self.hypervisor.settle()

    @contextlib.contextmanager
    def killed_at(self, procedure: int, *, at_reply: bool) -> Iterator[None]:
        """Within the block libvirtd is killed when it is sent a message, or when it has answered it."""
        self.hypervisor.settle()

        def kill(passing: int, is_reply: bool) -> bool:
            if passing != procedure or is_reply != at_reply:
                return False
            self.hypervisor.kill()
            return True

        with self.proxy.breaking(kill):
            yield


@pytest.fixture(scope='session')
def _machine(hypervisor: Hypervisor) -> Iterator[Machine]:
    with contextlib.ExitStack() as stack:
        domains = [
            hypervisor.define(name, metadata=metadata(project))
            for name, project in (('web', PROJECT), ('db', OTHER_PROJECT))
        ]
        shells = {}
        for domain in domains:
            stack.callback(hypervisor.undefine, domain)
            domain.create()
            server_id = domain.UUIDString()
            shells[server_id] = stack.enter_context(guest.connected(hypervisor.console(server_id)))
        for shell in shells.values():
            shell.wait()
        host = domains[0].connect().getHostname()
        servers = tuple(
            base.Server(domain.UUIDString(), project, name=domain.name(), host=host)
            for domain, project in zip(domains, (PROJECT, OTHER_PROJECT), strict=True)
        )
        between = stack.enter_context(
            proxy.listening(hypervisor.folder / 'proxy', hypervisor.folder / 'run/libvirt-sock')
        )
        assert len(servers) == 2
        yield Machine(hypervisor, servers, shells, {}, between)


@pytest.fixture
def machine(_machine: Machine) -> Iterator[Machine]:
    _machine.options = {
        'uri': _machine.proxy.uri,
        'linux_bridges': {NETWORK: LINUX_BRIDGE, NO_NETWORK: 'br-nowhere'},
        'ovs_bridges': {OVS_NETWORK: OVS_BRIDGE},
        'call_timeout': 5.0,
    }
    yield _machine
    _machine.clear()
    assert _machine.hypervisor.taps() == set()


make_port = plugging.makes_ports('10.34.0.0/20', network_id=NETWORK, mtu=MTU)


def foreign(machine: Machine, server: base.Server, more: str) -> None:
    """Have a NIC plugged by somebody else; ``more`` is what stands in its description."""
    import libvirt

    description = (
        f"<interface type='bridge'><source bridge='{LINUX_BRIDGE}'/><model type='virtio'/>{more}</interface>"
    )
    both = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
    machine.domain(server).attachDeviceFlags(description, both)
