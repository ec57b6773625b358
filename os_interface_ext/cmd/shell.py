"""What all command lines have in common: their options, what they show at a terminal, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import enum
import itertools
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from os_interface_ext import exceptions

#: Characters of a word that are kept together in a table: those of an id, with what may stand around it.
_LONGEST_WORD = 40


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
    """Run a command; what goes wrong is one line on standard error and a status that is not 0.

    0: done, 1: it cannot be done, or something is wrong, 2: the command line is, 130: interrupted.
    """
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


class Colour(enum.StrEnum):
    """What a terminal is told for a colour."""

    RED = '31'
    GREEN = '32'
    YELLOW = '33'
    DIM = '2'


class Cell(str):
    """A text of a table that has a colour where there is one."""

    __slots__ = ('colour',)

    colour: Colour

    def __new__(cls, text: str, colour: Colour) -> Cell:
        cell = super().__new__(cls, text)
        cell.colour = colour
        return cell


def has_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person looks at it: at the standard output, unless another stream is named."""
    return (stream or sys.stdout).isatty()


def has_colours() -> bool:
    """As https://no-color.org wants it, and not on a terminal that cannot show any."""
    return has_terminal() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, is_one_of_several: bool = False
) -> str:
    """A titled table for a person at a terminal, not wider than that; for anything else a line a row, with tabs.

    A cell that is too long goes on below; no id is ever cut.

    :param is_one_of_several: then the title stands there in any case
    """
    # A name may hold anything, a line break included.
    cells = [[''.join(c if c.isprintable() else '?' for c in cell) for cell in row] for row in rows]
    if not has_terminal():
        titles = [[f'{title} ({len(rows)})']] if is_one_of_several else []
        return ''.join('\t'.join(row) + '\n' for row in [*titles, head, *cells])
    widths = _widths([head, *cells], shutil.get_terminal_size().columns - 2)
    colours = [[getattr(cell, 'colour', None) for cell in row] for row in rows]
    lines = [f'{title} ({len(rows)})']
    for row, row_colours in zip([head, *cells], [[None] * len(head), *colours], strict=True):
        pieces = [_wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*pieces, fillvalue=''):
            shown = (
                _coloured(piece, colour) + ' ' * (width - len(piece))
                for piece, width, colour in zip(line, widths, row_colours, strict=True)
            )
            lines.append(f'  {"  ".join(shown)}'.rstrip())
    return '\n'.join(lines) + '\n'


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int]:
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    words = [[len(word) for cell in column for word in cell.split()] for column in columns]
    lowest = [min(max(lengths, default=0), _LONGEST_WORD) for lengths in words]
    while sum(widths) + 2 * (len(widths) - 1) > available:
        spare = [(width, number) for number, width in enumerate(widths) if width > lowest[number]]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def _wrap(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _coloured(text: str, colour: Colour | None) -> str:
    return f'\033[{colour}m{text}\033[0m' if colour and text and has_colours() else text


def print_json(found: Any) -> None:
    """For programs; what is printed otherwise is for people and may change."""
    print(json.dumps(found, indent=2))


class Progress:
    """How far long work is, in one line of the terminal on standard error; nothing where there is none."""

    #: Seconds from one line to the next.
    _EVERY = 0.1

    def __init__(self) -> None:
        self._terminal = has_terminal(sys.stderr)
        self._shown = False
        self._next = 0.0

    def __call__(self, text: str) -> None:
        moment = time.monotonic()
        if self._terminal and moment >= self._next:
            self._next = moment + self._EVERY
            print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)
            self._shown = True

    def end(self) -> None:
        """Leave the line empty."""
        if self._shown:
            print('\r\033[K', end='', file=sys.stderr, flush=True)
        self._shown = False


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """One that is gone after the block."""
    made = Progress()
    try:
        yield made
    finally:
        made.end()


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', action='store_true', help='for programs')


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
