"""``os-interface-ext``: the command and its subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import os_interface_ext
from os_interface_ext import exceptions

_PROG = 'os-interface-ext'


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line: the usage is a --help away.
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one line on standard error and a status that is not 0."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except exceptions.ConfigurationError as error:
        print(error.code, file=sys.stderr)
    except exceptions.OsInterfaceError as error:
        print(f'{_PROG}: {" ".join(error.operator.split())}', file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at the end.
        sys.stdout = None  # type: ignore[assignment]
    return 1


def _run(options: argparse.Namespace) -> int:
    # What a command needs is imported by that command alone, so that --help does not wait for it.
    if options.command == 'serve':
        from os_interface_ext.cmd import serve

        return serve.run(options)
    if options.command == 'inventory':
        from os_interface_ext.cmd import inventory

        return inventory.run(options)
    from os_interface_ext.cmd import db

    return db.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROG, description='The OpenStack Compute port interfaces API, and its embedded cloud.')
    parser.add_argument('--version', action='version', version=f'{_PROG} {os_interface_ext.__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    _add_serve(commands)
    _add_inventory(commands)
    _add_db(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--config-file',
        action='append',
        metavar='FILE',
        help='an ini file of the options, may be repeated (default: $OS_INTERFACE_EXT_CONFIG_FILES, else '
        '/etc/os-interface-ext/os-interface-ext.conf if it is there)',
    )
    parser.add_argument(
        '--database',
        metavar='URL',
        help='the database, such as sqlite:////path/file (default: the configured one)',
    )


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser(
        'serve',
        help='serve a small cloud controller with the plug-in in it',
        description='Serve a small cloud controller with the plug-in in it, for development. Without a configured '
        'database the cloud is a temporary one, gone at the end; an empty one gets the demo inventory.',
    )
    _add_common(parser)
    parser.add_argument('--host', default='127.0.0.1', help='the address to listen at (default: %(default)s)')
    parser.add_argument('--port', type=_port, default=8774, help='the port (default: %(default)s); 0: a free one')
    parser.add_argument('--inventory', metavar='FILE', help='what the cloud consists of (default: a demo)')
    parser.add_argument(
        '--replace', action='store_true', help='when the database holds another inventory: replace it all'
    )
    parser.add_argument(
        '--workers', type=_positive, default=1, metavar='N', help='processes (default: %(default)s)'
    )
    parser.add_argument(
        '--allow-reset', action='store_true', help='offer POST /standalone/reset, which loads the inventory anew'
    )
    parser.add_argument(
        '--i-know-this-is-not-for-production',
        action='store_true',
        dest='not_loopback',
        help='listen at an address that others can reach',
    )


def _add_inventory(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser('inventory', help='load, show or export the embedded inventory')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    load = actions.add_parser('load', help='load a file in the place of what is there; all of it, or nothing')
    load.add_argument('file', metavar='FILE')
    load.add_argument(
        '--replace', action='store_true', help='forget the attachment records of the inventory that is replaced'
    )
    _add_common(load)
    _add_common(actions.add_parser('show', help='show what is there, for people'))
    _add_common(actions.add_parser('export', help='write what is there as a file that can be loaded'))


def _add_db(commands: argparse._SubParsersAction[_Parser]) -> None:
    parser = commands.add_parser('db', help='create or upgrade the schema of the database')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    _add_common(actions.add_parser('sync', help='create the schema, or bring it up to date'))
    _add_common(actions.add_parser('version', help='tell the version of the schema'))


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _positive(text: str) -> int:
    return _number(text, 1, 1000)


def _number(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text[:10]) <= highest):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from {lowest} to {highest}')
    return int(text)


if __name__ == '__main__':
    sys.exit(main())
