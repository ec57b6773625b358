"""``[reconciler]``: what carries on records that nobody works on, and looks after the world."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('reconciler', title='The reconciler')

OPTS = [
    cfg.FloatOpt(
        'interval',
        default=5.0,
        min=0.01,
        help='Seconds between two looks for records that nobody works on.',
    ),
    cfg.FloatOpt(
        'world_interval',
        default=60.0,
        min=0.01,
        help='Seconds between two looks at the world: servers and ports of ATTACHED records, ports of ours '
        'without a record.',
    ),
    cfg.FloatOpt(
        'grace',
        default=120.0,
        min=0.0,
        help='Seconds that must lie between the first and the last look that does not find a server, a port '
        'or a record, before anything is done about it.',
    ),
    cfg.FloatOpt(
        'backoff',
        default=1.0,
        min=0.01,
        help='Seconds until a step that failed is tried again; doubled with each attempt.',
    ),
    cfg.FloatOpt('backoff_cap', default=300.0, min=0.01, help='The longest time between two attempts.'),
    cfg.IntOpt(
        'stuck_attempts',
        default=8,
        min=1,
        help='Attempts after which a record is called stuck: a warning is logged, and listeners are told. '
        'It is tried on all the same.',
    ),
    cfg.IntOpt('page', default=200, min=1, help='Records that are read at a time.'),
    cfg.IntOpt(
        'max_gone',
        default=50,
        min=0,
        help='Records that one look at the world may end because their server or port is gone, and NICs that '
        'an agent may unplug at its start. More than that is taken for a failure of the backend: nothing is '
        'done, and an error is logged.',
    ),
    cfg.IntOpt(
        'max_deletes',
        default=20,
        min=0,
        help='Ports of ours without a record that one look at the world may delete.',
    ),
    cfg.IntOpt(
        'history_days',
        default=30,
        min=0,
        help='Days for which the result of a finished detach is kept.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
