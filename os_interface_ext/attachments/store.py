"""The attachment records: the only module that queries them.

Every write is a compare-and-swap on (id, generation) in one short transaction. Whoever loses it gets
:class:`~os_interface_ext.exceptions.LostHold` and does nothing more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from os_interface_ext import exceptions
from os_interface_ext.attachments.states import INWARD, OUTWARD, Reason, State
from os_interface_ext.db import errors, prepared, tables
from os_interface_ext.db.engine import Database, DatabaseError, DuplicateEntry, now
from os_interface_ext.drivers.base import Fence, FixedIP, NetworkDriver, Port, quick

#: How often a transaction is begun on which others encroach.
_ATTEMPTS = 20

_t = tables.attachments
_T = TypeVar('_T')


class PortTaken(Exception):
    """Another record has the port."""


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What was last seen of the port: shown while a detach is in progress."""

    network_id: str
    mac_address: str
    status: str
    fixed_ips: tuple[FixedIP, ...]

    @classmethod
    def of(cls, port: Port) -> Snapshot:
        return cls(port.network_id, port.mac_address, port.status, port.fixed_ips)

    def port(self, port_id: str, project_id: str, tag: str | None) -> Port:
        """The port as it was, as far as it is shown."""
        return Port(
            id=port_id,
            network_id=self.network_id,
            mac_address=self.mac_address,
            project_id=project_id,
            fixed_ips=self.fixed_ips,
            status=self.status,
            tag=tag,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One attachment; see the table for what the fields are.

    Times (seconds of the database's clock) and the sequence are as they were read: a write does not
    bring them along.
    """

    id: str
    server_id: str
    project_id: str
    state: State
    created: bool
    generation: int
    sequence: int = 0
    host: str | None = None
    port_id: str | None = None
    requested_network_id: str | None = None
    requested_address: str | None = None
    tag: str | None = None
    mark: str | None = None
    snapshot: Snapshot | None = None
    plug_data: dict[str, Any] = dataclasses.field(default_factory=dict)
    reason: Reason | None = None
    owner: str | None = None
    lease_expires: float | None = None
    attempts: int = 0
    next_attempt: float | None = None
    last_error: str | None = None
    request_id: str | None = None
    missing_since: float | None = None
    created_at: float | None = None
    updated_at: float | None = None

    @property
    def is_attached(self) -> bool:
        """Whether it shows as long as the network agrees: as its port."""
        return self.state is State.ATTACHED

    @property
    def leaving(self) -> Port | None:
        """The port that shows as it was last seen, because its detach is in progress."""
        if self.state not in OUTWARD or self.reason is not Reason.DETACH:
            return None
        if self.port_id is None or self.snapshot is None:
            return None
        return self.snapshot.port(self.port_id, self.project_id, self.tag)


class Sight(NamedTuple):
    """A record as far as a list needs it, which may have hundreds; see the record for the fields.

    ``mark`` is told while there is no ``port_id`` alone.
    """

    id: str
    port_id: str | None
    mark: str | None
    tag: str | None
    is_attached: bool
    leaving: Port | None


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How an attachment ended; times as those of a record."""

    attachment_id: str
    server_id: str
    project_id: str
    port_id: str | None
    reason: str
    attempts: int
    last_error: str | None
    request_id: str | None
    created_at: float
    finished_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """The records in one state: all, by age (since they were made), stuck ones, and the age of the oldest.

    ``ages`` are disjoint: ``minute`` (younger than one), ``hour``, ``day``, ``older``. Seconds.
    """

    state: State
    records: int
    ages: dict[str, int]
    stuck: int
    oldest: float


@dataclasses.dataclass(frozen=True, slots=True)
class Heartbeat:
    """Who was heard of under a name: ``owner`` (host:pid), so many seconds ago, and whether that is late.

    ``reconciler`` is the role that one process at a time has; ``reconciler <owner>`` is one for each that lives.
    """

    name: str
    owner: str
    age: float
    is_late: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """A record that this process holds, with the fence under which it may act."""

    record: Record
    fence: Fence


def _is_any(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
    wanted = sa.bindparam(column.name, type_=sa.String)
    return sa.or_(wanted == '', column == wanted)


def _constant(word: State | Reason) -> sa.ColumnElement[str]:
    """A part of the statement, not a value that is sent with it each time."""
    return sa.literal_column(f"'{word}'", sa.String)


def _is_in(states: Iterable[State]) -> sa.ColumnElement[bool]:
    return sa.or_(*(_t.c.state == _constant(state) for state in sorted(states)))


# What is kept as something else than what it is, then the rest as it is: the order in which a record is read.
_KEPT = ('state', 'reason', 'created', 'tag', 'plug_data', 'snapshot')
_PLAIN = tuple(field.name for field in dataclasses.fields(Record) if field.name not in _KEPT)
_RECORDS = sa.select(*(_t.c[name] for name in (*_KEPT, *_PLAIN)))
_make_record = quick(Record, *_KEPT, *_PLAIN)

# Statements that requests run are built once.
_BY_PORT = _RECORDS.where(_t.c.port_id == sa.bindparam('port_id'))
_BY_ID = _RECORDS.where(_t.c.id == sa.bindparam('id'))
_BY_SERVER = _RECORDS.where(_t.c.server_id == sa.bindparam('server_id')).order_by(_t.c.sequence)
_IS_LEAVING = sa.and_(_is_in(OUTWARD), _t.c.reason == _constant(Reason.DETACH))
_SIGHTS = (
    sa.select(
        _t.c.id,
        _t.c.port_id,
        sa.case((_t.c.port_id.is_(None), _t.c.mark)).label('mark'),
        _t.c.tag,
        sa.case((_t.c.state == _constant(State.ATTACHED), 1), else_=0).label('is_attached'),
        sa.case((_IS_LEAVING, _t.c.snapshot)).label('snapshot'),
        sa.case((_IS_LEAVING, _t.c.project_id)).label('project_id'),
    )
    .where(_t.c.server_id == sa.bindparam('server_id'))
    .order_by(_t.c.sequence)
)
_BY_REQUEST = _RECORDS.where(
    _t.c.server_id == sa.bindparam('server_id'),
    _t.c.requested_network_id == sa.bindparam('network_id'),
    _t.c.requested_address == sa.bindparam('address'),
).order_by(_t.c.sequence)
# What operators look for; an empty text stands for everything.
_CLOCK = sa.select(now().label('clock'))
_LEFT = sa.select((_t.c.lease_expires - now()).label('seconds')).where(
    _t.c.id == sa.bindparam('id'), _t.c.generation == sa.bindparam('generation')
)
_LISTED = (
    _RECORDS.where(
        _t.c.sequence > sa.bindparam('after', type_=sa.BigInteger), _is_any(_t.c.state), _is_any(_t.c.server_id)
    )
    .order_by(_t.c.sequence)
    .limit(sa.bindparam('page', type_=sa.Integer))
)
_RESULTS = (
    sa.select(*(tables.history.c[field.name] for field in dataclasses.fields(Result)))
    .where(_is_any(tables.history.c.server_id), _is_any(tables.history.c.port_id))
    .order_by(tables.history.c.sequence.desc())
    .limit(sa.bindparam('limit', type_=sa.Integer))
)
# What a record may change after it was made. A write sets all of them: one statement, prepared once.
_MUTABLE = (
    'host',
    'port_id',
    'snapshot',
    'plug_data',
    'state',
    'reason',
    'attempts',
    'next_attempt',
    'last_error',
    'missing_since',
)
_LEASE = {
    'owner': sa.bindparam('owner'),
    'lease_expires': now() + sa.bindparam('lease', type_=sa.Double),
}
_INSERT = sa.insert(_t).values(_LEASE | {'created_at': now(), 'updated_at': now()})


_DELAY = {'next_attempt': now() + sa.bindparam('delay', type_=sa.Double)}


def _update(lease: dict[str, Any], *conditions: Any) -> sa.Update:
    return (
        sa.update(_t)
        .where(
            _t.c.id == sa.bindparam('old_id'),
            _t.c.generation == sa.bindparam('old_generation'),
            sa.func.coalesce(_t.c.reason, '') == sa.bindparam('old_reason'),
            *conditions,
        )
        .values({name: sa.bindparam(name) for name in (*_MUTABLE, 'generation')} | {'updated_at': now()} | lease)
    )


_SWAP = _update(_LEASE)
_FREE: dict[str, Any] = {'owner': None, 'lease_expires': None}
_SETTLE = _update(_FREE)
_POSTPONE = _update(_FREE | _DELAY)
_UNHELD = sa.or_(_t.c.owner.is_(None), _t.c.lease_expires < now())
_TAKE = _update(_LEASE, _UNHELD)
_ASK_UNDO = (
    sa.update(_t).where(_t.c.id == sa.bindparam('old_id'), _is_in(INWARD)).values(reason=_constant(Reason.UNDO))
)
_HELD = (_t.c.id == sa.bindparam('old_id'), _t.c.generation == sa.bindparam('old_generation'))
_DROP = sa.delete(_t).where(*_HELD)
_RESULT = (
    'server_id',
    'project_id',
    'port_id',
    'reason',
    'attempts',
    'last_error',
    'request_id',
    'created_at',
)
_FINISH = sa.insert(tables.history).from_select(
    ['attachment_id', *_RESULT, 'finished_at'],
    sa.select(_t.c.id, *(_t.c[name] for name in _RESULT), now()).where(*_HELD),
    include_defaults=False,
)


# What the reconciler looks for.
_DUE = (
    _RECORDS.where(
        # Named one by one: an index finds them among a million that are ATTACHED.
        _is_in(INWARD | OUTWARD),
        _UNHELD,
        sa.or_(_t.c.next_attempt.is_(None), _t.c.next_attempt <= now()),
    )
    .order_by(_t.c.updated_at)
    .limit(sa.bindparam('page', type_=sa.Integer))
)
_ATTACHED = (
    _RECORDS.where(_t.c.state == _constant(State.ATTACHED), _t.c.server_id > sa.bindparam('after'))
    .order_by(_t.c.server_id, _t.c.sequence)
    .limit(sa.bindparam('page', type_=sa.Integer))
)
_MISSING = (
    sa.update(_t)
    .where(*_HELD, _t.c.state == _constant(State.ATTACHED), _t.c.missing_since.is_(None))
    .values(missing_since=now())
)
_FOUND = sa.update(_t).where(*_HELD, _t.c.state == _constant(State.ATTACHED)).values(missing_since=None)
_MOVED = sa.update(_t).where(*_HELD, _t.c.state == _constant(State.ATTACHED)).values(host=sa.bindparam('new_host'))
_OLD = sa.select(_t.c.id).where(
    _t.c.id == sa.bindparam('id'), _t.c.missing_since <= now() - sa.bindparam('grace', type_=sa.Double)
)
# What those are told who watch over the whole: sums, so that a state is one row.
_AGES = {'minute': 60.0, 'hour': 3600.0, 'day': 86400.0}
_STUCK = sa.or_(
    _t.c.attempts >= sa.bindparam('attempts', type_=sa.Integer),
    _t.c.updated_at < now() - sa.bindparam('rest', type_=sa.Double),
)
_CENSUS = sa.select(
    _t.c.state,
    sa.func.count().label('records'),
    *(
        sa.func.sum(sa.case((_t.c.created_at > now() - sa.literal_column(str(age)), 1), else_=0)).label(name)
        for name, age in _AGES.items()
    ),
    sa.func.sum(sa.case((_STUCK, 1), else_=0)).label('stuck'),
    (now() - sa.func.min(_t.c.created_at)).label('oldest'),
).group_by(_t.c.state)
_ORPHANS = sa.select(sa.func.count().label('orphans')).select_from(tables.suspects)
_HEARTBEATS = sa.select(
    tables.heartbeats.c.name,
    tables.heartbeats.c.owner,
    (now() - tables.heartbeats.c.seen).label('age'),
    (tables.heartbeats.c.expires - now()).label('left'),
).order_by(tables.heartbeats.c.name)
# A server of each host.
_HOSTS = (
    sa.select(_t.c.host, sa.func.min(_t.c.server_id).label('server_id'))
    .where(_t.c.host.is_not(None))
    .group_by(_t.c.host)
    .order_by(_t.c.host)
)
_STATES = (
    sa.select(_t.c.state, _t.c.reason, sa.func.count().label('records'))
    .group_by(_t.c.state, _t.c.reason)
    .order_by(_t.c.state, _t.c.reason)
)
_RETRY = sa.update(_t).where(_t.c.id == sa.bindparam('old_id')).values(next_attempt=None)
_RESULT_OF = (
    sa.select(tables.history.c.server_id, tables.history.c.reason)
    .where(tables.history.c.attachment_id == sa.bindparam('id'))
    .limit(1)
)
# What the network took away stays known: the sweep must never take its port for a leak.
_PRUNE = sa.delete(tables.history).where(
    tables.history.c.finished_at < now() - sa.bindparam('age', type_=sa.Double),
    tables.history.c.reason != _constant(Reason.GONE),
)


_SUSPECTS = sa.select(
    tables.suspects.c.port_id,
    (tables.suspects.c.first_seen <= now() - sa.bindparam('grace', type_=sa.Double)).label('is_old'),
)
_OLD_SUSPECTS = sa.select(tables.suspects.c.port_id).where(
    tables.suspects.c.first_seen <= now() - sa.bindparam('grace', type_=sa.Double)
)
_NEW_SUSPECT = sa.insert(tables.suspects).values(first_seen=now())
_CLEAR_SUSPECT = sa.delete(tables.suspects).where(tables.suspects.c.port_id == sa.bindparam('old_port_id'))
_SEEN = {'seen': now(), 'expires': now() + sa.bindparam('lease', type_=sa.Double)}
_KEEP_ROLE = (
    sa.update(tables.heartbeats)
    .where(
        tables.heartbeats.c.name == sa.bindparam('old_name'),
        sa.or_(tables.heartbeats.c.owner == sa.bindparam('old_owner'), tables.heartbeats.c.expires < now()),
    )
    .values(_SEEN | {'owner': sa.bindparam('owner')})
)
_NEW_ROLE = sa.insert(tables.heartbeats).values(_SEEN)
_RESIGN = sa.delete(tables.heartbeats).where(
    tables.heartbeats.c.name == sa.bindparam('old_name'), tables.heartbeats.c.owner == sa.bindparam('old_owner')
)
_PRUNE_HEARTBEATS = sa.delete(tables.heartbeats).where(
    tables.heartbeats.c.expires < now() - sa.bindparam('age', type_=sa.Double)
)


class Store:
    """:param lease: seconds for which a hold lasts"""

    def __init__(self, database: Database, lease: float) -> None:
        self._db = database
        self._lease = lease
        self._installation: str | None = None

    @property
    def installation(self) -> str:
        """The uuid of this database, a part of every mark."""
        if self._installation is None:
            self._installation = self._fetch(sa.select(tables.installation.c.uuid)).rows[0][0]
        assert self._installation is not None
        return self._installation

    # ------------------------------------------------------------------ reading

    def of_server(self, server_id: str) -> list[Record]:
        """All records of a server, in the order of attachment."""
        return self._records(_BY_SERVER, {'server_id': server_id})

    def sights(self, server_id: str) -> list[Sight]:
        """The same, as far as a list shows them."""
        return [_sight(*row) for row in self._fetch(_SIGHTS, {'server_id': server_id}).rows]

    def of_port(self, port_id: str) -> Record | None:
        return self._record(_BY_PORT, {'port_id': port_id})

    def of_request(self, server_id: str, network_id: str, address: str) -> list[Record]:
        """The records of a server that were asked for with this network and address."""
        values = {'server_id': server_id, 'network_id': network_id, 'address': address}
        return self._records(_BY_REQUEST, values)

    def of_mark(self, mark: str) -> Record | None:
        """The record whose mark a port carries."""
        record = self.get(mark.rpartition(':')[2])
        return record if record is not None and record.mark == mark else None

    def get(self, record_id: str) -> Record | None:
        return self._record(_BY_ID, {'id': record_id})

    def time_left(self, record: Record) -> float:
        """Seconds for which the holder of a record, as it was read, may begin side effects; never negative."""
        row = self._fetch(_LEFT, {'id': record.id, 'generation': record.generation}).first()
        # As in a fence: half of the lease.
        return max(0.0, float(row.seconds) - self._lease / 2) if row and row.seconds is not None else 0.0

    # ------------------------------------------------------------------ for operators

    def clock(self) -> float:
        """Now, by the clock that the times of the records are of."""
        return float(self._fetch(_CLOCK).rows[0][0])

    def listed(self, *, state: State | None = None, server_id: str = '', page: int = 500) -> Iterator[Record]:
        """All records, or those in a state or of a server, in the order of attachment."""
        values = {'after': 0, 'state': str(state or ''), 'server_id': server_id, 'page': page}
        while found := self._records(_LISTED, values):
            yield from found
            values['after'] = found[-1].sequence

    def results(self, *, server_id: str = '', port_id: str = '', limit: int = 100) -> list[Result]:
        """How attachments ended, the latest first: all, or those of a server or a port."""
        values = {'server_id': server_id, 'port_id': port_id, 'limit': limit}
        return [Result(**row._asdict()) for row in self._fetch(_RESULTS, values)]

    def census(self, *, attempts: int, rest: float) -> list[Count]:
        """How many records there are, by state and age.

        :param attempts: failed attempts, and
        :param rest: seconds without a change, of which either makes a record in motion a stuck one
        """
        found = []
        for row in self._fetch(_CENSUS, {'attempts': attempts, 'rest': rest}):
            counts = [int(getattr(row, name)) for name in _AGES] + [int(row.records)]
            ages = [count - below for below, count in zip([0, *counts], counts, strict=False)]
            state = State(row.state)
            stuck = 0 if state is State.ATTACHED else int(row.stuck)
            ages_by_name = dict(zip([*_AGES, 'older'], ages, strict=True))
            found.append(Count(state, int(row.records), ages_by_name, stuck, max(0.0, float(row.oldest))))
        return found

    def orphans(self) -> int:
        """How many ports of ours without a record the last sweep has seen."""
        return int(self._fetch(_ORPHANS).rows[0][0])

    def heartbeats(self) -> list[Heartbeat]:
        """Who reconciles, and when it was last heard of; by name."""
        return [Heartbeat(row.name, row.owner, float(row.age), row.left < 0) for row in self._fetch(_HEARTBEATS)]

    def hosts(self) -> dict[str, str]:
        """The hosts that records name, each with one of its servers."""
        return {row.host: row.server_id for row in self._fetch(_HOSTS)}

    def states(self) -> dict[tuple[str, str | None], int]:
        """How many records have which state and reason, be they known to this code or not."""
        return {(row.state, row.reason): int(row.records) for row in self._fetch(_STATES)}

    # ------------------------------------------------------------------ writing

    def insert(self, *, created: bool, mark: str | None = None, unmarked: bool = False, **values: Any) -> Held:
        """A new record, held by this process from the start.

        ``created`` without a mark gives the record a mark of its own, unless ``unmarked``.

        :raises PortTaken: another record has the port
        """
        record_id = str(uuid.uuid4())
        installation = self.installation
        record = Record(
            id=record_id,
            created=created,
            mark=mark or (f'osif:{installation}:{record_id}' if created and not unmarked else None),
            generation=1,
            **values,
        )
        begun = time.monotonic()
        row = _encode(record) | {'id': record.id, 'lease': self._lease, 'owner': owner()}
        row |= {name: getattr(record, name) for name in _FIXED}
        row['tag'] = None if record.tag is None else json.dumps(record.tag)
        row['request_id'] = (record.request_id or '')[:64] or None
        try:
            self._run(_INSERT, row)
        except DuplicateEntry as error:
            raise PortTaken() from error
        return self._held(record, begun, installation)

    def swap(self, record: Record, **changes: Any) -> Held:
        """Change a record that is held, and renew the hold.

        The swap names the reason too: somebody without the hold may have asked for an undo.

        :raises LostHold: the record has changed since
        """
        return self._write(_SWAP, record, record.generation, changes)

    def settle(self, record: Record, **changes: Any) -> Record:
        """Change a record that is held, and give up the hold: nothing more is to be done at present.

        :raises LostHold: the record has changed since
        """
        return self._write(_SETTLE, record, record.generation, changes).record

    def postpone(self, record: Record, delay: float, **changes: Any) -> Record:
        """As ``settle``, with the next attempt after so many seconds.

        :raises LostHold: the record has changed since
        """
        return self._write(_POSTPONE, record, record.generation, changes, delay=delay).record

    def take(self, record: Record, **changes: Any) -> Held:
        """Take hold of a record as it was read: of one that nobody holds, or whose lease has run out.

        :raises LostHold: somebody else holds it, or it has changed since
        """
        return self._write(_TAKE, record, record.generation + 1, changes)

    def ask_undo(self, record: Record) -> bool:
        """Ask the holder of an attach in progress to undo it; generation and lease stay his."""
        return self._run(_ASK_UNDO, {'old_id': record.id}) == 1

    def drop(self, record: Record, *, result: bool = True) -> None:
        """Delete a record that is held; its result goes to the history in the same transaction.

        :param result: False for an attach that was refused before anything happened
        :raises LostHold: the record has changed since
        """
        held = {'old_id': record.id, 'old_generation': record.generation}

        def work(connection: prepared.Connection) -> None:
            if result:
                connection.execute(_FINISH, held)
            if connection.execute(_DROP, held).rowcount != 1:
                raise exceptions.LostHold()

        self._transact(work)

    def is_shared_with(self, networks: NetworkDriver) -> bool:
        """Whether a network driver keeps its ports in the database of the records."""
        return networks.database is self._db

    def together(self, work: Callable[[], _T]) -> _T:
        """Do ``work`` in one transaction: what it writes here, and what such a driver writes for it.

        Again, while another transaction has changed what it built on. After any error but UnknownOutcome
        nothing is written.

        :raises Unavailable: the database does not answer, or goes on taking it back
        :raises UnknownOutcome: the answer to the commit was lost
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._db.together(work)
            except (DuplicateEntry, errors.ReferenceError):
                continue
            except errors.CommitLost as error:
                raise exceptions.UnknownOutcome(operator=f'database: {error}') from error
            except DatabaseError as error:
                raise exceptions.Unavailable(operator=f'database: {error}') from error
        raise exceptions.Unavailable(operator=f'others were quicker in {_ATTEMPTS} attempts')

    # ------------------------------------------------------------------ for the reconciler

    def due(self, page: int) -> list[Record]:
        """Records in motion that nobody holds and whose time has come, the longest untouched first."""
        return self._records(_DUE, {'page': page})

    def attached(self, page: int) -> Iterator[list[Record]]:
        """All ATTACHED records, those of one server together."""
        after = ''
        while True:
            found = self._records(_ATTACHED, {'after': after, 'page': page})
            if not found:
                return
            # The last server of a full page may go on: all of its records, and the next page after it.
            after = found[-1].server_id
            servers: dict[str, list[Record]] = {}
            for record in found:
                servers.setdefault(record.server_id, []).append(record)
            if len(found) == page:
                servers[after] = [one for one in self.of_server(after) if one.state is State.ATTACHED]
            yield from servers.values()

    def missing(self, record: Record) -> None:
        """Note that the world does not agree with an ATTACHED record, unless it was noted before."""
        self._note(_MISSING, record)

    def found(self, record: Record) -> None:
        """Note that it agrees again."""
        self._note(_FOUND, record)

    def moved(self, record: Record, host: str | None) -> None:
        """Note the host that the server of an ATTACHED record is on now."""
        self._note(_MOVED, record, new_host=host)

    def is_missing_for(self, record: Record, grace: float) -> bool:
        """Whether the world has not agreed with a record for so many seconds."""
        return bool(self._fetch(_OLD, {'id': record.id, 'grace': grace}).rows)

    def result_of(self, record_id: str) -> tuple[str, Reason] | None:
        """The server and the reason of a record that is known to have come to its end."""
        row = self._fetch(_RESULT_OF, {'id': record_id}).first()
        return None if row is None else (row.server_id, Reason(row.reason))

    def retry(self, record_id: str) -> bool:
        """Have a record tried again at once; whether there is such a record."""
        return self._run(_RETRY, {'old_id': record_id}) == 1

    def suspect(self, port_ids: list[str], grace: float) -> set[str]:
        """Remember these suspects and no others; those that have been one for so many seconds.

        :param port_ids: ports of ours that have no record now
        :raises Unavailable: another reconciler notes the same at this moment
        """

        def work(connection: prepared.Connection) -> set[str]:
            known = {row.port_id: row.is_old for row in connection.execute(_SUSPECTS, {'grace': grace})}
            for port_id in known.keys() - set(port_ids):
                connection.execute(_CLEAR_SUSPECT, {'old_port_id': port_id})
            for port_id in set(port_ids) - known.keys():
                connection.execute(_NEW_SUSPECT, {'port_id': port_id})
            return {port_id for port_id in port_ids if known.get(port_id)}

        try:
            return self._transact(work)
        except DuplicateEntry as error:
            raise exceptions.Unavailable(operator='another reconciler sweeps at this moment') from error

    def old_suspects(self, grace: float) -> set[str]:
        """Those that have been remembered for so many seconds."""
        return {row.port_id for row in self._fetch(_OLD_SUSPECTS, {'grace': grace})}

    def prune(self, age: float) -> int:
        """Forget results that are older than so many seconds, and whom nobody has heard of for as long.

        :returns: how many results there were
        """
        self._run(_PRUNE_HEARTBEATS, {'age': age})
        return self._run(_PRUNE, {'age': age})

    def heartbeat(self, name: str, lease: float) -> bool:
        """Take or keep a role for so many seconds; False while another process has it.

        A role of its own name gives a process a heartbeat that is never refused.
        """
        values = {'old_name': name, 'owner': owner(), 'lease': lease}
        if self._run(_KEEP_ROLE, values | {'old_owner': values['owner']}):
            return True
        try:
            self._run(_NEW_ROLE, {'name': name, 'owner': owner(), 'lease': lease})
        except DuplicateEntry:
            return False
        return True

    def resign(self, name: str) -> None:
        """Give a role up, if this process has it."""
        self._run(_RESIGN, {'old_name': name, 'old_owner': owner()})

    def _note(self, statement: sa.Update, record: Record, **values: Any) -> None:
        # Not a step: it renews nobody's hold, and whoever has moved the record since is right.
        self._run(statement, values | {'old_id': record.id, 'old_generation': record.generation})

    def _record(self, statement: sa.Select[Any], values: prepared.Values) -> Record | None:
        return next(iter(self._records(statement, values)), None)

    def _records(self, statement: sa.Select[Any], values: prepared.Values) -> list[Record]:
        return [_decode(*row) for row in self._fetch(statement, values).rows]

    def _fetch(self, statement: sa.Select[Any], values: prepared.Values = prepared.NOTHING) -> prepared.Result:
        try:
            return self._db.fetch(statement, values)
        except DatabaseError as error:
            raise exceptions.Unavailable(operator=f'database: {error}') from error

    def _run(self, statement: Any, values: prepared.Values) -> int:
        """Run one statement in a transaction; how many rows it touched."""
        return self._transact(lambda connection: connection.execute(statement, values).rowcount)

    def _transact(self, work: Callable[[prepared.Connection], _T]) -> _T:
        try:
            return self._db.transact(work)
        except DuplicateEntry:
            raise
        except DatabaseError as error:
            raise exceptions.Unavailable(operator=f'database: {error}') from error

    def _write(
        self,
        statement: sa.Update,
        record: Record,
        generation: int,
        changes: dict[str, Any],
        **more: Any,
    ) -> Held:
        # It may have to be asked for: not when the record has been changed.
        installation = self.installation
        begun = time.monotonic()
        changed = dataclasses.replace(record, generation=generation, **changes)
        values = _encode(changed) | {
            'old_id': record.id,
            'old_generation': record.generation,
            'old_reason': str(record.reason or ''),
            **more,
        }
        if statement in (_SWAP, _TAKE):
            values |= {'owner': owner(), 'lease': self._lease}
        if statement is _POSTPONE:
            del values['next_attempt']
        try:
            if self._run(statement, values) != 1:
                raise exceptions.LostHold()
        except DuplicateEntry as error:
            # Another record has the port that this one was about to get.
            raise exceptions.LostHold() from error
        return self._held(changed, begun, installation)

    def _held(self, record: Record, begun: float, installation: str) -> Held:
        # Half of the lease to begin side effects, the other half for the last one to end.
        return Held(record, Fence(record.generation, begun + self._lease / 2, record.id, installation))


def count(connection: sa.Connection) -> int:
    """How many records there are."""
    return connection.scalar(sa.select(sa.func.count()).select_from(_t)) or 0


def clear(connection: sa.Connection) -> None:
    """Forget all records and results, within the transaction of the caller."""
    connection.execute(sa.delete(_t))
    connection.execute(sa.delete(tables.history))


def owner() -> str:
    return f'{socket.gethostname()}:{os.getpid()}'


_FIXED = (
    'server_id',
    'project_id',
    'requested_network_id',
    'requested_address',
    'created',
    'mark',
    'request_id',
)


def _encode(record: Record) -> dict[str, Any]:
    snapshot = record.snapshot
    return {
        'generation': record.generation,
        'host': record.host,
        'port_id': record.port_id,
        'snapshot': snapshot
        and json.dumps(
            [
                snapshot.network_id,
                snapshot.mac_address,
                snapshot.status,
                [[ip.subnet_id, ip.ip_address] for ip in snapshot.fixed_ips],
            ]
        ),
        'plug_data': json.dumps(record.plug_data) if record.plug_data else None,
        'state': str(record.state),
        'reason': record.reason and str(record.reason),
        'attempts': record.attempts,
        'next_attempt': record.next_attempt,
        'last_error': record.last_error,
        'missing_since': record.missing_since,
    }


def _decode(
    state: str,
    reason: str | None,
    created: Any,
    tag: str | None,
    plug_data: str | None,
    snapshot: str | None,
    *plain: Any,
) -> Record:
    return _make_record(
        State(state),
        Reason(reason) if reason else None,
        bool(created),
        None if tag is None else json.loads(tag),
        {} if plug_data is None else json.loads(plug_data),
        None if snapshot is None else _snapshot(snapshot),
        *plain,
    )


def _snapshot(text: str) -> Snapshot:
    network_id, mac_address, status, ips = json.loads(text)
    return Snapshot(network_id, mac_address, status, tuple(FixedIP(*ip) for ip in ips))


def _sight(
    record_id: str,
    port_id: str | None,
    mark: str | None,
    tag: str | None,
    is_attached: int,
    snapshot: str | None,
    project_id: str | None,
) -> Sight:
    tag = None if tag is None else json.loads(tag)
    leaving = None
    if snapshot is not None and port_id is not None and project_id is not None:
        leaving = _snapshot(snapshot).port(port_id, project_id, tag)
    return Sight(record_id, port_id, mark, tag, bool(is_attached), leaving)
