"""Plugs into network namespaces of this machine: a veth pair for each port, a Linux bridge for each network.

A server is a network namespace that somebody else has made. Of each pair one end is in there, born with the
port's MAC address, and the other one in the bridge of the port's network, among the host's links. Both ends
come with one request to the kernel, and go with one; whatever follows the first is repeated by the next plug.

**What is ours.** Names follow from the ids (``osv…`` of a port, ``osb…`` of a network), and the alias of a
link tells whose it is (``osif:…``). The kernel takes no alias together with a new link: until it has one, the
MAC address, which follows from the ids as well, tells the same. No other link is ever touched.

**Who waits for whom.** A bridge is made with its first port and goes with its last; so that both do not
happen at once, plug and unplug hold a lock: one for the machine, as the kernel too changes its links one by
one. It is a lock of an open file, gone with its process.

**Threads.** Each call has a thread that is made for it and ends with it, as namespaces have to be entered.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import ipaddress
import itertools
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg
from pyroute2.netlink.exceptions import NetlinkError

from os_interface_ext import exceptions
from os_interface_ext.conf import netns as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, links

T = TypeVar('T')

GROUP = options.GROUP.name

_PORT = 'osif:'
#: What follows in the alias of a host's end: the installation that has plugged it.
_BY = '#'
_NETWORK = 'osif-network:'
#: Names that are tried, when somebody else takes them at the same time.
_NAMES = 10
#: What a process needs for links and for namespaces (linux/capability.h).
_CAPABILITIES = {'CAP_NET_ADMIN': 12, 'CAP_SYS_ADMIN': 21}
#: Seconds that a check may take.
_PATIENCE = 5.0
#: Seconds from one look at the lock to the next.
_LOOK = 0.002


class NetnsVIFDriver(base.VIFDriver):
    """Options: the group ``[netns]``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        self._conf = conf[GROUP]

    def check(self, ctxt: RequestContext) -> None:
        """Whether namespaces can be entered and links be made, by this process."""

        def work() -> None:
            self._require_what_is_needed()
            with self._host(base.Fence(0, time.monotonic() + _PATIENCE)):
                pass

        _apart(work)

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """No tags: a namespace has no place where whoever is inside could read one."""
        return frozenset({base.LIVE_UNPLUG, base.vnic_capability(base.NORMAL)})

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """The names of both ends.

        :raises PlugFailed: the server has no namespace, or its kernel does not take the NIC
        """
        nic = _Nic(port.id, server.id, fence.installation)
        if len(nic.alias.encode()) > links.LONGEST_ALIAS:
            raise exceptions.PlugFailed(operator=f'the ids of port {port.id} and its server are too long')

        def work() -> dict[str, Any]:
            with contextlib.ExitStack() as stack:
                try:
                    guest = stack.enter_context(self._server(server, fence))
                except links.NoNamespace as error:
                    raise exceptions.PlugFailed(operator=str(error)) from error
                host = stack.enter_context(self._host(fence))
                stack.enter_context(self._lock(fence))
                try:
                    return self._plug(host, guest, nic, port)
                except (exceptions.PlugFailed, NetlinkError, ValueError) as error:
                    _remove(host, guest, nic)
                    if isinstance(error, exceptions.PlugFailed):
                        raise
                    if isinstance(error, NetlinkError) and error.code in links.EXHAUSTED:
                        raise
                    raise exceptions.PlugFailed(operator=f'port {port.id}: {error}') from error

        return _apart(work)

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        """A namespace that is gone has taken its ends along; what is left on the host goes all the same."""

        def work() -> None:
            with contextlib.ExitStack() as stack:
                guest = None
                with contextlib.suppress(links.NoNamespace):
                    guest = stack.enter_context(self._server(server, fence))
                host = stack.enter_context(self._host(fence))
                stack.enter_context(self._lock(fence))
                _remove(host, guest, _Nic(port_id, server.id))

        _apart(work)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """Those that are complete; a namespace that is not there has none."""

        def work() -> set[str]:
            try:
                with self._server(server, base.Fence(0, 0.0)) as guest:
                    aliases = [link.get('ifalias') or '' for link in guest.of_kind('veth')]
            except links.NoNamespace:
                return set()
            return {alias.removeprefix(_PORT) for alias in aliases if alias.startswith(_PORT)}

        return _apart(work)

    def find_plugged(self, ctxt: RequestContext, installation: str) -> set[tuple[str, str]]:
        """By the ends on the host: what is half made, and has no alias yet, is not found."""

        def work() -> set[tuple[str, str]]:
            with self._host(base.Fence(0, 0.0)) as host:
                aliases = [link.get('ifalias') or '' for link in host.of_kind('veth')]
            found = set()
            for alias in aliases:
                ids, _, by = alias.removeprefix(_PORT).partition(_BY)
                port_id, _, server_id = ids.partition(':')
                if alias.startswith(_PORT) and server_id and base.may_be_of(installation, by):
                    found.add((server_id, port_id))
            return found

        return _apart(work)

    # ------------------------------------------------------------------ within

    def _require_what_is_needed(self) -> None:
        """:raises Unavailable: it is not there, or not for this process"""
        where = links.path_of(self._conf.namespace)
        if not os.path.isdir(folder := os.path.dirname(where.partition('{')[0])):
            raise exceptions.Unavailable(
                operator=f'option [{GROUP}] namespace: {folder} is not there',
                operator_cure=f'make the namespaces of the servers (ip netns add), or correct [{GROUP}] namespace',
            )
        lacking = [name for name, bit in _CAPABILITIES.items() if not _effective() >> bit & 1]
        if lacking:
            raise exceptions.Unavailable(
                operator=f'this process lacks {" and ".join(lacking)}',
                operator_cure='run it as root, or give its unit AmbientCapabilities with these',
            )
        lock = self._lock_file().absolute()
        # What is not there yet is made by the first plug.
        there = next(path for path in (lock, *lock.parents) if os.path.lexists(path))
        is_right, mode = (there.is_file(), os.R_OK) if there == lock else (there.is_dir(), os.X_OK)
        if not is_right or not os.access(there, os.W_OK | mode):
            raise exceptions.Unavailable(
                operator=f'option [{GROUP}] lock_path: {there} cannot be written to',
                operator_cure=f'give the directory to the user of this process, or correct [{GROUP}] lock_path',
            )

    def _plug(self, host: links.Links, guest: links.Links, nic: _Nic, port: base.Port) -> dict[str, Any]:
        bridge = _bridge(host, port.network_id)
        pair = _pair(host, guest, nic, port.mac_address.lower())
        if pair is None:
            pair = self._make_pair(host, guest, nic, port, bridge)
        end, inner = pair
        if end.get('ifalias') != nic.alias:
            # A new one: the other end is not up yet, hence this one has no address either.
            host.change('set', index=end['index'], ifalias=nic.alias, IFLA_AF_SPEC=links.NO_ADDRESS)
        host.adapt(end, master=bridge['index'], mtu=port.mtu, state='up')
        present = guest.addresses(inner)
        for address in (self._address(ip) for ip in port.fixed_ips):
            if address not in present:
                guest.add_address(inner, address)
        # The alias at last: what has it is complete.
        guest.adapt(inner, address=port.mac_address.lower(), mtu=port.mtu, state='up')
        guest.adapt(inner, ifalias=nic.inner_alias)
        return {'host_interface': nic.name, 'interface': inner.get('ifname')}

    def _make_pair(
        self, host: links.Links, guest: links.Links, nic: _Nic, port: base.Port, bridge: Any
    ) -> tuple[Any, Any]:
        size = {} if port.mtu is None else {'mtu': port.mtu}
        for _ in range(_NAMES):
            taken = {link.get('ifname') for link in guest.all()}
            names = (f'{self._conf.interface}{number}' for number in itertools.count())
            name = next(name for name in names if name not in taken)
            inside = {'ifname': name, 'address': port.mac_address, 'net_ns_fd': guest.fd, **size}
            try:
                host.change(
                    'add',
                    kind='veth',
                    ifname=nic.name,
                    address=nic.mac,
                    master=bridge['index'],
                    peer=inside,
                    **size,
                )
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                continue
            end, inner = host.find(nic.name), guest.find(name)
            if end is None or inner is None:
                raise exceptions.PlugFailed(operator=f'{nic.name} or {name} has been taken away')
            return end, inner
        raise exceptions.PlugFailed(operator=f'no name of {_NAMES} was free for port {port.id}')

    def _address(self, ip: base.FixedIP) -> str:
        """:raises ValueError: it is none"""
        version = ipaddress.ip_address(ip.ip_address).version
        length = ip.prefix_length
        if length is None:
            length = self._conf.prefix_v4 if version == 4 else self._conf.prefix_v6
        return str(ipaddress.ip_interface(f'{ip.ip_address}/{length}'))

    # ------------------------------------------------------------------ where

    @contextlib.contextmanager
    def _host(self, fence: base.Fence) -> Iterator[links.Links]:
        try:
            with links.opened(links.path_of(self._conf.host_namespace), fence.check) as host:
                yield host
        except links.NoNamespace as error:
            raise exceptions.Unavailable(operator=f'option [{GROUP}] host_namespace: {error}') from error

    def _server(self, server: base.Server, fence: base.Fence) -> contextlib.AbstractContextManager[links.Links]:
        """:raises links.NoNamespace: when it is entered"""
        values = {'{id}': server.id, '{name}': server.name}
        name = self._conf.namespace
        for key, value in values.items():
            if key in name and (value in ('', '.', '..') or '/' in value or '\0' in value):
                # No name leads to another place.
                name = '\0'
            name = name.replace(key, value)
        return links.opened(links.path_of(name), fence.check)

    def _lock_file(self) -> pathlib.Path:
        return pathlib.Path(self._conf.lock_path) / 'netns.lock'

    @contextlib.contextmanager
    def _lock(self, fence: base.Fence) -> Iterator[None]:
        """:raises Unavailable: somebody has it for all the time that there is, or it cannot be made"""
        path = self._lock_file()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise exceptions.Unavailable(operator=f'option [{GROUP}] lock_path: {error}') from error
        try:
            while not _is_locked(fd):
                if not fence.remaining():
                    raise exceptions.DeadlinePassed(operator='other plugs have taken all the time')
                time.sleep(_LOOK)
            yield
        finally:
            os.close(fd)


