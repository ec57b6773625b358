"""The reconciler within a worker: a thread of it, which works while no other worker has the role."""

from __future__ import annotations

import atexit
import threading

from os_interface_ext.attachments.reconciler import Reconciler

#: Seconds that the end of a worker waits for the record at hand; another worker goes on with it later.
_PATIENCE = 1.0


def start(reconciler: Reconciler) -> None:
    """Reconcile until this process ends."""
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop, True), name='reconciler', daemon=True)

    def end() -> None:
        stop.set()
        thread.join(_PATIENCE)

    atexit.register(end)
    thread.start()
