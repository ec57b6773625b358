"""The VIF driver `rpc` on a real RabbitMQ: two hosts, each with an agent that plugs there with `netns`."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import kombu
import pytest
from oslo_messaging._drivers import amqpdriver

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions, messaging
from os_interface_ext.agent import service
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.store import Record, Store
from os_interface_ext.conf import rpc as rpc_options
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.drivers.vifs import netns, rpc
from os_interface_ext.testing import contract, vifs
from tests.integration.conftest import PATIENCE, Answer, Service, start_serve, wait_until
from tests.integration.vifs import agents, namespaces, test_netns
from tests.integration.vifs.stopwatch import Stopwatch
from tests.integration.vifs.test_netns import BY_NETWORK, MTU, NETWORK, PROJECT, TOKEN, make_port
from tests.services import proxy
from tests.services import rabbitmq as rabbitmq_service

pytestmark = pytest.mark.service

CYCLES = 20
#: What may be answered to a POST and to a DELETE while things fail.
ATTACH = {200, 503}
DETACH = {202, 404}


@pytest.fixture(scope='module', autouse=True)
def _possible() -> None:
    namespaces.require()


@dataclasses.dataclass
class Site:
    """A controller with the reconciler in it, and two hosts with a server on each."""

    service: Service
    folder: pathlib.Path
    hosts: tuple[agents.Host, agents.Host]
    servers: tuple[base.Server, base.Server]
    broker: rabbitmq_service.RabbitMQ
    topic: str
    #: For messages that a test sends itself.
    bus: messaging.Bus

    # ------------------------------------------------------------------ requests

    def call(self, method: str, server: base.Server, port_id: str = '', body: Any = None) -> Answer:
        path = f'/v2.1/servers/{server.id}/os-interface' + (f'/{port_id}' if port_id else '')
        version = {'OpenStack-API-Version': 'compute 2.70'}
        answer = self.service.call(method, path, TOKEN, body, version)
        if answer.status >= 500:
            # Nothing of what is within reaches the caller.
            assert not {'rabbit', 'agent', '127.0.0.1', 'Traceback', 'rpc'} & set(json.dumps(answer.body).split())
        return answer

    def attach(self, server: base.Server, port_id: str | None = None) -> dict[str, Any]:
        body = BY_NETWORK if port_id is None else {'interfaceAttachment': {'port_id': port_id}}
        answer = self.call('POST', server, body=body)
        assert answer.status == 200, answer.body
        attachment: dict[str, Any] = answer.body['interfaceAttachment']
        return attachment

    def detach(self, server: base.Server, port_id: str) -> None:
        assert self.call('DELETE', server, port_id).status == 202

    def port(self) -> str:
        """A port of the user's own."""
        answer = self.service.call('POST', '/v2.0/ports', TOKEN, {'port': {'network_id': NETWORK}})
        assert answer.status == 201, answer.body
        port_id: str = answer.body['port']['id']
        return port_id

    def remove_port(self, port_id: str) -> None:
        assert self.service.call('DELETE', f'/v2.0/ports/{port_id}', TOKEN).status == 204

    # ------------------------------------------------------------------ what is there

    def conf(self) -> Any:
        """The controller's own."""
        conf = config.new([str(self.folder / 'osif.conf')])
        rpc_options.register_opts(conf)
        return conf

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        database = Database.of(self.conf())
        try:
            yield Store(database, lease=30.0)
        finally:
            database.dispose()

    def records(self) -> list[Record]:
        with self.store() as store:
            return list(store.listed())

    def installation(self) -> str:
        with self.store() as store:
            return store.installation

    def ports(self) -> dict[str, str]:
        """The ports that the network has, each with its device."""
        answer = self.service.call('GET', '/v2.0/ports', TOKEN)
        return {port['id']: port['device_id'] for port in answer.body['ports']}

    def nics(self) -> dict[str, list[str]]:
        """The ports whose NIC is complete, by server."""
        return {server.id: sorted(namespaces.ports(server.id)) for server in self.servers}

    def links(self) -> list[str]:
        names = [*(host.name for host in self.hosts), *(server.id for server in self.servers)]
        return [link['ifname'] for name in names for link in namespaces.links(name)]

    def macs(self) -> collections.Counter[str]:
        """How many NICs have an address, wherever they are."""
        return collections.Counter(
            link['address'] for server in self.servers for link in namespaces.links(server.id)
        )

    def at_rest(self) -> None:
        """Wait until nothing is in motion; then records, ports and NICs agree, on both sides."""
        wait_until(lambda: all(record.state is State.ATTACHED for record in self.records()))
        attached = {record.port_id: record.server_id for record in self.records()}
        assert {port: device for port, device in self.ports().items() if device} == attached
        for host, server in zip(self.hosts, self.servers, strict=True):
            here = sorted(port or '' for port, device in attached.items() if device == server.id)
            assert self.nics()[server.id] == here
            assert len(namespaces.links(server.id)) == len(here), 'something is half made'
            kinds = collections.Counter(link['ifname'][:3] for link in namespaces.links(host.name))
            assert kinds == collections.Counter({'osv': len(here), 'osb': min(1, len(here))})
        assert set(self.macs().values()) <= {1}

    def nothing_left(self) -> None:
        self.at_rest()
        assert self.records() == []
        assert self.links() == []
        assert [device for device in self.ports().values() if device] == []


