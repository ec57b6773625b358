"""One request through the API: identity, microversion, body, server, policy, and the answer or fault."""

from __future__ import annotations

import contextlib
import functools
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import flask
import marshmallow
import orjson
import werkzeug.exceptions
from microversion_parse import Version
from oslo_config import cfg
from werkzeug.wrappers import Request, Response

from os_interface_ext import context, exceptions
from os_interface_ext.api import faults, microversions, schemas
from os_interface_ext.attachments.manager import AttachRequest, Manager, is_sane
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs
from os_interface_ext.policies import Enforcer, attach_interfaces

JSON = 'application/json'
VENDOR_JSON = 'application/vnd.openstack.compute+json'
#: How much of a body that is too large is read all the same, so that the client gets to see the answer.
_DRAIN = 8 * 1024 * 1024
_UNSPECIFIED = frozenset({'0.0.0.0', '::'})

View = Callable[..., tuple[int, Any]]
#: Told of each request: the operation, the status, the microversion, and how many seconds it took.
Answered = Callable[[str, int, str, float], None]
#: The operations, as the rules of the policy call them, by their views; anything else is ``other``.
_OPERATIONS = {'index': 'list', 'show': 'show', 'create': 'create', 'delete': 'delete'}


class Api:
    """What all requests share: the parts that the configuration chose."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        manager: Manager,
        servers: base.ServerDriver,
        enforcer: Enforcer,
        identity: context.Identity | None = None,
        answered: Answered | None = None,
    ) -> None:
        major, minor = conf.api.max_microversion.split('.')
        self.max_version = Version(int(major), int(minor))
        self.max_body = conf.api.max_request_body_size
        self.manager = manager
        self.servers = servers
        self.enforcer = enforcer
        self.identity = identity
        self._answered = answered

    def operation(self, view: View, allow: str) -> Callable[..., Response]:
        """A handler, ``(request, **path)`` -> response, of a view, ``(call, **path)`` -> (status, answer).

        :param allow: the methods that the URL has

        Nothing that a view raises gets out to the host, whose own error handlers are not for it.
        """

        @functools.wraps(view)
        def handle(request: Request, **path: str) -> Response:
            return Call(self, request, allow).run(view, path)

        answered = self._answered
        if answered is None:
            return handle
        operation = _OPERATIONS.get(view.__name__, 'other')

        @functools.wraps(view)
        def timed(request: Request, **path: str) -> Response:
            begun = time.perf_counter()
            call = Call(self, request, allow)
            response = call.run(view, path)
            answered(operation, response.status_code, str(call.version), time.perf_counter() - begun)
            return response

        return timed


class Call:
    """One request. The methods stand in the order in which a view calls them."""

    ctxt: RequestContext

    def __init__(self, api: Api, request: Request, allow: str) -> None:
        self._api = api
        self._allow = allow
        self._request = request
        self._request_id = context.request_ids(request.environ)['request_id']
        self._version_headers: dict[str, str] = {}
        self._authorized = False
        self.version = microversions.MIN
        self.manager = api.manager

    # ------------------------------------------------------------------ the frame

    def run(self, view: View, path: dict[str, str]) -> Response:
        """Carry the request out, and answer it whatever happens."""
        with logs.about(request_id=self._request_id, server_id=path.get('server_id'), port_id=path.get('port_id')):
            return self._run(view, path)

    def _run(self, view: View, path: dict[str, str]) -> Response:
        try:
            self._identify()
            self._negotiate()
            self._check_method()
            self._project_id = path.pop('project_id', None)
            status, answer = view(self, **path)
            if not self._authorized:
                raise RuntimeError(f'the view {view.__name__} answered without having asked for permission')
            return self._answer(status, answer)
        except exceptions.ConfigurationError as error:
            # Its code is a line for the end of a process, and no status.
            return self._fault(_unexpected(view, error))
        except exceptions.OsInterfaceError as error:
            return self._fault(error)
        except werkzeug.exceptions.HTTPException as error:
            return self._fault(faults.from_http(error))
        except Exception as error:
            return self._fault(_unexpected(view, error))

    def _identify(self) -> None:
        self.ctxt = context.from_environ(self._request.environ, self._api.identity)
        self._request_id = self.ctxt.request_id
        logs.learn(request_id=self._request_id, project_id=self.ctxt.project_id)
        self.ctxt.is_admin = self._api.enforcer.is_admin(self.ctxt)

    def _negotiate(self) -> None:
        try:
            self.version = microversions.negotiate(self._request.environ, self._api.max_version)
        except exceptions.VersionNotAcceptable as error:
            self._version_headers = microversions.response_headers(error.version)
            raise
        self._version_headers = microversions.response_headers(str(self.version))

    def _check_method(self) -> None:
        # werkzeug routes a method in lower case like the real one.
        if self._request.environ['REQUEST_METHOD'] != self._request.method:
            raise exceptions.MethodNotAllowed(self._allow)

    def _answer(self, status: int, answer: Any) -> flask.Response:
        body = b'' if answer is None else orjson.dumps(answer)
        return flask.Response(body, status, self._headers(), content_type=self._best_type())

    def _fault(self, error: exceptions.OsInterfaceError) -> Response:
        return faults.of_error(self._request.environ, error, self._headers())

    def _headers(self) -> dict[str, str]:
        request_id = self._request_id
        return {
            **self._version_headers,
            'x-openstack-request-id': request_id,
            'x-compute-request-id': request_id,
        }

    def _best_type(self) -> str:
        if 'vnd.openstack' not in self._request.environ.get('HTTP_ACCEPT', ''):
            return JSON
        accepted = self._request.accept_mimetypes
        return VENDOR_JSON if accepted.quality(VENDOR_JSON) > accepted.quality(JSON) else JSON

    # ------------------------------------------------------------------ what a view asks for

    def query(self) -> dict[str, str]:
        """The query parameters of a GET, or of any request to a version that knows none (2.102).

        :raises UnknownParameter: there are some all the same
        :raises MalformedQuery: they are no text
        """
        raw = self._request.environ.get('QUERY_STRING', '')
        closed = self.version >= microversions.CLOSED_QUERY
        if not raw or not (closed or self._request.method in ('GET', 'HEAD')):
            return {}
        try:
            parameters = urllib.parse.parse_qsl(
                raw.encode('latin-1').decode('utf-8'), keep_blank_values=True, errors='strict'
            )
        except ValueError as error:
            raise exceptions.MalformedQuery() from error
        if closed and parameters:
            raise exceptions.UnknownParameter(parameters[0][0])
        return dict(parameters)

    def check_project(self) -> None:
        """:raises ProjectMismatch: the URL names another project than the token"""
        if self._project_id is not None and self._project_id != self.ctxt.project_id:
            raise exceptions.ProjectMismatch()

    def load(self) -> AttachRequest:
        """The body of a POST.

        :raises UnsupportedMediaType: :raises BodyTooLarge: :raises MalformedBody: :raises InvalidBody:
        """
        content_type = self._request.environ.get('CONTENT_TYPE', '').partition(';')[0].strip().lower()
        if content_type not in ('', 'text/plain', JSON, VENDOR_JSON):
            raise exceptions.UnsupportedMediaType()
        try:
            data = orjson.loads(self._read())
        except orjson.JSONDecodeError as error:
            raise exceptions.MalformedBody(f'it is not JSON ({error})') from error
        self.check_project()
        self.query()
        if not isinstance(data, dict):
            raise exceptions.MalformedBody()
        try:
            return schemas.create_request(self.version).load(data)  # type: ignore[no-any-return]
        except marshmallow.ValidationError as error:
            raise exceptions.InvalidBody(schemas.explain(error)) from error

    def find_server(self, server_id: str) -> base.Server:
        """The server, if the caller may know of it.

        :raises ServerNotFound: there is none, or it is another project's
        """
        if not is_sane(server_id):
            raise exceptions.ServerNotFound(server_id)
        server = self._api.servers.get(self.ctxt, server_id)
        if server.project_id != self.ctxt.project_id and not self.ctxt.is_admin:
            raise exceptions.ServerNotFound(server_id)
        return server

    def authorize(self, operation: str, server: base.Server) -> None:
        """:raises Forbidden: the caller may not do this"""
        rule = attach_interfaces.ROOT % operation
        self._api.enforcer.enforce(rule, self.ctxt, server.project_id)
        self._authorized = True

    def check_lock(self, server: base.Server) -> None:
        """:raises ServerLocked: and the caller may not pass"""
        if server.locked_by and not self._api.enforcer.allows(
            attach_interfaces.UNLOCK_OVERRIDE, self.ctxt, server.project_id
        ):
            raise exceptions.ServerLocked(server.id)

    @property
    def dump(self) -> schemas.Dump:
        """What puts an attachment into the shape of the version."""
        return schemas.dumper(self.version)

    # ------------------------------------------------------------------

    def _read(self) -> bytes:
        limit = self._api.max_body
        # One more: a body that comes without a length is cut off at werkzeug's limit, not refused.
        self._request.max_content_length = limit + 1
        try:
            body = self._request.get_data(cache=False)
        except Exception as error:
            # Werkzeug's, or that of a filter that counts while the body is read (oslo.middleware's sizelimit).
            if getattr(error, 'code', None) != 413:
                raise
            body = None
        if body is None or len(body) > limit:
            with contextlib.suppress(Exception):
                self._drain(0 if body is None else len(body))
            raise exceptions.BodyTooLarge(limit)
        return body

    def _drain(self, already: int) -> None:
        stream = self._request.environ['wsgi.input']
        length = self._request.content_length
        left = (_DRAIN if length is None else min(length, _DRAIN)) - already
        while left > 0:
            chunk = stream.read(min(left, 65536))
            if not chunk:
                return
            left -= len(chunk)


def check_combination(wanted: AttachRequest) -> AttachRequest:
    """What the schema cannot say: a port or a network, and an address only with a network.

    The unspecified address counts as none (as in Nova), once the rest has been looked at.

    :raises InvalidBody:
    """
    if wanted.network_id and wanted.port_id:
        raise exceptions.InvalidBody('Must not input both net_id and port_id. Send one of them.')
    if wanted.ip_address and not wanted.network_id:
        raise exceptions.InvalidBody('Must input net_id when an IP address is requested.')
    if wanted.ip_address in _UNSPECIFIED:
        return AttachRequest(network_id=wanted.network_id, tag=wanted.tag)
    return wanted


def _unexpected(view: View, error: BaseException) -> exceptions.OsInterfaceError:
    unknown = exceptions.OsInterfaceError(operator=f'{view.__name__} failed')
    unknown.__cause__ = error
    return unknown
