"""The shapes of requests and responses, by microversion."""

from __future__ import annotations

import dataclasses
import ipaddress
import uuid
from collections.abc import Callable
from typing import Any

import hypothesis
import marshmallow
import pytest
from hypothesis import strategies as st
from microversion_parse import Version

from os_interface_ext.api import schemas
from os_interface_ext.attachments.manager import AttachRequest
from os_interface_ext.drivers import base

drive = hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=150)

ALL = [Version(2, minor) for minor in range(1, 105)]
V21, V249, V270 = Version(2, 1), Version(2, 49), Version(2, 70)
ID = 'c212f779-d41e-4198-98d6-285ba5467be3'
versions = st.sampled_from(ALL)
# What JSON can carry: no lone surrogates.
texts = st.text(max_size=20)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def load(version: Version = V270, **attachment: Any) -> AttachRequest:
    request: AttachRequest = schemas.create_request(version).load({'interfaceAttachment': attachment})
    return request


def refused(body: Any, version: Version = V270) -> str:
    with pytest.raises(marshmallow.ValidationError) as caught:
        schemas.create_request(version).load(body)
    return schemas.explain(caught.value)


# ------------------------------------------------------------------ requests


@pytest.mark.parametrize('version', ALL, ids=str)
def test_the_tag_came_with_2_49(version: Version) -> None:
    body = {'interfaceAttachment': {'port_id': ID, 'tag': 'nic'}}
    if version >= V249:
        assert schemas.create_request(version).load(body) == AttachRequest(port_id=ID, tag='nic')
    else:
        assert 'tag' in refused(body, version)


@drive
@hypothesis.given(version=versions)
def test_nothing_asked_for(version: Version) -> None:
    assert schemas.create_request(version).load({}) == AttachRequest()
    assert load(version) == AttachRequest()


SPELLINGS: list[Callable[[uuid.UUID], str]] = [
    str,
    lambda value: str(value).upper(),
    lambda value: value.hex,
    lambda value: value.hex.upper(),
    lambda value: value.urn,
    lambda value: f'{{{value}}}',
    lambda value: f'{value.hex[:4]}-{value.hex[4:]}',
]


@drive
@hypothesis.given(value=st.uuids(), spell=st.sampled_from(SPELLINGS), version=versions)
def test_uuids_in_all_spellings(value: uuid.UUID, spell: Callable[[uuid.UUID], str], version: Version) -> None:
    assert load(version, port_id=spell(value)).port_id == str(value)
    assert load(version, net_id=spell(value)).network_id == str(value)


def same_uuid(text: str) -> bool:
    try:
        uuid.UUID(hex=text)
    except ValueError:
        return False
    return set(text.lower()) <= set('0123456789abcdef-{}urnid:')


@drive
@hypothesis.given(
    value=st.one_of(values, st.text('0123456789abcdefABCDEF-_+x \u0663{}', min_size=31, max_size=34)),
    version=versions,
)
def test_what_is_no_uuid(value: Any, version: Version) -> None:
    hypothesis.assume(not (isinstance(value, str) and same_uuid(value)))
    for key in ('port_id', 'net_id'):
        assert key in refused({'interfaceAttachment': {key: value}}, version)


@pytest.mark.parametrize('blurred', ['_', '+', ' ', '0x', '\u0663', '\uff11', '\t'])
def test_digits_that_only_python_takes_for_some(blurred: str) -> None:
    """``int()`` reads them, and would attach another port."""
    assert 'port_id' in refused({'interfaceAttachment': {'port_id': blurred.ljust(32, '1')}})
    assert 'port_id' in refused({'interfaceAttachment': {'port_id': '1' * 20 + blurred.ljust(12, '1')}})


@drive
@hypothesis.given(address=st.ip_addresses(), version=versions)
def test_addresses_are_loaded_in_one_spelling(address: Any, version: Version) -> None:
    spellings = {str(address), address.exploded, str(address).upper(), address.exploded.upper()}
    for spelling in spellings:
        wanted = load(version, net_id=ID, fixed_ips=[{'ip_address': spelling}])
        assert wanted == AttachRequest(network_id=ID, ip_address=str(address))


