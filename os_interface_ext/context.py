"""Who asks: the identity in a WSGI environ, as a RequestContext."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from oslo_context import context as oslo_context

from os_interface_ext import exceptions

#: environ key under which middleware of this package hands over an identity
IDENTITY_KEY = 'os_interface_ext.identity'
#: environ key that keystonemiddleware sets, and that no HTTP header can forge
KEYSTONE_KEY = 'keystone.token_auth'

#: what a context takes from a token, by the names that keystoneauth has for it
_OF_TOKEN = {
    'user_id': 'user_id',
    'user_name': 'username',
    'user_domain_id': 'user_domain_id',
    'user_domain_name': 'user_domain_name',
    'project_id': 'project_id',
    'project_name': 'project_name',
    'project_domain_id': 'project_domain_id',
    'project_domain_name': 'project_domain_name',
    'roles': 'role_names',
}
_OF_USER_TOKEN = {
    **_OF_TOKEN,
    'domain_id': 'domain_id',
    'domain_name': 'domain_name',
    'is_admin_project': 'is_admin_project',
}

_GLOBAL_REQUEST_ID = re.compile(r'req-[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}')

Identity = Callable[[Mapping[str, Any]], 'RequestContext | None']


class RequestContext(oslo_context.RequestContext):
    """The identity and the request ids of one request.

    Unlike its base it never becomes the thread's current context: the host may have one of its own.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault('is_admin', None)
        super().__init__(**kwargs, overwrite=False)
        #: What drivers remember for the length of one request, each by a key of its own.
        self.kept: dict[Any, Any] = {}

    def update_store(self) -> None:
        """Leave the thread's current context to the host."""

    @functools.cached_property
    def policy_key(self) -> tuple[Any, ...]:
        """All that a policy rule may ask about the caller, as a key."""
        return (
            self.user_id,
            self.project_id,
            self.domain_id,
            self.system_scope,
            self.user_domain_id,
            self.project_domain_id,
            self.is_admin_project,
            tuple(self.roles),
            self.service_user_id,
            self.service_project_id,
            tuple(self.service_roles),
        )

    def check_is_admin(self) -> bool:
        """Whether the caller is an administrator, where no policy has said so yet."""
        return 'admin' in self.roles


def service_context() -> RequestContext:
    """The context in which this service acts for itself, with no caller behind it."""
    return RequestContext(is_admin=True, roles=['admin'])


def from_environ(environ: Mapping[str, Any], identity: Identity | None = None) -> RequestContext:
    """The context of a request.

    :param identity: the host's own way to authenticate; asked alone if it is given
    :raises Unauthorized: if nobody trustworthy has said who asks. Bare ``X-Roles`` and such never count:
        they are read only when keystonemiddleware has left its mark, and it removes forged ones.
    """
    if identity is not None:
        ctxt = identity(environ)
        if ctxt is not None and 'openstack.request_id' in environ:
            ctxt.request_id = environ['openstack.request_id']
    elif IDENTITY_KEY in environ:
        # A token of this package's own callers is worth nothing to another service.
        ctxt = RequestContext(**{**environ[IDENTITY_KEY], 'auth_token': None}, **request_ids(environ))
    else:
        ctxt = _from_keystone(environ)
    if ctxt is None:
        raise exceptions.Unauthorized()
    return ctxt


def request_ids(environ: Mapping[str, Any]) -> dict[str, str]:
    """The request id of this hop, made here unless a middleware made one, and the caller's global one."""
    ids = {'request_id': environ.get('openstack.request_id') or oslo_context.generate_request_id()}
    sent = environ.get('openstack.global_request_id') or environ.get('HTTP_X_OPENSTACK_REQUEST_ID', '')
    if _GLOBAL_REQUEST_ID.fullmatch(sent):
        ids['global_request_id'] = sent
    return ids


def _from_keystone(environ: Mapping[str, Any]) -> RequestContext | None:
    token = environ.get(KEYSTONE_KEY)
    # With delay_auth_decision the middleware lets a bad token through, without a user.
    if token is None or not getattr(token, 'has_user_token', False):
        return None
    if environ.get('HTTP_X_IDENTITY_STATUS') != 'Confirmed':
        return None
    # What the token says is stronger than the headers: AuthProtocol sets them all, but a middleware made
    # from its base class lets those through that the client sent.
    return RequestContext.from_environ(
        dict(environ), **_of_user(token.user), **_of_service(environ, token), **request_ids(environ)
    )


def _of_user(user: Any) -> dict[str, Any]:
    known = {field: getattr(user, name) for field, name in _OF_USER_TOKEN.items() if hasattr(user, name)}
    if hasattr(user, 'system_scoped'):
        known['system_scope'] = 'all' if user.system_scoped else None
    return known


def _of_service(environ: Mapping[str, Any], token: Any) -> dict[str, Any]:
    service = getattr(token, 'service', None)
    if service is None or environ.get('HTTP_X_SERVICE_IDENTITY_STATUS') != 'Confirmed':
        return {f'service_{field}': [] if field == 'roles' else None for field in _OF_TOKEN}
    return {f'service_{field}': getattr(service, name) for field, name in _OF_TOKEN.items()}
