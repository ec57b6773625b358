"""What makes a record a stuck one: no state, but derived."""

from __future__ import annotations

from typing import Any

from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Record


def is_stuck(record: Record, clock: float, conf: Any, longest: float | None = None) -> bool:
    """Whether a record in motion was tried in vain too often, or was left lying.

    :param clock: now, by the database's clock
    :param conf: the group ``[reconciler]``
    :param longest: seconds for which it may rest
    """
    if longest is None:
        # Nothing that a reconciler looks after rests for longer than one back-off.
        longest = 2 * conf.backoff_cap
    rest = clock - (record.updated_at or clock)
    return record.state is not State.ATTACHED and (record.attempts >= conf.stuck_attempts or rest > longest)
