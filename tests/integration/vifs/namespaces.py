"""Network namespaces that a test makes, looked at and used behind the driver's back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

T = TypeVar('T')

_NAMESPACES = '/run/netns'
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def require() -> None:
    """Skip what asks where no namespace can be made."""
    missing = _missing()
    if missing is not None:
        pytest.skip(missing)


def _missing() -> str | None:
    if os.geteuid() != 0:
        return 'network namespaces are made by root'
    if shutil.which('ip') is None:
        return 'network namespaces are made with iproute2, which is not installed'
    name = f'osif-probe-{uuid.uuid4().hex[:8]}'
    with contextlib.suppress(OSError, subprocess.CalledProcessError), made(name):
        _ip('-n', name, 'link', 'add', 'probe-0', 'type', 'veth', 'peer', 'name', 'probe-1')
        _ip('-n', name, 'link', 'add', 'probe-2', 'type', 'bridge')
        return None
    return 'this machine lets nobody make a network namespace with a veth pair and a bridge'


@contextlib.contextmanager
def made(*names: str) -> Iterator[None]:
    """Namespaces for the time of a block."""
    with contextlib.ExitStack() as stack:
        for name in names:
            _ip('netns', 'add', name)
            stack.callback(remove, name)
        yield


def remove(name: str) -> None:
    """Take the name away; the namespace ends when nobody is in it."""
    if os.path.exists(f'{_NAMESPACES}/{name}'):
        _ip('netns', 'del', name)


def set_up(name: str, interface: str) -> None:
    _ip('-n', name, 'link', 'set', interface, 'up')


@contextlib.contextmanager
def stranger(name: str, interface: str) -> Iterator[None]:
    """A veth pair of somebody else's for the time of a block."""
    _ip('-n', name, 'link', 'add', interface, 'type', 'veth', 'peer', 'name', f'{interface}p')
    yield
    _ip('-n', name, 'link', 'del', interface)


def links(name: str) -> list[dict[str, Any]]:
    """All but those that every namespace has."""
    found = json.loads(_ip('-n', name, '-d', '-j', 'address', 'show'))
    return [link for link in found if link.get('ifname') != 'lo']


def addresses(link: dict[str, Any]) -> set[str]:
    """Those that were given to a link, with their prefixes."""
    return {f'{one["local"]}/{one["prefixlen"]}' for one in link['addr_info'] if one.get('scope') == 'global'}


def is_up(link: dict[str, Any]) -> bool:
    """Of an end of a veth pair these flags are there at once; its operational state follows a little later."""
    return {'UP', 'LOWER_UP'} <= set(link['flags'])


def come_up(name: str, patience: float = 10.0) -> bool:
    """Whether all links do. A bridge has no carrier before a port of its own forwards, for which the kernel waits
    until the port's operational state has followed."""
    begun = time.monotonic()
    while not all(is_up(link) for link in links(name)):
        if time.monotonic() > begun + patience:
            return False
        time.sleep(0.02)
    return True


def ports(name: str) -> list[str]:
    """The ports whose NIC is complete in a namespace, one for each NIC."""
    aliases = (link.get('ifalias') or '' for link in links(name))
    return [alias.removeprefix('osif:') for alias in aliases if alias.startswith('osif:')]


def _ip(*arguments: str) -> str:
    return subprocess.run(['ip', *arguments], check=True, capture_output=True, text=True).stdout


# ---------------------------------------------------------------------- traffic


def within(name: str, work: Callable[[], T]) -> T:
    """Do something in a namespace: in a thread of its own."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            with open(f'{_NAMESPACES}/{name}') as file:
                assert _libc.setns(file.fileno(), _CLONE_NEWNET) == 0
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return future.result()


def pings(name: str, address: str, patience: float = 2.0) -> bool:
    """Whether an address answers to an ICMP echo out of a namespace."""
    return within(name, lambda: _ping(address, patience))


def _ping(address: str, patience: float) -> bool:
    is_v6 = ':' in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if is_v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, reply = (128, 129) if is_v6 else (8, 0)
    token = uuid.uuid4().bytes
    begun = time.monotonic()
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(0.2)
        while time.monotonic() < begun + patience:
            message = struct.pack('!BBHHH', request, 0, 0, 1, 1) + token
            message = message[:2] + struct.pack('!H', _checksum(message)) + message[4:]
            with contextlib.suppress(OSError):
                sock.sendto(message, (address, 0))
                while True:
                    answer, peer = sock.recvfrom(1500)
                    body = answer if is_v6 else answer[(answer[0] & 0xF) * 4 :]
                    if body[0] == reply and body[8:] == token and peer[0] == address:
                        return True
            # A host that is not to be reached is an error at once.
            time.sleep(0.02)
    return False


def _checksum(message: bytes) -> int:
    total = sum(struct.unpack(f'!{len(message) // 2}H', message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
