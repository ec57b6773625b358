"""What all command lines have in common: their options, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from os_interface_ext import exceptions


class Parser(argparse.ArgumentParser):
    """Bad input is one line."""

    def error(self, message: str) -> NoReturn:
        # The usage is a --help away.
        self.exit(2, f'{self.prog}: {message} (see {self.prog} --help)\n')


def add_common(parser: argparse.ArgumentParser) -> None:
    """The configuration and the database."""
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


def add_log_json(parser: argparse.ArgumentParser) -> None:
    """For the processes that go on."""
    parser.add_argument(
        '--log-json', action='store_true', help='log JSON, as with use_json = true in [DEFAULT] (see oslo.log)'
    )


def status_of(prog: str, run: Callable[[], int]) -> int:
    """Run a command; what goes wrong is one line on standard error and a status that is not 0."""
    try:
        return run()
    except exceptions.ConfigurationError as error:
        print(error.code, file=sys.stderr)
    except exceptions.OsInterfaceError as error:
        print(f'{prog}: {" ".join(error.operator.split())}', file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at the end.
        sys.stdout = None  # type: ignore[assignment]
    return 1


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A titled table, as wide as its contents."""
    # A name may hold anything, a line break included.
    cells = [[''.join(c if c.isprintable() else '?' for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *cells]
    ]
    return '\n'.join([f'{title} ({len(rows)})', *(f'  {line}'.rstrip() for line in lines)]) + '\n'


def port(text: str) -> int:
    return _number(text, 0, 65535)


def positive(text: str) -> int:
    return _number(text, 1, 1000)


def count(text: str) -> int:
    return _number(text, 1, 1_000_000)


def seconds(text: str) -> int:
    return _number(text, 0, 1_000_000_000)


def _number(text: str, lowest: int, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text[:10]) <= highest):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from {lowest} to {highest}')
    return int(text)
