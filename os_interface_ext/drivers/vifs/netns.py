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

**Threads.** A namespace is entered by a thread that is made for it and ends with the call, and there only to
open a socket: no thread of the caller's is ever anywhere else, and nothing is forked.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import ipaddress
import itertools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg
from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base

T = TypeVar('T')

GROUP = 'netns'
OPTS = [
    cfg.StrOpt(
        'namespace',
        default='{id}',
        help='The network namespace of a server: a name below /run/netns, or an absolute path. {id} and {name} '
        'stand for those of the server.',
    ),
    cfg.StrOpt(
        'host_namespace',
        default='',
        help="The network namespace of the bridges, likewise; empty: this process's own.",
    ),
    cfg.StrOpt(
        'interface', default='eth', help='How a NIC is called in its namespace: this and the first number free.'
    ),
    cfg.IntOpt(
        'prefix_v4',
        default=24,
        min=1,
        max=32,
        help='The length of the prefix of an IPv4 address whose subnet the network driver does not tell.',
    ),
    cfg.IntOpt('prefix_v6', default=64, min=1, max=128, help='The same of an IPv6 address.'),
    cfg.StrOpt(
        'lock_path',
        default='/run/os-interface-ext',
        help='The directory of the lock: the same one for all processes that plug on this machine.',
    ),
]

_NAMESPACES = '/run/netns'
_CLONE_NEWNET = 0x40000000
#: IN6_ADDR_GEN_MODE_NONE: the host gets no address of its own on a network of the servers.
_NO_ADDRESS = {'attrs': [['AF_INET6', {'attrs': [['IFLA_INET6_ADDR_GEN_MODE', 1]]}]]}
#: IFA_F_NODAD: an address that the network driver has given is nobody else's, and is of use at once.
_NO_DETECTION = 0x02
_IFF_UP = 0x1
#: Bytes that the kernel keeps of an alias.
_LONGEST_ALIAS = 255
_PORT = 'osif:'
_NETWORK = 'osif-network:'
#: Names that are tried, when somebody else takes them at the same time.
_NAMES = 10
#: Seconds from one look at the lock to the next.
_LOOK = 0.002
#: Of the machine, not of the request: the same may be asked again.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EINTR})

_libc = ctypes.CDLL(None, use_errno=True)


class _NoNamespace(Exception):
    """There is no such namespace."""


