"""The microversion that a request asks for, against the rules read by themselves."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from microversion_parse import Version

from os_interface_ext import exceptions
from os_interface_ext.api import microversions

drive = hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=300)


def negotiate(standard: str | None = None, legacy: str | None = None, maximum: str = '2.104') -> str:
    """The version, or the name of the error."""
    environ: dict[str, Any] = {'REQUEST_METHOD': 'GET'}
    if standard is not None:
        environ['HTTP_OPENSTACK_API_VERSION'] = standard
    if legacy is not None:
        environ['HTTP_X_OPENSTACK_NOVA_API_VERSION'] = legacy
    try:
        return str(microversions.negotiate(environ, Version(*map(int, maximum.split('.')))))
    except exceptions.RequestError as error:
        return f'{error.code} {getattr(error, "version", "")}'.strip()


def expected(standard: str | None, legacy: str | None, maximum: str) -> str:
    """What the rules say, word by word.

    The last value of the first header that is ours counts; then the last of the second; then 2.1.
    """
    asked = None
    for value in (standard or '').split(','):
        words = value.split()
        if len(words) > 1 and words[0].lower() == 'compute':
            asked = ' '.join(words[1:])
    if asked is None and legacy is not None:
        asked = legacy.split(',')[-1].strip()
    if asked is None:
        return '2.1'
    if asked == 'latest':
        return maximum
    if not re.fullmatch('[1-9][0-9]*[.](0|[1-9][0-9]*)', asked, re.ASCII):
        return '400'
    major, _, minor = asked.partition('.')
    if (int(major), int(minor)) < (2, 1) or int(major) > 2 or int(minor) > int(maximum[2:]):
        return f'406 {asked}'
    return asked


numbers = st.one_of(
    st.integers(0, 110).map(str),
    st.sampled_from(
        ['2', '1', '3', '0', '00', '01', '002', '', '-1', '+1', 'x', '1_0', '\xb2', '9' * 20, ' ', '1e1']
    ),
)
asked = st.one_of(
    st.integers(0, 106).map('2.{}'.format),
    st.builds('{}.{}'.format, numbers, numbers),
    st.sampled_from(
        ['latest', 'LATEST', 'Latest', 'abc', '2', '2.', '.1', '2.1.1', 'v2.1', '2.70 extra', '2,70', '']
    ),
)
services = st.sampled_from(['compute', 'Compute', 'COMPUTE', 'volume', 'nova', 'computes', 'compute:', ''])
blanks = st.sampled_from(['', ' ', '  ', '\t'])
values = st.builds(
    '{}{}{}{}{}'.format, blanks, services, st.sampled_from([' ', '  ', '\t', '=', '']), asked, blanks
)
standard_headers = st.one_of(st.none(), st.lists(values, max_size=3).map(','.join))
legacy_headers = st.one_of(st.none(), st.lists(st.builds('{}{}{}'.format, blanks, asked, blanks)).map(','.join))
maxima = st.sampled_from(['2.104', '2.60', '2.49', '2.1'])


@drive
@hypothesis.given(standard=standard_headers, legacy=legacy_headers, maximum=maxima)
def test_as_the_rules_say(standard: str | None, legacy: str | None, maximum: str) -> None:
    assert negotiate(standard, legacy, maximum) == expected(standard, legacy, maximum)


@drive
@hypothesis.given(
    standard=st.one_of(st.none(), st.text(st.characters(max_codepoint=255))),
    legacy=st.one_of(st.none(), st.text(st.characters(max_codepoint=255))),
)
def test_any_text(standard: str | None, legacy: str | None) -> None:
    answer = negotiate(standard, legacy)
    assert re.fullmatch(r'2\.[1-9][0-9]{0,2}|400|406 [0-9]+\.[0-9]+', answer)


@pytest.mark.parametrize(
    ('standard', 'legacy', 'version'),
    [
        (None, None, '2.1'),
        ('', None, '2.1'),
        ('', '2.70', '2.70'),
        ('compute 2.70', None, '2.70'),
        (None, '2.70', '2.70'),
        ('compute 2.70', '2.60', '2.70'),
        ('compute 2.70', 'not even parsed', '2.70'),
        ('volume 3.50', '2.60', '2.60'),
        ('volume 3.50', None, '2.1'),
        ('COMPUTE 2.70', None, '2.70'),
        ('compute 2.1, compute 2.70', None, '2.70'),
        ('compute 2.70, volume 3.50', None, '2.70'),
        (None, '2.1, 2.70', '2.70'),
        ('compute latest', None, '2.104'),
        (None, 'latest', '2.104'),
        ('compute Latest', None, '400'),
        ('compute abc', '2.70', '400'),
        (None, '', '400'),
        (None, 'compute 2.70', '400'),
        ('compute 2.105', None, '406 2.105'),
        ('compute 2.105', '2.70', '406 2.105'),
        ('compute 2.0', None, '406 2.0'),
        ('compute 1.99', None, '406 1.99'),
        ('compute 3.1', None, '406 3.1'),
        ('compute 0.1', None, '400'),
        ('compute 2.01', None, '400'),
        ('compute 2.70\n', None, '2.70'),
        ('compute 2.7\n0', None, '400'),
        ('compute 2.\xb3', None, '400'),
    ],
)
def test_some_by_hand(standard: str | None, legacy: str | None, version: str) -> None:
    assert negotiate(standard, legacy) == version
    assert expected(standard, legacy, '2.104') == version


@pytest.mark.parametrize('maximum', ['2.1', '2.48', '2.60', '2.104'])
def test_every_version_up_to_the_maximum(maximum: str) -> None:
    for minor in range(120):
        within = 1 <= minor <= int(maximum[2:])
        assert negotiate(f'compute 2.{minor}', maximum=maximum) == (f'2.{minor}' if within else f'406 2.{minor}')
    assert negotiate('compute latest', maximum=maximum) == maximum


@pytest.mark.parametrize('digits', [1000, 5000, 100_000])
def test_thousands_of_digits(digits: int) -> None:
    """More than int() reads; out of range or malformed, but nothing else."""
    for asked in ('9' * digits + '.1', '2.' + '9' * digits):
        assert negotiate(f'compute {asked}')[:3] in ('400', '406')
        assert negotiate(None, asked)[:3] in ('400', '406')


def test_response_headers() -> None:
    assert microversions.response_headers('2.70') == {
        'OpenStack-API-Version': 'compute 2.70',
        'X-OpenStack-Nova-API-Version': '2.70',
        'Vary': 'OpenStack-API-Version, X-OpenStack-Nova-API-Version',
    }
