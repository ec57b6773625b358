"""From names to drivers: whatever is wrong is told in one line."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from stevedore import _cache, extension

from os_interface_ext import conf, exceptions
from os_interface_ext.drivers import base, loader
from os_interface_ext.drivers.networks.sql import SQLNetworkDriver
from os_interface_ext.drivers.servers.sql import SQLServerDriver
from os_interface_ext.drivers.vifs.noop import NoopVIFDriver
from os_interface_ext.testing import memory

Configure = Callable[..., conf.Config]


class Plain(base.VIFDriver):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        self.conf = config

    def plug(self, *args: Any) -> dict[str, Any]:
        return {}

    def unplug(self, *args: Any) -> None:
        pass

    def plugged(self, *args: Any) -> set[str]:
        return set()


class WithOptions(Plain):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        super().__init__(config)
        config.register_opts([cfg.PortOpt('port', default=1)], group='with_options')


class ReadsAtOnce(WithOptions):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        super().__init__(config)
        self.port = config.with_options.port


class ReadsUnknown(Plain):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        self.port = config.with_options.prot


class Refuses(Plain):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        raise exceptions.ConfigurationError('option [refuses] url: is missing')


class Breaks(Plain):
    def __init__(self, config: cfg.ConfigOpts) -> None:
        raise RuntimeError('no bridge\nbr-int')


class Incomplete(Plain):
    unplug = base.VIFDriver.unplug
    plugged = base.VIFDriver.plugged


class NoDriver:
    pass


def factory(config: cfg.ConfigOpts) -> Plain:
    return Plain(config)


class Installation:
    """Distributions of third parties on the import path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, distribution: str, *entry_points: str, kind: loader.Kind = loader.VIF, extras: str = '') -> None:
        info = self._path / f'{distribution.replace("-", "_")}-1.0.dist-info'
        info.mkdir()
        metadata = f'Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n'
        (info / 'METADATA').write_text(metadata + (f'Provides-Extra: {extras}\n' if extras else ''))
        (info / 'entry_points.txt').write_text(f'[{kind.namespace}]\n' + '\n'.join(entry_points) + '\n')

    def add_module(self, name: str, text: str) -> None:
        (self._path / f'{name}.py').write_text(text)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.syspath_prepend(str(tmp_path))
    # stevedore remembers for the life of the process what is installed.
    monkeypatch.setattr(extension.ExtensionManager, 'ENTRY_POINT_CACHE', {})
    # And it would leave a file in the home of the user for each path that it has seen.
    monkeypatch.setattr(_cache._c, '_disable_caching', True)
    modules = set(sys.modules)
    yield Installation(tmp_path)
    for name in set(sys.modules) - modules:
        if name.startswith('third_party_'):
            del sys.modules[name]


@pytest.fixture
def configuration(tmp_path: Path) -> Configure:
    """Make a configuration with these names of drivers, as an operator writes it."""

    def make(more: str = '', **names: str) -> conf.Config:
        file = tmp_path / 'test.conf'
        lines = ['[os_interface]', *(f'{option} = {name}' for option, name in names.items()), more]
        file.write_text('\n'.join(lines))
        return conf.new([str(file)])

    return make


def here(thing: Any) -> str:
    return f'{__name__}:{thing.__qualname__}'


def error_of(call: Any) -> str:
    with pytest.raises(exceptions.ConfigurationError) as caught:
        call()
    message = str(caught.value)
    assert '\n' not in message
    return message


def vif_error(name: str) -> str:
    return error_of(lambda: loader.load(loader.VIF, name, conf.new([])))


# ---------------------------------------------------------------------- what goes well


