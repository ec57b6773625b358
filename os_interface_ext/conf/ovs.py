"""``[ovs]``: the VIF driver of the same name."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('ovs', title='The VIF driver ovs')

OPTS = [
    cfg.StrOpt(
        'ovsdb_connection',
        default='unix:/run/openvswitch/db.sock',
        help='Where ovsdb-server listens: unix:PATH or tcp:ADDRESS:PORT.',
    ),
    cfg.StrOpt(
        'bridge',
        default='br-int',
        help='The bridge of a port whose binding names none (bridge_name in its vif_details). It is made by '
        'somebody else.',
    ),
    cfg.StrOpt(
        'device',
        default='tap',
        choices=['tap', 'veth'],
        help='What is made for a port: a tap device, for whoever runs the server to open, or a veth pair, whose '
        'other end is for him to take.',
    ),
    cfg.StrOpt(
        'host_namespace',
        default='',
        help='The network namespace of ovs-vswitchd and of the devices: a name below /run/netns, or an absolute '
        "path; empty: this process's own.",
    ),
    cfg.FloatOpt(
        'timeout',
        default=10.0,
        min=0.1,
        help='Seconds that a plug or an unplug may take, with all its waits for ovsdb-server and ovs-vswitchd. It '
        'has to stay below half of [attachments] lease: one that is begun at the last moment must be over before '
        'somebody else goes on with the record.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
