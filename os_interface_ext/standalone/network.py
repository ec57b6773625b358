"""``/v2.0``: networks and subnets to read, ports to read, make and delete."""

from __future__ import annotations

import uuid
from typing import Any

import flask
import marshmallow
import sqlalchemy as sa
from marshmallow import fields, validate

from os_interface_ext import context, exceptions
from os_interface_ext.api import faults, schemas
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import ipam, tables, transactions
from os_interface_ext.inventory.ids import is_id, is_storable
from os_interface_ext.standalone import network_resources, request
from os_interface_ext.standalone.request import Item

_ATTEMPTS = 20
_DELETE = sa.delete(tables.ports).where(tables.ports.c.id == sa.bindparam('port_id'))

# ------------------------------------------------------------------ requests


class _FixedIP(marshmallow.Schema):
    subnet_id = fields.String()
    ip_address = schemas.IPAddressString(required=True)


class _PortBody(marshmallow.Schema):
    network_id = fields.String(required=True)
    name = fields.String(load_default='', validate=validate.Length(max=255))
    description = fields.String()
    admin_state_up = fields.Boolean(load_default=True)
    project_id = fields.String()
    tenant_id = fields.String()
    fixed_ips = fields.List(fields.Nested(_FixedIP), validate=validate.Length(max=1))


class _PortRequest(marshmallow.Schema):
    port = fields.Nested(_PortBody, required=True)


_PORT_REQUEST = _PortRequest()


def blueprint(database: Database) -> flask.Blueprint:
    """Lists and single resources, and POST and DELETE of ports."""
    bp = flask.Blueprint('network', __name__)
    for collection in (network_resources.NETWORKS, network_resources.SUBNETS, network_resources.PORTS):
        _add_reading(bp, database, collection)

    @bp.get('/extensions')
    def extensions() -> Any:
        return {'extensions': []}

    @bp.post('/ports')
    def create_port() -> Any:
        ctxt = _caller()
        try:
            wanted = _PORT_REQUEST.load(request.body())['port']
        except marshmallow.ValidationError as error:
            raise exceptions.BadRequest(schemas.explain(error)) from error
        port_id = _create(database, ctxt, wanted)
        return {'port': network_resources.PORTS.get(database, ctxt, port_id)}, 201

    @bp.delete('/ports/<port_id>')
    def delete_port(port_id: str) -> Any:
        _delete(database, _caller(), port_id)
        return request.no_content()

    bp.register_error_handler(exceptions.OsInterfaceError, _fault)
    return bp


def _add_reading(bp: flask.Blueprint, database: Database, collection: network_resources.Collection) -> None:
    def index() -> Any:
        wanted = {
            field: flask.request.args.getlist(field)
            for field in flask.request.args
            if field not in request.CONTROLS
        }
        found = collection.find(database, _caller(), wanted)
        items, links = request.page([item for item in found if _matches(item, wanted)])
        body: dict[str, Any] = {collection.name: items}
        return body | ({f'{collection.name}_links': links} if links else {})

    def show(item_id: str) -> Any:
        return {collection.singular: collection.get(database, _caller(), item_id)}

    bp.add_url_rule(f'/{collection.name}', f'list_{collection.name}', index)
    bp.add_url_rule(f'/{collection.name}/<item_id>', f'show_{collection.singular}', show)


def _caller() -> RequestContext:
    return context.from_environ(flask.request.environ)


def _matches(item: Item, wanted: dict[str, list[str]]) -> bool:
    return all(_has(item.get(field), texts) for field, texts in wanted.items())


def _has(value: Any, texts: list[str]) -> bool:
    """Whether a field has one of the values, written as in a query."""
    if isinstance(value, bool):
        return any(request.flag(text) is value for text in texts)
    if isinstance(value, list):
        # fixed_ips=ip_address=192.0.2.1: every one of them, in whichever element.
        pairs = [text.partition('=') for text in texts]
        return all(any(isinstance(e, dict) and str(e.get(k)) == v for e in value) for k, _, v in pairs)
    return str(value) in texts


