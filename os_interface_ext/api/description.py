"""The API in OpenAPI 3.1: a document for each range of microversions that differ.

Made from what serves the requests: the URLs of :mod:`views`, the shapes of :mod:`schemas`, the versions of
:mod:`microversions`, the faults of :mod:`exceptions`. What is written here is what none of these knows: which
operation may fail how.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import apispec
import marshmallow
import orjson
import yaml
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_cls
from marshmallow import validate
from microversion_parse import Version
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response

from os_interface_ext import exceptions
from os_interface_ext.api import faults, microversions, schemas, views
from os_interface_ext.api.operation import JSON, VENDOR_JSON, View
from os_interface_ext.drivers import base

TITLE = 'OpenStack Compute: port interfaces'
#: What hosts of ours serve below the URL of the version, for everybody: file name, media type.
FILES = {microversions.DESCRIPTION: 'application/json', 'openapi.yaml': 'application/yaml'}

Error = type[exceptions.OsInterfaceError]


@dataclasses.dataclass(frozen=True)
class Range:
    """Microversions that do not differ: from ``first`` to ``last``.

    :ivar brings: what is new in the first of them
    :ivar latest: whether ``latest`` asks for the last of them
    """

    first: Version
    last: Version
    brings: str
    latest: bool

    def __str__(self) -> str:
        return f'{self.first} to {self.last}' if self.first != self.last else str(self.first)

    @property
    def versions(self) -> list[str]:
        """What a version header may ask for."""
        numbers = [f'{self.first.major}.{minor}' for minor in range(self.first.minor, self.last.minor + 1)]
        return [*numbers, 'latest'] if self.latest else numbers


#: the first version of each range, and what it brings
_CHANGES = {
    microversions.MIN: 'The four operations.',
    microversions.TAG_IN_REQUEST: 'An interface may be attached with a `tag`.',
    microversions.TAG_IN_RESPONSE: 'Every answer has the `tag`.',
    microversions.CLOSED_QUERY: 'Unknown query parameters are refused.',
}


def ranges(maximum: Version = microversions.MAX) -> list[Range]:
    """The ranges up to the highest version that is served."""
    firsts = [first for first in sorted(_CHANGES) if first <= maximum]
    found = []
    for first, following in zip(firsts, [*firsts[1:], None], strict=True):
        last = maximum if following is None else Version(following.major, following.minor - 1)
        found.append(Range(first, last, _CHANGES[first], following is None))
    return found


def range_of(version: Version, maximum: Version = microversions.MAX) -> Range:
    """The range that a version is in."""
    return next(one for one in ranges(maximum) if one.first <= version <= one.last)


# ------------------------------------------------------------------ what the operations answer

#: Any operation may answer with these.
_ALWAYS: tuple[Error, ...] = (
    exceptions.MalformedVersion,
    exceptions.ProjectMismatch,
    exceptions.Unauthorized,
    exceptions.TokenRefused,
    exceptions.Forbidden,
    exceptions.CallerRefused,
    exceptions.ServerNotFound,
    exceptions.VersionNotAcceptable,
    exceptions.OsInterfaceError,
    exceptions.DriverError,
    exceptions.Unavailable,
)
#: Those that begin a side effect, too.
_CHANGING: tuple[Error, ...] = (
    exceptions.ServerLocked,
    exceptions.ServerState,
    exceptions.NotSupported,
    exceptions.UnknownOutcome,
    exceptions.DeadlinePassed,
    exceptions.Busy,
    exceptions.LostHold,
    exceptions.ServerNotReady,
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """What the code of a view does not say of itself.

    :ivar name: as in the policy
    :ivar errors: besides those of all operations
    :ivar since: errors that come with a version
    """

    name: str
    summary: str
    text: str
    status: int
    answer: Callable[[Version], marshmallow.Schema] | None
    errors: tuple[Error, ...]
    since: Mapping[Version, tuple[Error, ...]]

    def errors_at(self, version: Version) -> list[Error]:
        """The errors that it may answer with, by status."""
        later = [error for since, errors in self.since.items() if version >= since for error in errors]
        return sorted([*_ALWAYS, *self.errors, *later], key=lambda error: error.code)


OPERATIONS: dict[View, Operation] = {
    views.index: Operation(
        name='list',
        summary='List the port interfaces of a server',
        text='Ports without a record come first (bound at boot, say), then the others in the order of attachment. '
        'An interface that is being detached is listed until its port can be used elsewhere.',
        status=200,
        answer=schemas.list_answer,
        errors=(exceptions.MalformedQuery, exceptions.NotSupported),
        since={microversions.CLOSED_QUERY: (exceptions.UnknownParameter,)},
    ),
    views.create: Operation(
        name='create',
        summary='Attach a port, or a new port on a network',
        text='Name a port (`port_id`), or a network (`net_id`) on which one is made; `{}` asks for the only '
        'network of the project. The answer comes when the interface is attached. What fails is undone, and a '
        'port that was brought is never deleted. The same request may be sent again when its answer was lost.',
        status=200,
        answer=schemas.show_answer,
        errors=(
            *_CHANGING,
            exceptions.BadRequest,
            exceptions.MalformedBody,
            exceptions.InvalidBody,
            exceptions.NetworkAmbiguous,
            exceptions.NetworkNotUsable,
            exceptions.NoAddress,
            exceptions.AddressInvalid,
            exceptions.PortNotUsable,
            exceptions.NetworkForbidden,
            exceptions.QuotaExceeded,
            exceptions.PortNotFound,
            exceptions.NetworkNotFound,
            exceptions.AddressInUse,
            exceptions.PortInUse,
            exceptions.DetachedMeanwhile,
            exceptions.BodyTooLarge,
            exceptions.UnsupportedMediaType,
            exceptions.BindingFailed,
            exceptions.PlugFailed,
            exceptions.UndoPending,
        ),
        since={
            microversions.TAG_IN_REQUEST: (exceptions.TagNotSupported,),
            microversions.CLOSED_QUERY: (exceptions.UnknownParameter, exceptions.MalformedQuery),
        },
    ),
    views.show: Operation(
        name='show',
        summary='Show one port interface of a server',
        text='404 after a detach means that the port can be used elsewhere.',
        status=200,
        answer=schemas.show_answer,
        errors=(exceptions.MalformedQuery, exceptions.NotAttached),
        since={microversions.CLOSED_QUERY: (exceptions.UnknownParameter,)},
    ),
    views.delete: Operation(
        name='delete',
        summary='Detach a port interface from a server',
        text='The detach is recorded when the answer comes, and complete when the interface cannot be shown any '
        'more. A port that an attach has made is deleted, one that was brought is set free.',
        status=202,
        answer=None,
        errors=(*_CHANGING, exceptions.NotAttached),
        since={},
    ),
}

#: The statuses that an answer may have before its version is known (no version headers), or for another one (406).
_MAY_LACK_VERSION = frozenset({400, 401, 405, 406, 413, 500, 503})

#: What `operation.check_combination` refuses, once the server has been found.
_COMBINATIONS = {'not': {'required': ['net_id', 'port_id']}, 'dependentRequired': {'fixed_ips': ['net_id']}}


def sample(error: Error) -> exceptions.OsInterfaceError:
    """An error as it could be raised, for its status and message."""
    known: dict[str, Any] = {
        'server_id': _SERVER,
        'port_id': _PORT,
        'network_id': _NETWORK,
        'address': '192.0.2.10',
        'operation': 'attach_interface',
        'state': 'vm_state shelved_offloaded',
        'name': 'limit',
        'allow': 'GET, HEAD, OPTIONS, POST',
        'version': '2.999',
        'lowest': str(microversions.MIN),
        'highest': str(microversions.MAX),
        'limit': 114688,
    }
    parameters = inspect.signature(error.__init__).parameters.values()
    needed = [one.name for one in parameters if one.default is one.empty and one.name != 'self']
    return error(**{name: known[name] for name in needed})


# ------------------------------------------------------------------ examples

_SERVER = '4e8f1cb6-73f1-4d8e-9b5a-7c6b0e0d9a11'
_PORT = 'ce531f90-199f-48c0-816c-13e38010b442'
_NETWORK = '3cb9bc59-5699-4588-a4b1-b87f96708bc6'
_ATTACHMENT = base.Port(
    id=_PORT,
    network_id=_NETWORK,
    mac_address='fa:16:3e:4c:2c:30',
    project_id='7a2c2f3b5d3a4f0e9f5d0c7b1e6a8d94',
    status='ACTIVE',
    fixed_ips=(base.FixedIP(subnet_id='f8a6e8f8-c2ec-497c-9f23-da9616de54ef', ip_address='192.0.2.10'),),
    tag='uplink',
)


def request_examples(version: Version) -> dict[str, dict[str, Any]]:
    """Bodies of a POST, by what they ask for."""
    address = [{'ip_address': '192.0.2.10'}]
    examples: dict[str, dict[str, Any]] = {
        'a port': {'interfaceAttachment': {'port_id': _PORT}},
        'a new port on a network': {'interfaceAttachment': {'net_id': _NETWORK}},
        'a new port with an address': {'interfaceAttachment': {'net_id': _NETWORK, 'fixed_ips': address}},
        'a new port on the only network': {'interfaceAttachment': {}},
    }
    if version >= microversions.TAG_IN_REQUEST:
        examples['a port, with a tag'] = {'interfaceAttachment': {'port_id': _PORT, 'tag': 'uplink'}}
    return examples


def answer_example(operation: Operation, version: Version) -> dict[str, Any]:
    """An answer of list, show or create."""
    view = schemas.dumper(version)(_ATTACHMENT)
    return {'interfaceAttachments': [view]} if operation.name == 'list' else {'interfaceAttachment': view}


# ------------------------------------------------------------------ the document


def make(version: Version, maximum: Version = microversions.MAX, url: str = '/v2.1') -> dict[str, Any]:
    """The OpenAPI document of the range that a microversion is in.

    :param maximum: the highest microversion that is served
    :param url: where the API stands
    """
    return _located(range_of(version, maximum), url)


def _located(scope: Range, url: str) -> dict[str, Any]:
    document = copy.deepcopy(_make(scope))
    document['servers'] = [{'url': url}]
    return document


@functools.cache
def _make(scope: Range) -> dict[str, Any]:
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = apispec.APISpec(
        TITLE,
        str(scope.first),
        '3.1.0',
        plugins=[plugin],
        info={
            'description': _introduction(scope),
            'license': {'name': 'Apache License 2.0', 'identifier': 'Apache-2.0'},
        },
        security=[{'token': []}],
        tags=[{'name': 'Port interfaces', 'description': 'The network interfaces of a server.'}],
    )
    assert plugin.converter is not None
    plugin.map_to_openapi_type(schemas.UUIDString, 'string', None)
    for function in (_of_uuid, _of_address, _of_forbidden_characters):
        plugin.converter.add_attribute_function(function)
    spec.components.security_scheme(
        'token', {'type': 'apiKey', 'in': 'header', 'name': 'X-Auth-Token', 'description': 'A token of Keystone.'}
    )
    for name, header in _headers(scope).items():
        spec.components.header(name, header)
    for name, parameter in _parameters(scope).items():
        spec.components.parameter(name, parameter.pop('in'), parameter)
    codes = {error.code for operation in OPERATIONS.values() for error in operation.errors_at(scope.first)}
    for code in sorted(codes | {exceptions.MethodNotAllowed.code}):
        spec.components.schema(_fault_name(code), _fault_schema(code))
    spec.components.response('MethodNotAllowed', _fault(405, [exceptions.MethodNotAllowed]))
    for operation in OPERATIONS.values():
        for code, errors in _by_status(operation, scope).items():
            spec.components.response(f'{operation.name}{code}', _fault(code, errors))
    # With and without a project id in front, as the blueprint has them.
    for prefix, suffix in (('', ''), ('/<project_id>', 'OfProject')):
        for path, _kind, _allow, methods in views.URLS:
            spec.path(
                url_of(prefix + path),
                operations={
                    method.lower(): _operation(OPERATIONS[view], scope, suffix) for method, view in methods.items()
                },
                parameters=re.findall(r'<(\w+)>', prefix + path),
            )
    document = spec.to_dict()
    document['components']['schemas']['AttachmentRequest'].update(_COMBINATIONS)
    return {'openapi': document.pop('openapi'), **document}


def _by_status(operation: Operation, scope: Range) -> dict[int, list[Error]]:
    groups = itertools.groupby(operation.errors_at(scope.first), lambda error: error.code)
    return {code: list(errors) for code, errors in groups}


def url_of(path: str) -> str:
    """A path of the views as OpenAPI writes it."""
    return re.sub(r'<(\w+)>', r'{\1}', path)


def _name(schema: Any) -> str:
    # Of several shapes of one thing a document has that of its version.
    kind: Any = resolve_schema_cls(schema)
    return str(kind.__name__).rstrip('0123456789')


def _of_uuid(_converter: Any, field: marshmallow.fields.Field[Any], **_more: Any) -> dict[str, Any]:
    """What `UUIDString` takes: more than the one spelling that the format of this name knows."""
    if isinstance(field, schemas.UUIDString):
        return {'pattern': '^(urn:)?(uuid:)?[{]*(-*[0-9A-Fa-f]){32}-*[}]*$'}
    return {}


def _of_address(_converter: Any, field: marshmallow.fields.Field[Any], **_more: Any) -> dict[str, Any]:
    """What `IPAddressString` takes."""
    if isinstance(field, schemas.IPAddressString):
        return {'anyOf': [{'format': 'ipv4'}, {'format': 'ipv6'}]}
    return {}


def _of_forbidden_characters(
    _converter: Any, field: marshmallow.fields.Field[Any], **_more: Any
) -> dict[str, Any]:
    """`ContainsNoneOf`, of which apispec knows nothing."""
    for validator in field.validators:
        if isinstance(validator, validate.ContainsNoneOf):
            return {'pattern': f'^[^{re.escape("".join(map(str, validator.iterable)))}]*$'}
    return {}


def _introduction(scope: Range) -> str:
    others = ' '.join(f'{one}: {one.brings}' for one in ranges(scope.last))
    return (
        f'The API at the microversions {scope}. {others}\n\n'
        f'Ask for one with `{microversions.STANDARD_HEADER}: compute {scope.last}` or '
        f'`{microversions.LEGACY_HEADER}: {scope.last}`; without, it is {microversions.MIN}. '
        f'A fault has the body of Nova, and its error code in the header `{faults.ERROR_HEADER}`. '
        'Each URL answers HEAD as GET, without a body, and OPTIONS with `Allow`; any other method is 405. '
        'Middleware in front may answer by itself, in a form of its own: 401 without a good token, 413.'
    )


def _headers(scope: Range) -> dict[str, dict[str, Any]]:
    """The headers of the answers, by their names among the components."""
    request_id = {'type': 'string', 'pattern': '^req-'}
    negotiated = [version for version in scope.versions if version != 'latest']
    return {
        'RequestId': {
            'description': 'By which the log knows the request.',
            'schema': request_id,
            'required': True,
        },
        'Version': {
            'description': 'The microversion that was answered.',
            'schema': {'enum': [f'compute {version}' for version in negotiated]},
            'required': True,
        },
        'LegacyVersion': {
            'description': 'The same, in the older header.',
            'schema': {'enum': negotiated},
            'required': True,
        },
        'AskedVersion': {
            'description': 'The microversion that was asked for, once it could be read.',
            'schema': {'type': 'string', 'pattern': r'^compute [0-9]+\.[0-9]+$'},
        },
        'AskedLegacyVersion': {
            'description': 'The same, in the older header.',
            'schema': {'type': 'string', 'pattern': r'^[0-9]+\.[0-9]+$'},
        },
        'Vary': {'description': 'What the answer depends on.', 'schema': {'type': 'string'}},
        'Allow': {
            'description': 'The methods that the URL has.',
            'schema': {'type': 'string'},
            'required': True,
        },
        'RetryAfter': {
            'description': 'The seconds after which it is worth trying again.',
            'schema': {'type': 'integer', 'minimum': 1},
            'required': True,
        },
        'Authenticate': {
            'description': 'Where tokens come from.',
            'schema': {'type': 'string'},
            'required': True,
        },
    }


def _parameters(scope: Range) -> dict[str, dict[str, Any]]:
    """The parameters of the requests, by their names among the components."""
    versions = scope.versions
    uuid = {'type': 'string', 'format': 'uuid'}
    named: dict[str, dict[str, Any]] = {
        'server_id': {'in': 'path', 'description': 'The server.', 'schema': uuid, 'example': _SERVER},
        'port_id': {'in': 'path', 'description': 'The port.', 'schema': uuid, 'example': _PORT},
        'project_id': {
            'in': 'path',
            'description': 'The project of the token.',
            'schema': {'type': 'string', 'minLength': 1},
            'example': 'd6c4fc19b68542f4a98fa41bf5ff7e8c',
        },
        microversions.STANDARD_HEADER: {
            'in': 'header',
            'description': 'The microversion. The older header does as well; with both, this one counts.',
            'required': scope.first != microversions.MIN,
            'schema': {'type': 'string', 'enum': [f'compute {version}' for version in versions]},
        },
        microversions.LEGACY_HEADER: {
            'in': 'header',
            'description': 'The microversion, in the older header.',
            'schema': {'type': 'string', 'enum': versions},
        },
        'X-Openstack-Request-Id': {
            'in': 'header',
            'description': 'The id of the request that this one belongs to; for the log, and passed on.',
            'schema': {'type': 'string'},
            'example': 'req-11111111-2222-3333-4444-555555555555',
        },
        'marker': {
            'in': 'query',
            'description': 'List what follows this port; without effect where the server does not have it.',
            'schema': {'type': 'string'},
        },
    }
    for name, parameter in named.items():
        # apispec names a component like the parameter.
        parameter['name'] = name
        if parameter['in'] == 'path':
            parameter['required'] = True
    return named


def _operation(operation: Operation, scope: Range, suffix: str) -> dict[str, Any]:
    responses: dict[str, Any] = {str(operation.status): _success(operation, scope, suffix)}
    responses |= {str(code): f'{operation.name}{code}' for code in _by_status(operation, scope)}
    made: dict[str, Any] = {
        'operationId': f'{operation.name}{suffix}',
        'tags': ['Port interfaces'],
        'summary': operation.summary,
        'description': operation.text,
        'parameters': [microversions.STANDARD_HEADER, microversions.LEGACY_HEADER, 'X-Openstack-Request-Id'],
        'responses': responses,
    }
    if operation.name == 'list' and scope.first < microversions.CLOSED_QUERY:
        made['parameters'].append('marker')
    if operation.name == 'create':
        examples = request_examples(scope.first)
        body = {
            'schema': schemas.create_request(scope.first),
            'examples': {_key(name): {'summary': name, 'value': value} for name, value in examples.items()},
        }
        made['requestBody'] = {'required': True, 'content': {JSON: body, VENDOR_JSON: body}}
    return made


def _success(operation: Operation, scope: Range, suffix: str) -> dict[str, Any]:
    response: dict[str, Any] = {
        'description': HTTP_STATUS_CODES[operation.status],
        'headers': _common_headers('Version', 'LegacyVersion'),
    }
    if operation.answer is not None:
        body = {'schema': operation.answer(scope.first), 'example': answer_example(operation, scope.first)}
        response['content'] = {JSON: body, VENDOR_JSON: body}
    if operation.name in ('list', 'create'):
        port = '/interfaceAttachments/0' if operation.name == 'list' else '/interfaceAttachment'
        known = {'server_id': '$request.path.server_id', 'port_id': f'$response.body#{port}/port_id'}
        if suffix:
            known['project_id'] = '$request.path.project_id'
        response['links'] = {
            name: {'operationId': f'{name}{suffix}', 'parameters': known} for name in ('show', 'delete')
        }
    return response


def _fault(code: int, errors: list[Error]) -> dict[str, Any]:
    """The faults of one status."""
    examples = {
        error.error_code: {
            'summary': error.cause,
            'description': error.cure,
            'value': faults.body(code, sample(error).message),
        }
        for error in errors
    }
    asked = 'Asked' if code in _MAY_LACK_VERSION else ''
    headers = _common_headers(f'{asked}Version', f'{asked}LegacyVersion')
    headers[faults.ERROR_HEADER] = {
        'description': 'The error code.',
        'schema': {'enum': [error.error_code for error in errors]},
        'required': True,
    }
    for status, name, header in (
        (401, 'WWW-Authenticate', 'Authenticate'),
        (405, 'Allow', 'Allow'),
        (503, 'Retry-After', 'RetryAfter'),
    ):
        if code == status:
            headers[name] = header
    return {
        'description': f'{HTTP_STATUS_CODES[code]}: {", ".join(error.error_code for error in errors)}',
        'headers': headers,
        'content': {JSON: {'schema': _fault_name(code), 'examples': examples}},
    }


def _common_headers(version: str, legacy: str) -> dict[str, Any]:
    return {
        'x-openstack-request-id': 'RequestId',
        'x-compute-request-id': 'RequestId',
        microversions.STANDARD_HEADER: version,
        microversions.LEGACY_HEADER: legacy,
        'Vary': 'Vary',
    }


def _fault_name(code: int) -> str:
    return f'Fault{code}'


def _fault_schema(code: int) -> dict[str, Any]:
    """Nova's fault of a status."""
    kind = next(iter(faults.body(code, '')))
    return {
        'type': 'object',
        'required': [kind],
        'additionalProperties': False,
        'properties': {
            kind: {
                'type': 'object',
                'required': ['code', 'message'],
                'additionalProperties': False,
                'properties': {
                    'code': {'const': code, 'description': 'The status.'},
                    'message': {'type': 'string', 'minLength': 1, 'description': 'For people; may change.'},
                },
            }
        },
    }