@pytest.fixture(scope='module')
def whole_site(tmp_path_factory: pytest.TempPathFactory, rabbitmq: rabbitmq_service.RabbitMQ) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp('rpc')
    topic = f'osif-{uuid.uuid4().hex[:8]}'
    names = [f'osif-host-{uuid.uuid4().hex[:8]}' for _ in range(2)]
    servers = [base.Server(str(uuid.uuid4()), PROJECT, 'web', host=name) for name in names]
    (folder / 'inventory.yaml').write_text(json.dumps(test_netns.inventory(servers)))
    (folder / 'osif.conf').write_text(_configuration(rabbitmq, folder, topic))
    with contextlib.ExitStack() as stack:
        stack.enter_context(namespaces.made(*(server.id for server in servers)))
        first, second = (stack.enter_context(agents.made(name, topic, folder, rabbitmq)) for name in names)
        arguments = ['--config-file', str(folder / 'osif.conf'), '--inventory', str(folder / 'inventory.yaml')]
        running = start_serve(folder, *arguments, '--workers', '2')
        stack.callback(running.stop)
        bus = messaging.Bus(config.new([str(folder / 'osif.conf')]), topic)
        yield Site(running, folder, (first, second), (servers[0], servers[1]), rabbitmq, topic, bus)
        assert 'Traceback' not in (folder / 'serve.log').read_text()


def _configuration(broker: rabbitmq_service.RabbitMQ, folder: pathlib.Path, topic: str) -> str:
    lines = [
        '[DEFAULT]',
        f'transport_url = {broker.url}',
        '[database]',
        f'connection = sqlite:///{folder}/osif.sqlite',
        '[os_interface]',
        'vif_driver = rpc',
        '[rpc]',
        f'topic = {topic}',
        'timeout = 3',
        'ping_timeout = 2',
        'cache_time = 0.5',
        '[attachments]',
        'lease = 12',
        'wait = 1',
        '[reconciler]',
        'interval = 0.1',
        'backoff = 0.1',
        'backoff_cap = 0.5',
        'grace = 0.5',
        '[oslo_messaging_rabbit]',
        'rabbit_interval_max = 1',
    ]
    return '\n'.join(lines)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """The site with both agents at work, and nothing attached; so it is left."""
    for host in whole_site.hosts:
        if host.has_ended() or not host.log.exists():
            host.start()
    yield whole_site
    for host in whole_site.hosts:
        if host.has_ended():
            host.start()
    for record in whole_site.records():
        server = next(one for one in whole_site.servers if one.id == record.server_id)
        whole_site.call('DELETE', server, record.port_id or '')
    whole_site.nothing_left()


