"""The shapes of requests and responses, one schema a shape and microversion.

Source: the Compute API reference, section "Port interfaces", and the JSON schemas of Nova 34.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate
from microversion_parse import Version

from os_interface_ext.api import microversions
from os_interface_ext.attachments.manager import AttachRequest


class UUIDString(fields.UUID):
    """A UUID in any of its spellings, loaded as canonical text."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = str(super()._deserialize(value, attr, data, **kwargs))
        # uuid.UUID reads the digits as int() does, which takes "_", signs, blanks and more.
        digits = str(value).replace('urn:', '').replace('uuid:', '').strip('{}').replace('-', '').lower()
        if digits != text.replace('-', ''):
            raise self.make_error('invalid_uuid')
        return text


class IPAddressString(fields.String):
    """An IPv4 or IPv6 address without a zone, loaded as canonical text."""

    default_error_messages = {'invalid_ip': 'Not a valid IPv4 or IPv6 address.'}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            if '%' in text:
                raise ValueError(text)
            return str(ipaddress.ip_address(text))
        except ValueError as error:
            raise self.make_error('invalid_ip') from error


class Closed(Schema):
    """A shape without further fields, and the description of the API says so."""

    class Meta:
        unknown = RAISE


def _about(text: str, **more: Any) -> dict[str, Any]:
    """What the description of the API says of a field."""
    return {'description': text, **more}


# ------------------------------------------------------------------ requests


class FixedIPRequest(Closed):
    ip_address = IPAddressString(
        required=True, metadata=_about('The address, IPv4 or IPv6, of a subnet of the network.')
    )


class AttachmentRequest(Closed):
    """2.1"""

    net_id = UUIDString(metadata=_about('The network (UUID) on which a port is made. Not with `port_id`.'))
    port_id = UUIDString(metadata=_about('The port (UUID) that is attached. Not with `net_id`.'))
    fixed_ips = fields.List(
        fields.Nested(FixedIPRequest),
        validate=validate.Length(equal=1),
        metadata=_about('The address that the port shall have. Only with `net_id`.'),
    )


class AttachmentRequest249(AttachmentRequest):
    """2.49: with a tag."""

    tag = fields.String(
        validate=[
            validate.Length(min=1, max=60),
            validate.ContainsNoneOf(',/', error='A tag must not contain "," or "/".'),
        ],
        metadata=_about('A tag by which the guest recognises the interface. Since 2.49.'),
    )


class CreateRequest(Closed):
    """The body of a POST, 2.1; ``{}`` asks for the only network."""

    interfaceAttachment = fields.Nested(AttachmentRequest, load_default=dict)

    @post_load
    def make(self, data: dict[str, Any], **kwargs: Any) -> AttachRequest:
        wanted = data['interfaceAttachment']
        addresses = [ip['ip_address'] for ip in wanted.get('fixed_ips', ())]
        return AttachRequest(
            port_id=wanted.get('port_id'),
            network_id=wanted.get('net_id'),
            ip_address=addresses[0] if addresses else None,
            tag=wanted.get('tag'),
        )


class CreateRequest249(CreateRequest):
    interfaceAttachment = fields.Nested(AttachmentRequest249, load_default=dict)


# ------------------------------------------------------------------ responses


# `required` says that a view always has the field; nothing is checked when it is dumped.


class FixedIPView(Closed):
    subnet_id = fields.String(required=True, metadata=_about('The subnet of the address.', format='uuid'))
    ip_address = fields.String(required=True, metadata=_about('The address, IPv4 or IPv6.'))


class AttachmentView(Closed):
    """2.1"""

    port_id = fields.String(attribute='id', required=True, metadata=_about('The port.', format='uuid'))
    net_id = fields.String(attribute='network_id', required=True, metadata=_about('Its network.', format='uuid'))
    mac_addr = fields.String(
        attribute='mac_address',
        required=True,
        metadata=_about('Its MAC address.', pattern='^([0-9a-f]{2}:){5}[0-9a-f]{2}$'),
    )
    port_state = fields.String(
        attribute='status',
        required=True,
        metadata=_about('Its state in the network: `ACTIVE`, `DOWN`, `BUILD` or `ERROR`.'),
    )
    fixed_ips = fields.List(
        fields.Nested(FixedIPView), required=True, metadata=_about('Its addresses, in the order of the network.')
    )


