"""The attachment records, and who works on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from os_interface_ext import context, exceptions
from os_interface_ext.attachments.reconciler import ROLE, Report
from os_interface_ext.attachments.states import Reason, State
from os_interface_ext.attachments.stuck import is_stuck
from os_interface_ext.checks.check import Finding, apart, error, ok, warning
from os_interface_ext.checks.installation import Installation
from os_interface_ext.drivers import base

#: Seconds for which the VIF driver is waited for, for one host.
_PATIENCE = 5.0
#: Entries that are named; of the others it is told how many they are.
_NAMED = 3


def reconciler(installation: Installation) -> Finding:
    """One is alive."""
    heard = [one for one in installation.store.heartbeats() if one.name.startswith(ROLE)]
    alive = sorted({one.owner for one in heard if not one.is_late})
    if alive:
        return ok(f'heard of {", ".join(alive)}')
    last = min((one.age for one in heard), default=None)
    since = 'yet' if last is None else f'for {last:.0f} s'
    what = f'no reconciler has been heard of {since}'
    return error(f'{what}: what a process that dies leaves behind stays so', 'start os-interface-ext-reconciler')


def stuck(installation: Installation) -> Finding:
    """No record has been tried in vain too often, or left lying."""
    store, options = installation.store, installation.conf.reconciler
    clock = store.clock()
    moving = [record for state in State if state is not State.ATTACHED for record in store.listed(state=state)]
    found = [record for record in moving if is_stuck(record, clock, options)]
    if not found:
        return ok(f'{len(moving)} in motion, none stuck')
    lines = [
        f'port {record.port_id} of server {record.server_id} ({record.state}, {record.attempts} attempts: '
        f'{record.last_error or "nobody has tried"})'
        for record in found
    ]
    return error(
        f'{_count(len(found), "record")} stuck: {_some(lines)}',
        'mend what the last error names, then "os-interface-ext attachments retry ID"; all of them: '
        '"os-interface-ext attachments list --stuck"',
    )


def states(installation: Installation) -> Finding:
    """All records are in states that this code knows."""
    unknown = [
        f'{count} in {state}, {reason or "no reason"}'
        for (state, reason), count in installation.store.states().items()
        if state not in set(State) or (reason is not None and reason not in set(Reason))
    ]
    if unknown:
        return error(
            f'records in states that this version does not know: {_some(unknown)}',
            'let the version that has written them finish them (os-interface-ext-reconciler --once), then upgrade',
        )
    return ok('all are known')


def orphans(installation: Installation) -> Finding:
    """The network backend has no port of ours that no record knows."""
    if type(installation.drivers['network_driver']).find_marked is base.NetworkDriver.find_marked:
        return ok('the network driver cannot tell')
    report = Report()
    installation.reconciler.sweep(report, dry_run=True)
    if report.pending:
        return error(report.pending[0], 'see the checks of the drivers')
    found = [*report.deleted, *report.orphans]
    if found:
        return warning(
            f'{_count(len(found), "port")} of ours without a record: {_some(found)}',
            'start a reconciler: it deletes what is left over (os-interface-ext-reconciler --once --dry-run tells '
            'what that is); of the others, look whose they are, and delete them in the network backend',
        )
    return ok('none')


def hosts(installation: Installation) -> Finding:
    """On each host that records name, the VIF driver can plug and unplug (an agent answers, say)."""
    vifs: base.VIFDriver = installation.drivers['vif_driver']
    servers: base.ServerDriver = installation.drivers['server_driver']
    if not vifs.has_side_effects:
        return ok('nothing is plugged anywhere')
    named = installation.store.hosts()

    def asking(host: str, server_id: str) -> Callable[[], object]:
        def ask() -> object:
            ctxt = context.service_context()
            try:
                # Where the NIC is, wherever the server may be by now.
                server = dataclasses.replace(servers.get(ctxt, server_id), host=host)
                return vifs.capabilities(ctxt, server)
            except exceptions.Unavailable:
                raise
            except exceptions.DriverError:
                # An answer, too: of a server that is gone, say, to which the reconciler sees.
                return None

        return ask

    outcomes = apart({host: asking(host, server_id) for host, server_id in named.items()}, _PATIENCE)
    away = [f'{host} ({_describe(why)})' for host, why in outcomes.items() if isinstance(why, BaseException)]
    if away:
        return error(
            f'{_count(len(away), "host")} cannot be reached: {_some(away)}',
            'start what plugs there (os-interface-ext-agent, libvirtd); hosts that are gone for good are named in '
            'the options of the driver',
        )
    return ok(f'{_count(len(named), "host")} with records, each can be reached')


def _describe(why: BaseException) -> str:
    if isinstance(why, TimeoutError):
        return f'no answer within {_PATIENCE:g} s'
    return ' '.join(str(getattr(why, 'operator', '') or why or type(why).__name__).split())


def _count(number: int, what: str) -> str:
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


def _some(lines: list[str]) -> str:
    more = len(lines) - _NAMED
    return '; '.join(lines[:_NAMED]) + (f'; and {more} more' if more > 0 else '')