# ---------------------------------------------------------------------- each on its own side


def test_each_agent_plugs_on_its_own_side(site: Site) -> None:
    attached = [site.attach(server) for server in site.servers]
    site.at_rest()
    for server, attachment in zip(site.servers, attached, strict=True):
        (inner,) = namespaces.links(server.id)
        assert (inner['address'], inner['mtu']) == (attachment['mac_addr'], MTU)
        shown = site.call('GET', server).body['interfaceAttachments']
        assert [one['port_id'] for one in shown] == [attachment['port_id']]
    first, second = site.servers
    site.detach(first, attached[0]['port_id'])
    assert site.call('GET', first, attached[0]['port_id']).status == 404
    assert site.nics() == {first.id: [], second.id: [attached[1]['port_id']]}
    assert namespaces.links(site.hosts[0].name) == []
    site.detach(second, attached[1]['port_id'])
    site.nothing_left()


def test_what_the_agents_driver_cannot_do_is_refused_before_anything_happens(site: Site) -> None:
    answer = site.call('POST', site.servers[0], body={'interfaceAttachment': {'net_id': NETWORK, 'tag': 'nic'}})
    assert answer.status == 400
    assert site.records() == []


# ---------------------------------------------------------------------- an agent that dies


def _meanwhile(work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """What is being done while the test goes on."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


@pytest.mark.parametrize('point', ['before plug', 'after change', 'after change#4', 'after plug'])
def test_killed_while_plugging(site: Site, point: str) -> None:
    (host, _), (server, _) = site.hosts, site.servers
    host.befall(f'{point}:kill')
    answer = _meanwhile(lambda: site.call('POST', server, body=BY_NETWORK))
    assert host.wait() == -signal.SIGKILL
    host.start()
    status = answer.result().status
    assert status in ATTACH
    site.at_rest()
    assert len(site.records()) == (status == 200)
    for record in site.records():
        site.detach(server, record.port_id or '')
    site.nothing_left()


@pytest.mark.parametrize('point', ['after change', 'after unplug'])
def test_killed_while_unplugging(site: Site, point: str) -> None:
    (host, _), (server, _) = site.hosts, site.servers
    port_id = site.attach(server)['port_id']
    host.befall(f'{point}:kill')
    answer = _meanwhile(lambda: site.call('DELETE', server, port_id))
    assert host.wait() == -signal.SIGKILL
    host.start()
    assert answer.result().status == 202
    wait_until(lambda: site.call('GET', server, port_id).status == 404)
    site.nothing_left()


def test_an_agent_that_is_away_for_good(site: Site) -> None:
    """Nothing is begun there; what is attached there stays on its way out until the operator says that the host
    is gone. Should it come back all the same, the agent takes out what has no record any more."""
    (host, _), (server, other) = site.hosts, site.servers
    kept = site.attach(server)['port_id']
    own = site.port()
    host.kill()
    bodies = [BY_NETWORK, {'interfaceAttachment': {'port_id': own}}]

    def is_refused_at_once() -> bool:
        before = len(site.records())
        assert site.call('POST', server, body=BY_NETWORK).status == 503
        return len(site.records()) == before

    # As long as it is remembered that the agent was there, an attach may begin, and is undone later.
    wait_until(lambda: all(is_refused_at_once() for _ in range(4)))
    before = [record.id for record in site.records()]
    for body in bodies:
        assert site.call('POST', server, body=body).status == 503
    assert [record.id for record in site.records()] == before
    assert site.ports()[own] == ''
    for _ in range(2):
        site.detach(server, kept)
    assert site.call('GET', server, kept).status == 200, 'it may still be plugged'
    # The other host has nothing to do with it.
    site.detach(other, site.attach(other, own)['port_id'])
    site.remove_port(own)
    assert [record.id for record in site.records()] == before
    assert {record.state for record in site.records()} == {State.UNPLUGGING}

    conf = site.conf()
    conf.set_override('gone_hosts', [host.name], group='rpc')
    parts = deploy.assemble(conf)
    try:
        wait_until(lambda: bool(parts.reconciler.once()) and site.records() == [])
    finally:
        parts.database.dispose()
    assert site.call('GET', server, kept).status == 404
    assert site.ports() == {}

    assert namespaces.ports(server.id) == [kept]
    host.start()
    wait_until(lambda: site.links() == [])
    site.nothing_left()


def _driver_of(site: Site, host: agents.Host) -> base.VIFDriver:
    """What plugs on a host, beside its agent."""
    conf = site.conf()
    driver = netns.NetnsVIFDriver(conf)
    for name, value in {'host_namespace': host.name, 'lock_path': str(site.folder / f'{host.name}.lock')}.items():
        conf.set_override(name, value, group=netns.GROUP)
    return driver


def test_what_is_left_over_at_the_start(site: Site) -> None:
    """What has a record stays, what has none goes, by an order; what is not ours is not touched."""
    (host, _), (server, _) = site.hosts, site.servers
    kept = site.attach(server)['port_id']
    host.kill()
    driver = _driver_of(site, host)
    lost = base.Port(str(uuid.uuid4()), NETWORK, 'fa:16:3e:99:99:99', PROJECT, mtu=MTU)
    driver.plug(contract.member(server), server, lost, contract.fence())
    assert sorted(namespaces.ports(server.id)) == sorted([kept, lost.id])
    with namespaces.stranger(host.name, 'eth9'):
        host.start()
        wait_until(lambda: namespaces.ports(server.id) == [kept] and len(site.records()) == 1)
        assert 'eth9' in [link['ifname'] for link in namespaces.links(host.name)]
    site.detach(server, kept)
    site.nothing_left()


def test_a_report_under_a_wrong_name_takes_nothing_out(site: Site) -> None:
    (host, _), (server, _) = site.hosts, site.servers
    port_id = site.attach(server)['port_id']
    host.kill()
    begun = host.hears('nothing that is plugged here is unplugged')
    with host.under_name('another'):
        host.start()
        wait_until(lambda: host.hears('nothing that is plugged here is unplugged', begun) > 1)
        host.kill()
    assert 'no server is on a host named another' in host.log.read_text()
    assert namespaces.ports(server.id) == [port_id]
    host.start()
    site.at_rest()
    site.detach(server, port_id)
    site.nothing_left()


def test_what_another_installation_has_plugged_is_left_alone(site: Site) -> None:
    (host, _), _ = site.hosts, site.servers
    stranger = base.Server(str(uuid.uuid4()), PROJECT, host=host.name)
    port = base.Port(str(uuid.uuid4()), NETWORK, 'fa:16:3e:99:99:98', PROJECT, mtu=MTU)
    driver, ctxt = _driver_of(site, host), contract.member(stranger)
    log = site.folder / 'serve.log'
    with namespaces.made(stranger.id):
        driver.plug(ctxt, stranger, port, contract.fence())
        host.kill()
        host.start()
        wait_until(lambda: f'port {port.id} is plugged into server {stranger.id}' in log.read_text())
        assert site.records() == []
        assert namespaces.ports(stranger.id) == [port.id]
        driver.unplug(ctxt, stranger, port.id, {}, contract.fence())


def _reports(agent: agents.Host, text: str) -> None:
    """Start an agent anew, and wait until it has reported that."""
    begun = agent.hears(text)
    agent.kill()
    agent.start()
    wait_until(lambda: agent.hears(text, begun) > 0)


def test_two_installations_on_one_host(site: Site) -> None:
    """Both know its servers, and neither the ports of the other: each takes out what it has left over itself."""
    (host, _), (server, _) = site.hosts, site.servers
    topic = f'osif-{uuid.uuid4().hex[:8]}'
    folder = site.folder / topic
    folder.mkdir()
    (folder / 'osif.conf').write_text(_configuration(site.broker, folder, topic))
    agent = agents.Host(host.name, topic, folder, host.way, site.folder / f'{host.name}.lock')
    arguments = ['--config-file', str(folder / 'osif.conf'), '--inventory', str(site.folder / 'inventory.yaml')]
    with contextlib.ExitStack() as stack:
        running = start_serve(folder, *arguments)
        stack.callback(running.stop)
        stack.callback(agent.kill)
        agent.start()
        another = dataclasses.replace(site, service=running, folder=folder)
        ours, theirs = site.attach(server)['port_id'], another.attach(server)['port_id']
        for one in (host, agent):
            _reports(one, '1 NICs are plugged here: 0 are to be unplugged at once, 0 have no record')
        # What an earlier version has plugged may be of either.
        host.kill()
        driver, ctxt = _driver_of(site, host), contract.member(server)
        lost = [base.Port(str(uuid.uuid4()), NETWORK, f'fa:16:3e:99:99:9{n}', PROJECT, mtu=MTU) for n in range(2)]
        for port, installation in zip(lost, ('', site.installation()), strict=True):
            driver.plug(ctxt, server, port, dataclasses.replace(contract.fence(), installation=installation))
        _reports(host, '3 NICs are plugged here: 0 are to be unplugged at once, 2 have no record')
        wait_until(lambda: sorted(namespaces.ports(server.id)) == sorted([ours, theirs]))
        another.detach(server, theirs)
        wait_until(lambda: namespaces.ports(server.id) == [ours])
        assert another.records() == []
    site.detach(server, ours)
    site.nothing_left()


# ---------------------------------------------------------------------- messages that come late


@contextlib.contextmanager
def overheard(site: Site, host: agents.Host) -> Iterator[Callable[[str], dict[str, Any]]]:
    """What is sent to an agent: by the name of the method, the arguments of the last message."""
    heard: dict[str, dict[str, Any]] = {}
    with kombu.Connection(site.broker.url.replace('rabbit://', 'amqp://')) as connection:
        exchange = kombu.Exchange(site.topic, 'topic', durable=False, auto_delete=True)
        key = f'{site.topic}-agent.{host.name}'
        queue = kombu.Queue('', exchange, routing_key=key, exclusive=True, auto_delete=True)(connection.channel())
        queue.declare()

        def last(method: str) -> dict[str, Any]:
            while message := queue.get(no_ack=True):
                one = json.loads(json.loads(message.body)['oslo.message'])
                heard[one['method']] = one['args']
            return heard[method]

        yield last


def _send(site: Site, host: agents.Host, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A message to an agent, sent by hand; its answer."""
    target = site.bus.target(f'{site.topic}-agent', host.name)
    answer: dict[str, Any] = site.bus.call(target, {'request_id': 'req-late'}, method, 5.0, **arguments)
    return answer


def test_a_message_that_is_delayed_past_a_newer_attach(site: Site) -> None:
    """The real messages of an attachment that has gone, once more: after the port was attached elsewhere, and
    after it was attached to the same server again; to the agent that knew them, and to one started since."""
    (host, _), (server, other) = site.hosts, site.servers
    port_id = site.port()
    with overheard(site, host) as last:
        site.attach(server, port_id)
        site.detach(server, port_id)
        late = {method: last(method) for method in ('plug', 'unplug')}
    assert late['plug']['order']['port_id'] == port_id

    def refused() -> None:
        for method, arguments in late.items():
            answer = _send(site, host, method, arguments)
            assert answer['error']['type'] == 'DeadlinePassed', answer
        assert site.nics() == expected
        assert max(site.macs().values()) == 1

    for now_at in (other, server):
        site.attach(now_at, port_id)
        expected = {one.id: [port_id] if one == now_at else [] for one in site.servers}
        refused()
        host.kill()
        host.start()
        refused()
        # In time by the new agent's clock, too: it has not seen the port, and asks.
        moment = _send(site, host, 'ping', {})['now']
        for arguments in late.values():
            arguments['deadline'] = [moment[0], moment[1] + 60.0]
        refused()
        site.detach(now_at, port_id)
    site.remove_port(port_id)


def test_an_agent_that_stands_still_within_a_plug(site: Site) -> None:
    """Its message is late when it goes on. Until then the port is nobody else's."""
    (host, _), (server, other) = site.hosts, site.servers
    port_id = site.port()
    host.befall('before change:delay=1')
    begun = host.hears('plug of port')
    answer = _meanwhile(lambda: site.call('POST', server, body={'interfaceAttachment': {'port_id': port_id}}))
    wait_until(lambda: host.hears('plug of port', begun) > 0)
    host.signal(signal.SIGSTOP)
    try:
        assert answer.result().status == 503
        assert [record.state for record in site.records()] == [State.UNPLUGGING]
        assert site.call('POST', other, body={'interfaceAttachment': {'port_id': port_id}}).status == 503
        # Not begun with at all: nothing is recorded.
        assert site.call('POST', server, body=BY_NETWORK).status == 503
        assert len(site.records()) == 1
    finally:
        host.signal(signal.SIGCONT)
    wait_until(lambda: site.call('POST', other, body={'interfaceAttachment': {'port_id': port_id}}).status == 200)
    assert site.nics() == {server.id: [], other.id: [port_id]}
    site.at_rest()
    site.detach(other, port_id)
    site.remove_port(port_id)


# ---------------------------------------------------------------------- a broker that dies


def test_the_broker_restarted_under_load(site: Site) -> None:
    statuses: collections.Counter[tuple[str, int]] = collections.Counter()
    stop = threading.Event()

    def work(server: base.Server) -> None:
        while not stop.is_set():
            answer = site.call('POST', server, body=BY_NETWORK)
            statuses['POST', answer.status] += 1
            if answer.status == 200:
                port_id = answer.body['interfaceAttachment']['port_id']
                statuses['DELETE', site.call('DELETE', server, port_id).status] += 1

    def succeeds(more: int) -> None:
        wanted = statuses['POST', 200] + more
        wait_until(lambda: statuses['POST', 200] >= wanted)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, server) for server in site.servers * 2]
        try:
            succeeds(8)
            site.broker.kill()
            wait_until(lambda: statuses['POST', 503] >= 4)
            site.broker.start()
            succeeds(8)
        finally:
            stop.set()
    # Each worker has connections of its own that it has to find closed.
    wait_until(
        lambda: all(site.call('POST', server, body=BY_NETWORK).status == 200 for server in site.servers * 3)
    )
    for record in site.records():
        site.call('DELETE', base.Server(record.server_id, PROJECT), record.port_id or '')
    for future in futures:
        future.result()
    assert {status for method, status in statuses if method == 'POST'} <= ATTACH
    assert {status for method, status in statuses if method == 'DELETE'} <= DETACH
    site.nothing_left()


