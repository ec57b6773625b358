"""``os-interface-ext-agent``: plugs on the host where it runs, as the VIF driver ``rpc`` tells it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import os_interface_ext
from os_interface_ext.cmd import shell
from os_interface_ext.observability import logs

# Not __name__, which is __main__ when run as a module.
LOG = logs.get('os_interface_ext.cmd.agent')

_PROG = 'os-interface-ext-agent'
_FILE = '/etc/os-interface-ext/agent.conf'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal ends it; bad input is one line on standard error."""
    options = _parser().parse_args(arguments)
    return shell.status_of(_PROG, lambda: _run(options))


def _parser() -> shell.Parser:
    parser = shell.Parser(
        prog=_PROG,
        description='Plug and unplug on this host what the VIF driver rpc is told elsewhere. One on each host; it '
        'needs the message broker, and no database.',
    )
    parser.add_argument('--version', action='version', version=f'{_PROG} {os_interface_ext.__version__}')
    parser.add_argument(
        '--config-file',
        action='append',
        metavar='FILE',
        help=f'an ini file of the options, may be repeated (default: {_FILE})',
    )
    shell.add_log_json(parser)
    return parser


def _run(options: argparse.Namespace) -> int:
    _on_signals(lambda: sys.exit(0))
    from os_interface_ext import conf as config
    from os_interface_ext.agent.service import Service

    files = options.config_file or [_FILE]
    conf = config.new(files)
    conf.is_own_process = True
    logs.setup(files, json=options.log_json, level=logging.INFO)
    service = Service(conf)
    reading, writing = os.pipe()
    _on_signals(lambda: os.write(writing, b'.'))
    service.start()
    os.read(reading, 1)
    LOG.info('ending')
    if not service.stop():
        LOG.warning('an order could not be finished or answered; it is settled by whoever sent it')
    # Threads of the library that wait for the broker would keep the process alive.
    logging.shutdown()
    os._exit(0)


def _on_signals(action: Callable[[], Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: action())


if __name__ == '__main__':
    sys.exit(main())
