"""The VIF driver `rpc` and the agent, over oslo.messaging's transport within a process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext import exceptions, messaging
from os_interface_ext.agent import service
from os_interface_ext.agent.agent import Agent
from os_interface_ext.cmd import agent as command
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.base import Direction, Order
from os_interface_ext.drivers.vifs import messages, rpc
from os_interface_ext.drivers.vifs.messages import Moment
from os_interface_ext.testing import contract

SERVER = base.Server(str(uuid.uuid4()), 'project-a', 'web', host='host-1')
CTXT = RequestContext(project_id='project-a', auth_token='a-secret-token')


def order(
    direction: Direction = Direction.PLUG, port: str = 'port', *, record: str = 'record', generation: int = 1
) -> Order:
    return Order(direction, SERVER.id, port, record, generation)


def port_of(one: Order) -> base.Port:
    return base.Port(one.port_id, 'network', 'fa:16:3e:00:00:01', 'project-a')


class Records:
    """What holds, as the tests say; and who has asked."""

    def __init__(self) -> None:
        self.holding: dict[Order, float] = {}
        self.asked: list[Order] = []
        self.orders: list[tuple[base.Server, Order]] = []
        self.reported: list[tuple[str, str]] = []
        self.pages: list[int] = []
        self.suspects: list[tuple[str, str]] = []
        self.ended: list[tuple[str, str]] = []
        self.most, self.grace, self.unsettled, self.unasked, self.here = 50, 0.0, 0, 0, 1
        self.are_away = False

    def installation(self) -> str:
        return 'an-installation'

    def time_left(self, order: Order, host: str) -> float:
        self.asked.append(order)
        if self.are_away:
            raise exceptions.Unavailable(operator='nobody listens')
        return self.holding.get(order, 0.0)

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> base.Review:
        pairs = list(nics)
        self.pages.append(len(pairs))
        self.reported += pairs
        orders = [(server, order) for server, order in self.orders if (server.id, order.port_id) in pairs]
        suspects = [nic for nic in self.suspects if nic in pairs]
        return base.Review(self.most, self.grace, orders, suspects, self.unsettled, self.here)

    def end(self, host: str, nics: Iterable[tuple[str, str]]) -> int:
        self.ended += nics
        return self.unasked


class Nics(base.VIFDriver):
    """NICs that are names."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        #: by port: the installation that has plugged it, where that is known
        self.installations: dict[str, str] = {}
        self.done: list[str] = []
        self.fences: list[base.Fence] = []
        self.error: Exception | None = None
        self.pause = threading.Event()
        self.pause.set()
        self.at_once = 0
        self.most_at_once = 0

    def plug(self, ctxt: Any, server: base.Server, port: base.Port, fence: base.Fence) -> dict[str, Any]:
        self._work(f'plug {port.id}', fence)
        self.there.add(port.id)
        self.installations[port.id] = fence.installation
        return {'nic': port.id}

    def unplug(self, ctxt: Any, server: base.Server, port_id: str, plug_data: Any, fence: base.Fence) -> None:
        self._work(f'unplug {port_id}', fence)
        self.there.discard(port_id)

    def plugged(self, ctxt: Any, server: base.Server) -> set[str]:
        return self.there

    def find_plugged(self, ctxt: Any, installation: str) -> set[tuple[str, str]]:
        marked = {port_id: self.installations.get(port_id, '') for port_id in self.there}
        return {(SERVER.id, port_id) for port_id, by in marked.items() if base.may_be_of(installation, by)}

    def _work(self, what: str, fence: base.Fence) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.pause.wait()
        self.at_once -= 1
        fence.check()
        if self.error is not None:
            raise self.error
        self.done.append(what)
        self.fences.append(fence)


@dataclasses.dataclass
class Host:
    """An agent with what is around it."""

    nics: Nics = dataclasses.field(default_factory=Nics)
    records: Records = dataclasses.field(default_factory=Records)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, patience: float = 5.0) -> None:
        self.agent = Agent('host-1', self.nics, self.records, patience=patience)

    def in_time(self, seconds: float = 60.0) -> Moment:
        now = self.agent.now()
        return Moment(now.epoch, now.seconds + seconds)

    def send(self, one: Order, deadline: Moment | None = None) -> Any:
        deadline = deadline or self.in_time()
        if one.direction is Direction.PLUG:
            return self.agent.plug(CTXT, one, deadline, SERVER, port_of(one))
        return self.agent.unplug(CTXT, one, deadline, SERVER, {})

    def refuses(self, one: Order, deadline: Moment | None = None) -> None:
        before = list(self.nics.done)
        with pytest.raises(exceptions.DeadlinePassed):
            self.send(one, deadline)
        assert self.nics.done == before


