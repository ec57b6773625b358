"""An HTTP proxy before a service: counts what passes, and does to it what a network or a sick service does."""

from __future__ import annotations

import contextlib
import email.message
import http.client
import http.server
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

#: What is done to one request; whether it has been answered by that. See the functions below.
Trouble = Callable[['_Handler', 'Passing'], bool]


class Passing:
    """One request on its way."""

    def __init__(self, method: str, path: str, headers: email.message.Message, body: bytes) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f'{self.method} {self.path}'


class Proxy:
    """Passes requests on to ``target`` (``http://host:port``), from ``url``, over connections that are kept.

    ``passed`` lists the requests in their order, ``connections`` counts those that came, ``seconds`` is what
    the service took for its answers.
    """

    def __init__(self, target: str) -> None:
        self.target = urllib.parse.urlsplit(target)
        self.passed: list[Passing] = []
        self.seconds = 0.0
        self.connections = 0
        self._troubles: list[tuple[Callable[[Passing], bool], Trouble, int]] = []
        self._guard = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget what has passed."""
        self.passed.clear()
        self.seconds = 0.0

    # ------------------------------------------------------------------ troubles

    @contextlib.contextmanager
    def trouble(
        self, trouble: Trouble, when: Callable[[Passing], bool] = lambda passing: True, times: int = 1_000_000
    ) -> Iterator[None]:
        """Within the block, what ``when`` accepts is done ``trouble`` to, so many times."""
        entry = (when, trouble, times)
        with self._guard:
            self._troubles.append(entry)
        try:
            yield
        finally:
            with self._guard:
                self._troubles = [one for one in self._troubles if one[:2] != entry[:2]]

    def troubles_of(self, passing: Passing) -> Trouble | None:
        with self._guard:
            # What came last comes first: one block may make an exception of what the one around it does.
            for index, (when, trouble, times) in reversed(list(enumerate(self._troubles))):
                if times > 0 and when(passing):
                    self._troubles[index] = (when, trouble, times - 1)
                    return trouble
        return None


def refuse(handler: _Handler, passing: Passing) -> bool:
    """The connection is cut before the service has heard of the request."""
    handler.cut()
    return True


def lose(handler: _Handler, passing: Passing) -> bool:
    """The service does what it is asked; the answer is lost."""
    handler.ask(passing)
    handler.cut()
    return True


def cut(handler: _Handler, passing: Passing) -> bool:
    """The answer breaks off in the middle of its body."""
    status, headers, body = handler.ask(passing)
    handler.answer(status, headers, body, send=body[: len(body) // 2])
    handler.cut()
    return True


def answer(status: int, body: bytes = b'', headers: dict[str, str] | None = None, *, ask: bool = False) -> Trouble:
    """Another answer than the service's own, which is asked all the same with ``ask``."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        if ask:
            handler.ask(passing)
        handler.answer(status, list((headers or {'Content-Type': 'application/json'}).items()), body)
        return True

    return trouble


def change(edit: Callable[[bytes], bytes]) -> Trouble:
    """The service's answer with another body."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        status, headers, body = handler.ask(passing)
        handler.answer(status, headers, edit(body))
        return True

    return trouble


def delay(seconds: float) -> Trouble:
    """The service is asked later."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        time.sleep(seconds)
        return False

    return trouble


def dribble(pause: float) -> Trouble:
    """The answer comes byte by byte."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        status, headers, body = handler.ask(passing)
        handler.answer(status, headers, body, send=b'')
        for byte in body:
            time.sleep(pause)
            with contextlib.suppress(OSError):
                handler.wfile.write(bytes([byte]))
        return True

    return trouble


def before_it(work: Callable[[Passing], object]) -> Trouble:
    """Something else happens right before the service is asked."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        work(passing)
        return False

    return trouble


def after_it(work: Callable[[Passing], object]) -> Trouble:
    """Something else happens between the service's answer and its arrival."""

    def trouble(handler: _Handler, passing: Passing) -> bool:
        told = handler.ask(passing)
        work(passing)
        handler.answer(*told)
        return True

    return trouble


#: Headers that are made anew on the way.
_OURS = ('host', 'content-length')


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    owner: Proxy
    _peer: http.client.HTTPConnection | None = None
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        if self._peer is not None:
            self._peer.close()

    def _handle(self) -> None:
        length = int(self.headers.get('Content-Length') or 0)
        passing = Passing(self.command, self.path, self.headers, self.rfile.read(length))
        self.owner.passed.append(passing)
        trouble = self.owner.troubles_of(passing)
        if trouble is None or not trouble(self, passing):
            try:
                told = self.ask(passing)
            except (OSError, http.client.HTTPException):
                self.cut()
            else:
                self.answer(*told)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _handle

    def ask(self, passing: Passing) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass the request on to the service."""
        begun = time.monotonic()
        for again in (True, False):
            if self._peer is None:
                target = self.owner.target
                self._peer = http.client.HTTPConnection(target.hostname or '', target.port, timeout=60)
            headers = {name: text for name, text in passing.headers.items() if name.lower() not in _OURS}
            try:
                self._peer.request(passing.method, passing.path, passing.body or None, headers)
                response = self._peer.getresponse()
                body = response.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                # The service has closed a connection that was kept.
                self._peer.close()
                self._peer = None
                if not again:
                    raise
        if response.will_close:
            self._peer.close()
            self._peer = None
        self.owner.seconds += time.monotonic() - begun
        return response.status, response.getheaders(), body

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, send: bytes | None = None) -> None:
        self.send_response_only(status)
        for name, text in headers:
            if name.lower() not in ('content-length', 'connection', 'transfer-encoding'):
                self.send_header(name, text)
        if status != 204:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body if send is None else send)

    def cut(self) -> None:
        """End the connection as a crash does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Tests look at ``passed``."""


@contextlib.contextmanager
def before(target: str) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
