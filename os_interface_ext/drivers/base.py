"""The three kinds of driver: what a backend must do, and the values that go in and out.

A driver is one class. It is constructed with the configuration object (``Driver(conf)``), registers its
own option group on it, and is found by its entry point. Every method takes the request context first and
is **idempotent**: a call repeated after a crash does no harm and ends in the same state. Besides the
errors that a method names, any may raise

- :class:`~os_interface_ext.exceptions.Unavailable`: nothing happened,
- :class:`~os_interface_ext.exceptions.UnknownOutcome`: it may have happened; the caller settles it by
  asking again,
- :class:`~os_interface_ext.exceptions.NotSupported`.

The suites in :mod:`os_interface_ext.testing` check these promises against any driver.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext

if TYPE_CHECKING:
    from os_interface_ext.db.engine import Database

_Value = TypeVar('_Value')

#: Capabilities that a VIF driver may state for a server.
TAGGED_ATTACH = 'tagged_attach'
LIVE_UNPLUG = 'live_unplug'
#: The vnic_type of ordinary ports, of which all are that are made here: every VIF driver plugs it.
NORMAL = 'normal'


def vnic_capability(vnic_type: str) -> str:
    """The capability that says: ports of this vnic_type can be plugged."""
    return f'vnic_type:{vnic_type}'


@dataclasses.dataclass(frozen=True, slots=True)
class Fence:
    """How long the holder of a record may begin side effects, and in whose turn.

    ``generation`` is 1 for the process that made the record, and grows each time somebody takes hold of it:
    it can be compared with another one of the same ``record`` alone. ``deadline`` is in seconds of
    :func:`time.monotonic` of this process. ``installation`` is the id of that whose record it is; empty: it is
    not told.
    """

    generation: int
    deadline: float
    record: str = ''
    installation: str = ''

    def remaining(self) -> float:
        """Seconds that are left; never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """To be called right before a side effect.

        :raises DeadlinePassed: if none may be begun any more
        """
        if time.monotonic() >= self.deadline:
            raise exceptions.DeadlinePassed()


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """A server as its controller knows it; states in Nova's words (``vm_state``, ``task_state``).

    ``locked_by`` is None, ``'owner'`` or ``'admin'``.
    """

    id: str
    project_id: str
    name: str = ''
    host: str | None = None
    vm_state: str = 'active'
    task_state: str | None = None
    locked_by: str | None = None
    availability_zone: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FixedIP:
    """An address of a port, in its canonical form.

    ``prefix_length`` is its subnet's, for VIF drivers, where ``details`` tells it; the address is the same
    without it.
    """

    subnet_id: str
    ip_address: str
    prefix_length: int | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """A port of the network backend.

    ``status`` is ACTIVE, DOWN, BUILD or ERROR. ``device_id`` is the server (or router) that has the port,
    None or empty if nobody has. ``mark`` is what :meth:`NetworkDriver.create` was given, None for ports
    that were not made by this project. ``tag`` is a device tag that the backend itself knows. ``mtu``,
    ``vif_type`` and ``vif_details`` are for VIF drivers.
    """

    id: str
    network_id: str
    mac_address: str
    project_id: str
    fixed_ips: tuple[FixedIP, ...] = ()
    status: str = 'DOWN'
    device_id: str | None = None
    device_owner: str = ''
    host: str | None = None
    vnic_type: str = NORMAL
    admin_state_up: bool = True
    name: str = ''
    mark: str | None = None
    tag: str | None = None
    mtu: int | None = None
    vif_type: str | None = None
    vif_details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def with_prefixes(self, lengths: Mapping[str, int]) -> Port:
        """The port with the prefix lengths of its addresses, by subnet."""
        fixed_ips = (dataclasses.replace(one, prefix_length=lengths.get(one.subnet_id)) for one in self.fixed_ips)
        return dataclasses.replace(self, fixed_ips=tuple(fixed_ips))


#: The fields of a :class:`Port` that a list of ports tells: what is shown, and by what its record is found.
LISTED = (
    'id',
    'network_id',
    'mac_address',
    'project_id',
    'fixed_ips',
    'status',
    'device_id',
    'mark',
    'tag',
)


