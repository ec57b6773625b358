"""``[netns]``: the VIF driver of the same name."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('netns', title='The VIF driver netns')

OPTS = [
    cfg.StrOpt(
        'namespace',
        default='{id}',
        help='The network namespace of a server: a name below /run/netns, or an absolute path. {id} and {name} '
        'stand for those of the server.',
    ),
    cfg.StrOpt(
        'host_namespace',
        default='',
        help="The network namespace of the bridges, likewise; empty: this process's own.",
    ),
    cfg.StrOpt(
        'interface', default='eth', help='How a NIC is called in its namespace: this and the first number free.'
    ),
    cfg.IntOpt(
        'prefix_v4',
        default=24,
        min=1,
        max=32,
        help='The length of the prefix of an IPv4 address whose subnet the network driver does not tell.',
    ),
    cfg.IntOpt('prefix_v6', default=64, min=1, max=128, help='The same of an IPv6 address.'),
    cfg.StrOpt(
        'lock_path',
        default='/run/os-interface-ext',
        help='The directory of the lock: the same one for all processes that plug on this machine.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
