"""A driver of a third party: packaged, installed, found by its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

SOURCE = Path(__file__).parent.parent / 'data' / 'third_party'

LOAD = """
import json, sys
from os_interface_ext import conf, exceptions
from os_interface_ext.drivers import loader

try:
    drivers = loader.load_all(conf.new([sys.argv[1]]))
except exceptions.ConfigurationError as error:
    sys.exit(str(error))
print(json.dumps({
    'class': f'{type(drivers.server).__module__}.{type(drivers.server).__name__}',
    'one object': drivers.server is drivers.network is drivers.vif,
    'url': drivers.server.url,
    'installed': loader.installed(loader.VIF),
}))
"""


def install(source: Path, site: Path) -> None:
    """Install a source tree into a directory, without a network."""
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--no-cache-dir', '--quiet']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', *options, '--target', str(site), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the third party's distribution, installed as pip installs it."""
    directory = tmp_path_factory.mktemp('third_party')
    # The build writes beside its source.
    source = shutil.copytree(SOURCE, directory / 'source')
    install(source, directory / 'site')
    return directory / 'site'


def load(tmp_path: Path, *path: Path, **drivers: str) -> subprocess.CompletedProcess[str]:
    """Load drivers in a process of its own, which has these directories on its import path."""
    file = tmp_path / 'test.conf'
    lines = ['[os_interface]', *(f'{option} = {name}' for option, name in drivers.items())]
    file.write_text('\n'.join([*lines, '[acme]', 'url = http://acme.example']))
    environ = os.environ | {
        'PYTHONPATH': os.pathsep.join(map(str, path)),
        'XDG_CACHE_HOME': str(tmp_path / 'cache'),
    }
    return subprocess.run(
        [sys.executable, '-c', LOAD, str(file)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def error_of(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    return line


def test_a_driver_is_found_by_the_name_of_its_entry_point(tmp_path: Path, site: Path) -> None:
    run = load(tmp_path, site, server_driver='acme', network_driver='acme', vif_driver='acme')
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert {'acme', 'acme_broken', 'noop'} <= set(told.pop('installed'))
    assert told == {'class': 'acme_osif.drivers.AcmeCloud', 'one object': True, 'url': 'http://acme.example'}
    assert run.stderr == ''


def test_a_driver_that_is_not_installed(tmp_path: Path) -> None:
    line = error_of(load(tmp_path, network_driver='acme'))
    what, _, installed = line.partition('; installed: ')
    assert what == "option [os_interface] network_driver: 'acme' is not installed"
    assert 'sql' in installed.split(', ')


def test_two_distributions_that_declare_one_name(tmp_path: Path, site: Path) -> None:
    info = tmp_path / 'other' / 'other_osif-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: other-osif\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[os_interface_ext.server_drivers]\nacme = other_osif:Cloud\n')
    line = error_of(load(tmp_path, site, tmp_path / 'other', server_driver='acme'))
    assert line.startswith("option [os_interface] server_driver: 'acme' is declared twice, by ")
    assert 'by acme-osif (acme_osif.drivers:AcmeCloud)' in line
    assert 'by other-osif (other_osif:Cloud)' in line


def test_a_driver_whose_library_is_missing(tmp_path: Path, site: Path) -> None:
    line = error_of(load(tmp_path, site, vif_driver='acme_broken'))
    assert line == (
        "option [os_interface] vif_driver: 'acme_broken' cannot be imported: "
        "ModuleNotFoundError: No module named 'acme_wires'; install acme-osif[acme_broken]"
    )


def test_its_options_are_known_to_the_sample_and_to_the_doctor(tmp_path: Path, site: Path) -> None:
    file = tmp_path / 'osif.conf'
    file.write_text('[acme]\nurl = x\nurrl = y\n')
    environ = os.environ | {'PYTHONPATH': str(site), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}

    def run(*command: str) -> str:
        return subprocess.run(
            [sys.executable, '-m', *command],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    sample = run('oslo_config.generator', '--namespace', 'os_interface_ext')
    assert '# Where the cloud is. (string value)\n#url = http://127.0.0.1' in sample
    told = json.loads(run('os_interface_ext.cmd.main', 'doctor', '--json', '--config-file', str(file)))
    names = [(one['what'], one['cure']) for one in told['checks'] if one['name'] == 'names']
    assert names == [(f'{file}: [acme] has no option urrl', 'did you mean url?')]
