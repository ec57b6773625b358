"""All options that an ini file of ours may hold, for oslo-config-generator and for checks."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from os_interface_ext import conf
from os_interface_ext.conf import (
    keystone_authtoken,
    libraries,
    libvirt,
    netns,
    neutron,
    nova,
    nova_local,
    ovs,
    rpc,
)

#: One line for the group of each driver of ours: no driver is imported for its options.
_DRIVERS = (nova, nova_local, libvirt, neutron, netns, ovs, rpc)
#: What libraries read there.
_LIBRARIES = (keystone_authtoken, libraries)

_NAMESPACE = 'oslo.config.opts'
_OURS = 'os-interface-ext'


def list_opts() -> list[Any]:
    """The groups and their options, in the order of the sample file; those of installed drivers of others last."""
    modules = (*conf._GROUPS, *_DRIVERS, *_LIBRARIES)
    return [group for module in modules for group in module.list_opts()] + _of_others()


def _of_others() -> list[Any]:
    """What other distributions that have drivers for us tell of their options, as every project does."""
    found = []
    for distribution in metadata.distributions():
        entry_points = distribution.entry_points
        is_driver = any(one.group in _driver_namespaces() for one in entry_points)
        if is_driver and distribution.name != _OURS:
            for entry_point in entry_points.select(group=_NAMESPACE):
                found += entry_point.load()()
    return found


def _driver_namespaces() -> set[str]:
    return {f'os_interface_ext.{option.dest}s' for option in conf.drivers.OPTS}
