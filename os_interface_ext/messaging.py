"""oslo.messaging with bounds: calls, and notifications, at a broker that may do whatever it likes.

A call is answered or given up in time; a notification is sent by whoever can wait for it. The transports of both
are made here alone: from a configuration object of this project, with oslo.messaging's own options on it
(``transport_url`` in ``[DEFAULT]``, ``[oslo_messaging_rabbit]``, ``[oslo_messaging_notifications]``), and in the
process that uses them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.observability import logs

with warnings.catch_warnings():
    # It imports eventlet where that is installed, which warns of itself; nothing of it is used.
    warnings.simplefilter('ignore')
    import oslo_messaging
    from oslo_messaging import opts
    from oslo_messaging.rpc import server

LOG = logs.get(__name__)

T = TypeVar('T')

_RABBIT = 'oslo_messaging_rabbit'
_NOTIFICATIONS = 'oslo_messaging_notifications'
_URL = '[DEFAULT] transport_url'
#: What oslo.messaging asks every configuration for, but registers on the global one alone.
_GLOBAL = ('oslo_messaging_metrics', 'oslo_messaging_tracing')
#: Other defaults than oslo.messaging's, for calls alone: a queue is gone with its consumer, so that it is known
#: at once that nobody listens; and a connection that the broker has closed is made anew within the time of a
#: call. (kombu_missing_consumer_retry_timeout stays: after it the library answers a caller no more for minutes.)
_CALLS = {'amqp_auto_delete': 'true', 'kombu_reconnect_delay': '0.2'}
#: Sendings of a message: connections that a broker has closed show when they are used.
_RETRIES = 1
#: Calls of a process that may be on their way at a time.
_CALLS_AT_ONCE = 64
#: Seconds until a server that has failed to start is started again.
START_AGAIN = 5.0
#: Seconds that the library has to tell what became of a call, beyond the time of the call.
_SLACK = 0.05


class Bus:
    """Calls and servers on one exchange of the broker.

    :raises ConfigurationError: the options of the broker are wrong; it is not asked for anything yet
    """

    def __init__(self, conf: cfg.ConfigOpts, exchange: str) -> None:
        self._conf = conf
        self._exchange = exchange
        for name in _GLOBAL:
            # The options, and none of their values.
            group = cfg.CONF._groups.get(name)
            for option in list(group._opts.values()) if group else ():
                conf.register_opt(option['opt'], group=name)
        self._url = _url(conf, None, _URL)
        if _is_default(conf, 'transport_url'):
            raise _bad_url(_URL, 'is not set: name the broker, such as rabbit://user:password@host:5672/')
        # Its errors are told at the start; and only with it are there options to choose defaults of.
        self._make_transport()
        self._choose_defaults()
        #: The transport, and how many calls it may yet make.
        self._own = _by_process(lambda: (self._make_transport(), threading.Semaphore(_CALLS_AT_ONCE)))

    def target(self, topic: str, name: str | None = None) -> oslo_messaging.Target:
        """All that serve a topic, for any of them to answer, or the one of a name."""
        return oslo_messaging.Target(exchange=self._exchange, topic=topic, server=name, version='1.0')

    def call(
        self,
        target: oslo_messaging.Target,
        context: dict[str, Any],
        method: str,
        timeout: float,
        **arguments: Any,
    ) -> Any:
        """What a method of another process answers.

        :raises Unavailable: nobody listens there, or it cannot be sent
        :raises UnknownOutcome: it may have been done, but no answer has come
        """
        where = f'{target.topic}.{target.server}' if target.server else target.topic
        if timeout <= 0:
            raise exceptions.Unavailable(operator=f'{where}: no time is left to call {method}')
        transport, calls = self._own()
        if not calls.acquire(blocking=False):
            raise exceptions.Unavailable(operator=f'{where}: {_CALLS_AT_ONCE} calls wait for the broker already')
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        client = oslo_messaging.get_rpc_client(
            transport,
            target,
            timeout=timeout,
            retry=_RETRIES,
            transport_options=oslo_messaging.TransportOptions(at_least_once=True),
        )

        def run() -> None:
            try:
                outcome.set_result(client.call(context, method, **arguments))
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                calls.release()

        # Apart, for without a broker the library may wait for ever: and no such thread keeps a process alive.
        try:
            threading.Thread(target=run, name=f'call {method}', daemon=True).start()
        except RuntimeError as error:
            calls.release()
            raise exceptions.Unavailable(operator=f'{where}: {error}') from error
        try:
            return outcome.result(timeout + _SLACK)
        except oslo_messaging.MessageUndeliverable as error:
            raise exceptions.Unavailable(operator=f'{where}: nobody listens') from error
        except (TimeoutError, oslo_messaging.MessagingTimeout) as error:
            raise exceptions.UnknownOutcome(
                operator=f'{where}: no answer to {method} in {timeout:.1f} s'
            ) from error
        except Exception as error:
            raise exceptions.UnknownOutcome(operator=f'{where}: {type(error).__name__}: {error}') from error

    def check(self, target: oslo_messaging.Target, timeout: float) -> None:
        """Return if the broker takes a call, be there somebody to answer it or not.

        :raises Unavailable: it does not, in that time
        """
        try:
            self.call(target, {}, 'ping', timeout)
        except exceptions.Unavailable as error:
            if not isinstance(error.__cause__, oslo_messaging.MessageUndeliverable):
                raise exceptions.Unavailable(
                    operator=f'the message broker: {error.operator}',
                    operator_cure='start RabbitMQ, or correct host, port, user and password in [DEFAULT] '
                    'transport_url',
                ) from error

    def serve(self, target: oslo_messaging.Target, endpoint: object) -> Serving:
        """Have a target's calls answered by the methods of an endpoint, as soon as there is a broker.

        One of the methods is ``ping``, which does nothing.
        """
        transport, _ = self._own()

        def make() -> _Server:
            made: _Server = oslo_messaging.get_rpc_server(transport, target, [endpoint], server_cls=_Server)
            return made

        return Serving(make, oslo_messaging.get_rpc_client(transport, target, retry=0))

    # ------------------------------------------------------------------ the transport

    def _make_transport(self) -> oslo_messaging.Transport:
        return _transport(self._conf, self._url, oslo_messaging.get_rpc_transport, _URL)

    def _choose_defaults(self) -> None:
        if _RABBIT not in self._conf:
            return
        if self._conf[_RABBIT].rabbit_quorum_queue:
            # They stay when nobody consumes them; that an agent is away shows by its silence then.
            return
        for name, value in _CALLS.items():
            if _is_default(self._conf, name, _RABBIT):
                # The URL's options are those of its transport alone; notifications keep theirs.
                self._url.query.setdefault(name, value)


class Notifier:
    """Notifications, at the broker of ``[oslo_messaging_notifications]`` or that of the calls.

    :param topic: of the queues, unless the options say otherwise
    :param publisher: whose they are
    :raises ConfigurationError: the options are wrong; the broker is not asked for anything yet
    """

    def __init__(self, conf: cfg.ConfigOpts, topic: str, publisher: str) -> None:
        conf.register_opts(dict(opts.list_opts())[_NOTIFICATIONS], group=_NOTIFICATIONS)
        conf.set_default('topics', [topic], group=_NOTIFICATIONS)
        conf.set_default('driver', ['messagingv2'], group=_NOTIFICATIONS)
        options = conf[_NOTIFICATIONS]
        installed = metadata.entry_points(group='oslo.messaging.notify.drivers').names
        if unknown := set(options.driver) - installed:
            raise exceptions.ConfigurationError(
                f'option [{_NOTIFICATIONS}] driver: {min(unknown)!r} is not installed; '
                f'installed: {", ".join(sorted(installed))}'
            )
        where = f'[{_NOTIFICATIONS}] transport_url' if options.transport_url else _URL
        url = _url(conf, options.transport_url, where)

        def make() -> oslo_messaging.Notifier:
            transport = _transport(conf, url, oslo_messaging.get_notification_transport, where)
            notifier = oslo_messaging.Notifier(transport, publisher_id=publisher)
            # A connection that is yet to be made is given up at once with -1, which means for ever elsewhere.
            return notifier if notifier.retry >= 0 else notifier.prepare(retry=None)

        # Its errors are told at the start.
        make()
        self._own = _by_process(make)

    def notify(self, ctxt: Any, event_type: str, payload: dict[str, Any], *, is_error: bool) -> None:
        """Send one; without a broker it is waited for, for ever unless ``retry`` says otherwise.

        What is given up is logged by the library.
        """
        notifier = self._own()
        (notifier.error if is_error else notifier.info)(ctxt, event_type, payload)


class _Server(server.RPCServer):
    """Knows how many calls are at hand, until they are answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._changed = threading.Condition()
        self._at_hand = 0

    def _on_incoming(self, incoming: Any) -> None:
        with self._changed:
            self._at_hand += 1
        super()._on_incoming(incoming)

    def _process_incoming(self, incoming: Any) -> None:
        try:
            super()._process_incoming(incoming)
        finally:
            with self._changed:
                self._at_hand -= 1
                self._changed.notify_all()

    def wait_until_idle(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._at_hand, timeout)