# ------------------------------------------------------------------ ports


def _create(database: Database, ctxt: RequestContext, wanted: dict[str, Any]) -> str:
    project_id = wanted.get('project_id') or wanted.get('tenant_id') or ctxt.project_id or ''
    if project_id != ctxt.project_id and not ctxt.check_is_admin():
        raise exceptions.Forbidden('Only an administrator makes ports for another project.')
    if not is_id(project_id) or not is_storable(wanted['name']):
        raise exceptions.BadRequest('The project or the name is no text that can be kept.')
    network = network_resources.NETWORKS.get(database, ctxt, wanted['network_id'])
    values = {
        'id': str(uuid.uuid4()),
        'name': wanted['name'],
        'project_id': project_id,
        'network_id': network['id'],
        'status': 'DOWN',
        'admin_state_up': wanted['admin_state_up'],
        'port_security_enabled': network['port_security_enabled'],
        'vnic_type': 'normal',
        'device_id': None,
        'device_owner': '',
        'host': None,
        'tag': None,
        'created_by_attach': False,
        'mark': None,
    }

    def work(connection: Any) -> None:
        given = _reserve(connection, values, wanted.get('fixed_ips'))
        ipam.insert_port(connection, values | {'mac_address': ipam.random_mac()}, given)

    for _ in range(_ATTEMPTS):
        try:
            transactions.write(database, work)
            return str(values['id'])
        except transactions.Outdated:
            continue
    raise exceptions.Unavailable(operator=f'no port could be made in {_ATTEMPTS} attempts')


def _reserve(connection: Any, port: dict[str, Any], fixed_ips: list[dict[str, str]] | None) -> list[ipam.Given]:
    asked = fixed_ips[0] if fixed_ips else {}
    given = ipam.reserve(connection, port['project_id'], port['network_id'], asked.get('ip_address'))
    if asked.get('subnet_id') not in (None, given[0].subnet_id if given else None):
        raise exceptions.AddressInvalid(asked['ip_address'])
    # An empty list asks for a port without an address; the quota counts all the same.
    return [] if fixed_ips == [] else given


def _delete(database: Database, ctxt: RequestContext, port_id: str) -> None:
    port = network_resources.PORTS.get(database, ctxt, port_id)
    if port['device_owner'].startswith('network:'):
        raise exceptions.Conflict(f'Port {port_id} cannot be deleted: it is that of {port["device_owner"]}.')
    transactions.write(database, lambda connection: connection.execute(_DELETE, {'port_id': port_id}))


# ------------------------------------------------------------------ faults

#: Neutron's name of an error, and its status where that is another than in the Compute API.
_TYPES: dict[type[exceptions.OsInterfaceError], tuple[str, int | None]] = {
    exceptions.PortNotFound: ('PortNotFound', None),
    exceptions.NetworkNotFound: ('NetworkNotFound', None),
    network_resources.SubnetNotFound: ('SubnetNotFound', None),
    exceptions.QuotaExceeded: ('OverQuota', 409),
    exceptions.NoAddress: ('IpAddressGenerationFailure', 409),
    exceptions.AddressInUse: ('IpAddressAlreadyAllocated', None),
    exceptions.AddressInvalid: ('InvalidIpForNetwork', None),
    exceptions.Conflict: ('ServicePortInUse', None),
    exceptions.Forbidden: ('PolicyNotAuthorized', None),
}


def _fault(error: exceptions.OsInterfaceError) -> Any:
    if error.code >= 500:
        return faults.of_error(flask.request.environ, error)
    kind, code = _TYPES.get(type(error), ('HTTPBadRequest' if error.code == 400 else 'HTTPError', None))
    return {'NeutronError': {'type': kind, 'message': error.message, 'detail': ''}}, code or error.code
