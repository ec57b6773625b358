"""The complete pipeline beside the floor, in one process and without a network.

The floor (``floor.py``) is bare Flask on bare sqlite3, with no authentication, policy, version or validation.
Beside it: authentication by token, request context, microversion, policy, records, drivers, schemas, request ids.
"""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import flask
import floor
from harness import Case

from os_interface_ext import conf as config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.middleware.static_tokens import StaticTokens
from os_interface_ext.wsgi.paste import Filter, make_application

PROJECT = '44444444444444444444444444444444'
HEADERS = (('X-Auth-Token', 'bench'), ('OpenStack-API-Version', 'compute 2.70'))
COLLECTION = f'/servers/{floor.SERVER}/os-interface'

Call = Callable[..., tuple[int, bytes]]


def inventory(ports: int) -> str:
    """One server with so many ports on one network, as the floor has them."""
    subnet = {'id': floor.SUBNET, 'name': 'subnet', 'cidr': '10.0.0.0/8', 'gateway_ip': '10.0.0.1'}
    return json.dumps(
        {
            'callers': [
                {'token': 'bench', 'user_id': 'bench', 'project_id': PROJECT, 'roles': ['member', 'reader']}
            ],
            'networks': [{'id': floor.NETWORK, 'name': 'net', 'project_id': PROJECT, 'subnets': [subnet]}],
            'servers': [
                {
                    'id': floor.SERVER,
                    'name': 'server',
                    'project_id': PROJECT,
                    'host': 'compute1',
                    'vm_state': 'active',
                }
            ],
            'ports': [
                {
                    'id': str(uuid.uuid4()),
                    'name': '',
                    'project_id': PROJECT,
                    'network_id': floor.NETWORK,
                    'fixed_ips': [{'subnet_id': floor.SUBNET, 'ip_address': f'10.0.{n // 250}.{n % 250 + 2}'}],
                    'status': 'ACTIVE',
                    'device_id': floor.SERVER,
                }
                for n in range(ports)
            ],
        }
    )


def new_database(path: pathlib.Path, ports: int, **options: dict[str, object]) -> tuple[Any, Database]:
    """A configuration and its database, a new SQLite file with the inventory."""
    conf = config.new([], database={'connection': f'sqlite:///{path}'}, **options)
    database = Database.of(conf)
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(inventory(ports), 'benchmark'))
    return conf, database


def ours_on(conf: Any, database: Database) -> Call:
    app = StaticTokens(make_application(Extension(conf)), database)
    return lambda method, url, body=None: floor.call(app, method, url, body, HEADERS)


def ours(path: pathlib.Path, ports: int, **options: dict[str, object]) -> Call:
    """The complete pipeline on a new SQLite file."""
    return ours_on(*new_database(path, ports, **options))


def bare(path: pathlib.Path, ports: int) -> Call:
    app = floor.make_app(str(path), ports=ports)
    return lambda method, url, body=None: floor.call(app, method, url, body)


def expect(status: int, answer: tuple[int, bytes]) -> bytes:
    assert answer[0] == status, answer
    return answer[1]


def lister(call: Call) -> Callable[[], bytes]:
    return lambda: expect(200, call('GET', COLLECTION))


def shower(call: Call) -> Callable[[], bytes]:
    found = json.loads(lister(call)())
    item = f'{COLLECTION}/{found["interfaceAttachments"][0]["port_id"]}'
    return lambda: expect(200, call('GET', item))


def cycler(call: Call) -> Callable[[], None]:
    """An attach of a network, and the detach of what it gave."""

    def cycle() -> None:
        body = expect(200, call('POST', COLLECTION, {'interfaceAttachment': {'net_id': floor.NETWORK}}))
        port = json.loads(body)['interfaceAttachment']['port_id']
        expect(202, call('DELETE', f'{COLLECTION}/{port}'))

    return cycle


def cases(folder: pathlib.Path) -> Iterator[Case]:
    """List, show, attach and detach beside the floor; what the filter costs a host, and what metrics cost."""
    one, hundred = bare(folder / 'floor1', 1), bare(folder / 'floor100', 100)
    our_one, our_hundred = ours(folder / 'ours1', 1), ours(folder / 'ours100', 100)
    yield Case('list, 1 port', lister(one), lister(our_one), 1.8)
    yield Case('show', shower(one), shower(our_one), 1.8)
    yield Case('list, 100 ports', lister(hundred), lister(our_hundred), 1.5)
    yield Case('list, 100 ports that were attached', lister(hundred), lister(_attached(folder / 'attached', 100)))
    yield Case('attach + detach', cycler(one), cycler(our_one), 2.0)
    yield _beside_a_host(folder)
    counted = ours(folder / 'counted', 1, metrics={'directory': str(folder / 'metrics')})
    yield Case('list, 1 port, with metrics beside without', lister(our_one), lister(counted))
    yield Case('attach + detach, with metrics beside without', cycler(our_one), cycler(counted))


def _attached(path: pathlib.Path, ports: int) -> Call:
    """Each port with its record, as the API has left it."""
    call = ours(path, 0)
    for _ in range(ports):
        expect(200, call('POST', COLLECTION, {'interfaceAttachment': {'net_id': floor.NETWORK}}))
    return call


def _beside_a_host(folder: pathlib.Path) -> Case:
    """The filter in front of a Flask host, for a JSON route of the host's own."""
    host = flask.Flask('host')

    @host.get('/things/<thing_id>')
    def thing(thing_id: str) -> flask.Response:
        return flask.jsonify({'id': thing_id, 'name': 'thing'})

    filtered = Filter(host, Extension(new_database(folder / 'filter', 1)[0]))
    return Case(
        "a route of the host's own, behind the filter",
        lambda: expect(200, floor.call(host, 'GET', '/things/1')),
        lambda: expect(200, floor.call(filtered, 'GET', '/things/1')),
        1.05,
    )
