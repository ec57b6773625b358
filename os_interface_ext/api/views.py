"""The four operations on ``/servers/{server_id}/os-interface``, as a blueprint."""

from __future__ import annotations

from typing import Any

import flask

from os_interface_ext import exceptions
from os_interface_ext.api.operation import Api, Call, check_combination

COLLECTION = '/servers/<server_id>/os-interface'
ITEM = COLLECTION + '/<port_id>'


def index(call: Call, server_id: str) -> tuple[int, Any]:
    """List the attachments of a server."""
    call.check_project()
    call.check_query()
    server = call.find_server(server_id)
    call.authorize('list', server)
    return 200, {'interfaceAttachments': list(map(call.dump, call.manager.list(call.ctxt, server)))}


def show(call: Call, server_id: str, port_id: str) -> tuple[int, Any]:
    """Show one attachment of a server."""
    call.check_project()
    call.check_query()
    server = call.find_server(server_id)
    call.authorize('show', server)
    return 200, {'interfaceAttachment': call.dump(call.manager.show(call.ctxt, server, port_id))}


def create(call: Call, server_id: str) -> tuple[int, Any]:
    """Attach a port, or a new port on a network. Needs the rule ``create`` alone (Nova: ``show`` too)."""
    wanted = call.load()
    server = call.find_server(server_id)
    call.authorize('create', server)
    wanted = check_combination(wanted)
    call.check_lock(server)
    return 200, {'interfaceAttachment': call.dump(call.manager.attach(call.ctxt, server, wanted))}


def delete(call: Call, server_id: str, port_id: str) -> tuple[int, Any]:
    """Detach a port from a server."""
    call.check_project()
    server = call.find_server(server_id)
    call.authorize('delete', server)
    call.check_lock(server)
    call.manager.detach(call.ctxt, server, port_id)
    return 202, None


def _not_allowed(allow: str) -> Any:
    def not_allowed(call: Call, **path: str) -> tuple[int, Any]:
        raise exceptions.MethodNotAllowed(allow)

    return not_allowed


_RULES = [
    (COLLECTION, 'list', ['GET'], index),
    (COLLECTION, 'create', ['POST'], create),
    (COLLECTION, 'collection_not_allowed', ['PUT', 'PATCH', 'DELETE', 'TRACE'], _not_allowed('GET, HEAD, POST')),
    (ITEM, 'show', ['GET'], show),
    (ITEM, 'delete', ['DELETE'], delete),
    (ITEM, 'item_not_allowed', ['PUT', 'PATCH', 'POST', 'TRACE'], _not_allowed('DELETE, GET, HEAD')),
]


def blueprint(api: Api, name: str = 'os_interface') -> flask.Blueprint:
    """The routes, with and without a project id in front. Nothing app-wide is installed.

    A trailing or doubled slash makes another URL, which is the host's.
    """
    bp = flask.Blueprint(name, __name__)
    for path, endpoint, methods, view in _RULES:
        handler = api.operation(view)
        for prefix, suffix in (('', ''), ('/<project_id>', '_of_project')):
            bp.add_url_rule(
                prefix + path,
                endpoint + suffix,
                handler,
                methods=methods,
                strict_slashes=True,
                merge_slashes=False,
            )
    return bp
