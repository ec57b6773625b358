"""The states of an attachment record, and what shows of them."""

import enum


class State(enum.StrEnum):
    """::

    attach:  ALLOCATING --create or claim, bind--> PLUGGING --plug--> ATTACHED
    way out: UNPLUGGING --unplug--> RELEASING --unbind or delete--> record gone

    A VIF driver without side effects takes both middle steps in one: nothing lies between them that a
    record could announce.
    """

    ALLOCATING = 'ALLOCATING'
    PLUGGING = 'PLUGGING'
    ATTACHED = 'ATTACHED'
    UNPLUGGING = 'UNPLUGGING'
    RELEASING = 'RELEASING'


class Reason(enum.StrEnum):
    """Why a record is on its way out."""

    UNDO = 'undo'
    DETACH = 'detach'
    #: The network has taken the port from the server: it is whoever's it is now.
    GONE = 'gone'
    #: The server is gone: its port is let go as by a detach.
    SERVER_GONE = 'server_gone'


INWARD = frozenset({State.ALLOCATING, State.PLUGGING})
OUTWARD = frozenset({State.UNPLUGGING, State.RELEASING})
