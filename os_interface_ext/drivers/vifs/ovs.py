"""Plugs into an Open vSwitch bridge: a tap device or a veth pair for each port, as Neutron's agents expect it.

os-vif's plug-in ``ovs`` is the model (names, external ids), but is not what does it, nor is Open vSwitch's own
library: doc/ovs.md says why. OVSDB is spoken to in its own protocol (RFC 7047), over a connection that lives
as long as the call: an answer is fresh or there is none, and nothing is sent after the caller was told that it
was too late.

**What is ours.** An interface with our key in its external ids (``osif``), and a link whose alias tells
(``osif:…``). A tap device has its alias before it is there to stay; the kernel takes none together with a new
veth pair: until it has one, the MAC address, which follows from the ids, tells the same.

**Which comes first.** The link is complete before ovs-vswitchd hears of it, and ovs-vswitchd has let go of it
before it is deleted. Its datapath in userspace writes the flags of a link that it opens as it has read them
a while before: a link that is put up in between would be down again.

**Who waits for whom.** A plug or unplug holds a lock of the database's for its device: it is gone with its
connection, and counts for all processes, wherever they run.

**Threads.** Each call has a thread that is made for it and ends with it, as a namespace may have to be entered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from oslo_config import cfg
from pyroute2.netlink.exceptions import NetlinkError

from os_interface_ext import exceptions
from os_interface_ext.conf import ovs as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, links

T = TypeVar('T')

GROUP = options.GROUP.name

_SCHEMA = 'Open_vSwitch'
#: The parent port of a trunk has a bridge of its own.
_TRUNK = 'tbr-'
#: Our key in the external ids of an interface, and how far it is.
_KEY = 'osif'
_BEGUN, _COMPLETE = 'plugging', 'plugged'
#: Beside it: the installation that has plugged it.
_BY = 'osif-installation'
_ALIAS = 'osif:'
#: <linux/if_tun.h>
_TUNSETIFF, _TUNSETPERSIST, _IFF_TAP, _IFF_NO_PI, _IFF_TUN_EXCL = 0x400454CA, 0x400454CB, 0x0002, 0x1000, 0x8000
#: Seconds from one look at ovs-vswitchd to the next, at first and at most.
_FIRST_LOOK, _LAST_LOOK = 0.002, 0.05


class OVSVIFDriver(base.VIFDriver):
    """Options: the group ``[ovs]``.

    :raises ConfigurationError: ``ovsdb_connection`` is nothing to connect to, or ``timeout`` too long
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        self._conf = conf[GROUP]
        _address(self._conf.ovsdb_connection)
        base.require_below_half_lease(conf, f'[{GROUP}] timeout', self._conf.timeout)

    def check(self, ctxt: RequestContext) -> None:
        """Whether ovsdb-server answers, and has a bridge, and the namespace of the devices can be entered."""
        (bridges,) = self._look(_select('Bridge', [], 'name'))
        if not bridges:
            raise exceptions.Unavailable(
                operator=f'ovsdb-server at {self._conf.ovsdb_connection} has no bridge',
                operator_cure=f'make one (ovs-vsctl add-br {self._conf.bridge}), or start what makes it',
            )

        def enter() -> None:
            with self._host(lambda: None):
                pass

        links.apart('Open vSwitch', enter)

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """No tags: it is not for a switch to tell them to a guest."""
        return frozenset({base.LIVE_UNPLUG, base.vnic_capability(base.NORMAL)})

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """The names of the device and its bridge, and of the other end of a veth pair.

        :raises PlugFailed: there is no such bridge, something else has the name, or the kernel or
            ovs-vswitchd does not take the device
        :raises Unavailable: ovsdb-server does not answer, and nothing happened
        :raises UnknownOutcome: it has fallen silent on the way, or ovs-vswitchd does not do what it is told
        """
        nic = _Nic.of(port.id, server.id, fence.installation)
        if nic is None:
            raise exceptions.PlugFailed(operator=f'no device can be named after port {port.id!r}')
        bridge = str(port.vif_details.get('bridge_name') or self._conf.bridge)
        if bridge.startswith(_TRUNK):
            raise exceptions.PlugFailed(operator=f'port {port.id} is the parent of a trunk: not supported')

        def work(world: _World) -> dict[str, Any]:
            told = world.plug(port, bridge)
            return told | {'peer': nic.peer} if self._conf.device == 'veth' else told

        return self._apart(nic, fence, work)

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

        self._apart(nic, fence, _World.remove)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """Those that are complete, and whose device ovs-vswitchd has: a reboot leaves the interfaces alone.

        :raises Unavailable: ovsdb-server does not answer
        """
        found = self._rows({'vm-uuid': server.id, _KEY: _COMPLETE})
        return {row.external_ids['iface-id'] for row in found if row.is_in_use and 'iface-id' in row.external_ids}

    def find_plugged(self, ctxt: RequestContext, installation: str) -> set[tuple[str, str]]:
        """Those that are half made, or have lost their device, too.

        :raises Unavailable: ovsdb-server does not answer
        """
        ids = [row.external_ids for row in self._rows({_KEY: _COMPLETE}, {_KEY: _BEGUN})]
        return {
            (one['vm-uuid'], one['iface-id'])
            for one in ids
            if {'vm-uuid', 'iface-id'} <= one.keys() and base.may_be_of(installation, one.get(_BY, ''))
        }

    def _rows(self, *wanted: dict[str, str]) -> list[_Row]:
        """All interfaces that have any of these among their external ids."""
        found = self._look(*(_select_interfaces([['external_ids', 'includes', _map(ids)]]) for ids in wanted))
        return [_Row.of(interface) for interfaces in found for interface in interfaces]

    def _look(self, *selects: dict[str, Any]) -> list[Any]:
        """:raises Unavailable: ovsdb-server does not answer"""
        try:
            with _Database(self._conf.ovsdb_connection, self._conf.timeout) as database:
                return database.transact(*selects)
        except (OSError, _Refused) as error:
            raise exceptions.Unavailable(
                operator=f'ovsdb-server at {self._conf.ovsdb_connection}: {error}',
                operator_cure=f'start Open vSwitch (openvswitch-switch), or correct [{GROUP}] ovsdb_connection',
            ) from error

    @contextlib.contextmanager
    def _host(self, begin: Callable[[], object]) -> Iterator[links.Links]:
        """The links of the devices' namespace: see links.opened."""
        try:
            with links.opened(links.path_of(self._conf.host_namespace), begin) as host:
                yield host
        except links.NoNamespace as error:
            raise exceptions.Unavailable(operator=f'option [{GROUP}] host_namespace: {error}') from error

    def _apart(self, nic: _Nic, fence: base.Fence, work: Callable[[_World], T]) -> T:
        """Do it in a thread of its own, to its end.

        :raises Unavailable: it failed, or had no time, before anything was changed
        :raises UnknownOutcome: the same, later
        """
        progress = _Progress(fence)

        def apart() -> T:
            conf = self._conf
            with contextlib.ExitStack() as stack:
                database = stack.enter_context(_Database(conf.ovsdb_connection, conf.timeout))
                database.lock(nic.name, fence)
                device = _Device(nic, conf.device, stack.enter_context(self._host(progress.begin)))
                return work(_World(nic, database, device, progress))

        try:
            return links.apart('Open vSwitch', apart)
        except (NetlinkError, OSError, _Refused, exceptions.DeadlinePassed) as error:
            if progress.has_begun:
                raise exceptions.UnknownOutcome(operator=f'Open vSwitch: {error}') from error
            if isinstance(error, exceptions.DeadlinePassed):
                raise
            raise exceptions.Unavailable(operator=f'Open vSwitch: {error}') from error