def _is_locked(fd: int) -> bool:
    """Lock a file, unless somebody else has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _effective() -> int:
    """The capabilities of this thread, one bit each."""
    status = pathlib.Path('/proc/thread-self/status').read_text()
    return int(next(line for line in status.splitlines() if line.startswith('CapEff:')).split()[1], 16)


class _Nic:
    """What follows from the ids of a port and its server.

    :param installation: the one that plugs it; empty: that is not known
    """

    def __init__(self, port_id: str, server_id: str, installation: str = '') -> None:
        self.name = f'osv{_digest(port_id)}'
        self._ids = f'{_PORT}{port_id}:{server_id}'
        self.alias = f'{self._ids}{_BY}{installation}' if installation else self._ids
        self.inner_alias = f'{_PORT}{port_id}'
        self.mac = links.mac_address(_digest(self._ids))

    def owns(self, end: Any) -> bool:
        """Whether a host's end is this one's, whoever has plugged it, and be it without its alias yet."""
        alias = end.get('ifalias') or ''
        is_new = not alias and end.get('address') == self.mac
        return is_new or alias == self._ids or alias.startswith(f'{self._ids}{_BY}')


def _is_of_another_server(end: Any) -> bool:
    return (end.get('ifalias') or '').startswith(_PORT)


def _pair(host: links.Links, guest: links.Links, nic: _Nic, mac_address: str) -> tuple[Any, Any] | None:
    """Both ends, with as much as they have yet; of a pair that is of no use nothing is left.

    :raises PlugFailed: something else has the name
    """
    end = host.find(nic.name)
    if end is not None:
        if nic.owns(end):
            for inner in guest.of_kind('veth'):
                # Each has to name the other: a number alone is taken in many namespaces.
                linked = end.get('link') == inner['index'] and inner.get('link') == end['index']
                if linked and (inner.get('ifalias') or inner.get('address')) in (nic.inner_alias, mac_address):
                    return end, inner
        elif not _is_of_another_server(end):
            raise exceptions.PlugFailed(operator=f'{nic.name} is there, and not ours')
        # Of a namespace that is no more, or of a server that has the port no more.
        host.change('del', index=end['index'])
    _remove_inner(guest, nic)
    return None


def _remove(host: links.Links, guest: links.Links | None, nic: _Nic) -> None:
    """Take out a NIC, and the bridge if it was its last one."""
    end = host.find(nic.name)
    is_ours = end is not None and nic.owns(end)
    if is_ours:
        host.change('del', index=end['index'])
    if guest is not None:
        _remove_inner(guest, nic)
    master = end.get('master') if is_ours else None
    if master:
        bridges = host.get(master)
    else:
        # It may be any that a crash has left.
        bridges = host.of_kind('bridge')
    for bridge in bridges:
        if _is_our_bridge(bridge) and not host.ports(bridge):
            host.change('del', index=bridge['index'])


def _remove_inner(guest: links.Links, nic: _Nic) -> None:
    """The end in the server's namespace, whose other one has been renamed or put elsewhere."""
    for link in guest.of_kind('veth'):
        if link.get('ifalias') == nic.inner_alias:
            guest.change('del', index=link['index'])


