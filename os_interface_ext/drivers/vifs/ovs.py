"""Plugs into an Open vSwitch bridge: a tap device or a veth pair for each port, as Neutron's agents expect it.

os-vif's plug-in ``ovs`` is the model (names, external ids, and which comes first), but is not what does it:
it registers options of privsep in the process, asks no fence, keeps no marker, swallows the errors of a
removal, and waits for a silent database for ever. The same is asked of OVSDB here in its own protocol
(RFC 7047), over a connection that lives as long as the call: an answer is fresh or there is none, and
nothing is sent after the caller was told that it was too late.

**What is ours.** An interface with our key in its external ids (``osif``), and a link whose alias tells
(``osif:…``). The row comes before the link and goes after it, so that there is never a link without owner.

**Who waits for whom.** A plug or unplug holds a lock of the database's for its device: it is gone with its
connection, and counts for all processes, wherever they run.

**Threads.** As a namespace may have to be entered, each call has a thread that is made for it and ends with it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from vif_plug_ovs import constants

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base

T = TypeVar('T')

GROUP = 'ovs'
OPTS = [
    cfg.StrOpt(
        'ovsdb_connection',
        default='unix:/run/openvswitch/db.sock',
        help='Where ovsdb-server listens: unix:PATH or tcp:ADDRESS:PORT.',
    ),
    cfg.StrOpt(
        'bridge',
        default='br-int',
        help='The bridge of a port whose binding names none (bridge_name in its vif_details). It is made by '
        'somebody else.',
    ),
    cfg.StrOpt(
        'device',
        default='tap',
        choices=['tap', 'veth'],
        help='What is made for a port: a tap device, for whoever runs the server to open, or a veth pair, whose '
        'other end is for him to take.',
    ),
    cfg.StrOpt(
        'host_namespace',
        default='',
        help='The network namespace of ovs-vswitchd and of the devices: a name below /run/netns, or an absolute '
        "path; empty: this process's own.",
    ),
    cfg.FloatOpt(
        'timeout',
        default=10.0,
        min=0.1,
        help='Seconds for which an answer of ovsdb-server is waited for, and for ovs-vswitchd to do what it is '
        'told. It has to stay below half of [attachments] lease.',
    ),
]

_SCHEMA = 'Open_vSwitch'
#: Our key in the external ids of an interface, and how far it is.
_KEY = 'osif'
_BEGUN, _COMPLETE = 'plugging', 'plugged'
_ALIAS = 'osif:'
_NAMESPACES = '/run/netns'
_CLONE_NEWNET = 0x40000000
_IFF_UP = 0x1
#: <linux/if_tun.h>
_TUNSETIFF, _TUNSETPERSIST, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x400454CB, 0x0002, 0x1000
#: IN6_ADDR_GEN_MODE_NONE: the host gets no address of its own on a network of the servers.
_NO_ADDRESS = {'attrs': [['AF_INET6', {'attrs': [['IFLA_INET6_ADDR_GEN_MODE', 1]]}]]}
#: Bytes that the kernel keeps of an alias.
_LONGEST_ALIAS = 255
#: Seconds from one look at ovs-vswitchd to the next, at first and at most.
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.05
#: Of the machine, not of the request: the same may be asked again.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EINTR})

_libc = ctypes.CDLL(None, use_errno=True)


class OVSVIFDriver(base.VIFDriver):
    """Options: the group ``[ovs]``.

    :raises ConfigurationError: ``ovsdb_connection`` is nothing to connect to
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        conf.register_opts(OPTS, group=GROUP)
        self._conf = conf[GROUP]
        _address(self._conf.ovsdb_connection)

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """No tags: it is not for a switch to tell them to a guest."""
        return frozenset({base.LIVE_UNPLUG, base.vnic_capability('normal')})

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """The names of the device and its bridge, and of the other end of a veth pair.

        :raises PlugFailed: there is no such bridge, something else has the name, or the kernel or
            ovs-vswitchd does not take the device
        :raises Unavailable: ovsdb-server does not answer, and nothing happened
        :raises UnknownOutcome: it has fallen silent on the way, or ovs-vswitchd does not do what it is told
        """
        nic = _Nic.of(port.id, server.id)
        if nic is None:
            raise exceptions.PlugFailed(operator=f'no device can be named after port {port.id!r}')
        if port.vnic_type != 'normal':
            raise exceptions.PlugFailed(operator=f'port {port.id} is of vnic_type {port.vnic_type}')
        bridge = str(port.vif_details.get('bridge_name') or self._conf.bridge)
        if bridge.startswith(constants.TRUNK_BR_PREFIX):
            raise exceptions.PlugFailed(operator=f'port {port.id} is the parent of a trunk: not supported')

        def work(world: _World) -> dict[str, Any]:
            world.database.lock(nic.name, fence)
            return world.plug(nic, port, bridge, self._conf.device)

        return self._apart(fence, work)

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        """Returns when the port is out of its bridge, as ovs-vswitchd says itself, and the link is gone.

        :raises Unavailable: ovsdb-server does not answer, and nothing happened
        :raises UnknownOutcome: it has fallen silent on the way, or ovs-vswitchd does not do what it is told
        """
        nic = _Nic.of(port_id, server.id)
        if nic is None:
            # It was never plugged.
            return

        def work(world: _World) -> None:
            world.database.lock(nic.name, fence)
            world.remove(nic)

        self._apart(fence, work)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """Those that are complete.

        :raises Unavailable: ovsdb-server does not answer
        """
        where = [['external_ids', 'includes', _map({'vm-uuid': server.id, _KEY: _COMPLETE})]]
        try:
            with _Database(self._conf.ovsdb_connection, self._conf.timeout) as database:
                (rows,) = database.transact(_select('Interface', where, 'external_ids'))
        except (OSError, _Refused) as error:
            raise exceptions.Unavailable(operator=f'ovsdb-server: {error}') from error
        found = (_pairs(row['external_ids']) for row in rows)
        return {ids['iface-id'] for ids in found if 'iface-id' in ids}

    def _apart(self, fence: base.Fence, work: Callable[[_World], T]) -> T:
        """Do it in a thread of its own, to its end.

        :raises Unavailable: it failed, or had no time, before anything was changed
        :raises UnknownOutcome: the same, later
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        progress = _Progress(fence)

        def run() -> None:
            try:
                with contextlib.ExitStack() as stack:
                    conf = self._conf
                    database = stack.enter_context(_Database(conf.ovsdb_connection, conf.timeout))
                    links = stack.enter_context(_Links.opened(conf.host_namespace, progress))
                    future.set_result(work(_World(database, links, progress, conf.timeout)))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=run, name='ovs')
        try:
            thread.start()
        except RuntimeError as error:
            raise exceptions.Unavailable(operator=f'Open vSwitch: {error}') from error
        thread.join()
        try:
            return future.result()
        except (NetlinkError, OSError, _Refused, exceptions.DeadlinePassed) as error:
            if progress.has_begun:
                raise exceptions.UnknownOutcome(operator=f'Open vSwitch: {error}') from error
            if isinstance(error, exceptions.DeadlinePassed):
                raise
            raise exceptions.Unavailable(operator=f'Open vSwitch: {error}') from error


@dataclasses.dataclass(frozen=True)
class _Nic:
    """What follows from the ids of a port and its server."""

    port_id: str
    server_id: str

    @classmethod
    def of(cls, port_id: str, server_id: str) -> _Nic | None:
        """None: the kernel would take no such names."""
        nic = cls(port_id, server_id)
        if (
            not re.fullmatch(r'[0-9A-Za-z_-]+', port_id)
            or len(nic.alias.encode(errors='replace')) > _LONGEST_ALIAS
        ):
            return None
        return nic

    @property
    def name(self) -> str:
        """As Nova and os-vif call it."""
        return f'tap{self.port_id[:11]}'

    @property
    def peer(self) -> str:
        """The other end of a veth pair."""
        return f'nic{self.port_id[:11]}'

    @property
    def alias(self) -> str:
        return f'{_ALIAS}{self.port_id}:{self.server_id}'

    def external_ids(self, mac_address: str) -> dict[str, str]:
        return {
            'iface-id': self.port_id,
            'iface-status': 'active',
            'attached-mac': mac_address,
            'vm-uuid': self.server_id,
        }

    def owns(self, row: _Row | None) -> bool:
        """Whether an interface is this one's."""
        return (
            row is not None
            and _KEY in row.external_ids
            and row.external_ids.get('iface-id') == self.port_id
            and row.external_ids.get('vm-uuid') == self.server_id
        )


