"""The description of the API as a page for people, in Markdown: ``doc/api-reference.md``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from werkzeug.http import HTTP_STATUS_CODES

from os_interface_ext import exceptions
from os_interface_ext.api import description, faults, microversions, views
from os_interface_ext.api.description import Error
from os_interface_ext.api.operation import JSON

_INTRODUCTION = """# API reference

What the API takes and answers, and every fault with its cause and its cure. This page is made from the code
(`os-interface-ext openapi --format markdown`). The same for programs, in OpenAPI 3.1, is written by
`os-interface-ext openapi`, and where this project serves an application of its own, it is there for everybody at
`/v2.1/openapi.json` and `/v2.1/openapi.yaml`, of the microversion that the request asks for
(`?microversion=2.70` will do as well).

The API is Nova's [port interfaces](https://docs.openstack.org/api-ref/compute/#port-interfaces-servers-os-interface);
where it differs is [a page](differences.md) of its own.
"""

_HEADERS = f"""## Headers

A request may have:

| header | what |
|---|---|
| `X-Auth-Token` | the token; without a good one, 401 |
| `{microversions.STANDARD_HEADER}: compute 2.70` | the microversion, or `compute latest` |
| `{microversions.LEGACY_HEADER}: 2.70` | the same, older; if there are both, the other one counts |
| `X-Openstack-Request-Id` | the request that this one belongs to (`req-` and a UUID); logged, and passed on |
| `Accept` | `application/json`, or Nova's `application/vnd.openstack.compute+json` |

An answer has:

