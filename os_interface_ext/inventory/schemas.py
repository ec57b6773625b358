"""The format of an inventory file: what each entry holds, field by field."""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from os_interface_ext.inventory.ids import is_id, is_storable

#: The format, for people.
FORMAT = """\
An inventory is YAML: a mapping of up to five lists. Whatever is not named here is an error, and so is
a reference to something that is not in the file. Quote what YAML would take for a number.

callers:            # who may ask
- token:            # required, unique: the X-Auth-Token, and the password of the user
  user_id:          # required
  user_name:        # text or null (default)
  project_id:       # required
  project_name:     # text or null (default)
  roles:            # list of text, [] by default
quotas:             # projects without an entry have no limit
- project_id:       # required, unique
  ports:            # required: the number of ports that the project may have; -1: no limit
networks:
- id:               # required, unique: a UUID
  name:             # text, '' by default
  project_id:       # required: the owner
  external:         # true: only for administrators, and for those that it is shared with; false by default
  shared_with:      # list of project ids, or of '*' for every project; [] by default
  admin_state_up:   # true by default; if false its ports never become ACTIVE
  mtu:              # 68 to 65535, 1500 by default
  port_security_enabled:  # true by default; then servers can use the network only if it has a subnet
  subnets:          # list, [] by default; the first one that has an address left gives it
  - id:             # required, unique: a UUID
    name:           # text, '' by default
    cidr:           # required: IPv4 or IPv6; subnets of a network do not overlap
    gateway_ip:     # an address within the cidr, or null (default): never given to a server
    allocation_pools:   # list of {start, end} within the cidr, without the gateway, that do not overlap;
                        # by default all hosts of the cidr but the gateway
servers:
- id:               # required, unique
  name:             # text, '' by default
  project_id:       # required
  host:             # the hypervisor, or null (default)
  availability_zone:  # text or null (default)
  vm_state:         # active (default), building, paused, suspended, stopped, rescued, resized, soft-delete,
                    # deleted, error, shelved, shelved_offloaded
  task_state:       # text or null (default): nothing is going on
  locked_by:        # owner, admin or null (default)
ports:
- id:               # required, unique: a UUID
  name:             # text, '' by default
  project_id:       # required
  network_id:       # required: a network of this file
  mac_address:      # unique; made from the id by default
  fixed_ips:        # list of {subnet_id, ip_address} in subnets of the network, [] by default
  status:           # ACTIVE, DOWN (default), BUILD or ERROR
  admin_state_up:   # true by default; if false the port never becomes ACTIVE
  port_security_enabled:  # that of the network by default
  vnic_type:        # normal (default), direct, macvtap, … as in Neutron
  device_id:        # a server of this file, or another device with its device_owner; null (default): free
  device_owner:     # 'compute:ZONE' by default for a server's port, '' for a free one
  host:             # where the port is bound; by default the host of its server
  tag:              # the device tag, 1 to 60 characters without ',' and '/'; null by default
  created_by_attach:  # true: made for its server, so that a detach deletes it; false (default): brought,
                      # a detach sets it free
"""

VM_STATES = (
    'active',
    'building',
    'paused',
    'suspended',
    'stopped',
    'rescued',
    'resized',
    'soft-delete',
    'deleted',
    'error',
    'shelved',
    'shelved_offloaded',
)
PORT_STATUSES = ('ACTIVE', 'DOWN', 'BUILD', 'ERROR')
VNIC_TYPES = (
    'normal',
    'macvtap',
    'direct',
    'baremetal',
    'direct-physical',
    'virtio-forwarder',
    'smart-nic',
    'vdpa',
    'accelerator-direct',
    'accelerator-direct-physical',
    'remote-managed',
)

_MAC = re.compile(r'[0-9a-f]{2}(:[0-9a-f]{2}){5}')


class _Text(fields.Field[str]):
    """Text that a column can hold."""

    default_error_messages = {
        'required': 'is missing',
        'null': 'must not be null',
        'type': 'must be text; put it in quotes',
        'length': 'must have at most {longest} characters',
        'storable': 'holds a character that is not allowed (U+0000, a lone surrogate)',
    }
    longest = 255

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error('type')
        if len(value) > self.longest:
            raise self.make_error('length', longest=self.longest)
        if not is_storable(value):
            raise self.make_error('storable')
        return value


