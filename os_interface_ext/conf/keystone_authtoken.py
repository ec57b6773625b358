"""``[keystone_authtoken]``: the options of keystonemiddleware, as every OpenStack operator knows them."""

from __future__ import annotations

import copy
from typing import Any

from oslo_config import cfg

#: What an operator need not write: keystonemiddleware's own defaults leave these open, or have changed.
DEFAULTS: dict[str, Any] = {
    # It has none: a Keystone that takes connections and says nothing would stop every thread for good.
    'http_connect_timeout': 5,
    'http_request_max_retries': 1,
    # Off before its release 12: then any token will do beside an expired one.
    'service_token_roles_required': True,
    # Without it, application credentials that are limited by access rules are refused as a whole.
    'service_type': 'compute',
}


def register_opts(conf: cfg.ConfigOpts) -> None:
    from keystonemiddleware import opts

    for group, known in opts.list_auth_token_opts():
        conf.register_opts(known, group=group)
        for name, value in DEFAULTS.items():
            conf.set_default(name, value, group=group)


def list_opts() -> list[Any]:
    """With our defaults, and with what the plug-in ``password`` takes; none without the extra keystone."""
    try:
        from keystoneauth1 import loading
        from keystonemiddleware import opts
    except ImportError:
        return []
    found = [(group, copy.deepcopy(known)) for group, known in opts.list_auth_token_opts()]
    for _, known in found:
        cfg.set_defaults(known, **DEFAULTS)
        known += copy.deepcopy(loading.get_auth_plugin_conf_options('password'))
    return found
