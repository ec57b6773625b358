"""Microversions: which one a request asks for, and what each one brought.

The rules are those of Nova's API (the microversion specification of the API SIG, with Nova's older
header beside it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import microversion_parse
from microversion_parse import Version

from os_interface_ext import exceptions

MIN = Version(2, 1)
MAX = Version(2, 104)

TAG_IN_REQUEST = Version(2, 49)
TAG_IN_RESPONSE = Version(2, 70)
CLOSED_QUERY = Version(2, 102)

STANDARD_HEADER = 'OpenStack-API-Version'
LEGACY_HEADER = 'X-OpenStack-Nova-API-Version'
#: The OpenAPI description, below the URL of the API.
DESCRIPTION = 'openapi.json'
_VERSION = re.compile(r'([1-9][0-9]*)\.([1-9][0-9]*|0)')


def negotiate(environ: Mapping[str, Any], maximum: Version) -> Version:
    """The microversion of a request.

    :raises MalformedVersion:
    :raises VersionNotAcceptable: it is out of range
    """
    headers = {}
    for name in (STANDARD_HEADER, LEGACY_HEADER):
        value = environ.get('HTTP_' + name.upper().replace('-', '_'))
        if value is not None:
            headers[name.lower()] = value
    if not headers:
        return MIN
    asked = microversion_parse.get_version(headers, service_type='compute', legacy_headers=[LEGACY_HEADER.lower()])
    if asked is None:
        return MIN
    if asked == 'latest':
        return maximum
    match = _VERSION.fullmatch(asked)
    if match is None or len(asked) > 255:
        raise exceptions.MalformedVersion()
    # Nobody will get to ten digits; int() takes its time with thousands.
    version = Version(*(int(part[:10]) for part in match.groups()))
    if not MIN <= version <= maximum:
        raise exceptions.VersionNotAcceptable(asked, str(MIN), str(maximum))
    return version


def response_headers(version: str) -> dict[str, str]:
    """The headers that every answer carries, once the version is known."""
    return {
        STANDARD_HEADER: f'compute {version}',
        LEGACY_HEADER: version,
        'Vary': f'{STANDARD_HEADER}, {LEGACY_HEADER}',
    }


def document(maximum: str, place: str) -> dict[str, Any]:
    """What a version document says of this API, which stands at ``place`` (with a slash at its end)."""
    return {
        'id': 'v2.1',
        'status': 'CURRENT',
        'version': maximum,
        'min_version': str(MIN),
        'updated': '2013-07-23T11:33:21Z',
        'links': [
            {'rel': 'self', 'href': place},
            {'rel': 'service-desc', 'type': 'application/json', 'href': place + DESCRIPTION},
        ],
    }