class _Id(_Text):
    default_error_messages = {'id': 'must be 1 to 255 characters without blanks at the ends'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not is_id(text):
            raise self.make_error('id')
        return text


class _Uuid(_Text):
    default_error_messages = {'uuid': 'must be a UUID, such as 123e4567-e89b-12d3-a456-426614174000'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            canonical = str(uuid.UUID(text))
        except ValueError:
            canonical = ''
        # Clients name it by this text: another spelling would never be found.
        if canonical != text:
            raise self.make_error('uuid')
        return text


class _Flag(fields.Field[bool]):
    default_error_messages = {'null': 'must not be null', 'type': 'must be true or false'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error('type')
        return value


class _Address(_Text):
    """An address in its canonical form."""

    default_error_messages = {'address': 'must be an IPv4 or IPv6 address'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            if '%' in text:
                raise ValueError
            return str(ipaddress.ip_address(text))
        except ValueError as error:
            raise self.make_error('address') from error


class _Cidr(_Text):
    """A network in its canonical form."""

    default_error_messages = {'cidr': 'must be a network such as 192.0.2.0/24, with no bit set behind the mask'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            if '/' not in text or '%' in text:
                raise ValueError
            return str(ipaddress.ip_network(text))
        except ValueError as error:
            raise self.make_error('cidr') from error


class _Mac(_Text):
    """A unicast MAC address in lower case."""

    default_error_messages = {'mac': 'must be a unicast MAC address such as fa:16:3e:00:00:01, in quotes'}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            # YAML 1.1 reads 10:20:30:40:50:60 as a number.
            raise self.make_error('mac')
        mac = value.lower()
        if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == '00:00:00:00:00:00':
            raise self.make_error('mac')
        return mac


class _Tag(fields.Field[str]):
    default_error_messages = {'tag': "must be text of 1 to 60 characters without ',' and '/'"}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= 60 or set(value) & {',', '/'}:
            raise self.make_error('tag')
        if not is_storable(value.replace('\0', '')):
            raise self.make_error('tag')
        return value


class _Number(fields.Integer):
    default_error_messages = {
        'required': 'is missing',
        'null': 'must not be null',
        'invalid': 'must be a whole number',
    }

    def __init__(self, lowest: int, highest: int, **kwargs: Any) -> None:
        message = f'must be {lowest} to {highest}'
        super().__init__(strict=True, validate=validate.Range(lowest, highest, error=message), **kwargs)


class _List(fields.List[Any]):
    default_error_messages = {'null': 'must be a list', 'invalid': 'must be a list'}


class _Nested(fields.Nested):
    default_error_messages = {'null': 'must be a list', 'type': 'must be a list'}


class _Schema(ma.Schema):
    error_messages = {'unknown': 'is not a field of the format', 'type': 'must be a mapping'}

    class Meta:
        unknown = ma.RAISE


def _one_of(choices: tuple[str, ...]) -> validate.OneOf:
    return validate.OneOf(choices, error='must be one of {choices}')


def _name() -> _Text:
    return _Text(load_default='')


def _optional_text() -> _Text:
    return _Text(load_default=None, allow_none=True)


class CallerSchema(_Schema):
    token = _Id(required=True)
    user_id = _Id(required=True)
    user_name = _optional_text()
    project_id = _Id(required=True)
    project_name = _optional_text()
    roles = _List(_Id(), load_default=list)


class QuotaSchema(_Schema):
    project_id = _Id(required=True)
    ports = _Number(-1, 2**31 - 1, required=True)


class PoolSchema(_Schema):
    start = _Address(required=True)
    end = _Address(required=True)


class SubnetSchema(_Schema):
    id = _Uuid(required=True)
    name = _name()
    cidr = _Cidr(required=True)
    gateway_ip = _Address(load_default=None, allow_none=True)
    allocation_pools = _Nested(PoolSchema, many=True, load_default=None)


class NetworkSchema(_Schema):
    id = _Uuid(required=True)
    name = _name()
    project_id = _Id(required=True)
    external = _Flag(load_default=False)
    shared_with = _List(_Id(), load_default=list)
    admin_state_up = _Flag(load_default=True)
    mtu = _Number(68, 65535, load_default=1500)
    port_security_enabled = _Flag(load_default=True)
    subnets = _Nested(SubnetSchema, many=True, load_default=list)


class ServerSchema(_Schema):
    id = _Id(required=True)
    name = _name()
    project_id = _Id(required=True)
    host = _optional_text()
    availability_zone = _optional_text()
    vm_state = _Text(load_default='active', validate=_one_of(VM_STATES))
    task_state = _optional_text()
    locked_by = _Text(load_default=None, allow_none=True, validate=_one_of(('owner', 'admin')))


class FixedIPSchema(_Schema):
    subnet_id = _Uuid(required=True)
    ip_address = _Address(required=True)


class PortSchema(_Schema):
    id = _Uuid(required=True)
    name = _name()
    project_id = _Id(required=True)
    network_id = _Uuid(required=True)
    mac_address = _Mac(load_default=None)
    fixed_ips = _Nested(FixedIPSchema, many=True, load_default=list)
    status = _Text(load_default='DOWN', validate=_one_of(PORT_STATUSES))
    admin_state_up = _Flag(load_default=True)
    port_security_enabled = _Flag(load_default=None)
    vnic_type = _Text(load_default='normal', validate=_one_of(VNIC_TYPES))
    device_id = _Id(load_default=None, allow_none=True)
    device_owner = _Text(load_default=None)
    host = _optional_text()
    tag = _Tag(load_default=None, allow_none=True)
    created_by_attach = _Flag(load_default=False)


#: The lists of an inventory, in the order of the file; an entry without an id goes by the field named.
SECTIONS: Mapping[str, _Schema] = {
    'callers': CallerSchema(),
    'quotas': QuotaSchema(),
    'networks': NetworkSchema(),
    'servers': ServerSchema(),
    'ports': PortSchema(),
}