@dataclasses.dataclass(frozen=True)
class _Nic:
    """What follows from the ids of a port and its server.

    ``installation`` is the one that plugs it; empty: that is not known.
    """

    port_id: str
    server_id: str
    installation: str = ''

    @classmethod
    def of(cls, port_id: str, server_id: str, installation: str = '') -> _Nic | None:
        """None: the kernel would take no such names."""
        nic = cls(port_id, server_id, installation)
        if (
            not re.fullmatch(r'[0-9A-Za-z_-]+', port_id)
            or len(nic.alias.encode(errors='replace')) > links.LONGEST_ALIAS
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

    @property
    def mac_address(self) -> str:
        """Of the switch's end, not the server's: a locally administered one that follows from the ids."""
        return links.mac_address(hashlib.sha256(self.alias.encode()).hexdigest())

    def external_ids(self, mac_address: str) -> dict[str, str]:
        ids = {
            'iface-id': self.port_id,
            'iface-status': 'active',
            'attached-mac': mac_address,
            'vm-uuid': self.server_id,
        }
        return ids | {_BY: self.installation} if self.installation else ids

    def owns(self, row: _Row | None) -> bool:
        """Whether an interface is this one's."""
        ids = {} if row is None else row.external_ids
        return _KEY in ids and ids.get('iface-id') == self.port_id and ids.get('vm-uuid') == self.server_id

    def owns_link(self, link: Any) -> bool:
        """Whether a link is this one's, be it a pair without its alias yet."""
        alias = link.get('ifalias')
        return alias == self.alias or (not alias and link.get('address') == self.mac_address)


@dataclasses.dataclass(frozen=True)
class _Row:
    """An interface as the database has it."""

    external_ids: dict[str, str]
    port: str | None = None
    #: the number that ovs-vswitchd has given it; -1: it could not; None: it has not seen it yet
    number: int | None = None
    #: the number of the link that it uses
    index: int | None = None
    error: str = ''

    @classmethod
    def of(cls, interface: dict[str, Any], port: str | None = None) -> _Row:
        """One of the answers to what :func:`_select_interfaces` makes."""
        # What is not there is an empty set.
        found = {name: None if isinstance(value, list) else value for name, value in interface.items()}
        ids = _pairs(interface['external_ids'])
        return cls(ids, port, found['ofport'], found['ifindex'], found['error'] or '')

    @property
    def is_in_use(self) -> bool:
        """Whether ovs-vswitchd has it in its datapath."""
        return self.number is not None and self.number > 0

    def is_used(self, index: int | None) -> bool:
        """Whether it is there as the link of that number."""
        return self.is_in_use and self.index is not None and self.index == index


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
    """What the database and the kernel have of a NIC, while its lock is held."""

    def __init__(self, nic: _Nic, database: _Database, device: _Device, progress: _Progress) -> None:
        self._nic = nic
        self._database = database
        self._device = device
        self._progress = progress

    def plug(self, port: base.Port, bridge: str) -> dict[str, Any]:
        """:raises PlugFailed: and what was made is taken back"""
        try:
            return self._plug(port, bridge)
        except (exceptions.PlugFailed, NetlinkError, _Refused, OSError) as error:
            silent = isinstance(error, _Silent)
            number = error.code if isinstance(error, NetlinkError) else getattr(error, 'errno', None)
            if silent or number in links.EXHAUSTED:
                raise
            self.remove()
            if isinstance(error, exceptions.PlugFailed):
                raise
            raise exceptions.PlugFailed(operator=f'port {port.id}: {error}') from error

    def _plug(self, port: base.Port, bridge: str) -> dict[str, Any]:
        row = self._row()
        self._refuse_what_is_not_ours(row)
        if not self._bridges([['name', '==', bridge]]):
            raise exceptions.PlugFailed(operator=f'there is no bridge {bridge}')
        index = self._device.fitting()
        if row is not None and not (row.is_used(index) and self._bridges(_holding(row.port)) == [bridge]):
            # No link is exchanged below an interface: ovs-vswitchd tells them apart by their names alone.
            self._take_out(row)
            row = None
        index = self._device.make(port, index)
        ids = self._nic.external_ids(port.mac_address.lower())
        if row is None:
            self._put_in(bridge, {**ids, _KEY: _BEGUN})
            self._await_use(index)
        # Only now: what does not say so is not complete.
        ids[_KEY] = _COMPLETE
        if row is None or not ids.items() <= row.external_ids.items():
            self._change([_set_ids(self._nic, ids)])
        return {'bridge': bridge, 'device': self._nic.name}

    def remove(self) -> None:
        """Take a NIC out; absent: only that ovs-vswitchd has no more to do."""
        row = self._row()
        if row is not None and self._nic.owns(row):
            self._take_out(row)
        else:
            self._settle(None)
        self._device.remove()

    # ------------------------------------------------------------------ the database

    def _row(self) -> _Row | None:
        """The interface of that name, or the port that has the name without one."""
        where = [['name', '==', self._nic.name]]
        interfaces, ports = self._database.transact(
            _select_interfaces(where),
            _select('Port', where, '_uuid'),
        )
        if not interfaces and not ports:
            return None
        port = ports[0]['_uuid'][1] if ports else None
        if not interfaces:
            return _Row({}, port)
        return _Row.of(interfaces[0], port)

    def _bridges(self, where: list[Any]) -> list[str]:
        (found,) = self._database.transact(_select('Bridge', where, 'name'))
        return [bridge['name'] for bridge in found]

    def _refuse_what_is_not_ours(self, row: _Row | None) -> None:
        if row is None:
            self._device.refuse_what_is_not_ours()
        elif (
            _KEY not in row.external_ids
            or row.external_ids.get('iface-id') != self._nic.port_id
            or row.port is None
        ):
            raise exceptions.PlugFailed(operator=f'the interface {self._nic.name} is there, and not ours')

    def _put_in(self, bridge: str, ids: dict[str, str]) -> None:
        """Make the interface, and wait until ovs-vswitchd knows it."""
        interface = {'name': self._nic.name, 'external_ids': _map(ids)}
        port = {'name': self._nic.name, 'interfaces': ['named-uuid', 'interface']}
        operations = [
            {'op': 'insert', 'table': 'Interface', 'uuid-name': 'interface', 'row': interface},
            {'op': 'insert', 'table': 'Port', 'uuid-name': 'port', 'row': port},
            _mutate('Bridge', [['name', '==', bridge]], ['ports', 'insert', ['named-uuid', 'port']]),
        ]
        self._settle(self._change(operations))

    def _take_out(self, row: _Row) -> None:
        """Take the port out of its bridge, which is its end; wait until ovs-vswitchd has let go of the link."""
        leave = _mutate('Bridge', _holding(row.port), ['ports', 'delete', ['uuid', row.port]])
        self._settle(self._change([leave]))

    def _change(self, operations: list[dict[str, Any]]) -> int:
        """Change the database as one; the number of the change, which ovs-vswitchd repeats when it has made it.

        :raises DeadlinePassed:
        """
        counted = [
            _mutate(_SCHEMA, [], ['next_cfg', '+=', 1]),
            _select(_SCHEMA, [], 'next_cfg'),
        ]
        held = {'op': 'assert', 'lock': _lock_id(self._nic.name)}
        self._progress.begin()
        return int(self._database.transact(held, *operations, *counted)[-1][0]['next_cfg'])

    def _settle(self, until: int | None) -> None:
        """Wait for ovs-vswitchd; None: for whatever it was told last.

        :raises _Silent: it does not come to it
        """
        number = until

        def is_done() -> bool:
            nonlocal number
            ((row,),) = self._database.transact(_select(_SCHEMA, [], 'cur_cfg', 'next_cfg'))
            number = row['next_cfg'] if number is None else number
            return bool(row['cur_cfg'] >= number)

        self._await(is_done)

    def _await_use(self, index: int) -> None:
        """Wait until ovs-vswitchd uses the link of that number, and none before it of the same name.

        :raises PlugFailed: it does not take it
        :raises _Silent: it does not come to it
        """

        def is_used() -> bool:
            row = self._row()
            if row is None or row.number is None or row.number < 0:
                reason = 'it is gone' if row is None else row.error or 'is its bridge in use?'
                raise exceptions.PlugFailed(operator=f'ovs-vswitchd does not take {self._nic.name}: {reason}')
            return row.is_used(index)

        self._await(is_used)

    def _await(self, condition: Callable[[], bool]) -> None:
        pause = _FIRST_LOOK
        while not condition():
            if self._database.remaining() <= 2 * pause:
                # Something is on its way, whoever has begun it.
                self._progress.has_begun = True
                raise _Silent('ovs-vswitchd does not do what it is told')
            time.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)