def is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return isinstance(value, str) and '%' not in value


@drive
@hypothesis.given(
    value=st.one_of(values, st.text('0123456789abcdef.:/% \n', max_size=20), st.ip_addresses().map('{}%1'.format)),
    version=versions,
)
def test_what_is_no_address(value: Any, version: Version) -> None:
    hypothesis.assume(not (isinstance(value, str) and is_address(value)))
    body = {'interfaceAttachment': {'net_id': ID, 'fixed_ips': [{'ip_address': value}]}}
    assert 'ip_address' in refused(body, version)


@pytest.mark.parametrize(
    'fixed_ips',
    [
        None,
        [],
        {},
        '10.0.0.1',
        ['10.0.0.1'],
        [None],
        [{}],
        [{'subnet_id': ID}],
        [{'ip_address': '10.0.0.1', 'subnet_id': ID}],
        [{'ip_address': '10.0.0.1'}, {'ip_address': '10.0.0.2'}],
        [{'ip_address': '10.0.0.1'}] * 2,
    ],
    ids=str,
)
@pytest.mark.parametrize('version', [V21, V270], ids=str)
def test_one_address_and_nothing_else(version: Version, fixed_ips: Any) -> None:
    assert 'fixed_ips' in refused({'interfaceAttachment': {'net_id': ID, 'fixed_ips': fixed_ips}}, version)


tags = st.text(st.characters(exclude_categories=['Cs'], exclude_characters=',/'), min_size=1, max_size=60)


@drive
@hypothesis.given(tag=tags)
def test_tags_go_through_as_they_are(tag: str) -> None:
    assert load(tag=tag).tag == tag


@pytest.mark.parametrize('tag', ['a' * 60, '\U0001f600' * 60, 'e\u0301' * 30, '\0' * 60, '\n', ' ', '\u2028'])
def test_the_length_of_a_tag_is_counted_in_code_points(tag: str) -> None:
    assert load(tag=tag).tag == tag
    assert 'tag' in refused({'interfaceAttachment': {'tag': tag.ljust(60, 'x') + 'x'}})


@drive
@hypothesis.given(
    tag=st.one_of(
        values.filter(lambda value: not isinstance(value, str)),
        st.just(''),
        st.text(min_size=61, max_size=70),
        st.builds('{}{}{}'.format, texts, st.sampled_from(',/'), texts),
    )
)
def test_what_is_no_tag(tag: Any) -> None:
    assert 'tag' in refused({'interfaceAttachment': {'tag': tag}})


@drive
@hypothesis.given(key=texts, value=values, version=versions)
def test_unknown_properties(key: str, value: Any, version: Version) -> None:
    hypothesis.assume(key not in ('interfaceAttachment', 'net_id', 'port_id', 'fixed_ips', 'tag', 'ip_address'))
    refused({key: value}, version)
    refused({'interfaceAttachment': {key: value}}, version)
    address = {'ip_address': '10.0.0.1', key: value}
    refused({'interfaceAttachment': {'net_id': ID, 'fixed_ips': [address]}}, version)


# ------------------------------------------------------------------ responses

addresses = st.lists(st.builds(base.FixedIP, texts, texts), max_size=3).map(tuple)
ports = st.builds(
    base.Port, texts, texts, texts, texts, fixed_ips=addresses, status=texts, tag=st.one_of(st.none(), texts)
)


@drive
@hypothesis.given(port=ports, version=versions)
def test_the_quick_dump_is_the_schemas(port: base.Port, version: Version) -> None:
    dumped = schemas.dumper(version)(port)
    assert dumped == schemas.attachment_view(version).dump(port)
    assert type(dumped['fixed_ips']) is list
    assert all(type(address) is dict for address in dumped['fixed_ips'])