def test_the_defaults() -> None:
    drivers = loader.load_all(conf.new([]))
    assert (type(drivers.server), type(drivers.network), type(drivers.vif)) == (
        SQLServerDriver,
        SQLNetworkDriver,
        NoopVIFDriver,
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        drivers.vif = None  # type: ignore[misc, assignment]


def test_the_kinds() -> None:
    assert [kind.namespace for kind in loader.KINDS] == [
        'os_interface_ext.server_drivers',
        'os_interface_ext.network_drivers',
        'os_interface_ext.vif_drivers',
    ]
    assert 'noop' in loader.installed(loader.VIF)


def test_a_driver_is_given_the_configuration(installation: Installation, configuration: Configure) -> None:
    installation.add('third', f'plain = {here(Plain)}')
    config = configuration(vif_driver='plain')
    driver = loader.load_all(config).vif
    assert isinstance(driver, Plain)
    assert driver.conf is config


def test_one_class_for_several_kinds_is_constructed_once(
    installation: Installation, configuration: Configure
) -> None:
    for kind in loader.KINDS:
        target = 'os_interface_ext.testing.memory:MemoryCloud'
        installation.add(f'third-{kind.option}', f'{kind.option}-memory = {target}', kind=kind)
    config = configuration(**{kind.option: f'{kind.option}-memory' for kind in loader.KINDS})
    drivers = loader.load_all(config)
    assert isinstance(drivers.server, memory.MemoryCloud)
    assert drivers.server is drivers.network is drivers.vif
    assert loader.load_all(config).server is not drivers.server


def test_objects_win_over_names(configuration: Configure) -> None:
    config = configuration(server_driver='nonsense', network_driver='nonsense', vif_driver='nonsense')
    cloud = memory.MemoryCloud(config)
    drivers = loader.load_all(config, server_driver=cloud, network_driver=cloud, vif_driver=cloud)
    assert drivers.server is drivers.network is drivers.vif is cloud


def test_an_object_is_used_for_its_own_kind_alone() -> None:
    config = conf.new([])
    cloud = memory.MemoryCloud(config)
    drivers = loader.load_all(config, server_driver=cloud)
    assert drivers.server is cloud
    assert isinstance(drivers.network, SQLNetworkDriver)


def test_other_names_are_not_imported(installation: Installation) -> None:
    installation.add('third', 'broken = third_party_missing:Driver')
    assert isinstance(loader.load(loader.VIF, 'noop', conf.new([])), NoopVIFDriver)
    assert 'broken' in loader.installed(loader.VIF)


def test_one_class_that_two_distributions_declare_alike(installation: Installation) -> None:
    for distribution in ('third', 'fourth'):
        installation.add(distribution, f'plain = {here(Plain)}')
    assert isinstance(loader.load(loader.VIF, 'plain', conf.new([])), Plain)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize('name', ['nonsense', '', 'noop ', 'no\nop'])
def test_an_unknown_name(installation: Installation, name: str) -> None:
    installation.add('third', f'a-driver = {here(Plain)}')
    names = ', '.join(loader.installed(loader.VIF))
    assert {'a-driver', 'noop'} <= set(names.split(', '))
    assert vif_error(name) == f'option [os_interface] vif_driver: {name!r} is not installed; installed: {names}'


@pytest.mark.parametrize('kind', loader.KINDS, ids=lambda kind: kind.option)
def test_an_unknown_name_of_each_kind(configuration: Configure, kind: loader.Kind) -> None:
    message = error_of(lambda: loader.load_all(configuration(**{kind.option: 'nonsense'})))
    assert message.startswith(f"option [os_interface] {kind.option}: 'nonsense' is not installed; installed: ")


def test_a_name_that_is_declared_twice(installation: Installation) -> None:
    installation.add('third', f'plain = {here(Plain)}')
    installation.add('fourth', 'plain = third_party_missing:Driver')
    message = vif_error('plain')
    assert message.startswith("option [os_interface] vif_driver: 'plain' is declared twice, ")
    assert f'by third ({here(Plain)})' in message
    assert 'by fourth (third_party_missing:Driver)' in message


def test_a_library_is_missing_that_an_extra_brings(installation: Installation) -> None:
    installation.add('third-drivers', 'wires = third_party_wires:Driver', extras='wires')
    installation.add_module('third_party_wires', 'import wires_of_nowhere')
    assert vif_error('wires') == (
        "option [os_interface] vif_driver: 'wires' cannot be imported: "
        "ModuleNotFoundError: No module named 'wires_of_nowhere'; install third-drivers[wires]"
    )


def test_a_library_is_missing_that_no_extra_brings(installation: Installation) -> None:
    installation.add('third', 'wires = third_party_wires:Driver', extras='other')
    installation.add_module('third_party_wires', 'import wires_of_nowhere')
    assert vif_error('wires').endswith("No module named 'wires_of_nowhere'")


def test_a_module_is_missing(installation: Installation) -> None:
    installation.add('third', 'wires = third_party_nowhere:Driver', extras='wires')
    assert vif_error('wires').endswith("ModuleNotFoundError: No module named 'third_party_nowhere'")


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('raise RuntimeError("first\\nsecond")', 'RuntimeError: first second'),
        ('assert False, "never"', 'AssertionError: never'),
        ('def', 'SyntaxError: '),
        ('', 'AttributeError: '),
    ],
)
def test_an_import_that_fails(installation: Installation, text: str, reason: str) -> None:
    installation.add('third', 'broken = third_party_broken:Driver')
    installation.add_module('third_party_broken', text)
    message = vif_error('broken')
    assert message.startswith(f"option [os_interface] vif_driver: 'broken' cannot be imported: {reason}")