def _select(table: str, where: list[Any], *columns: str) -> dict[str, Any]:
    return {'op': 'select', 'table': table, 'where': where, 'columns': list(columns)}


def _select_interfaces(where: list[Any]) -> dict[str, Any]:
    return _select('Interface', where, 'external_ids', 'ofport', 'ifindex', 'error')


def _mutate(table: str, where: list[Any], *mutations: list[Any]) -> dict[str, Any]:
    return {'op': 'mutate', 'table': table, 'where': where, 'mutations': list(mutations)}


def _holding(port: str | None) -> list[Any]:
    """The bridges that a port is in."""
    return [['ports', 'includes', ['uuid', port]]]


def _set_ids(nic: _Nic, ids: dict[str, str]) -> dict[str, Any]:
    """Ours alone: agents keep more there."""
    return _mutate(
        'Interface',
        [['name', '==', nic.name]],
        ['external_ids', 'delete', ['set', list(ids)]],
        ['external_ids', 'insert', _map(ids)],
    )


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
    """A connection to ovsdb-server. Whatever fails is an OSError.

    :param timeout: seconds for all that is done with it
    :raises OSError: there is none
    """

    def __init__(self, connection: str, timeout: float) -> None:
        family, address = _address(connection)
        self._until = time.monotonic() + timeout
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

    def remaining(self) -> float:
        """Seconds that are left of its time; never negative."""
        return max(0.0, self._until - time.monotonic())

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
        until = min(self._until, time.monotonic() + fence.remaining())
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
        self._send({'method': method, 'params': params, 'id': self._requests})
        try:
            while True:
                message = self._next(self._until)
                if message.get('id') == self._requests and 'method' not in message:
                    break
        except TimeoutError as error:
            raise _Silent('ovsdb-server does not answer') from error
        if message.get('error'):
            raise _Refused(f'{method}: {message["error"]}')
        return message['result']

    def _send(self, message: dict[str, Any]) -> None:
        remaining = self.remaining()
        if not remaining:
            raise _Silent('no time is left')
        try:
            self._socket.settimeout(remaining)
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