# ---------------------------------------------------------------------- an agent that is told to end


def test_the_message_at_hand_is_finished(site: Site) -> None:
    (host, _), (server, _) = site.hosts, site.servers
    host.befall('before change:delay=1')
    begun = host.hears('plug of port')
    answer = _meanwhile(lambda: site.call('POST', server, body=BY_NETWORK))
    wait_until(lambda: host.hears('plug of port', begun) > 0)
    assert host.stop() == 0
    assert answer.result().status == 200
    host.start()
    site.detach(server, answer.result().body['interfaceAttachment']['port_id'])
    site.nothing_left()


def test_an_agent_ends_without_a_broker(site: Site) -> None:
    host = site.hosts[0]
    host.way.silent = True
    try:
        host.way.cut()
        assert host.stop() == 0
    finally:
        host.way.silent = False
    assert 'Traceback' not in host.log.read_text()


# ---------------------------------------------------------------------- the contract


class _AllHolds:
    """The suite has no records: whatever it orders holds."""

    def installation(self) -> str:
        return ''

    def time_left(self, order: base.Order, host: str) -> float:
        return contract.PATIENCE

    def review(self, host: str, nics: Iterable[tuple[str, str]]) -> base.Review:
        return base.Review(most=0, grace=0.0)

    def end(self, host: str, nics: Iterable[tuple[str, str]]) -> int:
        return 0


