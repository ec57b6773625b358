"""Decides which orders are carried out: each at its time, in its turn, one at a time for a port.

What has been seen of a port is remembered for as long as the process lives, and nowhere else. An order is carried
out as it comes if it is in time and follows what was last seen of its port, by the generations of one record. Of
any other the records are asked: of one past its deadline, of one that is older, of one of another record, of one
that its sender was told not to have happened, and of the first one of a port.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.base import Direction, Order
from os_interface_ext.drivers.vifs.messages import Moment
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: Ports that are remembered; of one that is forgotten the records are asked.
_REMEMBERED = 10_000


@dataclasses.dataclass(slots=True)
class _Seen:
    """The last order of a port, and what was answered to it if it has been carried out.

    ``is_settled``: whoever sent it has been told that it has not been.
    """

    order: Order
    is_done: bool = False
    is_settled: bool = False
    answer: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What has become of an order; ``is_plugged`` is None where that cannot be told."""

    is_done: bool
    answer: Any = None
    is_plugged: bool | None = None


class Agent:
    """:param host: the name of this host
    :param driver: plugs on it
    :param orders: what the records say; asked from afar
    :param patience: seconds that an order waits for its turn where the records have to be asked first
    """

    def __init__(self, host: str, driver: base.VIFDriver, orders: base.Orders, *, patience: float) -> None:
        self._host = host
        self._driver = driver
        self._orders = orders
        self._patience = patience
        self._epoch = uuid.uuid4().hex
        self._ports = _Turns()
        self._seen: collections.OrderedDict[str, _Seen] = collections.OrderedDict()
        #: NICs without a record, and since when that is known.
        self._suspects: dict[tuple[str, str], float] = {}

    def now(self) -> Moment:
        """What time it is here: time goes on while the machine sleeps."""
        return Moment(self._epoch, time.clock_gettime(time.CLOCK_BOOTTIME))

    # ------------------------------------------------------------------ orders

    def plug(
        self, ctxt: RequestContext, order: Order, deadline: Moment | None, server: base.Server, port: base.Port
    ) -> dict[str, Any]:
        """Carry out an order to plug; the plug data.

        :raises Unavailable: it does not hold, or that cannot be asked: nothing happened
        :raises DriverError: as the driver has it
        """
        answer: dict[str, Any] = self._carry_out(
            ctxt, order, deadline, lambda fence: self._driver.plug(ctxt, server, port, fence)
        )
        return answer

    def unplug(
        self,
        ctxt: RequestContext,
        order: Order,
        deadline: Moment | None,
        server: base.Server,
        plug_data: dict[str, Any],
    ) -> None:
        """Carry out an order to unplug.

        :raises Unavailable: it does not hold, or that cannot be asked: nothing happened
        :raises DriverError: as the driver has it
        """
        self._carry_out(
            ctxt,
            order,
            deadline,
            lambda fence: self._driver.unplug(ctxt, server, order.port_id, plug_data, fence),
        )

    def settle(self, ctxt: RequestContext, order: Order, server: base.Server) -> Found:
        """What has become of an order. If it has not been done, then neither it nor what the same record has
        ordered before happens any more, unless the records say so."""
        if not self._ports.take(order.port_id, self._patience / 2):
            # It may be this one that is at hand.
            return Found(is_done=False)
        try:
            seen = self._seen.get(order.port_id)
            if seen is not None and seen.order == order and seen.is_done:
                return Found(is_done=True, answer=seen.answer)
            if seen is None or _follows(order, seen.order):
                seen = self._remember(order)
            if seen.order == order:
                seen.is_settled = True
            try:
                return Found(is_done=False, is_plugged=order.port_id in self._driver.plugged(ctxt, server))
            except exceptions.NotSupported:
                return Found(is_done=False)
        finally:
            self._ports.give(order.port_id)

    # ------------------------------------------------------------------ questions

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        return self._driver.capabilities(ctxt, server)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        return self._driver.plugged(ctxt, server)

    # ------------------------------------------------------------------ at the start

    def report(self, ctxt: RequestContext) -> float | None:
        """Tell what is plugged here, and carry out what is ordered about it.

        What seems to be a mistake is not carried out: too much at once, or a report under a name that no server
        here has for its host.

        :returns: the seconds after which it is to be told again; None: nothing is open
        :raises Unavailable: nobody answers
        :raises NotSupported: the driver cannot tell what is plugged
        """
        nics = sorted(self._driver.find_plugged(ctxt, self._orders.installation()))
        review = self._orders.review(self._host, nics)
        counts = len(nics), len(review.orders), len(review.suspects)
        LOG.info('%s NICs are plugged here: %s are to be unplugged at once, %s have no record', *counts)
        mistake = self._mistake(review)
        if mistake is not None:
            LOG.error('nothing that is plugged here is unplugged: %s', mistake)
            self._suspects = {}
            return review.grace
        is_open = review.unsettled > 0
        for server, order in review.orders:
            try:
                self.unplug(ctxt, order, None, server, {})
            except exceptions.DriverError as error:
                is_open = True
                LOG.warning('port %s stays plugged into server %s: %s', order.port_id, server.id, error.operator)
        now = time.monotonic()
        self._suspects = {nic: self._suspects.get(nic, now) for nic in review.suspects}
        old = [nic for nic, since in self._suspects.items() if since + review.grace <= now]
        unasked = self._orders.end(self._host, old)
        return review.grace if is_open or unasked or len(old) < len(self._suspects) else None

    def _mistake(self, review: base.Review) -> str | None:
        """Why a review is not to be acted upon, for the operator."""
        found = len(review.orders) + len(review.suspects)
        if found > review.most:
            return (
                f'{found} seem to be left over, more than [reconciler] max_gone = {review.most}: look at the '
                'backends and at [rpc] host; raise the option if it is true'
            )
        elsewhere = {server.host for server, _ in review.orders if server.host} - {self._host}
        if elsewhere and not review.here:
            return (
                f'no server is on a host named {self._host}, but on {", ".join(sorted(elsewhere))}: is '
                '[rpc] host as the server driver tells it?'
            )
        return None

    # ------------------------------------------------------------------ within

    def _carry_out(
        self, ctxt: RequestContext, order: Order, deadline: Moment | None, work: Callable[[base.Fence], Any]
    ) -> Any:
        about = logs.about(request_id=ctxt.request_id, server_id=order.server_id, port_id=order.port_id)
        with about, self._turn(order, deadline) as fence:
            what = f'{order.direction} of port {order.port_id}'
            LOG.info('%s (record %s, generation %s)', what, order.record, order.generation)
            try:
                answer = work(fence)
            except exceptions.DriverError as error:
                LOG.info('%s: %s: %s', what, type(error).__name__, error.operator)
                raise
            seen = self._seen.get(order.port_id)
            if seen is not None and seen.order == order:
                seen.is_done, seen.answer = True, answer
            return answer

    @contextlib.contextmanager
    def _turn(self, order: Order, deadline: Moment | None) -> Iterator[base.Fence]:
        """The turn of an order that holds, with the fence under which it is carried out."""
        left = self._left(deadline)
        if not self._ports.take(order.port_id, left or self._patience):
            raise exceptions.DeadlinePassed(operator=f'others have plugged port {order.port_id} all the time')
        try:
            left = self._left(deadline)
            seen = self._seen.get(order.port_id)
            if left <= 0.0 or seen is None or not _is_next(order, seen):
                asked = time.monotonic()
                granted = self._orders.time_left(order, self._host) - (time.monotonic() - asked)
                left = min(left, granted) if left > 0.0 else granted
                if left <= 0.0:
                    LOG.warning('refused, for it holds no more: %s', order)
                    raise exceptions.DeadlinePassed(operator=f'the {order.direction} of this record holds no more')
            self._remember(order)
            yield base.Fence(order.generation, time.monotonic() + left, order.record, order.installation)
        finally:
            self._ports.give(order.port_id)

    def _left(self, deadline: Moment | None) -> float:
        """Seconds until a deadline; 0.0 for one by another clock."""
        now = self.now()
        return max(0.0, deadline.seconds - now.seconds) if deadline and deadline.epoch == now.epoch else 0.0

    def _remember(self, order: Order) -> _Seen:
        seen = self._seen[order.port_id] = _Seen(order)
        self._seen.move_to_end(order.port_id)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return seen


def _is_next(order: Order, seen: _Seen) -> bool:
    """Whether an order is the one at hand, or a later one."""
    return _follows(order, seen.order) or (order == seen.order and not seen.is_done and not seen.is_settled)


def _follows(order: Order, seen: Order) -> bool:
    """Whether an order is known to be later: a generation plugs first, and unplugs afterwards."""
    if (order.record, order.server_id) != (seen.record, seen.server_id):
        return False
    return (order.generation, order.direction is Direction.UNPLUG) > (
        seen.generation,
        seen.direction is Direction.UNPLUG,
    )


class _Turns:
    """One at a time, for each port."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: set[str] = set()

    def take(self, port_id: str, patience: float) -> bool:
        """Wait for the turn; False if it has not come by then."""
        with self._changed:
            if not self._changed.wait_for(lambda: port_id not in self._taken, patience):
                return False
            self._taken.add(port_id)
            return True

    def give(self, port_id: str) -> None:
        with self._changed:
            self._taken.remove(port_id)
            self._changed.notify_all()
