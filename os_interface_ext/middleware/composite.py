"""A paste composite that mounts applications below prefixes (``egg:Paste#urlmap`` needs pkg_resources)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class URLMap:
    """Sends a request to the application with the longest prefix of its path.

    The prefix moves from PATH_INFO to SCRIPT_NAME, as WSGI has it.

    :param applications: prefix (``/`` for the rest) to application
    """

    def __init__(self, applications: Mapping[str, WSGIApplication]) -> None:
        mounts = [(prefix.rstrip('/'), application) for prefix, application in applications.items()]
        self._mounts = sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get('PATH_INFO', '')
        for prefix, application in self._mounts:
            if path == prefix or path.startswith(prefix + '/'):
                environ['SCRIPT_NAME'] = environ.get('SCRIPT_NAME', '') + prefix
                environ['PATH_INFO'] = path[len(prefix) :]
                return application(environ, start_response)
        start_response('404 Not Found', [('Content-Type', 'text/plain'), ('Content-Length', '9')])
        return [b'Not Found']


def urlmap_factory(loader: Any, global_conf: Mapping[str, str], **local_conf: str) -> URLMap:
    """``use = egg:os-interface-ext#urlmap``; the other lines are ``/prefix = application``."""
    return URLMap(
        {
            prefix: loader.get_app(name, global_conf=global_conf)
            for prefix, name in local_conf.items()
            if prefix.startswith('/')
        }
    )
