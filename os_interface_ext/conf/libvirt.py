"""``[libvirt]``: the server driver and the VIF driver of the same name."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('libvirt', title='The server driver and the VIF driver libvirt')

OPTS = [
    cfg.StrOpt(
        'uri',
        default='qemu:///system',
        help='The connection URI of the libvirt whose domains are the servers.',
    ),
    cfg.FloatOpt(
        'call_timeout',
        default=10.0,
        min=0.1,
        help='Seconds for which the answer to one call is waited for. It has to stay below half of [attachments] '
        'lease: a call that is begun at the last moment must be over before somebody else goes on with the '
        'record.',
    ),
    cfg.BoolOpt(
        'event_loop',
        help="Whether a thread runs libvirt's event loop: then the end of an unplug is told at once, and a "
        'libvirtd that stands still is noticed by its keepalive messages. A process has one loop for all that use '
        'libvirt in it. Unset: in the processes of this project alone. True: in a host too, which must then use '
        'libvirt for nothing else, and not be monkey-patched by eventlet. False: nowhere.',
    ),
    cfg.StrOpt(
        'project_id',
        default='',
        help="The project of domains whose metadata name none; empty: such domains are nobody's, and not found.",
    ),
    cfg.StrOpt('host', default='', help='The host of all domains; empty: the hostname that libvirt tells.'),
    cfg.DictOpt(
        'linux_bridges',
        default={},
        help='Networks whose ports are plugged into a Linux bridge: pairs network:bridge, with commas between '
        'them; * stands for every other network. The network driver is asked about what is in no pair.',
    ),
    cfg.DictOpt('ovs_bridges', default={}, help='The same for bridges of Open vSwitch.'),
    cfg.StrOpt(
        'integration_bridge',
        default='br-int',
        help='The bridge of Open vSwitch for a port whose binding says ovs, but not which bridge.',
    ),
    cfg.StrOpt('model', default='virtio', regex=r'^[a-z0-9-]+$', help='What the guest sees as its NIC.'),
    cfg.FloatOpt(
        'unplug_wait',
        default=5.0,
        min=0.0,
        help='Seconds for which a guest is waited for that has to give a NIC back. A detach is then answered '
        '(202), stays visible, and the reconciler asks on.',
    ),
    cfg.FloatOpt('unplug_repeat', default=2.0, min=0.1, help='Seconds after which a guest is asked once more.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
