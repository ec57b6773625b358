"""``os-interface-ext-reconciler``: carries on what nobody works on, in a process of its own."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import os_interface_ext
from os_interface_ext.cmd import shell
from os_interface_ext.observability import logs

# Not __name__, which is __main__ when run as a module.
LOG = logs.get('os_interface_ext.cmd.reconciler')

_PROG = 'os-interface-ext-reconciler'

T = TypeVar('T')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal ends it, or once; bad input is one line on standard error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.dry_run and not options.once:
        parser.error('--dry-run goes with --once')
    if options.json and not options.once:
        parser.error('--json goes with --once')
    return shell.status_of(_PROG, lambda: _run(options))


def _parser() -> shell.Parser:
    parser = shell.Parser(
        prog=_PROG,
        description='Finish what a process that died has left in motion, end what the world no longer agrees '
        'with, and delete ports of ours that have no record. Any number may run side by side.',
    )
    parser.add_argument('--version', action='version', version=f'{_PROG} {os_interface_ext.__version__}')
    parser.add_argument('--once', action='store_true', help='look once, tell what was done, and end')
    parser.add_argument(
        '--dry-run', action='store_true', help='with --once: tell what would be done, and do nothing'
    )
    parser.add_argument('--json', action='store_true', help='with --once: for programs')
    shell.add_common(parser)
    shell.add_log_json(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    _on_signals(lambda: sys.exit(0))
    from os_interface_ext import conf as config
    from os_interface_ext import deploy
    from os_interface_ext.cmd import common

    level = logging.WARNING if options.once else logging.INFO
    logs.setup(config.files_of(options.config_file), json=options.log_json, level=level)

    parts = deploy.assemble(common.configuration(options))
    reconciler = parts.reconciler
    stop = threading.Event()
    if options.once:
        with shell.progress() as progress:
            reconciler.progress = lambda done, what: progress(f'{what}: {done}')
            report = _until_told(stop, lambda: reconciler.once(dry_run=options.dry_run, stop=stop.is_set))
        if options.json:
            shell.print_json(dataclasses.asdict(report))
        else:
            print('\n'.join(report.lines() or ['nothing to do']))
    else:
        LOG.info('reconciling %s every %s s', parts.database.url, parts.conf.reconciler.interval)
        _until_told(stop, lambda: reconciler.run(stop))
    return 0


def _until_told(stop: threading.Event, work: Callable[[], T]) -> T:
    # In a thread: a handler that sets an event on which its own thread waits may wait for itself.
    with concurrent.futures.ThreadPoolExecutor(1, 'reconciler') as pool:
        _on_signals(stop.set)
        return pool.submit(work).result()


def _on_signals(action: Callable[[], Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: action())


if __name__ == '__main__':
    sys.exit(main())
