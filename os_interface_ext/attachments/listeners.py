"""Tells whoever listens what became of attachments: after the fact, best effort, beside the request."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, cast

from oslo_config import cfg
from stevedore import named

from os_interface_ext.attachments.store import Record
from os_interface_ext.observability import logs
from os_interface_ext.observability.outbox import Outbox

LOG = logs.get(__name__)

#: The entry points here are functions ``(event, attachment)``, or classes that are constructed with the
#: configuration object, as drivers are, and whose objects are called so.
NAMESPACE = 'os_interface_ext.listeners'


class Event(enum.StrEnum):
    """What listeners are told of."""

    ATTACHED = 'attached'
    #: By a detach, or because the server or its hold on the port is gone.
    DETACHED = 'detached'
    #: An attach has been undone, or a way out has failed for the first time and goes on.
    FAILED = 'failed'
    STUCK = 'stuck'


@dataclasses.dataclass(frozen=True, slots=True)
class ListenerEvent:
    """The attachment that an event is about.

    ``reason`` is why it is on its way out (``undo``, ``detach``, ``gone``, ``server_gone``), None on the way
    in; ``attempts`` are those that have failed.
    """

    record_id: str
    server_id: str
    project_id: str
    port_id: str | None
    network_id: str | None
    reason: str | None
    attempts: int
    error: str | None
    request_id: str | None

    @classmethod
    def of(cls, record: Record) -> ListenerEvent:
        return cls(
            record.id,
            record.server_id,
            record.project_id,
            record.port_id,
            record.snapshot.network_id if record.snapshot else record.requested_network_id,
            str(record.reason) if record.reason else None,
            record.attempts,
            record.last_error,
            record.request_id,
        )


Listener = Callable[[str, ListenerEvent], object]

#: Events that wait for one listener; more are dropped.
_ROOM = 10_000


class Listeners:
    """:param listeners: by name; none is fine"""

    def __init__(self, listeners: Mapping[str, Listener] | None = None) -> None:
        self._boxes = [_Box(name, listener) for name, listener in (listeners or {}).items()]

    def tell(self, event: Event, record: Record) -> None:
        """Tell all of them, later, in the order of the calls; nothing that they do comes back here."""
        if self._boxes:
            attachment = ListenerEvent.of(record)
            for box in self._boxes:
                box.put(str(event), attachment)

    def flush(self, timeout: float) -> bool:
        """Wait until all have heard everything, so long for each; False if one has not."""
        return all(box.flush(timeout) for box in self._boxes)


class _Box:
    """One listener, with a queue and a thread of its own: a slow one keeps nobody waiting."""

    def __init__(self, name: str, listener: Listener) -> None:
        self._name = name
        self._listener = listener
        self._outbox: Outbox[tuple[str, ListenerEvent]] = Outbox(f'listener {name}', self._tell, _ROOM)
        self.flush = self._outbox.flush

    def put(self, event: str, attachment: ListenerEvent) -> None:
        if not self._outbox.put((event, attachment)):
            LOG.warning(
                'listener %s is too slow and is not told: %s, record %s', self._name, event, attachment.record_id
            )

    def _tell(self, told: tuple[str, ListenerEvent]) -> None:
        event, attachment = told
        try:
            self._listener(event, attachment)
        except BaseException:  # SystemExit too: it would end the thread without a word.
            LOG.exception('listener %s failed: %s, record %s', self._name, event, attachment.record_id)


def load(conf: cfg.ConfigOpts) -> Listeners:
    """All listeners that are installed; one that is broken is left out with a warning."""
    found: dict[str, Listener] = {}
    for entry_point in named.NamedExtensionManager(NAMESPACE, names=[]).list_entry_points():
        name = f'{entry_point.name} ({entry_point.value})'
        try:
            found[name] = _make(entry_point, conf)
        except (Exception, SystemExit) as error:
            LOG.warning('listener %s is left out: %s: %s', name, type(error).__name__, error)
    return Listeners(found)


def _make(entry_point: metadata.EntryPoint, conf: cfg.ConfigOpts) -> Listener:
    loaded: Any = entry_point.load()
    is_class = inspect.isclass(loaded)
    listener = loaded(conf) if is_class else loaded
    if not callable(listener):
        raise TypeError(f'{listener!r} cannot be called')
    return cast(Listener, listener)
