"""Who tells who asks."""

from __future__ import annotations

from typing import Any

from os_interface_ext.checks.check import Finding, error, failure, ok
from os_interface_ext.checks.installation import Installation
from os_interface_ext.conf import keystone_authtoken

_GROUP = 'keystone_authtoken'


def keystone(installation: Installation) -> Finding:
    """The Keystone of ``[keystone_authtoken]`` gives us a token, with which those of others are looked at."""
    if not any(_GROUP in sections for sections in installation.written.values()):
        return ok(f'no [{_GROUP}]: a host or static tokens tell who asks')
    try:
        with installation.making:
            from keystoneauth1 import exceptions as ks_exceptions
            from keystoneauth1 import loading, session

            keystone_authtoken.register_opts(installation.conf)
            auth = loading.load_auth_from_conf_options(installation.conf, _GROUP)
    except ImportError as failed:
        return failure(failed, 'install os-interface-ext[keystone]')
    except Exception as failed:
        return failure(failed, f'correct the options of [{_GROUP}]')
    if auth is None:
        return error(
            f'[{_GROUP}] auth_type is not set', 'set auth_type, auth_url, username, password, project_name'
        )
    options: Any = installation.conf[_GROUP]
    verify = not options.insecure and (options.cafile or True)
    try:
        session.Session(auth=auth, verify=verify, timeout=options.http_connect_timeout).get_token()
    except (ks_exceptions.Unauthorized, ks_exceptions.Forbidden) as failed:
        return failure(
            failed, f'correct username, password, project and domains of [{_GROUP}]: Keystone refuses them'
        )
    except Exception as failed:
        return failure(failed, f'start Keystone, or correct [{_GROUP}] auth_url')
    return ok(f'Keystone at {getattr(auth, "auth_url", options.auth_type)}')
