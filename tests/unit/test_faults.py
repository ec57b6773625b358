"""Fault drivers: the same drivers, until they are told."""

from __future__ import annotations

import inspect
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.db import tables
from os_interface_ext.drivers import base
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.testing import faults, memory, networks, servers, vifs
from os_interface_ext.testing.faults import Faults, FileVIFDriver, wrap
from tests import migrated
from tests.unit.fakes import cloud_of, network_backend, server_backend, vif_backend


class FaultyCloud:
    """A cloud behind a wrapper, to be made like the cloud itself."""

    def __new__(cls, conf: config.Config) -> memory.MemoryCloud:  # type: ignore[misc]
        return wrap(memory.MemoryCloud(conf), Faults())


class TestWrappedServers(servers.ServerDriverContract):
    @pytest.fixture
    def backend(self) -> servers.ServerBackend:
        return server_backend(cloud_of(FaultyCloud))


class TestWrappedNetworks(networks.NetworkDriverContract):
    @pytest.fixture
    def backend(self) -> networks.NetworkBackend:
        return network_backend(cloud_of(FaultyCloud))


class TestWrappedVIFs(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self) -> vifs.VIFBackend:
        return vif_backend(cloud_of(FaultyCloud))


class TestFileVIFs(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self, tmp_path: pathlib.Path) -> vifs.VIFBackend:
        conf = config.new([])
        driver = FileVIFDriver(conf)
        conf.set_override('path', str(tmp_path / 'nics'), group='file_vif')
        backend = vif_backend(cloud_of(memory.MemoryCloud), driver)
        object.__setattr__(
            backend, 'nics', lambda server: [nic.name for nic in (tmp_path / 'nics' / server.id).glob('*')]
        )
        return backend


def test_no_id_leads_out_of_the_directory(tmp_path: pathlib.Path) -> None:
    conf = config.new([])
    driver = FileVIFDriver(conf)
    conf.set_override('path', str(tmp_path / 'nics'), group='file_vif')
    outside = tmp_path / 'outside'
    outside.touch()
    server = base.Server('..', 'project')
    ctxt = None
    driver.unplug(ctxt, server, 'outside', {}, base.Fence(1, float('inf')))  # type: ignore[arg-type]
    assert outside.exists()
    port = base.Port('../../x', 'network', 'mac', 'project')
    driver.plug(ctxt, server, port, base.Fence(1, float('inf')))  # type: ignore[arg-type]
    assert driver.plugged(ctxt, server) == {port.id}  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['nics', 'outside']


# ------------------------------------------------------------------ what a wrapper is


def test_a_wrapper_is_of_the_kinds_of_its_driver() -> None:
    conf = config.new([])
    cloud = wrap(memory.MemoryCloud(conf), Faults())
    noop = wrap(NoopVIFDriver(conf), Faults())
    kinds = (base.ServerDriver, base.NetworkDriver, base.VIFDriver)
    assert [isinstance(cloud, kind) for kind in kinds] == [True] * 3
    assert [isinstance(noop, kind) for kind in kinds] == [False, False, True]
    assert (cloud.has_side_effects, noop.has_side_effects) == (True, False)
    with pytest.raises(TypeError):
        wrap(object(), Faults())


def test_optional_methods_stay_optional() -> None:
    conf = config.new([])

    def overrides(driver: object, kind: type, method: str) -> bool:
        return getattr(type(driver), method) is not getattr(kind, method)

    for driver, kind, method in (
        (memory.MemoryCloud(conf), base.ServerDriver, 'attachments_changed'),
        (SQLServerDriver(conf), base.ServerDriver, 'attachments_changed'),
        (SQLNetworkDriver(conf), base.NetworkDriver, 'bind'),
        (memory.MemoryCloud(conf), base.VIFDriver, 'capabilities'),
        (NoopVIFDriver(conf), base.VIFDriver, 'capabilities'),
    ):
        assert overrides(wrap(driver, Faults()), kind, method) == overrides(driver, kind, method)


def test_what_is_not_a_method_of_a_driver_is_the_wrapped_ones() -> None:
    cloud = wrap(memory.MemoryCloud(config.new([])), Faults())
    server = cloud.add_server('project')
    assert cloud.get(None, server.id) == server  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        cloud.no_such_thing  # type: ignore[attr-defined]  # noqa: B018


# ------------------------------------------------------------------ points and actions


def test_points_are_passed_in_order_and_counted() -> None:
    found: list[str] = []
    subject = Faults()
    subject.add('after get', lambda: found.append('second'), on=2)
    subject.add('after get', lambda: found.append('always'), times=None)
    subject.add('before get', lambda: found.append('twice'), times=2)
    cloud = wrap(memory.MemoryCloud(config.new([])), subject)
    server = cloud.add_server('project')
    for _ in range(3):
        cloud.get(None, server.id)  # type: ignore[arg-type]
        found.append('.')
    assert found == ['twice', 'always', '.', 'twice', 'second', 'always', '.', 'always', '.']
    assert subject.passed == ['before get', 'after get'] * 3
    subject.clear()
    cloud.get(None, server.id)  # type: ignore[arg-type]
    assert len(found) == 9


