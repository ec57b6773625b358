"""``[neutron]``: the network driver of the same name."""

from typing import Any

from oslo_config import cfg

from os_interface_ext.conf import openstack

GROUP = cfg.OptGroup('neutron', title='The network driver neutron')

# None of its own.
OPTS = openstack.OPTS


def list_opts() -> list[Any]:
    return [(GROUP, openstack.list_opts())]
