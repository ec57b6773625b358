"""Ports of the embedded inventory: addresses, quotas, and who may use which network."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import ipaddress
import itertools
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.inventory import ipam, loader
from os_interface_ext.testing.networks import listing
from tests import migrated

FENCE = base.Fence(1, float('inf'))
PAST = base.Fence(1, float('-inf'))
MINE, OTHER, POOR = 'project-mine', 'project-other', 'project-poor'

WEB = base.Server('web', MINE, host='compute1')
DB = base.Server('db', MINE, host='compute1', availability_zone='az1')
FOREIGN = base.Server('foreign', OTHER)
POOR_SERVER = base.Server('poor', POOR)


def member(project_id: str = MINE) -> RequestContext:
    return RequestContext(user_id='u', project_id=project_id, roles=['member'])


ADMIN = RequestContext(user_id='root', project_id='project-admin', roles=['admin'], is_admin=True)


def uid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def network(name: str, project_id: str, *subnets: dict, **fields: object) -> dict:
    return {'id': uid(name), 'name': name, 'project_id': project_id, 'subnets': list(subnets), **fields}


def subnet(cidr: str, gateway_ip: str | None = None, *pools: tuple[str, str], name: str = '') -> dict:
    entry: dict[str, Any] = {'id': uid(name or cidr), 'cidr': cidr, 'gateway_ip': gateway_ip}
    if pools:
        entry['allocation_pools'] = [{'start': start, 'end': end} for start, end in pools]
    return entry


def port(name: str, project_id: str, network_name: str, *addresses: tuple[str, str], **fields: object) -> dict:
    return {
        'id': uid(name),
        'name': name,
        'project_id': project_id,
        'network_id': uid(network_name),
        'fixed_ips': [{'subnet_id': uid(owner), 'ip_address': address} for owner, address in addresses],
        **fields,
    }


INVENTORY = loader.parse(
    loader.dump(
        {
            'quotas': [{'project_id': POOR, 'ports': 4}, {'project_id': OTHER, 'ports': -1}],
            'networks': [
                network('dual', MINE, subnet('fd01::/64', 'fd01::1'), subnet('10.1.0.0/24', '10.1.0.1'), mtu=1450),
                # Thirteen addresses: not the network, the broadcast address and the gateway.
                network('small', MINE, subnet('10.2.0.0/28', '10.2.0.1')),
                network(
                    'odd-pools',
                    MINE,
                    subnet('10.3.0.0/29', '10.3.0.2', ('10.3.0.0', '10.3.0.1'), ('10.3.0.6', '10.3.0.7')),
                    subnet('10.3.1.0/30', None, ('10.3.1.2', '10.3.1.2')),
                    subnet('fd03::/126', None, ('fd03::', 'fd03::1')),
                ),
                network('bare', MINE),
                network('insecure', MINE, port_security_enabled=False),
                network('hidden', OTHER, subnet('10.4.0.0/24')),
                network('shared', OTHER, subnet('10.5.0.0/24'), shared_with=[MINE]),
                network('outer', MINE, subnet('203.0.113.0/24', name='outer-v4'), external=True),
                network('outer-for-me', OTHER, subnet('198.51.100.0/24'), external=True, shared_with=[MINE]),
                network('down', MINE, subnet('10.6.0.0/24'), admin_state_up=False),
                network('poor', POOR, subnet('10.7.0.0/24')),
                network('full-v6', MINE, subnet('10.8.0.0/24'), subnet('fd08::/128', None, ('fd08::', 'fd08::'))),
            ],
            'servers': [
                {'id': server.id, 'project_id': server.project_id} for server in (WEB, DB, FOREIGN, POOR_SERVER)
            ],
            'ports': [
                port('free', MINE, 'dual', ('10.1.0.0/24', '10.1.0.50'), ('fd01::/64', 'fd01::50'), tag='stale'),
                port(
                    'booted', MINE, 'dual', ('10.1.0.0/24', '10.1.0.51'), device_id='web', created_by_attach=True
                ),
                port('brought', MINE, 'dual', ('10.1.0.0/24', '10.1.0.52'), device_id='web', tag='eth1'),
                port('router', MINE, 'dual', ('10.1.0.0/24', '10.1.0.1'), device_id='r', device_owner='network:x'),
                port('disabled', MINE, 'dual', admin_state_up=False),
                port('on-down', MINE, 'down'),
                port('on-bare', MINE, 'bare'),
                port('on-insecure', MINE, 'insecure'),
                port('on-hidden', MINE, 'hidden'),
                port('on-outer', MINE, 'outer'),
                port('on-outer-for-me', MINE, 'outer-for-me'),
                port('foreign', OTHER, 'shared'),
                port('v6', OTHER, 'full-v6', ('fd08::/128', 'fd08::')),
            ],
        }
    ),
    'test',
)


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    conf = configuration.new([], database={'connection': empty_database_url})
    database = migrated.database_of(conf)
    database.conf = conf  # type: ignore[attr-defined]
    with database.write() as connection:
        loader.load(connection, INVENTORY)
    yield database
    database.dispose()


@pytest.fixture
def driver(database: Database) -> SQLNetworkDriver:
    return SQLNetworkDriver(database.conf)  # type: ignore[attr-defined]


_marks = itertools.count()


def create(
    driver: SQLNetworkDriver,
    network_name: str | None,
    address: str | None = None,
    *,
    server: base.Server = WEB,
    ctxt: RequestContext | None = None,
    mark: str | None = None,
    fence: base.Fence = FENCE,
) -> base.Port:
    request = base.PortRequest(uid(network_name) if network_name else None, address)
    mark = mark or f'osif:i:{next(_marks)}'
    return driver.create(ctxt or member(server.project_id), server, request, mark, fence)


def claim(
    driver: SQLNetworkDriver, name: str, server: base.Server = WEB, ctxt: RequestContext | None = None
) -> base.Port:
    return driver.claim(ctxt or member(server.project_id), server, uid(name), FENCE)


def get(driver: SQLNetworkDriver, name: str) -> base.Port:
    return driver.get_port(ADMIN, uid(name))


def texts(port: base.Port) -> list[str]:
    return [fixed_ip.ip_address for fixed_ip in port.fixed_ips]


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of so many threads got, an error included; all begin at one moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except exceptions.OsInterfaceError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# ------------------------------------------------------------------ create


def test_created_port_is_what_is_read(driver: SQLNetworkDriver) -> None:
    port = create(driver, 'dual', server=DB, mark='osif:i:mine')
    assert port == driver.get_port(member(), port.id)
    assert list(map(listing, driver.list_ports(member(), 'db'))) == [listing(port)]
    assert port == base.Port(
        id=port.id,
        network_id=uid('dual'),
        mac_address=port.mac_address,
        project_id=MINE,
        fixed_ips=(base.FixedIP(uid('10.1.0.0/24'), '10.1.0.2'), base.FixedIP(uid('fd01::/64'), 'fd01::2')),
        status='ACTIVE',
        device_id='db',
        device_owner='compute:az1',
        host='compute1',
        mark='osif:i:mine',
    )
    assert driver.details(member(), port).mtu == 1450
    assert port.mac_address.startswith('fa:16:3e:')
    assert create(driver, 'dual').device_owner == 'compute:nova'


def test_every_address_of_a_subnet_is_given_once(driver: SQLNetworkDriver) -> None:
    given = [texts(create(driver, 'small'))[0] for _ in range(13)]
    assert sorted(given, key=ipaddress.ip_address) == [f'10.2.0.{number}' for number in range(2, 15)]
    with pytest.raises(exceptions.NoAddress):
        create(driver, 'small')


def test_address_that_was_given_back_is_given_again_but_late(driver: SQLNetworkDriver) -> None:
    first = create(driver, 'small', mark='osif:i:first')
    driver.delete(member(), first.id, 'osif:i:first', FENCE)
    given = [texts(create(driver, 'small'))[0] for _ in range(13)]
    assert given[-1] == texts(first)[0]
    assert len(set(given)) == 13


def test_pools_are_used_in_order_without_what_is_no_host(driver: SQLNetworkDriver) -> None:
    found = [texts(create(driver, 'odd-pools')) for _ in range(1)]
    assert found == [['10.3.0.1', 'fd03::1']]
    v6_is_gone = found[0][1]
    with pytest.raises(exceptions.NoAddress):
        create(driver, 'odd-pools')
    given = driver.list_ports(member(), 'web')
    assert sum(v6_is_gone in texts(port) for port in given) == 1


def test_next_subnet_of_a_family_is_used_when_one_is_full(driver: SQLNetworkDriver, database: Database) -> None:
    with database.write() as connection:
        given = [ipam.reserve(connection, MINE, uid('odd-pools'), None)[0]]
        for name in ('one', 'two'):
            mark = f'osif:i:{name}'
            ipam.insert_port(connection, _values(name, mark), given[-1:])
            # Only IPv4 is inserted, so that IPv6 does not run out.
            given.append(ipam.reserve(connection, MINE, uid('odd-pools'), None)[0])
    assert [one.ip_address for one in given] == ['10.3.0.1', '10.3.0.6', '10.3.1.2']


def _values(name: str, mark: str) -> dict[str, Any]:
    return {
        'id': uid(name),
        'name': name,
        'project_id': MINE,
        'network_id': uid('odd-pools'),
        'mac_address': ipam.random_mac(),
        'status': 'DOWN',
        'admin_state_up': True,
        'port_security_enabled': True,
        'vnic_type': 'normal',
        'device_id': None,
        'device_owner': '',
        'host': None,
        'tag': None,
        'created_by_attach': False,
        'mark': mark,
    }


def test_family_without_an_address_left_fails_the_port(driver: SQLNetworkDriver) -> None:
    with pytest.raises(exceptions.NoAddress):
        create(driver, 'full-v6')
    assert texts(create(driver, 'full-v6', '10.8.0.9')) == ['10.8.0.9']


def test_cost_does_not_grow_with_the_number_of_used_addresses(
    driver: SQLNetworkDriver, database: Database
) -> None:
    for _ in range(3):
        create(driver, 'dual')
    statements: list[str] = []
    sa.event.listen(
        database.engine, 'before_cursor_execute', lambda *args: statements.append(args[2]), named=False
    )
    create(driver, 'dual')
    few = len(statements)
    with database.write() as connection:
        for number in range(100):
            ipam.insert_port(
                connection,
                _values(f'used-{number}', f'osif:i:u{number}') | {'network_id': uid('dual')},
                [ipam.Given(uid('10.1.0.0/24'), int(ipaddress.ip_address('10.1.0.100')) + number, 'any')],
            )
    statements.clear()
    create(driver, 'dual')
    assert len(statements) <= few


def test_search_goes_past_any_number_of_used_addresses(driver: SQLNetworkDriver, database: Database) -> None:
    first = int(ipaddress.ip_address('10.1.0.2'))
    with database.write() as connection:
        used = [
            number for number in range(first, first + 252) if number not in (first + 48, first + 49, first + 50)
        ]
        ipam.insert_port(
            connection,
            _values('many', 'osif:i:many') | {'network_id': uid('dual')},
            [ipam.Given(uid('10.1.0.0/24'), number, str(ipaddress.ip_address(number))) for number in used],
        )
    assert texts(create(driver, 'dual')) == ['10.1.0.254', 'fd01::2']
    with pytest.raises(exceptions.NoAddress):
        create(driver, 'dual')


@pytest.mark.parametrize(
    ('network_name', 'address'),
    [('dual', '10.1.0.99'), ('dual', 'fd01::99'), ('odd-pools', '10.3.0.4'), ('odd-pools', 'fd03::3')],
)
def test_address_asked_for_is_the_only_one(driver: SQLNetworkDriver, network_name: str, address: str) -> None:
    port = create(driver, network_name, address)
    assert texts(port) == [address]
    assert driver.get_port(member(), port.id) == port


@pytest.mark.parametrize(
    ('network_name', 'address', 'error'),
    [
        ('dual', '10.1.0.50', exceptions.AddressInUse),
        # In use comes before being of no use.
        ('dual', '10.1.0.1', exceptions.AddressInUse),
        ('dual', 'fd01::1', exceptions.AddressInvalid),
        ('dual', 'fd01::', exceptions.AddressInvalid),
        ('dual', '10.1.0.0', exceptions.AddressInvalid),
        ('dual', '10.1.0.255', exceptions.AddressInvalid),
        ('dual', '10.2.0.5', exceptions.AddressInvalid),
        ('dual', 'fd02::5', exceptions.AddressInvalid),
        ('insecure', '10.1.0.9', exceptions.AddressInvalid),
        ('bare', '10.1.0.9', exceptions.NetworkNotUsable),
        ('hidden', '10.4.0.9', exceptions.NetworkNotFound),
    ],
)
def test_address_that_cannot_be_given(
    driver: SQLNetworkDriver, network_name: str, address: str, error: type[Exception]
) -> None:
    before = driver.list_ports(member(), 'web')
    with pytest.raises(error):
        create(driver, network_name, address)
    assert driver.list_ports(member(), 'web') == before


def test_same_mark_gives_the_same_port(driver: SQLNetworkDriver) -> None:
    port = create(driver, 'dual', mark='osif:i:same')
    assert create(driver, 'dual', mark='osif:i:same') == port
    asked = create(driver, 'dual', '10.1.0.77', mark='osif:i:asked')
    assert create(driver, 'dual', '10.1.0.77', mark='osif:i:asked') == asked


def test_same_mark_by_threads_makes_one_port(driver: SQLNetworkDriver) -> None:
    made = at_once(8, lambda _: create(driver, 'small', server=DB, mark='osif:i:same'))
    assert {port.id for port in made} == {made[0].id}
    assert [port.id for port in driver.list_ports(member(), 'db')] == [made[0].id]


def test_threads_exhaust_a_subnet_exactly(driver: SQLNetworkDriver) -> None:
    found = at_once(20, lambda _: create(driver, 'small', server=DB))
    given = [text for port in found if isinstance(port, base.Port) for text in texts(port)]
    assert sorted(given, key=ipaddress.ip_address) == [f'10.2.0.{number}' for number in range(2, 15)]
    assert [type(error) for error in found if not isinstance(error, base.Port)] == [exceptions.NoAddress] * 7


def test_threads_that_ask_for_one_address(driver: SQLNetworkDriver) -> None:
    found = at_once(8, lambda _: create(driver, 'small', '10.2.0.9'))
    assert sum(isinstance(answer, base.Port) for answer in found) == 1
    assert sum(isinstance(answer, exceptions.AddressInUse) for answer in found) == 7


def test_mac_address_that_is_taken_is_drawn_anew(
    driver: SQLNetworkDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([b'\x00\x00\x01', b'\x00\x00\x01', b'\x00\x00\x01', b'\x00\x00\x02'])
    monkeypatch.setattr('secrets.token_bytes', lambda count: next(drawn))
    assert create(driver, 'small').mac_address == 'fa:16:3e:00:00:01'
    assert create(driver, 'small').mac_address == 'fa:16:3e:00:00:02'


# ------------------------------------------------------------------ quota


def test_quota_is_exact(driver: SQLNetworkDriver) -> None:
    for _ in range(4):
        last = create(driver, 'poor', server=POOR_SERVER, mark=f'osif:q:{next(_marks)}')
    with pytest.raises(exceptions.QuotaExceeded):
        create(driver, 'poor', server=POOR_SERVER)
    # It comes before the address, and what was made already is no new port.
    with pytest.raises(exceptions.QuotaExceeded):
        create(driver, 'poor', '10.1.0.1', server=POOR_SERVER)
    assert last.mark is not None
    assert create(driver, 'poor', server=POOR_SERVER, mark=last.mark) == last
    driver.delete(member(POOR), last.id, last.mark, FENCE)
    create(driver, 'poor', server=POOR_SERVER)


def test_quota_is_exact_for_threads(driver: SQLNetworkDriver) -> None:
    found = at_once(10, lambda _: create(driver, 'poor', server=POOR_SERVER))
    assert sum(isinstance(answer, base.Port) for answer in found) == 4
    assert sum(isinstance(answer, exceptions.QuotaExceeded) for answer in found) == 6


def test_negative_quota_is_none(driver: SQLNetworkDriver) -> None:
    assert create(driver, 'hidden', server=FOREIGN).device_id == 'foreign'


# ------------------------------------------------------------------ networks


@pytest.mark.parametrize('network_id', ['', 'x', '\0', '\ud800', uid('no such'), uid('dual') + ' '], ids=ascii)
def test_network_that_is_unknown(driver: SQLNetworkDriver, network_id: str) -> None:
    with pytest.raises(exceptions.NetworkNotFound):
        driver.create(ADMIN, WEB, base.PortRequest(network_id), 'osif:i:m', FENCE)


@pytest.mark.parametrize(
    ('network_name', 'error'),
    [
        ('hidden', exceptions.NetworkNotFound),
        ('outer', exceptions.NetworkForbidden),
        ('bare', exceptions.NetworkNotUsable),
    ],
)
def test_network_that_a_member_cannot_use(
    driver: SQLNetworkDriver, network_name: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        create(driver, network_name)
    assert type(caught.value) is error


@pytest.mark.parametrize('network_name', ['shared', 'outer-for-me', 'down', 'insecure'])
def test_network_that_a_member_can_use(driver: SQLNetworkDriver, network_name: str) -> None:
    port = create(driver, network_name)
    assert (port.network_id, len(port.fixed_ips)) == (uid(network_name), network_name != 'insecure')


@pytest.mark.parametrize('ctxt', [ADMIN, RequestContext(roles=['admin'])], ids=['is_admin', 'by role'])
@pytest.mark.parametrize('network_name', ['hidden', 'outer'])
def test_administrator_can_use_every_network(
    driver: SQLNetworkDriver, network_name: str, ctxt: RequestContext
) -> None:
    port = create(driver, network_name, ctxt=ctxt)
    assert (port.project_id, port.device_id) == (MINE, 'web')


def reload(database: Database, *networks: dict) -> None:
    """Only these networks from now on."""
    inventory = loader.parse(loader.dump({'networks': list(networks)}), 'reloaded')
    with database.write() as connection:
        loader.load(connection, inventory)


AUTO = network('auto', MINE, subnet('10.9.0.0/24'))
AUTO_SHARED = network('auto-shared', OTHER, subnet('10.10.0.0/24'), shared_with=['*'])


@pytest.mark.parametrize(
    ('networks', 'expected'),
    [
        ([AUTO], 'auto'),
        ([AUTO_SHARED], 'auto-shared'),
        ([AUTO_SHARED | {'shared_with': [MINE, 'x']}], 'auto-shared'),
        ([], exceptions.NetworkNotUsable),
        ([AUTO | {'project_id': OTHER}], exceptions.NetworkNotUsable),
        ([AUTO, AUTO_SHARED], exceptions.NetworkAmbiguous),
        ([AUTO | {'external': True}], exceptions.NetworkForbidden),
        ([AUTO_SHARED | {'external': True}], 'auto-shared'),
        ([AUTO | {'subnets': []}], exceptions.NetworkNotUsable),
    ],
)
def test_network_that_nobody_named(
    driver: SQLNetworkDriver, database: Database, networks: list[dict], expected: str | type[Exception]
) -> None:
    reload(database, *networks)
    if isinstance(expected, str):
        assert create(driver, None).network_id == uid(expected)
    else:
        with pytest.raises(expected) as caught:
            create(driver, None)
        assert type(caught.value) is expected


def test_network_that_nobody_named_is_of_the_project_of_the_server(
    driver: SQLNetworkDriver, database: Database
) -> None:
    reload(database, AUTO, AUTO | {'id': uid('b'), 'project_id': OTHER, 'subnets': []})
    assert create(driver, None, ctxt=ADMIN).network_id == uid('auto')


def test_inventory_that_is_replaced_meanwhile(driver: SQLNetworkDriver, database: Database) -> None:
    def work(number: int) -> object:
        if number:
            return create(driver, 'dual', server=DB)
        return reload(database, AUTO)

    found = at_once(8, work)
    assert {type(answer) for answer in found} <= {type(None), base.Port, exceptions.NetworkNotFound}
    assert found[0] is None
    assert driver.list_ports(member(), 'db') == []
    with pytest.raises(exceptions.NetworkNotFound):
        create(driver, 'dual')


# ------------------------------------------------------------------ claim


def test_claim_makes_the_server_the_device(driver: SQLNetworkDriver) -> None:
    before = get(driver, 'free')
    claimed = claim(driver, 'free', DB)
    expected = dataclasses.replace(
        before, device_id='db', device_owner='compute:az1', host='compute1', status='ACTIVE', tag=None
    )
    assert claimed == expected == get(driver, 'free')
    assert texts(claimed) == ['10.1.0.50', 'fd01::50']
    assert claim(driver, 'free', DB) == claimed
    assert claim(driver, 'brought').tag == 'eth1'


@pytest.mark.parametrize(
    ('name', 'error'),
    [
        ('no such', exceptions.PortNotFound),
        ('foreign', exceptions.PortNotUsable),
        ('on-bare', exceptions.PortNotUsable),
        ('on-hidden', exceptions.PortNotUsable),
        ('on-outer', exceptions.NetworkForbidden),
        ('router', exceptions.PortInUse),
        ('booted', exceptions.PortInUse),
    ],
)
def test_port_that_cannot_be_claimed(driver: SQLNetworkDriver, name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        claim(driver, name, DB)
    assert driver.list_ports(member(), 'db') == []


@pytest.mark.parametrize('name', ['on-insecure', 'on-outer-for-me', 'disabled', 'on-down'])
def test_port_that_can_be_claimed(driver: SQLNetworkDriver, name: str) -> None:
    assert claim(driver, name).device_id == 'web'


def test_administrator_claims_for_the_project_of_the_server(driver: SQLNetworkDriver) -> None:
    assert claim(driver, 'on-outer', ctxt=ADMIN).device_id == 'web'
    assert claim(driver, 'on-hidden', ctxt=ADMIN).device_id == 'web'
    with pytest.raises(exceptions.PortNotUsable):
        claim(driver, 'foreign', ctxt=ADMIN)


def test_one_of_many_threads_gets_the_port(driver: SQLNetworkDriver) -> None:
    servers = [dataclasses.replace(WEB, id=f'server-{number}') for number in range(16)]
    found = at_once(16, lambda number: claim(driver, 'free', servers[number]))
    winners = [answer for answer in found if isinstance(answer, base.Port)]
    assert len(winners) == 1
    assert sum(isinstance(answer, exceptions.PortInUse) for answer in found) == 15
    assert get(driver, 'free') == winners[0]


# ------------------------------------------------------------------ bind, unbind, delete


@pytest.mark.parametrize(
    ('name', 'status'), [('free', 'ACTIVE'), ('disabled', 'DOWN'), ('on-down', 'DOWN'), ('on-insecure', 'ACTIVE')]
)
def test_bind_makes_active_what_is_up(driver: SQLNetworkDriver, name: str, status: str) -> None:
    claimed = claim(driver, name)
    assert (claimed.host, claimed.status) == ('compute1', status)
    bound = driver.bind(member(), claimed, 'compute2', FENCE)
    assert bound == dataclasses.replace(claimed, host='compute2', status=status) == get(driver, name)
    assert driver.bind(member(), bound, 'compute2', FENCE) == bound
    assert driver.bind(member(), bound, None, FENCE).host is None


def test_bind_of_what_is_not_the_servers_any_more(driver: SQLNetworkDriver) -> None:
    claimed = claim(driver, 'free')
    driver.unbind(member(), claimed.id, 'web', FENCE)
    for taken_by_another in (False, True):
        if taken_by_another:
            claim(driver, 'free', DB)
        before = get(driver, 'free')
        with pytest.raises(exceptions.BindingFailed):
            driver.bind(member(), claimed, 'compute2', FENCE)
        assert get(driver, 'free') == before
    gone = dataclasses.replace(claimed, id=uid('no such'))
    with pytest.raises(exceptions.BindingFailed):
        driver.bind(member(), gone, 'compute2', FENCE)


def test_unbind_sets_the_port_free(driver: SQLNetworkDriver) -> None:
    free = dataclasses.replace(get(driver, 'free'), tag=None)
    driver.bind(member(), claim(driver, 'free'), 'compute1', FENCE)
    driver.unbind(member(), uid('free'), 'db', FENCE)
    assert get(driver, 'free').device_id == 'web'
    for _ in range(2):
        driver.unbind(member(), uid('free'), 'web', FENCE)
        assert get(driver, 'free') == free
    driver.unbind(member(), uid('booted'), 'web', FENCE)
    assert driver.created_by_server(member(), WEB, get(driver, 'booted')) is False


@pytest.mark.parametrize('odd', ['', ' ', '\0', '\ud800', 'x' * 300, '%'], ids=ascii)
def test_odd_ids_are_the_id_of_nothing(driver: SQLNetworkDriver, odd: str) -> None:
    with pytest.raises(exceptions.PortNotFound):
        driver.get_port(member(), odd)
    with pytest.raises(exceptions.PortNotFound):
        driver.claim(member(), WEB, odd, FENCE)
    driver.unbind(member(), odd, 'web', FENCE)
    driver.unbind(member(), uid('booted'), odd, FENCE)
    driver.delete(member(), odd, None, FENCE)
    driver.delete(member(), None, odd, FENCE)
    assert driver.list_ports(member(), odd) == []
    assert list(driver.find_marked(member(), odd)) == []
    assert get(driver, 'booted').device_id == 'web'


def test_delete_takes_the_addresses_along(driver: SQLNetworkDriver) -> None:
    port = create(driver, 'small', '10.2.0.9', mark='osif:i:gone')
    for _ in range(2):
        driver.delete(member(), port.id, 'osif:i:gone', FENCE)
    assert texts(create(driver, 'small', '10.2.0.9')) == ['10.2.0.9']


def test_delete_by_mark_alone(driver: SQLNetworkDriver) -> None:
    kept = create(driver, 'small', server=DB)
    create(driver, 'small', server=DB, mark='osif:i:gone')
    for _ in range(2):
        driver.delete(member(), None, 'osif:i:gone', FENCE)
        assert [port.id for port in driver.list_ports(member(), 'db')] == [kept.id]


def test_delete_of_a_port_that_was_made_for_its_server(driver: SQLNetworkDriver) -> None:
    booted, brought = get(driver, 'booted'), get(driver, 'brought')
    assert driver.created_by_server(member(), WEB, booted) is True
    assert driver.created_by_server(member(), WEB, brought) is False
    driver.delete(member(), booted.id, None, FENCE)
    assert [port.id for port in driver.list_ports(member(), 'web')] == [brought.id]
    with pytest.raises(exceptions.NotOurs):
        driver.delete(member(), brought.id, None, FENCE)


@pytest.mark.parametrize('mark', [None, 'osif:i:other', 'OSIF:i:mine'])
def test_delete_of_a_port_with_another_mark(driver: SQLNetworkDriver, mark: str | None) -> None:
    port = create(driver, 'small', mark='osif:i:mine')
    with pytest.raises(exceptions.NotOurs):
        driver.delete(member(), port.id, mark, FENCE)
    assert driver.get_port(member(), port.id) == port
    assert driver.created_by_server(member(), WEB, port) is True


def test_find_marked_finds_the_ports_of_one_installation(driver: SQLNetworkDriver) -> None:
    ours = [create(driver, 'dual', mark=f'osif:a_b:{number}') for number in range(3)]
    create(driver, 'dual', mark='osif:axb:1')
    create(driver, 'dual', mark='osif:a_b2:1')
    found = list(driver.find_marked(member(), 'a_b'))
    assert sorted(found, key=lambda port: port.mark or '') == ours


# ------------------------------------------------------------------ the fence


def test_no_side_effect_is_begun_past_the_deadline(driver: SQLNetworkDriver) -> None:
    made = create(driver, 'small', server=DB, mark='osif:i:made')
    for call in (
        lambda: create(driver, 'dual', server=DB, fence=PAST),
        lambda: driver.claim(member(), DB, uid('free'), PAST),
        lambda: driver.bind(member(), made, 'compute2', PAST),
        lambda: driver.unbind(member(), made.id, 'db', PAST),
        lambda: driver.delete(member(), made.id, 'osif:i:made', PAST),
        lambda: driver.delete(member(), None, 'osif:i:made', PAST),
    ):
        with pytest.raises(exceptions.DeadlinePassed):
            call()
    assert [port.id for port in driver.list_ports(member(), 'db')] == [made.id]


# ------------------------------------------------------------------ everything at once


def test_many_threads_leave_a_consistent_inventory(driver: SQLNetworkDriver, database: Database) -> None:
    def work(number: int) -> None:
        dice = random.Random(number)
        server = dataclasses.replace(WEB, id=f'server-{number}')
        marks: list[str] = []
        for step in range(6):
            if marks and dice.random() < 0.4:
                driver.delete(member(), None, marks.pop(), FENCE)
            else:
                marks.append(f'osif:{number}:{step}')
                port = create(driver, 'small', server=server, mark=marks[-1])
                driver.bind(member(), port, 'compute1', FENCE)

    found = at_once(8, work)
    assert {type(answer) for answer in found} <= {type(None), exceptions.NoAddress}
    with database.read() as connection:
        exported = loader.export(connection)
    # Every rule of a file holds for what is left.
    servers = [{'id': f'server-{number}', 'project_id': MINE} for number in range(8)]
    loader.parse(loader.dump(exported | {'servers': [*exported['servers'], *servers]}), 'left')