@dataclasses.dataclass(frozen=True)
class _Row:
    """An interface as the database has it."""

    external_ids: dict[str, str]
    port: str | None
    #: the number that ovs-vswitchd has given it; -1: it could not; None: it has not seen it yet
    number: int | None
    error: str


class _Progress:
    """Whether anything was changed yet. Each change asks the fence first."""

    def __init__(self, fence: base.Fence) -> None:
        self._fence = fence
        self.has_begun = False

    def begin(self) -> None:
        """:raises DeadlinePassed:"""
        self._fence.check()
        self.has_begun = True


class _World:
    """The database and the kernel, while the lock of a device is held."""

    def __init__(self, database: _Database, links: _Links, progress: _Progress, timeout: float) -> None:
        self.database = database
        self._links = links
        self._progress = progress
        self._timeout = timeout

    def plug(self, nic: _Nic, port: base.Port, bridge: str, device: str) -> dict[str, Any]:
        """:raises PlugFailed: and what was made is taken back"""
        try:
            return self._plug(nic, port, bridge, device)
        except (exceptions.PlugFailed, NetlinkError, _Refused, OSError) as error:
            silent = isinstance(error, _Silent)
            number = error.code if isinstance(error, NetlinkError) else getattr(error, 'errno', None)
            if silent or number in _EXHAUSTED:
                raise
            self.remove(nic)
            if isinstance(error, exceptions.PlugFailed):
                raise
            raise exceptions.PlugFailed(operator=f'port {port.id}: {error}') from error

    def _plug(self, nic: _Nic, port: base.Port, bridge: str, device: str) -> dict[str, Any]:
        row = self._row(nic)
        self._refuse_what_is_not_ours(nic, row)
        if not self._bridges([['name', '==', bridge]]):
            raise exceptions.PlugFailed(operator=f'there is no bridge {bridge}')
        wanted = nic.external_ids(port.mac_address.lower())
        if row is None:
            self._insert(nic, bridge, {**wanted, _KEY: _BEGUN})
            row = self._row(nic)
        elif not nic.owns(row):
            # Another server had the port: what this one is to have is not complete yet.
            self._set_ids(nic, {**wanted, _KEY: _BEGUN})
            row = self._row(nic)
        if row is None:
            raise exceptions.PlugFailed(operator=f'{nic.name} has been taken away')
        has_changed = self._links.make(nic, port, device)
        names = [found['name'] for found in self._bridges([['ports', 'includes', ['uuid', row.port]]])]
        is_as_wanted = (wanted | {_KEY: _COMPLETE}).items() <= row.external_ids.items() and names == [bridge]
        if has_changed or not is_as_wanted or row.number is None or row.number < 0:
            self._complete(nic, bridge, row, wanted)
        told = {'bridge': bridge, 'device': nic.name}
        return told | {'peer': nic.peer} if device == 'veth' else told

    def remove(self, nic: _Nic) -> None:
        """Take a NIC out; absent: only that ovs-vswitchd has no more to do."""
        row = self._row(nic)
        is_ours = nic.owns(row)
        self._links.remove(nic, is_ours)
        until = None
        if is_ours and row is not None:
            until = self._change(
                [
                    {
                        'op': 'mutate',
                        'table': 'Bridge',
                        'where': [['ports', 'includes', ['uuid', row.port]]],
                        'mutations': [['ports', 'delete', ['uuid', row.port]]],
                    }
                ],
                nic,
            )
        self._settle(until)

    # ------------------------------------------------------------------ the database

    def _row(self, nic: _Nic) -> _Row | None:
        """The interface of that name, or the port that has the name without one."""
        where = [['name', '==', nic.name]]
        interfaces, ports = self.database.transact(
            _select('Interface', where, 'external_ids', 'ofport', 'error'), _select('Port', where, '_uuid')
        )
        if not interfaces and not ports:
            return None
        port = ports[0]['_uuid'][1] if ports else None
        if not interfaces:
            return _Row({}, port, None, '')
        number, error = interfaces[0]['ofport'], interfaces[0]['error']
        return _Row(
            _pairs(interfaces[0]['external_ids']),
            port,
            number if isinstance(number, int) else None,
            error if isinstance(error, str) else '',
        )

    def _bridges(self, where: list[Any]) -> list[Any]:
        (found,) = self.database.transact(_select('Bridge', where, 'name'))
        return list(found)

    def _refuse_what_is_not_ours(self, nic: _Nic, row: _Row | None) -> None:
        if row is None:
            alias = self._links.alias(nic.name)
            if alias is not None and not alias.startswith(f'{_ALIAS}{nic.port_id}:'):
                raise exceptions.PlugFailed(operator=f'the link {nic.name} is there, and not ours')
        elif _KEY not in row.external_ids or row.external_ids.get('iface-id') != nic.port_id or row.port is None:
            raise exceptions.PlugFailed(operator=f'the interface {nic.name} is there, and not ours')

    def _insert(self, nic: _Nic, bridge: str, ids: dict[str, str]) -> None:
        interface = {'name': nic.name, 'external_ids': _map(ids)}
        port = {'name': nic.name, 'interfaces': ['named-uuid', 'interface']}
        self._change(
            [
                {'op': 'insert', 'table': 'Interface', 'uuid-name': 'interface', 'row': interface},
                {'op': 'insert', 'table': 'Port', 'uuid-name': 'port', 'row': port},
                _add_port(bridge, ['named-uuid', 'port']),
            ],
            nic,
        )

    def _set_ids(self, nic: _Nic, ids: dict[str, str]) -> None:
        self._change([_set_ids(nic, ids)], nic)

    def _complete(self, nic: _Nic, bridge: str, row: _Row, ids: dict[str, str]) -> None:
        """Wait until ovs-vswitchd has all of it, and only then say that it is there.

        :raises PlugFailed: it does not take it
        """
        elsewhere = {
            'op': 'mutate',
            'table': 'Bridge',
            'where': [['name', '!=', bridge], ['ports', 'includes', ['uuid', row.port]]],
            'mutations': [['ports', 'delete', ['uuid', row.port]]],
        }
        begun = _set_ids(nic, {**ids, _KEY: _BEGUN})
        self._settle(self._change([elsewhere, _add_port(bridge, ['uuid', row.port]), begun], nic))
        now = self._row(nic)
        if now is None or now.number is None or now.number < 0:
            reason = 'it is gone' if now is None else now.error or 'is its bridge in use?'
            raise exceptions.PlugFailed(operator=f'ovs-vswitchd does not take {nic.name}: {reason}')
        self._change([_set_ids(nic, {_KEY: _COMPLETE})], nic)

    def _change(self, operations: list[dict[str, Any]], nic: _Nic) -> int:
        """Change the database as one; the number of the change, which ovs-vswitchd repeats when it has made it.

        :raises DeadlinePassed:
        """
        counted = [
            {'op': 'mutate', 'table': _SCHEMA, 'where': [], 'mutations': [['next_cfg', '+=', 1]]},
            _select(_SCHEMA, [], 'next_cfg'),
        ]
        held = {'op': 'assert', 'lock': _lock_id(nic.name)}
        self._progress.begin()
        return int(self.database.transact(held, *operations, *counted)[-1][0]['next_cfg'])

    def _settle(self, until: int | None) -> None:
        """Wait for ovs-vswitchd; None: for whatever it was told last.

        :raises _Silent: it does not come to it
        """
        begun, pause = time.monotonic(), _FIRST_LOOK
        while True:
            ((row,),) = self.database.transact(_select(_SCHEMA, [], 'cur_cfg', 'next_cfg'))
            until = row['next_cfg'] if until is None else until
            if row['cur_cfg'] >= until:
                return
            if time.monotonic() > begun + self._timeout:
                # Something is on its way, whoever has begun it.
                self._progress.has_begun = True
                raise _Silent('ovs-vswitchd does not do what it is told')
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)


