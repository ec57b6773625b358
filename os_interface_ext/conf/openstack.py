"""What the groups of drivers have in common that ask an API of OpenStack."""

from __future__ import annotations

import contextlib
import copy

from oslo_config import cfg

OPTS = [
    cfg.FloatOpt(
        'connect_timeout',
        default=3.0,
        min=0.1,
        help='Seconds after which a connection that does not come about is given up.',
    ),
    cfg.FloatOpt(
        'read_timeout',
        default=10.0,
        min=0.1,
        help='Seconds for which an answer is waited for, and for its body. With connect_timeout it has to '
        'stay below half of [attachments] lease: a request that is begun at the last moment must be over '
        'before somebody else goes on with the record.',
    ),
    cfg.IntOpt(
        'read_retries',
        default=2,
        min=0,
        help='How often a request that only reads is repeated when it fails; one that writes never is.',
    ),
    cfg.IntOpt(
        'pool_size',
        default=50,
        min=1,
        help='Connections that a process keeps open for its threads.',
    ),
]


def register_opts(conf: cfg.ConfigOpts, group: str) -> None:
    """Those of keystoneauth too; what its plug-in takes is registered when that is made."""
    from keystoneauth1 import loading

    loading.register_auth_conf_options(conf, group)
    loading.register_session_conf_options(conf, group)
    loading.register_adapter_conf_options(conf, group)
    conf.register_opts(OPTS, group=group)


def list_opts() -> list[cfg.Opt]:
    """With what the plug-in ``password`` takes; without the extra of the driver, our own alone."""
    found = list(OPTS)
    with contextlib.suppress(ImportError):
        from keystoneauth1 import loading

        found += loading.get_auth_common_conf_options()
        found += loading.get_session_conf_options()
        found += loading.get_adapter_conf_options(include_deprecated=False)
        found += loading.get_auth_plugin_conf_options('password')
    # Of several groups: each of them gets its own.
    return copy.deepcopy(found)
