"""From a configuration object to the assembled parts. Both front doors come through here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from oslo_config import cfg

from os_interface_ext import context, exceptions
from os_interface_ext.api.operation import Api
from os_interface_ext.attachments import listeners
from os_interface_ext.attachments.manager import Manager
from os_interface_ext.attachments.orders import RecordOrders
from os_interface_ext.attachments.reconciler import Reconciler
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Store
from os_interface_ext.attachments.watch import Watch, Watches
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base, loader
from os_interface_ext.observability import health, logs
from os_interface_ext.policies import Enforcer

if TYPE_CHECKING:
    from os_interface_ext.observability.metrics import Metrics

LOG = logs.get(__name__)

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What was assembled."""

    conf: cfg.ConfigOpts
    database: Database
    drivers: loader.Drivers
    store: Store
    manager: Manager
    api: Api
    reconciler: Reconciler
    metrics: Metrics | None


def assemble(
    conf: cfg.ConfigOpts,
    *,
    identity: context.Identity | None = None,
    server_driver: base.ServerDriver | None = None,
    network_driver: base.NetworkDriver | None = None,
    vif_driver: base.VIFDriver | None = None,
) -> Parts:
    """Build everything that serves a request.

    :raises ConfigurationError: in one line, what is wrong and how it is mended
    """
    database = Database.of(conf)
    schema.require_current(database)
    drivers = loader.load_all(
        conf, server_driver=server_driver, network_driver=network_driver, vif_driver=vif_driver
    )
    metrics = make_metrics(conf)
    watch = _watch(conf, metrics)
    servers, networks, vifs = _measured(drivers, metrics)
    store = Store(database, lease=conf.attachments.lease)
    stepper = Stepper(
        store,
        servers,
        networks,
        vifs,
        backoff=conf.reconciler.backoff,
        backoff_cap=conf.reconciler.backoff_cap,
        stuck_attempts=conf.reconciler.stuck_attempts,
        listeners=listeners.load(conf),
        watch=watch,
    )
    manager = Manager(
        store,
        servers,
        networks,
        vifs,
        stepper,
        wait=conf.attachments.wait,
        strict_nova=conf.api.strict_nova,
        watch=watch,
    )
    api = Api(conf, manager, servers, Enforcer(conf), identity, metrics.answered if metrics else None)
    orders = RecordOrders(conf.reconciler, store, servers, networks)
    reconciler = Reconciler(
        conf.reconciler, store, stepper, servers, networks, watch, serving=lambda: vifs.serve_orders(orders)
    )
    # The next connection is made by the process that serves requests, which may be a fork of this one.
    database.dispose()
    return Parts(conf, database, drivers, store, manager, api, reconciler, metrics)


def make_metrics(conf: cfg.ConfigOpts) -> Metrics | None:
    """What counts, if it is to be counted.

    :raises ConfigurationError:
    """
    if not conf.metrics.directory:
        return None
    try:
        from os_interface_ext.observability import metrics
    except ImportError as error:
        raise exceptions.ConfigurationError(
            f'option [metrics] directory: prometheus_client cannot be imported ({error}): install '
            'os-interface-ext[metrics], or leave the option out'
        ) from error
    return metrics.Metrics(conf.metrics.directory)


def _watch(conf: cfg.ConfigOpts, metrics: Metrics | None) -> Watch:
    """Those who are told at once of what happens to records."""
    watches: list[Watch] = [metrics] if metrics is not None else []
    if conf.notifications.enabled:
        try:
            from os_interface_ext.observability import notifications
        except ImportError as error:
            raise exceptions.ConfigurationError(
                f'option [notifications] enabled: oslo.messaging cannot be imported ({error}): install '
                'os-interface-ext[rpc], or set it to false'
            ) from error
        count: Callable[[str], None] = metrics.notified if metrics is not None else lambda outcome: None
        watches.append(notifications.Notifications(conf, count))
    return Watches(watches) if watches else Watch()


def _measured(
    drivers: loader.Drivers, metrics: Metrics | None
) -> tuple[base.ServerDriver, base.NetworkDriver, base.VIFDriver]:
    """The drivers themselves where nothing is measured."""
    if metrics is None:
        return drivers.server, drivers.network, drivers.vif
    from os_interface_ext.observability.metrics import measured

    return (
        measured(drivers.server, 'server', base.ServerDriver, metrics),
        measured(drivers.network, 'network', base.NetworkDriver, metrics),
        measured(drivers.vif, 'vif', base.VIFDriver, metrics),
    )


def metrics_application(conf: cfg.ConfigOpts, metrics: Metrics | None, database: Database) -> WSGIApplication:
    """What ``/metrics`` shows; not found where nothing is measured."""
    if metrics is None:
        return _nothing_measured
    from os_interface_ext.observability.metrics import Application, Page

    return Application(Page(metrics, Store(database, lease=conf.attachments.lease), conf))


def ready_application(
    conf: cfg.ConfigOpts, database: Database | None = None, drivers: loader.Drivers | None = None
) -> WSGIApplication:
    """Whether database and drivers can be used.

    :param drivers: those that serve; without, some of its own, made when they are first asked for
    """

    def make() -> health.Health:
        found = drivers or loader.load_all(conf)
        return health.Health.of(conf, database or Database.of(conf), found.server, found.network, found.vif)

    return health.Application(make)


def _nothing_measured(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = b'Nothing is measured here: set [metrics] directory.\n'
    start_response('404 Not Found', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]


def warn_of_development_drivers(conf: cfg.ConfigOpts) -> None:
    """Say what the embedded drivers do not do, where real identities suggest a real cloud."""
    lacks = {
        'server_driver': 'servers are rows of the embedded inventory, not those of a cloud',
        'network_driver': 'ports are rows of the embedded inventory, no network backend knows of them',
        'vif_driver': 'no NIC reaches a guest',
    }
    for option, lack in lacks.items():
        value = conf.os_interface[option]
        if value in ('sql', 'noop'):
            LOG.warning('[os_interface] %s = %s: %s', option, value, lack)
