"""Front door 1: the extension that a Flask host registers."""

from __future__ import annotations

import flask
from oslo_config import cfg

from os_interface_ext import context, deploy
from os_interface_ext.api import views
from os_interface_ext.drivers import base


class Extension:
    """The port interfaces API for one configuration.

    ::

        conf = os_interface_ext.conf.new(['/etc/os-interface-ext/os-interface-ext.conf'])
        Extension(conf, identity=who_asks).register(app, url_prefix='/v2.1')

    :param conf: a configuration object of this project (:func:`os_interface_ext.conf.new`)
    :param identity: how the host tells who asks: ``callable(environ)`` that returns a RequestContext, or
        None for nobody (401). Without it, the mark of keystonemiddleware in environ counts.
    :param server_driver: an object instead of the driver that the configuration names; so are
        ``network_driver`` and ``vif_driver``
    :raises ConfigurationError: in one line, what is wrong and how it is mended
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        identity: context.Identity | None = None,
        server_driver: base.ServerDriver | None = None,
        network_driver: base.NetworkDriver | None = None,
        vif_driver: base.VIFDriver | None = None,
    ) -> None:
        self.parts = deploy.assemble(
            conf,
            identity=identity,
            server_driver=server_driver,
            network_driver=network_driver,
            vif_driver=vif_driver,
        )

    def register(self, app: flask.Flask, url_prefix: str = '/v2.1', name: str = 'os_interface') -> None:
        """Add the routes to a host; nothing else of it is touched.

        :param name: of the blueprint; another one for a second extension on the same host
        """
        app.register_blueprint(views.blueprint(self.parts.api, name), url_prefix=url_prefix or None)

    def metrics(self) -> deploy.WSGIApplication:
        """What ``/metrics`` shows, as a WSGI application for the host to mount; 404 where nothing is measured."""
        return deploy.metrics_application(self.parts.conf, self.parts.metrics, self.parts.database)

    def ready(self) -> deploy.WSGIApplication:
        """Whether database and drivers can be used: 200, else 503; a WSGI application for the host to mount."""
        return deploy.ready_application(self.parts.conf, self.parts.database, self.parts.drivers)

    def server_deleted(self, server_id: str) -> None:
        """To be called by a host that has deleted a server: its ports are let go now, not at the next look.

        What cannot be finished now, the reconciler finishes. It may be called again, and for any server.

        :raises Unavailable: the database does not answer; nothing is lost if nobody calls again, for the
            reconciler finds out by itself
        """
        self.parts.reconciler.server_deleted(server_id)
