"""The four operations on ``/servers/{server_id}/os-interface``, as a blueprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
from werkzeug.wrappers import Request, Response

from os_interface_ext import exceptions
from os_interface_ext.api.operation import Api, Call, View, check_combination
from os_interface_ext.drivers import base

COLLECTION = '/servers/<server_id>/os-interface'
ITEM = COLLECTION + '/<port_id>'
#: of which a URL refuses those that it does not have
_METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'TRACE', 'OPTIONS']

Handler = Callable[..., Response]


def index(call: Call, server_id: str) -> tuple[int, Any]:
    """List the attachments of a server."""
    call.check_project()
    query = call.query()
    server = call.find_server(server_id)
    call.authorize('list', server)
    found = _after(query.get('marker'), call.manager.list(call.ctxt, server))
    return 200, {'interfaceAttachments': list(map(call.dump, found))}


def show(call: Call, server_id: str, port_id: str) -> tuple[int, Any]:
    """Show one attachment of a server."""
    call.check_project()
    call.query()
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


def _after(marker: str | None, found: list[base.Port]) -> list[base.Port]:
    """What follows the marker; all, if it is none of them.

    Nova ignores it. openstacksdk, asked for a limit, asks for what follows until nothing does.
    """
    if marker is None:
        return found
    ids = [port.id for port in found]
    return found[ids.index(marker) + 1 :] if marker in ids else found


def _not_allowed(allow: str) -> View:
    def not_allowed(call: Call, **path: str) -> tuple[int, Any]:
        raise exceptions.MethodNotAllowed(allow)

    return not_allowed


def _dispatch(api: Api, allow: str, views: dict[str, View]) -> Handler:
    handlers = {method: api.operation(view, allow) for method, view in views.items()}
    handlers['HEAD'] = handlers['GET']
    refused = api.operation(_not_allowed(allow), allow)

    def handle(request: Request, **path: str) -> Response:
        if request.method == 'OPTIONS':
            return Response(headers={'Allow': allow})
        return handlers.get(request.method, refused)(request, **path)

    return handle


#: path, name, methods, and the view of each method
URLS: list[tuple[str, str, str, dict[str, View]]] = [
    (COLLECTION, 'collection', 'GET, HEAD, OPTIONS, POST', {'GET': index, 'POST': create}),
    (ITEM, 'item', 'DELETE, GET, HEAD, OPTIONS', {'GET': show, 'DELETE': delete}),
]


def handlers(api: Api) -> tuple[Handler, Handler]:
    """What answers the collection, and what answers an item: ``handler(request, **path)``, for any method."""
    collection, item = (_dispatch(api, allow, views) for _, _, allow, views in URLS)
    return collection, item


def blueprint(api: Api, name: str = 'os_interface') -> flask.Blueprint:
    """The routes, with and without a project id in front. Nothing app-wide is installed.

    A trailing or doubled slash makes another URL, which is the host's. A URL is one rule for all methods: of
    several, those that do not fit would make a 405 of the host's 404 for a doubled slash.
    """
    bp = flask.Blueprint(name, __name__)
    for (path, kind, _, _), handler in zip(URLS, handlers(api), strict=True):
        for prefix, suffix in (('', ''), ('/<project_id>', '_of_project')):
            bp.add_url_rule(
                prefix + path,
                kind + suffix,
                _on_flask(handler),
                methods=_METHODS,
                strict_slashes=True,
                merge_slashes=False,
                provide_automatic_options=False,
            )
    return bp


def _on_flask(handler: Handler) -> Callable[..., Response]:
    return lambda **path: handler(flask.request, **path)