class Serving:
    """A server that runs, or will as soon as there is a broker.

    :param make: a server; one that has failed to start cannot be started again
    """

    def __init__(self, make: Callable[[], _Server], own_client: oslo_messaging.RPCClient) -> None:
        self._make = make
        self._server = make()
        self._own_client = own_client
        self._listens = threading.Event()
        self._ends = threading.Event()
        threading.Thread(target=self._start, name='rpc server', daemon=True).start()

    def wait(self, timeout: float) -> bool:
        """Whether it listens by then."""
        return self._listens.wait(timeout)

    def stop(self, patience: float) -> bool:
        """Take no more calls, and end those at hand; whether they have ended by then."""
        self._ends.set()
        if self._listens.is_set():
            for work in (self._end, self._wake):
                threading.Thread(target=work, name='rpc server ends', daemon=True).start()
        return self._server.wait_until_idle(patience)

    def _end(self) -> None:
        self._server.stop()
        # What has been sent to it and not been begun is another one's.
        self._server.listener.cleanup()

    def _wake(self) -> None:
        """The library's listener looks only every few seconds whether it is to end, and after each message."""
        with contextlib.suppress(Exception):
            self._own_client.cast({}, 'ping')

    def _start(self) -> None:
        while not self._ends.is_set():
            try:
                self._server.start()
            except Exception:
                LOG.exception('calls cannot be served; tried again in %s s', START_AGAIN)
                self._ends.wait(START_AGAIN)
                self._server = self._make()
            else:
                self._listens.set()
                return


