"""An agent at the message broker: takes orders for its host, and asks the reconcilers about them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_config import cfg

from os_interface_ext import context, exceptions, messaging
from os_interface_ext.agent.agent import Agent
from os_interface_ext.conf import rpc as options
from os_interface_ext.drivers import base, loader
from os_interface_ext.drivers.vifs import messages
from os_interface_ext.drivers.vifs.messages import Moment
from os_interface_ext.drivers.vifs.rpc import RpcVIFDriver
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: Seconds from one try to report to the next.
_REPORT_AGAIN = 5.0
#: NICs that are reported at a time.
_PAGE = 20
#: Seconds that the end waits for an answer to be sent, beyond the time that an order has.
_LAST_ANSWER = 2.0


class Service:
    """An agent, and whom it hears.

    :raises ConfigurationError: in one line, what is wrong and how it is mended
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        self._conf = conf[options.GROUP.name]
        self.host: str = self._conf.host
        self._bus = messaging.Bus(conf, self._conf.topic)
        self._agent = Agent(
            self.host, _local_driver(conf), RemoteOrders(self._bus, self._conf), patience=self._conf.ping_timeout
        )
        self._stop = threading.Event()
        self._serving: messaging.Serving | None = None

    def start(self) -> None:
        """Take orders, as soon as there is a broker, and report what is plugged, as soon as somebody hears it."""
        target = self._bus.target(messages.agent_topic(self._conf.topic), self.host)
        self._serving = self._bus.serve(target, Endpoint(self._agent))
        threading.Thread(target=self._report, name='report', daemon=True).start()

    def wait(self, timeout: float) -> bool:
        """Whether it takes orders by then."""
        return self._serving is not None and self._serving.wait(timeout)

    def stop(self) -> bool:
        """Take no more orders, and finish those at hand; False if they, or their answers, take too long."""
        self._stop.set()
        return self._serving is None or self._serving.stop(self._conf.timeout + _LAST_ANSWER)

    def _report(self) -> None:
        assert self._serving is not None
        # What is ordered from now on is known to be later than the report.
        while not self._serving.wait(_REPORT_AGAIN):
            if self._stop.is_set():
                return
        LOG.info('taking orders for host %s', self.host)
        while not self._stop.is_set():
            pause = _REPORT_AGAIN
            try:
                again = self._agent.report(context.service_context())
            except exceptions.NotSupported:
                LOG.warning('the VIF driver cannot tell what is plugged here: what is left over stays')
                return
            except exceptions.Unavailable as error:
                LOG.warning('what is plugged here is reported again in %s s: %s', _REPORT_AGAIN, error.operator)
            except Exception:
                LOG.exception('what is plugged here is reported again in %s s', _REPORT_AGAIN)
            else:
                if again is None:
                    return
                pause = again or _REPORT_AGAIN
            self._stop.wait(pause)


def _local_driver(conf: cfg.ConfigOpts) -> base.VIFDriver:
    name = conf.os_interface.vif_driver
    driver_class: type[base.VIFDriver] = loader.load_class(loader.VIF, name)
    if issubclass(driver_class, RpcVIFDriver):
        raise exceptions.ConfigurationError(
            f'option [os_interface] vif_driver: {name!r} has others plug: name the driver that plugs on this '
            'host, such as libvirt, ovs or netns, in a config file of the agent alone'
        )
    if not driver_class.has_side_effects:
        raise exceptions.ConfigurationError(
            f'option [os_interface] vif_driver: {name!r} plugs nothing: name the driver that plugs on this '
            'host, such as libvirt, ovs or netns'
        )
    driver: base.VIFDriver = loader.load(loader.VIF, name, conf)
    return driver