def _select(table: str, where: list[Any], *columns: str) -> dict[str, Any]:
    return {'op': 'select', 'table': table, 'where': where, 'columns': list(columns)}


def _add_port(bridge: str, port: list[str | None]) -> dict[str, Any]:
    return {
        'op': 'mutate',
        'table': 'Bridge',
        'where': [['name', '==', bridge]],
        'mutations': [['ports', 'insert', port]],
    }


def _set_ids(nic: _Nic, ids: dict[str, str]) -> dict[str, Any]:
    """Ours alone: agents keep more there."""
    return {
        'op': 'mutate',
        'table': 'Interface',
        'where': [['name', '==', nic.name]],
        'mutations': [
            ['external_ids', 'delete', ['set', list(ids)]],
            ['external_ids', 'insert', _map(ids)],
        ],
    }


def _map(pairs: dict[str, str]) -> list[Any]:
    return ['map', [list(pair) for pair in pairs.items()]]


def _pairs(value: Any) -> dict[str, str]:
    return dict(value[1])


# ---------------------------------------------------------------------- OVSDB


class _Silent(OSError):
    """No answer, or none that makes sense."""


class _Refused(Exception):
    """The database does not do it: nothing of the transaction has happened."""


def _address(connection: str) -> tuple[socket.AddressFamily, Any]:
    """:raises ConfigurationError: it is none"""
    kind, _, rest = connection.partition(':')
    if kind == 'unix' and rest:
        return socket.AF_UNIX, rest
    host, _, number = rest.rpartition(':')
    if kind == 'tcp' and host and number.isdecimal():
        is_v6 = host.startswith('[') and host.endswith(']')
        return (socket.AF_INET6 if is_v6 else socket.AF_INET), (host.strip('[]'), int(number))
    raise exceptions.ConfigurationError(
        f'option [{GROUP}] ovsdb_connection: {connection!r} is neither unix:PATH nor tcp:ADDRESS:PORT'
    )


