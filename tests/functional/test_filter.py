"""A WSGI application behind the filter gets all that is not ours, as the server sent it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import handlers
from wsgiref.validate import validator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from os_interface_ext.context import RequestContext
from os_interface_ext.extension import Extension
from os_interface_ext.middleware.composite import URLMap
from os_interface_ext.wsgi.paste import Filter, filter_factory, make_application

from .conftest import NAMES, World

SERVER = NAMES['srv_active']
OURS = [f'/servers/{SERVER}/os-interface', f'/servers/{SERVER}/os-interface/{NAMES["p_active"]}']
PREFIXES = ['', '/v2.1', '/compute/v2.1', '/v2.1+x(y)']


class Body(io.BytesIO):
    """A body that must not be read."""

    def refuse(self, *args: Any) -> Any:
        raise AssertionError('the body was read before the application wanted it')

    read = readline = readlines = __iter__ = refuse


class Pages:
    """An iterable that tells what was done with it."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for page in (b'one', b'two'):
            self.taken += 1
            yield page

    def close(self) -> None:
        self.closed += 1


class Application:
    """No Flask: keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []
        self.pages = Pages()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Pages:
        self.calls.append((environ, start_response))
        return self.pages


def environ_of(path: str, method: str = 'GET', **more: Any) -> dict[str, Any]:
    return {
        'REQUEST_METHOD': method,
        'SCRIPT_NAME': '',
        'PATH_INFO': path,
        'QUERY_STRING': 'a=%2F&b=1;c=+&a=%2f',
        'SERVER_NAME': 'host.example',
        'SERVER_PORT': '8774',
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'HTTP_X_AUTH_TOKEN': 'a token',
        'HTTP_X_STRANGE': '\xe9\xff',
        'CONTENT_TYPE': 'application/json',
        'CONTENT_LENGTH': '7',
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': 'http',
        'wsgi.input': Body(b'{"a":1}'),
        'wsgi.errors': sys.stderr,
        'wsgi.multithread': True,
        'wsgi.multiprocess': True,
        'wsgi.run_once': False,
        'RAW_URI': path + '?raw',
        'werkzeug.request': None,
        **more,
    }


@pytest.fixture
def extension(world: World) -> Extension:
    def member(environ: Any) -> RequestContext:
        return RequestContext(user_id='u', project_id=NAMES['project_a'], roles=['member', 'reader'])

    return Extension(world.conf, identity=member)


def untouched(filtered: Any, application: Application, environ: dict[str, Any]) -> bool:
    """Whether the application was called with exactly what the server gave, and its answer came back."""
    before = dict(environ)

    def start_response(*args: Any) -> Any:
        raise AssertionError('nobody but the application may answer')

    application.calls.clear()
    answer = filtered(environ, start_response)
    if not application.calls:
        return False
    ((seen, seen_start_response),) = application.calls
    assert seen is environ
    assert seen_start_response is start_response
    assert environ == before
    assert all(environ[key] is before[key] for key in before)
    assert answer is application.pages
    assert application.pages.taken == 0
    assert application.pages.closed == 0
    return True


def is_taken(filtered: Any, application: Application, environ: dict[str, Any]) -> bool:
    """Whether the filter answered by itself."""
    environ |= {'wsgi.input': io.BytesIO(), 'CONTENT_LENGTH': '0'}
    application.calls.clear()
    statuses: list[str] = []
    list(filtered(environ, lambda status, headers, exc_info=None: statuses.append(status)))
    assert bool(application.calls) != bool(statuses)
    return not application.calls


NOT_OURS = [
    '',
    '/',
    '//',
    '*',
    '/servers',
    f'/servers/{SERVER}',
    f'/servers/{SERVER}/',
    f'/servers/{SERVER}/os-interfaces',
    f'/servers/{SERVER}/os-interface/',
    f'/servers/{SERVER}/os-interface//',
    f'/servers/{SERVER}//os-interface',
    f'/servers//{SERVER}/os-interface',
    f'//servers/{SERVER}/os-interface',
    f'/servers/{SERVER}/os-interface.json',
    f'/servers/{SERVER}/os-interface\n',
    f'/servers/{SERVER}/os-interface/x/',
    f'/servers/{SERVER}/os-interface/x/y',
    f'/servers/{SERVER}/os-interface/x//',
    f'/servers/{SERVER}/OS-Interface',
    f'/Servers/{SERVER}/os-interface',
    f'/servers/{SERVER}/os-interface-extra/x',
    f'/servers/{SERVER}/ips/os-interface',
    '/servers/os-interface',
    '/servers//os-interface',
    '/os-interface',
    f'/a/b/servers/{SERVER}/os-interface',
    f'//a/servers/{SERVER}/os-interface',
    f'/a//servers/{SERVER}/os-interface',
    f'servers/{SERVER}/os-interface',
    f'/x{OURS[0]}/../..',
    f'/serversx/{SERVER}/os-interface',
    '/images/caf\xc3\xa9/a\xff\x00%2Fb',
    '/servers/a%2Fb/os-interface%2F',
]


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('method', ['GET', 'POST', 'DELETE', 'OPTIONS', 'PROPFIND'])
def test_what_is_not_ours_goes_on_untouched(extension: Extension, prefix: str, method: str) -> None:
    application = Application()
    filtered = Filter(application, extension, prefix)
    for path in NOT_OURS:
        assert untouched(filtered, application, environ_of(prefix + path, method)), path
        # What the prefix is missing from, or stands in twice, is not ours either.
        if prefix:
            assert untouched(filtered, application, environ_of(path, method)), path
    for path in OURS:
        assert is_taken(filtered, application, environ_of(prefix + path, method))
        assert untouched(filtered, application, environ_of('/x/x' + prefix + path, method))


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('project', ['', f'/{NAMES["project_a"]}'])
def test_what_is_ours_is_answered(extension: Extension, prefix: str, project: str) -> None:
    application = Application()
    filtered = Filter(application, extension, prefix)
    for path in OURS:
        statuses: list[str] = []
        environ = environ_of(
            prefix + project + path, QUERY_STRING='', CONTENT_LENGTH='0', **{'wsgi.input': io.BytesIO()}
        )
        body = b''.join(filtered(environ, lambda status, *args: statuses.append(status)))  # noqa: B023
        assert statuses == ['200 OK']
        assert NAMES['p_active'].encode() in body
    assert application.calls == []


def test_unknown_methods_on_our_urls_are_faults(extension: Extension) -> None:
    filtered = Filter(Application(), extension)
    for path in OURS:
        for method in ('PROPFIND', 'BREW', 'PUT', 'TRACE'):
            started: list[Any] = []
            environ = environ_of(path, method, CONTENT_LENGTH='0', **{'wsgi.input': io.BytesIO()})
            body = b''.join(filtered(environ, lambda *args: started.append(args)))  # noqa: B023
            ((status, headers),) = [args[:2] for args in started]
            assert status.startswith('405 ')
            assert 'GET' in dict(headers)['Allow']
            assert body.startswith(b'{"badMethod":{"code":405')


@pytest.mark.parametrize('name', ['', '/front'])
def test_below_a_urlmap_that_has_moved_the_prefix(extension: Extension, name: str) -> None:
    """SCRIPT_NAME has ``/v2.1``; the filter knows no prefix."""
    application, rest = Application(), Application()
    mapped = URLMap({'/v2.1': Filter(application, extension), '/': rest})

    environ = environ_of('/v2.1/servers/detail', SCRIPT_NAME=name)
    body = environ['wsgi.input']
    assert mapped(environ, lambda *args: None) is application.pages
    ((seen, _),) = application.calls
    assert seen is environ
    assert (seen['SCRIPT_NAME'], seen['PATH_INFO']) == (f'{name}/v2.1', '/servers/detail')
    assert seen['wsgi.input'] is body
    assert set(seen) == set(environ_of('/'))

    for path in OURS:
        assert is_taken(mapped, application, environ_of(f'/v2.1{path}', SCRIPT_NAME=name))
        assert not is_taken(mapped, application, environ_of(f'/v2.1/v2.1/x{path}', SCRIPT_NAME=name))
        assert not is_taken(mapped, rest, environ_of(path, SCRIPT_NAME=name))
        assert not is_taken(mapped, rest, environ_of(f'/v2.1x{path}', SCRIPT_NAME=name))


def test_in_front_of_a_urlmap(extension: Extension) -> None:
    """Nothing has been moved yet: the filter knows the prefix."""
    application, rest = Application(), Application()
    filtered = Filter(URLMap({'/v2.1': application, '/': rest}), extension, '/v2.1')
    environ = environ_of('/v2.1/servers/detail')
    assert filtered(environ, lambda *args: None) is application.pages
    assert (environ['SCRIPT_NAME'], environ['PATH_INFO']) == ('/v2.1', '/servers/detail')
    for path in OURS:
        assert is_taken(filtered, application, environ_of(f'/v2.1{path}'))
        assert not is_taken(filtered, rest, environ_of(path))


def test_the_whole_of_wsgi_reaches_the_application(extension: Extension) -> None:
    """write(), exc_info, and close() by the server."""
    written = io.BytesIO()
    pages = Pages()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Pages:
        start_response('200 OK', [('X-First', 'yes')])
        try:
            raise LookupError('of the application')
        except LookupError:
            write = start_response('500 Sorry', [('X-Second', 'yes')], sys.exc_info())
        write(b'zero')
        assert environ['wsgi.input'].getvalue() == b'{"a":1}'
        return pages

    class Server(handlers.SimpleHandler):
        os_environ = {}
        http_version = '1.1'

    environ = environ_of('/images')
    server = Server(environ['wsgi.input'], written, io.StringIO(), environ)
    server.run(Filter(application, extension))
    head, _, body = written.getvalue().partition(b'\r\n\r\n')
    assert body == b'zeroonetwo'
    assert b'500 Sorry' in head
    assert b'X-Second' in head
    assert b'X-First' not in head
    assert (pages.taken, pages.closed) == (2, 1)


def test_an_error_of_the_application_is_the_servers(extension: Extension) -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        raise LookupError('of the application')

    with pytest.raises(LookupError, match='of the application'):
        Filter(application, extension)(environ_of('/images'), lambda *args: None)


def test_a_generator_is_not_begun(extension: Extension) -> None:
    begun: list[str] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        begun.append(environ['PATH_INFO'])
        start_response('200 OK', [])
        yield b'late'

    answer = Filter(application, extension)(environ_of('/images'), lambda *args: None)
    assert begun == []
    assert list(answer) == [b'late']


def test_our_own_answers_are_wsgi_too(extension: Extension) -> None:
    checked = validator(make_application(extension))
    for path in [*OURS, '/elsewhere']:
        environ = environ_of(path, CONTENT_LENGTH='0', **{'wsgi.input': io.BytesIO()})
        del environ['werkzeug.request']
        answer = checked(environ, lambda status, headers, exc_info=None: lambda data: None)
        try:
            assert b''.join(answer)
        finally:
            answer.close()


def test_a_path_is_not_required(extension: Extension) -> None:
    """PATH_INFO may be absent where it is empty."""
    application = Application()
    environ = environ_of('')
    del environ['PATH_INFO']
    assert untouched(Filter(application, extension), application, environ)


@pytest.mark.parametrize('written', ['', '/', 'v2.1', '/v2.1', '/v2.1/', 'v2.1/'])
def test_the_prefix_of_a_paste_section(world: World, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.database.engine.url.database
    file = path + '.conf'
    with open(file, 'w') as out:
        out.write(f'[database]\nconnection = sqlite:///{path}\n')
    application = Application()
    filtered = filter_factory({}, config_file=file, url_prefix=written)(application)
    prefix = '/v2.1' if 'v' in written else ''
    for ours in OURS:
        assert is_taken(filtered, application, environ_of(prefix + ours))
        assert not is_taken(filtered, application, environ_of('/other/x' + ours))


def independently(path: str, prefix: str) -> bool:
    """What design and README say, without a regular expression."""
    if not path.startswith(prefix):
        return False
    first, *parts = path[len(prefix) :].split('/')
    if first or not all(parts):
        return False
    for shape in (['servers', None, 'os-interface'], ['servers', None, 'os-interface', None]):
        for whole in (shape, [None, *shape]):
            if len(whole) == len(parts) and all(
                want is None or want == part for want, part in zip(whole, parts, strict=True)
            ):
                return True
    return False


PIECES = st.one_of(
    st.sampled_from(
        [
            'servers',
            'os-interface',
            'os-interfaces',
            '',
            '.',
            '..',
            'v2.1',
            SERVER,
            'a\nb',
            '\n',
            '%2F',
            '\xff\xfe',
            ';x',
        ]
    ),
    st.text(st.characters(max_codepoint=255, exclude_characters='/'), max_size=5),
)
NEARLY_OURS = st.builds(
    lambda before, project, server, port, after: ''.join(
        [before, *project, '/servers/', server, '/os-interface', *port, after]
    ),
    st.sampled_from(['', '/v2.1', '/v2.1/v2.1', '/', 'x']),
    st.one_of(st.just([]), PIECES.map(lambda piece: ['/', piece])),
    PIECES,
    st.one_of(st.just([]), PIECES.map(lambda piece: ['/', piece])),
    st.sampled_from(['', '', '', '/', '\n', '//', '/x', '.json', '\0']),
)
PATHS = st.one_of(
    NEARLY_OURS,
    st.lists(PIECES, max_size=8).map(lambda pieces: '/' + '/'.join(pieces)),
    st.text(st.characters(max_codepoint=255), max_size=40),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, method=st.sampled_from(['GET', 'POST', 'DELETE', 'PUT', 'HEAD', 'OPTIONS']))
def test_the_filter_takes_what_is_ours_and_nothing_else(extension: Extension, path: str, method: str) -> None:
    for prefix in ('', '/v2.1'):
        application = Application()
        filtered = Filter(application, extension, prefix)
        environ = environ_of(path, method, CONTENT_LENGTH='0', **{'wsgi.input': io.BytesIO()})
        if not independently(path, prefix):
            assert untouched(filtered, application, environ)
            continue
        started: list[tuple[str, Any]] = []
        list(filtered(environ, lambda status, headers, exc_info=None: started.append((status, headers))))  # noqa: B023
        assert application.calls == []
        # What is taken finds its operation: never a redirect, a 404 in HTML, or a 500.
        ((status, headers),) = started
        assert int(status[:3]) in (200, 202, 400, 404, 405, 409, 415)
        if method != 'OPTIONS':
            assert dict(headers)['x-openstack-request-id'].startswith('req-')
            assert 'json' in dict(headers)['Content-Type']