@dataclasses.dataclass(frozen=True, slots=True)
class PortRequest:
    """What a port is to be made of.

    ``network_id`` None means the only network that the server's project has. ``ip_address`` is canonical,
    and given only together with a network.
    """

    network_id: str | None = None
    ip_address: str | None = None


def require_below_half_lease(conf: cfg.ConfigOpts, option: str, seconds: float) -> None:
    """Of the longest that a side effect may take: begun at the last moment, it is over when the lease is.

    :param option: with its group, as it is named to the operator
    :raises ConfigurationError: it could still be under way when somebody else goes on with the record
    """
    half = conf.attachments.lease / 2
    if seconds >= half:
        raise exceptions.ConfigurationError(
            f'option {option}: {seconds:g} s is not below half of [attachments] lease, {half:g} s: lower it, or '
            'raise the lease'
        )


def quick(kind: type[_Value], *names: str) -> Callable[..., _Value]:
    """What makes values of a frozen dataclass with slots, of these fields in this order.

    The others get their defaults, and must have one. For what is read by the hundred: a :class:`Port` takes 0.4
    microseconds so, and 2.4 with its own ``__init__``, because that of a frozen class goes around its
    ``__setattr__`` for each field.
    """
    # The same slots: what was assigned to stays when the value gets its class, and cannot be assigned to any more.
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    known: dict[str, Any] = {'kind': kind, 'loose': type('loose', (), {'__slots__': [one.name for one in fields]})}
    lines = [f'def make({", ".join(names)}):', 'made = loose()']
    for field in fields:
        value = field.name
        if value not in names:
            has_factory = field.default_factory is not dataclasses.MISSING
            if not has_factory and field.default is dataclasses.MISSING:
                raise TypeError(f'{kind.__name__}.{value} has no default')
            known[f'default_{value}'] = field.default_factory if has_factory else field.default
            value = f'default_{value}()' if has_factory else f'default_{value}'
        lines.append(f'made.{field.name} = {value}')
    # Compiled, as dataclasses does it: a loop over names at each call would cost more than it saves.
    exec('\n    '.join([*lines, 'made.__class__ = kind', 'return made']), known)
    make: Callable[..., _Value] = known['make']
    return make


def may_be_of(installation: str, marked: str) -> bool:
    """Whether a NIC may be one of an installation.

    :param marked: the installation in its mark; empty: an earlier version has plugged it
    """
    return not installation or not marked or marked == installation


class Direction(enum.StrEnum):
    """What is done to a NIC."""

    PLUG = 'plug'
    UNPLUG = 'unplug'


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What is to be done to the NIC of a port in a server, and in whose turn: as a fence tells it.

    The same order may be told with the installation or, by an earlier version, without it.
    """

    direction: Direction
    server_id: str
    port_id: str
    record: str
    generation: int
    installation: str = dataclasses.field(default='', compare=False)


@dataclasses.dataclass(slots=True)
class Review:
    """What the records say of NICs that a host has; a NIC is a pair of ids, of a server and a port.

    ``orders``: what is to be unplugged at once. ``suspects``: the NICs without a record, which are looked at
    again after ``grace`` seconds. ``unsettled``: how many could not be asked about, or belong to a server that is
    being moved. ``here``: how many belong to a server that is on this host. More than ``most`` orders and
    suspects in all are taken for a mistake.
    """

    most: int
    grace: float
    orders: list[tuple[Server, Order]] = dataclasses.field(default_factory=list)
    suspects: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    unsettled: int = 0
    here: int = 0


class Orders(Protocol):
    """What the records say of orders: for VIF drivers that have them carried out where no database is."""

    def installation(self) -> str:
        """The id of the installation whose records they are; empty: it is not told, by an earlier version.

        :raises Unavailable: the records cannot be read
        """

    def time_left(self, order: Order, host: str) -> float:
        """Seconds for which side effects of an order may be begun on a host; 0.0: it does not hold any more.

        :raises Unavailable: the records cannot be read
        """

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> Review:
        """What is to be done about NICs of ours that a host has; nothing is changed by the question."""

    def end(self, host: str, nics: Iterable[tuple[str, str]]) -> int:
        """Record that suspects of an earlier review, a grace ago, are to be unplugged: each follows as an order.

        :returns: how many could not be asked about
        """


class Change(str):
    """What has happened to the ports of a server: ``'attached'`` or ``'detached'``.

    A text, with what is known of the attachment: ``port_id`` (None if it never came to a port), ``created``
    (whether this project made the port for the server; a port that was brought is the user's and stays
    when the server goes), the device ``tag``, and the ``port`` as it was bound (None of a detach).
    """

    __slots__ = ('created', 'port', 'port_id', 'tag')

    port_id: str | None
    created: bool
    tag: str | None
    port: Port | None

    def __new__(
        cls,
        kind: str,
        port_id: str | None = None,
        *,
        created: bool = False,
        tag: str | None = None,
        port: Port | None = None,
    ) -> Change:
        change = super().__new__(cls, kind)
        change.port_id, change.created, change.tag, change.port = port_id, created, tag, port
        return change


class Driver(abc.ABC):  # noqa: B024
    """What all drivers are constructed with."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:  # noqa: B027
        """:param conf: to register the driver's own option group on, by name, and to read it from"""

    # Optional
    def check(self, ctxt: RequestContext) -> None:  # noqa: B027
        """Return if the backend can be used now; asked for the health check, in a thread of its own.

        One cheap question that changes nothing; ``ctxt`` is that of this service. By default nothing is
        asked.

        :raises Unavailable: or any other error: what is wrong, for the operator's log alone
        """


