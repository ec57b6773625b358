"""``os-interface-ext-status upgrade check``: whether this version can take over what an older one has left."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from oslo_config import cfg
from oslo_upgradecheck import common_checks, upgradecheck

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.checks import backends, check, configuration, records
from os_interface_ext.checks.check import Check, State
from os_interface_ext.checks.installation import Installation
from os_interface_ext.cmd import shell

_PROG = 'os-interface-ext-status'
#: Seconds for which each check is waited for.
_TIMEOUT = 60.0

_CODES = {
    State.OK: upgradecheck.Code.SUCCESS,
    State.WARNING: upgradecheck.Code.WARNING,
    State.ERROR: upgradecheck.Code.FAILURE,
    State.SKIPPED: upgradecheck.Code.FAILURE,
}

_CHECKS: dict[str, Check[Installation]] = {
    'Configuration Files': Check('files', configuration.files),
    'Values': Check('values', configuration.values, ('files',)),
    'Renamed Options': Check('renamed', configuration.renamed, ('files',)),
    'Unknown Options': Check('names', configuration.names, ('files',)),
    'Policy Rules': Check('policy', configuration.policy, ('values',)),
    'Database': Check('database', backends.database, ('files',)),
    'Schema': Check('schema', backends.schema, ('database',)),
    'States of Records': Check('states', records.states, ('schema',)),
}


class Checks(upgradecheck.UpgradeCommands):
    """To be run with the new code and the old configuration, after ``db sync`` and before the start."""

    def __init__(self, conf: config.Config) -> None:
        self._conf = conf
        self._found: dict[str, list[check.Finding]] | None = None
        self._upgrade_checks = (
            *((title, _asking(one.name)) for title, one in _CHECKS.items()),
            ('Policy File JSON to YAML Migration', (common_checks.check_policy_json, {'conf': conf})),
        )

    def find(self, name: str) -> upgradecheck.Result:
        """What one of our checks finds; all of them are made with the first one."""
        if self._found is None:
            installation = Installation(self._conf.config_file)
            self._found = {}
            for found, finding in check.run(tuple(_CHECKS.values()), installation, _TIMEOUT):
                masked = check.Finding(
                    finding.state, installation.mask(finding.what), installation.mask(finding.cure)
                )
                self._found.setdefault(found, []).append(masked)
        findings = self._found[name]
        details = '; '.join(f'{one.what}: {one.cure}' if one.cure else one.what for one in findings)
        return upgradecheck.Result(max(_CODES[one.state] for one in findings), details)


def _asking(name: str) -> Callable[[Any], upgradecheck.Result]:
    return lambda commands: commands.find(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing to do, 1: a warning, 2: a failure, 255: it could not be looked; as all of OpenStack has it."""
    return shell.status_of(_PROG, lambda: _run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    logging.getLogger().addHandler(logging.NullHandler())
    conf = config.read([])
    conf.clear()
    commands = Checks(conf)
    try:
        files = [] if '--config-file' in arguments else config.files_of()
        return upgradecheck.main(conf, 'os-interface-ext', commands, arguments, files)
    except (exceptions.ConfigurationError, cfg.Error) as error:
        print(f'{_PROG}: {" ".join(str(error).split())}', file=sys.stderr)
        return 255


if __name__ == '__main__':
    sys.exit(main())
