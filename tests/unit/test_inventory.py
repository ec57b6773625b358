"""The inventory as text, in the tables, and what callers and servers are found in it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
import yaml
from oslo_config import cfg

from os_interface_ext import conf as configuration
from os_interface_ext import context, exceptions
from os_interface_ext.db.engine import Database, DatabaseError
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.inventory import callers, loader, schemas, tables
from tests import migrated

DEMO = pathlib.Path(__file__).parents[2] / 'etc' / 'os-interface-ext' / 'demo-inventory.yaml'

NET = '31adb2d1-2670-4beb-a3f7-9afba6daa7c2'
NET2 = 'dc881b7b-5027-4223-9401-43707c363cfe'
SUB4 = '52b07b80-f92f-47fc-93ea-b9772464aa40'
SUB6 = '5efae8c3-87d6-46e3-bed3-3f571787b12e'
SUB2 = 'e6ae9227-5adb-4381-b7e4-af295259bec5'
PORT = 'c212f779-d41e-4198-98d6-285ba5467be3'
PORT2 = 'a046a5c5-74d1-4af9-bdf2-81d293341c93'

CONTEXT = context.service_context()


@pytest.fixture
def conf(empty_database_url: str) -> Iterator[cfg.ConfigOpts]:
    conf = configuration.new([], database={'connection': empty_database_url})
    database = migrated.database_of(conf)
    yield conf
    database.dispose()


def document(**sections: list[dict]) -> dict:
    """A small valid inventory, with some sections replaced."""
    return {
        'callers': [{'token': 'tok-1', 'user_id': 'u1', 'project_id': 'p1', 'roles': ['member']}],
        'quotas': [{'project_id': 'p1', 'ports': 3}],
        'networks': [
            network(),
            {'id': NET2, 'name': 'other', 'project_id': 'p2', 'subnets': [{'id': SUB2, 'cidr': '10.2.0.0/24'}]},
        ],
        'servers': [{'id': 's1', 'name': 'web', 'project_id': 'p1', 'host': 'compute1'}],
        'ports': [port()],
    } | sections


def network(subnets: list[dict] | None = None, **fields: object) -> dict:
    if subnets is None:
        subnets = [
            {'id': SUB4, 'cidr': '10.1.0.0/24', 'gateway_ip': '10.1.0.1'},
            {'id': SUB6, 'cidr': 'fd00::/64', 'gateway_ip': 'fd00::1'},
        ]
    return {'id': NET, 'name': 'net', 'project_id': 'p1', 'subnets': subnets, **fields}


def port(**fields: object) -> dict:
    return {'id': PORT, 'name': 'free', 'project_id': 'p1', 'network_id': NET, **fields}


def fixed(address: str, subnet_id: str = SUB4) -> dict:
    return {'subnet_id': subnet_id, 'ip_address': address}


def parse(document: object) -> loader.Inventory:
    return loader.parse(yaml.safe_dump(document), 'file.yaml')


def problems(document: object) -> list[tuple[str, str]]:
    """Entry and field of every error."""
    with pytest.raises(loader.InventoryError) as caught:
        parse(document)
    return [(error.entry, error.field) for error in caught.value.errors]


def load(conf: cfg.ConfigOpts, inventory: loader.Inventory) -> dict:
    """Load an inventory, and export what is there then."""
    with Database.of(conf).write() as connection:
        loader.load(connection, inventory)
    with Database.of(conf).read() as connection:
        return loader.export(connection)


# ------------------------------------------------------------------ what is accepted


def test_export_fills_in_what_was_left_out(conf: cfg.ConfigOpts) -> None:
    attached = port(
        device_id='s1', fixed_ips=[fixed('10.1.0.9'), fixed('FD00:0::0009', SUB6)], mac_address='FA:16:3E:00:00:0A'
    )
    exported = load(conf, parse(document(ports=[attached])))
    assert exported['networks'][0] == {
        'id': NET,
        'name': 'net',
        'project_id': 'p1',
        'external': False,
        'shared_with': [],
        'admin_state_up': True,
        'mtu': 1500,
        'port_security_enabled': True,
        'subnets': [
            {
                'id': SUB4,
                'name': '',
                'cidr': '10.1.0.0/24',
                'gateway_ip': '10.1.0.1',
                'allocation_pools': [{'start': '10.1.0.2', 'end': '10.1.0.254'}],
            },
            {
                'id': SUB6,
                'name': '',
                'cidr': 'fd00::/64',
                'gateway_ip': 'fd00::1',
                'allocation_pools': [{'start': 'fd00::2', 'end': 'fd00::ffff:ffff:ffff:ffff'}],
            },
        ],
    }
    assert exported['ports'] == [
        {
            'id': PORT,
            'name': 'free',
            'project_id': 'p1',
            'network_id': NET,
            'mac_address': 'fa:16:3e:00:00:0a',
            'fixed_ips': [fixed('10.1.0.9'), fixed('fd00::9', SUB6)],
            'status': 'DOWN',
            'admin_state_up': True,
            'port_security_enabled': True,
            'vnic_type': 'normal',
            'device_id': 's1',
            'device_owner': 'compute:nova',
            'host': 'compute1',
            'tag': None,
            'created_by_attach': False,
        }
    ]
    assert exported['servers'][0] == {
        'id': 's1',
        'name': 'web',
        'project_id': 'p1',
        'host': 'compute1',
        'availability_zone': None,
        'vm_state': 'active',
        'task_state': None,
        'locked_by': None,
    }


@pytest.mark.parametrize(
    ('cidr', 'gateway', 'pools'),
    [
        ('10.0.0.0/29', None, [('10.0.0.1', '10.0.0.6')]),
        ('10.0.0.0/29', '10.0.0.6', [('10.0.0.1', '10.0.0.5')]),
        ('10.0.0.0/29', '10.0.0.3', [('10.0.0.1', '10.0.0.2'), ('10.0.0.4', '10.0.0.6')]),
        ('10.0.0.0/31', None, [('10.0.0.0', '10.0.0.1')]),
        ('10.0.0.7/32', '10.0.0.7', []),
        ('fd00::/126', 'fd00::', [('fd00::1', 'fd00::3')]),
    ],
)
def test_default_pools_are_all_hosts_but_the_gateway(
    conf: cfg.ConfigOpts, cidr: str, gateway: str | None, pools: list[tuple[str, str]]
) -> None:
    subnets = [{'id': SUB4, 'cidr': cidr, 'gateway_ip': gateway}]
    exported = load(conf, parse({'networks': [network(subnets)]}))
    found = exported['networks'][0]['subnets'][0]['allocation_pools']
    assert [(pool['start'], pool['end']) for pool in found] == pools


def test_a_mac_address_that_is_left_out_is_always_the_same() -> None:
    ports = [port(), port(id=PORT2)]
    once, again = (parse(document(ports=order)) for order in (ports, ports[::-1]))
    assert once.digest == again.digest


def test_demo_inventory_can_be_loaded(conf: cfg.ConfigOpts) -> None:
    exported = load(conf, loader.parse(DEMO.read_text(), DEMO.name))
    assert {'demo-member', 'demo-reader', 'demo-admin'} <= {caller['token'] for caller in exported['callers']}
    assert {'web-1', 'web-2', 'db-1'} <= {server['name'] for server in exported['servers']}


@pytest.mark.parametrize('text', [DEMO.read_text(), yaml.safe_dump(document()), '{}'])
def test_export_is_a_fixed_point(conf: cfg.ConfigOpts, text: str) -> None:
    inventory = loader.parse(text, 'file.yaml')
    exported = load(conf, inventory)
    again = loader.parse(loader.dump(exported), 'export.yaml')
    assert again.digest == inventory.digest
    assert load(conf, again) == exported


@pytest.mark.parametrize('tag', ['eth0', 'a\0b', '☃ 😀', 'two\nlines', ' ', '1', 'null'])
def test_any_tag_is_kept(conf: cfg.ConfigOpts, tag: str) -> None:
    text = loader.dump(document(ports=[port(tag=tag, device_id='s1')]))
    exported = load(conf, loader.parse(text, 'file.yaml'))
    assert exported['ports'][0]['tag'] == tag
    assert loader.parse(loader.dump(exported), 'x').digest == loader.parse(text, 'x').digest
    assert SQLNetworkDriver(conf).list_ports(CONTEXT, 's1')[0].tag == tag


def test_digest_is_of_the_content_alone() -> None:
    plain = parse(document())
    shuffled = dict(reversed(document(networks=document()['networks'][::-1]).items()))
    assert parse(shuffled).digest == plain.digest
    assert loader.parse('# nothing else\n' + yaml.safe_dump(document()), 'other').digest == plain.digest
    assert parse(document(quotas=[{'project_id': 'p1', 'ports': 4}])).digest != plain.digest
    subnets = network()['subnets'][::-1]
    assert parse(document(networks=[network(subnets)])).digest != plain.digest


def test_router_may_have_a_port_and_the_gateway() -> None:
    parse(
        document(
            ports=[port(device_id='r1', device_owner='network:router_interface', fixed_ips=[fixed('10.1.0.1')])]
        )
    )


def test_format_names_every_field() -> None:
    for section, schema in schemas.SECTIONS.items():
        assert f'\n{section}:' in schemas.FORMAT
        assert all(f'{field}:' in schemas.FORMAT for field in schema.fields)


# ------------------------------------------------------------------ load


def test_load_replaces_everything(conf: cfg.ConfigOpts) -> None:
    database = Database.of(conf)
    with database.read() as connection:
        assert loader.is_empty(connection)
        assert loader.digest_of(connection) is None
    load(conf, loader.parse(DEMO.read_text(), DEMO.name))
    inventory = parse(document())
    expected = load(conf, inventory)
    assert [server['id'] for server in expected['servers']] == ['s1']
    assert load(conf, inventory) == expected
    with database.read() as connection:
        assert loader.digest_of(connection) == inventory.digest
        assert not loader.is_empty(connection)


def test_empty_inventory_counts_as_loaded(conf: cfg.ConfigOpts) -> None:
    load(conf, parse({}))
    with Database.of(conf).read() as connection:
        assert not loader.is_empty(connection)


def test_failed_load_leaves_what_was_there(conf: cfg.ConfigOpts) -> None:
    before = load(conf, parse(document()))
    broken = parse(document())
    servers = broken.rows[tables.servers]
    servers += servers
    with pytest.raises(DatabaseError), Database.of(conf).write() as connection:
        loader.load(connection, broken)
    with Database.of(conf).read() as connection:
        assert loader.export(connection) == before


def test_progress_is_told_to_its_end(conf: cfg.ConfigOpts) -> None:
    seen: list[tuple[int, int, str]] = []
    inventory = loader.parse(yaml.safe_dump(document()), 'x', lambda *step: seen.append(step))
    assert ('ports', 1, 1) in {(what, done, total) for done, total, what in seen}
    seen.clear()
    with Database.of(conf).write() as connection:
        loader.load(connection, inventory, lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_changes_are_exported(conf: cfg.ConfigOpts) -> None:
    load(conf, parse(document()))
    networks = SQLNetworkDriver(conf)
    server = SQLServerDriver(conf).get(CONTEXT, 's1')
    fence = base.Fence(1, float('inf'))
    made = networks.create(CONTEXT, server, base.PortRequest(NET), 'osif:i:1', fence)
    networks.bind(CONTEXT, made, 'compute1', fence)
    with Database.of(conf).read() as connection:
        exported = loader.export(connection)
    found = next(port for port in exported['ports'] if port['id'] == made.id)
    assert found['created_by_attach'] is True
    assert found['status'] == 'ACTIVE'
    assert load(conf, loader.parse(loader.dump(exported), 'export')) == exported
    port = networks.get_port(CONTEXT, made.id)
    assert networks.created_by_server(CONTEXT, server, port) is True


# ------------------------------------------------------------------ what is refused


def test_every_error_is_told() -> None:
    bad = document(
        callers=[{'token': 5, 'user_id': 'u', 'project_id': 'p', 'roles': 'member'}],
        quotas=[{'project_id': 'p1', 'ports': -2}, {'project_id': 'p1', 'ports': True}],
        servers=[{'id': 's1', 'project_id': 'p1', 'vm_state': 'running', 'locked_by': 'me', 'flavor': 'm1'}],
        ports=[port(status='UP', network_id=PORT2, mac_address='01:00:00:00:00:00', tag='a,b')],
        images=[],
    )
    assert sorted(problems(bad)) == [
        ('callers[0] "u"', 'roles'),
        ('callers[0] "u"', 'token'),
        ('images', ''),
        ('ports[0] "free"', 'mac_address'),
        ('ports[0] "free"', 'network_id'),
        ('ports[0] "free"', 'status'),
        ('ports[0] "free"', 'tag'),
        ('quotas[0] "p1"', 'ports'),
        ('quotas[1] "p1"', 'ports'),
        ('quotas[1] "p1"', 'project_id'),
        ('servers[0] "s1"', 'flavor'),
        ('servers[0] "s1"', 'locked_by'),
        ('servers[0] "s1"', 'vm_state'),
    ]


def test_error_is_readable_and_names_no_token() -> None:
    same = {'token': 'secret', 'user_id': 'u', 'project_id': 'p'}
    with pytest.raises(exceptions.ConfigurationError) as caught:
        parse(document(callers=[same, same], quotas=[{'ports': 1}]))
    assert str(caught.value).splitlines() == [
        'file.yaml: quotas[0]: project_id: is missing',
        'file.yaml: callers[1] "u": token: is already the token of callers[0] "u"',
    ]


@pytest.mark.parametrize(
    ('text', 'where'),
    [
        ('callers:\n- {token: a', 'line 3'),
        ('servers: []\nservers: []', 'line 2'),
        ('callers: [*nobody]', 'line 1'),
        ('a: \x01', 'not YAML'),
        ('\ud800', 'not YAML'),
        ('- a', 'must be a mapping'),
        ('', 'must be a mapping'),
        ('callers: 5', 'must be a list'),
        ('callers: [5]', 'must be a mapping'),
    ],
)
def test_text_that_is_no_inventory(text: str, where: str) -> None:
    with pytest.raises(loader.InventoryError) as caught:
        loader.parse(text, 'file.yaml')
    assert str(caught.value).startswith('file.yaml: ')
    assert where in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ('fields', 'field'),
    [
        ({'id': PORT.upper()}, 'id'),
        ({'id': 'free'}, 'id'),
        ({'name': 'nul\0'}, 'name'),
        ({'name': None}, 'name'),
        ({'project_id': ' p1'}, 'project_id'),
        ({'project_id': 'x' * 256}, 'project_id'),
        ({'mac_address': 5}, 'mac_address'),
        ({'admin_state_up': 'yes'}, 'admin_state_up'),
        ({'vnic_type': 'fast'}, 'vnic_type'),
        ({'fixed_ips': {}}, 'fixed_ips'),
        ({'fixed_ips': [fixed('10.1.0.300')]}, 'fixed_ips[0].ip_address'),
        ({'fixed_ips': [fixed('fe80::1%eth0', SUB6)]}, 'fixed_ips[0].ip_address'),
        ({'fixed_ips': [fixed('10.2.0.5')]}, 'fixed_ips[0].ip_address'),
        ({'fixed_ips': [fixed('10.1.0.0')]}, 'fixed_ips[0].ip_address'),
        ({'fixed_ips': [fixed('10.1.0.255')]}, 'fixed_ips[0].ip_address'),
        ({'fixed_ips': [fixed('10.1.0.9'), fixed('10.1.0.9')]}, 'fixed_ips[1].ip_address'),
        ({'fixed_ips': [fixed('10.1.0.9', PORT)]}, 'fixed_ips[0].subnet_id'),
        ({'fixed_ips': [fixed('10.2.0.9', SUB2)]}, 'fixed_ips[0].subnet_id'),
        ({'fixed_ips': [{'ip_address': '10.1.0.9'}]}, 'fixed_ips[0].subnet_id'),
        ({'device_id': 's9'}, 'device_id'),
        ({'device_id': 's9', 'device_owner': 'compute:nova'}, 'device_owner'),
        ({'device_owner': 'compute:nova'}, 'device_owner'),
        ({'created_by_attach': True}, 'created_by_attach'),
        ({'tag': 'x' * 61}, 'tag'),
        ({'tag': ''}, 'tag'),
    ],
)
def test_bad_port(fields: dict, field: str) -> None:
    with pytest.raises(loader.InventoryError) as caught:
        parse(document(ports=[port(**fields)]))
    assert [error.field for error in caught.value.errors] == [field]


def pool(start: str, end: str) -> dict:
    return {'start': start, 'end': end}


@pytest.mark.parametrize(
    ('subnet', 'field'),
    [
        ({'cidr': '10.1.0.1/24'}, 'cidr'),
        ({'cidr': '10.1.0.0'}, 'cidr'),
        ({'gateway_ip': '10.9.0.1'}, 'gateway_ip'),
        ({'gateway_ip': 'fd00::1'}, 'gateway_ip'),
        ({'allocation_pools': [pool('10.1.0.9', '10.9.0.9')]}, 'allocation_pools[0]'),
        ({'allocation_pools': [pool('10.1.0.9', '10.1.0.8')]}, 'allocation_pools[0]'),
        ({'allocation_pools': [pool('10.1.0.1', '10.1.0.8')]}, 'allocation_pools[0]'),
        (
            {'allocation_pools': [pool('10.1.0.5', '10.1.0.8'), pool('10.1.0.8', '10.1.0.9')]},
            'allocation_pools[1]',
        ),
        ({'allocation_pools': [{'start': '10.1.0.5'}]}, 'allocation_pools[0].end'),
    ],
)
def test_bad_subnet(subnet: dict, field: str) -> None:
    subnet = {'id': SUB4, 'cidr': '10.1.0.0/24', 'gateway_ip': '10.1.0.1'} | subnet
    found = problems({'networks': [network([subnet])]})
    assert ('networks[0] "net"', f'subnets[0].{field}') in found
    assert len(found) == 1


def test_subnets_of_a_network_must_not_overlap() -> None:
    subnets = [{'id': SUB4, 'cidr': '10.0.0.0/16'}, {'id': SUB2, 'cidr': '10.0.5.0/24'}]
    assert problems({'networks': [network(subnets)]}) == [('networks[0] "net"', 'subnets[1].cidr')]
    parse({'networks': [network(subnets[:1]), {'id': NET2, 'project_id': 'p1', 'subnets': subnets[1:]}]})


def test_ids_must_be_unique() -> None:
    base_document = document()
    mac = 'fa:16:3e:00:00:01'
    doubled = document(
        networks=[network(), network(shared_with=['p2', 'p2'])],
        servers=base_document['servers'] * 2,
        ports=[port(mac_address=mac), port(mac_address=mac.upper())],
    )
    assert problems(doubled) == [
        ('networks[1] "net"', 'id'),
        ('servers[1] "web"', 'id'),
        ('ports[1] "free"', 'id'),
        ('ports[1] "free"', 'mac_address'),
        ('networks[1] "net"', 'subnets[0].id'),
        ('networks[1] "net"', 'subnets[1].id'),
        ('networks[1] "net"', 'shared_with'),
    ]


# ------------------------------------------------------------------ callers and servers

ODD = ['', ' ', 'nobody', 'tok-1 ', 'TOK-1', 'tok-1\0', '\ud800', 'x' * 300, "'", '%']


def test_caller_is_found_by_token(conf: cfg.ConfigOpts) -> None:
    named = {'token': 'tok-2', 'user_id': 'u2', 'user_name': 'ada', 'project_id': 'p1', 'project_name': 'shop'}
    load(conf, parse(document(callers=[*document()['callers'], named])))
    database = Database.of(conf)
    found = callers.find(database, 'tok-1')
    assert found is not None
    ctxt = context.RequestContext(**found)
    assert (ctxt.user_id, ctxt.project_id, ctxt.roles, ctxt.auth_token) == ('u1', 'p1', ['member'], 'tok-1')
    assert callers.find_by_password(database, 'u1', 'tok-1') == found
    assert callers.find_by_password(database, 'u2', 'tok-1') is None
    by_name = callers.find_by_password(database, 'ada', 'tok-2')
    assert by_name == callers.find_by_password(database, 'u2', 'tok-2')
    assert by_name is not None
    assert (by_name['user_name'], by_name['project_name'], by_name['roles']) == ('ada', 'shop', [])


@pytest.mark.parametrize('token', ODD, ids=ascii)
def test_odd_token_belongs_to_nobody(conf: cfg.ConfigOpts, token: str) -> None:
    load(conf, parse(document()))
    assert callers.find(Database.of(conf), token) is None


def test_server_is_told_as_it_is(conf: cfg.ConfigOpts) -> None:
    server = {
        'id': 's2',
        'project_id': 'p2',
        'name': 'db',
        'host': None,
        'vm_state': 'shelved_offloaded',
        'task_state': 'spawning',
        'locked_by': 'admin',
        'availability_zone': 'az1',
    }
    load(conf, parse(document(servers=[*document()['servers'], server])))
    assert SQLServerDriver(conf).get(CONTEXT, 's2') == base.Server(**server)


@pytest.mark.parametrize('server_id', [*ODD, 'S1', 's1 '], ids=ascii)
def test_odd_server_is_not_found(conf: cfg.ConfigOpts, server_id: str) -> None:
    load(conf, parse(document()))
    with pytest.raises(exceptions.ServerNotFound):
        SQLServerDriver(conf).get(CONTEXT, server_id)
    assert SQLNetworkDriver(conf).list_ports(CONTEXT, server_id) == []


def test_database_that_does_not_answer_is_unavailable(tmp_path: pathlib.Path) -> None:
    url = f'sqlite:///{tmp_path}/no/such/directory/osif.sqlite'
    conf = configuration.new([], database={'connection': url})
    with pytest.raises(exceptions.Unavailable):
        SQLServerDriver(conf).get(CONTEXT, 's1')
    with pytest.raises(exceptions.Unavailable):
        SQLNetworkDriver(conf).unbind(CONTEXT, PORT, 's1', base.Fence(1, float('inf')))
