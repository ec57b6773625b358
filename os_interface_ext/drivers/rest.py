"""How drivers ask an API of OpenStack: with whose authority, for how long, and what may be repeated."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import urllib3
from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import loading, plugin, service_token, token_endpoint
from keystoneauth1.session import TCPKeepAliveAdapter
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import openstack
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

#: What may go wrong with a request that has a token and an endpoint.
_FAILURES = (
    ks_exceptions.ClientException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)

#: What another try may mend.
_PASSING = frozenset({429, 500, 502, 503, 504})
#: The longest Retry-After that is waited for, and that is passed on, in seconds.
_PATIENCE = 2.0
_LONGEST = 3600.0
#: Seconds after which our own token may be given up once more for one that was refused beside a caller's.
_RENEWAL = 60.0
_CHUNK = 65536


class Answer:
    """What a service answered: the status, and the body (empty if there was none).

    ``is_our_refusal``: 401 or 403 to a request that was made with our own authority alone.
    """

    __slots__ = ('body', 'is_our_refusal', 'retry_after', 'status')

    def __init__(self, status: int, body: dict[str, Any], retry_after: float | None) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.is_our_refusal = False


class Service:
    """One API, found in the catalog or at ``endpoint_override``, asked over connections that are kept.

    Its option group takes what keystoneauth has for authentication, session and adapter, as an operator
    knows it from Nova's own configuration, and the options of :mod:`os_interface_ext.conf.openstack`.

    :param service_type: the type in the catalog, unless the configuration names another
    :param version: what stands before the paths, where the endpoint does not end with it
    :param microversion: the one that every request asks for
    :raises ConfigurationError: the options do not make a client
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        group: str,
        service_type: str,
        version: str = '',
        *,
        microversion: str | None = None,
    ) -> None:
        openstack.register_opts(conf, group)
        options = conf[group]
        self._group = group
        self._version = version
        self._timeouts = (options.connect_timeout, options.read_timeout)
        base.require_below_half_lease(conf, f'[{group}] connect_timeout + read_timeout', sum(self._timeouts))
        self._check_places(options)
        self._retries = options.read_retries
        self._renewable = 0.0
        self._auth = _authentication(conf, group)
        session = loading.load_session_from_conf_options(conf, group, auth=self._auth)
        session.session = _pool(options.pool_size)
        # Those of Keystone too, which has none by itself, and for which all threads wait.
        session.timeout = self._timeouts  # type: ignore[assignment]
        self._adapter = loading.load_adapter_from_conf_options(conf, group, session=session, auth=self._auth)
        self._adapter.service_type = options.service_type or service_type
        self._adapter.interface = self._adapter.interface or ['internal', 'public']
        self._adapter.default_microversion = microversion

    def _check_places(self, options: Any) -> None:
        """What would otherwise be found out by the first request."""
        for name in ('cafile', 'certfile', 'keyfile'):
            if options[name] and not os.access(options[name], os.R_OK):
                raise exceptions.ConfigurationError(
                    f'option [{self._group}] {name}: {options[name]!r} cannot be read: correct the path'
                )
        override = options.endpoint_override
        if override and not override.startswith(('http://', 'https://')):
            raise exceptions.ConfigurationError(
                f'option [{self._group}] endpoint_override: {override!r} is no URL: begin it with http:// or https://'
            )

    # ------------------------------------------------------------------ asking

    def read(
        self, ctxt: RequestContext, path: str, query: Mapping[str, Any] | None = None, *, as_caller: bool = False
    ) -> Answer:
        """GET, repeated within its time where that may help; a status below 500, and a body, is an answer.

        :param as_caller: with the caller's token, our own beside it (if he has none, with our own alone)
        :raises Unavailable: there is no answer
        """
        give_up = time.monotonic() + sum(self._timeouts)
        for pause in _pauses(self._retries):
            try:
                answer = self._send(ctxt, 'GET', path, as_caller, params=query)
            except exceptions.Unavailable:
                if pause is None or time.monotonic() + pause > give_up:
                    raise
            else:
                if answer.status not in _PASSING:
                    return self._permitted(answer, f'GET {path}')
                wait = max(pause or 0.0, answer.retry_after or 0.0)
                if pause is None or wait > _PATIENCE or time.monotonic() + wait > give_up:
                    raise self._refusal(answer, exceptions.Unavailable, f'GET {path}')
                pause = wait
            time.sleep(pause)
        raise AssertionError('unreachable')

    def write(
        self,
        ctxt: RequestContext,
        method: str,
        path: str,
        fence: base.Fence,
        body: dict[str, Any] | None = None,
        *,
        as_caller: bool = False,
        revision: int | None = None,
    ) -> Answer:
        """POST, PUT or DELETE: sent once, before the deadline; a status below 500 is an answer.

        :param revision: only if that is the revision of the resource still (412 otherwise)
        :raises Unavailable: nothing happened
        :raises UnknownOutcome: it may have had its effect
        """
        # Before a token is asked for, too: that takes its time.
        fence.check()
        headers = {} if revision is None else {'If-Match': f'revision_number={revision}'}
        answer = self._send(ctxt, method, path, as_caller, fence, headers=headers, json=body)
        if answer.status >= 500:
            raise self._refusal(answer, exceptions.UnknownOutcome, f'{method} {path}')
        if answer.status == 429:
            raise self._refusal(answer, exceptions.Unavailable, f'{method} {path}')
        return self._permitted(answer, f'{method} {path}')

    def _permitted(self, answer: Answer, asked: str) -> Answer:
        """:raises Unavailable: we ourselves may not do this, which no other try mends"""
        if answer.is_our_refusal:
            raise exceptions.Unavailable(
                operator=f'[{self._group}] {asked}: {answer.status}: the user of this group may not do this; '
                'look at its roles',
                operator_cure=f'give the user of [{self._group}] the role that {asked} needs (service or admin)',
            )
        return answer

    def _refusal(self, answer: Answer, kind: type[exceptions.Unavailable], asked: str) -> exceptions.Unavailable:
        return kind(
            operator=f'[{self._group}] {asked} was answered with {answer.status}',
            retry_after=max(1, round(answer.retry_after or 5)),
        )

    # ------------------------------------------------------------------ one request

    def _send(
        self,
        ctxt: RequestContext,
        method: str,
        path: str,
        as_caller: bool,
        fence: base.Fence | None = None,
        **more: Any,
    ) -> Answer:
        """One request; once more with a new token where ours may be what was not accepted: nothing was done."""
        token = ctxt.auth_token if as_caller else None
        answer = self._ask(ctxt, method, path, token, fence, **more)
        if answer.status == 401 and self._renew(alone=not token):
            answer = self._ask(ctxt, method, path, token, fence, **more)
        answer.is_our_refusal = not token and answer.status in (401, 403)
        return answer

    def _ask(
        self,
        ctxt: RequestContext,
        method: str,
        path: str,
        token: str | None,
        fence: base.Fence | None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        asked = f'[{self._group}] {method} {path}'
        try:
            base = self._endpoint()
            tokens = self._adapter.session.get_auth_headers(self._authority(token, base)) or {}
        except _FAILURES as error:
            raise exceptions.Unavailable(
                operator=f'{asked}: no token or endpoint: {error}', operator_cure=self._cure(error)
            ) from error
        if fence is not None:
            fence.check()
        return self._exchange(ctxt, method, base + path, {**(headers or {}), **tokens}, asked, **more)

    def _exchange(
        self, ctxt: RequestContext, method: str, url: str, headers: dict[str, str], asked: str, **more: Any
    ) -> Answer:
        begun = time.monotonic()
        try:
            response = self._adapter.request(
                url,
                method,
                headers=headers,
                authenticated=False,
                raise_exc=False,
                redirect=False,
                log=False,
                connect_retries=0,
                status_code_retries=0,
                stream=True,
                timeout=self._timeouts,
                global_request_id=ctxt.global_id,
                **more,
            )
            content = _content(response, begun + sum(self._timeouts))
        except _FAILURES as error:
            lost = method != 'GET' and not _never_sent(error)
            kind = exceptions.UnknownOutcome if lost else exceptions.Unavailable
            cure = (
                f'start the service behind {url}, or correct its endpoint in the catalog or [{self._group}] '
                'endpoint_override'
            )
            raise kind(operator=f'{asked}: {error}', operator_cure=cure) from error
        LOG.debug(
            '%s: %s in %.0f ms (%s)',
            asked,
            response.status_code,
            1000 * (time.monotonic() - begun),
            response.headers.get('x-openstack-request-id'),
        )
        return self._answer(response, content, method, asked)

    def _cure(self, error: BaseException) -> str:
        """Of having no token, or no endpoint."""
        if isinstance(error, ks_exceptions.EndpointNotFound):
            return (
                f'enter an endpoint of {self._adapter.service_type} into the catalog, or correct [{self._group}] '
                'region_name, valid_interfaces or endpoint_override'
            )
        if isinstance(error, (ks_exceptions.Unauthorized, ks_exceptions.Forbidden)):
            return f'correct username, password, project and domains of [{self._group}]: Keystone refuses them'
        return f'start Keystone, or correct [{self._group}] auth_url'

    def _renew(self, *, alone: bool) -> bool:
        """Whether a token of ours was given up, so that a new one can be tried.

        Beside a caller's token, which is the likelier one to be bad, only once in a while: nobody is to make us
        fetch a token with each of his requests.
        """
        if not alone and time.monotonic() < self._renewable:
            return False
        self._renewable = time.monotonic() + _RENEWAL
        return self._auth.invalidate()

    def _answer(self, response: requests.Response, content: bytes, method: str, asked: str) -> Answer:
        status = response.status_code
        try:
            body = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            body = None
        # An error without a body that can be read is an error all the same.
        if not isinstance(body, dict) and status >= 400:
            body = {}
        if status < 200 or 300 <= status < 400 or not isinstance(body, dict):
            kind = exceptions.Unavailable if method == 'GET' else exceptions.UnknownOutcome
            raise kind(operator=f'{asked}: what was answered ({status}, {content[:80]!r}) makes no sense')
        return Answer(status, body, _seconds(response.headers.get('Retry-After')))

    def _endpoint(self) -> str:
        endpoint = self._adapter.get_endpoint()
        if not endpoint:
            raise ks_exceptions.EndpointNotFound(f'the catalog has no endpoint of {self._adapter.service_type}')
        endpoint = endpoint.rstrip('/')
        return endpoint if endpoint.endswith(self._version) else endpoint + self._version

    def _authority(self, token: str | None, endpoint: str) -> plugin.BaseAuthPlugin:
        """The caller's token with ours beside it, or ours alone."""
        if not token:
            return self._auth
        return service_token.ServiceTokenAuthWrapper(token_endpoint.Token(endpoint, token), self._auth)


def _authentication(conf: cfg.ConfigOpts, group: str) -> plugin.BaseAuthPlugin:
    try:
        auth = loading.load_auth_from_conf_options(conf, group)
    except ks_exceptions.ClientException as error:
        raise exceptions.ConfigurationError(f'option [{group}] auth_type: {error}') from error
    url = getattr(auth, 'auth_url', 'http://')
    if auth is not None and not str(url).startswith(('http://', 'https://')):
        raise exceptions.ConfigurationError(
            f'option [{group}] auth_url: {url!r} is no URL: give that of Keystone, http://… or https://…'
        )
    if auth is None:
        raise exceptions.ConfigurationError(
            f'option [{group}] auth_type: not set: give the options with which this service authenticates '
            '(auth_type = password, auth_url, username, password, project_name, user_domain_name, '
            'project_domain_name)'
        )
    return auth  # type: ignore[no-any-return]


def _pool(size: int) -> requests.Session:
    session = requests.Session()
    # The environment (proxies, .netrc) is not looked at for each request.
    session.trust_env = False
    for scheme in ('http://', 'https://'):
        session.mount(scheme, TCPKeepAliveAdapter(pool_connections=4, pool_maxsize=size))
    return session


def _pauses(retries: int) -> Iterator[float | None]:
    """Seconds to wait after each try; None after the last."""
    yield from (0.1 * 2**number for number in range(retries))
    yield None


def _content(response: requests.Response, give_up: float) -> bytes:
    """The body, unless it takes too long as a whole: a time-out of reading is one for each piece."""
    pieces = []
    try:
        while True:
            left = give_up - time.monotonic()
            if left <= 0:
                raise requests.ReadTimeout('the answer takes too long')
            connection = response.raw.connection
            if connection is not None and connection.sock is not None:
                connection.sock.settimeout(left)
            piece = response.raw.read1(_CHUNK, decode_content=True)
            if not piece:
                break
            pieces.append(piece)
    except BaseException:
        response.close()
        raise
    # Gives the connection back.
    response.raw.drain_conn()
    response.close()
    return b''.join(pieces)


def _never_sent(error: BaseException) -> bool:
    """Whether the request cannot have reached anybody: no connection has come about."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (requests.ConnectTimeout, urllib3.exceptions.NewConnectionError)):
            return True
        if isinstance(cause, requests.ConnectionError) and cause.args:
            reason = getattr(cause.args[0], 'reason', None)
            if isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
                return True
        cause = cause.__cause__ or cause.__context__
    return False


def _seconds(text: str | None) -> float | None:
    return min(float(text), _LONGEST) if text and text.isdecimal() else None
