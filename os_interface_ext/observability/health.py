"""Whether this process can serve: the database, its schema, and the backends of the drivers.

Not a plug-in of oslo.middleware's healthcheck, which answers whether the process lives: that leaves out a
plug-in that cannot be loaded without a word (and is healthy then), asks anew with each request, and its
details are stacks of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from oslo_config import cfg

from os_interface_ext import context, exceptions
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs
from os_interface_ext.observability.probe import Answer, Probe

LOG = logs.get(__name__)


class Health:
    """:param checks: by name; each raises what is wrong"""

    def __init__(self, conf: cfg.ConfigOpts, checks: dict[str, Callable[[], object]]) -> None:
        timeout, cache = conf.health.timeout, conf.health.cache
        self._probes = [Probe(name, check, timeout, cache) for name, check in checks.items()]
        self._failing: set[str] = set()

    @classmethod
    def of(
        cls,
        conf: cfg.ConfigOpts,
        database: Database,
        servers: base.ServerDriver,
        networks: base.NetworkDriver,
        vifs: base.VIFDriver,
    ) -> Health:
        """That of a configuration and its drivers."""
        drivers = {'server_driver': servers, 'network_driver': networks, 'vif_driver': vifs}
        checks: dict[str, Callable[[], object]] = {'database': lambda: schema.require_current(database)}
        for name, driver in drivers.items():
            checks[name] = _check_of(driver)
        return cls(conf, checks)

    def look(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is not: ``{'status': …, 'checks': {name: {'status': …}}}``.

        Why it is not goes to the log; here stands nothing that is not for everybody.
        """
        checks: dict[str, dict[str, str]] = {}
        for probe, answer in zip(self._probes, Probe.ask(self._probes), strict=True):
            self._log(probe.name, answer)
            checks[probe.name] = {'status': 'ok'} if answer.error is None else _describe(answer.error)
        ready = all(check['status'] == 'ok' for check in checks.values())
        return ready, {'status': 'ready' if ready else 'not ready', 'checks': checks}

    def _log(self, name: str, answer: Answer) -> None:
        if answer.error is None:
            self._failing.discard(name)
        elif name not in self._failing:
            # Once, and not with each question.
            self._failing.add(name)
            why = getattr(answer.error, 'operator', None) or answer.error
            LOG.warning('not ready: %s: %s', name, ' '.join(str(why).split()))


def _check_of(driver: Any) -> Callable[[], object]:
    return lambda: driver.check(context.service_context())


def _describe(error: BaseException) -> dict[str, str]:
    if isinstance(error, TimeoutError):
        return {'status': 'failed', 'reason': 'no answer in time'}
    if isinstance(error, exceptions.ConfigurationError):
        return {'status': 'failed', 'reason': 'cannot be used as it is configured, or its schema is not current'}
    return {'status': 'failed', 'reason': 'unavailable'}


class Application:
    """Ready: 200, otherwise 503, with the checks as JSON.

    :param make: gives the health when the first request comes, in the process that serves
    """

    def __init__(self, make: Callable[[], Health]) -> None:
        self._make = make
        self._health: Health | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ['REQUEST_METHOD'] not in ('GET', 'HEAD'):
            start_response('405 Method Not Allowed', [('Allow', 'GET, HEAD'), ('Content-Length', '0')])
            return []
        try:
            health = self._health = self._health or self._make()
            ready, found = health.look()
        except exceptions.ConfigurationError as error:
            LOG.warning('not ready: %s', error)
            ready, found = False, {'status': 'not ready', 'checks': {}}
        body = orjson.dumps(found)
        headers = [
            ('Content-Type', 'application/json'),
            ('Content-Length', str(len(body))),
            ('Cache-Control', 'no-store'),
        ]
        start_response('200 OK' if ready else '503 Service Unavailable', headers)
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]
