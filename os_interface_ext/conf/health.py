"""``[health]``: how it is found out whether this process can serve."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('health', title='Readiness')

OPTS = [
    cfg.FloatOpt(
        'timeout',
        default=3.0,
        min=0.1,
        help='Seconds for which a look at the database and the drivers waits; what has not answered by then is '
        'not ready.',
    ),
    cfg.FloatOpt(
        'cache',
        default=2.0,
        min=0.0,
        help='Seconds for which an answer is given again, so that nobody can hammer the backends with questions.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
