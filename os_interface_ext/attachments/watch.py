"""What those are told who count or publish: at once, in the thread that does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from os_interface_ext.attachments.store import Record
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base


class Watch:
    """Does nothing by itself. A method must be quick, must not wait for anybody, and must not raise."""

    def attach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        """The record is there, and nothing else yet."""

    def attach_ended(self, ctxt: RequestContext, server: base.Server, record: Record, port: base.Port) -> None:
        """The record is ATTACHED."""

    def attach_failed(
        self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException
    ) -> None:
        """It came to nothing; ``LostHold`` if the process that attached has died."""

    def detach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        """The record is on its way out, and nothing else has happened yet."""

    def out_ended(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        """The record is gone; its ``reason`` tells why: an undo, a detach, …"""

    def out_failed(self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException) -> None:
        """A way out has failed for the first time; it goes on later, unless the error is ``NotSupported``."""

    def postponed(self, record: Record) -> None:
        """An attempt has failed; there will be another one."""

    def looked(self, found: Mapping[str, int], *, done: bool) -> None:
        """A reconciler has looked.

        :param found: how many entries there are in each part of its report
        :param done: whether it came to the end of its look
        """


class Watches(Watch):
    """Several at once."""

    def __init__(self, watches: Iterable[Watch]) -> None:
        self._watches = tuple(watches)

    def attach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        for watch in self._watches:
            watch.attach_started(ctxt, server, record)

    def attach_ended(self, ctxt: RequestContext, server: base.Server, record: Record, port: base.Port) -> None:
        for watch in self._watches:
            watch.attach_ended(ctxt, server, record, port)

    def attach_failed(
        self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException
    ) -> None:
        for watch in self._watches:
            watch.attach_failed(ctxt, server, record, error)

    def detach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        for watch in self._watches:
            watch.detach_started(ctxt, server, record)

    def out_ended(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        for watch in self._watches:
            watch.out_ended(ctxt, server, record)

    def out_failed(self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException) -> None:
        for watch in self._watches:
            watch.out_failed(ctxt, server, record, error)

    def postponed(self, record: Record) -> None:
        for watch in self._watches:
            watch.postponed(record)

    def looked(self, found: Mapping[str, int], *, done: bool) -> None:
        for watch in self._watches:
            watch.looked(found, done=done)