class NetnsVIFDriver(base.VIFDriver):
    """Options: the group ``[netns]``."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        conf.register_opts(OPTS, group=GROUP)
        self._conf = conf[GROUP]

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """No tags: a namespace has no place where whoever is inside could read one."""
        return frozenset({base.LIVE_UNPLUG, base.vnic_capability('normal')})

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """The names of both ends.

        :raises PlugFailed: the server has no namespace, or its kernel does not take the NIC
        """
        nic = _Nic(port.id, server.id)
        if port.vnic_type != 'normal':
            raise exceptions.PlugFailed(operator=f'port {port.id} is of vnic_type {port.vnic_type}')
        if len(nic.alias.encode()) > _LONGEST_ALIAS:
            raise exceptions.PlugFailed(operator=f'the ids of port {port.id} and its server are too long')

        def work() -> dict[str, Any]:
            with contextlib.ExitStack() as stack:
                try:
                    guest = stack.enter_context(self._server(server, fence))
                except _NoNamespace as error:
                    raise exceptions.PlugFailed(operator=str(error)) from error
                host = stack.enter_context(self._host(fence))
                stack.enter_context(self._lock(fence))
                try:
                    return self._plug(host, guest, nic, port)
                except (exceptions.PlugFailed, NetlinkError, ValueError) as error:
                    _remove(host, guest, nic)
                    if isinstance(error, exceptions.PlugFailed):
                        raise
                    if isinstance(error, NetlinkError) and error.code in _EXHAUSTED:
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
                with contextlib.suppress(_NoNamespace):
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
            except _NoNamespace:
                return set()
            return {alias.removeprefix(_PORT) for alias in aliases if alias.startswith(_PORT)}

        return _apart(work)

    # ------------------------------------------------------------------ within

    def _plug(self, host: _Links, guest: _Links, nic: _Nic, port: base.Port) -> dict[str, Any]:
        bridge = _bridge(host, port.network_id)
        pair = _pair(host, guest, nic, port.mac_address.lower())
        if pair is None:
            pair = self._make_pair(host, guest, nic, port, bridge)
        end, inner = pair
        if not end.get('ifalias'):
            # The other end is not up yet, hence this one has no address either.
            host.change('set', index=end['index'], ifalias=nic.alias, IFLA_AF_SPEC=_NO_ADDRESS)
        host.adapt(end, master=bridge['index'], mtu=port.mtu, state='up')
        present = guest.addresses(inner)
        for address in (self._address(ip) for ip in port.fixed_ips):
            if address not in present:
                guest.add_address(inner, address)
        # The alias at last: what has it is complete.
        guest.adapt(inner, address=port.mac_address.lower(), mtu=port.mtu, state='up')
        guest.adapt(inner, ifalias=nic.inner_alias)
        return {'host_interface': nic.name, 'interface': inner.get('ifname')}

    def _make_pair(self, host: _Links, guest: _Links, nic: _Nic, port: base.Port, bridge: Any) -> tuple[Any, Any]:
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
    def _host(self, fence: base.Fence) -> Iterator[_Links]:
        try:
            with _opened(_path(self._conf.host_namespace), fence) as links:
                yield links
        except _NoNamespace as error:
            raise exceptions.Unavailable(operator=f'option [{GROUP}] host_namespace: {error}') from error

    def _server(self, server: base.Server, fence: base.Fence) -> contextlib.AbstractContextManager[_Links]:
        """:raises _NoNamespace: when it is entered"""
        values = {'{id}': server.id, '{name}': server.name}
        name = self._conf.namespace
        for key, value in values.items():
            if key in name and (value in ('', '.', '..') or '/' in value or '\0' in value):
                # No name leads to another place.
                name = '\0'
            name = name.replace(key, value)
        return _opened(_path(name), fence)

    @contextlib.contextmanager
    def _lock(self, fence: base.Fence) -> Iterator[None]:
        """:raises Unavailable: somebody has it for all the time that there is, or it cannot be made"""
        directory = pathlib.Path(self._conf.lock_path)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(directory / 'netns.lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


class _Nic:
    """What follows from the ids of a port and its server."""

    def __init__(self, port_id: str, server_id: str) -> None:
        self.name = f'osv{_digest(port_id)}'
        self.alias = f'{_PORT}{port_id}:{server_id}'
        self.inner_alias = f'{_PORT}{port_id}'
        self.mac = _mac(_digest(self.alias))

    def owns(self, end: Any) -> bool:
        """Whether a host's end is this one's, be it without its alias yet."""
        alias = end.get('ifalias')
        return alias == self.alias or (not alias and end.get('address') == self.mac)


def _is_of_another_server(end: Any) -> bool:
    return (end.get('ifalias') or '').startswith(_PORT)


def _pair(host: _Links, guest: _Links, nic: _Nic, mac_address: str) -> tuple[Any, Any] | None:
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


def _remove(host: _Links, guest: _Links | None, nic: _Nic) -> None:
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


def _remove_inner(guest: _Links, nic: _Nic) -> None:
    """The end in the server's namespace, whose other one has been renamed or put elsewhere."""
    for link in guest.of_kind('veth'):
        if link.get('ifalias') == nic.inner_alias:
            guest.change('del', index=link['index'])


def _bridge(host: _Links, network_id: str) -> Any:
    """The bridge of a network, made if there is none.

    :raises PlugFailed: something else has its name
    """
    digest = _digest(network_id)
    name = f'osb{digest}'
    bridge = host.find(name)
    if bridge is None:
        host.change('add', kind='bridge', ifname=name, address=_mac(digest), br_stp_state=0, br_forward_delay=0)
        bridge = host.find(name)
    if bridge is None or not _is_our_bridge(bridge):
        raise exceptions.PlugFailed(operator=f'{name} is there, and not the bridge of network {network_id}')
    if not bridge.get('ifalias'):
        alias = f'{_NETWORK}{network_id}'[:_LONGEST_ALIAS]
        host.change('set', index=bridge['index'], ifalias=alias, IFLA_AF_SPEC=_NO_ADDRESS)
    host.adapt(bridge, state='up')
    return bridge


def _is_our_bridge(link: Any) -> bool:
    name, alias = link.get('ifname'), link.get('ifalias') or ''
    if alias:
        return alias.startswith(_NETWORK)
    return name.startswith('osb') and link.get('address') == _mac(name[3:])


def _digest(identifier: str) -> str:
    """12 digits for any id: with a prefix of three, as many as a name has."""
    return hashlib.sha256(identifier.encode(errors='surrogatepass')).hexdigest()[:12]


def _mac(digest: str) -> str:
    """A locally administered address that follows from a digest."""
    return ':'.join(['fe', *(digest[at : at + 2] for at in range(0, 10, 2))])


# ---------------------------------------------------------------------- netlink


def _any(link: Any) -> bool:
    """What the kernel has chosen is not chosen from again."""
    return True