def _lock_id(name: str) -> str:
    return 'osif_' + name.replace('-', '_')


class _Database:
    """A connection to ovsdb-server. Whatever fails is an OSError; no wait is longer than the time-out.

    :raises OSError: there is none
    """

    def __init__(self, connection: str, timeout: float) -> None:
        family, address = _address(connection)
        self._timeout = timeout
        self._received = b''
        self._requests = 0
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> _Database:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        """Do them as one; the rows that each one has found, or none.

        :raises _Refused: nothing happened
        :raises _Silent: no answer
        """
        answer = self._request('transact', [_SCHEMA, *operations])
        for part in answer:
            if part and part.get('error'):
                raise _Refused(f'{part["error"]}: {part.get("details", "")}')
        return [part.get('rows', []) for part in answer]

    def lock(self, name: str, fence: base.Fence) -> None:
        """Lock a name until the connection is closed.

        :raises DeadlinePassed: somebody has it for all the time that there is
        :raises Unavailable: somebody has it for long
        """
        lock_id = _lock_id(name)
        if self._request('lock', [lock_id])['locked']:
            return
        fence.check()
        until = time.monotonic() + min(self._timeout, fence.remaining())
        while True:
            try:
                message = self._next(until)
            except TimeoutError as error:
                fence.check()
                raise exceptions.Unavailable(operator=f'somebody else is about to change {name}') from error
            if message.get('method') == 'locked' and message.get('params') == [lock_id]:
                return

    def _request(self, method: str, params: list[Any]) -> Any:
        self._requests += 1
        until = time.monotonic() + self._timeout
        self._send({'method': method, 'params': params, 'id': self._requests})
        try:
            while True:
                message = self._next(until)
                if message.get('id') == self._requests and 'method' not in message:
                    break
        except TimeoutError as error:
            raise _Silent('ovsdb-server does not answer') from error
        if message.get('error'):
            raise _Refused(f'{method}: {message["error"]}')
        return message['result']

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(json.dumps(message).encode())
        except OSError as error:
            raise _Silent(f'ovsdb-server: {error}') from error

    def _next(self, until: float) -> dict[str, Any]:
        """The next message that is for us.

        :raises TimeoutError: none came
        :raises _Silent: none will come
        """
        while True:
            message = self._parsed()
            if message is not None:
                if message.get('method') != 'echo':
                    return message
                self._send({'result': message.get('params'), 'error': None, 'id': message.get('id')})
                continue
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            try:
                received = self._socket.recv(65536)
            except TimeoutError:
                raise
            except OSError as error:
                raise _Silent(f'ovsdb-server: {error}') from error
            if not received:
                raise _Silent('ovsdb-server has closed the connection')
            self._received += received

    def _parsed(self) -> dict[str, Any] | None:
        """One message of what was received; None: it is not complete yet."""
        try:
            text = self._received.decode().lstrip()
            message, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return None
        self._received = text[end:].encode()
        if not isinstance(message, dict):
            raise _Silent('ovsdb-server does not speak its protocol')
        return message


