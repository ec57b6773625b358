"""Two processes of `serve` that share one database, their ports in a real Neutron."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from tests.integration import load
from tests.integration.conftest import Service

from .conftest import Project, World, write


def cloud_of(world: World, project: Project, cidr: str, *, servers: int, ports: int) -> load.Cloud:
    """What a load runs on: networks and ports of a project of Neutron.

    :param cidr: of the wide network: a /20
    """
    wide = world.network(project, cidr=cidr)
    first = cidr.rpartition('.')[0].rpartition('.')[0] + '.' + str(int(cidr.split('.')[2]) + 1)
    return load.Cloud(
        servers=load.server_ids(servers),
        ports=tuple(world.port(project, wide) for _ in range(ports)),
        wide=wide,
        narrow=world.network(project, cidr='10.2.0.0/28'),
        addresses=tuple(f'{first}.{number}' for number in range(1, 8)),
        project_id=project.id,
    )


@contextlib.contextmanager
def running(
    world: World, cloud: load.Cloud, home: pathlib.Path, *, neutron: dict[str, Any] | None = None, **groups: Any
) -> Iterator[list[Service]]:
    """:param groups: groups of the configuration"""
    config = {
        'os_interface': {'network_driver': 'neutron'},
        'neutron': world.options(**(neutron or {})),
        **groups,
    }
    text = pathlib.Path(write(home, config)).read_text()
    inventory = json.dumps(cloud.servers_alone())
    with load.two_hosts(home, f'sqlite:///{home}/osif.sqlite', text, inventory, workers=1) as found:
        yield found
