"""``os-interface-ext doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from os_interface_ext.checks import backends, check, configuration, identity, records
from os_interface_ext.checks.check import Check, Finding, State
from os_interface_ext.checks.installation import Installation
from os_interface_ext.cmd import common, shell
from os_interface_ext.drivers import loader

_DRIVERS = tuple(kind.option for kind in loader.KINDS)

#: In the order in which they are told.
CHECKS: Sequence[Check[Installation]] = (
    Check('files', configuration.files),
    Check('values', configuration.values, ('files',)),
    # Drivers register what they take.
    Check('names', configuration.names, ('files',), after=_DRIVERS),
    Check('renamed', configuration.renamed, ('files',), after=_DRIVERS),
    Check('policy', configuration.policy, ('values',)),
    Check('database', backends.database, ('files',)),
    Check('schema', backends.schema, ('database',)),
    Check('clock', backends.clock, ('schema',)),
    Check('identity', identity.keystone, ('values',)),
    *(Check(kind.option, backends.driver(kind), ('values',), after=('schema',)) for kind in loader.KINDS),
    Check('reconciler', records.reconciler, ('schema',)),
    Check('states', records.states, ('schema',)),
    Check('stuck', records.stuck, ('states', 'values')),
    Check('hosts', records.hosts, ('states', 'server_driver', 'vif_driver')),
    Check('orphans', records.orphans, ('states', *_DRIVERS)),
)

_COLOURS = {
    State.OK: shell.Colour.GREEN,
    State.WARNING: shell.Colour.YELLOW,
    State.ERROR: shell.Colour.RED,
    State.SKIPPED: shell.Colour.DIM,
}


def run(options: argparse.Namespace) -> int:
    """Look at everything; status 1 if anything is not well."""
    # What libraries have to say about it is in the findings.
    logging.getLogger().addHandler(logging.NullHandler())
    installation = Installation(options.config_file, **common.overrides(options))
    with shell.progress() as progress:
        progress('looking')
        found = [
            (name, _masked(installation, finding))
            for name, finding in check.run(CHECKS, installation, options.timeout)
        ]
    healthy = all(finding.state is State.OK for _, finding in found)
    if options.json:
        rows = [
            {'name': name, 'state': finding.state, 'what': finding.what, 'cure': finding.cure or None}
            for name, finding in found
        ]
        shell.print_json({'healthy': healthy, 'checks': rows})
    else:
        cells = [
            (name, shell.Cell(finding.state, _COLOURS[finding.state]), finding.what, finding.cure)
            for name, finding in found
        ]
        print(shell.table('Checks', ('name', 'state', 'what', 'cure'), cells), end='')
    return 0 if healthy else 1


def _masked(installation: Installation, finding: Finding) -> Finding:
    return Finding(finding.state, installation.mask(finding.what), installation.mask(finding.cure))
