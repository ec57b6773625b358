"""The description of the API, the error codes, and the reference: what they say is what the code does."""

from __future__ import annotations

import importlib
import json
import pathlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from microversion_parse import Version
from openapi_spec_validator import OpenAPIV31SpecValidator

import os_interface_ext
from os_interface_ext import exceptions
from os_interface_ext.api import description, faults, microversions, reference, schemas, views
from os_interface_ext.cmd.main import main

DOC = pathlib.Path(__file__).parents[2] / 'doc'
ITEM = '/servers/{server_id}/os-interface/{port_id}'
COLLECTION = '/servers/{server_id}/os-interface'

#: The statuses of the contract, by operation.
CONTRACT = {
    'list': '200 400 401 403 404 406 500 501 503',
    'create': '200 400 401 403 404 406 409 413 415 500 501 503',
    'show': '200 400 401 403 404 406 500 503',
    'delete': '202 400 401 403 404 406 409 500 501 503',
}


@pytest.fixture(params=description.ranges(), ids=str)
def scope(request: pytest.FixtureRequest) -> description.Range:
    found: description.Range = request.param
    return found


@pytest.fixture
def document(scope: description.Range) -> dict[str, Any]:
    # As whoever reads it gets it.
    made: dict[str, Any] = json.loads(description.dump(description.make(scope.first), 'json'))
    return made


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document['paths'].items():
        for method, operation in methods.items():
            if method != 'parameters':
                yield path, method, operation


