"""The recorded cases about servers, ports and networks, with a real Neutron's ports and a real Keystone's tokens.

None of them is answered differently. What Neutron alone decides, and the cases leave open, are the addresses that
it picks and the ids and MAC addresses of ports that it makes.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest

from tests.data.conformance import replay
from tests.integration.identities import Identities
from tests.integration.test_conformance import CASES

from .conftest import World
from .recorded import RecordedCloud

pytestmark = pytest.mark.service

GROUPS = {'list', 'show', 'semantic', 'delete', 'scenario', 'tag'}
OURS = {case['id']: case for case in CASES if case['group'] in GROUPS}


@pytest.fixture(scope='module')
def _recorded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedCloud]:
    with contextlib.closing(Identities(world.cloud)) as identities:
        made = RecordedCloud(world, identities, tmp_path_factory.mktemp('recorded'))
        with contextlib.closing(made):
            yield made


@pytest.fixture
def recorded(_recorded: RecordedCloud) -> Iterator[RecordedCloud]:
    """The cloud at its starting state; after the test Neutron and the records must agree."""
    yield _recorded
    ports = _recorded.ports()
    try:
        _recorded.check(ports)
    finally:
        _recorded.restore(ports)


@pytest.mark.parametrize('name', OURS)
def test_recorded_case(recorded: RecordedCloud, name: str) -> None:
    out = io.StringIO()
    report = replay.replay([OURS[name]], recorded.call, recorded.names, recorded.headers, out=out)
    assert not report['failed'], out.getvalue()


def test_it_is_the_caller_whom_neutron_is_asked_for(recorded: RecordedCloud) -> None:
    """No recorded case of these groups asks for a network that only others may see."""
    step = {
        'method': 'POST',
        'path': '/v2.1/servers/{srv_active}/os-interface',
        'json': {'interfaceAttachment': {'net_id': '{net_b}'}},
    }
    (refused,) = replay.run_case({'steps': [step]}, recorded.call, recorded.names, recorded.headers)
    assert refused['status'] == 404
    assert list(refused['body']) == ['itemNotFound']


def test_no_group_is_missing() -> None:
    assert {case['group'] for case in OURS.values()} == GROUPS
    assert len(OURS) >= 96