# ---------------------------------------------------------------------- the link


class _Device:
    """The link of a NIC, of the kind that it is to be."""

    def __init__(self, nic: _Nic, kind: str, there: links.Links) -> None:
        self._nic = nic
        self._kind = kind
        self._links = there

    def refuse_what_is_not_ours(self) -> None:
        """:raises PlugFailed: something else has the name"""
        link = self._find()
        if link is None or self._nic.owns_link(link):
            return
        if not (link.get('ifalias') or '').startswith(f'{_ALIAS}{self._nic.port_id}:'):
            raise exceptions.PlugFailed(operator=f'the link {self._nic.name} is there, and not ours')

    def fitting(self) -> int | None:
        """The number of the link, if there is one that need not be made anew."""
        link = self._find()
        if link is None or not self._nic.owns_link(link):
            return None
        kind = link.get(('linkinfo', 'kind'))
        return int(link['index']) if kind == {'tap': 'tun'}.get(self._kind, self._kind) else None

    def make(self, port: base.Port, index: int | None) -> int:
        """Make what is not there, and mend what is not as it should be; the number of the link.

        :param index: of the one that fits
        :raises PlugFailed: something else has the name
        """
        if index is None:
            self.refuse_what_is_not_ours()
            useless = self._find()
            if useless is not None:
                self._links.change('del', index=useless['index'])
        with self._tap() if index is None and self._kind == 'tap' else contextlib.nullcontext():
            if index is None and self._kind == 'veth':
                self._make_pair(port)
            link = self._find()
            if link is None:
                raise exceptions.PlugFailed(operator=f'{self._nic.name} has been taken away')
            if link.get('ifalias') != self._nic.alias:
                ours = {'ifalias': self._nic.alias, 'address': self._nic.mac_address}
                self._links.change('set', index=link['index'], **ours, IFLA_AF_SPEC=links.NO_ADDRESS)
            self._links.adapt(link, mtu=port.mtu, state='up')
        if self._kind == 'veth':
            peer = self._links.find(self._nic.peer)
            # Whoever has taken it away into another namespace has it as he wants it.
            if peer is not None and peer.get('link') == link['index'] and link.get('link') == peer['index']:
                self._links.adapt(peer, mtu=port.mtu, address=port.mac_address.lower())
        return int(link['index'])

    def remove(self) -> None:
        link = self._find()
        if link is not None and self._nic.owns_link(link):
            self._links.change('del', index=link['index'])

    def _find(self) -> Any:
        return self._links.find(self._nic.name)

    @contextlib.contextmanager
    def _tap(self) -> Iterator[None]:
        """A tap device that stays, unless the block fails, or its process.

        :raises PlugFailed: somebody else has just made one of that name
        """
        self._links.begin()
        with contextlib.ExitStack() as stack:
            with self._links.entered():
                tun = os.open('/dev/net/tun', os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, tun)
                # Without EXCL a tap device that is there would be opened, whosever it is.
                flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL
                try:
                    fcntl.ioctl(tun, _TUNSETIFF, struct.pack('16sH22x', self._nic.name.encode(), flags))
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        # Not that the machine is.
                        reason = f'the link {self._nic.name} is there, and not ours'
                        raise exceptions.PlugFailed(operator=reason) from error
                    raise
            yield
            self._links.begin()
            fcntl.ioctl(tun, _TUNSETPERSIST, 1)

    def _make_pair(self, port: base.Port) -> None:
        size = {} if port.mtu is None else {'mtu': port.mtu}
        peer = {'ifname': self._nic.peer, 'address': port.mac_address.lower(), **size}
        self._links.change(
            'add', kind='veth', ifname=self._nic.name, address=self._nic.mac_address, peer=peer, **size
        )
