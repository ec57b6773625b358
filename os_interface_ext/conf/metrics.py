"""``[metrics]``: what is measured."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('metrics', title='Metrics for Prometheus')

OPTS = [
    cfg.StrOpt(
        'directory',
        help='A directory of this machine, such as /run/os-interface-ext/metrics, in which each process keeps '
        'what it has measured, and from which all of it is added up; made if it is not there. All processes of '
        'one installation on one machine, reconcilers too, share it. Without it nothing is measured. Needs '
        'the extra metrics.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
