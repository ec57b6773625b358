"""``os-interface-ext doctor`` where the services are real: there, away, and with the wrong password."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from os_interface_ext import conf as config
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store
from os_interface_ext.cmd import main
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from tests.integration.conftest import INVENTORY
from tests.services import databases
from tests.services.openstack import Cloud
from tests.services.rabbitmq import RabbitMQ

pytestmark = pytest.mark.service

RIGHT, WRONG = 'right-password', 'wrong-password'


@dataclasses.dataclass
class Patient:
    """An installation with a file of its own, whose reconciler was heard of a moment ago."""

    folder: pathlib.Path
    capsys: pytest.CaptureFixture[str]
    url: str

    def prepare(self) -> None:
        conf = config.new([], database={'connection': self.url})
        database = Database.of(conf)
        schema.upgrade(database)
        Store(database, lease=30.0).heartbeat('reconciler test', 3600.0)
        database.dispose()

    def examine(self, url: str | None = None, **groups: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The findings by the names of their checks; no secret is among them."""
        groups = {'database': {'connection': url or self.url}, **groups}
        path = self.folder / 'osif.conf'
        path.write_text(
            ''.join(
                f'[{group}]\n' + ''.join(f'{name} = {value}\n' for name, value in options.items())
                for group, options in groups.items()
            )
        )
        self.capsys.readouterr()
        status = main.main(['doctor', '--json', '--timeout', '60', '--config-file', str(path)])
        output, _ = self.capsys.readouterr()
        told = json.loads(output)
        assert status == (0 if told['healthy'] else 1)
        for secret in (RIGHT, WRONG):
            assert secret not in output
        return {one['name']: one for one in told['checks']}

    def well(self, **groups: dict[str, Any]) -> None:
        found = self.examine(**groups)
        assert {name: one for name, one in found.items() if one['state'] != 'ok'} == {}

    def complaint(self, name: str, url: str | None = None, **groups: dict[str, Any]) -> tuple[str, str]:
        """What is wrong, and the cure: of nothing but this."""
        found = self.examine(url, **groups)
        assert [key for key, one in found.items() if one['state'] in ('error', 'warning')] == [name]
        return found[name]['what'], found[name]['cure']


