"""``[nova]``: the server driver of the same name."""

from typing import Any

from oslo_config import cfg

from os_interface_ext.conf import openstack

GROUP = cfg.OptGroup('nova', title='The server driver nova')

OPTS = [
    cfg.BoolOpt(
        'brought_ports_are_deleted_with_their_server',
        default=False,
        help='Accepts a loss: Nova deletes all ports of a server together with it, unless its own records say '
        'that a user has brought them, and over HTTP nothing can be written there. False: only networks can be '
        'attached, ports that a user brings are refused. True: they are attached, and are lost with the '
        'server unless they are detached before. A plug-in inside nova-api keeps them with server_driver = '
        'nova-local.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # The others are registered by the client that asks Nova.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, [*OPTS, *openstack.list_opts()])]
