"""The options: what each of them tells, and that the samples tell the same."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import sysconfig

import pytest
from oslo_config import cfg, generator

from os_interface_ext import conf as config
from os_interface_ext.conf import openstack, opts

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES = ROOT / 'etc' / 'os-interface-ext'
SCRIPTS = pathlib.Path(sysconfig.get_path('scripts'))

#: Options of ours alone: a library's may change with its next release.
OURS = {
    (getattr(group, 'name', group), option.dest): option
    for module in (*config._GROUPS, *opts._DRIVERS)
    if module is not config.policy
    for group, options in module.list_opts()
    for option in options
    if option in [*getattr(module, 'OPTS', options), *openstack.OPTS]
}

Blocks = dict[tuple[str, str], str]


@pytest.mark.parametrize('name', sorted(OURS), ids='.'.join)
def test_every_option_tells_what_it_is(name: tuple[str, str]) -> None:
    option = OURS[name]
    assert option.help
    assert option.help.rstrip().endswith('.')
    if isinstance(option.type, (cfg.types.Integer, cfg.types.Float)):
        assert option.type.min is not None


def test_what_is_secret_is_declared_so() -> None:
    names = {
        f'{getattr(group, "name", group)}.{option.dest}': option.secret
        for group, options in opts.list_opts()
        for option in options
        if option.dest in ('connection', 'password', 'transport_url', 'memcache_secret_key')
    }
    assert {'database.connection', 'neutron.password', 'nova.password', 'keystone_authtoken.password'} <= set(
        names
    )
    assert all(names.values())


def blocks(text: str) -> Blocks:
    """(group, option) -> its lines, in a sample file."""
    found: Blocks = {}
    group = ''
    for block in text.split('\n\n'):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith('['):
            group = lines.pop(0).strip('[]')
        if lines and lines[-1].startswith('#') and ' =' in lines[-1]:
            found[group, lines[-1].lstrip('#').partition(' =')[0]] = '\n'.join(lines)
    return found


def groups(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith('[')]


def test_the_sample_of_the_configuration_is_that_of_the_code(tmp_path: pathlib.Path) -> None:
    made = tmp_path / 'sample'
    generator.main(['--namespace', 'os_interface_ext', '--output-file', str(made)])
    written, wanted = (SAMPLES / 'os-interface-ext.conf.sample').read_text(), made.read_text()
    assert groups(written) == groups(wanted)
    ours = set(OURS)
    assert {name: block for name, block in blocks(written).items() if name in ours} == {
        name: block for name, block in blocks(wanted).items() if name in ours
    }
    assert ours <= set(blocks(written))


@pytest.mark.service
def test_the_sample_of_the_policy_is_that_of_the_code(tmp_path: pathlib.Path) -> None:
    made = tmp_path / 'sample'
    command = [SCRIPTS / 'oslopolicy-sample-generator', '--namespace', 'os-interface-ext', '--output-file', made]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (SAMPLES / 'policy.yaml.sample').read_text() == made.read_text()


def test_the_sample_as_it_is_changes_nothing() -> None:
    conf = config.new([str(SAMPLES / 'os-interface-ext.conf.sample')])
    for group, name in OURS:
        if group in conf._groups:
            assert conf[group][name] == config.new([])[group][name]


@pytest.mark.service
def test_options_of_drivers_are_told_without_their_libraries() -> None:
    code = (
        'import sys\n'
        'from os_interface_ext.conf import opts\n'
        'told = opts.list_opts()\n'
        "heavy = {'libvirt', 'pyroute2', 'nova', 'os_vif'} & set(sys.modules)\n"
        "names = {getattr(group, 'name', group) for group, _ in told}\n"
        "print(sorted(heavy), sorted(names & {'netns', 'nova_local'}))\n"
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert result.stderr == ''
    assert result.stdout.strip() == "[] ['netns', 'nova_local']"
