"""``[notifications]``: what is published."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('notifications', title='Versioned notifications')

OPTS = [
    cfg.BoolOpt(
        'enabled',
        default=False,
        help="Publish instance.interface_attach.* and instance.interface_detach.* in Nova's form, through "
        'oslo.messaging: see [oslo_messaging_notifications] (topics: versioned_notifications, driver: '
        'messagingv2) and [DEFAULT] transport_url. Needs the extra rpc.',
    ),
    cfg.IntOpt(
        'queue',
        default=1000,
        min=1,
        help='Notifications that wait while the broker is slow or away; more are dropped, and counted.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
