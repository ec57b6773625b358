"""``[database]``: where the records are."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('database', title='The database of the attachment records')

OPTS = [
    cfg.StrOpt(
        'connection',
        default='sqlite:////var/lib/os-interface-ext/os-interface-ext.sqlite',
        secret=True,
        help='SQLAlchemy URL of the database, such as sqlite:////var/lib/…/osif.sqlite, '
        'postgresql+psycopg://user:password@host/name or mysql+pymysql://user:password@host/name. '
        'It may be the database of the host: the tables begin with osif_.',
    ),
    cfg.IntOpt('max_pool_size', default=10, min=1, help='Connections that a process keeps open.'),
    cfg.IntOpt('max_overflow', default=40, min=0, help='Connections that a process may open beyond these.'),
    cfg.FloatOpt('pool_timeout', default=10.0, min=0.1, help='Seconds to wait for a free connection.'),
    cfg.IntOpt('connection_recycle_time', default=3600, min=-1, help='Seconds after which one is renewed.'),
    cfg.FloatOpt('busy_timeout', default=15.0, min=0.1, help='Seconds that SQLite waits for a writer.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