@dataclasses.dataclass
class Bench:
    """A controller's driver, and an agent in this process: both at a real broker, the agent through a proxy."""

    host: str
    driver: rpc.RpcVIFDriver
    bus: messaging.Bus
    way: proxy.Proxy

    def answers(self) -> bool:
        target = self.bus.target(f'{self.host}-agent', self.host)
        try:
            return bool(self.bus.call(target, {}, 'ping', 1.0))
        except exceptions.Unavailable:
            return False

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """The agent cannot reach the broker."""
        self.way.silent = True
        self.way.cut()
        wait_until(lambda: not self.answers())
        yield
        self.way.silent = False
        self.way.cut()
        wait_until(self.answers)


def _bench_conf(folder: pathlib.Path, host: str, url: str, *lines: str) -> Any:
    first = [
        '[DEFAULT]',
        f'transport_url = {url}',
        '[os_interface]',
        'vif_driver = netns',
        '[rpc]',
        f'topic = {host}',
        f'host = {host}',
        'timeout = 2',
        'ping_timeout = 2',
        '[netns]',
        f'host_namespace = {host}',
        f'lock_path = {folder}/lock',
    ]
    file = folder / f'{uuid.uuid4().hex}.conf'
    file.write_text('\n'.join([*first, *lines]))
    return config.new([str(file)])


