"""Carries on what nobody works on, and brings records and world together again.

Any number of reconcilers may run side by side: whoever takes hold of a record first has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from os_interface_ext import context, exceptions
from os_interface_ext.attachments.states import INWARD, OUTWARD, Reason, State
from os_interface_ext.attachments.stepper import Pending, Stepper, describe
from os_interface_ext.attachments.store import PortTaken, Record, Store, owner
from os_interface_ext.attachments.watch import Watch
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: The role of which one process at a time has it, where several could reconcile and one is enough.
ROLE = 'reconciler'
_DAY = 86400.0
_ALL = 1_000_000
#: How often a record that moves under its hands is looked at again.
_TURNS = 20


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
    """:param conf: the group ``[reconciler]``
    :param serving: what is to be answered to others for as long as this one works
    """

    def __init__(
        self,
        conf: Any,
        store: Store,
        stepper: Stepper,
        servers: base.ServerDriver,
        networks: base.NetworkDriver,
        watch: Watch | None = None,
        serving: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._watch = watch or Watch()
        self._serving = serving
        self._conf = conf
        self._store = store
        self._stepper = stepper
        self._servers = servers
        self._networks = networks
        #: told how many records, servers or ports have been looked at
        self.progress: Callable[[int, str], object] = lambda done, what: None

    # ------------------------------------------------------------------ the loop

    def run(self, stop: threading.Event, alone: bool = False) -> None:
        """Look again and again, until it is told to stop; the record at hand is finished first.

        :param alone: only while this process has the role of the reconciler
        """
        try:
            with self._serving():
                self._run(stop, alone)
        finally:
            self._leave()

    def _run(self, stop: threading.Event, alone: bool) -> None:
        look_at_world = 0.0
        while not stop.is_set():
            try:
                if not alone or self._store.heartbeat(ROLE, 3 * self._conf.interval + 5.0):
                    self.beat()
                    with self._watched() as report:
                        self.carry_on(report, stop=stop.is_set)
                        if time.monotonic() >= look_at_world:
                            look_at_world = time.monotonic() + self._conf.world_interval
                            self.look_at_world(report, stop=stop.is_set)
            except exceptions.Unavailable as error:
                LOG.warning('the reconciler tries again in %s s: %s', self._conf.interval, error.operator)
            except Exception:
                LOG.exception('the reconciler tries again in %s s', self._conf.interval)
            stop.wait(self._conf.interval)

    def _leave(self) -> None:
        """Leave the role to another process at once, instead of after its lease."""
        with contextlib.suppress(exceptions.Unavailable):
            self._store.resign(ROLE)
            self._store.resign(_own_role())

    def once(self, *, dry_run: bool = False, stop: Callable[[], bool] = lambda: False) -> Report:
        """One look at everything.

        :param stop: whether to end after the record at hand
        :raises Unavailable: the database does not answer
        """
        if not dry_run:
            self.beat()
        if dry_run:
            return self._look(Report(), dry_run, stop)
        with self._serving(), self._watched() as report:
            return self._look(report, dry_run, stop)

    def _look(self, report: Report, dry_run: bool, stop: Callable[[], bool]) -> Report:
        self.carry_on(report, dry_run=dry_run, stop=stop)
        if not stop():
            self.look_at_world(report, dry_run=dry_run, stop=stop)
        return report

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Report]:
        """A report that those who watch are told, whether or not the look ends well."""
        report = Report()
        done = False
        try:
            yield report
            done = True
        finally:
            counts = {field.name: len(getattr(report, field.name)) for field in dataclasses.fields(report)}
            self._watch.looked(counts, done=done)

    def beat(self) -> None:
        """Leave a heartbeat of this process."""
        self._store.heartbeat(_own_role(), 3 * self._conf.interval + 5.0)

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
        # What is only looked at stays due, and would be every page.
        page = _ALL if dry_run else self._conf.page
        while not stop():
            due = [record for record in self._store.due(page) if record.id not in seen]
            if not due:
                return
            for record in due:
                seen.add(record.id)
                self.progress(len(seen), 'records in motion')
                if stop():
                    return
                changes: dict[str, Any] = {}
                if record.state in INWARD:
                    # Nobody waits for the answer any more, and the caller's authority went with the request.
                    changes = {'state': State.UNPLUGGING, 'reason': Reason.UNDO}
                if dry_run:
                    report.carried_on.append(_line(dataclasses.replace(record, **changes)))
                else:
                    self._go_out(record, report.carried_on, report.pending, **changes)

    def _go_out(self, record: Record, done: list[str], pending: list[str], **changes: object) -> None:
        with logs.about(
            request_id=record.request_id,
            project_id=record.project_id,
            server_id=record.server_id,
            port_id=record.port_id,
        ):
            self._take_out(record, done, pending, **changes)

    def _take_out(self, record: Record, done: list[str], pending: list[str], **changes: object) -> None:
        ctxt = _context(record)
        try:
            # Held first: a server that cannot be looked up counts as an attempt, and is backed off from.
            held = self._store.take(record, **changes)
            try:
                server = self._server_of(ctxt, record)
            except Exception as error:
                self._stepper.postpone(held.record, error)
            if record.state in INWARD:
                self._watch.attach_failed(ctxt, server, held.record, exceptions.LostHold())
            self._stepper.go_out(ctxt, server, held)
            done.append(_line(held.record))
            LOG.info('%s has come to its end', _line(held.record))
        except exceptions.LostHold:
            return
        except (Pending, exceptions.NotSupported) as error:
            pending.append(f'{_line(record)}: {error}')
            LOG.info('%s goes on later: %s', _line(record), error)
        except exceptions.Unavailable:
            raise
        except Exception:
            # One record that nobody can help must not keep the others waiting.
            LOG.exception('%s could not be carried on', _line(record))

    def _server_of(self, ctxt: RequestContext, record: Record) -> base.Server:
        """The server as it is now, or what the record remembers of one that is gone."""
        try:
            return self._servers.get(ctxt, record.server_id)
        except exceptions.ServerNotFound:
            return base.Server(record.server_id, record.project_id, host=record.host)

    # ------------------------------------------------------------------ a server that is known to be gone

    def server_deleted(self, server_id: str) -> None:
        """Put every record of a server on its way out, and go as far as that goes now.

        :raises Unavailable: the database does not answer
        """
        tried: set[str] = set()
        for _ in range(_TURNS):
            staying = [
                record for record in self._store.of_server(server_id) if record.id not in tried or _stays(record)
            ]
            if not staying:
                return
            for record in staying:
                tried.add(record.id)
                self._end(record)
        LOG.warning('server %s is deleted, but somebody still attaches to it', server_id)

    def _end(self, record: Record) -> None:
        reason = record.reason if record.reason in (Reason.UNDO, Reason.GONE) else Reason.SERVER_GONE
        state = record.state if record.state in OUTWARD else State.UNPLUGGING
        self._go_out(record, [], [], state=state, reason=reason)
        left = self._store.get(record.id)
        if left is not None and left.state in INWARD:
            # Its holder lives: he alone may undo it.
            self._store.ask_undo(left)

    # ------------------------------------------------------------------ the world

    def look_at_world(
        self,
        report: Report | None = None,
        *,
        dry_run: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Find ATTACHED records that the world does not agree with, and ports of ours without a record."""
        report = report or Report()
        self._look_at_attached(report, dry_run, stop)
        if not stop():
            self.sweep(report, dry_run=dry_run, stop=stop)
        if not dry_run:
            self._store.prune(self._conf.history_days * _DAY)

    def _look_at_attached(self, report: Report, dry_run: bool, stop: Callable[[], bool]) -> None:
        ended: list[tuple[Record, Reason]] = []
        for number, records in enumerate(self._store.attached(self._conf.page), 1):
            self.progress(number, 'servers')
            if stop():
                return
            try:
                ended += self._look_at_server(records, dry_run)
            except Exception as error:
                # Unavailable, unauthorised, broken: that says nothing about what is there.
                LOG.warning('server %s could not be looked at: %s', records[0].server_id, describe(error))
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
            if stop():
                return
            if not self._is_gone(record, reason):
                continue
            changes: dict[str, Any] = {'state': State.UNPLUGGING, 'reason': reason}
            if dry_run:
                report.gone.append(_line(dataclasses.replace(record, **changes)))
            else:
                self._go_out(record, report.gone, report.pending, **changes)

    def _is_gone(self, record: Record, reason: Reason) -> bool:
        """One more look right before it is acted on: the first one may be a while ago."""
        ctxt = context.service_context()
        try:
            if reason is Reason.GONE:
                return self._has_left(ctxt, record)
            self._servers.get(ctxt, record.server_id)
        except exceptions.ServerNotFound:
            return True
        except Exception as error:
            LOG.warning('%s could not be looked at: %s', _line(record), describe(error))
        return False

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
                # Of a server on no host it stays known where the NIC was plugged.
                if server.host is not None and record.host != server.host and not dry_run:
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

    def sweep(self, report: Report, *, dry_run: bool = False, stop: Callable[[], bool] = lambda: False) -> None:
        """Delete ports of ours without a record that have been without one for long enough; report the others."""
        ctxt = context.service_context()
        try:
            marked = list(self._networks.find_marked(ctxt, self._store.installation))
            lost = [port for port in marked if self._is_lost(port)]
            # Only what looks like a leak now counts as a suspect: found so twice, a grace apart.
            leaked = {port.id for port in lost if self._is_leaked(ctxt, port)}
            if dry_run:
                old = self._store.old_suspects(self._conf.grace)
            else:
                old = self._store.suspect(sorted(leaked), self._conf.grace)
        except exceptions.NotSupported:
            return
        except Exception as error:
            LOG.warning('the sweep is put off: %s', describe(error))
            report.pending.append(f'the sweep is put off: {describe(error)}')
            return
        deletable = []
        for port in lost:
            if port.id in old & leaked:
                deletable.append(port)
            else:
                report.orphans.append(f'port {port.id} of device {port.device_id} has no record')
        for number, port in enumerate(deletable[: self._conf.max_deletes], 1):
            self.progress(number, 'ports without a record')
            if stop():
                return
            if dry_run or self._delete(ctxt, port):
                report.deleted.append(f'port {port.id}')
            else:
                report.orphans.append(f'port {port.id}: left for the next look')
        for port in deletable[self._conf.max_deletes :]:
            report.orphans.append(f'port {port.id}: left for the next look')

    def _is_lost(self, port: base.Port) -> bool:
        """Whether no record knows a port of ours: neither the one that made it, nor a later one of the port."""
        return (
            port.mark is not None
            and self._store.of_mark(port.mark) is None
            and self._store.of_port(port.id) is None
        )

    def _is_leaked(self, ctxt: RequestContext, port: base.Port) -> bool:
        """Whether a port of ours without a record can be nothing but left over.

        A database that was restored does not know living ports: what a living server has is deleted only
        if it is known that its attach was undone.
        """
        assert port.mark is not None
        if port.device_owner and not port.device_owner.startswith('compute:'):
            # A router's, say: that no server has the id of its device means nothing.
            return False
        result = self._store.result_of(port.mark.rpartition(':')[2])
        if result is not None and result[1] is Reason.GONE:
            # It was taken from its server behind our back, and is whoever's it is now.
            return False
        if not port.device_id or result == (port.device_id, Reason.UNDO):
            return True
        try:
            self._servers.get(ctxt, port.device_id)
        except exceptions.ServerNotFound:
            return True
        except Exception as error:
            LOG.warning('server %s could not be looked at: %s', port.device_id, describe(error))
        return False

    def _delete(self, ctxt: RequestContext, port: base.Port) -> bool:
        """Delete a port that is left over, if it is still as it was found.

        Under a record of its own, so that nobody attaches the port meanwhile.
        """
        server = base.Server(port.device_id or '', port.project_id, host=port.host)
        try:
            held = self._store.insert(
                created=True,
                mark=port.mark,
                server_id=server.id,
                project_id=port.project_id,
                port_id=port.id,
                state=State.RELEASING,
                reason=Reason.UNDO,
            )
        except PortTaken:
            return False
        try:
            same = self._networks.get_port(ctxt, port.id).device_id == port.device_id
            if not same or self._store.of_mark(port.mark or '') is not None:
                self._store.drop(held.record, result=False)
                return False
            LOG.warning('port %s of ours has no record and is deleted', port.id)
            self._stepper.go_out(ctxt, server, held)
        except exceptions.PortNotFound:
            self._store.drop(held.record, result=False)
        except (Pending, exceptions.LostHold) as error:
            LOG.warning('port %s could not be deleted: %s', port.id, describe(error))
            return False
        return True


def _context(record: Record) -> RequestContext:
    """Our own authority, under the request id that the record was made with."""
    ctxt = context.service_context()
    ctxt.global_request_id = record.request_id
    return ctxt


def _stays(record: Record) -> bool:
    return record.state not in OUTWARD and record.reason is not Reason.UNDO


def _own_role() -> str:
    return f'{ROLE} {owner()}'


def _line(record: Record) -> str:
    return f'port {record.port_id} of server {record.server_id} ({record.state}, {record.reason or "attach"})'
