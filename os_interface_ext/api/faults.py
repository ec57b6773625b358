"""Errors as Nova's fault bodies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from os_interface_ext import context, exceptions
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: The key of the body, by status code (Nova's ``faults.Fault``).
TYPES = {
    400: 'badRequest',
    401: 'unauthorized',
    403: 'forbidden',
    404: 'itemNotFound',
    405: 'badMethod',
    406: 'computeFault',
    409: 'conflictingRequest',
    413: 'overLimit',
    415: 'badMediaType',
    500: 'computeFault',
    501: 'notImplemented',
    503: 'serviceUnavailable',
}

#: The header of a fault's error code. The body has no place for it: clients know that of Nova by heart.
ERROR_HEADER = 'OS-Interface-Error'


def body(code: int, message: str) -> dict[str, Any]:
    """``{"conflictingRequest": {"code": 409, "message": "…"}}``"""
    return {TYPES.get(code, 'computeFault'): {'code': code, 'message': message}}


def of_error(
    environ: Mapping[str, Any], error: exceptions.OsInterfaceError, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as an answer; what only the operator may know goes to the log.

    :param headers: those of the operation; without, the request has reached none
    """
    if headers is None:
        headers = _request_id_headers(environ)
    if error.code >= 500 and error.code != 501:
        level = logging.WARNING if error.code == 503 else logging.ERROR
        cause = error.__cause__ if error.code == 500 else None
        with logs.about(request_id=headers['x-openstack-request-id']):
            LOG.log(level, '%s %s: %s', error.code, error.error_code, error.operator, exc_info=cause)
    answer = Response(
        orjson.dumps(body(error.code, error.message)),
        status=error.code,
        headers={**headers, ERROR_HEADER: error.error_code},
        content_type='application/json',
    )
    if error.code == 401:
        answer.headers['WWW-Authenticate'] = 'Keystone'
    if isinstance(error, exceptions.MethodNotAllowed):
        answer.headers['Allow'] = error.allow
    retry_after = getattr(error, 'retry_after', None)
    if retry_after is not None:
        answer.headers['Retry-After'] = str(retry_after)
    return answer


def not_found(environ: Mapping[str, Any]) -> Response:
    """The fault for a URL at which nothing is."""
    return of_error(environ, exceptions.NotFound())


def from_http(error: HTTPException) -> exceptions.OsInterfaceError:
    """An error of the framework, which found first what is wrong (a cut body, say), as one of ours."""
    if error.code == 404:
        return exceptions.NotFound()
    if error.code is not None and error.code < 500:
        return exceptions.BadRequest()
    return exceptions.OsInterfaceError(operator=repr(error))


def _request_id_headers(environ: Mapping[str, Any]) -> dict[str, str]:
    request_id = context.request_ids(environ)['request_id']
    return {'x-openstack-request-id': request_id, 'x-compute-request-id': request_id}
