"""Plugs on other hosts: through the agent there, by calls over the message broker.

On each hypervisor host runs ``os-interface-ext-agent``, which plugs with a VIF driver of its own. An agent has no
database. What it is told may reach it late, or after it was started anew: it then asks whether the order still
holds, which the reconcilers answer out of the records (:meth:`RpcVIFDriver.serve_orders`).

**Time.** A deadline is sent as a time of the agent's own clock, which each answer of the agent tells: what it said
when is known here, and no clock has to agree with another one.

**Unknown outcomes.** A call that is not answered is settled by asking the agent what has become of it. As long as
that cannot be asked, it is an UnknownOutcome, and the record stays on its way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions, messaging
from os_interface_ext.conf import rpc as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.vifs import messages
from os_interface_ext.drivers.vifs.messages import Moment

#: Seconds after which it is asked again what time it is at an agent: clocks run at slightly different rates.
_CLOCK_AGE = 60.0
#: Servers of a host of which it is remembered what can be done with them.
_REMEMBERED = 1000
#: Seconds that the end of a reconciler waits for the answers at hand.
_LAST_ANSWERS = 2.0


class RpcVIFDriver(base.VIFDriver):
    """Options: the group ``[rpc]``, and those of oslo.messaging."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        self._conf = conf[options.GROUP.name]
        self._bus = messaging.Bus(conf, self._conf.topic)
        self._agents: dict[str, _Agent] = {}

    def check(self, ctxt: RequestContext) -> None:
        """Whether the broker takes calls; agents are not asked, for any of their hosts may be away."""
        # Nobody has that topic, which the broker says at once: one that listens but is slow says nothing of it.
        self._bus.check(self._bus.target(f'{self._conf.topic}-nobody'), self._conf.timeout)

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """Those of the agent's driver.

        :raises ServerNotReady: the server is on no host
        :raises Unavailable: the agent does not answer
        """
        agent = self._agent(_host(server))
        known = agent.capabilities.get(server.id)
        if known is None or known[0] < time.monotonic():
            answer = self._ask(ctxt, agent, 'capabilities', server=messages.dump_server(server))
            known = (time.monotonic() + self._conf.cache_time, frozenset(answer))
            if len(agent.capabilities) >= _REMEMBERED:
                agent.capabilities.clear()
            agent.capabilities[server.id] = known
        return known[1]

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """What the agent's driver answers.

        :raises ServerNotReady: the server is on no host
        """
        agent = self._agent(_host(server))
        order = _order(base.Direction.PLUG, server, port.id, fence)
        forms = {'server': messages.dump_server(server), 'port': messages.dump_port(port)}
        try:
            plug_data: dict[str, Any] = self._carry_out(ctxt, agent, fence, order, **forms)
        except _Plugged:
            # By an agent that has ended since: the next one finds the NIC, and tells what belongs to it.
            try:
                plug_data = self._carry_out(ctxt, agent, fence, order, **forms)
            except _Plugged as error:
                raise exceptions.UnknownOutcome(operator=f'{agent.name} does not answer in time') from error
        return plug_data

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        """A server that is on no host has no NIC, and neither has one on a host that is gone."""
        if server.host is None or server.host in self._conf.gone_hosts:
            return
        order = _order(base.Direction.UNPLUG, server, port_id, fence)
        forms = {'server': messages.dump_server(server), 'plug_data': plug_data}
        self._carry_out(ctxt, self._agent(server.host), fence, order, **forms)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """What the agent's driver tells.

        :raises NotSupported: the server is on no host, or the agent's driver cannot tell
        """
        if server.host is None:
            raise exceptions.NotSupported(operator=f'server {server.id} is on no host')
        if server.host in self._conf.gone_hosts:
            return set()
        return set(self._ask(ctxt, self._agent(server.host), 'plugged', server=messages.dump_server(server)))

    @contextlib.contextmanager
    def serve_orders(self, orders: base.Orders) -> Iterator[None]:
        """Answer what agents ask, from the moment on when there is a broker; one that is there is waited for."""
        topic = messages.orders_topic(self._conf.topic)
        # Agents ask any of the reconcilers: their names are of no use to them.
        target = self._bus.target(topic, f'{self._conf.host}-{id(orders):x}')
        serving = self._bus.serve(target, _OrdersEndpoint(orders))
        serving.wait(self._conf.ping_timeout)
        try:
            yield
        finally:
            serving.stop(_LAST_ANSWERS)

    # ------------------------------------------------------------------ calls

    def _agent(self, host: str) -> _Agent:
        # Without a lock: one that another thread holds is never free in a fork.
        return self._agents.get(host) or self._agents.setdefault(host, _Agent(host))

    def _carry_out(
        self, ctxt: RequestContext, agent: _Agent, fence: base.Fence, order: base.Order, **forms: Any
    ) -> Any:
        """Have an order carried out.

        :raises _Plugged: it may have been, and the NIC is there
        """
        fence.check()
        until = time.monotonic() + min(self._conf.timeout, fence.remaining())
        # Nothing has happened if that fails.
        deadline = self._deadline(ctxt, agent, until)
        fence.check()
        form = messages.dump_order(order)
        try:
            answer = self._call(
                ctxt,
                agent,
                str(order.direction),
                until - time.monotonic(),
                order=form,
                deadline=deadline.dump(),
                **forms,
            )
        except exceptions.UnknownOutcome as error:
            return self._settle(ctxt, agent, order, forms['server'], error)
        return messages.result(answer, agent.name)

    def _settle(
        self,
        ctxt: RequestContext,
        agent: _Agent,
        order: base.Order,
        server: dict[str, Any],
        error: exceptions.UnknownOutcome,
    ) -> Any:
        """What has become of an order whose answer did not come.

        :raises UnknownOutcome: nobody can tell, or it has not been carried out yet
        """
        try:
            found = self._ask(ctxt, agent, 'settle', order=messages.dump_order(order), server=server)
        except exceptions.DriverError as unasked:
            raise exceptions.UnknownOutcome(operator=f'{error.operator}; {unasked.operator}') from error
        if found['is_done']:
            return found['answer']
        if found['is_plugged'] and order.direction is base.Direction.PLUG:
            raise _Plugged()
        raise error

    def _deadline(self, ctxt: RequestContext, agent: _Agent, until: float) -> Moment:
        """A time of this process, by the clock of an agent."""
        if agent.clock is None or time.monotonic() > agent.clock.taken + _CLOCK_AGE:
            self._ask(ctxt, agent, 'ping')
        assert agent.clock is not None
        return agent.clock.of(until)

    def _ask(self, ctxt: RequestContext, agent: _Agent, method: str, **arguments: Any) -> Any:
        """Ask what has no side effect.

        An agent that has not answered just now is not asked again, except what has become of an order. That it
        is slow to answer what its driver has to find out keeps no order from it.

        :raises Unavailable: it does not answer, or has not a short while ago
        """
        now = time.monotonic()
        if method != 'settle' and (now < agent.silent_until or (method != 'ping' and now < agent.slow_until)):
            raise exceptions.Unavailable(operator=f'{agent.name} has not answered just now')
        try:
            answer = self._call(ctxt, agent, method, self._conf.ping_timeout, **arguments)
        except exceptions.UnknownOutcome as error:
            until = time.monotonic() + self._conf.cache_time
            if method == 'ping':
                agent.silent_until = until
            elif method != 'settle':
                agent.slow_until = until
            raise exceptions.Unavailable(operator=error.operator) from error
        return messages.result(answer, agent.name)

    def _call(
        self, ctxt: RequestContext, agent: _Agent, method: str, timeout: float, **arguments: Any
    ) -> dict[str, Any]:
        """
        :raises Unavailable: the agent has not got the message
        :raises UnknownOutcome: it has not answered
        """
        if agent.host in self._conf.gone_hosts:
            raise exceptions.Unavailable(operator=f'option [{options.GROUP.name}] gone_hosts names {agent.host}')
        target = self._bus.target(messages.agent_topic(self._conf.topic), agent.host)
        answer: dict[str, Any] = self._bus.call(target, messages.dump_context(ctxt), method, timeout, **arguments)
        agent.hear(Moment.load(answer['now']))
        return answer