class ServerDriver(Driver):
    """Tells who a server is."""

    #: False only for a driver whose controller deletes all ports of a server with it, those too that a user
    #: has brought: such ports are then not attached.
    keeps_brought_ports = True

    @abc.abstractmethod
    def get(self, ctxt: RequestContext, server_id: str) -> Server:
        """The server, whoever asks: the caller decides who may see it.

        ``server_id`` is what stood in the URL and may be any text; an odd one is simply not found.

        :raises ServerNotFound:
        """

    # Optional: a driver that does not override this is never called.
    def attachments_changed(self, ctxt: RequestContext, server_id: str, event: Change) -> None:
        """The ports of a server have changed; ``event`` is ``attached`` or ``detached``, and what is known.

        Called before the change is answered, at least once for each change, and repeated until it
        returns; an attach of which it cannot be told is undone. The network backend has the change by then,
        while this API shows it only afterwards. A server that is gone is no error.
        """

    # Optional: a driver that does not override this is never called.
    def port_is_brought(self, ctxt: RequestContext, server: Server, port_id: str) -> None:
        """A port of a user's is about to become the server's: nothing has happened to it yet.

        For a controller that learns of the attachment from the network backend as well, and must know by
        then that the port is not its own. ``attachments_changed`` follows in any case: ``attached``, or
        ``detached`` if nothing comes of it. May be repeated.
        """


