"""A TCP proxy before a server, that loses what a network may lose."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Proxy:
    """Passes connections on to a port of 127.0.0.1, from a port of its own, or from a listening socket.

    ``lose_answer_to``: the answer to the next request that ends so (but for NULs) is lost, and its connection
    breaks; the server has got the request. ``silent``: new connections are accepted, and nothing more.
    """

    def __init__(self, target: int, listening: socket.socket | None = None) -> None:
        self.lose_answer_to: bytes | None = None
        self.silent = False
        #: set once an answer was lost
        self.lost = threading.Event()
        self._target = target
        self._open: list[socket.socket] = []
        self._listening = listening or socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # Closing alone would leave the thread in accept().
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for one in self._open:
            one.close()

    def cut(self) -> None:
        """Break the connections that are open."""
        for one in self._open:
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(client)
            if not self.silent:
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(('127.0.0.1', self._target))
        except OSError:
            # A client of a server that is down.
            _end(client)
            return
        self._open.append(server)
        losing = threading.Event()
        threading.Thread(target=self._answer, args=(client, server, losing), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                wanted = self.lose_answer_to
                if wanted is not None and data.rstrip(b'\0').endswith(wanted):
                    self.lose_answer_to = None
                    losing.set()
                server.sendall(data)
        _end(server)

    def _answer(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if losing.is_set():
                    self.lost.set()
                    break
                client.sendall(data)
        _end(client)
        _end(server)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def before(port: int, listening: socket.socket | None = None) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(port, listening)
    try:
        yield proxy
    finally:
        proxy.close()