@pytest.fixture
def host() -> Host:
    return Host()


# ------------------------------------------------------------------ the agent's decisions


def test_a_port_that_was_not_seen_is_asked_for(host: Host) -> None:
    host.refuses(order())
    host.records.holding[order()] = 30.0
    assert host.send(order()) == {'nic': 'port'}
    assert host.records.asked == [order()] * 2


def test_what_follows_is_carried_out_without_a_question(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order())
    host.send(order(Direction.UNPLUG))
    host.send(order(Direction.UNPLUG, generation=2))
    assert len(host.records.asked) == 1
    assert host.nics.done == ['plug port', 'unplug port', 'unplug port']


@pytest.mark.parametrize(
    'late',
    [
        order(),
        order(generation=2),
        order(Direction.UNPLUG, generation=1),
        # Its answer was lost, perhaps; but what it is asked for again may hold no more.
        order(Direction.UNPLUG, generation=2),
        order(record='another', generation=9),
        order(Direction.UNPLUG, record='another', generation=9),
    ],
    ids=str,
)
def test_what_does_not_follow_is_asked_for(host: Host, late: Order) -> None:
    seen = order(Direction.UNPLUG, generation=2)
    host.records.holding[seen] = 30.0
    host.send(seen)
    host.records.holding.clear()
    host.refuses(late)
    host.records.holding[late] = 30.0
    host.send(late)
    assert host.records.asked[-2:] == [late] * 2


def test_a_message_past_its_deadline_is_asked_for(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order())
    following = order(Direction.UNPLUG)
    host.refuses(following, host.in_time(-0.01))
    # By the clock of another process nothing is in time.
    host.refuses(following, Moment('another process', host.in_time().seconds))
    host.records.holding[following] = 30.0
    host.send(following, host.in_time(-0.01))
    assert host.nics.done == ['plug port', 'unplug port']


def test_it_has_the_time_that_the_records_leave_and_the_message(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order(), host.in_time(5.0))
    host.records.holding[order(record='another')] = 2.0
    host.send(order(record='another'), host.in_time(60.0))
    first, second = host.nics.fences
    assert first.remaining() <= 5.0
    assert second.remaining() <= 2.0
    assert (second.record, second.generation) == ('another', 1)


def test_an_agent_started_anew_asks(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order())
    host.records.holding.clear()
    host.restart()
    host.refuses(order(Direction.UNPLUG))


def test_without_an_answer_nothing_is_done(host: Host) -> None:
    host.records.are_away = True
    with pytest.raises(exceptions.Unavailable, match='nobody listens'):
        host.send(order())
    assert host.nics.done == []


def test_one_at_a_time_for_a_port(host: Host) -> None:
    for generation in range(1, 9):
        host.records.holding[order(generation=generation)] = 30.0
    calls = [lambda generation=generation: host.send(order(generation=generation)) for generation in range(1, 9)]
    assert contract.at_once(*calls) == [{'nic': 'port'}] * 8
    assert host.nics.most_at_once == 1


def test_ports_do_not_wait_for_each_other(host: Host) -> None:
    host.nics.pause.clear()
    for port in ('port', 'other'):
        host.records.holding[order(port=port)] = 30.0
    threads = [threading.Thread(target=host.send, args=(order(port=port),)) for port in ('port', 'other')]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while host.nics.at_once < 2:
        assert time.monotonic() < until
    host.nics.pause.set()
    for thread in threads:
        thread.join()


def test_who_waits_too_long_for_a_turn_does_nothing(host: Host) -> None:
    host.restart(patience=0.1)
    host.records.holding[order()] = 30.0
    host.send(order())
    host.nics.pause.clear()
    thread = threading.Thread(target=host.send, args=(order(Direction.UNPLUG),))
    thread.start()
    with pytest.raises(exceptions.DeadlinePassed, match='all the time'):
        host.send(order(generation=2), host.in_time(0.05))
    assert not host.agent.settle(CTXT, order(generation=2), SERVER).is_done
    host.nics.pause.set()
    thread.join()
    assert host.nics.done == ['plug port', 'unplug port']


