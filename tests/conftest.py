"""Order of the whole run, and the servers, the cloud and the hypervisor that are started once for it."""

from __future__ import annotations

import contextlib
import gc
import logging
import pathlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from .services import databases, rabbitmq

if TYPE_CHECKING:
    from .services.libvirt import Hypervisor
    from .services.openstack import Cloud

Something = TypeVar('Something')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What needs no service comes first: it is quick, and fails first.
    items.sort(key=lambda item: item.get_closest_marker('service') is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    # What is imported and collected lives to the end: the collector need not look through it time and again.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    # Threads that wait for a broker which never comes outlive the run, and what they write to is closed.
    logging.raiseExceptions = False


def _running(context: contextlib.AbstractContextManager[Something]) -> Iterator[Something]:
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(context)
        except databases.Unobtainable as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope='session')
def postgresql() -> Iterator[databases.DatabaseServer]:
    """A PostgreSQL server."""
    yield from _running(databases.running(databases.PostgreSQL))


@pytest.fixture(scope='session')
def mariadb() -> Iterator[databases.DatabaseServer]:
    """A MariaDB server."""
    yield from _running(databases.running(databases.MariaDB))


@pytest.fixture(scope='session', name='rabbitmq')
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rabbitmq.RabbitMQ]:
    """A RabbitMQ node. The logs are among pytest's temporary folders."""
    yield from _running(rabbitmq.running(tmp_path_factory.mktemp('rabbitmq-logs')))


@pytest.fixture(scope='session')
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Real Keystone and Neutron; networks are made by the tests. The logs are among pytest's temporary folders."""
    # Here, for the client libraries that it needs take their time.
    from .services import openstack

    yield from _running(openstack.running(tmp_path_factory.mktemp('cloud-logs')))


@pytest.fixture(scope='session')
def nova_cloud(cloud: Cloud) -> Cloud:
    """The same cloud, with Nova."""
    try:
        cloud.start_nova()
    except databases.Unobtainable as error:
        pytest.skip(str(error))
    return cloud


@pytest.fixture(scope='session')
def hypervisor() -> Iterator[Hypervisor]:
    """A libvirtd in namespaces of its own, with a bridge; the domains are made by the tests."""
    from .services import libvirt

    yield from _running(libvirt.running())


@pytest.fixture
def empty_database_url(tmp_path: pathlib.Path) -> str:
    """The URL of an empty database for one test; the integration tests give another kind."""
    return f'sqlite:///{tmp_path}/osif.sqlite'


@pytest.fixture(scope='module', params=['sqlite', 'postgresql', 'mariadb'])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == 'sqlite':
        return f'sqlite:///{tmp_path_factory.mktemp("database")}/osif.sqlite'
    url: str = request.getfixturevalue(request.param).new_database()
    return url
