"""A small controller with identities of Keystone, for gunicorn: ``tests.integration.keystone_host:application``.

The port interfaces and the version documents are the ``keystone`` composite as it is delivered. The servers are
the host's: those of the reference host, with the same filter before them. All read
``$OS_INTERFACE_EXT_CONFIG_FILES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import flask
from oslo_middleware import request_id

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.api import faults
from os_interface_ext.extension import Extension
from os_interface_ext.middleware import configured
from os_interface_ext.standalone import servers
from os_interface_ext.wsgi import api

_COMPOSITE = re.compile(r'/(?:healthcheck|v2\.1/?)?|/v2\.1(?:/[^/]+)?/servers/[^/]+/os-interface(?:/[^/]+)?')


class Host:
    """Sends each request where it belongs."""

    def __init__(self) -> None:
        app = flask.Flask('host', static_folder=None)
        app.register_blueprint(servers.blueprint(Extension(config.new()).parts))
        app.register_error_handler(exceptions.OsInterfaceError, _fault)
        self._servers = request_id.RequestId(configured.authtoken({})(app))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        ours = _COMPOSITE.fullmatch(environ.get('PATH_INFO', ''))
        chosen: Any = api.application if ours else self._servers
        return chosen(environ, start_response)  # type: ignore[no-any-return]


def _fault(error: Exception) -> Any:
    assert isinstance(error, exceptions.OsInterfaceError)
    return faults.of_error(flask.request.environ, error)


application = Host()
