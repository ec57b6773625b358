"""``[api]``: the HTTP contract."""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup('api', title='The API')

OPTS = [
    cfg.StrOpt(
        'max_microversion',
        default='2.104',
        regex=r'^2\.([1-9]|[1-9][0-9]|10[0-4])$',
        help='The highest microversion that is answered, 2.1 to 2.104. Lower it to the maximum of the host, '
        'so that clients are not told two different ones.',
    ),
    cfg.BoolOpt(
        'strict_nova',
        default=False,
        help='Answer as Nova does where this project differs for the better: attaching a port to the server '
        'that has it is 409 (otherwise 200), and DELETE of a port that is not attached is 202 (otherwise 404).',
    ),
    cfg.StrOpt(
        'auth_strategy',
        default='keystone',
        choices=[
            ('keystone', 'keystonemiddleware, with the options of [keystone_authtoken]'),
            ('static_tokens', 'the callers of the embedded inventory, for development'),
        ],
        help='Who tells who asks, where os_interface_ext.wsgi.api:application is served: the composite of '
        'api-paste.ini with this name.',
    ),
    cfg.StrOpt(
        'paste_config',
        default='api-paste.ini',
        help='The paste file of os_interface_ext.wsgi.api:application; a name without a path is looked for '
        'in /etc/os-interface-ext and among the installed files.',
    ),
    cfg.IntOpt(
        'max_request_body_size',
        default=114688,
        min=1024,
        help='The largest body of a request, in bytes.',
    ),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    # By name: a group that is shared would share the overrides of all configurations.
    conf.register_opts(OPTS, group=GROUP.name)


def list_opts() -> list[Any]:
    return [(GROUP, OPTS)]
