"""Front door 2: factories for PasteDeploy: the API as an application, and as a filter before another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from werkzeug.wrappers import Request

from os_interface_ext import conf as config
from os_interface_ext import deploy, exceptions
from os_interface_ext.api import faults, views
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.extension import Extension

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Filter:
    """Answers the URLs of the port interfaces API; every other request goes on untouched.

    Without Flask in between: the expression that tells whose a URL is has found its parts as well, and what
    Flask does around a view costs as much as half of a list.

    :param application: the next application of the pipeline
    :param extension: what answers
    :param url_prefix: what stands before ``/servers`` in PATH_INFO (a urlmap may have moved it away)
    """

    def __init__(self, application: WSGIApplication, extension: Extension, url_prefix: str = '') -> None:
        self._application = application
        self._collection, self._item = views.handlers(extension.parts.api)
        self._match = re.compile(
            re.escape(url_prefix)
            + r'(?:/(?P<project_id>[^/]+))?/servers/(?P<server_id>[^/]+)/os-interface(?:/(?P<port_id>[^/]+))?',
            re.DOTALL,
        ).fullmatch

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if '/os-interface' in (path := environ.get('PATH_INFO', '')) and (match := self._match(path)):
            parts = {name: _decoded(part) for name, part in match.groupdict().items() if part is not None}
            handler = self._item if 'port_id' in parts else self._collection
            return handler(Request(environ), **parts)(environ, start_response)
        return self._application(environ, start_response)


def _decoded(part: str) -> str:
    """A part of PATH_INFO as the text that the client meant (PEP 3333 has its bytes as Latin-1)."""
    return part if part.isascii() else part.encode('latin-1').decode(errors='replace')


def make_application(extension: Extension, url_prefix: str = '') -> WSGIApplication:
    """The API alone, as a WSGI application; other URLs are not found."""
    return Filter(_not_found, extension, url_prefix)


def api_factory(
    global_conf: Mapping[str, str],
    config_file: str | None = None,
    url_prefix: str = '',
    auth_strategy: str = '',
    **local_conf: str,
) -> WSGIApplication:
    """``use = egg:os-interface-ext#api``, with ``config_file``, ``url_prefix`` and ``auth_strategy``.

    ``auth_strategy = keystone`` warns of drivers that are for development.
    """
    _refuse_unknown('app', local_conf)
    return make_application(_extension(config_file, auth_strategy), _prefix(url_prefix))


def filter_factory(
    global_conf: Mapping[str, str],
    config_file: str | None = None,
    url_prefix: str = '',
    auth_strategy: str = '',
    **local_conf: str,
) -> Callable[[WSGIApplication], Filter]:
    """``use = egg:os-interface-ext#os_interface``; options as those of the application."""
    _refuse_unknown('filter', local_conf)
    extension = _extension(config_file, auth_strategy)
    return lambda application: Filter(application, extension, _prefix(url_prefix))


def metrics_factory(
    global_conf: Mapping[str, str], config_file: str | None = None, **local_conf: str
) -> WSGIApplication:
    """``use = egg:os-interface-ext#metrics``, with ``config_file``: what all processes have counted."""
    _refuse_unknown('app', local_conf, 'config_file')
    conf = config.new([config_file] if config_file else None)
    database = Database.of(conf)
    schema.require_current(database)
    application = deploy.metrics_application(conf, deploy.make_metrics(conf), database)
    database.dispose()
    return application


def ready_factory(
    global_conf: Mapping[str, str], config_file: str | None = None, **local_conf: str
) -> WSGIApplication:
    """``use = egg:os-interface-ext#ready``, with ``config_file``: whether database and drivers can be used."""
    _refuse_unknown('app', local_conf, 'config_file')
    conf = config.new([config_file] if config_file else None)
    return deploy.ready_application(conf)


def _refuse_unknown(
    kind: str, options: Mapping[str, str], known: str = 'config_file, url_prefix, auth_strategy'
) -> None:
    if options:
        raise exceptions.ConfigurationError(
            f'paste {kind} of os-interface-ext: unknown options {", ".join(sorted(options))}: '
            f'remove them (known: {known})'
        )


def _extension(config_file: str | None, auth_strategy: str) -> Extension:
    conf = config.new([config_file] if config_file else None)
    if auth_strategy not in ('', 'keystone', 'static_tokens'):
        raise exceptions.ConfigurationError(
            f'paste option auth_strategy: {auth_strategy!r} is unknown: set keystone or static_tokens'
        )
    extension = Extension(conf)
    if auth_strategy == 'keystone':
        deploy.warn_of_development_drivers(conf)
    return extension


def _prefix(url_prefix: str) -> str:
    return '/' + url_prefix.strip('/') if url_prefix.strip('/') else ''


def _not_found(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return faults.not_found(environ)(environ, start_response)
