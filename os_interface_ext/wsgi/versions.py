"""The version documents and the description of the API served by itself, for clients that have no token yet.

In another application these URLs are the host's: neither the blueprint nor the filter answers one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson
from werkzeug.wrappers import Response
from werkzeug.wsgi import get_current_url

from os_interface_ext import conf as config
from os_interface_ext.api import description, faults, microversions

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Where api-paste.ini puts the API.
_MOUNT = 'v2.1/'


class Versions:
    """Answers GET of the place where it stands, and of the description there; every other request goes on.

    :param application: what is behind: the API, whose version this place is, or None for the root above it
    """

    def __init__(self, application: WSGIApplication | None, maximum: str) -> None:
        self._application = application
        self._maximum = maximum

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ['REQUEST_METHOD'] in ('GET', 'HEAD'):
            answer = self._answer(environ, environ.get('PATH_INFO', ''))
            if answer is not None:
                return answer(environ, start_response)
        if self._application is not None:
            return self._application(environ, start_response)
        return faults.not_found(environ)(environ, start_response)

    def _answer(self, environ: dict[str, Any], path: str) -> Response | None:
        if path in ('', '/'):
            return Response(orjson.dumps(self._document(environ)), content_type='application/json')
        if self._application is not None and path[1:] in description.FILES:
            place = get_current_url(environ, root_only=True)
            return description.response(environ, path[1:], self._maximum, place)
        return None

    def _document(self, environ: dict[str, Any]) -> dict[str, Any]:
        place = get_current_url(environ, root_only=True)
        if self._application is None:
            return {'versions': [microversions.document(self._maximum, place + _MOUNT)]}
        return {'version': microversions.document(self._maximum, place)}


def filter_factory(
    global_conf: Mapping[str, str], config_file: str | None = None
) -> Callable[[WSGIApplication], Versions]:
    """The document of the version that is behind; ``[api] max_microversion``."""
    maximum = config.new([config_file] if config_file else None).api.max_microversion
    return lambda application: Versions(application, maximum)


def app_factory(global_conf: Mapping[str, str], config_file: str | None = None) -> Versions:
    """The list of the versions, for the root."""
    return Versions(None, config.new([config_file] if config_file else None).api.max_microversion)
