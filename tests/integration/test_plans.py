"""What requests and the reconciler ask of a large database is found by an index, on each of the three."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.context import RequestContext
from os_interface_ext.db import prepared, schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from tests.integration import crowd

pytestmark = pytest.mark.service

#: Those that grow with the cloud. The others have a row, or one for each network, project or process.
LARGE = {'osif_attachments', 'osif_attachment_history', 'osif_ports', 'osif_addresses', 'osif_servers'}
COUNT = 20_000
PROJECT, SERVER, NETWORK, SUBNET, PORT = (str(uuid.uuid4()) for _ in range(5))
CTXT = RequestContext(user_id='user', project_id=PROJECT, roles=['member', 'reader'])
INVENTORY = json.dumps(
    {
        'networks': [
            {
                'id': NETWORK,
                'name': 'net',
                'project_id': PROJECT,
                'subnets': [{'id': SUBNET, 'name': 'net', 'cidr': '10.0.0.0/8', 'gateway_ip': '10.0.0.1'}],
            }
        ],
        'servers': [
            {'id': one, 'name': one, 'project_id': PROJECT, 'host': 'compute1'}
            for one in (SERVER, *(str(uuid.uuid4()) for _ in range(2000)))
        ],
        'ports': [
            {
                'id': PORT,
                'project_id': PROJECT,
                'network_id': NETWORK,
                'fixed_ips': [{'subnet_id': SUBNET, 'ip_address': '10.0.9.9'}],
            }
        ],
    }
)


@pytest.fixture(scope='module')
def parts(database_url: str) -> Iterator[deploy.Parts]:
    conf = config.new([], database={'connection': database_url})
    database = Database.of(conf)
    schema.upgrade(database)
    with database.write() as connection:
        loader.load(connection, loader.parse(INVENTORY, 'inventory'))
    crowd.fill(database, COUNT, project_id=PROJECT, network_id=NETWORK, subnet_id=SUBNET)
    # As the servers do by themselves. SQLite does not, and without histograms a look would mislead it: one
    # state has all the records.
    with database.write() as connection:
        for table in LARGE:
            if connection.dialect.name == 'postgresql':
                connection.execute(sa.text(f'ANALYZE {table}'))
            elif connection.dialect.name == 'mysql':
                connection.execute(sa.text(f'ANALYZE TABLE {table}'))
    database.dispose()
    parts = deploy.assemble(conf)
    yield parts
    parts.database.dispose()


def asked(parts: deploy.Parts, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The statements of all operations and of the reconciler's short look, each with values that it had."""
    seen: dict[str, Any] = {}
    execute = prepared.Connection.execute

    def watched(self: prepared.Connection, statement: Any, values: Any = prepared.NOTHING) -> prepared.Result:
        one = values[0] if isinstance(values, list) else values
        compiled = self._statements.compiled(statement, one)
        if not compiled.sql.startswith('INSERT INTO') or 'SELECT' in compiled.sql:
            seen[compiled.sql] = compiled.parameters(one)
        return execute(self, statement, values)

    with monkeypatch.context() as patch:
        patch.setattr(prepared.Connection, 'execute', watched)
        manager, server = parts.manager, parts.drivers.server.get(CTXT, SERVER)
        for wanted in (
            AttachRequest(port_id=PORT),
            AttachRequest(network_id=NETWORK, ip_address='10.0.0.9'),
            AttachRequest(network_id=NETWORK, ip_address='10.0.0.9'),
            AttachRequest(network_id=NETWORK),
        ):
            manager.attach(CTXT, server, wanted)
        for attachment in manager.list(CTXT, server):
            manager.show(CTXT, server, attachment.id)
            manager.detach(CTXT, server, attachment.id)
        with pytest.raises(exceptions.NotAttached):
            manager.detach(CTXT, server, PORT)
        parts.reconciler.carry_on()
        parts.store.result_of(str(uuid.uuid4()))
    return seen


def tables_read_whole(database: Database, sql: str, values: Any) -> set[str]:
    """The large tables that the database goes through row by row."""
    with database.read() as connection:
        name = connection.dialect.name
        if name == 'postgresql':
            plan = connection.exec_driver_sql(f'EXPLAIN (FORMAT JSON) {sql}', values).scalar_one()
            found = set(_scanned(plan[0]['Plan']))
        elif name == 'mysql':
            rows = connection.exec_driver_sql(f'EXPLAIN {sql}', values).mappings().all()
            found = {row['table'] for row in rows if row['type'] in ('ALL', 'index')}
        else:
            rows = connection.exec_driver_sql(f'EXPLAIN QUERY PLAN {sql}', tuple(values)).mappings().all()
            found = {row['detail'].split()[1] for row in rows if row['detail'].startswith('SCAN')}
    return found & LARGE


def _scanned(plan: dict[str, Any]) -> Iterator[str]:
    if plan['Node Type'] == 'Seq Scan':
        yield plan['Relation Name']
    for inner in plan.get('Plans', ()):
        yield from _scanned(inner)


def test_no_operation_reads_a_large_table_whole(parts: deploy.Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = asked(parts, monkeypatch)
    for table in LARGE:
        assert any(table in sql for sql in statements), f'nothing was asked of {table}'
    found = {sql: tables_read_whole(parts.database, sql, values) for sql, values in statements.items()}
    assert {sql: tables for sql, tables in found.items() if tables} == {}


def test_a_table_that_is_read_whole_is_noticed(parts: deploy.Parts) -> None:
    sql = 'SELECT * FROM osif_attachments WHERE last_error IS NOT NULL'
    assert tables_read_whole(parts.database, sql, ()) == {'osif_attachments'}
