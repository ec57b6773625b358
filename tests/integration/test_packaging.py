"""What is built, and that it runs where there is no checkout."""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.error
import urllib.request
import venv
import zipfile
from importlib import metadata

import pytest

import os_interface_ext
from os_interface_ext import paths

pytestmark = pytest.mark.service

ROOT = pathlib.Path(__file__).parents[2]
ETC = 'etc/os-interface-ext'
VERSION = os_interface_ext.__version__
NOT_COPIED = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', '*.sqlite*', '*.pyc')


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environ: str) -> str:
    """The standard output of a command that must succeed, without the checkout on its path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'OS_', 'PYTEST'))}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env | environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f'{command}: {result.stdout}{result.stderr}'
    return result.stdout


def copy_checkout(to: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(ROOT, to, ignore=NOT_COPIED))


def build(source: pathlib.Path, to: pathlib.Path, *options: str) -> None:
    # Isolated, as pip builds, unless this environment has what the build needs.
    try:
        at_hand = int(metadata.version('setuptools').split('.')[0]) >= 77 and metadata.version('wheel')
    except metadata.PackageNotFoundError:
        at_hand = False
    isolation = ['--no-isolation'] if at_hand else []
    run(sys.executable, '-m', 'build', '--outdir', to, *isolation, *options, source, cwd=to)


@dataclasses.dataclass
class Built:
    source: pathlib.Path
    sdist: pathlib.Path
    wheel: pathlib.Path


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that is built from it."""
    source = copy_checkout(tmp_path_factory.mktemp('source') / 'checkout')
    dist = tmp_path_factory.mktemp('dist')
    build(source, dist)
    (sdist,) = dist.glob('*.tar.gz')
    (wheel,) = dist.glob('*.whl')
    return Built(source, sdist, wheel)


def members(wheel: pathlib.Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith('/')}


def files_below(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }


def test_the_wheel_has_the_whole_package_and_nothing_else(built: Built) -> None:
    found = members(built.wheel)
    info, data = (f'os_interface_ext-{VERSION}.{kind}/' for kind in ('dist-info', 'data'))
    package = files_below(built.source / 'os_interface_ext')
    assert 'py.typed' in package
    assert any(name.startswith('db/migrations/versions/rev_0001') for name in package)
    expected = {f'os_interface_ext/{name}': content for name, content in package.items()}
    for name, content in files_below(built.source / 'etc').items():
        expected[f'{data}data/etc/{name}'] = content
    assert {name: content for name, content in found.items() if not name.startswith(info)} == expected
    assert f'{info}licenses/LICENSE' in found or f'{info}LICENSE' in found
    assert b'\nLicense' in found[f'{info}METADATA']


def test_the_checkout_builds_the_same_wheel_as_the_sdist(built: Built, tmp_path: pathlib.Path) -> None:
    build(copy_checkout(tmp_path / 'checkout'), tmp_path, '--wheel')
    (direct,) = tmp_path.glob('*.whl')
    assert direct.name == built.wheel.name
    assert members(direct) == members(built.wheel)