@contextlib.contextmanager
def _benched(folder: pathlib.Path, port: int, url: str, *lines: str) -> Iterator[Bench]:
    """:param url: with {port}"""
    host = f'osif-bench-{uuid.uuid4().hex[:8]}'
    conf = _bench_conf(folder, host, url.format(port=port), *lines)
    driver = rpc.RpcVIFDriver(conf)
    with namespaces.made(host), driver.serve_orders(_AllHolds()), proxy.before(port) as way:
        agent = service.Service(_bench_conf(folder, host, url.format(port=way.port), *lines))
        agent.start()
        assert agent.wait(PATIENCE)
        bus = messaging.Bus(conf, host)
        yield Bench(host, driver, bus, way)
        assert agent.stop()


@pytest.fixture(scope='module')
def bench(rabbitmq: rabbitmq_service.RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp('bench')
    with _benched(folder, rabbitmq.port, 'rabbit://guest:guest@127.0.0.1:{port}/') as made:
        yield made


@contextlib.contextmanager
def answers_lost() -> Iterator[None]:
    """What the agent answers does not arrive; what it asks is answered."""
    real = amqpdriver.AMQPIncomingMessage.reply

    def reply(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.message['method'] == 'time_left':
            real(self, *args, **kwargs)

    with mock.patch.object(amqpdriver.AMQPIncomingMessage, 'reply', reply):
        yield


class TestContract(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self, bench: Bench) -> Iterator[vifs.VIFBackend]:
        servers = [base.Server(str(uuid.uuid4()), PROJECT, host=bench.host) for _ in range(2)]
        with namespaces.made(*(server.id for server in servers)):
            yield vifs.VIFBackend(
                driver=bench.driver,
                server=servers[0],
                other_server=servers[1],
                make_port=make_port,
                nics=lambda server: namespaces.ports(server.id),
                make_port_without_use=lambda server: make_port(server, mtu=300),
                unreachable=bench.unreachable,
                answers_lost=answers_lost,
            )


def test_a_server_on_no_host(bench: Bench) -> None:
    server = base.Server(str(uuid.uuid4()), PROJECT)
    ctxt = contract.member(server)
    with pytest.raises(exceptions.ServerNotReady):
        bench.driver.capabilities(ctxt, server)
    with pytest.raises(exceptions.ServerNotReady):
        bench.driver.plug(ctxt, server, make_port(server), contract.fence())
    bench.driver.unplug(ctxt, server, str(uuid.uuid4()), {}, contract.fence())


def test_whether_the_broker_can_be_reached(bench: Bench, tmp_path: pathlib.Path) -> None:
    """Through the proxy, which is before the agent elsewhere; that nobody serves the topic is no matter."""
    url = f'rabbit://guest:guest@127.0.0.1:{bench.way.port}/'
    driver = rpc.RpcVIFDriver(_bench_conf(tmp_path, f'osif-nobody-{uuid.uuid4().hex[:8]}', url))
    ctxt = contract.member(base.Server(str(uuid.uuid4()), PROJECT))
    for _ in range(2):
        driver.check(ctxt)
    with bench.unreachable(), pytest.raises(exceptions.Unavailable, match='the message broker'):
        driver.check(ctxt)

    def is_reached() -> bool:
        with contextlib.suppress(exceptions.Unavailable):
            driver.check(ctxt)
            return True
        return False

    wait_until(is_reached)


def test_over_tls(rabbitmq: rabbitmq_service.RabbitMQ, tmp_path: pathlib.Path) -> None:
    url = 'rabbit://guest:guest@localhost:{port}/'
    tls = ['[oslo_messaging_rabbit]', 'ssl = true']
    with _benched(tmp_path, rabbitmq.tls_port, url, *tls, f'ssl_ca_file = {rabbitmq.ca_file}') as made:
        server = base.Server(str(uuid.uuid4()), PROJECT, host=made.host)
        assert made.driver.plugged(contract.member(server), server) == set()
        # Of whom others vouch for, nothing is believed.
        rabbitmq_service.write_certificate(tmp_path)
        tls.append(f'ssl_ca_file = {tmp_path}/ca.pem')
        conf = _bench_conf(tmp_path, made.host, url.format(port=rabbitmq.tls_port), *tls)
        with pytest.raises(exceptions.Unavailable):
            rpc.RpcVIFDriver(conf).capabilities(contract.member(server), server)


# ---------------------------------------------------------------------- times


def test_times(site: Site, request: pytest.FixtureRequest) -> None:
    stopwatch = Stopwatch()
    timed = stopwatch.timed
    conf = site.conf()
    driver = rpc.RpcVIFDriver(conf)
    server = site.servers[0]
    ctxt = contract.member(server)
    store = Store(Database.of(conf), lease=30.0)
    for _ in range(CYCLES):
        with timed('POST'):
            port_id = site.attach(server)['port_id']
        with timed('DELETE'):
            site.detach(server, port_id)
    for _ in range(CYCLES):
        port = make_port(server)
        # Whom the agent asks finds records, as it does for a request.
        held = store.insert(
            created=False,
            server_id=server.id,
            project_id=PROJECT,
            host=server.host,
            port_id=port.id,
            state=State.PLUGGING,
        )
        with timed('plug'):
            driver.plug(ctxt, server, port, held.fence)
        held = store.swap(held.record, state=State.UNPLUGGING, reason=Reason.UNDO)
        with timed('unplug'):
            driver.unplug(ctxt, server, port.id, {}, held.fence)
        store.drop(held.record, result=False)
    site.nothing_left()
    stopwatch.show(request, 'rpc with netns')
