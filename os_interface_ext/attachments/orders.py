"""What the records say of orders, for whoever carries them out without a database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

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
    """:class:`~os_interface_ext.drivers.base.Orders`, out of the attachment records."""

    def __init__(self, store: Store, servers: base.ServerDriver, networks: base.NetworkDriver) -> None:
        self._store = store
        self._servers = servers
        self._networks = networks

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
        server = self._server(context.service_context(), order.server_id)
        return _LEFT_BEHIND if self._is_left_behind(record, order.server_id, server, host) else 0.0

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> list[tuple[base.Server, Order]]:
        """See :meth:`os_interface_ext.drivers.base.Orders.review`."""
        ctxt = context.service_context()
        orders = []
        for server_id, port_id in nics:
            try:
                server = self._server(ctxt, server_id)
                record = self._store.of_port(port_id)
                if record is None:
                    self._end_unrecorded(ctxt, server_id, server, port_id, host)
                elif self._is_left_behind(record, server_id, server, host):
                    order = Order(Direction.UNPLUG, server_id, port_id, record.id, record.generation)
                    orders.append((server or base.Server(server_id, '', host=host), order))
            except exceptions.DriverError as error:
                # That one could not be asked says nothing about what is there.
                LOG.warning('NIC of port %s in server %s is left alone: %s', port_id, server_id, error.operator)
        return orders

    def _server(self, ctxt: RequestContext, server_id: str) -> base.Server | None:
        """The server as it is now; None if it is gone."""
        try:
            return self._servers.get(ctxt, server_id)
        except exceptions.ServerNotFound:
            return None

    def _is_left_behind(self, record: Record, server_id: str, server: base.Server | None, host: str) -> bool:
        """Whether a server's NIC on a host is not that of the port's record: another server has the port by now,
        or the server is elsewhere. A record in motion sees to its own."""
        if record.server_id != server_id:
            return True
        is_elsewhere = server is not None and server.host is not None and server.host != host
        return record.state is State.ATTACHED and is_elsewhere

    def _end_unrecorded(
        self, ctxt: RequestContext, server_id: str, server: base.Server | None, port_id: str, host: str
    ) -> None:
        """Put a NIC without a record on its way out, under a record of its own, so that nobody attaches the
        port meanwhile.

        A database that was restored does not know living ports: what the network says to be the server's is
        left alone.
        """
        if server is not None and self._has(ctxt, server, port_id):
            LOG.warning('port %s is plugged into server %s on %s without a record', port_id, server_id, host)
            return
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

    def _has(self, ctxt: RequestContext, server: base.Server, port_id: str) -> bool:
        try:
            return self._networks.get_port(ctxt, port_id).device_id == server.id
        except exceptions.PortNotFound:
            return False
