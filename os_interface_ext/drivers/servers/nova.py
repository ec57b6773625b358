"""Servers of a Compute API, asked over HTTP."""

from __future__ import annotations

import re
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import nova as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.rest import Answer, Service

GROUP = options.GROUP.name

#: The lowest that tells of the lock (2.9); each later one has Nova look up more that is not asked for here.
MICROVERSION = '2.9'
#: Nova's ids are UUIDs; nothing else is ever put into a URL.
_ID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}')


class NovaServerDriver(base.ServerDriver):
    """``GET /servers/{id}`` with this service's own authority: one request, and nothing kept of it.

    The user of ``[nova]`` must see the servers of all projects and their hosts (the role admin, in Nova's
    own policy). ``locked_by`` is None or ``'admin'``: the API tells that a server is locked, not by whom, and
    an owner may lift his own lock only, so the stricter of the two is assumed.

    Brought ports are refused unless ``[nova] brought_ports_are_deleted_with_their_server`` is set. When Nova
    deletes a server, ``nova.network.neutron.API.deallocate_for_instance`` asks Neutron for all ports with
    its device_id and deletes them, save those of ``_get_preexisting_port_ids``: the entries of its network info
    cache with ``preserve_on_delete``. An attach that Nova has not made itself comes into that cache by
    Neutron's event network-changed, without the mark (``_build_vif_model`` takes it over from the older
    cache), and no API sets it.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        self._nova = Service(conf, GROUP, 'compute', microversion=MICROVERSION)
        self.keeps_brought_ports = conf[GROUP].brought_ports_are_deleted_with_their_server

    def check(self, ctxt: RequestContext) -> None:
        self._require_sight(ctxt)

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        wanted = server_id.lower()
        if not _ID.fullmatch(wanted):
            raise exceptions.ServerNotFound(server_id)
        answer = self._nova.read(ctxt, f'/servers/{wanted}')
        if answer.status == 404 and 'itemNotFound' in answer.body:
            self._require_sight(ctxt)
            raise exceptions.ServerNotFound(server_id)
        if answer.status != 200:
            raise _nonsense(wanted, f'the answer {answer.status}')
        return _server(answer, wanted)

    def _require_sight(self, ctxt: RequestContext) -> None:
        """Not found is what Nova says of another project's server, too: it counts if all can be seen."""
        answer = self._nova.read(ctxt, '/servers', {'all_tenants': 'true', 'limit': '1'})
        if answer.status != 200 or 'servers' not in answer.body:
            raise exceptions.Unavailable(
                operator=f'[{GROUP}] the servers of all projects cannot be listed ({answer.status}), so that not '
                'found means nothing; look at the roles of its user',
                operator_cure=f'give the user of [{GROUP}] the role admin',
            )


def _server(answer: Answer, wanted: str) -> base.Server:
    body = answer.body.get('server')
    if not isinstance(body, dict) or body.get('id') != wanted:
        raise _nonsense(wanted, 'an answer without that server')
    if body.get('status') == 'UNKNOWN':
        raise _nonsense(wanted, 'a server of a cell that is down')
    if 'OS-EXT-SRV-ATTR:host' not in body:
        raise _nonsense(wanted, 'a server without its host (has the user of the group the role admin?)')
    if _text(body, wanted, 'OS-EXT-STS:vm_state') == 'deleted':
        raise exceptions.ServerNotFound(wanted)
    locked = body.get('locked')
    if not isinstance(locked, bool):
        raise _nonsense(wanted, f'the value {locked!r} of locked')
    return base.Server(
        id=wanted,
        project_id=_text(body, wanted, 'tenant_id'),
        name=_text(body, wanted, 'name', optional=True) or '',
        host=_text(body, wanted, 'OS-EXT-SRV-ATTR:host', optional=True) or None,
        vm_state=_text(body, wanted, 'OS-EXT-STS:vm_state'),
        task_state=_text(body, wanted, 'OS-EXT-STS:task_state', optional=True) or None,
        locked_by='admin' if locked else None,
        availability_zone=_text(body, wanted, 'OS-EXT-AZ:availability_zone', optional=True) or None,
    )


def _text(body: dict[str, Any], server_id: str, key: str, *, optional: bool = False) -> str:
    value = body.get(key)
    if optional and value is None:
        return ''
    if not isinstance(value, str) or not (value or optional):
        raise _nonsense(server_id, f'the value {value!r} of {key}')
    return value


def _nonsense(server_id: str, what: str) -> exceptions.Unavailable:
    return exceptions.Unavailable(operator=f'[{GROUP}] GET /servers/{server_id}: {what} is of no use')
