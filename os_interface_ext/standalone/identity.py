"""``/v3/auth/tokens``: the callers of the inventory as users; a user's password is his token."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import flask

from os_interface_ext import exceptions
from os_interface_ext.api import faults
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import callers
from os_interface_ext.standalone import request
from os_interface_ext.standalone.versions import NETWORK_ROOT

PATH = '/v3/auth/tokens'

_DOMAIN = {'id': 'default', 'name': 'Default'}
_REGION = 'RegionOne'
_LIFETIME = datetime.timedelta(days=1)


def blueprint(database: Database) -> flask.Blueprint:
    """Tokens by password, or by a token."""
    bp = flask.Blueprint('identity', __name__)

    @bp.post(PATH)
    def create() -> flask.Response:
        caller = _authenticate(database, request.body())
        response = flask.jsonify(token=_token(caller))
        response.status_code = 201
        response.headers['X-Subject-Token'] = caller['auth_token']
        response.headers['Vary'] = 'X-Auth-Token'
        return response

    @bp.errorhandler(exceptions.OsInterfaceError)
    def fault(error: exceptions.OsInterfaceError) -> Any:
        if error.code >= 500:
            return faults.of_error(flask.request.environ, error)
        title = 'Unauthorized' if error.code == 401 else 'Bad Request'
        return {'error': {'code': error.code, 'message': error.message, 'title': title}}, error.code

    return bp


def _authenticate(database: Database, body: Any) -> dict[str, Any]:
    auth = _at(body, 'auth')
    methods = _at(auth, 'identity', 'methods')
    if not isinstance(methods, list):
        raise exceptions.BadRequest('The body must be {"auth": {"identity": {"methods": […], …}}}.')
    caller = None
    if methods == ['password']:
        user = _at(auth, 'identity', 'password', 'user')
        name, password = _at(user, 'id') or _at(user, 'name'), _at(user, 'password')
        if isinstance(name, str) and isinstance(password, str):
            caller = callers.find_by_password(database, name, password)
    elif methods == ['token']:
        token = _at(auth, 'identity', 'token', 'id')
        caller = callers.find(database, token) if isinstance(token, str) else None
    if caller is None or not _is_in_scope(caller, _at(auth, 'scope')):
        raise exceptions.Unauthorized('The request you have made requires authentication.')
    return caller


def _is_in_scope(caller: dict[str, Any], scope: Any) -> bool:
    """A caller has one project, which is also what he gets without a scope."""
    if not isinstance(scope, dict):
        return scope in (None, 'unscoped')
    project = _at(scope, 'project', 'id') or _at(scope, 'project', 'name')
    return project is not None and project in (caller['project_id'], caller['project_name'])


def _at(data: Any, *keys: str) -> Any:
    """What is at the end of the keys; None if anything on the way is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _token(caller: dict[str, Any]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        'methods': ['password'],
        'user': {
            'id': caller['user_id'],
            'name': caller['user_name'] or caller['user_id'],
            'domain': _DOMAIN,
            'password_expires_at': None,
        },
        'project': {
            'id': caller['project_id'],
            'name': caller['project_name'] or caller['project_id'],
            'domain': _DOMAIN,
        },
        'is_domain': False,
        'roles': [{'id': _id('role', role), 'name': role} for role in caller['roles']],
        'catalog': _catalog(),
        'audit_ids': [_id('token', caller['auth_token'])[:22]],
        'issued_at': _time(now),
        'expires_at': _time(now + _LIFETIME),
    }


def _catalog() -> list[dict[str, Any]]:
    base = flask.request.host_url.rstrip('/')
    urls = {
        ('identity', 'keystone'): f'{base}/v3',
        ('compute', 'nova'): f'{base}/v2.1',
        ('network', 'neutron'): f'{base}{NETWORK_ROOT}',
    }
    return [
        {
            'id': _id('service', kind),
            'type': kind,
            'name': name,
            'endpoints': [
                {
                    'id': _id('endpoint', kind, interface),
                    'interface': interface,
                    'region': _REGION,
                    'region_id': _REGION,
                    'url': url,
                }
                for interface in ('public', 'internal', 'admin')
            ],
        }
        for (kind, name), url in urls.items()
    ]


def _id(*parts: str) -> str:
    """An id of keystone's form that stays the same."""
    return hashlib.sha256('/'.join(parts).encode()).hexdigest()[:32]


def _time(moment: datetime.datetime) -> str:
    return moment.strftime('%Y-%m-%dT%H:%M:%S.%fZ')
