"""Addresses as numbers, and their keys: texts whose order is the order of the numbers."""

from __future__ import annotations

import dataclasses
import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CLASSES = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}


def key(number: int) -> str:
    """The number as 32 hexadecimal digits."""
    return f'{number:032x}'


def number(text: str) -> int:
    """The number of an address."""
    return int(ipaddress.ip_address(text))


def text(number: int, version: int) -> str:
    """The canonical text of an address."""
    return str(_CLASSES[version](number))


@dataclasses.dataclass(frozen=True, slots=True)
class Subnet:
    id: str
    network: Network
    gateway: Address | None

    @classmethod
    def of(cls, subnet_id: str, cidr: str, gateway_ip: str | None) -> Subnet:
        """:raises ValueError: no cidr, or no address"""
        gateway = None if gateway_ip is None else ipaddress.ip_address(gateway_ip)
        return cls(subnet_id, ipaddress.ip_network(cidr), gateway)

    @property
    def version(self) -> int:
        return self.network.version

    @property
    def first(self) -> int:
        return int(self.network.network_address)

    @property
    def last(self) -> int:
        return int(self.network.broadcast_address)

    @property
    def unusable(self) -> frozenset[int]:
        """The addresses that no device can have: network and broadcast (4), subnet-router anycast (6)."""
        if self.first >= self.last - 1:
            return frozenset()
        return frozenset({self.first, self.last} if self.version == 4 else {self.first})

    @property
    def reserved(self) -> frozenset[int]:
        """The addresses that are never given to a port."""
        return self.unusable if self.gateway is None else self.unusable | {int(self.gateway)}

    def default_pools(self) -> list[tuple[int, int]]:
        """All hosts but the gateway, as first and last of each pool."""
        lowest, highest = self.first, self.last
        if self.unusable:
            lowest, highest = lowest + 1, highest - (self.version == 4)
        if self.gateway is None:
            return [(lowest, highest)]
        middle = int(self.gateway)
        sides = [(lowest, min(highest, middle - 1)), (max(lowest, middle + 1), highest)]
        return [(first, last) for first, last in sides if first <= last]
