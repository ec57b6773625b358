"""The controller as a WSGI application: its own routes, with the plug-in put among them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import flask
from oslo_config import cfg
from oslo_context import context as oslo_context
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from os_interface_ext import exceptions
from os_interface_ext.api import faults
from os_interface_ext.extension import Extension
from os_interface_ext.middleware.static_tokens import StaticTokens
from os_interface_ext.standalone import identity, network, request, seed, servers, versions
from os_interface_ext.standalone.seed import InventoryFile

RESET = '/standalone/reset'

#: How much of a body that is too large is read all the same, so that the client gets to see the answer.
_DRAIN = 8 * 1024 * 1024

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def create(
    conf: cfg.ConfigOpts, reset_to: InventoryFile | None = None, *, extension: Extension | None = None
) -> WSGIApplication:
    """The whole controller.

    :param reset_to: offer ``POST /standalone/reset``, which goes back to this file
    :param extension: the plug-in for this configuration, if it is made already
    :raises ConfigurationError: in one line, what is wrong and how it is mended
    """
    app = flask.Flask('os_interface_ext.standalone', static_folder=None)
    app.url_map.merge_slashes = False
    app.config['MAX_CONTENT_LENGTH'] = conf.api.max_request_body_size
    app.json.sort_keys = False  # type: ignore[attr-defined]

    extension = extension or Extension(conf)
    extension.register(app, url_prefix='/v2.1')
    parts = extension.parts

    app.register_blueprint(versions.blueprint(conf.api.max_microversion))
    app.register_blueprint(identity.blueprint(parts.database))
    app.register_blueprint(servers.blueprint(parts))
    for prefix in ('', versions.NETWORK_ROOT):
        name = f'network{prefix.replace("/", "_")}'
        app.register_blueprint(network.blueprint(parts.database), url_prefix=f'{prefix}/v2.0', name=name)
    if reset_to is not None:
        app.add_url_rule(RESET, 'reset', _reset(parts.database, reset_to), methods=['POST'])

    app.register_error_handler(Exception, _fault)
    app.after_request(_add_request_id)
    application = StaticTokens(app, parts.database, [*versions.PATHS, identity.PATH, RESET])
    return Entrance(application, conf.api.max_request_body_size)


class Entrance:
    """Gives each request its id, and turns away a body that is too large whoever sends it."""

    def __init__(self, application: WSGIApplication, max_body: int) -> None:
        self._application = application
        self._max_body = max_body

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ['openstack.request_id'] = oslo_context.generate_request_id()
        if self._length(environ) <= self._max_body:
            return self._application(environ, start_response)
        _drain(environ['wsgi.input'])
        return faults.of_error(environ, exceptions.BodyTooLarge(self._max_body))(environ, start_response)

    def _length(self, environ: dict[str, Any]) -> int:
        """The length of the body; of one that does not tell it, as far as it is allowed and one more."""
        if 'HTTP_TRANSFER_ENCODING' in environ and environ.get('wsgi.input_terminated'):
            body = environ['wsgi.input'].read(self._max_body + 1)
            if len(body) <= self._max_body:
                environ['wsgi.input'] = io.BytesIO(body)
            return len(body)
        length = environ.get('CONTENT_LENGTH') or ''
        return int(length) if length.isdigit() else 0


def _drain(stream: Any) -> None:
    left = _DRAIN
    while left > 0 and (chunk := stream.read(min(left, 65536))):
        left -= len(chunk)


def _reset(database: Any, file: InventoryFile) -> Callable[[], Any]:
    def reset() -> Any:
        seed.reset(database, file)
        return request.no_content()

    return reset


def _fault(error: Exception) -> Any:
    """Every error as a fault; those with a shape of their own have been through their blueprint's handler."""
    return faults.of_error(flask.request.environ, _of_ours(error))


def _of_ours(error: Exception) -> exceptions.OsInterfaceError:
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, exceptions.ConfigurationError):
        return exceptions.OsInterfaceError(
            'The inventory cannot be loaded any more; the log says why.', operator=str(error)
        )
    if isinstance(error, exceptions.OsInterfaceError):
        return error
    unexpected = exceptions.OsInterfaceError(operator=f'{flask.request.method} {flask.request.path}: {error!r}')
    unexpected.__cause__ = error
    return unexpected


def _of_http(error: HTTPException) -> exceptions.OsInterfaceError:
    if isinstance(error, MethodNotAllowed):
        return exceptions.MethodNotAllowed(', '.join(sorted(error.valid_methods or ())))
    if isinstance(error, RequestEntityTooLarge):
        return exceptions.BodyTooLarge(flask.current_app.config['MAX_CONTENT_LENGTH'])
    return faults.from_http(error)


def _add_request_id(response: flask.Response) -> flask.Response:
    request_id = flask.request.environ['openstack.request_id']
    for name in ('x-openstack-request-id', 'x-compute-request-id'):
        response.headers.setdefault(name, request_id)
    return response
