"""The controller as processes: gunicorn with workers that share one socket and one database."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from os_interface_ext import exceptions

_THREADS = 8
_BACKLOG = 2048

_SETTINGS = {
    'worker_class': 'gthread',
    'threads': _THREADS,
    'keepalive': 60,
    'graceful_timeout': 10,
    'backlog': _BACKLOG,
    'loglevel': 'error',
    # An odd id may be as long as it likes: it is a fault of the API's kind, not a page of the server's.
    'limit_request_line': 0,
    # Nobody operates this server by a socket in the home directory.
    'control_socket_disable': True,
}


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address, but does not listen yet.

    :raises ConfigurationError: the address cannot be had
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, UnicodeError) as error:
        raise _unavailable(host, port, error) from error
    return sock


def listen(sock: socket.socket) -> None:
    """:raises ConfigurationError: another process was quicker"""
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise _unavailable(host, port, error) from error


def _unavailable(host: str, port: int, error: Exception) -> exceptions.ConfigurationError:
    why = getattr(error, 'strerror', None) or error
    return exceptions.ConfigurationError(
        f'cannot listen at {host}:{port} ({why}): choose another --host or --port'
    )


class Server(BaseApplication):
    """:param sock: where to accept connections
    :param make_application: called in each worker, after the fork
    """

    def __init__(self, sock: socket.socket, workers: int, make_application: Callable[[], Any]) -> None:
        self._settings = {**_SETTINGS, 'bind': f'fd://{sock.detach()}', 'workers': workers}
        self._make_application = make_application
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            # Some are newer than the oldest gunicorn that will do.
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        return self._make_application()
