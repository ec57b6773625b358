"""``os-interface-ext attachments``: the records, for operators."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
from typing import Any

from os_interface_ext.attachments import stuck
from os_interface_ext.attachments.manager import is_sane
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Record, Result, Store
from os_interface_ext.cmd import common, shell
from os_interface_ext.db import schema

#: How much of an error fits into a table; ``show`` has all of it.
_ERROR = 80


def run(options: argparse.Namespace) -> int:
    """List or show records and results, or have a record tried again."""
    database = common.database(options)
    schema.require_current(database)
    store = Store(database, lease=options.conf.attachments.lease)
    actions = {'list': _list, 'show': _show, 'history': _history, 'retry': _retry}
    return actions[options.action](options, store)


def _list(options: argparse.Namespace, store: Store) -> int:
    state = State(options.state) if options.state else None
    looks = [
        _Look(record, options, store.clock()) for record in store.listed(state=state, server_id=options.server)
    ]
    looks = [look for look in looks if look.is_stuck or not options.stuck]
    if options.json:
        return _print_json([look.facts() for look in looks])
    head = (
        'id',
        'state',
        'reason',
        'server',
        'port',
        'attempts',
        'age',
        'rests for',
        'owner',
        'next attempt',
        'last error',
    )
    print(shell.table('Attachments', head, [look.row() for look in looks]), end='')
    return 0


def _show(options: argparse.Namespace, store: Store) -> int:
    record = _find(options, store)
    if record is None:
        return 1
    facts = _Look(record, options, store.clock()).facts()
    if options.json:
        return _print_json(facts)
    width = max(map(len, facts)) if shell.has_terminal() else 0
    for name, value in facts.items():
        print(f'{name.ljust(width)}  {_text(value)}'.rstrip() if width else f'{name}\t{_text(value)}')
    return 0


def _history(options: argparse.Namespace, store: Store) -> int:
    results = store.results(server_id=options.server, port_id=options.port, limit=options.limit)
    if options.json:
        return _print_json([_with_times(result) for result in results])
    head = ('finished', 'reason', 'server', 'port', 'attempts', 'took', 'last error')
    print(shell.table('History', head, [_result_row(result) for result in results]), end='')
    return 0


def _retry(options: argparse.Namespace, store: Store) -> int:
    record = _find(options, store)
    if record is None:
        return 1
    is_moving = record.state is not State.ATTACHED
    if is_moving and not store.retry(record.id):
        return _not_found(options)
    look = _Look(record, options, store.clock())
    if options.json:
        return _print_json(
            {'id': record.id, 'tried': is_moving, 'held_by': record.owner if look.is_held else None}
        )
    if is_moving:
        when = f'when {record.owner} lets go of it' if look.is_held else 'at the next look of a reconciler'
        print(f'{record.id} is tried {when}')
    else:
        print(f'{record.id} is attached: there is nothing to try')
    return 0


def _find(options: argparse.Namespace, store: Store) -> Record | None:
    found = (store.get(options.id) or store.of_port(options.id)) if is_sane(options.id) else None
    if found is None:
        _not_found(options, ended=is_sane(options.id) and store.result_of(options.id) is not None)
    return found


def _not_found(options: argparse.Namespace, *, ended: bool = True) -> int:
    why = 'has come to its end, see "attachments history"' if ended else 'there is no such record'
    print(f'os-interface-ext: attachment {options.id!r}: {why}', file=sys.stderr)
    return 1


# ------------------------------------------------------------------ a record for people and programs


@dataclasses.dataclass
class _Look:
    """A record as it is at one moment."""

    record: Record
    options: argparse.Namespace
    clock: float

    @property
    def age(self) -> float:
        return self.clock - (self.record.created_at or self.clock)

    @property
    def rest(self) -> float:
        """For how long nothing has happened to it."""
        return self.clock - (self.record.updated_at or self.clock)

    @property
    def is_held(self) -> bool:
        return self.record.owner is not None and (self.record.lease_expires or 0.0) >= self.clock

    @property
    def is_stuck(self) -> bool:
        longest = getattr(self.options, 'stuck_age', None)
        return stuck.is_stuck(self.record, self.clock, self.options.conf.reconciler, longest)

    def row(self) -> tuple[str, ...]:
        record = self.record
        return (
            record.id,
            record.state,
            record.reason or '',
            record.server_id,
            record.port_id or '',
            str(record.attempts),
            _duration(self.age),
            _duration(self.rest),
            self._owner(),
            self._next_attempt(),
            (record.last_error or '')[:_ERROR],
        )

    def facts(self) -> dict[str, Any]:
        """All that is known, in JSON's types."""
        facts = _with_times(self.record)
        return facts | {'age': round(self.age, 3), 'rest': round(self.rest, 3), 'stuck': self.is_stuck}

    def _owner(self) -> str:
        if self.record.owner is None:
            return ''
        return self.record.owner if self.is_held else f'{self.record.owner} (expired)'

    def _next_attempt(self) -> str:
        if self.record.state is State.ATTACHED or self.is_held:
            return ''
        wait = (self.record.next_attempt or 0.0) - self.clock
        return f'in {_duration(wait)}' if wait > 0 else 'due'


_TIMES = ('lease_expires', 'next_attempt', 'missing_since', 'created_at', 'updated_at', 'finished_at')


def _with_times(found: Record | Result) -> dict[str, Any]:
    facts = dataclasses.asdict(found)
    return facts | {name: _time(facts[name]) for name in _TIMES if facts.get(name) is not None}


def _result_row(result: Result) -> tuple[str, ...]:
    return (
        _time(result.finished_at),
        result.reason,
        result.server_id,
        result.port_id or '',
        str(result.attempts),
        _duration(result.finished_at - result.created_at),
        (result.last_error or '')[:_ERROR],
    )


def _time(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')


def _duration(seconds: float) -> str:
    for unit, length in (('d', 86400), ('h', 3600), ('m', 60)):
        if seconds >= 2 * length:
            return f'{seconds / length:.0f}{unit}'
    return f'{max(seconds, 0.0):.0f}s'


def _text(value: Any) -> str:
    if value is None:
        return ''
    text = value if isinstance(value, str) else json.dumps(value)
    return ''.join(character if character.isprintable() else '?' for character in text)


def _print_json(found: Any) -> int:
    shell.print_json(found)
    return 0
