"""``[os_interface]``: which backends are used."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('os_interface', title='Backend drivers')

OPTS = [
    cfg.StrOpt(
        'server_driver',
        default='sql',
        help='Tells who a server is: a name of the entry points os_interface_ext.server_drivers.',
    ),
    cfg.StrOpt(
        'network_driver',
        default='sql',
        help='Tells and makes ports: a name of the entry points os_interface_ext.network_drivers.',
    ),
    cfg.StrOpt(
        'vif_driver',
        default='noop',
        help='Plugs ports into servers: a name of the entry points os_interface_ext.vif_drivers.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
