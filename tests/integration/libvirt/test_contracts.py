"""The public contract suites against a real libvirtd, its servers being guests that run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from os_interface_ext.testing import servers, vifs

from .conftest import NO_NETWORK, Machine, make_port

pytestmark = pytest.mark.service


class TestVIFDriver(vifs.VIFDriverContract):
    """As in a host's process: without libvirt's event loop."""

    is_own_process = False

    @pytest.fixture
    def backend(self, machine: Machine) -> vifs.VIFBackend:
        return vifs.VIFBackend(
            driver=machine.driver(is_own_process=self.is_own_process),
            server=machine.servers[0],
            other_server=machine.servers[1],
            make_port=make_port,
            nics=machine.everywhere,
            make_port_without_use=lambda server: make_port(server, network_id=NO_NETWORK),
            unreachable=machine.hypervisor.away,
            answers_lost=machine.proxy.losing_answers,
        )


class TestVIFDriverWithEvents(TestVIFDriver):
    """As in a process of this project."""

    is_own_process = True


class TestServerDriver(servers.ServerDriverContract):
    @pytest.fixture
    def backend(self, machine: Machine) -> Iterator[servers.ServerBackend]:
        from os_interface_ext.drivers.servers import libvirt

        with machine.defined(boots=False) as server:
            yield servers.ServerBackend(
                driver=libvirt.LibvirtServerDriver(machine.conf()),
                server=dataclasses.replace(server, vm_state='stopped'),
                foreign_server=machine.servers[1],
                remove_server=lambda server_id: machine.hypervisor.undefine(machine.hypervisor.find(server_id)),
                unreachable=machine.hypervisor.away,
            )
