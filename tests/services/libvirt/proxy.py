"""Between a client and libvirtd: tells which calls pass, and can break the connection at one of them.

The form of a message: https://libvirt.org/kbase/internals/rpc.html.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

#: Procedures of the remote protocol: their numbers are for ever.
ATTACH, DETACH = 160, 392
_CALL, _REPLY = 0, 1


class Proxy:
    """:param path: where it listens
    :param server: the socket of libvirtd
    """

    def __init__(self, path: pathlib.Path, server: pathlib.Path) -> None:
        self.uri = f'qemu+unix:///system?socket={path}'
        #: the procedures that were called, in order
        self.calls: list[int] = []
        self._server = server
        #: Called with each message; whether the connection is to be broken instead.
        self._breaks: Callable[[int, bool], bool] = lambda procedure, is_reply: False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @contextlib.contextmanager
    def breaking(self, breaks: Callable[[int, bool], bool]) -> Iterator[None]:
        """Within the block: ``breaks(procedure, is_reply)`` tells where a connection breaks."""
        before, self._breaks = self._breaks, breaks
        try:
            yield
        finally:
            self._breaks = before

    def losing_answers(self) -> contextlib.AbstractContextManager[None]:
        """Within the block libvirtd does what it is asked, but no answer to a change comes back."""
        return self.breaking(lambda procedure, is_reply: is_reply and procedure in (ATTACH, DETACH))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._server))
                except OSError:
                    client.close()
                    continue
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while message := _message(source):
                procedure, kind = struct.unpack_from('!II', message, 12)
                if kind == _CALL:
                    self.calls.append(procedure)
                if kind in (_CALL, _REPLY) and self._breaks(procedure, kind == _REPLY):
                    break
                target.sendall(message)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def _message(source: socket.socket) -> bytes:
    """One message with its length; empty at the end."""
    head = _exactly(source, 4)
    return head + _exactly(source, struct.unpack('!I', head)[0] - 4) if head else b''


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b''
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            return b''
        data += piece
    return data


@contextlib.contextmanager
def listening(path: pathlib.Path, server: pathlib.Path) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(path, server)
    try:
        yield proxy
    finally:
        proxy.close()
        path.unlink()
