"""``[nova_local]``: the server driver nova-local."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('nova_local', title='The server driver nova-local')

OPTS = [
    cfg.ListOpt(
        'config_files',
        default=['/etc/nova/nova.conf'],
        help="Nova's configuration files, for a process that is not Nova's own, as the reconciler is. "
        'Inside nova-api they are not read: there Nova has its configuration already.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
