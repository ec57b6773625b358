"""The configuration object: made from explicit files, with nothing global."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
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
    conf = read(files_of(files), **overrides)
    check(conf)
    return conf


def read(files: Sequence[str], **overrides: dict[str, object]) -> Config:
    """A configuration whose values may be bad.

    :raises ConfigurationError: a file is broken
    """
    conf = Config()
    for group in _GROUPS:
        group.register_opts(conf)
    try:
        conf(
            args=[],
            project='os-interface-ext',
            prog='os-interface-ext',
            default_config_files=list(files),
            default_config_dirs=[],
            use_env=False,
        )
    except cfg.ConfigFileParseError as error:
        # Without the line itself: there may stand a secret.
        told = re.sub(r'(:\d+, [^:]*):.*', r'\1', _one_line(error))
        raise exceptions.ConfigurationError(f'configuration: {told}: correct that line') from error
    except cfg.Error as error:
        raise exceptions.ConfigurationError(f'configuration: {_one_line(error)}') from error
    for group_name, options in overrides.items():
        for option, value in options.items():
            conf.set_override(option, value, group=group_name)
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
    for problem in problems(conf):
        raise problem


def problems(conf: cfg.ConfigOpts) -> Iterator[exceptions.ConfigurationError]:
    """What is wrong with the values of all registered options."""
    for group, option in options(conf):
        section = conf if group is None else conf[group]
        try:
            if section[option.dest] is None and option.required:
                raise cfg.RequiredOptError(option.name, group and cfg.OptGroup(group))
        except cfg.ConfigFileValueError as error:
            what = 'its value is not valid' if option.secret else _one_line(error)
            yield _problem(f'option [{group or "DEFAULT"}] {option.name}: {what}', error)
        except cfg.Error as error:
            yield _problem(f'configuration: {_one_line(error)}', error)


def options(conf: cfg.ConfigOpts) -> Iterator[tuple[str | None, cfg.Opt]]:
    """All registered options with the names of their groups; that of ``[DEFAULT]`` is None."""
    # oslo.config has no other way to tell them.
    for known in list(conf._opts.values()):
        yield None, known['opt']
    for group in list(conf._groups.values()):
        for known in list(group._opts.values()):
            yield group.name, known['opt']


def _problem(text: str, cause: Exception) -> exceptions.ConfigurationError:
    error = exceptions.ConfigurationError(text)
    error.__cause__ = cause
    return error


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())
