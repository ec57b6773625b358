"""Versioned notifications in Nova's form: ``instance.interface_attach.start``, ``end``, ``error``, and detach.

Best effort, after the fact: they wait in a queue of this process, and a thread of its own sends them. A broker
that is away harms and delays nobody; what finds no room is dropped and counted. Needs oslo.messaging.

The form is that of Nova's ``InstanceActionPayload`` 1.9. What only Nova knows of its instances (flavor, image,
times, …) is null, and ``ip_addresses`` are those of the port that the notification is about alone.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions, messaging
from os_interface_ext.attachments.store import Record, Snapshot
from os_interface_ext.attachments.watch import Watch
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs
from os_interface_ext.observability.outbox import Outbox

LOG = logs.get(__name__)

SOURCE = 'os-interface-ext'
TOPIC = 'versioned_notifications'

ATTACH = 'instance.interface_attach'
DETACH = 'instance.interface_detach'

#: Fields of the payload that only Nova has.
_UNKNOWN = (
    'architecture',
    'auto_disk_config',
    'block_devices',
    'created_at',
    'deleted_at',
    'display_description',
    'flavor',
    'image_uuid',
    'kernel_id',
    'key_name',
    'launched_at',
    'locked_reason',
    'node',
    'os_type',
    'power_state',
    'progress',
    'ramdisk_id',
    'reservation_id',
    'shares',
    'terminated_at',
    'updated_at',
    'user_id',
)

#: The request's context as it goes along, the type, whether it is an error, and the payload.
_Message = tuple[RequestContext, str, bool, dict[str, Any]]


class Notifications(Watch):
    """:param conf: with ``[notifications]``, and the options of oslo.messaging
    :param count: told of each one: ``published`` (handed over; oslo.messaging logs what it could not send),
        ``failed`` or ``dropped``
    :raises ConfigurationError: oslo.messaging refuses its options
    """

    def __init__(self, conf: cfg.ConfigOpts, count: Callable[[str], None] = lambda outcome: None) -> None:
        self._conf = conf
        self._count = count
        self._notifier = messaging.Notifier(conf, TOPIC, f'{SOURCE}:{socket.gethostname()}')
        self._outbox: Outbox[_Message] = Outbox('notifications', self._send, conf.notifications.queue)
        self._is_full = False

    def flush(self, timeout: float) -> bool:
        """Wait so long until all are published; False if they are not."""
        return self._outbox.flush(timeout)

    # ------------------------------------------------------------------ what is told

    def attach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        self._put(ctxt, f'{ATTACH}.start', server, record)

    def attach_ended(self, ctxt: RequestContext, server: base.Server, record: Record, port: base.Port) -> None:
        self._put(ctxt, f'{ATTACH}.end', server, record)

    def attach_failed(
        self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException
    ) -> None:
        self._put(ctxt, f'{ATTACH}.error', server, record, error)

    def detach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        self._put(ctxt, f'{DETACH}.start', server, record)

    def out_ended(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        if record.reason == 'detach':
            self._put(ctxt, f'{DETACH}.end', server, record)

    def out_failed(self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException) -> None:
        if record.reason == 'detach':
            self._put(ctxt, f'{DETACH}.error', server, record, error)

    # ------------------------------------------------------------------ on their way

    def _put(
        self,
        ctxt: RequestContext,
        event_type: str,
        server: base.Server,
        record: Record,
        error: BaseException | None = None,
    ) -> None:
        message = (_without_token(ctxt), event_type, error is not None, payload(ctxt, server, record, error))
        if self._outbox.put(message):
            self._is_full = False
            return
        self._count('dropped')
        if not self._is_full:
            LOG.warning(
                'notifications are dropped: %s wait for the broker already', self._conf.notifications.queue
            )
        self._is_full = True

    def _send(self, message: _Message) -> None:
        ctxt, event_type, is_error, told = message
        try:
            self._notifier.notify(ctxt, event_type, told, is_error=is_error)
        except Exception as failure:
            self._count('failed')
            LOG.warning('notification %s is lost: %s: %s', event_type, type(failure).__name__, failure)
        else:
            self._count('published')


def _without_token(ctxt: RequestContext) -> RequestContext:
    # Not every version of oslo.messaging takes the token out by itself.
    return RequestContext(
        user_id=ctxt.user_id,
        user_name=ctxt.user_name,
        user_domain_id=ctxt.user_domain_id,
        project_id=ctxt.project_id,
        project_name=ctxt.project_name,
        project_domain_id=ctxt.project_domain_id,
        roles=ctxt.roles,
        is_admin=ctxt.is_admin,
        request_id=ctxt.request_id,
        global_request_id=ctxt.global_request_id,
    )


# ---------------------------------------------------------------------- the form


def payload(
    ctxt: RequestContext, server: base.Server, record: Record, error: BaseException | None = None
) -> dict[str, Any]:
    """An ``InstanceActionPayload`` as Nova's objects are serialised."""
    data = dict.fromkeys(_UNKNOWN) | {
        'uuid': server.id,
        'tenant_id': server.project_id,
        'display_name': server.name,
        'host_name': server.name,
        'host': server.host,
        'availability_zone': server.availability_zone,
        'state': server.vm_state,
        'task_state': server.task_state,
        'locked': server.locked_by is not None,
        'metadata': {},
        'ip_addresses': _ip_addresses(record.port_id, record.snapshot),
        'fault': None if error is None else _fault(error),
        'request_id': record.request_id,
        'action_initiator_user': ctxt.user_id,
        'action_initiator_project': ctxt.project_id,
    }
    return _object('InstanceActionPayload', '1.9', data)


def _ip_addresses(port_id: str | None, snapshot: Snapshot | None) -> list[dict[str, Any]]:
    if snapshot is None:
        return []
    return [
        _object(
            'IpPayload',
            '1.0',
            {
                'label': snapshot.network_id,
                'mac': snapshot.mac_address,
                'meta': {},
                'port_uuid': port_id,
                'version': ipaddress.ip_address(ip.ip_address).version,
                'address': ip.ip_address,
                'device_name': None,
            },
        )
        for ip in snapshot.fixed_ips
    ]


def _fault(error: BaseException) -> dict[str, Any]:
    # As the caller is told it: no traceback, nothing internal.
    message = error.message if isinstance(error, exceptions.OsInterfaceError) else 'It could not be finished.'
    cause = error if isinstance(error, exceptions.OsInterfaceError) else error.__cause__ or error
    return _object(
        'ExceptionPayload',
        '1.1',
        {
            'module_name': type(cause).__module__,
            'function_name': '',
            'exception': type(cause).__name__,
            'exception_message': message,
            'traceback': '',
        },
    )


def _object(name: str, version: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        'nova_object.name': name,
        'nova_object.namespace': 'nova',
        'nova_object.version': version,
        'nova_object.data': data,
    }
