"""``os-interface-ext serve``: a small cloud controller with the plug-in in it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

import os_interface_ext
from os_interface_ext import conf as config
from os_interface_ext import exceptions, paths
from os_interface_ext.cmd import common
from os_interface_ext.conf import Config
from os_interface_ext.db import schema
from os_interface_ext.db.engine import Database
from os_interface_ext.extension import Extension
from os_interface_ext.inventory import loader
from os_interface_ext.middleware import configured
from os_interface_ext.middleware.composite import URLMap
from os_interface_ext.observability import logs
from os_interface_ext.standalone import app, background, process, seed, transactions

_DEMO = 'demo-inventory.yaml'


def run(options: argparse.Namespace) -> int:
    """Prepare everything, listen, and serve until a signal ends it."""
    logs.setup(config.files_of(options.config_file), json=options.log_json)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    _check_host(options)
    sock = process.bind(options.host, options.port)
    conf = common.configuration(options)
    with _temporary_database(conf) as is_temporary, _temporary_metrics(conf):
        database = Database.of(conf)
        schema.upgrade(database)
        # What is wrong with the drivers is told before anything is loaded; the workers make their own.
        Extension(conf)
        file = _seed(database, options)
        process.listen(sock)
        _announce(conf, sock, is_temporary=is_temporary)
        database.dispose()
        reset_to = file if options.allow_reset else None
        process.Server(sock, options.workers, lambda: _controller(conf, reset_to)).run()
    return 0


def _controller(conf: Config, reset_to: seed.InventoryFile | None) -> app.WSGIApplication:
    """What each worker runs."""
    extension = Extension(conf)
    controller = app.create(conf, reset_to, extension=extension)
    background.start(extension.parts.reconciler)
    return URLMap(
        {
            '/': controller,
            '/healthcheck': configured.make_healthcheck(conf),
            '/healthcheck/ready': extension.ready(),
            '/metrics': extension.metrics(),
        }
    )


def _end(_number: int, _frame: Any) -> None:
    sys.exit(0)


def _check_host(options: argparse.Namespace) -> None:
    """:raises ConfigurationError: others could reach the address, and nobody has said that they may"""
    if not options.not_loopback and not _is_loopback(options.host):
        raise exceptions.ConfigurationError(
            f'--host {options.host}: others may reach this address, and the tokens of this server are for '
            'development: listen at 127.0.0.1, or add --i-know-this-is-not-for-production'
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
        return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _temporary_database(conf: Config) -> Iterator[bool]:
    """A database for this run alone, where neither the command line nor a file names one."""
    location = conf.get_location('connection', 'database')
    if location is None or location.location is not cfg.Locations.opt_default:
        yield False
        return
    with _temporary_folder() as folder:
        conf.set_override('connection', f'sqlite:///{folder}/serve.sqlite', group='database')
        yield True


@contextlib.contextmanager
def _temporary_metrics(conf: Config) -> Iterator[None]:
    """A directory for what the workers count, where none is configured and it can be counted."""
    if conf.metrics.directory or importlib.util.find_spec('prometheus_client') is None:
        yield
        return
    with _temporary_folder() as folder:
        conf.set_override('directory', folder, group='metrics')
        yield


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix='os-interface-ext-')
    maker = os.getpid()
    try:
        yield folder
    finally:
        # Workers leave through here as well.
        if os.getpid() == maker:
            shutil.rmtree(folder, ignore_errors=True)


def _seed(database: Database, options: argparse.Namespace) -> seed.InventoryFile | None:
    """Load what is to be loaded; the file that it came from, or would come from."""
    path = options.inventory
    if path is None and (options.allow_reset or seed.is_empty(database)):
        path = paths.find(_DEMO)
    if path is None:
        return None
    file = seed.InventoryFile(path)
    try:
        seed.prepare(database, file, replace=options.replace)
    except loader.InventoryError as error:
        more = len(error.errors) - 1
        cure = f' (and {more} more: "os-interface-ext inventory load" tells all)' if more else ''
        raise exceptions.ConfigurationError(f'{path}: {error.errors[0]}{cure}') from error
    return file


# ------------------------------------------------------------------ the greeting


def _announce(conf: Config, sock: socket.socket, *, is_temporary: bool) -> None:
    database = Database.of(conf)
    host, port = sock.getsockname()[:2]
    base = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
    with transactions.reading(database) as connection:
        document = loader.export(connection)
    drivers = conf.os_interface
    lines = [
        f'os-interface-ext {os_interface_ext.__version__} listens at {base}',
        f'drivers: server {drivers.server_driver}, network {drivers.network_driver}, VIF {drivers.vif_driver}',
        f'database: {database.url}' + (' (temporary; --database keeps it)' if is_temporary else ''),
        *_first_calls(base, document),
    ]
    print('\n'.join(lines), flush=True)


def _first_calls(base: str, document: dict[str, Any]) -> list[str]:
    """Lines to copy into a shell; none where nobody could call."""
    found = _first_caller(document)
    if found is None:
        return []
    caller, server = found
    user = caller['user_name'] or caller['user_id']
    variables = {
        'OS_AUTH_URL': f'{base}/v3',
        'OS_USERNAME': user,
        'OS_PASSWORD': caller['token'],
        'OS_PROJECT_ID': caller['project_id'],
        'OS_USER_DOMAIN_ID': 'default',
        'OS_IDENTITY_API_VERSION': '3',
    }
    token = shlex.quote(f'X-Auth-Token: {caller["token"]}')
    url = shlex.quote(f'{base}/v2.1/servers/{server["id"]}/os-interface')
    exports = ' '.join(f'{name}={shlex.quote(value)}' for name, value in variables.items())
    return [
        'try:',
        f'  curl -s -H {token} {url}',
        f'  export {exports}',
        f'  openstack server show {shlex.quote(server["name"] or server["id"])} -c name -c addresses',
    ]


def _first_caller(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A caller with a server; one who may attach to it if there is one."""
    pairs = [
        (caller, server)
        for caller in document['callers']
        for server in document['servers']
        if server['project_id'] == caller['project_id']
    ]
    return max(pairs, key=lambda pair: _usefulness(*pair), default=None)


def _usefulness(caller: dict[str, Any], server: dict[str, Any]) -> tuple[int, ...]:
    return (
        'member' in caller['roles'],
        'admin' not in caller['roles'],
        server['vm_state'] == 'active' and not server['task_state'] and not server['locked_by'],
        -len(caller['roles']),
    )
