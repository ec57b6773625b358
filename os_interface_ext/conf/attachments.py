"""``[attachments]``: the records and their times."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('attachments', title='Attachment records')

OPTS = [
    cfg.FloatOpt(
        'lease',
        default=30.0,
        min=1.0,
        help='Seconds for which a process holds a record that it works on. Side effects '
        'are begun in its first half alone, so that half of it must be longer than the longest of them: when '
        'it has run out, another process may go on with the record.',
    ),
    cfg.FloatOpt(
        'wait',
        default=10.0,
        min=0.0,
        help='Seconds that an attach waits for a port that is in motion, before it answers 503.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
