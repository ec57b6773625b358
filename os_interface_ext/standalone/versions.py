"""The version documents, and the description of the Compute API: for clients that have no token yet."""

from __future__ import annotations

from typing import Any

import flask
from werkzeug.wrappers import Response

from os_interface_ext.api import description, microversions

#: Where the network API stands once more: clients of it look for a version document at its root.
NETWORK_ROOT = '/network'

#: These want no token.
PATHS = tuple(
    path + slash
    for path in ('', '/v2.1', '/v3', '/v2.0', NETWORK_ROOT, f'{NETWORK_ROOT}/v2.0')
    for slash in ('', '/')
) + tuple(f'/v2.1/{file}' for file in description.FILES)


def blueprint(max_microversion: str) -> flask.Blueprint:
    """``/``, and the document of each version at its own URL."""
    bp = flask.Blueprint('versions', __name__)

    def compute() -> dict[str, Any]:
        return microversions.document(max_microversion, flask.request.host_url + 'v2.1/')

    def identity() -> dict[str, Any]:
        return {'id': 'v3.14', 'status': 'stable', 'updated': '2020-04-07T00:00:00Z', 'links': _links('v3/')}

    def network() -> dict[str, Any]:
        return {'id': 'v2.0', 'status': 'CURRENT', 'links': _links(f'{NETWORK_ROOT[1:]}/v2.0/')}

    def described(file: str) -> Response:
        return description.response(flask.request.environ, file, max_microversion, flask.request.host_url + 'v2.1')

    for file in description.FILES:
        bp.add_url_rule(f'/v2.1/{file}', file.replace('.', '_'), described, defaults={'file': file})
    _add(bp, '/', 'compute_versions', lambda: {'versions': [compute()]})
    _add(bp, '/v2.1', 'compute_version', lambda: {'version': compute()})
    _add(bp, '/v3', 'identity_version', lambda: {'version': identity()})
    _add(bp, NETWORK_ROOT, 'network_versions', lambda: {'versions': [network()]})
    for prefix in ('', NETWORK_ROOT):
        _add(bp, f'{prefix}/v2.0', f'network_version{prefix.replace("/", "_")}', lambda: {'version': network()})
    return bp


def _add(bp: flask.Blueprint, path: str, endpoint: str, view: Any) -> None:
    bp.add_url_rule(path, endpoint, view)
    if path != '/':
        bp.add_url_rule(f'{path}/', f'{endpoint}_slash', view)


def _links(path: str) -> list[dict[str, str]]:
    return [{'rel': 'self', 'href': flask.request.host_url + path}]
