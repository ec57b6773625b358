"""The configuration object: made from explicit files, with nothing global."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import (
    api,
    attachments,
    database,
    drivers,
    health,
    metrics,
    notifications,
    policy,
    reconciler,
)

ENV_FILES = 'OS_INTERFACE_EXT_CONFIG_FILES'
DEFAULT_FILE = '/etc/os-interface-ext/os-interface-ext.conf'


class Config(cfg.ConfigOpts):
    """ConfigOpts that keeps what belongs to one configuration (its database), for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}
        #: Whether it is that of a command of this project, and not of a host that has loaded the plug-in.
        self.is_own_process = False


_GROUPS = (drivers, api, attachments, reconciler, database, metrics, notifications, health, policy)


def new(files: Sequence[str] | None = None, **overrides: dict[str, object]) -> Config:
    """A configuration of our own; the host's, its command line and its environment are never read.

    :param files: ini files; without them those that ``$OS_INTERFACE_EXT_CONFIG_FILES`` names (separated
        like ``$PATH``), else /etc/os-interface-ext/os-interface-ext.conf if it is there
    :param overrides: ``group={option: value}``, stronger than the files
    :raises ConfigurationError: a file is missing or broken, a value is bad
    """
    files = files_of(files)
    conf = Config()
    for group in _GROUPS:
        group.register_opts(conf)
    try:
        conf(
            args=[],
            project='os-interface-ext',
            prog='os-interface-ext',
            default_config_files=files,
            default_config_dirs=[],
            use_env=False,
        )
    except cfg.Error as error:
        raise exceptions.ConfigurationError(f'configuration: {_one_line(error)}') from error
    for group_name, options in overrides.items():
        for option, value in options.items():
            conf.set_override(option, value, group=group_name)
    check(conf)
    return conf


def files_of(files: Sequence[str] | None = None) -> list[str]:
    """The ini files that ``new`` reads.

    :raises ConfigurationError: one cannot be read
    """
    if files is None:
        named = [f for f in os.environ.get(ENV_FILES, '').split(os.pathsep) if f]
        files = named or [f for f in [DEFAULT_FILE] if os.path.exists(f)]
    for name in files:
        if not os.access(name, os.R_OK):
            raise exceptions.ConfigurationError(
                f'config file {name!r} cannot be read: create it, or name another one'
            )
    return list(files)


def check(conf: cfg.ConfigOpts) -> None:
    """Read every registered option once, so that a bad value ends the start and not a request.

    :raises ConfigurationError:
    """
    for group in (None, *conf._groups.values()):
        section = conf if group is None else conf[group.name]
        for known in list((conf if group is None else group)._opts.values()):
            option = known['opt']
            try:
                if section[option.dest] is None and option.required:
                    raise cfg.RequiredOptError(option.name, group)
            except cfg.ConfigFileValueError as error:
                where = f'[{group.name if group else "DEFAULT"}] {option.name}'
                raise exceptions.ConfigurationError(f'option {where}: {_one_line(error)}') from error
            except cfg.Error as error:
                raise exceptions.ConfigurationError(f'configuration: {_one_line(error)}') from error


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())