def test_an_error_before_prevents_and_one_after_does_not() -> None:
    subject = Faults()
    cloud = memory.MemoryCloud(config.new([]))
    faulty = wrap(cloud, subject)
    server = cloud.add_server('project')
    port = cloud.add_port(cloud.add_network('project').id, 'project')
    fence = base.Fence(1, float('inf'))
    subject.add('before plug', faults.raises(exceptions.PlugFailed()))
    with pytest.raises(exceptions.PlugFailed):
        faulty.plug(None, server, port, fence)  # type: ignore[arg-type]
    assert cloud.nics(server) == []
    subject.add('after plug', faults.unknown)
    with pytest.raises(exceptions.UnknownOutcome):
        faulty.plug(None, server, port, fence)  # type: ignore[arg-type]
    assert cloud.nics(server) == [port.id]


def test_a_delay_lasts_until_its_event() -> None:
    subject, reached, event = Faults(), threading.Event(), threading.Event()
    subject.add('before get', reached.set)
    subject.add('before get', faults.waits(event))
    thread = threading.Thread(target=subject.at, args=('before get',))
    thread.start()
    assert reached.wait(30)
    assert thread.is_alive()
    event.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.service
@pytest.mark.parametrize('action', ['kill', 'delay=0.01', 'hang'])
def test_a_process_that_is_killed_or_hangs(action: str) -> None:
    code = (
        'from os_interface_ext.testing.faults import Faults\n'
        f"faults = Faults.parse(['after create#2:{action}'])\n"
        "faults.at('after create'), print('first', flush=True)\n"
        "faults.at('after create'), print('second', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == 'first\n'
    if action == 'hang':
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
    rest = process.stdout.read()
    assert rest == ('second\n' if action.startswith('delay') else '')
    assert process.wait(30) == (0 if action.startswith('delay') else -signal.SIGKILL)


def test_commits_are_points(tmp_path: pathlib.Path) -> None:
    database = migrated.database_of(config.new([], database={'connection': f'sqlite:///{tmp_path}/osif.sqlite'}))
    subject = Faults()
    subject.watch(database)
    insert = tables.suspects.insert().values(first_seen=1.0)

    def write(port_id: str) -> None:
        with database.prepared() as connection:
            connection.execute(insert, {'port_id': port_id})

    def ports() -> int:
        with database.read() as connection:
            return len(connection.execute(tables.suspects.select()).all())

    write('a')
    assert subject.passed == ['before transaction', 'before commit', 'after commit']
    subject.add('before commit', faults.raises(KeyError))
    with pytest.raises(KeyError):
        write('b')
    assert ports() == 1
    subject.add('after commit', faults.raises(KeyError))
    with pytest.raises(KeyError):
        write('b')
    assert ports() == 2


# ------------------------------------------------------------------ by configuration


def faulty_conf(*texts: str, **options: str) -> config.Config:
    conf = config.new([])
    conf.register_opts(faults.OPTS, group='faults')
    conf.set_override('faults', list(texts), group='faults')
    for name, value in options.items():
        conf.set_override(name, value, group='faults')
    return conf


def test_fault_drivers_by_name() -> None:
    conf = faulty_conf('before get_port:raise=Unavailable*2', 'before plug:raise=PortInUse*')
    for kind, faulty in (
        (base.ServerDriver, faults.FaultyServerDriver),
        (base.NetworkDriver, faults.FaultyNetworkDriver),
        (base.VIFDriver, faults.FaultyVIFDriver),
    ):
        # As the loader wants them.
        assert issubclass(faulty, kind)
        assert not inspect.isabstract(faulty)
    network = faults.FaultyNetworkDriver(conf)
    vif = faults.FaultyVIFDriver(conf)
    assert isinstance(network.wrapped, SQLNetworkDriver)
    assert isinstance(faults.FaultyServerDriver(conf).wrapped, SQLServerDriver)
    assert vif.has_side_effects is False
    assert network.faults is vif.faults
    for _ in range(2):
        with pytest.raises(exceptions.Unavailable):
            network.get_port(None, '')
    with pytest.raises(exceptions.PortNotFound):
        network.get_port(None, '')
    for _ in range(3):
        with pytest.raises(exceptions.PortInUse):
            vif.plug(None, None, None, None)


def test_an_unknown_driver_is_told_in_one_line() -> None:
    with pytest.raises(exceptions.ConfigurationError, match=r"\[faults\] vif_driver: 'none' is not installed"):
        faults.FaultyVIFDriver(faulty_conf(vif_driver='none'))


@pytest.mark.parametrize(
    'text',
    [
        '',
        'create:kill',
        'during create:kill',
        'after create',
        'after create:explode',
        'after create:kill=9',
        'after create#0:kill',
        'after create:raise',
        'after create:raise=NoSuchError',
        'after create:raise=dataclass',
        'after create:delay=soon',
        'after create:kill*x',
    ],
)
def test_a_fault_that_cannot_be_understood_ends_the_start(text: str) -> None:
    with pytest.raises(exceptions.ConfigurationError, match=r'option \[faults\] faults'):
        faults.FaultyNetworkDriver(faulty_conf(text))
