"""Calls to a VIF driver as requests make them, and the ports that they are about."""

from __future__ import annotations

import ipaddress
import itertools
import uuid
from collections.abc import Callable
from typing import Any

from os_interface_ext.drivers import base
from os_interface_ext.testing import contract

MakePort = Callable[..., base.Port]

_numbers = itertools.count(10)


def makes_ports(*subnets: str, **fields: Any) -> MakePort:
    """``make_port(server, **fields)``: a port bound to it, with a MAC address of its own and an address in each
    subnet; ``fields`` are those of all ports."""
    networks = [ipaddress.ip_network(subnet) for subnet in subnets]

    def make_port(server: base.Server, **more: Any) -> base.Port:
        number = next(_numbers)
        values: dict[str, Any] = {
            'id': str(uuid.uuid4()),
            'mac_address': f'fa:16:3e:00:{number >> 8:02x}:{number & 0xFF:02x}',
            'project_id': server.project_id,
            'fixed_ips': tuple(
                base.FixedIP(f'v{one.version}', str(one[number]), one.prefixlen) for one in networks
            ),
            'device_id': server.id,
        }
        return base.Port(**values | fields | more)

    return make_port


def plug(driver: base.VIFDriver, server: base.Server, port: base.Port) -> dict[str, Any]:
    return driver.plug(contract.member(server), server, port, contract.fence())


def unplug(driver: base.VIFDriver, server: base.Server, port_id: str) -> None:
    driver.unplug(contract.member(server), server, port_id, {}, contract.fence())


def plugged(driver: base.VIFDriver, server: base.Server) -> set[str]:
    return driver.plugged(contract.member(server), server)
