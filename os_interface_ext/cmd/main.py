"""``os-interface-ext``: the command and its subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import os_interface_ext
from os_interface_ext.attachments.states import State
from os_interface_ext.cmd import shell

_PROG = 'os-interface-ext'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; bad input is one line on standard error and a status that is not 0."""
    options = _parser().parse_args(arguments)
    return shell.status_of(_PROG, lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    # What a command needs is imported by that command alone, so that --help does not wait for it.
    if options.command == 'serve':
        from os_interface_ext.cmd import serve

        return serve.run(options)
    if options.command == 'inventory':
        from os_interface_ext.cmd import inventory

        return inventory.run(options)
    if options.command == 'doctor':
        from os_interface_ext.cmd import doctor

        return doctor.run(options)
    if options.command == 'attachments':
        from os_interface_ext.cmd import attachments

        return attachments.run(options)
    if options.command == 'openapi':
        from os_interface_ext.cmd import openapi

        return openapi.run(options)
    from os_interface_ext.cmd import db

    return db.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = shell.Parser(
        prog=_PROG, description='The OpenStack Compute port interfaces API, and its embedded cloud.'
    )
    parser.add_argument('--version', action='version', version=f'{_PROG} {os_interface_ext.__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    _add_serve(commands)
    _add_inventory(commands)
    _add_attachments(commands)
    _add_db(commands)
    _add_openapi(commands)
    _add_doctor(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser(
        'serve',
        help='serve a small cloud controller with the plug-in in it',
        description='Serve a small cloud controller with the plug-in in it, for development. Without a configured '
        'database the cloud is a temporary one, gone at the end; an empty one gets the demo inventory.',
    )
    shell.add_common(parser)
    parser.add_argument('--host', default='127.0.0.1', help='the address to listen at (default: %(default)s)')
    parser.add_argument(
        '--port', type=shell.port, default=8774, help='the port (default: %(default)s); 0: a free one'
    )
    shell.add_log_json(parser)
    parser.add_argument('--inventory', metavar='FILE', help='what the cloud consists of (default: a demo)')
    parser.add_argument(
        '--replace', action='store_true', help='when the database holds another inventory: replace it all'
    )
    parser.add_argument(
        '--workers', type=shell.positive, default=1, metavar='N', help='processes (default: %(default)s)'
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


def _add_inventory(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser('inventory', help='load, show or export the embedded inventory')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    load = actions.add_parser('load', help='load a file in the place of what is there; all of it, or nothing')
    load.add_argument('file', metavar='FILE')
    load.add_argument(
        '--replace', action='store_true', help='forget the attachment records of the inventory that is replaced'
    )
    shell.add_common(load)
    show = actions.add_parser('show', help='show what is there, for people')
    shell.add_json(show)
    shell.add_common(show)
    shell.add_common(actions.add_parser('export', help='write what is there as a file that can be loaded'))


def _add_attachments(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser('attachments', help='look at the attachment records, and have one tried again')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    listing = actions.add_parser('list', help='the records, in the order of attachment')
    states = [state.value for state in State]
    listing.add_argument('--state', type=str.upper, choices=states, metavar='STATE', help=', '.join(states))
    listing.add_argument('--server', metavar='ID', default='', help='those of one server')
    listing.add_argument(
        '--stuck',
        action='store_true',
        help='those in motion that have failed [reconciler] stuck_attempts times, or that rest for too long',
    )
    listing.add_argument(
        '--stuck-age',
        type=shell.seconds,
        metavar='SECONDS',
        help='for how long one in motion may rest (default: twice [reconciler] backoff_cap)',
    )
    show = actions.add_parser('show', help='all that is known of one record')
    history = actions.add_parser('history', help='how attachments ended, the latest first')
    history.add_argument('--server', metavar='ID', default='', help='those of one server')
    history.add_argument('--port', metavar='ID', default='', help='those of one port')
    history.add_argument(
        '--limit', type=shell.count, default=100, metavar='N', help='how many at most (default: %(default)s)'
    )
    retry = actions.add_parser('retry', help='have one record tried again now, instead of at its next attempt')
    for action in (show, retry):
        action.add_argument('id', metavar='ID', help='of the record, or of its port')
    for action in (listing, show, history, retry):
        shell.add_json(action)
        shell.add_common(action)


def _add_db(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser('db', help='create or upgrade the schema of the database')
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for action in (
        actions.add_parser('sync', help='create the schema, or bring it up to date'),
        actions.add_parser('version', help='tell the version of the schema'),
    ):
        shell.add_json(action)
        shell.add_common(action)


def _add_doctor(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser(
        'doctor',
        help='tell what is wrong with this installation, and what to do about it',
        description='Look at the configuration, the database, the backends of the drivers and the records. '
        'Nothing is changed. The status is 0 if all is well, 1 if anything is not, 2 for a bad command line.',
    )
    parser.add_argument(
        '--timeout',
        type=shell.seconds,
        default=20,
        metavar='SECONDS',
        help='for which each check is waited for (default: %(default)s)',
    )
    shell.add_json(parser)
    shell.add_common(parser)


def _add_openapi(commands: argparse._SubParsersAction[shell.Parser]) -> None:
    parser = commands.add_parser(
        'openapi',
        help='write the description of the API',
        description='Write the description of the API in OpenAPI 3.1, or the reference made from it.',
    )
    parser.add_argument(
        '--microversion', metavar='X.Y', default='latest', help='at which microversion (default: %(default)s)'
    )
    parser.add_argument(
        '--format',
        choices=['json', 'yaml', 'markdown'],
        default='json',
        help='markdown: the reference for people, of all microversions (default: %(default)s)',
    )


if __name__ == '__main__':
    sys.exit(main())
