"""What a request asks for: its body, its query, and the page of a list; and the answer without a body."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Any

import flask
import orjson
from werkzeug.datastructures import MultiDict

from os_interface_ext import exceptions

#: Parameters that are no filters.
CONTROLS = frozenset({'limit', 'marker', 'fields', 'sort_key', 'sort_dir', 'page_reverse'})

Item = dict[str, Any]


def body() -> Any:
    """The body as JSON; None if it is none."""
    try:
        return orjson.loads(flask.request.get_data())
    except orjson.JSONDecodeError:
        return None


def arguments() -> MultiDict[str, str]:
    """:raises BadRequest: the query string is not UTF-8"""
    try:
        return flask.request.args
    except UnicodeDecodeError as error:
        raise exceptions.BadRequest('The query string is not UTF-8.') from error


def no_content() -> flask.Response:
    """204, which has no type either."""
    response = flask.Response(status=204)
    del response.headers['Content-Type']
    return response


def page(items: Sequence[Item]) -> tuple[list[Item], list[dict[str, str]]]:
    """The items after ``marker``, ``limit`` of them, and the links to what follows.

    :raises BadRequest: the limit is no number, the marker none of the items
    """
    limit, marker = arguments().get('limit'), arguments().get('marker')
    start = 0
    if marker:
        ids = [item['id'] for item in items]
        if marker not in ids:
            raise exceptions.BadRequest(f'The marker {marker[:64]} could not be found. Begin without one.')
        start = ids.index(marker) + 1
    if limit is None:
        return list(items[start:]), []
    if not (limit.isascii() and limit.isdigit()) or len(limit) > 18:
        raise exceptions.BadRequest('The limit must be a number that is not negative.')
    # Zero means no limit of the client's own, as everywhere in OpenStack.
    end = start + int(limit) if int(limit) else len(items)
    return list(items[start:end]), _next(items[end - 1]['id']) if end < len(items) else []


def flag(value: str) -> bool:
    """A boolean as clients write it in a query."""
    return value.strip().lower() in ('', '1', 'true', 't', 'yes', 'y', 'on')


def _next(marker: str) -> list[dict[str, str]]:
    parameters = [pair for pair in arguments().items(multi=True) if pair[0] != 'marker']
    query = urllib.parse.urlencode([*parameters, ('marker', marker)])
    return [{'rel': 'next', 'href': f'{flask.request.base_url}?{query}'}]