| header | what |
|---|---|
| `x-openstack-request-id`, `x-compute-request-id` | by which the log knows the request; give it to the operator |
| `{microversions.STANDARD_HEADER}`, `{microversions.LEGACY_HEADER}`, `Vary` | the microversion, once it is known |
| `{faults.ERROR_HEADER}` | of a fault: its [error code](#faults) |
| `Retry-After` | of a 503: the seconds after which it is worth trying again |
| `Allow` | of a 405, and of the answer to OPTIONS: the methods of the URL |
| `WWW-Authenticate` | of a 401: where tokens come from |
"""

_FAULTS = f"""## Faults

A fault has the status, Nova's body for it, and its error code in the header `{faults.ERROR_HEADER}`:

```http
HTTP/1.1 409 CONFLICT
Content-Type: application/json
{faults.ERROR_HEADER}: {{code}}
x-openstack-request-id: req-0a5ec9bc-6ba7-4e0c-9b6b-3d3f1b0f2b5e

{{body}}
```

The error code is for programs, and for finding the fault on this page: it never changes. The message is for people
and may change. Middleware in front of the API may answer by itself, without an error code: keystonemiddleware a
request without a good token (401), the size limit a body that is too large (413).
"""

_UNANSWERED = """### In the log alone

No request of this API is answered with these. An operator may meet them in the log, and a driver's own error may
be made from them.
"""


def render() -> str:
    """The whole page."""
    document = description.make(microversions.MAX)
    parts = [
        _INTRODUCTION,
        *_glance(),
        *_microversions(),
        _HEADERS,
        *_operations(document),
        *_shapes(document),
        *_faults(),
    ]
    return '\n'.join(part.strip('\n') + '\n' for part in parts)


def errors() -> list[Error]:
    """Every error that has a code, by status."""
    found = [
        one
        for one in vars(exceptions).values()
        if isinstance(one, type)
        and issubclass(one, exceptions.OsInterfaceError)
        and not issubclass(one, exceptions.ConfigurationError)
    ]
    return sorted(found, key=lambda error: error.code)


def answered() -> dict[Error, list[str]]:
    """Error -> the operations that may answer with it, each with the version since which it may."""
    found: dict[Error, list[str]] = {exceptions.NotFound: [], exceptions.MethodNotAllowed: []}
    for operation in description.OPERATIONS.values():
        firsts = [one.first for one in reversed(description.ranges())]
        since = {error: first for first in firsts for error in operation.errors_at(first)}
        for error, first in since.items():
            later = f' (since {first})' if first > microversions.MIN else ''
            found.setdefault(error, []).append(operation.name + later)
    return found


# ------------------------------------------------------------------ the parts


def _glance() -> Iterator[str]:
    rows = [
        (
            f'`{method} {url}`',
            f'[{operation.summary}](#{_slug(operation.summary)})',
            str(operation.status),
        )
        for url, method, operation in _requests()
    ]
    yield '## At a glance'
    yield _table(('request', 'what', 'success'), rows)
    yield (
        'The same with the project of the token in front, `/{project_id}/servers/…`. What stands before that is '
        "the controller's, `/v2.1` as a rule. HEAD is answered as GET without a body, OPTIONS with `Allow`, and "
        'any other method with 405.'
    )


def _microversions() -> Iterator[str]:
    yield '## Microversions'
    yield _table(
        ('versions', 'what the first of them brings'), [(str(one), one.brings) for one in description.ranges()]
    )
    yield (
        f'A request without a version header is one at {microversions.MIN}. `[api] max_microversion` lowers the '
        'highest one.'
    )


def _requests() -> Iterator[tuple[str, str, description.Operation]]:
    for path, _kind, _allow, methods in views.URLS:
        for method, view in methods.items():
            yield description.url_of(path), method, description.OPERATIONS[view]


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    yield '## Operations'
    known = answered()
    for url, method, operation in _requests():
        made = document['paths'][url][method.lower()]
        yield f'### {operation.summary}'
        yield f'`{method} {url}`'
        yield operation.text
        if 'requestBody' in made:
            yield 'The body:'
            examples = made['requestBody']['content'][JSON]['examples'].values()
            yield _table(
                ('asked for', 'body'), [(one['summary'], f'`{json.dumps(one["value"])}`') for one in examples]
            )
        answer = made['responses'][str(operation.status)]
        if 'content' in answer:
            yield f'Answer, {operation.status}:'
            yield _code('json', json.dumps(answer['content'][JSON]['example'], indent=2))
        else:
            yield f'Answer: {operation.status}, without a body.'
        yield 'Faults:'
        yield _table(('status', 'error codes'), list(_codes(operation, known)))


def _codes(operation: description.Operation, known: Mapping[Error, list[str]]) -> Iterator[tuple[str, str]]:
    mine = [error for error, names in known.items() if any(name.split()[0] == operation.name for name in names)]
    for code in sorted({error.code for error in mine}):
        links = [f'[{error.error_code}](#{error.error_code})' for error in mine if error.code == code]
        yield str(code), ', '.join(links)


def _shapes(document: Mapping[str, Any]) -> Iterator[str]:
    shapes = document['components']['schemas']
    yield '## Fields'
    for title, names in (
        ('What is asked for (`interfaceAttachment` of a POST)', ('AttachmentRequest', 'FixedIPRequest')),
        ('What is answered (`interfaceAttachment`)', ('AttachmentView', 'FixedIPView')),
    ):
        yield f'### {title}'
        outer, inner = (shapes[name]['properties'] for name in names)
        rows = [(f'`{name}`', _type(field), field['description']) for name, field in outer.items()]
        rows += [(f'`fixed_ips[].{name}`', _type(field), field['description']) for name, field in inner.items()]
        yield _table(('field', 'type', 'what'), rows)
    yield (
        'All fields of a request are optional, save the address in `fixed_ips`; a field that is not listed is '
        'refused. All fields of an answer are always there (`tag` since 2.70).'
    )


def _type(field: Mapping[str, Any]) -> str:
    kind = field.get('type', 'string')
    kinds = [kind] if isinstance(kind, str) else list(kind)
    bounds = []
    for name, text in (('minLength', 'at least {}'), ('maxLength', 'at most {}'), ('minItems', 'exactly {}')):
        if name in field:
            bounds.append(text.format(field[name]))
    text = ' or '.join(kinds)
    return f'{text} ({", ".join(bounds)})' if bounds else text


def _faults() -> Iterator[str]:
    known = answered()
    example = exceptions.PortInUse
    body = json.dumps(faults.body(example.code, description.sample(example).message), indent=2)
    yield _FAULTS.replace('{code}', example.error_code).replace('{body}', body)
    listed = [error for error in errors() if error in known]
    for code in sorted({error.code for error in listed}):
        kind = next(iter(faults.body(code, '')))
        yield f'### {code} {HTTP_STATUS_CODES[code]}'
        yield f'`{{"{kind}": {{"code": {code}, "message": "…"}}}}`'
        for error in listed:
            if error.code == code:
                yield from _fault(error, known[error])
    yield _UNANSWERED
    for error in errors():
        if error not in known:
            yield from _fault(error, [])


def _fault(error: Error, operations: list[str]) -> Iterator[str]:
    yield f'#### {error.error_code}'
    yield f'**Cause.** {error.cause}'
    yield f'**Cure.** {error.cure}'
    if len(operations) == len(description.OPERATIONS) and not any(' ' in name for name in operations):
        yield 'Answered by all operations.'
    elif operations:
        yield f'Answered by {", ".join(operations)}.'


# ------------------------------------------------------------------ Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return '\n'.join(f'| {" | ".join(line)} |' for line in (head, ['---'] * len(head), *rows))


def _code(language: str, text: str) -> str:
    return f'```{language}\n{text}\n```'


def _slug(heading: str) -> str:
    """The anchor of a heading, as forges and the documents' builder make it."""
    return re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