@pytest.fixture
def patient(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Patient:
    made = Patient(tmp_path, capsys, f'sqlite:///{tmp_path}/osif.sqlite')
    made.prepare()
    return made


# ------------------------------------------------------------------ databases


@pytest.fixture(params=['postgresql', 'mariadb'])
def server(request: pytest.FixtureRequest) -> databases.DatabaseServer:
    found: databases.DatabaseServer = request.getfixturevalue(request.param)
    return found


def _with_password(server: databases.DatabaseServer, url: str) -> str:
    """The URL for a user of its own, who has a password that the server asks for."""
    name = f'user_{uuid.uuid4().hex[:8]}'
    made = sa.make_url(url)
    engine = sa.create_engine(made, poolclass=sa.NullPool, isolation_level='AUTOCOMMIT')
    with engine.connect() as connection:
        if isinstance(server, databases.PostgreSQL):
            rules = server.folder / 'data' / 'pg_hba.conf'
            rules.write_text(f'host all {name} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}')
            connection.exec_driver_sql(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{RIGHT}'")
            connection.exec_driver_sql('SELECT pg_reload_conf()')
        else:
            connection.exec_driver_sql(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{RIGHT}'")
            connection.exec_driver_sql(f"GRANT ALL ON {made.database}.* TO {name}@'127.0.0.1'")
    return made.set(username=name, password=RIGHT).render_as_string(hide_password=False)


def test_a_database_server(patient: Patient, server: databases.DatabaseServer) -> None:
    """Healthy; with a wrong password; without such a database; and stopped."""
    patient.url = _with_password(server, server.new_database())
    patient.prepare()
    patient.well()

    what, cure = patient.complaint('database', patient.url.replace(RIGHT, WRONG))
    assert any(word in what for word in ('password authentication failed', 'Access denied'))
    assert 'correct host, user, password and name in [database] connection' in cure

    what, _ = patient.complaint('database', f'{patient.url}_of_nobody')
    assert '_of_nobody' in what

    server.stop()
    try:
        what, cure = patient.complaint('database')
        assert 'cannot be used' in what
        assert cure.startswith('start the database server')
    finally:
        server.start()
    patient.well()


# ------------------------------------------------------------------ OpenStack


def _neutron(cloud: Cloud, **options: Any) -> dict[str, dict[str, Any]]:
    return {
        'os_interface': {'network_driver': 'neutron'},
        'neutron': {
            'auth_type': 'password',
            'auth_url': cloud.keystone_url,
            'username': 'osif',
            'password': cloud.password,
            'project_name': 'service',
            'user_domain_name': 'Default',
            'project_domain_name': 'Default',
            'read_retries': 0,
            **options,
        },
    }


def _identity(cloud: Cloud, **options: Any) -> dict[str, dict[str, Any]]:
    authority = {name: value for name, value in _neutron(cloud)['neutron'].items() if name != 'read_retries'}
    return {'keystone_authtoken': {**authority, 'www_authenticate_uri': cloud.keystone_url, **options}}


@contextlib.contextmanager
def _stopped(cloud: Cloud, service: str) -> Iterator[None]:
    cloud.stop(service)
    try:
        yield
    finally:
        cloud.start(service)


def test_keystone_and_neutron(patient: Patient, cloud: Cloud) -> None:
    patient.well(**_neutron(cloud), **_identity(cloud))

    what, cure = patient.complaint('identity', **_identity(cloud, password=WRONG))
    assert '401' in what
    assert cure == 'correct username, password, project and domains of [keystone_authtoken]: Keystone refuses them'

    what, cure = patient.complaint('network_driver', **_neutron(cloud, password=WRONG))
    assert '401' in what
    assert cure == 'correct username, password, project and domains of [neutron]: Keystone refuses them'

    what, cure = patient.complaint('network_driver', **_neutron(cloud, region_name='Nowhere'))
    assert 'endpoint' in what
    assert 'enter an endpoint of network into the catalog' in cure

    with _stopped(cloud, 'neutron'):
        what, cure = patient.complaint('network_driver', **_neutron(cloud))
        assert '/ports' in what
        assert cure.startswith(f'start the service behind {cloud.neutron_url}')

    with _stopped(cloud, 'keystone'):
        what, cure = patient.complaint('network_driver', **_neutron(cloud))
        assert 'no token or endpoint' in what
        assert cure == 'start Keystone, or correct [neutron] auth_url'

        what, cure = patient.complaint('identity', **_identity(cloud))
        assert 'ConnectFailure' in what
        assert cure == 'start Keystone, or correct [keystone_authtoken] auth_url'


# ------------------------------------------------------------------ RabbitMQ


def test_rabbitmq_and_agents(patient: Patient, rabbitmq: RabbitMQ) -> None:
    def groups(url: str) -> dict[str, dict[str, Any]]:
        return {
            'os_interface': {'vif_driver': 'rpc'},
            'DEFAULT': {'transport_url': url},
            'rpc': {'topic': f'osif-{uuid.uuid4().hex[:8]}', 'timeout': 5.0},
        }

    patient.well(**groups(rabbitmq.url))

    wrong = sa.make_url(rabbitmq.url).set(password=WRONG).render_as_string(hide_password=False)
    for url in (wrong, 'rabbit://osif:osif@127.0.0.1:1/'):
        what, cure = patient.complaint('vif_driver', **groups(url))
        assert what.startswith('the message broker: ')
        assert cure == 'start RabbitMQ, or correct host, port, user and password in [DEFAULT] transport_url'

    # A record on a host without an agent.
    inventory = yaml.safe_load(pathlib.Path(INVENTORY).read_text())
    server = next(one for one in inventory['servers'] if one.get('host'))
    assert main.main(['inventory', 'load', INVENTORY, '--database', patient.url]) == 0
    database = Database.of(config.new([], database={'connection': patient.url}))
    Store(database, lease=30.0).insert(
        created=False,
        server_id=server['id'],
        project_id=server['project_id'],
        port_id=str(uuid.uuid4()),
        host='far-1',
        state=State.ATTACHED,
    )
    what, cure = patient.complaint('hosts', **groups(rabbitmq.url))
    assert what.startswith('1 host cannot be reached: far-1 (')
    assert 'os-interface-ext-agent' in cure


# ------------------------------------------------------------------ namespaces


@pytest.mark.skipif(os.geteuid() != 0, reason='only root enters namespaces')
def test_namespaces(patient: Patient, tmp_path: pathlib.Path) -> None:
    groups = {'os_interface': {'vif_driver': 'netns'}}
    namespaces = tmp_path / 'namespaces'
    options = {'namespace': f'{namespaces}/{{id}}', 'lock_path': f'{tmp_path}/lock'}

    what, cure = patient.complaint('vif_driver', **groups, netns=options)
    assert what == f'option [netns] namespace: {namespaces} is not there'
    assert 'ip netns add' in cure

    namespaces.mkdir()
    patient.well(**groups, netns=options)

    what, _ = patient.complaint('vif_driver', **groups, netns={**options, 'host_namespace': f'{namespaces}/none'})
    assert '[netns] host_namespace' in what
