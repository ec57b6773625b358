"""``os-interface-ext-status upgrade check``: what an older version has left."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.cmd import status
from os_interface_ext.db import tables
from tests.functional.conftest import NAMES, World

Check = Callable[..., tuple[int, dict[str, dict[str, Any]]]]

SUCCESS, WARNING, FAILURE = 0, 1, 2


@pytest.fixture
def upgrade_check(world: World, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs it with an addition to the configuration: its status, and its results by name."""

    def run(text: str = '') -> tuple[int, dict[str, dict[str, Any]]]:
        path = tmp_path / 'osif.conf'
        path.write_text(f'[database]\nconnection = {world.conf.database.connection}\n{text}')
        capsys.readouterr()
        code = status.main(['--config-file', str(path), 'upgrade', 'check', '--json'])
        told = json.loads(capsys.readouterr().out)
        return code, {one['check']: one for one in told['checks']}

    return run


def test_nothing_to_do(upgrade_check: Check) -> None:
    code, found = upgrade_check()
    assert code == SUCCESS
    assert {one['result'] for one in found.values()} == {SUCCESS}
    assert list(found) == [
        'Configuration Files',
        'Values',
        'Renamed Options',
        'Unknown Options',
        'Policy Rules',
        'Database',
        'Schema',
        'States of Records',
        'Policy File JSON to YAML Migration',
    ]


def wrong(done: tuple[int, dict[str, dict[str, Any]]], code: int, name: str) -> str:
    """The details of one check, which alone has something to say."""
    assert done[0] == code
    assert {key: one['result'] for key, one in done[1].items() if one['result']} == {name: code}
    details: str = done[1][name]['details']
    return details


def test_an_older_schema(upgrade_check: Check, world: World) -> None:
    with world.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {tables.VERSION_TABLE} SET version_num = '0001'")
    code, found = upgrade_check()
    assert code == FAILURE
    assert 'older than this code' in found['Schema']['details']
    assert 'db sync' in found['Schema']['details']
    assert found['States of Records']['result'] == FAILURE


def test_records_of_states_that_this_version_does_not_know(upgrade_check: Check, world: World) -> None:
    world.extension.parts.store.insert(
        created=False,
        server_id=NAMES['srv_active'],
        project_id=NAMES['project_a'],
        port_id=NAMES['p_free'],
        state=State.UNPLUGGING,
        reason=Reason.DETACH,
    )
    assert upgrade_check()[0] == SUCCESS
    with world.database.write() as connection:
        connection.exec_driver_sql("UPDATE osif_attachments SET reason = 'because'")
    assert '1 in UNPLUGGING, because' in wrong(upgrade_check(), FAILURE, 'States of Records')


def test_options_that_have_been_renamed(upgrade_check: Check) -> None:
    details = wrong(upgrade_check('[neutron]\nauth_plugin = password\n'), WARNING, 'Renamed Options')
    assert details.endswith('write [neutron] auth_type')


def test_options_that_are_gone(upgrade_check: Check) -> None:
    details = wrong(upgrade_check('[reconciler]\nlaps = 3\n'), WARNING, 'Unknown Options')
    assert '[reconciler] has no option laps' in details


def test_values_that_are_not_allowed_any_more(upgrade_check: Check) -> None:
    code, found = upgrade_check('[reconciler]\npage = 0\n')
    assert code == FAILURE
    assert '[reconciler] page' in found['Values']['details']


def test_a_policy_file_in_json(upgrade_check: Check, tmp_path: pathlib.Path) -> None:
    policy = tmp_path / 'policy.json'
    policy.write_text('{"os_compute_api:os-attach-interfaces:list": "role:admin"}')
    done = upgrade_check(f'[oslo_policy]\npolicy_file = {policy}\n')
    assert 'oslopolicy-convert-json-to-yaml' in wrong(done, FAILURE, 'Policy File JSON to YAML Migration')


def test_a_file_that_is_not_there(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(['--config-file', str(tmp_path / 'none.conf'), 'upgrade', 'check']) == 255
    assert 'none.conf' in capsys.readouterr().err