def _key(text: str) -> str:
    return re.sub(r'\W+', '_', text)


# ------------------------------------------------------------------ as text, and over HTTP


def dump(document: Mapping[str, Any], form: str) -> str:
    """A document as text, ``json`` or ``yaml``."""
    if form == 'json':
        return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + '\n'
    plain = orjson.loads(orjson.dumps(document))
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(getattr(yaml, 'CSafeDumper', yaml.SafeDumper)):  # type: ignore[misc]
    """Without anchors: what is the same in two places is written twice. libyaml's is eight times as fast."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@functools.lru_cache(maxsize=64)
def _text(scope: Range, form: str, url: str) -> str:
    # Anybody may ask for it: it must not cost much.
    return dump(_located(scope, url), form)


def response(environ: Mapping[str, Any], file: str, maximum: str, url: str) -> Response:
    """The answer to a GET of one of the FILES.

    The microversion is that of the version headers, as for every request, or of the query parameter
    ``microversion``, for those who have nothing but a URL.

    :param maximum: the highest microversion that is served
    :param url: where the API stands
    """
    highest = Version(*map(int, maximum.split('.')))
    asked = dict(urllib.parse.parse_qsl(environ.get('QUERY_STRING', ''))).get('microversion')
    headers = environ if asked is None else {'HTTP_OPENSTACK_API_VERSION': f'compute {asked}'}
    try:
        version = microversions.negotiate(headers, highest)
    except exceptions.RequestError as error:
        return faults.of_error(environ, error)
    text = _text(range_of(version, highest), file.rpartition('.')[2], url.rstrip('/'))
    return Response(text, headers=microversions.response_headers(str(version)), content_type=FILES[file])
