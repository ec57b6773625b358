"""Errors as Nova's fault bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from werkzeug.wrappers import Response

from os_interface_ext import context

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


def body(code: int, message: str) -> dict[str, Any]:
    """``{"conflictingRequest": {"code": 409, "message": "…"}}``"""
    return {TYPES.get(code, 'computeFault'): {'code': code, 'message': message}}


def response(environ: Mapping[str, Any], code: int, message: str) -> Response:
    """A fault as a WSGI application, for a request that reached no operation."""
    request_id = context.request_ids(environ)['request_id']
    return Response(
        orjson.dumps(body(code, message)),
        status=code,
        headers={'x-openstack-request-id': request_id, 'x-compute-request-id': request_id},
        content_type='application/json',
    )