@pytest.mark.parametrize(
    ('thing', 'problem'),
    [
        (NoDriver, 'which is not a subclass of os_interface_ext.drivers.base.VIFDriver'),
        (factory, 'which is not a subclass of os_interface_ext.drivers.base.VIFDriver'),
        (Incomplete, 'which lacks plugged, unplug'),
    ],
)
def test_what_is_no_driver(installation: Installation, thing: Any, problem: str) -> None:
    installation.add('third', f'odd = {here(thing)}')
    where = f'{__name__}.{thing.__qualname__}'
    assert vif_error('odd') == f"option [os_interface] vif_driver: 'odd' is {where}, {problem}"


def test_a_driver_of_another_kind(installation: Installation) -> None:
    installation.add('third', f'plain = {here(Plain)}', kind=loader.SERVER)
    message = error_of(lambda: loader.load(loader.SERVER, 'plain', conf.new([])))
    assert message.endswith('which is not a subclass of os_interface_ext.drivers.base.ServerDriver')


def test_a_constructor_that_says_what_is_wrong(installation: Installation) -> None:
    installation.add('third', f'refuses = {here(Refuses)}')
    assert vif_error('refuses') == 'option [refuses] url: is missing'


def test_a_constructor_that_breaks(installation: Installation) -> None:
    installation.add('third', f'breaks = {here(Breaks)}')
    assert vif_error('breaks') == (
        "option [os_interface] vif_driver: 'breaks' cannot be started: RuntimeError: no bridge br-int"
    )


@pytest.mark.parametrize('driver', [WithOptions, ReadsAtOnce])
def test_a_bad_value_of_an_option_of_the_driver(
    installation: Installation, configuration: Configure, driver: type[Plain]
) -> None:
    installation.add('third', f'picky = {here(driver)}')
    config = configuration('[with_options]\nport = many', vif_driver='picky')
    message = error_of(lambda: loader.load_all(config))
    assert message.startswith('option [with_options] port: ')


def test_a_bad_value_of_an_option_of_an_object(configuration: Configure) -> None:
    config = configuration('[with_options]\nport = many')
    message = error_of(lambda: loader.load_all(config, vif_driver=WithOptions(config)))
    assert message.startswith('option [with_options] port: ')


def test_an_option_that_the_driver_has_not_registered(installation: Installation) -> None:
    installation.add('third', f'odd = {here(ReadsUnknown)}')
    assert "'odd' cannot be started: NoSuchOptError: " in vif_error('odd')


@pytest.mark.parametrize('kind', loader.KINDS, ids=lambda kind: kind.option)
@pytest.mark.parametrize('thing', [NoDriver(), memory.MemoryCloud, 'sql', False])
def test_an_object_that_is_no_driver(kind: loader.Kind, thing: Any) -> None:
    message = error_of(lambda: loader.load_all(conf.new([]), **{kind.option: thing}))
    assert message.startswith(f'{kind.option}: ')
    assert message.endswith(
        f'which is not an object of a subclass of {kind.abstract.__module__}.{kind.abstract.__name__}'
    )