class _Links:
    """The links of one namespace. Each change asks the fence first.

    :param fd: the namespace
    """

    def __init__(self, ip: IPRoute, fd: int, fence: base.Fence) -> None:
        self.fd = fd
        self._ip = ip
        self._fence = fence

    def all(self) -> list[Any]:
        return self._dump(self._ip.link)

    def of_kind(self, kind: str) -> list[Any]:
        # The kernel itself chooses: there may be very many, and to decode one takes as long as to make it.
        info = {'attrs': [['IFLA_INFO_KIND', kind]]}
        return self._dump(self._ip.link, IFLA_LINKINFO=info, dump_filter=_any)

    def ports(self, bridge: Any) -> list[Any]:
        return self._dump(self._ip.link, master=bridge['index'], dump_filter=_any)

    def find(self, name: str) -> Any:
        """One by its name; None if there is none."""
        return next(iter(self._get(ifname=name)), None)

    def get(self, index: int) -> list[Any]:
        """One by its index; none if there is none."""
        return self._get(index=index)

    def _get(self, **which: Any) -> list[Any]:
        try:
            return list(self._ip.link('get', **which))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return []
            raise

    def addresses(self, link: Any) -> set[str]:
        """With the lengths of their prefixes."""
        found = self._dump(self._ip.addr, index=link['index'])
        pairs = ((one.get('local') or one.get('address'), one['prefixlen']) for one in found)
        return {str(ipaddress.ip_interface(f'{address}/{length}')) for address, length in pairs}

    def _dump(self, what: Callable[..., Any], /, **filters: Any) -> list[Any]:
        while True:
            found = list(what('dump', **filters))
            # Something has changed under it: it may be told twice, or not at all.
            if not any(one['header']['flags'] & NLM_F_DUMP_INTR for one in found):
                return found

    def change(self, command: str, **attributes: Any) -> None:
        """Make, set or delete a link; to delete one that is gone is fine.

        :raises DeadlinePassed:
        """
        self._fence.check()
        try:
            self._ip.link(command, **attributes)
        except NetlinkError as error:
            if command != 'del' or error.code != errno.ENODEV:
                raise

    def adapt(self, link: Any, *, state: str | None = None, **wanted: Any) -> None:
        """Set what is not as it is wanted; None: whatever it is."""
        differing = {
            name: value for name, value in wanted.items() if value is not None and link.get(name) != value
        }
        if state == 'up' and not link['flags'] & _IFF_UP:
            differing['state'] = state
        if differing:
            self.change('set', index=link['index'], **differing)

    def add_address(self, link: Any, address: str) -> None:
        """:raises DeadlinePassed:"""
        one = ipaddress.ip_interface(address)
        more: dict[str, Any] = {'flags': _NO_DETECTION} if one.version == 6 else {}
        if one.version == 4 and one.network.prefixlen < 31:
            more['broadcast'] = str(one.network.broadcast_address)
        self._fence.check()
        self._ip.addr('add', index=link['index'], address=str(one.ip), prefixlen=one.network.prefixlen, **more)


# ---------------------------------------------------------------------- namespaces


def _path(name: str) -> str:
    """Where a namespace is; of an empty name: the own one of the thread."""
    return os.path.join(_NAMESPACES, name) if name else '/proc/thread-self/ns/net'


@contextlib.contextmanager
def _opened(path: str, fence: base.Fence) -> Iterator[_Links]:
    """The links of a namespace. To be called in a thread that may end if it cannot come back.

    :raises _NoNamespace: it is not there
    :raises Unavailable: this process cannot enter it, or not now
    """
    with contextlib.ExitStack() as stack:
        try:
            links = _open(stack, path, fence)
        except OSError as error:
            raise exceptions.Unavailable(operator=f'{path} cannot be entered: {error}') from error
        yield links


def _open(stack: contextlib.ExitStack, path: str, fence: base.Fence) -> _Links:
    own = stack.enter_context(_file('/proc/thread-self/ns/net'))
    there = stack.enter_context(_file(path))
    try:
        _enter(there)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # What the mount of a namespace leaves behind is an empty file.
            raise _NoNamespace(f'{path} is no namespace') from error
        raise
    try:
        # It stays in the namespace in which it was made.
        return _Links(stack.enter_context(IPRoute()), there, fence)
    finally:
        _enter(own)


@contextlib.contextmanager
def _file(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise _NoNamespace(f'{path!r} is not there') from error
    try:
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _apart(work: Callable[[], T]) -> T:
    """Do it in a thread of its own, to its end.

    :raises Unavailable: there cannot be one more thread
    :raises UnknownOutcome: the kernel has failed somewhere on the way
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name='netns')
    try:
        thread.start()
    except RuntimeError as error:
        raise exceptions.Unavailable(operator=f'network namespaces: {error}') from error
    thread.join()
    try:
        return future.result()
    except (NetlinkError, OSError) as error:
        raise exceptions.UnknownOutcome(operator=f'network namespaces: {error}') from error
