"""keystonemiddleware's auth_token, with bounds on what it waits for, and faults where Keystone is away."""

from __future__ import annotations

import importlib
from typing import Any

import webob
import webob.exc
from keystoneauth1 import exceptions as ks_exceptions
from keystonemiddleware import auth_token
from keystonemiddleware.auth_token import _exceptions as auth_token_exceptions
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.api import faults
from os_interface_ext.conf import keystone_authtoken

#: Keystone has not said whether the token is good.
_AWAY = (ks_exceptions.ClientException, auth_token_exceptions.ServiceError)


class AuthToken(auth_token.AuthProtocol):  # type: ignore[misc]
    """Refuses a bad token in its own words, which are those that a client gets from Nova's pipeline too.

    That Keystone is away is never taken for a bad token: 503 as a fault of the API, with ``Retry-After``,
    whether or not the decision is delayed.
    """

    def process_request(self, request: webob.Request) -> Any:
        try:
            return super().process_request(request)
        except webob.exc.HTTPServiceUnavailable as error:
            # What went wrong is in the log of keystonemiddleware already.
            why = f'keystonemiddleware: {error.detail}'
            return _fault(request, exceptions.Unavailable(operator=why))
        except _AWAY as error:
            why = ' '.join(f'keystonemiddleware: {type(error).__name__}: {error}'.split())
            return _fault(request, exceptions.Unavailable(operator=why))
        except webob.exc.HTTPException:
            raise
        except Exception as error:
            unexpected = exceptions.OsInterfaceError(operator='keystonemiddleware failed')
            unexpected.__cause__ = error
            return _fault(request, unexpected)

    def process_response(self, response: webob.Response) -> webob.Response:
        if response.status_int == 401:
            # That of the API behind says less than the one that is about to be added.
            response.headers.pop('WWW-Authenticate', None)
        return super().process_response(response)

    def fetch_token(self, token: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().fetch_token(token, *args, **kwargs)
        except auth_token_exceptions.InvalidToken as error:
            # It says this, too, of a Keystone that is away where the decision is delayed, and of a 404 that was
            # not about the token.
            cause = error.__context__
            if isinstance(cause, _AWAY) and not _is_of_the_token(cause):
                raise cause from error
            raise


def make(application: Any, conf: cfg.ConfigOpts, options: dict[str, str]) -> AuthToken:
    """The filter for a configuration.

    :param options: of the paste section, stronger than those of the configuration
    :raises ConfigurationError:
    """
    keystone_authtoken.register_opts(conf)
    made = AuthToken(application, {**options, 'oslo_config_config': conf})
    _check_cache(made._conf)
    return made


def _is_of_the_token(error: Exception) -> bool:
    """Whether Keystone has looked for the token, and not found it."""
    return (
        isinstance(error, ks_exceptions.NotFound)
        and error.method == 'GET'
        and str(error.url).partition('?')[0].endswith('/auth/tokens')
    )


def _check_cache(options: Any) -> None:
    """keystonemiddleware looks for its client of memcached when the first request comes."""
    if not options.get('memcached_servers'):
        return
    binary = options.get('memcache_sasl_enabled') or options.get('memcache_tls_enabled')
    module, package = ('bmemcached', 'python-binary-memcached') if binary else ('memcache', 'python-memcached')
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise exceptions.ConfigurationError(
            f'option [keystone_authtoken] memcached_servers: {module} cannot be imported ({error}): '
            f'install {package}, or leave the option out'
        ) from error


def _fault(request: webob.Request, error: exceptions.OsInterfaceError) -> Any:
    return faults.of_error(request.environ, error)
