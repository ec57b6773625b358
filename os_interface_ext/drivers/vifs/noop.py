"""Plugs nothing: for a controller that needs no NIC plugged, or that does it by itself."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base


class NoopVIFDriver(base.VIFDriver):
    """Changes nothing anywhere, so that an attach and a detach are complete with the network's part.

    It has no side effect that a fence could forbid, hence asks none.
    """

    has_side_effects = False

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        """Nothing is configured."""

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        return {}

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        pass

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """Never an answer: an empty set would say that every NIC is gone.

        :raises NotSupported: it does not know
        """
        raise exceptions.NotSupported(operator='the noop VIF driver does not know which ports are plugged')