class RemoteOrders:
    """:class:`~os_interface_ext.drivers.base.Orders`, as a reconciler answers it."""

    def __init__(self, bus: messaging.Bus, conf: Any) -> None:
        self._bus = bus
        self._conf = conf

    def installation(self) -> str:
        """See :meth:`os_interface_ext.drivers.base.Orders.installation`.

        :raises Unavailable: no reconciler answers
        """
        return messages.load_installation(self._ask('ping', self._conf.ping_timeout))

    def time_left(self, order: base.Order, host: str) -> float:
        """See :meth:`os_interface_ext.drivers.base.Orders.time_left`."""
        return float(self._ask('time_left', self._conf.ping_timeout, order=messages.dump_order(order), host=host))

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> base.Review:
        """See :meth:`os_interface_ext.drivers.base.Orders.review`.

        :raises Unavailable: no reconciler answers
        """
        whole = base.Review(most=0, grace=0.0)
        for form in self._of_pages('review', host, nics):
            page = messages.load_review(form)
            whole.most, whole.grace = page.most, page.grace
            whole.orders += page.orders
            whole.suspects += page.suspects
            whole.unsettled += page.unsettled
            whole.here += page.here
        return whole

    def end(self, host: str, nics: Iterable[tuple[str, str]]) -> int:
        """See :meth:`os_interface_ext.drivers.base.Orders.end`.

        :raises Unavailable: no reconciler answers
        """
        return sum(self._of_pages('end', host, nics))

    def _of_pages(self, method: str, host: str, nics: Iterable[tuple[str, str]]) -> Iterator[Any]:
        """What is answered to each page: the server of each NIC is looked up there, which takes its time."""
        pairs = [list(pair) for pair in nics]
        for begin in range(0, len(pairs), _PAGE):
            yield self._ask(method, self._conf.timeout, host=host, nics=pairs[begin : begin + _PAGE])

    def _ask(self, method: str, timeout: float, **arguments: Any) -> Any:
        """:raises Unavailable: no reconciler answers"""
        target = self._bus.target(messages.orders_topic(self._conf.topic))
        ctxt = messages.dump_context(context.service_context())
        try:
            answer = self._bus.call(target, ctxt, method, timeout, **arguments)
        except exceptions.Unavailable as error:
            # Whatever became of the question: nothing has happened here.
            raise exceptions.Unavailable(operator=f'no reconciler answers: {error.operator}') from error
        return messages.result(answer, 'reconciler')


class Endpoint:
    """What an agent is told and asked; each method is a call, and each answer tells what time it is here."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def ping(self, _ctxt: dict[str, Any]) -> dict[str, Any]:
        return self._timed({'result': None})

    def capabilities(self, ctxt: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            lambda: sorted(self._agent.capabilities(messages.load_context(ctxt), messages.load_server(server)))
        )

    def plugged(self, ctxt: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            lambda: sorted(self._agent.plugged(messages.load_context(ctxt), messages.load_server(server)))
        )

    def plug(
        self,
        ctxt: dict[str, Any],
        order: dict[str, Any],
        deadline: list[Any],
        server: dict[str, Any],
        port: dict[str, Any],
    ) -> dict[str, Any]:
        return self._answer(
            lambda: self._agent.plug(
                messages.load_context(ctxt),
                messages.load_order(order),
                Moment.load(deadline),
                messages.load_server(server),
                messages.load_port(port),
            )
        )

    def unplug(
        self,
        ctxt: dict[str, Any],
        order: dict[str, Any],
        deadline: list[Any],
        server: dict[str, Any],
        plug_data: dict[str, Any],
    ) -> dict[str, Any]:
        return self._answer(
            lambda: self._agent.unplug(
                messages.load_context(ctxt),
                messages.load_order(order),
                Moment.load(deadline),
                messages.load_server(server),
                plug_data,
            )
        )

    def settle(self, ctxt: dict[str, Any], order: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
        return self._answer(
            lambda: dataclasses.asdict(
                self._agent.settle(
                    messages.load_context(ctxt), messages.load_order(order), messages.load_server(server)
                )
            )
        )

    def _answer(self, work: Any) -> dict[str, Any]:
        return self._timed(messages.answer(work))

    def _timed(self, answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {'now': self._agent.now().dump()}