class _Plugged(Exception):
    """It is not known who has plugged the NIC and how, but it is there."""


def _order(direction: base.Direction, server: base.Server, port_id: str, fence: base.Fence) -> base.Order:
    return base.Order(direction, server.id, port_id, fence.record, fence.generation, fence.installation)


def _host(server: base.Server) -> str:
    """:raises ServerNotReady: the server is on none"""
    if server.host is None:
        raise exceptions.ServerNotReady(server.id)
    return server.host


@dataclasses.dataclass(frozen=True, slots=True)
class _Clock:
    """What time it was at an agent, at the earliest, when it was what time here."""

    there: Moment
    taken: float

    def of(self, here: float) -> Moment:
        """A time of this process; too early by what the answer had taken on its way, never too late."""
        return Moment(self.there.epoch, self.there.seconds + here - self.taken)


class _Agent:
    """What is known of the agent of a host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.name = f'agent on {host}'
        self.clock: _Clock | None = None
        #: Until when nothing is asked of it, and what its driver has to find out is not.
        self.silent_until = self.slow_until = 0.0
        #: By server: until when they hold, and what they are.
        self.capabilities: dict[str, tuple[float, frozenset[str]]] = {}

    def hear(self, now: Moment) -> None:
        """It has said what time it is."""
        self.silent_until = self.slow_until = 0.0
        heard = _Clock(now, time.monotonic())
        known = self.clock
        if known is None or known.there.epoch != now.epoch:
            # Started anew, and perhaps with another driver.
            self.capabilities = {}
        elif known.taken + _CLOCK_AGE > heard.taken and known.of(heard.taken).seconds > now.seconds:
            # That answer was the quicker one.
            return
        self.clock = heard


class _OrdersEndpoint:
    """The questions of the agents; each method is a call."""

    def __init__(self, orders: base.Orders) -> None:
        self._orders = orders

    def ping(self, _context: dict[str, Any]) -> dict[str, Any]:
        return messages.answer(lambda: messages.dump_installation(self._orders.installation()))

    def time_left(self, _context: dict[str, Any], order: dict[str, Any], host: str) -> dict[str, Any]:
        return messages.answer(lambda: self._orders.time_left(messages.load_order(order), host))

    def review(self, _context: dict[str, Any], host: str, nics: Iterable[list[str]]) -> dict[str, Any]:
        return messages.answer(lambda: messages.dump_review(self._orders.review(host, _pairs(nics))))

    def end(self, _context: dict[str, Any], host: str, nics: Iterable[list[str]]) -> dict[str, Any]:
        return messages.answer(lambda: self._orders.end(host, _pairs(nics)))


def _pairs(nics: Iterable[list[str]]) -> list[tuple[str, str]]:
    return [(server_id, port_id) for server_id, port_id in nics]