class NetworkDriver(Driver):
    """Tells and makes ports."""

    @abc.abstractmethod
    def list_ports(self, ctxt: RequestContext, server_id: str) -> list[Port]:
        """All ports whose device is the server, in one round trip; empty if there is none.

        Of each port at least what is :data:`LISTED`, as ``get_port`` tells it: a list may be long. The rest may be
        left at its defaults; whoever acts on a port reads it first.
        """

    @abc.abstractmethod
    def get_port(self, ctxt: RequestContext, port_id: str) -> Port:
        """One port, of whichever project; ``port_id`` may be any text.

        :raises PortNotFound:
        """

    @abc.abstractmethod
    def create(self, ctxt: RequestContext, server: Server, request: PortRequest, mark: str, fence: Fence) -> Port:
        """Make a port for the server, in the server's project, with the server as its device.

        The same mark gives the same port: a call repeated after a lost answer makes no second one, even if
        the quota, the address or the pool is used up by then.

        :raises NetworkNotFound: unknown, or not visible to the caller
        :raises NetworkAmbiguous: no network named, and the project has more than one
        :raises NetworkNotUsable: no network named and none there; or nothing can be attached to it
        :raises NetworkForbidden: not for callers of this kind
        :raises QuotaExceeded:
        :raises NoAddress: none left
        :raises AddressInUse: the one asked for
        :raises AddressInvalid: the one asked for
        """

    @abc.abstractmethod
    def claim(self, ctxt: RequestContext, server: Server, port_id: str, fence: Fence) -> Port:
        """Make the server the device of an existing port; a port that it already has is fine.

        :raises PortNotFound:
        :raises PortNotUsable: of another project than the server's, or of a network that cannot be used
        :raises NetworkForbidden: of a network that is not for callers of this kind
        :raises PortInUse: another device has it
        """

    @abc.abstractmethod
    def unbind(self, ctxt: RequestContext, port_id: str, server_id: str, fence: Fence) -> None:
        """Take the server off the port; if it is absent or another's, there is nothing to do."""

    @abc.abstractmethod
    def delete(self, ctxt: RequestContext, port_id: str | None, mark: str | None, fence: Fence) -> None:
        """Delete a port; if it is absent, there is nothing to do.

        ``port_id`` None means the port with that mark (an answer to ``create`` was lost). ``mark`` None
        means a port that was not made by this project, but for its server (see ``created_by_server``).

        :raises NotOurs: the port has another mark, or one where none was named, or none where one was; it
            is left alone
        """

    # Optional
    def bind(self, ctxt: RequestContext, port: Port, host: str | None, fence: Fence) -> Port:
        """Tell the backend on which host the port is; the answer is what is to be plugged.

        :raises BindingFailed: also if the port is not its device's any more
        """
        return port

    # Optional
    def details(self, ctxt: RequestContext, port: Port) -> Port:
        """A bound port with all that plugging it may need: the ``mtu``, the ``prefix_length`` of its addresses.

        Asked only before a plug that has side effects: whatever ``bind`` would need another round trip for.
        """
        return port

    # Optional
    def find_marked(self, ctxt: RequestContext, installation: str) -> Iterable[Port]:
        """All ports with a mark of the installation (``osif:<installation>:…``), for the sweep."""
        raise exceptions.NotSupported()

    # Optional
    @property
    def database(self) -> Database | None:
        """The database of this project's, if all that the driver writes is kept there with ``Database.transact``.

        What it does is then committed together with the record of it, or not at all: an error within a transaction
        of its own fails the whole.
        """
        return None

    # Optional
    def created_by_server(self, ctxt: RequestContext, server: Server, port: Port) -> bool | None:
        """Whether a port without a record was made for its server, so that a detach deletes it.

        None: unknown, so the port is never deleted.
        """
        return None


class VIFDriver(Driver):
    """Plugs a port into a server."""

    #: False only for a driver whose plug and unplug change nothing anywhere: steps between which
    #: nothing happens are then not recorded one by one.
    has_side_effects = True

    @abc.abstractmethod
    def plug(self, ctxt: RequestContext, server: Server, port: Port, fence: Fence) -> dict[str, Any]:
        """Put the NIC into the server; a NIC that is there already is fine.

        A port of a ``vnic_type`` beside ``normal`` comes only if ``capabilities`` states it.

        :returns: what ``unplug`` will need: small, of JSON's types
        :raises PlugFailed: nothing is left of the attempt
        """

    @abc.abstractmethod
    def unplug(
        self, ctxt: RequestContext, server: Server, port_id: str, plug_data: dict[str, Any], fence: Fence
    ) -> None:
        """Take the NIC out; returns only when it is gone. Absent: nothing to do.

        ``plug_data`` is empty when nothing was recorded (the port was plugged by somebody else).

        :raises InProgress: it is on its way; to be asked again
        :raises NotSupported: it cannot be taken out; an undo is content with that if ``plugged`` does not tell
            of the NIC
        """

    @abc.abstractmethod
    def plugged(self, ctxt: RequestContext, server: Server) -> set[str]:
        """The ids of the ports whose NIC the server has.

        :raises NotSupported: it cannot tell (never an empty set instead)
        """

    # Optional
    def capabilities(self, ctxt: RequestContext, server: Server) -> frozenset[str]:
        """What can be done with this server; asked before any side effect."""
        return frozenset({TAGGED_ATTACH, LIVE_UNPLUG, vnic_capability(NORMAL)})

    # Optional
    def find_plugged(self, ctxt: RequestContext, installation: str) -> Iterable[tuple[str, str]]:
        """All NICs on this host that carry the mark of this project: the ids of server and port of each.

        But for those of another installation: ``plug`` notes that of the fence in the mark (see
        :func:`may_be_of`).
        """
        raise exceptions.NotSupported()

    # Optional
    def serve_orders(self, orders: Orders) -> contextlib.AbstractContextManager[object]:
        """Answer questions about orders for as long as the block lasts.

        Called by a reconciler, in a process of this project; it does not wait for a backend to answer.
        """
        return contextlib.nullcontext()
