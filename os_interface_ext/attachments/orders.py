"""What the records say of orders, for whoever carries them out without a database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from os_interface_ext import context, exceptions
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import PortTaken, Record, Store
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.base import Direction, Order
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: Seconds for which an order to take out what a server has left on another host may be carried out: it has
#: no holder whose time could run out.
_LEFT_BEHIND = 15.0


class RecordOrders:
    """:class:`~os_interface_ext.drivers.base.Orders`, out of the attachment records.

    :param conf: the group ``[reconciler]``
    """

    def __init__(self, conf: Any, store: Store, servers: base.ServerDriver, networks: base.NetworkDriver) -> None:
        self._conf = conf
        self._store = store
        self._servers = servers
        self._networks = networks

    def installation(self) -> str:
        """See :meth:`os_interface_ext.drivers.base.Orders.installation`."""
        return self._store.installation

    def time_left(self, order: Order, host: str) -> float:
        """See :meth:`os_interface_ext.drivers.base.Orders.time_left`.

        A generation plugs first and unplugs afterwards, never the other way round: so the state says which of
        the two is its turn.
        """
        record = self._store.get(order.record)
        if record is None or record.generation != order.generation or record.port_id != order.port_id:
            return 0.0
        if record.server_id == order.server_id:
            if order.direction is Direction.PLUG:
                holds = record.state is State.PLUGGING and record.host == host
            else:
                holds = record.state is State.UNPLUGGING
            if holds:
                return self._store.time_left(record)
        if order.direction is Direction.PLUG:
            return 0.0
        ctxt = context.service_context()
        server = self._server(ctxt, order.server_id)
        return _LEFT_BEHIND if self._is_left_behind(ctxt, record, order.server_id, server, host) else 0.0

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> base.Review:
        """See :meth:`os_interface_ext.drivers.base.Orders.review`."""
        review = base.Review(most=self._conf.max_gone, grace=self._conf.grace)
        for server_id, port_id in nics:
            try:
                self._review(context.service_context(), review, host, server_id, port_id)
            except exceptions.DriverError as error:
                # That one could not be asked says nothing about what is there.
                LOG.warning('NIC of port %s in server %s is left alone: %s', port_id, server_id, error.operator)
                review.unsettled += 1
        return review

    def _review(self, ctxt: RequestContext, review: base.Review, host: str, server_id: str, port_id: str) -> None:
        server = self._server(ctxt, server_id)
        if server is not None and server.host == host:
            review.here += 1
        record = self._store.of_port(port_id)
        if record is None:
            if _is_on_the_move(server):
                review.unsettled += 1
            elif self._is_unrecorded(ctxt, server_id, server, port_id, host):
                LOG.warning('port %s of server %s on %s has no record', port_id, server_id, host)
                review.suspects.append((server_id, port_id))
        elif self._is_left_behind(ctxt, record, server_id, server, host):
            order = Order(Direction.UNPLUG, server_id, port_id, record.id, record.generation)
            review.orders.append((server or base.Server(server_id, '', host=host), order))
        elif record.server_id != server_id or _is_on_the_move(server):
            review.unsettled += 1

    def end(self, host: str, nics: Iterable[tuple[str, str]]) -> int:
        """See :meth:`os_interface_ext.drivers.base.Orders.end`."""
        unasked = 0
        for server_id, port_id in nics:
            ctxt = context.service_context()
            try:
                server = self._server(ctxt, server_id)
                if (
                    not _is_on_the_move(server)
                    and self._store.of_port(port_id) is None
                    and self._is_unrecorded(ctxt, server_id, server, port_id, host)
                ):
                    self._end_unrecorded(server_id, server, port_id, host)
            except exceptions.DriverError as error:
                LOG.warning('NIC of port %s in server %s is left alone: %s', port_id, server_id, error.operator)
                unasked += 1
        return unasked

    def _server(self, ctxt: RequestContext, server_id: str) -> base.Server | None:
        """The server as it is now; None if it is gone."""
        try:
            return self._servers.get(ctxt, server_id)
        except exceptions.ServerNotFound:
            return None

    def _is_left_behind(
        self, ctxt: RequestContext, record: Record, server_id: str, server: base.Server | None, host: str
    ) -> bool:
        """Whether a server's NIC on a host is not that of the port's record: another server has the port by now,
        or the server is elsewhere, and stays there. A record in motion sees to its own."""
        if record.server_id != server_id:
            # Of a record that is being made it is not known yet whether the network agrees.
            return not self._has(ctxt, server_id, record.port_id)
        is_elsewhere = server is not None and server.host is not None and server.host != host
        return record.state is State.ATTACHED and is_elsewhere and not _is_on_the_move(server)

    def _is_unrecorded(
        self, ctxt: RequestContext, server_id: str, server: base.Server | None, port_id: str, host: str
    ) -> bool:
        """Whether a NIC without a record is one that this installation has left.

        A database that was restored does not know living ports: what the network says to be the server's is
        left alone. Neither is it known whose a NIC is if nobody here has ever heard of its server.
        """
        if self._has(ctxt, server_id, port_id):
            LOG.warning('port %s is plugged into server %s on %s without a record', port_id, server_id, host)
            return False
        if server is None and not self._store.results(server_id=server_id, port_id=port_id, limit=1):
            LOG.warning(
                'port %s is plugged into server %s on %s, of which nothing is known here: is it that of another '
                'installation?',
                port_id,
                server_id,
                host,
            )
            return False
        return True

    def _end_unrecorded(self, server_id: str, server: base.Server | None, port_id: str, host: str) -> None:
        """Put a NIC without a record on its way out, under a record of its own, so that nobody attaches the
        port meanwhile."""
        LOG.warning('port %s of server %s on %s has no record and is unplugged', port_id, server_id, host)
        with contextlib.suppress(PortTaken):
            held = self._store.insert(
                created=False,
                server_id=server_id,
                project_id=server.project_id if server else '',
                host=host,
                port_id=port_id,
                state=State.UNPLUGGING,
                reason=Reason.GONE,
            )
            # For the reconciler, at once.
            self._store.settle(held.record)

    def _has(self, ctxt: RequestContext, server_id: str, port_id: str | None) -> bool:
        """Whether the network says that a port is a server's."""
        if port_id is None:
            return False
        try:
            return self._networks.get_port(ctxt, port_id).device_id == server_id
        except exceptions.PortNotFound:
            return False


def _is_on_the_move(server: base.Server | None) -> bool:
    """Whether a server may have a NIC on two hosts for a while, or come back to the one that it has left."""
    return server is not None and (server.task_state is not None or server.vm_state == 'resized')
