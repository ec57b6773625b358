"""``os-interface-ext doctor``: each thing that can be wrong is named, with its cure."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import threading
from typing import Any

import pytest

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.checks import backends
from os_interface_ext.cmd import main
from os_interface_ext.db import tables
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from tests.functional.conftest import NAMES, Build, World

SERVER = NAMES['srv_active']


@dataclasses.dataclass
class Patient:
    """An installation with a file of its own; its reconciler was heard of a moment ago."""

    world: World
    file: pathlib.Path
    capsys: pytest.CaptureFixture[str]

    def configure(self, text: str = '') -> None:
        self.file.write_text(f'[database]\nconnection = {self.world.conf.database.connection}\n{text}')

    def execute(self, statement: str) -> None:
        with self.world.database.write() as connection:
            connection.exec_driver_sql(statement)

    def examine(self, *arguments: str) -> dict[str, list[dict[str, Any]]]:
        """The findings by the names of their checks."""
        self.capsys.readouterr()
        status = main.main(['doctor', '--json', '--timeout', '60', '--config-file', str(self.file), *arguments])
        output, errors = self.capsys.readouterr()
        assert errors == ''
        told = json.loads(output)
        assert status == (0 if told['healthy'] else 1)
        assert told['healthy'] == all(one['state'] == 'ok' for one in told['checks'])
        found: dict[str, list[dict[str, Any]]] = {}
        for one in told['checks']:
            found.setdefault(one['name'], []).append(one)
            assert bool(one['cure']) == (one['state'] in ('warning', 'error'))
        return found

    def complaint(self, name: str, state: str, *arguments: str) -> tuple[str, str]:
        """What one check has to say, and the cure; of the others none has anything to say."""
        found = self.examine(*arguments)
        assert {key for key, all_of in found.items() if any(one['cure'] for one in all_of)} == {name}
        (one,) = (one for one in found[name] if one['state'] == state)
        return one['what'], one['cure']


@pytest.fixture
def patient(build: Build, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Patient:
    world = build()
    # Its time does not run out while the tests go on.
    world.extension.parts.store.heartbeat('reconciler', 3600.0)
    made = Patient(world, tmp_path / 'osif.conf', capsys)
    made.configure()
    return made


def test_a_healthy_system(patient: Patient) -> None:
    assert patient.world.attach(net_id='net1').status_int == 200
    found = patient.examine()
    assert [one for all_of in found.values() for one in all_of if one['state'] != 'ok'] == []
    assert found['reconciler'][0]['what'].startswith('heard of ')
    assert list(found) == [
        'files',
        'values',
        'names',
        'renamed',
        'policy',
        'database',
        'schema',
        'clock',
        'identity',
        'server_driver',
        'network_driver',
        'vif_driver',
        'reconciler',
        'states',
        'stuck',
        'hosts',
        'orphans',
    ]


# ------------------------------------------------------------------ the configuration


def test_a_file_that_is_not_there(patient: Patient) -> None:
    patient.file.unlink()
    what, cure = patient.complaint('files', 'error')
    assert 'osif.conf' in what
    assert 'create or correct the file' in cure
    assert {one['state'] for name, all_of in patient.examine().items() for one in all_of if name != 'files'} == {
        'skipped'
    }


def test_a_file_that_is_broken(patient: Patient) -> None:
    patient.file.write_text('[database\n')
    what, cure = patient.complaint('files', 'error')
    assert 'osif.conf:1' in what
    assert cure
    # What stands in a line that cannot be read may be a secret.
    patient.file.write_text('[database]\nconnection hush\n')
    what, _ = patient.complaint('files', 'error')
    assert 'osif.conf:2' in what
    assert 'hush' not in what


def test_files_that_are_not_read(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = patient.file.parent
    monkeypatch.setattr(config, 'DEFAULT_FILE', str(folder / 'os-interface-ext.conf'))
    (folder / 'os-interface-ext.conf').touch()
    (folder / 'api-paste.ini').write_text(f'[filter:f]\nconfig_file = {folder}/third.conf\n')
    found = patient.examine()['files']
    assert [one['what'].split()[0].rpartition('/')[2] for one in found] == ['os-interface-ext.conf', 'third.conf']
    assert all('--config-file' in one['cure'] for one in found)


@pytest.mark.parametrize(
    ('text', 'what', 'cure'),
    [
        ('[reconciler]\nintervall = 3\n', '[reconciler] has no option intervall', 'did you mean interval?'),
        ('[reconcilier]\ninterval = 3\n', 'there is no group [reconcilier]', 'did you mean [reconciler]?'),
        ('[api]\nvif_driver = noop\n', '[api] has no option vif_driver', 'move it to [os_interface]'),
        ('[api]\nstrict-nova = 1\n', '[api] has no option strict-nova', 'did you mean strict_nova?'),
        ('[api]\nxyzzy = 1\n', '[api] has no option xyzzy', 'remove it'),
    ],
)
def test_unknown_names(patient: Patient, text: str, what: str, cure: str) -> None:
    patient.configure(text)
    told, told_cure = patient.complaint('names', 'warning')
    assert told == f'{patient.file}: {what}'
    assert told_cure == cure


def test_names_of_libraries_and_of_drivers_that_are_not_chosen_are_known(patient: Patient) -> None:
    patient.configure(
        '[keystone_authtoken]\nauth_type = v3applicationcredential\napplication_credential_id = x\n'
        'memcached_servers = a:1\n[cors]\nallowed_origin = *\n[netns]\nnamespace = x\n[nova]\n'
        'auth_type = password\nusername = u\n[oslo_policy]\npolicy_dirs = x\n[healthcheck]\ndetailed = false\n'
    )
    assert patient.examine()['names'][0]['state'] == 'ok'


def test_an_option_with_an_old_name(patient: Patient) -> None:
    patient.configure('[neutron]\nuser-name = osif\n')
    what, cure = patient.complaint('renamed', 'warning')
    assert '[neutron] user-name has another name' in what
    assert cure == 'write [neutron] username'


def test_bad_values_are_all_told(patient: Patient) -> None:
    patient.configure('[api]\nmax_microversion = 3\n[reconciler]\npage = 0\n')
    found = patient.examine()
    assert [one['state'] for one in found['values']] == ['error', 'error']
    assert any('[reconciler] page' in one['what'] for one in found['values'])
    # The others go on as far as they can.
    assert found['schema'][0]['state'] == 'ok'
    assert found['server_driver'][0]['state'] == 'skipped'


def test_a_policy_file_that_cannot_be_used(patient: Patient) -> None:
    policy = patient.file.parent / 'policy.yaml'
    patient.configure(f'[oslo_policy]\npolicy_file = {policy}\n')
    policy.write_text('"os_compute_api:os-attach-interfaces:list": "rule:nobody_knows"\n')
    what, cure = patient.complaint('policy', 'error')
    assert 'InvalidDefinitionError' in what
    assert 'oslopolicy-sample-generator' in cure
    policy.write_text('"os_compute_api:os-attach-interfaces:lisst": "role:x"\n')
    what, cure = patient.complaint('policy', 'warning')
    assert 'os-attach-interfaces:lisst' in what
    assert cure == 'did you mean os_compute_api:os-attach-interfaces:list?'


def test_secrets_are_masked_wherever_they_stand(patient: Patient) -> None:
    patient.file.write_text(
        '[database]\nconnection = postgresql+psycopg://u:hush-1@127.0.0.1:1/x?password=hush-2\n'
        '[os_interface]\nnetwork_driver = neutron\n'
        '[neutron]\nauth_type = password\npassword = hush-3\nauth_url = hush-3\n[hush-3]\npasswrd = hush-3\n'
    )
    patient.capsys.readouterr()
    for options in (['--json'], []):
        assert main.main(['doctor', *options, '--config-file', str(patient.file)]) == 1
        output, errors = patient.capsys.readouterr()
        assert '[neutron] auth_url' in output
        assert 'hush' not in output + errors


# ------------------------------------------------------------------ what the service depends on


@pytest.mark.parametrize(
    ('revision', 'what', 'cure'),
    [
        (
            '0001',
            f'the schema is 0001, older than this code ({tables.REVISION})',
            'run "os-interface-ext db sync"',
        ),
        ('9999', f'the schema is 9999, newer than this code ({tables.REVISION})', 'install the newer'),
    ],
)
def test_a_schema_of_another_version(patient: Patient, revision: str, what: str, cure: str) -> None:
    patient.execute(f"UPDATE {tables.VERSION_TABLE} SET version_num = '{revision}'")
    told, told_cure = patient.complaint('schema', 'error')
    assert told == what
    assert told_cure.startswith(cure)


def test_no_schema(patient: Patient) -> None:
    what, cure = patient.complaint('schema', 'error', '--database', f'sqlite:///{patient.file.parent}/new.sqlite')
    assert what == 'the database has no schema'
    assert cure == 'run "os-interface-ext db sync"'


def test_a_file_that_is_no_database(patient: Patient) -> None:
    path = patient.file.parent / 'other.sqlite'
    path.write_text('something else ' * 100)
    what, cure = patient.complaint('database', 'error', '--database', f'sqlite:///{path}')
    assert 'file is not a database' in what
    assert '[database] connection' in cure


def test_an_unknown_driver(patient: Patient) -> None:
    patient.configure('[os_interface]\nvif_driver = nooop\n')
    what, cure = patient.complaint('vif_driver', 'error')
    assert "'nooop' is not installed" in what
    assert 'noop' in cure


def test_options_of_a_driver_that_are_missing(patient: Patient) -> None:
    patient.configure('[os_interface]\nnetwork_driver = neutron\n')
    what, _ = patient.complaint('network_driver', 'error')
    assert '[neutron] auth_type: not set' in what


def test_clocks_that_differ(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        time = staticmethod(lambda: 1.0)

    monkeypatch.setattr(backends, 'time', Clock)
    what, cure = patient.complaint('clock', 'warning')
    assert 'differ by' in what
    assert 'NTP' in cure


def test_a_check_that_hangs_or_breaks_does_not_stop_the_others(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(NoopVIFDriver, 'check', lambda self, ctxt: release.wait(), raising=False)
    try:
        what, cure = patient.complaint('vif_driver', 'error', '--timeout', '1')
    finally:
        release.set()
    assert what == 'no answer within 1 s'
    assert '--timeout' in cure

    def broken(self: Any, ctxt: Any) -> None:
        raise ZeroDivisionError('a fault of theirs')

    monkeypatch.setattr(NoopVIFDriver, 'check', broken, raising=False)
    assert patient.complaint('vif_driver', 'error')[0] == 'ZeroDivisionError: a fault of theirs'


def test_a_keystone_that_is_not_configured(patient: Patient) -> None:
    patient.configure('[keystone_authtoken]\nwww_authenticate_uri = http://127.0.0.1:1/v3\n')
    what, cure = patient.complaint('identity', 'error')
    assert what == '[keystone_authtoken] auth_type is not set'
    assert 'auth_url' in cure


# ------------------------------------------------------------------ the records


def test_no_reconciler(patient: Patient) -> None:
    patient.execute('UPDATE osif_heartbeats SET seen = seen - 3600, expires = seen')
    what, cure = patient.complaint('reconciler', 'error')
    assert 'no reconciler has been heard of for 36' in what
    assert cure == 'start os-interface-ext-reconciler'
    patient.execute('DELETE FROM osif_heartbeats')
    assert 'no reconciler has been heard of yet' in patient.complaint('reconciler', 'error')[0]


def leave_in_motion(patient: Patient) -> None:
    patient.world.extension.parts.store.insert(
        created=False,
        server_id=SERVER,
        project_id=NAMES['project_a'],
        port_id=NAMES['p_free'],
        state=State.UNPLUGGING,
        reason=Reason.DETACH,
    )


def test_a_stuck_record(patient: Patient) -> None:
    leave_in_motion(patient)
    assert patient.examine()['stuck'][0]['what'] == '1 in motion, none stuck'
    patient.execute("UPDATE osif_attachments SET attempts = 9, last_error = 'Unavailable: the agent is away'")
    what, cure = patient.complaint('stuck', 'error')
    assert f'port {NAMES["p_free"]} of server {SERVER}' in what
    assert 'the agent is away' in what
    assert 'attachments retry' in cure


def test_a_record_of_another_version(patient: Patient) -> None:
    leave_in_motion(patient)
    patient.execute("UPDATE osif_attachments SET state = 'FLOATING'")
    what, cure = patient.complaint('states', 'error')
    assert '1 in FLOATING, detach' in what
    assert 'then upgrade' in cure


def test_an_orphan(patient: Patient) -> None:
    installation = patient.world.extension.parts.store.installation
    patient.execute(
        f"UPDATE osif_ports SET mark = 'osif:{installation}:4d4f1c53-0000-4000-8000-000000000000' "
        f"WHERE id = '{NAMES['p_free']}'"
    )
    what, cure = patient.complaint('orphans', 'warning')
    assert what.startswith('1 port of ours without a record')
    assert NAMES['p_free'] in what
    assert '--dry-run' in cure


def test_hosts_that_cannot_be_reached(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patient.world.attach(net_id='net1').status_int == 200
    patient.execute("UPDATE osif_attachments SET host = 'far-1'")

    def away(self: Any, ctxt: Any, server: Any) -> Any:
        raise exceptions.Unavailable(operator='no agent listens')

    monkeypatch.setattr(NoopVIFDriver, 'has_side_effects', True)
    assert patient.examine()['hosts'][0]['what'] == '1 host with records, each can be reached'
    monkeypatch.setattr(NoopVIFDriver, 'capabilities', away)
    what, cure = patient.complaint('hosts', 'error')
    assert what == '1 host cannot be reached: far-1 (no agent listens)'
    assert 'os-interface-ext-agent' in cure


# ------------------------------------------------------------------ the command


def test_a_bad_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(['doctor', '--timeout', 'soon'])
    assert ended.value.code == 2


def test_lines_for_a_pipe(patient: Patient) -> None:
    assert main.main(['doctor', '--config-file', str(patient.file)]) == 0
    head, *lines = patient.capsys.readouterr().out.splitlines()
    assert head == 'name\tstate\twhat\tcure'
    assert [line.split('\t')[1] for line in lines] == ['ok'] * 17