def test_the_sdist_can_be_tested(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        found = {name.partition('/')[2] for name in archive.getnames()}
    for folder in ('os_interface_ext', 'etc', 'tests'):
        assert {f'{folder}/{name}' for name in files_below(built.source / folder)} <= found
    assert {'README.md', 'LICENSE', 'CHANGELOG.md', 'setup.cfg', 'setup.py', 'pyproject.toml'} <= found


def test_what_is_uploaded_is_what_an_index_takes(built: Built, tmp_path: pathlib.Path) -> None:
    run(sys.executable, '-m', 'twine', 'check', '--strict', built.sdist, built.wheel, cwd=tmp_path)


def test_the_changelog_begins_with_this_version() -> None:
    """A heading for each version, the newest first, with what its users see."""
    text = (ROOT / 'CHANGELOG.md').read_text()
    headings = [line for line in text.splitlines() if line.startswith('## ')]
    assert text.startswith('# Changelog\n')
    assert headings[0].split()[1] == VERSION
    assert all(re.fullmatch(r'## \d+\.\d+\.\d+ \((unreleased|\d{4}-\d\d-\d\d)\)', line) for line in headings)


# ------------------------------------------------------------------ installed


@pytest.fixture(scope='module')
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a virtual environment's commands: our wheel, and the libraries of this environment."""
    where = tmp_path_factory.mktemp('installed') / 'venv'
    venv.create(where, symlinks=True)
    # Named in a .pth file, a folder's own .pth files do not count: an editable checkout is out of sight.
    libraries = sysconfig.get_path('purelib')
    site = pathlib.Path(sysconfig.get_path('purelib', vars={'base': str(where), 'platbase': str(where)}))
    (site / 'libraries.pth').write_text(libraries + '\n')
    pip = [sys.executable, '-m', 'pip', '--python', where / 'bin' / 'python']
    run(*pip, 'install', '--no-deps', '--no-index', '--ignore-installed', built.wheel, cwd=where)
    return where / 'bin'


def python(installed: pathlib.Path, cwd: pathlib.Path, code: str, **environ: str) -> str:
    return run(installed / 'python', '-c', code, cwd=cwd, **environ).strip()


def test_the_installed_package_is_the_one_that_runs(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    where = python(installed, tmp_path, 'import os_interface_ext; print(os_interface_ext.__file__)')
    assert pathlib.Path(where).is_relative_to(installed.parent)


def test_the_installed_command(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = run(installed / 'os-interface-ext', '--help', cwd=tmp_path)
    for command in ('serve', 'inventory', 'db'):
        assert command in text
    assert run(installed / 'os-interface-ext', '--version', cwd=tmp_path).split()[-1] == VERSION


@pytest.mark.parametrize('name', sorted(path.name for path in (ROOT / ETC).iterdir()))
def test_the_installed_files_of_etc(installed: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    found = python(installed, tmp_path, f'from os_interface_ext import paths; print(paths.find({name!r}))')
    assert pathlib.Path(found).is_relative_to(installed.parent)
    assert pathlib.Path(found).read_bytes() == (ROOT / ETC / name).read_bytes()


@pytest.mark.parametrize('option', ['--prefix', '--target'])
def test_the_files_of_etc_below_another_prefix(built: Built, tmp_path: pathlib.Path, option: str) -> None:
    """As with pip's --user: the interpreter's own prefix is another one."""
    where = tmp_path / 'elsewhere'
    pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--ignore-installed']
    run(*pip, option, where, built.wheel, cwd=tmp_path)
    package = next(where.rglob('os_interface_ext/__init__.py')).parent
    for name in ('api-paste.ini', 'demo-inventory.yaml'):
        code = f'from os_interface_ext import paths; print(paths.find({name!r}))'
        found = run(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=str(package.parent)).strip()
        assert pathlib.Path(found).resolve() == (where / ETC / name).resolve()


SERVED = """
import json, sys, webtest
from os_interface_ext import conf
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import loader
from os_interface_ext import paths

database = Database.of(conf.new())
schema.upgrade(database)
with database.write() as connection, open(paths.find('demo-inventory.yaml')) as file:
    loader.load(connection, loader.parse(file.read(), file.name))
from os_interface_ext.wsgi.api import application
app = webtest.TestApp(application)
print(json.dumps([app.get('/healthcheck').status_int, app.get('/v2.1/servers/x/os-interface', status=401).json]))
"""


def test_the_installed_application(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / 'osif.conf'
    file.write_text(
        f'[database]\nconnection = sqlite:///{tmp_path}/osif.sqlite\n[api]\nauth_strategy = static_tokens\n'
    )
    answers = python(installed, tmp_path, SERVED, OS_INTERFACE_EXT_CONFIG_FILES=str(file))
    health, refused = json.loads(answers)
    assert health == 200
    assert refused['unauthorized']['code'] == 401


def test_every_entry_point_is_there(built: Built, installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    declared = configparser.ConfigParser(delimiters=['='])
    declared.optionxform = str  # type: ignore[assignment,method-assign]
    declared.read_string(members(built.wheel)[f'os_interface_ext-{VERSION}.dist-info/entry_points.txt'].decode())
    assert declared['console_scripts']['os-interface-ext'] == 'os_interface_ext.cmd.main:main'
    code = (
        'from importlib import metadata\n'
        "for one in metadata.distribution('os-interface-ext').entry_points:\n"
        '    try:\n'
        '        one.load()\n'
        '    except ModuleNotFoundError as error:\n'
        # One is for Nova's own process, and cannot be had without it; the other's library has to be compiled.
        "        assert (one.name, error.name) in {('nova-local', 'nova'), ('libvirt', 'libvirt')}\n"
        '    print(one.group, one.name)\n'
    )
    loaded = set(python(installed, tmp_path, code).splitlines())
    assert loaded == {f'{group} {name}' for group in declared.sections() for name in declared[group]}


# ------------------------------------------------------------------ an environment with nothing in it


@pytest.fixture(scope='module')
def empty(built: Built, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the commands of an environment with our wheel, and what it requires, and nothing else."""
    where = tmp_path_factory.mktemp('empty') / 'venv'
    venv.create(where, symlinks=True)
    run(sys.executable, '-m', 'pip', '--python', where / 'bin' / 'python', 'install', '-q', built.wheel, cwd=where)
    return where / 'bin'


def test_serve_from_an_empty_environment(empty: pathlib.Path, tmp_path: pathlib.Path) -> None:
    url = f'sqlite:///{tmp_path}/osif.sqlite'
    process = subprocess.Popen(
        [empty / 'os-interface-ext', 'serve', '--port', '0', '--database', url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / 'serve.log').open('w'),
        text=True,
    )
    try:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        assert VERSION in greeting, (tmp_path / 'serve.log').read_text()
        base = greeting.split()[-1]
        # The greeting has a call to copy, with a token that is good here.
        line = next(line for line in process.stdout if line.lstrip().startswith('curl '))
        name, _, token = shlex.split(line)[3].partition(': ')
        with urllib.request.urlopen(urllib.request.Request(shlex.split(line)[4], headers={name: token})) as answer:
            assert 'interfaceAttachments' in json.load(answer)
        with pytest.raises(urllib.error.HTTPError, match='401'):
            urllib.request.urlopen(f'{base}/v2.1/servers/x/os-interface')
        # The reconciler within it is heard of, and all else is well.
        until = time.monotonic() + 30
        while (found := doctor(empty, tmp_path, url)).pop('reconciler') != 'ok':
            assert time.monotonic() < until
        assert set(found.values()) == {'ok'}
    finally:
        process.terminate()
        assert process.wait(30) == 0


def doctor(commands: pathlib.Path, cwd: pathlib.Path, url: str) -> dict[str, str]:
    command = [commands / 'os-interface-ext', 'doctor', '--json', '--database', url]
    told = json.loads(subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False).stdout)
    return {one['name']: one['state'] for one in told['checks']}


def test_its_commands_and_samples(empty: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ('os-interface-ext', 'os-interface-ext-reconciler', 'os-interface-ext-status'):
        assert 'usage' in run(empty / name, '--help', cwd=tmp_path)
    sample = run(empty / 'oslo-config-generator', '--namespace', 'os_interface_ext', cwd=tmp_path)
    for group in ('[database]', '[netns]', '[neutron]', '[nova]', '[nova_local]'):
        assert f'\n{group}\n' in sample
    assert 'os-attach-interfaces' in run(
        empty / 'oslopolicy-sample-generator', '--namespace', 'os-interface-ext', cwd=tmp_path
    )


# ------------------------------------------------------------------ the checkout


@pytest.mark.parametrize('name', ['api-paste.ini', 'demo-inventory.yaml'])
def test_the_files_of_etc_in_a_checkout(tmp_path: pathlib.Path, name: str) -> None:
    checkout = copy_checkout(tmp_path / 'checkout')
    code = f'from os_interface_ext import paths; print(paths.find({name!r}))'
    found = run(sys.executable, '-c', code, cwd=tmp_path, PYTHONPATH=str(checkout)).strip()
    assert pathlib.Path(found) == checkout / ETC / name


def test_a_file_that_is_nowhere_is_one_line() -> None:
    with pytest.raises(SystemExit, match=r'file nothing\.ini is in none of .*install it again'):
        paths.find('nothing.ini')


def test_the_version_has_one_place(built: Built, installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert f'-{VERSION}-' in built.wheel.name
    assert built.sdist.name == f'os_interface_ext-{VERSION}.tar.gz'
    code = "from importlib import metadata; print(metadata.version('os-interface-ext'))"
    assert python(installed, tmp_path, code) == VERSION
    candidates = [path for kind in ('cfg', 'toml', 'py') for path in built.source.glob(f'*.{kind}')]
    candidates += (built.source / 'os_interface_ext').rglob('*.py')
    quoted = [
        path.relative_to(built.source).as_posix()
        for path in candidates
        if f"'{VERSION}'" in path.read_text() or f'"{VERSION}"' in path.read_text()
    ]
    assert quoted == ['os_interface_ext/__init__.py']