@pytest.mark.parametrize('version', ALL, ids=str)
def test_the_tag_is_shown_from_2_70(version: Version) -> None:
    fixed_ips = (base.FixedIP('subnet', '10.0.0.1'),)
    port = base.Port('port', 'net', 'mac', 'project', fixed_ips, 'ACTIVE', tag='nic')
    shown: dict[str, Any] = {
        'port_id': 'port',
        'net_id': 'net',
        'mac_addr': 'mac',
        'port_state': 'ACTIVE',
        'fixed_ips': [{'subnet_id': 'subnet', 'ip_address': '10.0.0.1'}],
    }
    if version >= V270:
        shown['tag'] = 'nic'
    assert schemas.dumper(version)(port) == shown
    untagged = dataclasses.replace(port, tag=None, fixed_ips=())
    if version >= V270:
        shown['tag'] = None
    assert schemas.dumper(version)(untagged) == {**shown, 'fixed_ips': []}


def test_a_field_that_the_quick_dump_does_not_know() -> None:
    class Odd(marshmallow.Schema):
        net_id = marshmallow.fields.String()
        port_id = marshmallow.fields.UUID()

    class Deep(marshmallow.Schema):
        items = marshmallow.fields.List(marshmallow.fields.Nested(Odd))
        net_id = marshmallow.fields.String()

    for schema in (Odd(), Deep()):
        with pytest.raises(NotImplementedError, match='UUID of port_id'):
            schemas.compile_dump(schema)


def test_the_quick_dump_knows_renamed_fields() -> None:
    class Renamed(marshmallow.Schema):
        port = marshmallow.fields.String(attribute='id', data_key='uuid')
        network_id = marshmallow.fields.String()

    port = base.Port('one', 'net', 'mac', 'project')
    dumped = {'uuid': 'one', 'network_id': 'net'}
    assert schemas.compile_dump(Renamed())(port) == Renamed().dump(port) == dumped


# ------------------------------------------------------------------ messages

wrong = st.one_of(
    st.dictionaries(texts, values, min_size=1, max_size=5),
    st.dictionaries(st.sampled_from(['net_id', 'port_id', 'fixed_ips', 'x' * 300]), values, min_size=1).map(
        lambda attachment: {'interfaceAttachment': attachment}
    ),
    st.lists(values, min_size=2).map(lambda items: {'interfaceAttachment': {'fixed_ips': items}}),
)


@drive
@hypothesis.given(body=wrong, version=versions)
def test_explained_in_one_short_line(body: Any, version: Version) -> None:
    try:
        schemas.create_request(version).load(body)
    except marshmallow.ValidationError as error:
        message = schemas.explain(error)
        assert message.startswith('Invalid input: ')
        assert len(message) <= 500
        assert message.isprintable()


@pytest.mark.parametrize(
    'body',
    [
        {f'key{number}': 1 for number in range(100_000)},
        {'x' * 100_000: 1},
        {'a\r\nb\0\x1b[31m\u2028': 1},
        {'interfaceAttachment': {f'{number}\n': number for number in range(1000)}},
        {'interfaceAttachment': {'fixed_ips': [{'\n' * 1000: 1}] * 5000}},
    ],
    ids=['many', 'long', 'control', 'nested', 'addresses'],
)
def test_explained_in_one_short_line_even_if_there_is_much(body: Any) -> None:
    message = refused(body)
    assert len(message) <= 500
    assert message.isprintable()


def test_the_explanation_names_the_place() -> None:
    assert 'interfaceAttachment.port_id' in refused({'interfaceAttachment': {'port_id': 'x'}})
    assert 'interfaceAttachment.fixed_ips.0.ip_address' in refused(
        {'interfaceAttachment': {'fixed_ips': [{'ip_address': 'x'}]}}
    )
    three = refused({'interfaceAttachment': {'port_id': 'x', 'net_id': 'y', 'fixed_ips': []}})
    assert all(key in three for key in ('port_id', 'net_id', 'fixed_ips'))
