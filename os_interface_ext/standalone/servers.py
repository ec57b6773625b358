"""``/v2.1/servers``: the servers of the inventory, with the addresses that their attachments have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flask
import sqlalchemy as sa
from microversion_parse import Version

from os_interface_ext import context, exceptions
from os_interface_ext.api import microversions
from os_interface_ext.context import RequestContext
from os_interface_ext.deploy import Parts
from os_interface_ext.drivers import base
from os_interface_ext.inventory import tables
from os_interface_ext.standalone import request
from os_interface_ext.standalone.transactions import reading

#: Nova's status and power state of each vm_state.
_STATUS = {
    'active': ('ACTIVE', 1),
    'building': ('BUILD', 0),
    'paused': ('PAUSED', 3),
    'suspended': ('SUSPENDED', 4),
    'stopped': ('SHUTOFF', 4),
    'rescued': ('RESCUE', 1),
    'resized': ('VERIFY_RESIZE', 1),
    'soft-delete': ('SOFT_DELETED', 4),
    'deleted': ('DELETED', 0),
    'error': ('ERROR', 0),
    'shelved': ('SHELVED', 4),
    'shelved_offloaded': ('SHELVED_OFFLOADED', 4),
}
_EMBEDDED_FLAVOR = Version(2, 47)
_NEVER = '1970-01-01T00:00:00Z'

_t = tables.servers
_SERVERS = sa.select(*(_t.c[field] for field in base.Server.__slots__)).order_by(_t.c.name, _t.c.id)
_NETWORKS = sa.select(tables.networks.c.id, tables.networks.c.name)


def blueprint(parts: Parts) -> flask.Blueprint:
    """The list, short and detailed, and one server."""
    bp = flask.Blueprint('servers', __name__)
    views = _Servers(parts)
    bp.add_url_rule('/v2.1/servers', view_func=views.index)
    bp.add_url_rule('/v2.1/servers/detail', view_func=views.detail)
    bp.add_url_rule('/v2.1/servers/<server_id>', view_func=views.show)

    @bp.before_request
    def negotiate() -> None:
        flask.g.version = microversions.negotiate(flask.request.environ, parts.api.max_version)

    @bp.after_request
    def echo(response: flask.Response) -> flask.Response:
        if 'version' in flask.g:
            response.headers.update(microversions.response_headers(str(flask.g.version)))
        return response

    return bp


class _Servers:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def index(self) -> Any:
        return self._list(lambda ctxt, server: _short(server))

    def detail(self) -> Any:
        names = self._network_names()
        return self._list(lambda ctxt, server: self._full(ctxt, server, names))

    def show(self, server_id: str) -> Any:
        ctxt = self._caller()
        server = self._parts.drivers.server.get(ctxt, server_id)
        if server.project_id != ctxt.project_id and not ctxt.is_admin:
            raise exceptions.ServerNotFound(server_id)
        return {'server': self._full(ctxt, server, self._network_names())}

    def _caller(self) -> RequestContext:
        ctxt = context.from_environ(flask.request.environ)
        ctxt.is_admin = self._parts.api.enforcer.is_admin(ctxt)
        return ctxt

    def _list(self, show: Callable[[RequestContext, base.Server], dict[str, Any]]) -> Any:
        ctxt = self._caller()
        with reading(self._parts.database) as connection:
            servers = [base.Server(*row) for row in connection.execute(_SERVERS)]
        wanted = _filter(ctxt)
        found = {server.id: server for server in servers if wanted(server)}
        items, links = request.page([_short(server) for server in found.values()])
        body: dict[str, Any] = {'servers': [show(ctxt, found[item['id']]) for item in items]}
        return body | ({'servers_links': links} if links else {})

    def _full(self, ctxt: RequestContext, server: base.Server, names: dict[str, str]) -> dict[str, Any]:
        status, power_state = _STATUS.get(server.vm_state, ('UNKNOWN', 0))
        full = _short(server) | {
            'status': status,
            'tenant_id': server.project_id,
            'user_id': '',
            'metadata': {},
            'image': '',
            'flavor': _flavor(),
            'addresses': self._addresses(ctxt, server, names),
            'accessIPv4': '',
            'accessIPv6': '',
            'config_drive': '',
            'key_name': None,
            'hostId': '',
            'created': _NEVER,
            'updated': _NEVER,
            'locked': server.locked_by is not None,
            'os-extended-volumes:volumes_attached': [],
            'OS-DCF:diskConfig': 'MANUAL',
            'OS-EXT-AZ:availability_zone': server.availability_zone or 'nova',
            'OS-EXT-STS:vm_state': server.vm_state,
            'OS-EXT-STS:task_state': server.task_state,
            'OS-EXT-STS:power_state': power_state,
        }
        return full | ({'OS-EXT-SRV-ATTR:host': server.host} if ctxt.is_admin else {})

    def _addresses(
        self, ctxt: RequestContext, server: base.Server, names: dict[str, str]
    ) -> dict[str, list[dict[str, Any]]]:
        addresses: dict[str, list[dict[str, Any]]] = {}
        for port in self._parts.manager.list(ctxt, server):
            of_network = addresses.setdefault(names.get(port.network_id, port.network_id), [])
            of_network += [
                {
                    'addr': ip.ip_address,
                    'version': 6 if ':' in ip.ip_address else 4,
                    'OS-EXT-IPS-MAC:mac_addr': port.mac_address,
                    'OS-EXT-IPS:type': 'fixed',
                }
                for ip in port.fixed_ips
            ]
        return addresses

    def _network_names(self) -> dict[str, str]:
        with reading(self._parts.database) as connection:
            return {row.id: row.name or row.id for row in connection.execute(_NETWORKS)}


def _short(server: base.Server) -> dict[str, Any]:
    base_url = flask.request.host_url
    return {
        'id': server.id,
        'name': server.name,
        'links': [
            {'rel': 'self', 'href': f'{base_url}v2.1/servers/{server.id}'},
            {'rel': 'bookmark', 'href': f'{base_url}servers/{server.id}'},
        ],
    }


def _flavor() -> dict[str, Any]:
    if flask.g.version >= _EMBEDDED_FLAVOR:
        sizes = {'vcpus': 1, 'ram': 1024, 'disk': 10, 'ephemeral': 0, 'swap': 0}
        return {'original_name': 'm1.small', 'extra_specs': {}, **sizes}
    return {'id': '1', 'links': []}


def _filter(ctxt: RequestContext) -> Callable[[base.Server], bool]:
    """Which servers the caller may see and the query asks for."""
    arguments = request.arguments()
    everywhere = 'all_tenants' in arguments and request.flag(arguments['all_tenants'])
    if everywhere and not ctxt.is_admin:
        raise exceptions.Forbidden('Only an administrator sees the servers of all projects.')
    try:
        # A regular expression, as in Nova.
        name = re.compile(arguments.get('name', ''))
    except re.error as error:
        raise exceptions.BadRequest('The name is not a regular expression.') from error
    project = (arguments.get('project_id') or arguments.get('tenant_id')) if everywhere else ctxt.project_id
    status = arguments.get('status', '').upper()
    exact = {field: arguments[field] for field in ('host', 'vm_state', 'task_state') if field in arguments}

    def wanted(server: base.Server) -> bool:
        return bool(
            project in (None, server.project_id)
            and name.search(server.name)
            and status in ('', _STATUS.get(server.vm_state, ('UNKNOWN',))[0])
            and all(getattr(server, field) == value for field, value in exact.items())
        )

    return wanted