# ---------------------------------------------------------------------- transports


def _transport(
    conf: cfg.ConfigOpts,
    url: oslo_messaging.TransportURL,
    make: Callable[[cfg.ConfigOpts, oslo_messaging.TransportURL], oslo_messaging.Transport],
    option: str,
) -> oslo_messaging.Transport:
    """Nothing is connected by it, and no thread started.

    :param option: where the URL stands
    :raises ConfigurationError: the options of the broker are wrong
    """
    try:
        return make(conf, url)
    except oslo_messaging.DriverLoadFailure as error:
        raise _bad_url(option, str(error)) from error
    except (cfg.Error, ValueError, RuntimeError) as error:
        raise exceptions.ConfigurationError(f'[{_RABBIT}]: {" ".join(str(error).split())}') from error


def _url(conf: cfg.ConfigOpts, text: str | None, option: str) -> oslo_messaging.TransportURL:
    """Where a broker is.

    :param text: None: as ``[DEFAULT] transport_url`` has it
    :param option: where it stands
    :raises ConfigurationError: it makes no sense
    """
    try:
        return oslo_messaging.TransportURL.parse(conf, text)
    except (oslo_messaging.InvalidTransportURL, ValueError):
        # Not the error's own text: that may hold the URL, and so a password.
        what = 'cannot be understood: write it as rabbit://user:password@host:5672/'
        raise _bad_url(option, what) from None


def _bad_url(option: str, what: str) -> exceptions.ConfigurationError:
    return exceptions.ConfigurationError(f'option {option}: {" ".join(what.split())}')


def _is_default(conf: cfg.ConfigOpts, name: str, group: str | None = None) -> bool:
    location = conf.get_location(name, group)
    return location is None or location.location is cfg.Locations.opt_default


def _by_process(make: Callable[[], T]) -> Callable[[], T]:
    """What tells this process's own, made when it is first asked for: a connection does not survive a fork."""
    # No lock guards it: one that another thread holds is never free in a fork.
    made: dict[int, T] = {}

    def own() -> T:
        found = made.get(os.getpid())
        # That of a parent is kept: its end would close the connections, which the parent has, too.
        return made.setdefault(os.getpid(), make()) if found is None else found

    return own