def _bridge(host: links.Links, network_id: str) -> Any:
    """The bridge of a network, made if there is none.

    :raises PlugFailed: something else has its name
    """
    digest = _digest(network_id)
    name = f'osb{digest}'
    bridge = host.find(name)
    if bridge is None:
        host.change(
            'add',
            kind='bridge',
            ifname=name,
            address=links.mac_address(digest),
            br_stp_state=0,
            br_forward_delay=0,
        )
        bridge = host.find(name)
    if bridge is None or not _is_our_bridge(bridge):
        raise exceptions.PlugFailed(operator=f'{name} is there, and not the bridge of network {network_id}')
    if not bridge.get('ifalias'):
        alias = f'{_NETWORK}{network_id}'[: links.LONGEST_ALIAS]
        host.change('set', index=bridge['index'], ifalias=alias, IFLA_AF_SPEC=links.NO_ADDRESS)
    host.adapt(bridge, state='up')
    return bridge


def _is_our_bridge(link: Any) -> bool:
    name, alias = link.get('ifname'), link.get('ifalias') or ''
    if alias:
        return bool(alias.startswith(_NETWORK))
    return bool(name.startswith('osb')) and link.get('address') == links.mac_address(name[3:])


def _digest(identifier: str) -> str:
    """12 digits for any id: with a prefix of three, as many as a name has."""
    return hashlib.sha256(identifier.encode(errors='surrogatepass')).hexdigest()[:12]


def _apart(work: Callable[[], T]) -> T:
    """Do it in a thread of its own, to its end.

    :raises Unavailable: there cannot be one more thread
    :raises UnknownOutcome: the kernel has failed somewhere on the way
    """
    try:
        return links.apart('netns', work)
    except (NetlinkError, OSError) as error:
        raise exceptions.UnknownOutcome(operator=f'network namespaces: {error}') from error
