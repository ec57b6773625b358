"""Processes of the crash matrix with the VIF driver `netns`; they can be killed at each request to the kernel too.

The points ``before change`` and ``after change`` are those of each request that makes, sets or deletes a link,
``before add_address`` and ``after add_address`` the same of an address.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from os_interface_ext import conf as config
from os_interface_ext import deploy
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import links
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.drivers.vifs import netns
from os_interface_ext.testing.faults import FILE_VIF_OPTS, Faults, wrap
from tests.integration import crash

#: what the driver asks the kernel with
REQUESTS = {name: getattr(links.Links, name) for name in ('change', 'add_address')}


def assemble(place: crash.Place, faults: Faults) -> deploy.Parts:
    """The parts of a process, with servers and ports of the embedded inventory and NICs in namespaces."""
    conf = config.new(
        place.files,
        database={'connection': place.url},
        attachments={'wait': 0.0},
        reconciler={'grace': 0.0, 'backoff': 0.01, 'backoff_cap': 0.01},
    )
    conf.register_opts(FILE_VIF_OPTS, group='file_vif')
    conf.set_override('path', place.nics, group='file_vif')
    faults.watch(Database.of(conf))
    return deploy.assemble(
        conf,
        server_driver=wrap(SQLServerDriver(conf), faults),
        network_driver=wrap(SQLNetworkDriver(conf), faults),
        vif_driver=wrap(netns.NetnsVIFDriver(conf), faults),
    )


def watched(place: crash.Place, faults: Faults) -> deploy.Parts:
    """The same, with the points of the requests to the kernel: for a process that does one case."""
    watch(faults)
    return assemble(place, faults)


def watch(faults: Faults) -> None:
    """Make points of the requests to the kernel, for as long as this process lives."""
    for name, real in REQUESTS.items():
        setattr(links.Links, name, passing(name, real, faults))


def passing(name: str, real: Callable[..., Any], faults: Faults) -> Any:
    """A method with a point before and after it."""

    @functools.wraps(real)
    def method(*args: Any, **kwargs: Any) -> Any:
        faults.at(f'before {name}')
        answer = real(*args, **kwargs)
        faults.at(f'after {name}')
        return answer

    return method


@contextlib.contextmanager
def running() -> Iterator[crash.Zygote]:
    """A zygote of these, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.integration.vifs.zygote'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    try:
        yield crash.Zygote(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """The worlds that are made within the block have them as well, without points."""
    with mock.patch.object(crash, 'assemble', assemble):
        yield


if __name__ == '__main__':
    crash.assemble = watched
    crash._serve()
