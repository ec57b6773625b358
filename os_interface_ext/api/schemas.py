"""The shapes of requests and responses, one schema a shape and microversion.

Source: the Compute API reference, section "Port interfaces", and the JSON schemas of Nova 34.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate
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


# ------------------------------------------------------------------ requests


class FixedIPRequest(Schema):
    ip_address = IPAddressString(required=True)


class AttachmentRequest(Schema):
    """2.1"""

    net_id = UUIDString()
    port_id = UUIDString()
    fixed_ips = fields.List(fields.Nested(FixedIPRequest), validate=validate.Length(equal=1))


class AttachmentRequest249(AttachmentRequest):
    """2.49: with a tag."""

    tag = fields.String(
        validate=[
            validate.Length(min=1, max=60),
            validate.ContainsNoneOf(',/', error='A tag must not contain "," or "/".'),
        ]
    )


class CreateRequest(Schema):
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


class FixedIPView(Schema):
    subnet_id = fields.String()
    ip_address = fields.String()


class AttachmentView(Schema):
    """2.1"""

    port_id = fields.String()
    net_id = fields.String()
    mac_addr = fields.String()
    port_state = fields.String()
    fixed_ips = fields.List(fields.Nested(FixedIPView))


class AttachmentView270(AttachmentView):
    """2.70: with the tag, which may be null."""

    tag = fields.String(allow_none=True)


# ------------------------------------------------------------------ by microversion

_CREATE = [
    (microversions.TAG_IN_REQUEST, CreateRequest249()),
    (microversions.MIN, CreateRequest()),
]
_VIEW: list[tuple[Version, Schema]] = [
    (microversions.TAG_IN_RESPONSE, AttachmentView270()),
    (microversions.MIN, AttachmentView()),
]

Dump = Callable[[Any], dict[str, Any]]


def create_request(version: Version) -> Schema:
    """The schema of a POST's body; it loads an :class:`AttachRequest`."""
    return next(schema for since, schema in _CREATE if version >= since)


def attachment_view(version: Version) -> Schema:
    """The schema of one attachment in an answer."""
    return next(schema for since, schema in _VIEW if version >= since)


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
