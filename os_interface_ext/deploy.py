"""From a configuration object to the assembled parts. Both front doors come through here."""

from __future__ import annotations

import dataclasses
import logging

from oslo_config import cfg

from os_interface_ext import context
from os_interface_ext.api.operation import Api
from os_interface_ext.attachments import listeners
from os_interface_ext.attachments.manager import Manager
from os_interface_ext.attachments.reconciler import Reconciler
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base, loader
from os_interface_ext.policies import Enforcer

LOG = logging.getLogger(__name__)


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
    store = Store(database, lease=conf.attachments.lease)
    stepper = Stepper(
        store,
        drivers.server,
        drivers.network,
        drivers.vif,
        backoff=conf.reconciler.backoff,
        backoff_cap=conf.reconciler.backoff_cap,
        stuck_attempts=conf.reconciler.stuck_attempts,
        listeners=listeners.load(conf),
    )
    manager = Manager(
        store,
        drivers.server,
        drivers.network,
        drivers.vif,
        stepper,
        wait=conf.attachments.wait,
        strict_nova=conf.api.strict_nova,
    )
    api = Api(conf, manager, drivers.server, Enforcer(conf), identity)
    reconciler = Reconciler(conf.reconciler, store, stepper, drivers.server, drivers.network)
    # The next connection is made by the process that serves requests, which may be a fork of this one.
    database.dispose()
    return Parts(conf, database, drivers, store, manager, api, reconciler)


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