def resolved(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to."""
    for part in value['$ref'].removeprefix('#/').split('/'):
        document = document[part]
    return document


def requested(field: str) -> dict[str, Any]:
    """What the newest document says of a field of a POST."""
    shape = description.make(microversions.MAX)['components']['schemas']['AttachmentRequest']
    found: dict[str, Any] = shape['properties'][field]
    return found


# ------------------------------------------------------------------ the document


def test_it_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document['openapi'].startswith('3.1.')
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_ranges_cover_every_version_once() -> None:
    covered = [version for scope in description.ranges() for version in scope.versions if version != 'latest']
    assert covered == [f'2.{minor}' for minor in range(1, microversions.MAX.minor + 1)]
    assert [scope.latest for scope in description.ranges()] == [False, False, False, True]
    lowered = description.ranges(Version(2, 60))
    assert [str(scope) for scope in lowered] == ['2.1 to 2.48', '2.49 to 2.60']
    assert lowered[-1].versions[-2:] == ['2.60', 'latest']
    assert description.range_of(Version(2, 55), Version(2, 60)) == lowered[-1]
    assert str(description.ranges(Version(2, 49))[-1]) == '2.49'


def test_every_url_and_method_is_described(document: dict[str, Any]) -> None:
    served = {
        (description.url_of(prefix + path), method.lower())
        for prefix in ('', '/<project_id>')
        for path, _kind, _allow, methods in views.URLS
        for method in methods
    }
    assert {(path, method) for path, method, _ in operations(document)} == served
    names = [operation['operationId'] for _path, _method, operation in operations(document)]
    assert len(set(names)) == len(names) == 8


def test_every_status_of_the_contract_is_described(document: dict[str, Any]) -> None:
    for _path, _method, operation in operations(document):
        name = operation['operationId'].removesuffix('OfProject')
        assert ' '.join(sorted(operation['responses'])) == CONTRACT[name]


def test_every_fault_is_one_of_nova_with_its_codes(document: dict[str, Any]) -> None:
    for _path, _method, operation in operations(document):
        for status, reference_ in operation['responses'].items():
            if status >= '400':
                fault = resolved(document, reference_)
                examples = fault['content']['application/json']['examples']
                codes = fault['headers'][faults.ERROR_HEADER]['schema']['enum']
                assert codes == list(examples)
                for example in examples.values():
                    ((kind, body),) = example['value'].items()
                    assert kind == faults.TYPES[int(status)]
                    assert body['code'] == int(status)
                    assert body['message']


def test_what_comes_with_a_version_is_described_from_then_on(
    scope: description.Range, document: dict[str, Any]
) -> None:
    shapes = document['components']['schemas']
    assert ('tag' in shapes['AttachmentRequest']['properties']) == (scope.first >= microversions.TAG_IN_REQUEST)
    assert ('tag' in shapes['AttachmentView']['properties']) == (scope.first >= microversions.TAG_IN_RESPONSE)
    closed = scope.first >= microversions.CLOSED_QUERY
    parameters = document['paths'][COLLECTION]['get']['parameters']
    assert ('#/components/parameters/marker' in [one['$ref'] for one in parameters]) != closed
    refused = resolved(document, document['paths'][ITEM]['get']['responses']['400'])
    assert ('unknown_parameter' in refused['content']['application/json']['examples']) == closed
    header = document['components']['parameters'][microversions.STANDARD_HEADER]
    assert header['required'] == (scope.first > microversions.MIN)
    assert header['schema']['enum'] == [f'compute {version}' for version in scope.versions]


def test_the_shapes_are_those_of_the_schemas(scope: description.Range, document: dict[str, Any]) -> None:
    shapes = document['components']['schemas']
    view = schemas.attachment_view(scope.first)
    assert list(shapes['AttachmentView']['properties']) == list(view.dump_fields)
    assert sorted(shapes['AttachmentView']['required']) == sorted(view.dump_fields)
    for shape in ('AttachmentView', 'AttachmentRequest', 'CreateRequest', 'FixedIPRequest', 'ListAnswer'):
        assert shapes[shape]['additionalProperties'] is False
    address = shapes['FixedIPRequest']['properties']['ip_address']
    assert address['anyOf'] == [{'format': 'ipv4'}, {'format': 'ipv6'}]
    addresses = shapes['AttachmentRequest']['properties']['fixed_ips']
    assert (addresses['minItems'], addresses['maxItems']) == (1, 1)


@pytest.mark.parametrize('tag', ['a', 'a' * 60, '\n', '', 'a' * 61, 'a,b', 'a/b'])
def test_a_tag_is_described_as_it_is_checked(tag: str) -> None:
    field = requested('tag')
    described = bool(field['minLength'] <= len(tag) <= field['maxLength'] and re.search(field['pattern'], tag))
    problems = schemas.create_request(microversions.MAX).validate({'interfaceAttachment': {'tag': tag}})
    assert described == (not problems)


@pytest.mark.parametrize(
    'text',
    [
        'ce531f90-199f-48c0-816c-13e38010b442',
        'CE531F90199F48C0816C13E38010B442',
        '{ce531f90-199f-48c0-816c-13e38010b442}',
        'urn:uuid:ce531f90-199f-48c0-816c-13e38010b442',
        'ce53-1f90199f48c0816c13e38010b442',
        'ce531f90-199f-48c0-816c-13e38010b44',
        'ce531f90-199f-48c0-816c-13e38010b44g',
        '+e531f90-199f-48c0-816c-13e38010b442',
        '',
    ],
)
def test_a_uuid_is_described_as_it_is_checked(text: str) -> None:
    pattern = requested('net_id')['pattern']
    problems = schemas.create_request(microversions.MAX).validate({'interfaceAttachment': {'net_id': text}})
    assert bool(re.search(pattern, text)) == (not problems)


def test_the_examples_are_what_is_taken_and_given(scope: description.Range, document: dict[str, Any]) -> None:
    content = document['paths'][COLLECTION]['post']['requestBody']['content']
    assert list(content) == ['application/json', 'application/vnd.openstack.compute+json']
    schema = schemas.create_request(scope.first)
    for example in content['application/json']['examples'].values():
        assert schema.validate(example['value']) == {}
    answer = document['paths'][ITEM]['get']['responses']['200']['content']['application/json']['example']
    assert schemas.show_answer(scope.first).validate(answer) == {}
    listed = document['paths'][COLLECTION]['get']['responses']['200']['content']['application/json']['example']
    assert schemas.list_answer(scope.first).validate(listed) == {}


def test_a_document_is_not_shared() -> None:
    first = description.make(microversions.MIN, url='https://one.example/v2.1')
    first['paths'].clear()
    second = description.make(microversions.MIN)
    assert second['paths']
    assert second['servers'] == [{'url': '/v2.1'}]


# ------------------------------------------------------------------ the error codes


def our_errors() -> list[type[exceptions.OsInterfaceError]]:
    """Every error class of the package that a request may be answered with, wherever it is."""
    for module in pkgutil.walk_packages(os_interface_ext.__path__, 'os_interface_ext.'):
        if '.migrations.' not in module.name and not module.name.endswith('wsgi.api'):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                if str(error.name).startswith('os_interface_ext'):
                    raise
                # A library that comes as an extra is not installed.
    found, left = [], [exceptions.OsInterfaceError]
    while left:
        one = left.pop()
        left += one.__subclasses__()
        if one.__module__.startswith('os_interface_ext.') and not issubclass(one, exceptions.ConfigurationError):
            found.append(one)
    return sorted(set(found), key=lambda one: one.__name__)


def test_every_error_has_a_code_of_its_own() -> None:
    found = our_errors()
    assert len(found) > 40
    codes = [vars(one).get('error_code') for one in found]
    assert None not in codes, [one for one in found if 'error_code' not in vars(one)]
    assert len(set(codes)) == len(codes)
    for one in found:
        assert re.fullmatch('[a-z]+(_[a-z]+)*', one.error_code)
        assert vars(one)['cause'].endswith('.')
        assert vars(one)['cure'].endswith('.')


def test_a_drivers_own_error_has_the_code_of_its_kind() -> None:
    class Weird(exceptions.PlugFailed):
        pass

    assert faults.of_error({}, Weird()).headers[faults.ERROR_HEADER] == 'plug_failed'


def test_every_error_of_the_api_can_be_looked_up() -> None:
    page = (DOC / 'api-reference.md').read_text()
    for one in our_errors():
        if one.__module__ == exceptions.__name__:
            assert f'\n#### {one.error_code}\n\n**Cause.** {one.cause}\n\n**Cure.** {one.cure}\n' in page


def test_a_fault_tells_its_code_beside_the_body() -> None:
    for one in reference.errors():
        error = description.sample(one)
        answer = faults.of_error({}, error)
        assert answer.status_code == error.code
        assert answer.headers[faults.ERROR_HEADER] == one.error_code
        assert json.loads(answer.data) == faults.body(error.code, error.message)
        assert set(json.loads(answer.data)) == {faults.TYPES[error.code]}


# ------------------------------------------------------------------ the reference


def test_the_reference_is_that_of_this_code() -> None:
    assert (DOC / 'api-reference.md').read_text() == reference.render(), (
        'make it anew: os-interface-ext openapi --format markdown > doc/api-reference.md'
    )


def test_every_link_of_the_reference_leads_somewhere() -> None:
    page = reference.render()
    headings = re.findall(r'^#+ (.*)$', page, re.MULTILINE)
    anchors = {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}
    links = set(re.findall(r'\]\(#([^)]*)\)', page))
    assert links
    assert links <= anchors


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize('form', ['json', 'yaml'])
def test_the_command_writes_the_document(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['openapi', '--microversion', '2.75', '--format', form]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == json.loads(json.dumps(description.make(Version(2, 75))))


def test_the_command_without_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['openapi']) == 0
    assert json.loads(capsys.readouterr().out)['info']['version'] == '2.102'
    assert main(['openapi', '--format', 'markdown']) == 0
    assert capsys.readouterr().out == reference.render()


@pytest.mark.parametrize('version', ['2.105', '1.0', '2', 'x'])
def test_the_command_refuses_a_version_in_one_line(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['openapi', '--microversion', version]) == 1
    told = capsys.readouterr()
    assert told.out == ''
    assert len(told.err.splitlines()) == 1
