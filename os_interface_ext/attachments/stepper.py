"""Carries one record along its way, step by step: in, or out."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, NoReturn

from os_interface_ext import exceptions
from os_interface_ext.attachments.listeners import Event, Listeners
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Held, Record, Snapshot, Store
from os_interface_ext.attachments.watch import Watch
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: Errors of ``create`` and ``claim`` after which the backend may have done something all the same.
_UNCERTAIN = (exceptions.UnknownOutcome,)
#: Doublings of the back-off: by then it has long reached its cap.
_DOUBLINGS = 30


class Pending(Exception):
    """The way out could not be finished now; the record stays on it."""


class Stepper:
    """Each step is: a record committed, then the side effect that it announces.

    Where a network driver keeps its ports in the database of the records, what it does is a part of the commit
    that concludes the step: all or nothing, and one commit less each way.
    """

    def __init__(
        self,
        store: Store,
        servers: base.ServerDriver,
        networks: base.NetworkDriver,
        vifs: base.VIFDriver,
        *,
        backoff: float = 1.0,
        backoff_cap: float = 300.0,
        stuck_attempts: int = 8,
        listeners: Listeners | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Watch()
        self._listeners = listeners or Listeners()
        self._backoff = backoff
        self._backoff_cap = backoff_cap
        self._stuck_attempts = stuck_attempts
        self._store = store
        self._servers = servers
        self._networks = networks
        self._vifs = vifs
        self._host_is_told_before = type(servers).port_is_brought is not base.ServerDriver.port_is_brought
        self._host_is_told = type(servers).attachments_changed is not base.ServerDriver.attachments_changed
        # A host that is told within a transaction would have others wait for it.
        is_told = self._host_is_told or self._host_is_told_before
        self._commits_together = store.is_shared_with(networks) and not is_told

    # ------------------------------------------------------------------ in

    def go_in(self, ctxt: RequestContext, server: base.Server, held: Held) -> tuple[Record, base.Port]:
        """ALLOCATING to ATTACHED.

        :raises OsInterfaceError: what went wrong, after it has been undone
        :raises UndoPending: it went wrong, and the undo is not finished
        :raises LostHold: somebody else carries the record on
        """
        self._watch.attach_started(ctxt, server, held.record)
        try:
            record, port = self._go_in(ctxt, server, held)
        except exceptions.LostHold:
            raise
        except Exception as error:
            self._watch.attach_failed(ctxt, server, held.record, error)
            raise
        self._watch.attach_ended(ctxt, server, record, port)
        return record, port

    def _go_in(self, ctxt: RequestContext, server: base.Server, held: Held) -> tuple[Record, base.Port]:
        port = None
        try:
            if self._commits_together:
                held, port = self._enter_at_once(ctxt, server, held)
            else:
                port = self._allocate(ctxt, server, held)
                held, port = self._bind(ctxt, server, held, port)
            logs.learn(port_id=port.id)
            record = held.record
            if record.state is not State.ATTACHED:
                held = self._plug(ctxt, server, held, port)
                record = self._conclude(ctxt, held, port)
        except exceptions.LostHold as lost:
            if self._asked_to_undo(held.record) is None:
                raise
            conflict = exceptions.DetachedMeanwhile()
            self._undo(ctxt, server, held, conflict, port)
            raise conflict from lost
        except Exception as error:
            if port is None and self._is_without_effect(held.record, error):
                self._store.drop(held.record, result=False)
            else:
                self._undo(ctxt, server, held, error, port)
            raise
        self._listeners.tell(Event.ATTACHED, record)
        return record, port

    def _is_without_effect(self, record: Record, error: Exception) -> bool:
        """Whether an attach that failed before there was a port has left nothing behind."""
        if isinstance(error, _UNCERTAIN) or not isinstance(error, exceptions.DriverError):
            return False
        return record.created or not self._host_is_told_before

    def _enter_at_once(self, ctxt: RequestContext, server: base.Server, held: Held) -> tuple[Held, base.Port]:
        try:
            return self._store.together(lambda: self._enter(ctxt, server, held))
        except exceptions.UnknownOutcome:
            found = self._find_entered(ctxt, held)
            if found is None:
                raise
            return found

    def _find_entered(self, ctxt: RequestContext, held: Held) -> tuple[Held, base.Port] | None:
        """What a commit without an answer has come to; None: nothing yet, or nobody can tell."""
        was = held.record
        try:
            record = self._store.get(was.id)
            if record is None or record.port_id is None or record.state is was.state:
                return None
            if (record.generation, record.reason) != (was.generation, was.reason):
                return None
            port = self._networks.get_port(ctxt, record.port_id)
            if self._vifs.has_side_effects:
                port = self._networks.details(ctxt, port)
            return Held(record, held.fence), port
        except exceptions.OsInterfaceError:
            return None

    def _enter(self, ctxt: RequestContext, server: base.Server, held: Held) -> tuple[Held, base.Port]:
        """What comes before a NIC is plugged, and all where none is."""
        port = self._allocate(ctxt, server, held)
        held, port = self._bind(ctxt, server, held, port)
        if not self._vifs.has_side_effects:
            held = self._plug(ctxt, server, held, port)
            held = Held(self._conclude(ctxt, held, port), held.fence)
        return held, port

    def _allocate(self, ctxt: RequestContext, server: base.Server, held: Held) -> base.Port:
        record = held.record
        if record.created:
            assert record.mark is not None
            wanted = base.PortRequest(record.requested_network_id, record.requested_address)
            return self._networks.create(ctxt, server, wanted, record.mark, held.fence)
        assert record.port_id is not None
        if self._host_is_told_before:
            held.fence.check()
            self._servers.port_is_brought(ctxt, server, record.port_id)
        return self._networks.claim(ctxt, server, record.port_id, held.fence)

    def _bind(
        self, ctxt: RequestContext, server: base.Server, held: Held, port: base.Port
    ) -> tuple[Held, base.Port]:
        port = self._networks.bind(ctxt, port, server.host, held.fence)
        if self._vifs.has_side_effects:
            port = self._networks.details(ctxt, port)
            held = self._store.swap(held.record, state=State.PLUGGING, port_id=port.id, snapshot=Snapshot.of(port))
        return held, port

    def _plug(self, ctxt: RequestContext, server: base.Server, held: Held, port: base.Port) -> Held:
        self._require_vnic_type(ctxt, server, port)
        plug_data = self._vifs.plug(ctxt, server, port, held.fence)
        return Held(dataclasses.replace(held.record, port_id=port.id, plug_data=plug_data), held.fence)

    def _require_vnic_type(self, ctxt: RequestContext, server: base.Server, port: base.Port) -> None:
        """Of a brought port it was asked when it was not the server's yet, and could be changed.

        :raises PlugFailed: the VIF driver does not say that it plugs such a port
        """
        if port.vnic_type == base.NORMAL:
            return
        if base.vnic_capability(port.vnic_type) not in self._vifs.capabilities(ctxt, server):
            raise exceptions.PlugFailed(operator=f'port {port.id} is of vnic_type {port.vnic_type}')

    def _conclude(self, ctxt: RequestContext, held: Held, port: base.Port) -> Record:
        # Before the commit: a crash between the two leaves a record that is undone, and then told again.
        self._tell_host(ctxt, 'attached', held.record, held.fence, port)
        return self._store.settle(held.record, state=State.ATTACHED, snapshot=Snapshot.of(port))

    # ------------------------------------------------------------------ undo

    def _asked_to_undo(self, record: Record) -> Record | None:
        """The record as it is now, if a DELETE has asked its holder, this process, for an undo."""
        current = self._store.get(record.id)
        if current and current.generation == record.generation and current.reason is Reason.UNDO:
            return current
        return None

    def _undo(
        self,
        ctxt: RequestContext,
        server: base.Server,
        held: Held,
        error: Exception,
        port: base.Port | None,
    ) -> None:
        changes: dict[str, Any] = {'state': State.RELEASING, 'reason': Reason.UNDO, 'last_error': describe(error)}
        if port is not None:
            changes |= {'state': State.UNPLUGGING, 'port_id': port.id, 'plug_data': held.record.plug_data}
        try:
            try:
                held = self._store.swap(held.record, **changes)
            except exceptions.LostHold:
                current = self._asked_to_undo(held.record)
                if current is None:
                    raise
                held = self._store.swap(current, **changes)
            self.go_out(ctxt, server, held)
        except Pending as pending:
            raise exceptions.UndoPending(operator=f'undo of {error!r} is pending: {pending}') from error
        except exceptions.Unavailable:
            if isinstance(error, exceptions.UnknownOutcome):
                # It may be attached, and stay so: the caller is to look.
                raise error from None
            raise

    # ------------------------------------------------------------------ out

    def go_out(self, ctxt: RequestContext, server: base.Server, held: Held) -> None:
        """UNPLUGGING or RELEASING to the end of the record.

        :raises Pending: not finished; the record stays on its way out, with the error and the time of
            the next attempt
        :raises NotSupported: the NIC cannot be taken out; the record is as it was
        :raises LostHold: somebody else carries the record on
        """
        try:
            self._go_out(ctxt, server, held)
        except exceptions.LostHold:
            raise
        except (Pending, exceptions.NotSupported) as error:
            if held.record.attempts == 0:
                self._watch.out_failed(ctxt, server, held.record, error)
            raise
        self._watch.out_ended(ctxt, server, held.record)

    def _go_out(self, ctxt: RequestContext, server: base.Server, held: Held) -> None:
        is_out = False
        try:
            if held.record.state is State.UNPLUGGING:
                self._unplug(ctxt, server, held)
                is_out = self._vifs.has_side_effects
            if is_out:
                # Whatever comes now: the NIC is out, and nobody is to take out another.
                held = Held(dataclasses.replace(held.record, state=State.RELEASING), held.fence)
            if self._commits_together:
                self._release_at_once(ctxt, held, is_out)
            else:
                self._release(ctxt, held, is_out)
        except exceptions.LostHold:
            raise
        except exceptions.NotSupported as error:
            if held.record.reason is not Reason.DETACH or held.record.state is not State.UNPLUGGING:
                self.postpone(held.record, error)
            self._store.settle(
                held.record, state=State.ATTACHED, reason=None, attempts=0, next_attempt=None, last_error=None
            )
            raise
        except Exception as error:
            self.postpone(held.record, error)
        record = held.record
        self._listeners.tell(Event.FAILED if record.reason is Reason.UNDO else Event.DETACHED, record)

    def _unplug(self, ctxt: RequestContext, server: base.Server, held: Held) -> None:
        record = held.record
        if record.port_id is not None:
            self._take_out(ctxt, server, held, record.port_id)
            if record.host is not None and record.host != server.host:
                # The server has moved since: what may be left on the recorded host goes too.
                self._take_out(ctxt, dataclasses.replace(server, host=record.host), held, record.port_id)

    def _take_out(self, ctxt: RequestContext, server: base.Server, held: Held, port_id: str) -> None:
        record = held.record
        try:
            self._vifs.unplug(ctxt, server, port_id, record.plug_data, held.fence)
        except exceptions.NotSupported:
            # What a failed plug has left alone, because somebody else had plugged it, is not the undo's to take
            # out. The driver tells, not the error of the plug: a crash or an outage would have that forgotten.
            if record.reason is not Reason.UNDO or port_id in self._vifs.plugged(ctxt, server):
                raise

    def _release_at_once(self, ctxt: RequestContext, held: Held, is_out: bool) -> None:
        try:
            self._store.together(lambda: self._release(ctxt, held, is_out))
        except exceptions.UnknownOutcome:
            if self._store.get(held.record.id) is not None:
                raise

    def _release(self, ctxt: RequestContext, held: Held, is_out: bool) -> None:
        if is_out:
            # To take out the NIC may have taken all the time that there was.
            held = self._store.swap(held.record)
        record = held.record
        if record.created and self._may_delete(ctxt, record):
            try:
                self._networks.delete(ctxt, record.port_id, record.mark, held.fence)
            except exceptions.NotOurs:
                LOG.warning('port %s of record %s has another mark and is not deleted', record.port_id, record.id)
                if record.port_id is not None:
                    # Somebody has taken the mark off: the port is his, but not the server's any more.
                    self._networks.unbind(ctxt, record.port_id, record.server_id, held.fence)
        elif record.port_id is not None and record.reason is not Reason.GONE:
            self._networks.unbind(ctxt, record.port_id, record.server_id, held.fence)
        # Before the commit: a crash between the two leaves a record whose way out is gone again.
        self._tell_host(ctxt, 'detached', record, held.fence)
        self._store.drop(record)

    def _may_delete(self, ctxt: RequestContext, record: Record) -> bool:
        """Whether a port that was made for the server is nobody else's by now."""
        if record.reason is Reason.GONE:
            return False
        if record.port_id is None:
            return True
        try:
            port = self._networks.get_port(ctxt, record.port_id)
        except exceptions.PortNotFound:
            return False
        if not port.device_id:
            # Somebody has unbound it behind our back, and may have a use for it; an undo and the end of a
            # server leave nothing.
            return record.reason in (Reason.UNDO, Reason.SERVER_GONE)
        return port.device_id == record.server_id

    def postpone(self, record: Record, error: Exception) -> NoReturn:
        """Leave a record that is held to a later attempt.

        :raises Pending: always
        :raises LostHold: somebody else carries the record on
        """
        if not isinstance(error, exceptions.DriverError):
            LOG.exception('record %s (port %s): %s', record.id, record.port_id, record.state)
        attempts = record.attempts + 1
        delay = min(self._backoff * 2 ** min(record.attempts, _DOUBLINGS), self._backoff_cap)
        postponed = self._store.postpone(record, delay, attempts=attempts, last_error=describe(error))
        self._watch.postponed(postponed)
        if attempts == 1:
            self._listeners.tell(Event.FAILED, postponed)
        if attempts == self._stuck_attempts:
            self._listeners.tell(Event.STUCK, postponed)
            LOG.warning(
                'record %s (port %s of server %s) is stuck in %s after %s attempts: %s',
                record.id,
                record.port_id,
                record.server_id,
                record.state,
                attempts,
                describe(error),
            )
        raise Pending(describe(error)) from error

    def _tell_host(
        self, ctxt: RequestContext, kind: str, record: Record, fence: base.Fence, port: base.Port | None = None
    ) -> None:
        if self._host_is_told:
            fence.check()
            # What is not supported has nobody to tell; as an answer it would speak of the NIC.
            with contextlib.suppress(exceptions.NotSupported):
                change = base.Change(kind, record.port_id, created=record.created, tag=record.tag, port=port)
                self._servers.attachments_changed(ctxt, record.server_id, change)


def describe(error: BaseException) -> str:
    """An error in one line, for the record and for the operator; of what every database can keep."""
    text = f'{type(error).__name__}: {error}'[:1000]
    return ''.join(character if character.isprintable() else ' ' for character in text)
