"""``[rpc]``: the VIF driver of the same name, and its agents."""

import socket
from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('rpc', title='The VIF driver rpc, and its agents')

OPTS = [
    cfg.StrOpt(
        'topic',
        default='os-interface-ext',
        regex=r'^[A-Za-z0-9._-]{1,100}$',
        help='How the exchange is called, and what the names of the queues begin with: the same for all '
        'controllers and agents of an installation.',
    ),
    cfg.StrOpt(
        'host',
        default=socket.gethostname(),
        sample_default='<the host name>',
        help='Of an agent: the name of its host, as the server driver tells it.',
    ),
    cfg.FloatOpt(
        'timeout',
        default=10.0,
        min=0.1,
        help='Seconds that an agent has to plug or unplug; less if the lease of the record leaves less.',
    ),
    cfg.FloatOpt(
        'ping_timeout',
        default=2.0,
        min=0.1,
        help='Seconds that an agent, and a reconciler that an agent asks, have to answer what needs no work.',
    ),
    cfg.FloatOpt(
        'cache_time',
        default=5.0,
        min=0.0,
        help='Seconds for which it is remembered what an agent can do, and that one does not answer.',
    ),
    cfg.ListOpt(
        'gone_hosts',
        default=[],
        help='Hosts that are gone for good, with all that was plugged there: what is to be unplugged there is '
        'taken for unplugged. Name one only when no server can run there any more.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
