"""The filters of oslo.middleware and keystonemiddleware, on the configuration of this project.

By themselves they look for a file that is called like the project or the program, and know nothing of
``$OS_INTERFACE_EXT_CONFIG_FILES``: an operator's ``[cors]`` or ``[keystone_authtoken]`` would not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import oslo_middleware
from oslo_config import cfg

from os_interface_ext import conf as config
from os_interface_ext import exceptions

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Make = Callable[[WSGIApplication | None, config.Config], WSGIApplication]


def http_proxy_to_wsgi(global_conf: Mapping[str, str], **local_conf: str) -> Callable[..., WSGIApplication]:
    """``[oslo_middleware] enable_proxy_headers_parsing``."""
    return _filter('http_proxy_to_wsgi', oslo_middleware.HTTPProxyToWSGI, **local_conf)


def cors(global_conf: Mapping[str, str], **local_conf: str) -> Callable[..., WSGIApplication]:
    """``[cors]``; without ``allowed_origin`` it adds nothing."""
    return _filter('cors', oslo_middleware.CORS, **local_conf)


def sizelimit(global_conf: Mapping[str, str], **local_conf: str) -> Callable[..., WSGIApplication]:
    """``[oslo_middleware] max_request_body_size``."""
    return _filter('sizelimit', oslo_middleware.RequestBodySizeLimiter, **local_conf)


def healthcheck(global_conf: Mapping[str, str], **local_conf: str) -> WSGIApplication:
    """``[healthcheck]``; an application: whether the process lives, and nothing of what is behind it."""
    return _filter('healthcheck', _healthcheck, **local_conf)(None)


def make_healthcheck(conf: config.Config) -> WSGIApplication:
    """The same for a configuration that is there already."""
    return _healthcheck(None, conf)


def _healthcheck(application: WSGIApplication | None, conf: config.Config) -> WSGIApplication:
    made: WSGIApplication = oslo_middleware.Healthcheck(application, conf)
    return made


def authtoken(
    global_conf: Mapping[str, str], config_file: str | None = None, **local_conf: str
) -> Callable[..., WSGIApplication]:
    """``[keystone_authtoken]``; options that stand in the paste file are stronger."""

    def make(application: WSGIApplication | None, conf: config.Config) -> WSGIApplication:
        try:
            from os_interface_ext.middleware import keystone
        except ImportError as error:
            raise exceptions.ConfigurationError(
                f'keystonemiddleware cannot be imported ({error}): install os-interface-ext[keystone], '
                'or choose another [api] auth_strategy'
            ) from error
        return keystone.make(application, conf, local_conf)

    return _filter('authtoken', make, config_file)


def _filter(
    name: str, make: Make, config_file: str | None = None, **unknown: str
) -> Callable[[WSGIApplication | None], WSGIApplication]:
    if unknown:
        raise exceptions.ConfigurationError(
            f'paste section of {name}: {", ".join(sorted(unknown))} is not read here: '
            'move it to the configuration file, or name another one with config_file'
        )

    def factory(application: WSGIApplication | None) -> WSGIApplication:
        conf = config.new([config_file] if config_file else None)
        try:
            made = make(application, conf)
        except exceptions.ConfigurationError:
            raise
        except Exception as error:
            if isinstance(error, cfg.Error):
                # It knows better which option it was.
                config.check(conf)
            why = ' '.join(f'{type(error).__name__}: {error}'.split())
            raise exceptions.ConfigurationError(f'{name} cannot be started: {why}') from error
        config.check(conf)
        return made

    return factory
