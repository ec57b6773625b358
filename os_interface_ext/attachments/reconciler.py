"""Carries on what nobody works on, and brings records and world together again.

Any number of reconcilers may run side by side: whoever takes hold of a record first has it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from os_interface_ext import context, exceptions
from os_interface_ext.attachments.states import INWARD, Reason, State
from os_interface_ext.attachments.stepper import Pending, Stepper
from os_interface_ext.attachments.store import Record, Store, owner
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base

LOG = logging.getLogger(__name__)

#: The role of which one process at a time has it, where several could reconcile and one is enough.
ROLE = 'reconciler'
_DAY = 86400.0


@dataclasses.dataclass
class Report:
    """What one look did, or with ``dry_run`` would do; each entry is a line for people."""

    carried_on: list[str] = dataclasses.field(default_factory=list)
    pending: list[str] = dataclasses.field(default_factory=list)
    gone: list[str] = dataclasses.field(default_factory=list)
    deleted: list[str] = dataclasses.field(default_factory=list)
    orphans: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """All entries, each with what it is."""
        return [
            f'{field.name}: {entry}' for field in dataclasses.fields(self) for entry in getattr(self, field.name)
        ]


class Reconciler:
    """:param conf: the group ``[reconciler]``"""

    def __init__(
        self,
        conf: Any,
        store: Store,
        stepper: Stepper,
        servers: base.ServerDriver,
        networks: base.NetworkDriver,
    ) -> None:
        self._conf = conf
        self._store = store
        self._stepper = stepper
        self._servers = servers
        self._networks = networks

    # ------------------------------------------------------------------ the loop

    def run(self, stop: threading.Event, alone: bool = False) -> None:
        """Look again and again, until it is told to stop; the record at hand is finished first.

        :param alone: only while this process has the role of the reconciler
        """
        look_at_world = 0.0
        while not stop.is_set():
            try:
                if not alone or self._store.heartbeat(ROLE, 3 * self._conf.interval + 5.0):
                    self.beat()
                    self.carry_on(stop=stop.is_set)
                    if time.monotonic() >= look_at_world:
                        look_at_world = time.monotonic() + self._conf.world_interval
                        self.look_at_world()
            except exceptions.Unavailable as error:
                LOG.warning('the reconciler tries again in %s s: %s', self._conf.interval, error.operator)
            except Exception:
                LOG.exception('the reconciler tries again in %s s', self._conf.interval)
            stop.wait(self._conf.interval)

    def once(self, *, dry_run: bool = False) -> Report:
        """One look at everything.

        :raises Unavailable: the database does not answer
        """
        report = Report()
        if not dry_run:
            self.beat()
        self.carry_on(report, dry_run=dry_run)
        self.look_at_world(report, dry_run=dry_run)
        return report

    def beat(self) -> None:
        """Leave a heartbeat of this process."""
        self._store.heartbeat(f'{ROLE} {owner()}', 3 * self._conf.interval + 5.0)

    # ------------------------------------------------------------------ records in motion

    def carry_on(
        self,
        report: Report | None = None,
        *,
        dry_run: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Finish what nobody works on: an attach whose process died is undone, a way out is gone on with."""
        report = report or Report()
        seen: set[str] = set()
        while not stop():
            due = [record for record in self._store.due(self._conf.page) if record.id not in seen]
            if not due:
                return
            for record in due:
                seen.add(record.id)
                if stop():
                    return
                if dry_run:
                    report.carried_on.append(_line(record))
                else:
                    self._carry_on(record, report)

    def _carry_on(self, record: Record, report: Report) -> None:
        changes = {}
        if record.state in INWARD:
            # Nobody waits for the answer any more, and the caller's authority is gone with the request.
            changes = {'state': State.UNPLUGGING, 'reason': Reason.UNDO}
        self._go_out(record, report.carried_on, report.pending, **changes)

    def _go_out(self, record: Record, done: list[str], pending: list[str], **changes: object) -> None:
        ctxt = _context(record)
        try:
            server = self._server_of(ctxt, record)
            held = self._store.take(record, **changes)
            self._stepper.go_out(ctxt, server, held)
            done.append(_line(held.record))
        except exceptions.LostHold:
            return
        except (Pending, exceptions.Unavailable, exceptions.NotSupported) as error:
            pending.append(f'{_line(record)}: {error}')
            LOG.info('%s goes on later: %s', _line(record), error)

    def _server_of(self, ctxt: RequestContext, record: Record) -> base.Server:
        """The server as it is now, or what the record remembers of one that is gone."""
        try:
            return self._servers.get(ctxt, record.server_id)
        except exceptions.ServerNotFound:
            return base.Server(record.server_id, record.project_id, host=record.host)

    # ------------------------------------------------------------------ the world

    def look_at_world(self, report: Report | None = None, *, dry_run: bool = False) -> None:
        """Find ATTACHED records that the world does not agree with, and ports of ours without a record."""
        report = report or Report()
        self._look_at_attached(report, dry_run)
        self._sweep(report, dry_run)
        if not dry_run:
            self._store.prune(self._conf.history_days * _DAY)

    def _look_at_attached(self, report: Report, dry_run: bool) -> None:
        ended: list[tuple[Record, Reason]] = []
        for records in self._store.attached(self._conf.page):
            try:
                ended += self._look_at_server(records, dry_run)
            except exceptions.OsInterfaceError as error:
                # Unavailable, unauthorised: that says nothing about what is there.
                LOG.warning('server %s could not be looked at: %s', records[0].server_id, error.operator)
        if len(ended) > self._conf.max_gone:
            LOG.error(
                '%s attachments seem to be gone, more than [reconciler] max_gone = %s: nothing is done. '
                'Look at the backends; raise the option if it is true.',
                len(ended),
                self._conf.max_gone,
            )
            report.pending += [f'{_line(record)}: {reason}, but too many at once' for record, reason in ended]
            return
        for record, reason in ended:
            if dry_run:
                report.gone.append(f'{_line(record)}: {reason}')
            else:
                self._go_out(record, report.gone, report.pending, state=State.UNPLUGGING, reason=reason)

    def _look_at_server(self, records: list[Record], dry_run: bool) -> list[tuple[Record, Reason]]:
        """The records of one server that are to be ended; notes are made of what is not certain yet."""
        ctxt = context.service_context()
        try:
            server = self._servers.get(ctxt, records[0].server_id)
        except exceptions.ServerNotFound:
            missing = {record.id: Reason.SERVER_GONE for record in records}
        else:
            there = {port.id for port in self._networks.list_ports(ctxt, server.id)}
            missing = {
                record.id: Reason.GONE
                for record in records
                if record.port_id not in there and self._has_left(ctxt, record)
            }
            for record in records:
                if record.host != server.host and not dry_run:
                    self._store.moved(record, server.host)
        ended = []
        for record in records:
            if record.id in missing:
                if self._store.is_missing_for(record, self._conf.grace):
                    ended.append((record, missing[record.id]))
                elif not dry_run:
                    self._store.missing(record)
            elif record.missing_since is not None and not dry_run:
                self._store.found(record)
        return ended

    def _has_left(self, ctxt: RequestContext, record: Record) -> bool:
        """Whether the port is not the server's any more: asked for itself, because a list may be short."""
        assert record.port_id is not None
        try:
            return self._networks.get_port(ctxt, record.port_id).device_id != record.server_id
        except exceptions.PortNotFound:
            return True

    # ------------------------------------------------------------------ the sweep

    def _sweep(self, report: Report, dry_run: bool) -> None:
        ctxt = context.service_context()
        try:
            marked = list(self._networks.find_marked(ctxt, self._store.installation))
        except exceptions.NotSupported:
            return
        except exceptions.OsInterfaceError as error:
            LOG.warning('the sweep is put off: %s', error.operator)
            return
        lost = [port for port in marked if port.mark and self._store.of_mark(port.mark) is None]
        old = self._store.suspect([port.id for port in lost], self._conf.grace)
        deletable = []
        for port in lost:
            if port.id in old and self._is_leaked(ctxt, port):
                deletable.append(port)
            else:
                report.orphans.append(f'port {port.id} of device {port.device_id} has no record')
        for port in deletable[: self._conf.max_deletes]:
            report.deleted.append(f'port {port.id}')
            if not dry_run:
                self._delete(ctxt, port)
        for port in deletable[self._conf.max_deletes :]:
            report.orphans.append(f'port {port.id}: left for the next look')

    def _is_leaked(self, ctxt: RequestContext, port: base.Port) -> bool:
        """Whether a port of ours without a record can be nothing but left over.

        A database that was restored does not know living ports: what a living server has is deleted only
        if its record is known to have come to its end.
        """
        assert port.mark is not None
        if self._store.is_finished(port.mark.rpartition(':')[2]):
            return True
        if not port.device_id:
            return True
        try:
            self._servers.get(ctxt, port.device_id)
        except exceptions.ServerNotFound:
            return True
        except exceptions.OsInterfaceError:
            return False
        return False

    def _delete(self, ctxt: RequestContext, port: base.Port) -> None:
        LOG.warning('port %s of ours has no record and is deleted', port.id)
        fence = base.Fence(0, time.monotonic() + 30.0)
        try:
            self._networks.delete(ctxt, port.id, port.mark, fence)
        except exceptions.OsInterfaceError as error:
            LOG.warning('port %s could not be deleted: %s', port.id, error.operator)


def _context(record: Record) -> RequestContext:
    """Our own authority, under the request id that the record was made with."""
    ctxt = context.service_context()
    ctxt.global_request_id = record.request_id
    return ctxt


def _line(record: Record) -> str:
    return f'port {record.port_id} of server {record.server_id} ({record.state}, {record.reason or "attach"})'
