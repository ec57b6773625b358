"""List, show, attach and detach: what a request does, told in terms of records and drivers.

An attachment is shown as its port, with the tag that it was attached with.
"""

from __future__ import annotations

import builtins
import dataclasses
import time

from os_interface_ext import exceptions
from os_interface_ext.attachments.states import INWARD, OUTWARD, Reason, State
from os_interface_ext.attachments.stepper import Pending, Stepper
from os_interface_ext.attachments.store import Held, PortTaken, Record, Sight, Snapshot, Store
from os_interface_ext.attachments.watch import Watch
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: The server states in which Nova lets interfaces be attached and detached.
_CHANGEABLE = frozenset({'active', 'paused', 'stopped'})


@dataclasses.dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a POST asks for: a port, or a network (None: the only one) and perhaps an address."""

    port_id: str | None = None
    network_id: str | None = None
    ip_address: str | None = None
    tag: str | None = None


#: How often a detach looks again when the record moves under its hands.
_TURNS = 20


class _InMotion(Exception):
    """Somebody is at work on the port: to be looked at again."""


class Manager:
    """:param wait: seconds that an attach waits for a port in motion
    :param strict_nova: answer repeated attach and needless detach as Nova does
    """

    def __init__(
        self,
        store: Store,
        servers: base.ServerDriver,
        networks: base.NetworkDriver,
        vifs: base.VIFDriver,
        stepper: Stepper,
        *,
        wait: float = 10.0,
        strict_nova: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Watch()
        self._store = store
        self._servers = servers
        self._networks = networks
        self._vifs = vifs
        self._wait = wait
        self._strict = strict_nova
        self._stepper = stepper

    # ------------------------------------------------------------------ reading

    def list(self, ctxt: RequestContext, server: base.Server) -> list[base.Port]:
        """What a server has attached: ports without a record by id, then by order of attachment."""
        # The records first: what is in motion is hidden, or shown from its snapshot, whatever the network
        # says by then. Ports that had no record are looked for once more: an attach may have begun since.
        records = self._store.sights(server.id)
        ports = {port.id: port for port in self._networks.list_ports(ctxt, server.id)}
        recorded = self._take_recorded(records, ports)
        if ports:
            known = {record.id for record in records}
            later = [record for record in self._store.sights(server.id) if record.id not in known]
            recorded += self._take_recorded(later, ports)
        return [ports[port_id] for port_id in sorted(ports)] + recorded

    def _take_recorded(
        self, records: builtins.list[Sight], ports: dict[str, base.Port]
    ) -> builtins.list[base.Port]:
        """What the records show; their ports are taken out of ``ports``."""
        if not records:
            return []
        by_mark = {port.mark: port.id for port in ports.values()}
        out = []
        for record in records:
            port_id = record.port_id or (by_mark.get(record.mark) if record.mark else None)
            shown = self._shown(record, ports.pop(port_id, None) if port_id else None)
            if shown is not None:
                out.append(shown)
        return out

    def show(self, ctxt: RequestContext, server: base.Server, port_id: str) -> base.Port:
        """One port that a server has attached.

        :raises NotAttached: there is none, or it is not complete yet
        """
        record = self._record_of(port_id)
        if record is not None and record.server_id == server.id and record.state is not State.ATTACHED:
            shown = self._shown(record, None)
        else:
            port = self._port_of(ctxt, server, port_id)
            if port is not None and (record is None or record.server_id != server.id):
                # As in a list: an attach may have begun since.
                record = self._record_of(port_id) or self._record_of_mark(port)
            if record is not None and record.server_id == server.id:
                shown = self._shown(record, port)
            else:
                shown = port
        if shown is None:
            raise exceptions.NotAttached(server.id, port_id)
        return shown

    def _shown(self, record: Record | Sight, port: base.Port | None) -> base.Port | None:
        """What a record shows, ``port`` being that of the network backend if the server has it there."""
        if record.is_attached:
            return _tagged(port, record.tag) if port is not None else None
        return record.leaving

    # ------------------------------------------------------------------ attach

    def attach(self, ctxt: RequestContext, server: base.Server, request: AttachRequest) -> base.Port:
        """Attach a port, or a new port on a network, and tell what came of it.

        :raises ServerState: that forbids it
        :raises TagNotSupported: a tag was asked for
        :raises PortInUse: another server has the port
        :raises Busy: the port stayed in motion
        :raises UndoPending: it failed, and could not be taken back yet
        :raises DriverError: it failed, and has been taken back
        """
        _check_state(server, 'attach_interface')
        if request.tag is not None and base.TAGGED_ATTACH not in self._vifs.capabilities(ctxt, server):
            raise exceptions.TagNotSupported()
        give_up = time.monotonic() + self._wait
        pause = 0.01
        while True:
            try:
                if request.port_id is not None:
                    return self._attach_port(ctxt, server, request, request.port_id)
                return self._attach_network(ctxt, server, request)
            except _InMotion as motion:
                if time.monotonic() + pause > give_up:
                    raise exceptions.Busy() from motion
                time.sleep(pause)
                pause = min(pause * 2, 0.5)
            # The server may have moved, or changed its state, meanwhile.
            server = self._servers.get(ctxt, server.id)
            _check_state(server, 'attach_interface')

    def _attach_port(
        self, ctxt: RequestContext, server: base.Server, request: AttachRequest, port_id: str
    ) -> base.Port:
        logs.learn(port_id=port_id)
        port = self._networks.get_port(ctxt, port_id)
        if port.project_id != server.project_id:
            raise exceptions.PortNotUsable(port_id, 'it belongs to another project')
        record = self._record_of(port_id) or self._record_of_mark(port)
        if record is not None:
            return self._attach_recorded(ctxt, server, record)
        if port.device_id:
            # Read before it was known that there is no record: a detach may have ended in between.
            if self._networks.get_port(ctxt, port_id).device_id != port.device_id:
                raise _InMotion()
            return self._already(server, port, port.tag)
        if not self._servers.keeps_brought_ports:
            raise exceptions.PortNotUsable(
                port_id, 'it would be deleted together with the server, so that only networks can be attached'
            )
        if base.vnic_capability(port.vnic_type) not in self._vifs.capabilities(ctxt, server):
            raise exceptions.PortNotUsable(port_id, f'vnic_type {port.vnic_type} cannot be plugged here')
        held = self._insert(ctxt, server, request, created=False)
        return self._go_in(ctxt, server, held)

    def _attach_recorded(self, ctxt: RequestContext, server: base.Server, record: Record) -> base.Port:
        """The port has a record already."""
        if record.state is not State.ATTACHED:
            raise _InMotion()
        assert record.port_id is not None
        # Read after the record: one that was read before could be older than the attachment.
        port = self._networks.get_port(ctxt, record.port_id)
        if port.device_id == record.server_id:
            return self._already(server, port, record.tag)
        self._let_go(ctxt, record)
        raise _InMotion()

    def _already(self, server: base.Server, port: base.Port, tag: str | None) -> base.Port:
        if port.device_id == server.id and not self._strict:
            return _tagged(port, tag)
        raise exceptions.PortInUse(port.id)

    def _attach_network(self, ctxt: RequestContext, server: base.Server, request: AttachRequest) -> base.Port:
        try:
            # Who cannot be asked cannot plug, either: nothing is begun.
            self._vifs.capabilities(ctxt, server)
        except exceptions.Unavailable:
            found = None if self._strict else self._repeated(ctxt, server, request)
            if found is None:
                raise
            return found
        held = self._insert(ctxt, server, request, created=True)
        try:
            return self._go_in(ctxt, server, held)
        except (exceptions.AddressInUse, exceptions.QuotaExceeded):
            # What stands in the way may be what the same request made before.
            found = None if self._strict else self._repeated(ctxt, server, request)
            if found is None:
                raise
            return found

    def _repeated(self, ctxt: RequestContext, server: base.Server, request: AttachRequest) -> base.Port | None:
        """The attachment that the same request made before, when its answer was lost on the way."""
        if request.network_id is None or request.ip_address is None:
            return None
        for record in self._store.of_request(server.id, request.network_id, request.ip_address):
            if record.state in OUTWARD:
                # The address is about to be free.
                raise _InMotion()
            if record.tag != request.tag:
                continue
            if record.state in INWARD:
                raise _InMotion()
            if record.state is State.ATTACHED and record.port_id is not None:
                return self._shown(record, self._port_of(ctxt, server, record.port_id))
        return None

    def _insert(self, ctxt: RequestContext, server: base.Server, request: AttachRequest, *, created: bool) -> Held:
        try:
            return self._store.insert(
                created=created,
                server_id=server.id,
                project_id=server.project_id,
                host=server.host,
                port_id=request.port_id,
                requested_network_id=request.network_id,
                requested_address=request.ip_address,
                tag=request.tag,
                state=State.ALLOCATING,
                request_id=ctxt.request_id,
            )
        except PortTaken as error:
            raise _InMotion() from error

    def _go_in(self, ctxt: RequestContext, server: base.Server, held: Held) -> base.Port:
        record, port = self._stepper.go_in(ctxt, server, held)
        return _tagged(port, record.tag)

    # ------------------------------------------------------------------ detach

    def detach(self, ctxt: RequestContext, server: base.Server, port_id: str) -> None:
        """Begin to take a port off a server, and get as far as that goes now.

        On return the detach is recorded: it will be finished, by whomever.

        :raises ServerState: that forbids it
        :raises NotAttached: the server does not have the port
        :raises NotSupported: the NIC cannot be taken out of this server
        """
        _check_state(server, 'detach_interface')
        first: str | None = None
        for _ in range(_TURNS):
            record = self._record_of(port_id)
            if first is not None and (record is None or record.id != first):
                # What was asked to go has gone; whatever is attached now was attached since.
                return
            first = record.id if record is not None and record.server_id == server.id else None
            try:
                self._detach(ctxt, server, port_id, record)
            except (_InMotion, exceptions.LostHold):
                continue  # Somebody moved the record between a look and a write: what is it now?
            except exceptions.NotAttached:
                if not self._strict:
                    raise
            return
        raise exceptions.Busy()

    def _detach(self, ctxt: RequestContext, server: base.Server, port_id: str, record: Record | None) -> None:
        port = None
        if record is None or (record.server_id == server.id and record.state is State.ATTACHED):
            port = self._port_of(ctxt, server, port_id)
            if port is None:
                if record is not None:
                    self._let_go(ctxt, record)
                raise exceptions.NotAttached(server.id, port_id)
            if record is None:
                # A port that is being made is not on its record yet.
                record = self._record_of_mark(port)
        if record is None:
            assert port is not None
            self._detach_unrecorded(ctxt, server, port)
        elif record.server_id != server.id:
            self._detach_disputed(ctxt, server, record, port_id)
        elif record.state in INWARD:
            if not self._store.ask_undo(record):
                raise _InMotion()
        elif record.state is State.ATTACHED:
            self._check_unplug(ctxt, server)
            held = self._store.take(record, state=State.UNPLUGGING, reason=Reason.DETACH)
            self._watch.detach_started(ctxt, server, held.record)
            self._go_out(ctxt, server, held)
        else:
            self._carry_on(ctxt, server, record)

    def _carry_on(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        """A detach asked for again: go on with it if nobody else does."""
        try:
            held = self._store.take(record)
        except exceptions.LostHold:
            return
        self._go_out(ctxt, server, held)

    def _detach_unrecorded(self, ctxt: RequestContext, server: base.Server, port: base.Port) -> None:
        """A port that somebody else gave to the server, at boot say."""
        self._check_unplug(ctxt, server)
        try:
            held = self._store.insert(
                created=self._networks.created_by_server(ctxt, server, port) is True,
                mark=port.mark,
                unmarked=port.mark is None,
                server_id=server.id,
                project_id=server.project_id,
                host=server.host,
                port_id=port.id,
                tag=port.tag,
                snapshot=Snapshot.of(port),
                state=State.UNPLUGGING,
                reason=Reason.DETACH,
                request_id=ctxt.request_id,
            )
        except PortTaken as error:
            raise _InMotion() from error
        # Only now is it certain that nobody else acts on it: read again what it is.
        if self._port_of(ctxt, server, port.id) is None:
            self._store.drop(held.record, result=False)
            return
        self._watch.detach_started(ctxt, server, held.record)
        self._go_out(ctxt, server, held)

    def _detach_disputed(self, ctxt: RequestContext, server: base.Server, record: Record, port_id: str) -> None:
        """The port is on record for another server: only the network can say that it is this one's."""
        if record.state is not State.ATTACHED or self._port_of(ctxt, server, port_id) is None:
            raise exceptions.NotAttached(server.id, port_id)
        self._let_go(ctxt, record)
        raise _InMotion()

    def _let_go(self, ctxt: RequestContext, record: Record) -> None:
        """End an ATTACHED record that the network no longer agrees with."""
        try:
            server = self._servers.get(ctxt, record.server_id)
        except exceptions.ServerNotFound:
            server = base.Server(record.server_id, record.project_id, host=record.host)
        try:
            held = self._store.take(record, state=State.UNPLUGGING, reason=Reason.GONE)
            self._stepper.go_out(ctxt, server, held)
        except exceptions.LostHold:
            LOG.info('record %s is being carried on by somebody else', record.id)
        except Pending as pending:
            raise exceptions.Busy(operator=f'record {record.id} is on its way out: {pending}') from pending

    def _go_out(self, ctxt: RequestContext, server: base.Server, held: Held) -> None:
        try:
            self._stepper.go_out(ctxt, server, held)
        except Pending as pending:
            LOG.warning('detach of port %s goes on later: %s', held.record.port_id, pending)
        except exceptions.LostHold:
            LOG.info('detach of port %s is being carried on by somebody else', held.record.port_id)

    def _check_unplug(self, ctxt: RequestContext, server: base.Server) -> None:
        try:
            capabilities = self._vifs.capabilities(ctxt, server)
        except (exceptions.Unavailable, exceptions.ServerNotReady) as error:
            # A detach is accepted all the same, also of a server that is on no host by now; whether it can be
            # done shows when it is carried on.
            LOG.warning('server %s cannot be asked whether NICs can be taken out: %s', server.id, error.operator)
            return
        if base.LIVE_UNPLUG not in capabilities:
            raise exceptions.NotSupported('An interface cannot be detached from this server.')

    # ------------------------------------------------------------------ look-ups

    def _record_of(self, port_id: str) -> Record | None:
        return self._store.of_port(port_id) if is_sane(port_id) else None

    def _record_of_mark(self, port: base.Port) -> Record | None:
        return self._store.of_mark(port.mark) if port.mark else None

    def _port_of(self, ctxt: RequestContext, server: base.Server, port_id: str) -> base.Port | None:
        """The port, if the network backend says that the server has it."""
        if not is_sane(port_id):
            return None
        try:
            port = self._networks.get_port(ctxt, port_id)
        except exceptions.PortNotFound:
            return None
        return port if port.device_id == server.id else None


def _tagged(port: base.Port, tag: str | None) -> base.Port:
    return port if port.tag == tag else dataclasses.replace(port, tag=tag)


def is_sane(identifier: str) -> bool:
    """Whether a text from a URL can be an id at all.

    A database takes neither NUL nor a lone surrogate, and some compare without the blanks at the end.
    """
    return 0 < len(identifier) <= 255 and identifier.isprintable() and identifier == identifier.strip()


def _check_state(server: base.Server, operation: str) -> None:
    if server.vm_state not in _CHANGEABLE:
        raise exceptions.ServerState(server.id, operation, f'vm_state {server.vm_state}')
    if server.task_state is not None:
        raise exceptions.ServerState(server.id, operation, f'task_state {server.task_state}')