class AttachmentView270(AttachmentView):
    """2.70: with the tag, which may be null."""

    tag = fields.String(
        required=True, allow_none=True, metadata=_about('The tag that it was attached with. Since 2.70.')
    )


# As the views of api.views wrap them.


class ShowAnswer(Closed):
    interfaceAttachment = fields.Nested(AttachmentView, required=True)


class ShowAnswer270(Closed):
    interfaceAttachment = fields.Nested(AttachmentView270, required=True)


class ListAnswer(Closed):
    interfaceAttachments = fields.List(fields.Nested(AttachmentView), required=True)


class ListAnswer270(Closed):
    interfaceAttachments = fields.List(fields.Nested(AttachmentView270), required=True)


# ------------------------------------------------------------------ by microversion

_CREATE = [
    (microversions.TAG_IN_REQUEST, CreateRequest249()),
    (microversions.MIN, CreateRequest()),
]
_VIEW: list[tuple[Version, Schema]] = [
    (microversions.TAG_IN_RESPONSE, AttachmentView270()),
    (microversions.MIN, AttachmentView()),
]
_SHOW = [
    (microversions.TAG_IN_RESPONSE, ShowAnswer270()),
    (microversions.MIN, ShowAnswer()),
]
_LIST = [
    (microversions.TAG_IN_RESPONSE, ListAnswer270()),
    (microversions.MIN, ListAnswer()),
]

Dump = Callable[[Any], dict[str, Any]]


def create_request(version: Version) -> Schema:
    """The schema of a POST's body; it loads an :class:`AttachRequest`."""
    return next(schema for since, schema in _CREATE if version >= since)


def attachment_view(version: Version) -> Schema:
    """The schema of one attachment in an answer; it dumps a :class:`~os_interface_ext.drivers.base.Port`."""
    return next(schema for since, schema in _VIEW if version >= since)


def show_answer(version: Version) -> Schema:
    """The schema of the answer to show and create."""
    return next(schema for since, schema in _SHOW if version >= since)


def list_answer(version: Version) -> Schema:
    """The schema of the answer to list."""
    return next(schema for since, schema in _LIST if version >= since)


def dumper(version: Version) -> Dump:
    """What ``attachment_view(version).dump`` does."""
    return next(dump for since, dump in _DUMP if version >= since)


def compile_dump(schema: Schema) -> Dump:
    """``schema.dump`` for the fields of the views, as a function of Python's that has nothing else to do.

    Texts pass as they are, lists of nested schemas are followed. marshmallow's own dump looks each field
    up anew for each object: 19 times as long, and most of what a long list costs.

    :raises NotImplementedError: the schema has a field of another kind
    """
    dump: Dump = eval(f'lambda obj: {_display(schema, "obj")}', {})
    return dump


def _display(schema: Schema, of: str) -> str:
    """The dict display that dumps what the name ``of`` stands for."""
    items = []
    for name, field in schema.dump_fields.items():
        value = f'{of}.{field.attribute or name}'
        if isinstance(field, fields.List) and isinstance(field.inner, fields.Nested):
            value = f'[{_display(field.inner.schema, f"{of}_")} for {of}_ in {value}]'
        elif type(field) is not fields.String:
            raise NotImplementedError(f'{type(field).__name__} of {name}')
        items.append(f'{field.data_key or name!r}: {value}')
    return f'{{{", ".join(items)}}}'


_DUMP = [(since, compile_dump(schema)) for since, schema in _VIEW]


def explain(error: ValidationError) -> str:
    """What is wrong with a body, in one sentence; long ones are cut."""
    problems = list(_flatten(error.messages, ''))[:5]
    return f'Invalid input: {"; ".join(problems)}'[:500]


def _printable(text: str) -> str:
    return ''.join(character if character.isprintable() else '?' for character in text)


def _flatten(messages: Any, path: str) -> Any:
    if isinstance(messages, dict):
        for key, value in messages.items():
            # The keys are the caller's own.
            name = '' if key == '_schema' else _printable(str(key)[:64])
            yield from _flatten(value, f'{path}.{name}'.strip('.') if name else path)
    else:
        for message in messages:
            yield f'{path}: {message}' if path else str(message)
