"""Development's authentication: a token is a row of the embedded inventory's callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from os_interface_ext import conf as config
from os_interface_ext import context, exceptions
from os_interface_ext.api import faults
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import callers

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class StaticTokens:
    """Hands the identity of a known ``X-Auth-Token`` over in environ; anything else is a 401.

    :param public: paths that want no token
    """

    def __init__(self, application: WSGIApplication, database: Database, public: Iterable[str] = ()) -> None:
        self._application = application
        self._database = database
        self._public = frozenset(public)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop(context.IDENTITY_KEY, None)
        if environ.get('PATH_INFO', '') not in self._public:
            try:
                environ[context.IDENTITY_KEY] = self._identify(environ)
            except exceptions.OsInterfaceError as error:
                return faults.of_error(environ, error)(environ, start_response)
        return self._application(environ, start_response)

    def _identify(self, environ: Mapping[str, Any]) -> dict[str, Any]:
        identity = callers.find(self._database, environ.get('HTTP_X_AUTH_TOKEN', ''))
        if identity is None:
            raise exceptions.Unauthorized()
        return identity


def filter_factory(
    global_conf: Mapping[str, str], config_file: str | None = None, public: str = '', **local_conf: str
) -> Callable[[WSGIApplication], StaticTokens]:
    """``use = egg:os-interface-ext#static_tokens``, with ``config_file`` and ``public`` (paths)."""
    database = Database.of(config.new([config_file] if config_file else None))
    schema.require_current(database)
    database.dispose()
    return lambda application: StaticTokens(application, database, public.split())