def test_what_has_become_of_an_order(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order())
    assert dataclasses.astuple(host.agent.settle(CTXT, order(), SERVER)) == (True, {'nic': 'port'}, None)
    host.restart()
    assert dataclasses.astuple(host.agent.settle(CTXT, order(), SERVER)) == (False, None, True)


def test_after_the_question_an_older_order_is_not_carried_out(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.send(order())
    host.records.holding.clear()
    found = host.agent.settle(CTXT, order(Direction.UNPLUG), SERVER)
    assert (found.is_done, found.is_plugged) == (False, True)
    # Or else it could still come, and before its deadline.
    host.refuses(order())


@pytest.mark.parametrize('is_known', [True, False])
def test_an_order_that_was_settled_before_it_came_is_asked_for(host: Host, is_known: bool) -> None:
    host.records.holding[order()] = 30.0
    if is_known:
        host.send(order())
    settled = order(Direction.UNPLUG, generation=2)
    assert not host.agent.settle(CTXT, settled, SERVER).is_done
    # In time, and following: but whoever sent it counts on its not having happened.
    host.refuses(settled)
    host.records.holding[settled] = 30.0
    host.send(settled)
    assert host.agent.settle(CTXT, settled, SERVER).is_done


def test_an_order_that_failed_is_not_done(host: Host) -> None:
    host.records.holding[order()] = 30.0
    host.nics.error = exceptions.UnknownOutcome()
    with pytest.raises(exceptions.UnknownOutcome):
        host.send(order())
    assert not host.agent.settle(CTXT, order(), SERVER).is_done


def test_report(host: Host) -> None:
    host.nics.there = {'kept', 'lost', 'denied'}
    lost, denied = (order(Direction.UNPLUG, port=port) for port in ('lost', 'denied'))
    host.records.orders = [(SERVER, denied), (SERVER, lost)]
    host.records.holding[lost] = 30.0
    assert host.agent.report(CTXT) == 0.0, 'what could not be unplugged is told again'
    assert host.records.reported == [(SERVER.id, 'denied'), (SERVER.id, 'kept'), (SERVER.id, 'lost')]
    assert host.nics.there == {'kept', 'denied'}


def test_a_report_of_too_much_is_not_acted_upon(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A failure of the backends, say."""
    host.records.holding = EverythingHolds()
    host.nics.there = {'first', 'second', 'third'}
    host.records.orders = [(SERVER, order(Direction.UNPLUG, port=port)) for port in ('first', 'second')]
    host.records.suspects = [(SERVER.id, 'third')]
    host.records.most, host.records.grace = 2, 0.0
    assert host.agent.report(CTXT) == 0.0
    assert (host.nics.done, host.records.ended) == ([], [])
    assert [record.levelname for record in caplog.records if 'max_gone = 2' in record.message] == ['ERROR']
    host.records.most = 3
    assert host.agent.report(CTXT) is None
    assert host.nics.there == {'third'}
    assert host.records.ended == [(SERVER.id, 'third')]


def test_a_report_under_a_wrong_name_is_not_acted_upon(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """To the server driver, all servers of this host seem to be elsewhere."""
    host.records.holding = EverythingHolds()
    host.nics.there = {'living'}
    elsewhere = dataclasses.replace(SERVER, host='host-1.example.org')
    host.records.orders = [(elsewhere, order(Direction.UNPLUG, port='living'))]
    host.records.here, host.records.grace = 0, 30.0
    assert host.agent.report(CTXT) == 30.0
    assert host.nics.done == []
    (text,) = [record.message for record in caplog.records if record.levelname == 'ERROR']
    assert 'host-1.example.org' in text
    assert '[rpc] host' in text
    host.records.here = 1
    host.agent.report(CTXT)
    assert host.nics.done == ['unplug living']


def test_what_has_no_record_is_ended_when_it_is_reported_again_a_grace_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    first, second = (SERVER.id, 'first'), (SERVER.id, 'second')
    host.nics.there = {'first', 'second'}
    host.records.grace = 120.0
    host.records.suspects = [first]
    assert host.agent.report(CTXT) == 120.0
    now += 119.0
    host.records.suspects = [first, second]
    assert host.agent.report(CTXT) == 120.0
    assert host.records.ended == []
    now += 1.0
    assert host.agent.report(CTXT) == 120.0
    assert host.records.ended == [first]
    # What was found in between counts from the beginning.
    host.records.suspects = []
    host.agent.report(CTXT)
    host.records.suspects = [second]
    now += 120.0
    assert host.agent.report(CTXT) == 120.0
    assert host.records.ended == [first]


@pytest.mark.parametrize('what', ['unsettled', 'unasked'])
def test_what_could_not_be_told_is_reported_again(host: Host, what: str) -> None:
    host.nics.there = {'port'}
    host.records.grace = 0.0
    setattr(host.records, what, 1)
    assert host.agent.report(CTXT) == 0.0
    setattr(host.records, what, 0)
    assert host.agent.report(CTXT) is None


# ------------------------------------------------------------------ the forms


def test_values_arrive_as_they_were_sent() -> None:
    port = base.Port(
        'port',
        'network',
        'fa:16:3e:00:00:01',
        'project-a',
        (base.FixedIP('subnet', '10.0.0.5', 24), base.FixedIP('other', 'fd00::5')),
        vif_details={'bridge_name': 'br-int', 'port_filter': True},
        mtu=1400,
    )
    arrived = messages.load_port(contract.through_json(messages.dump_port(port)))
    assert arrived == port
    assert [ip.prefix_length for ip in arrived.fixed_ips] == [24, None]
    assert messages.load_server(contract.through_json(messages.dump_server(SERVER))) == SERVER
    one = order(Direction.UNPLUG, generation=7)
    assert messages.load_order(contract.through_json(messages.dump_order(one))) == one


def test_a_newer_version_may_send_more() -> None:
    assert messages.load_server(messages.dump_server(SERVER) | {'flavor': 'm1'}) == SERVER


def test_of_the_caller_only_the_request_id_travels() -> None:
    form = messages.dump_context(CTXT)
    assert 'a-secret-token' not in json.dumps(form)
    arrived = messages.load_context(form)
    assert (arrived.request_id, arrived.auth_token) == (CTXT.request_id, None)


class OfItsOwn(exceptions.PlugFailed):
    """A driver's own."""


@pytest.mark.parametrize(
    ('error', 'arrives_as'),
    [
        (exceptions.PlugFailed(operator='no bridge'), exceptions.PlugFailed),
        (exceptions.InProgress(operator='the guest is paused'), exceptions.InProgress),
        (exceptions.UnknownOutcome('Look again.'), exceptions.UnknownOutcome),
        (exceptions.DeadlinePassed(), exceptions.DeadlinePassed),
        (exceptions.NotSupported(), exceptions.NotSupported),
        (exceptions.PortNotFound('port'), exceptions.PortNotFound),
        (OfItsOwn(operator='its own'), exceptions.PlugFailed),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_arrive_by_type_and_both_texts(error: exceptions.DriverError, arrives_as: type) -> None:
    arrived = messages.load_error(contract.through_json(messages.dump_error(error)), 'agent on host-1')
    assert type(arrived) is arrives_as
    assert (arrived.message, arrived.code) == (error.message, error.code)
    assert arrived.operator == f'agent on host-1: {error.operator}'


def test_an_error_that_nobody_knows_is_no_more_than_that() -> None:
    arrived = messages.load_error({'type': 'SystemExit', 'message': None, 'operator': 'odd'}, 'agent')
    assert type(arrived) is exceptions.DriverError
    assert arrived.message == exceptions.DriverError.default


# ------------------------------------------------------------------ driver and agent


@dataclasses.dataclass
class Bench:
    """A driver and an agent on one transport."""

    driver: rpc.RpcVIFDriver
    host: Host
    serving: messaging.Serving

    def plug(self, fence: base.Fence | None = None) -> dict[str, Any]:
        return self.driver.plug(CTXT, SERVER, port_of(order()), fence or contract.fence())


def conf_of(tmp_path: pathlib.Path, *lines: str, url: str = 'fake://', **options: object) -> Any:
    options = {'topic': f't-{uuid.uuid4().hex}', 'host': 'host-1', 'timeout': 20, 'ping_timeout': 20} | options
    text = ['[DEFAULT]', f'transport_url = {url}', '[os_interface]', 'vif_driver = noop', '[rpc]']
    text += [f'{name} = {value}' for name, value in options.items()]
    (tmp_path / 'rpc.conf').write_text('\n'.join([*text, *lines]))
    return config.new([str(tmp_path / 'rpc.conf')])


@contextlib.contextmanager
def running(conf: Any) -> Iterator[Bench]:
    driver = rpc.RpcVIFDriver(conf)
    bus = messaging.Bus(conf, conf.rpc.topic)
    host = Host()
    host.agent = Agent('host-1', host.nics, service.RemoteOrders(bus, conf.rpc), patience=5.0)
    serving = bus.serve(bus.target(f'{conf.rpc.topic}-agent', 'host-1'), service.Endpoint(host.agent))
    assert serving.wait(20)
    with driver.serve_orders(host.records):
        yield Bench(driver, host, serving)
    serving.stop(20)


class EverythingHolds(dict[Order, float]):
    def get(self, key: Any, default: Any = None) -> Any:
        return 30.0


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> Iterator[Bench]:
    with running(conf_of(tmp_path)) as made:
        made.host.records.holding = EverythingHolds()
        yield made


def test_there_and_back(bench: Bench) -> None:
    assert bench.plug() == {'nic': 'port'}
    assert bench.driver.plugged(CTXT, SERVER) == {'port'}
    assert base.LIVE_UNPLUG in bench.driver.capabilities(CTXT, SERVER)
    bench.driver.unplug(CTXT, SERVER, 'port', {'nic': 'port'}, contract.fence())
    assert bench.driver.plugged(CTXT, SERVER) == set()


def test_a_fence_arrives(bench: Bench) -> None:
    bench.plug(base.Fence(7, time.monotonic() + 5.0, 'a-record', 'an-installation'))
    (fence,) = bench.host.nics.fences
    assert (fence.record, fence.generation, fence.installation) == ('a-record', 7, 'an-installation')
    assert 0.0 < fence.remaining() <= 5.0


@pytest.mark.parametrize('error', [exceptions.InProgress(operator='paused'), exceptions.PlugFailed()])
def test_errors_of_the_agents_driver_pass_through(bench: Bench, error: exceptions.DriverError) -> None:
    bench.host.nics.error = error
    with pytest.raises(type(error)) as raised:
        bench.plug()
    assert raised.value.operator == f'agent on host-1: {error.operator}'


def test_a_failure_that_nobody_has_foreseen(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.host.nics.error = ZeroDivisionError('by secret')
    with pytest.raises(exceptions.DriverError) as raised:
        bench.plug()
    assert raised.value.code == 500
    assert 'secret' not in raised.value.message
    assert 'ZeroDivisionError' in raised.value.operator
    assert [record.levelname for record in caplog.records if record.exc_info] == ['ERROR']


def test_what_another_installation_has_plugged_is_not_reported(bench: Bench) -> None:
    nics, records = bench.host.nics, bench.host.records
    nics.there = {'ours', 'of-another', 'of-an-earlier-version'}
    nics.installations = {'ours': 'an-installation', 'of-another': 'another-installation'}
    bench.host.agent.report(CTXT)
    assert records.reported == [(SERVER.id, 'of-an-earlier-version'), (SERVER.id, 'ours')]


def test_reconcilers_and_controllers_of_an_earlier_version(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not tell their installation, and all NICs may be theirs, as it was with them."""
    monkeypatch.setattr(rpc._OrdersEndpoint, 'ping', lambda self, _: messages.answer(lambda: None))
    nics = bench.host.nics
    nics.there = {'ours', 'of-another'}
    nics.installations = {'of-another': 'another-installation'}
    bench.host.agent.report(CTXT)
    assert bench.host.records.reported == [(SERVER.id, 'of-another'), (SERVER.id, 'ours')]
    form = messages.dump_order(dataclasses.replace(order(), installation='an-installation'))
    assert messages.load_order(form).installation == 'an-installation'
    del form['installation']
    assert messages.load_order(form) == order()
    assert messages.load_order(form).installation == ''


def test_a_report_comes_in_pages(bench: Bench) -> None:
    bench.host.nics.there = {f'port-{number:02}' for number in range(45)}
    bench.host.records.orders = [(SERVER, order(Direction.UNPLUG, port='port-44'))]
    bench.host.agent.report(CTXT)
    assert bench.host.records.pages == [20, 20, 5]
    assert len(set(bench.host.records.reported)) == 45
    assert bench.host.nics.done == ['unplug port-44']


def test_all_of_a_review_arrives(bench: Bench) -> None:
    bench.host.nics.there = {f'port-{number:02}' for number in range(25)}
    records = bench.host.records
    records.suspects = [(SERVER.id, 'port-00'), (SERVER.id, 'port-24')]
    records.most, records.grace, records.unsettled, records.here = 2, 0.0, 1, 3
    asking = bench.host.agent._orders
    review = asking.review('host-1', sorted(bench.host.nics.find_plugged(CTXT, '')))
    assert review == base.Review(2, 0.0, [], records.suspects, 2, 6)
    records.unasked = 1
    assert asking.end('host-1', review.suspects * 11) == 2
    assert records.ended == review.suspects * 11


def test_past_its_deadline_nothing_is_sent(bench: Bench) -> None:
    with pytest.raises(exceptions.DeadlinePassed):
        bench.plug(contract.past_fence())
    assert bench.host.records.asked == []


def test_no_reconciler(tmp_path: pathlib.Path) -> None:
    with running(conf_of(tmp_path)) as bench:
        bench.host.records.are_away = True
        with pytest.raises(exceptions.Unavailable, match='nobody listens') as raised:
            bench.plug()
        assert not isinstance(raised.value, exceptions.UnknownOutcome)


def test_an_agent_that_is_away_is_known_before_anything_happens(tmp_path: pathlib.Path) -> None:
    driver = rpc.RpcVIFDriver(conf_of(tmp_path, ping_timeout=0.1, cache_time=60))
    for _ in range(2):
        with pytest.raises(exceptions.Unavailable) as raised:
            driver.capabilities(CTXT, SERVER)
        assert not isinstance(raised.value, exceptions.UnknownOutcome)
    assert raised.value.operator == 'agent on host-1 has not answered just now'
    with pytest.raises(exceptions.Unavailable) as raised:
        driver.plug(CTXT, SERVER, port_of(order()), contract.fence())
    assert not isinstance(raised.value, exceptions.UnknownOutcome)


def test_capabilities_are_remembered_for_a_while(bench: Bench) -> None:
    asked = []
    bench.host.nics.capabilities = lambda ctxt, server: asked.append(server) or frozenset({'odd'})  # type: ignore
    other = dataclasses.replace(SERVER, id='other')
    for server in (SERVER, SERVER, other):
        assert bench.driver.capabilities(CTXT, server) == {'odd'}
    assert asked == [SERVER, other]


def test_a_lost_answer_is_settled_by_a_question(tmp_path: pathlib.Path) -> None:
    with running(conf_of(tmp_path, timeout=0.5)) as bench:
        bench.host.records.holding = EverythingHolds()
        bench.driver.plugged(CTXT, SERVER)
        bench.host.nics.pause.clear()
        threading.Timer(0.8, bench.host.nics.pause.set).start()
        # The time of the call is over, the driver's own is not.
        bench.host.agent._left = lambda deadline: 30.0  # type: ignore[method-assign]
        assert bench.plug() == {'nic': 'port'}
        assert bench.host.nics.done == ['plug port']


def test_an_order_is_settled_while_the_driver_is_slow(tmp_path: pathlib.Path) -> None:
    with running(conf_of(tmp_path, timeout=1.0, ping_timeout=0.5, cache_time=60)) as bench:
        bench.host.records.holding = EverythingHolds()
        bench.host.agent.capabilities = lambda *_: bench.host.nics.pause.wait() or frozenset()  # type: ignore
        # Who has been heard of is not pinged before an order.
        bench.driver.plugged(CTXT, SERVER)
        real = bench.driver._call

        def call(ctxt: Any, agent: Any, method: str, *rest: Any, **arguments: Any) -> Any:
            answer = real(ctxt, agent, method, *rest, **arguments)
            if method == 'plug':
                # It is done, but nobody hears of it; and meanwhile another request found the driver slow.
                bench.host.nics.pause.clear()
                for what in ('no answer', 'just now'):
                    with pytest.raises(exceptions.Unavailable, match=what):
                        bench.driver.capabilities(CTXT, SERVER)
                bench.host.nics.pause.set()
                raise exceptions.UnknownOutcome()
            return answer

        bench.driver._call = call  # type: ignore[method-assign]
        assert bench.plug() == {'nic': 'port'}
        assert bench.host.nics.done == ['plug port']


def test_an_answer_that_nobody_can_give(tmp_path: pathlib.Path) -> None:
    with running(conf_of(tmp_path, timeout=0.2, ping_timeout=0.2)) as bench:
        bench.host.records.holding = EverythingHolds()
        bench.driver.plugged(CTXT, SERVER)
        bench.host.nics.pause.clear()
        with pytest.raises(exceptions.UnknownOutcome):
            bench.plug()
        bench.host.nics.pause.set()


def test_a_host_that_is_gone_for_good(tmp_path: pathlib.Path) -> None:
    driver = rpc.RpcVIFDriver(conf_of(tmp_path, gone_hosts='host-0,host-1'))
    driver.unplug(CTXT, SERVER, 'port', {}, contract.fence())
    assert driver.plugged(CTXT, SERVER) == set()
    for call in (
        lambda: driver.plug(CTXT, SERVER, port_of(order()), contract.fence()),
        lambda: driver.capabilities(CTXT, SERVER),
    ):
        with pytest.raises(exceptions.Unavailable, match='gone_hosts'):
            call()


def test_a_server_on_no_host(tmp_path: pathlib.Path) -> None:
    driver = rpc.RpcVIFDriver(conf_of(tmp_path))
    server = dataclasses.replace(SERVER, host=None)
    with pytest.raises(exceptions.ServerNotReady) as raised:
        driver.plug(CTXT, server, port_of(order()), contract.fence())
    assert raised.value.code == 409
    driver.unplug(CTXT, server, 'port', {}, contract.fence())
    with pytest.raises(exceptions.NotSupported):
        driver.plugged(CTXT, server)


def test_a_server_that_fails_to_start_is_started_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter(range(2))
    real = messaging._Server._create_listener

    def create_listener(self: Any) -> Any:
        if next(failures, None) is not None:
            raise OSError('no queue')
        return real(self)

    monkeypatch.setattr(messaging, 'START_AGAIN', 0.01)
    monkeypatch.setattr(messaging._Server, '_create_listener', create_listener)
    with running(conf_of(tmp_path)) as bench:
        assert bench.driver.plugged(CTXT, SERVER) == set()
    assert caplog.text.count('calls cannot be served') == 2


def test_whether_the_broker_can_be_reached(tmp_path: pathlib.Path) -> None:
    """Nobody listens at the port."""
    driver = rpc.RpcVIFDriver(conf_of(tmp_path, url='rabbit://user:s3cret@127.0.0.1:9/', timeout=0.1))
    with pytest.raises(exceptions.Unavailable, match='the message broker') as raised:
        driver.check(CTXT)
    assert type(raised.value) is exceptions.Unavailable
    assert 's3cret' not in raised.value.operator


def test_a_reconciler_does_not_wait_for_a_broker(tmp_path: pathlib.Path) -> None:
    """Nobody listens at the port."""
    driver = rpc.RpcVIFDriver(conf_of(tmp_path, url='rabbit://user:password@127.0.0.1:9/', ping_timeout=0.1))
    with driver.serve_orders(Records()):
        pass


# ------------------------------------------------------------------ time


def test_a_deadline_by_the_agents_clock_is_never_too_late() -> None:
    agent = rpc._Agent('host-1')
    real = time.monotonic() + 1000.0
    agent.hear(Moment('epoch', real - 3.0))  # An answer that has taken three seconds.
    slow = agent.clock
    agent.hear(Moment('epoch', real))
    agent.hear(Moment('epoch', real - 5.0))
    assert agent.clock is not slow
    assert agent.clock is not None
    assert real + 9.0 < agent.clock.of(time.monotonic() + 10.0).seconds <= real + 11.0
    # Another process has another time.
    agent.hear(Moment('another', 5.0))
    assert agent.clock.there.epoch == 'another'


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ('url', 'what'),
    [
        (None, 'is not set'),
        ('rabbit://user:s3cret@[broken/', 'cannot be understood'),
        ('//user:s3cret@host/', 'cannot be understood'),
        ('carrier-pigeon://user:s3cret@host/', 'Failed to load transport driver "carrier-pigeon"'),
    ],
)
def test_a_bad_url_is_one_line_without_the_password(tmp_path: pathlib.Path, url: str | None, what: str) -> None:
    text = f'[DEFAULT]\ntransport_url = {url}\n' if url else ''
    (tmp_path / 'rpc.conf').write_text(text)
    with pytest.raises(exceptions.ConfigurationError, match='transport_url') as raised:
        rpc.RpcVIFDriver(config.new([str(tmp_path / 'rpc.conf')]))
    assert what in raised.value.message
    assert '\n' not in raised.value.message
    assert 's3cret' not in raised.value.message


def test_calls_have_queues_that_end_with_their_consumers(tmp_path: pathlib.Path) -> None:
    """And notifications, which read the same options, keep theirs."""
    conf = conf_of(tmp_path, url='rabbit://host/')
    bus = messaging.Bus(conf, 'topic')
    assert bus._url.query['amqp_auto_delete'] == 'true'
    assert conf.oslo_messaging_rabbit.amqp_auto_delete is False
    for line in ('rabbit_quorum_queue = true', 'amqp_auto_delete = false'):
        conf = conf_of(tmp_path, '[oslo_messaging_rabbit]', line, url='rabbit://host/')
        assert 'amqp_auto_delete' not in messaging.Bus(conf, 'topic')._url.query


def _agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'os_interface_ext.cmd.agent', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_agent_that_has_others_plug_is_refused(tmp_path: pathlib.Path) -> None:
    conf_of(tmp_path)
    path = tmp_path / 'rpc.conf'
    path.write_text(path.read_text().replace('noop', 'rpc'))
    with pytest.raises(exceptions.ConfigurationError, match=r'\[os_interface\] vif_driver: .rpc. has others plug'):
        service.Service(config.new([str(path)]))


def test_an_agent_that_plugs_nothing_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(exceptions.ConfigurationError, match=r'\[os_interface\] vif_driver: .noop. plugs nothing'):
        service.Service(conf_of(tmp_path))


@pytest.mark.service
def test_the_agents_command(tmp_path: pathlib.Path) -> None:
    ended = _agent('--config-file', str(tmp_path / 'absent'))
    assert ended.returncode == 1
    assert ended.stderr.count('\n') == 1
    assert 'absent' in ended.stderr
    assert _agent('--version').stdout.startswith('os-interface-ext-agent ')


def test_an_agents_driver_may_have_an_event_loop(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a process of our own: libvirt's keepalive works there alone."""
    conf_of(tmp_path)
    seen = []

    def make(conf: config.Config) -> None:
        seen.append(conf.is_own_process)
        raise exceptions.ConfigurationError('that is enough')

    monkeypatch.setattr(service, 'Service', make)
    monkeypatch.setattr(command, '_on_signals', lambda action: None)
    monkeypatch.setattr(command.logs, 'setup', lambda *args, **kwargs: None)
    assert command.main(['--config-file', str(tmp_path / 'rpc.conf')]) == 1
    assert seen == [True]


# ------------------------------------------------------------------ forks, threads, eventlet

_FORKED = """
import os, sys
from os_interface_ext import messaging
from tests.unit import test_rpc
import pathlib
conf = test_rpc.conf_of(pathlib.Path(sys.argv[1]))
with test_rpc.running(conf) as bench:
    notifier = messaging.Notifier(conf, 'topic', 'publisher')
    owned = lambda: (bench.driver._bus._own()[0], notifier._own().transport)
    first = owned()
    child = os.fork()
    if not child:
        os._exit(any(one is other for one, other in zip(owned(), first, strict=True)))
    assert os.waitpid(child, 0)[1] == 0
    assert owned() == first
"""

_NO_EVENTLET = """
import sys, pathlib, threading
from tests.unit import test_rpc
with test_rpc.running(test_rpc.conf_of(pathlib.Path(sys.argv[1]))) as bench:
    bench.host.records.holding = test_rpc.EverythingHolds()
    assert bench.plug() == {'nic': 'port'}
    if 'eventlet' in sys.modules:
        from eventlet import hubs, patcher
        assert not patcher.already_patched, patcher.already_patched
        assert not any(map(patcher.is_monkey_patched, ('thread', 'socket', 'os', 'select', 'time')))
        assert not hasattr(hubs._threadlocal, 'hub')
    assert type(threading.current_thread()).__module__ == 'threading'
    assert bench.serving._server.executor_type == 'threading'
    from oslo_config import cfg
    assert 'transport_url' not in cfg.CONF and 'rpc' not in cfg.CONF
"""


@pytest.mark.service
@pytest.mark.parametrize('code', [_FORKED, _NO_EVENTLET], ids=['a transport for each process', 'no eventlet'])
def test_in_a_process_of_its_own(tmp_path: pathlib.Path, code: str) -> None:
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, '-W', 'ignore', '-c', code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=root)
    assert (ended.returncode, ended.stderr) == (0, '')


def test_a_wrong_password_is_in_no_log(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody listens at the port, either: what the library logs of that is all there is."""
    caplog.set_level(logging.DEBUG)
    conf = conf_of(tmp_path, url='rabbit://user:s3cret@127.0.0.1:9/', ping_timeout=0.5)
    driver = rpc.RpcVIFDriver(conf)
    with pytest.raises(exceptions.Unavailable) as raised:
        driver.capabilities(CTXT, SERVER)
    assert 's3cret' not in raised.value.operator
    assert caplog.records
    assert 's3cret' not in caplog.text
