"""The rules of the house: who may import whom, and what the core may cost."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

import os_interface_ext

ROOT = pathlib.Path(os_interface_ext.__file__).parent
PACKAGE = 'os_interface_ext'

#: Of observability, what knows no other part: how anything is logged, and told later.
TELLING = {'observability.logs', 'observability.outbox'}

#: part -> parts that it may import (besides itself). Parts that are not named may import all.
ALLOWED = {
    'exceptions': set(),
    'context': {'exceptions'},
    'paths': {'exceptions'},
    'conf': {'exceptions'},
    'policies': {'conf', 'exceptions', 'context'},
    'messaging': {'exceptions', 'observability.logs'},
    'drivers': {'conf', 'exceptions', 'context', 'db', 'inventory', 'messaging', 'observability.logs'},
    'db': {'exceptions'},
    'inventory': {'db', 'exceptions', 'context'},
    'attachments': {'db', 'drivers.base', 'exceptions', 'context', *TELLING},
    'observability': {
        'attachments',
        'db',
        'drivers.base',
        'drivers.proxies',
        'exceptions',
        'context',
        'messaging',
    },
    'api': {'attachments', 'drivers.base', 'policies', 'exceptions', 'context', 'observability.logs'},
    'extension': {'api', 'deploy', 'context', 'drivers.base'},
    'middleware': {'api.faults', 'conf', 'context', 'db', 'exceptions', 'inventory'},
    'wsgi': {
        'api.description',
        'api.faults',
        'api.microversions',
        'api.views',
        'conf',
        'db',
        'deploy',
        'exceptions',
        'extension',
        'paths',
    },
    'agent': {'conf.rpc', 'drivers', 'exceptions', 'context', 'messaging', 'observability.logs'},
    'testing': {'drivers.base', 'drivers.proxies', 'exceptions', 'context'},
    'checks': {'attachments', 'conf', 'context', 'db', 'drivers.base', 'drivers.loader', 'exceptions', 'policies'},
}
#: who alone may import these
ONLY = {
    'standalone': {'cmd', 'standalone'},
    'agent': {'cmd', 'agent'},
    'checks': {'cmd', 'checks'},
    'testing': {'testing'},
}


def modules() -> list[tuple[str, pathlib.Path]]:
    found = []
    for path in ROOT.rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        found.append(('.'.join(part for part in parts if part != '__init__'), path))
    return found


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == PACKAGE:
            base = node.module or ''
            for alias in node.names:
                name = f'{base}.{alias.name}'
                path_of = ROOT.parent / pathlib.Path(*name.split('.'))
                found.add(name if path_of.is_dir() or path_of.with_suffix('.py').exists() else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split('.')[0] == PACKAGE}
    return {name.removeprefix(PACKAGE).lstrip('.') for name in found} - {''}


def covers(allowed: set[str], name: str) -> bool:
    return any(name == part or name.startswith(part + '.') for part in allowed)


@pytest.mark.parametrize(('name', 'path'), modules(), ids=lambda value: str(value) if '.' in str(value) else None)
def test_imports_go_one_way(name: str, path: pathlib.Path) -> None:
    part = name.split('.')[0]
    if part in ALLOWED:
        bad = {found for found in imports(path) if not covers(ALLOWED[part] | {part}, found)}
        assert not bad, f'{name} must not import {bad}'
    for target, importers in ONLY.items():
        if part not in importers:
            assert not {found for found in imports(path) if covers({target}, found)}


#: What drivers share: `rest` is how those of OpenStack's own services ask them, `links` how those that plug on
#: this machine ask its kernel, `libvirt_connection` how libvirt is asked; `messages` are those of `rpc`.
SHARED = {
    'drivers.base',
    'drivers.rest',
    'drivers.links',
    'drivers.libvirt_connection',
    'drivers.vifs.messages',
}


def test_drivers_import_no_other_driver() -> None:
    for name, path in modules():
        if name.startswith(('drivers.servers', 'drivers.networks', 'drivers.vifs')):
            others = {found for found in imports(path) if found.startswith('drivers.')} - SHARED
            assert not others, f'{name} must not import {others}'
            if 'inventory' in {found.split('.')[0] for found in imports(path)}:
                assert name.endswith('.sql'), f'{name} must not import the inventory'


@pytest.mark.service
def test_the_core_imports_no_heavy_library() -> None:
    code = (
        'import sys, os_interface_ext.extension, os_interface_ext.wsgi.paste\n'
        'from os_interface_ext.drivers.servers import sql\n'
        'from os_interface_ext.drivers.networks import sql\n'
        'from os_interface_ext.drivers.vifs import noop\n'
        "heavy = {'openstack', 'libvirt', 'pyroute2', 'oslo_messaging', 'eventlet', 'alembic',"
        " 'keystonemiddleware', 'gunicorn', 'pytest',"
        " 'prometheus_client'}\n"
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == '[]'