# ---------------------------------------------------------------------- links


class _Links:
    """The links of one namespace.

    :param where: within it a thread is in the namespace
    """

    def __init__(self, ip: IPRoute, where: contextlib.AbstractContextManager[object], progress: _Progress) -> None:
        self._ip = ip
        self._where = where
        self._progress = progress

    @classmethod
    @contextlib.contextmanager
    def opened(cls, namespace: str, progress: _Progress) -> Iterator[_Links]:
        """To be called in a thread that may end if it cannot come back.

        :raises Unavailable: this process cannot enter it, or not now
        """
        with contextlib.ExitStack() as stack:
            try:
                where = _Namespace(stack, namespace) if namespace else contextlib.nullcontext()
                with where:
                    # It stays in the namespace in which it was made.
                    ip = stack.enter_context(IPRoute())
            except OSError as error:
                raise exceptions.Unavailable(
                    operator=f'the links of {namespace or "this process"} cannot be reached, see option '
                    f'[{GROUP}] host_namespace: {error}'
                ) from error
            yield cls(ip, where, progress)

    def find(self, name: str) -> Any:
        """One by its name; None if there is none."""
        try:
            return next(iter(self._ip.link('get', ifname=name)), None)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise

    def alias(self, name: str) -> str | None:
        """None if there is no such link."""
        link = self.find(name)
        return None if link is None else link.get('ifalias') or ''

    def make(self, nic: _Nic, port: base.Port, device: str) -> bool:
        """Make what is not there, and mend what is not as it should be; whether the device is a new one.

        :raises PlugFailed: something else has the name
        """
        link = self.find(nic.name)
        # Without an alias it is what a crash has left: the row that is ours was there before it.
        if link is not None and (link.get('ifalias') not in (None, '', nic.alias) or _kind(link) != device):
            if not (link.get('ifalias') or _ALIAS).startswith(_ALIAS):
                raise exceptions.PlugFailed(operator=f'the link {nic.name} is there, and not ours')
            self.change('del', index=link['index'])
            link = None
        is_new = link is None
        if link is None:
            if device == 'tap':
                self._make_tap(nic)
            else:
                self._make_pair(nic, port)
            link = self.find(nic.name)
            if link is None:
                raise exceptions.PlugFailed(operator=f'{nic.name} has been taken away')
        if link.get('ifalias') != nic.alias:
            self.change('set', index=link['index'], ifalias=nic.alias, IFLA_AF_SPEC=_NO_ADDRESS)
        self._adapt(link, mtu=port.mtu, state='up')
        if device == 'veth':
            peer = self.find(nic.peer)
            # Whoever has taken it away into another namespace has it as he wants it.
            if peer is not None and peer.get('link') == link['index'] and link.get('link') == peer['index']:
                self._adapt(peer, mtu=port.mtu, address=port.mac_address.lower())
        return is_new

    def remove(self, nic: _Nic, is_ours: bool) -> None:
        """Delete the link of a NIC; one without an alias only if its row is ours."""
        link = self.find(nic.name)
        if link is None:
            return
        alias = link.get('ifalias') or ''
        if alias == nic.alias or (is_ours and not alias):
            self.change('del', index=link['index'])

    def change(self, command: str, **attributes: Any) -> None:
        """Make, set or delete a link; to delete one that is gone is fine.

        :raises DeadlinePassed:
        """
        self._progress.begin()
        try:
            self._ip.link(command, **attributes)
        except NetlinkError as error:
            if command != 'del' or error.code != errno.ENODEV:
                raise

    def _make_tap(self, nic: _Nic) -> None:
        """One that stays when nobody has it open."""
        self._progress.begin()
        with self._where:
            tun = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(tun, _TUNSETIFF, struct.pack('16sH22x', nic.name.encode(), _IFF_TAP | _IFF_NO_PI))
                fcntl.ioctl(tun, _TUNSETPERSIST, 1)
            finally:
                os.close(tun)

    def _make_pair(self, nic: _Nic, port: base.Port) -> None:
        size = {} if port.mtu is None else {'mtu': port.mtu}
        peer = {'ifname': nic.peer, 'address': port.mac_address.lower(), **size}
        self.change('add', kind='veth', ifname=nic.name, peer=peer, **size)

    def _adapt(self, link: Any, *, state: str | None = None, **wanted: Any) -> None:
        """Set what is not as it is wanted; None: whatever it is."""
        differing = {
            name: value for name, value in wanted.items() if value is not None and link.get(name) != value
        }
        if state == 'up' and not link['flags'] & _IFF_UP:
            differing['state'] = state
        if differing:
            self.change('set', index=link['index'], **differing)


def _kind(link: Any) -> str | None:
    kind = link.get(('linkinfo', 'kind'))
    return 'tap' if kind == 'tun' else kind


class _Namespace(contextlib.AbstractContextManager[None]):
    """Within it a thread is in a namespace; afterwards it is in its own again.

    :raises OSError: it is not there
    """

    def __init__(self, stack: contextlib.ExitStack, name: str) -> None:
        self._own, self._there = (
            stack.enter_context(_file(path))
            for path in ('/proc/thread-self/ns/net', os.path.join(_NAMESPACES, name))
        )

    def __enter__(self) -> None:
        _enter(self._there)

    def __exit__(self, *_: object) -> None:
        _enter(self._own)


@contextlib.contextmanager
def _file(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
