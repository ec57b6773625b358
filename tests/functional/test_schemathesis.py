"""schemathesis against the API over WSGI: what it answers is what its description says, whatever is sent.

Its engine runs with all phases and all checks on the controller of ``serve``: SQLite in a file, static tokens.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import StopReason, events, from_schema
from schemathesis.engine.statistic import Statistic
from schemathesis.transport.wsgi import WSGITransport

from os_interface_ext import exceptions
from os_interface_ext.api import description, faults, microversions
from os_interface_ext.standalone import app

from .conftest import NAMES, TOKENS, Build, Report

SCALE = float(os.environ.get('OS_INTERFACE_EXT_TEST_SCALE', '0.1'))
SEED = 20261125
#: What the engine makes up for one operation, in each phase. At a small scale most cases are of the phases that
#: are always whole.
EXAMPLES = max(5, round(250 * SCALE**1.3))

MEMBERS = ('a_member', 'b_member')
#: run -> version that is asked for (None: no header), caller; each range of versions, at its first or last
RUNS: dict[str, tuple[str | None, str]] = {
    'no version header': (None, 'a_member'),
    '2.48, administrator': ('2.48', 'admin'),
    '2.69': ('2.69', 'a_member'),
    '2.70': ('2.70', 'a_member'),
    'latest': ('latest', 'a_member'),
}
CHECKS = {
    'allow_header_conformance',
    'content_type_conformance',
    'ensure_resource_availability',
    'good_form_is_never_called_bad',
    'ignored_auth',
    'missing_required_header',
    'negative_data_rejection',
    'not_a_server_error',
    'object_level_authorization',
    'positive_data_acceptance',
    'response_headers_conformance',
    'response_schema_conformance',
    'status_code_conformance',
    'unsupported_method',
    'use_after_free',
}
#: What a well-formed request is never told, whatever the state of the cloud.
OF_FORM = {
    error.error_code
    for error in (
        exceptions.BadRequest,
        exceptions.MalformedVersion,
        exceptions.MalformedQuery,
        exceptions.MalformedBody,
        exceptions.InvalidBody,
        exceptions.UnknownParameter,
    )
}


@schemathesis.check
def good_form_is_never_called_bad(ctx: Any, response: Any, case: Any) -> None:
    """What `positive_data_acceptance` asks for, where 400 may be about the state of the cloud as well."""
    if case.meta is not None and case.meta.generation.mode.is_positive:
        told = response.headers.get(faults.ERROR_HEADER.lower(), [''])[0]
        assert told not in OF_FORM, f'a well-formed request was answered with {told}'


@pytest.fixture(autouse=True)
def _probes_over_wsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes of `ignored_auth` bring along what only a network takes; they fail over WSGI with it (4.32)."""
    send = WSGITransport.send

    def without(self: WSGITransport, case: Any, **kwargs: Any) -> Any:
        kept = {name: value for name, value in kwargs.items() if name not in ('max_redirects', 'verify', 'cert')}
        return send(self, case, **kept)

    monkeypatch.setattr(WSGITransport, 'send', without)


def version_header(version: str | None) -> dict[str, str]:
    return {} if version is None else {microversions.STANDARD_HEADER: f'compute {version}'}


#: Ids of the cloud, few enough, and often enough the same, for those that belong together to meet.
KNOWN = {
    'servers': [*['srv_active'] * 6, *['srv_task'] * 3, 'srv_stopped', 'srv_locked', 'srv_b'],
    'ports': [*['p_active'] * 3, 'p_free', 'p_free2', 'p_free_b', 'p_multi_a'],
    'networks': ['net1', 'net1', 'net2', 'net2', 'net_full', 'net_ext', 'net_b'],
    'projects': ['project_a'],
}


def configuration(folder: pathlib.Path, version: str | None, who: str) -> SchemathesisConfig:
    auth: dict[str, Any] = {'openapi': {'token': {'api_key': TOKENS[who]}}}
    if who in MEMBERS:
        # Two projects, neither of which may see what the other one has.
        callers = folder / 'callers.json'
        headers = [
            {'name': name, 'fixedHeaders': [{'name': 'X-Auth-Token', 'value': TOKENS[name]}]} for name in MEMBERS
        ]
        callers.write_text(json.dumps({'auth': headers}))
        auth = {'wfc': {'path': str(callers), 'user': who, 'peers': list(MEMBERS)}}
    often, mostly = {'probability': 0.8}, {'probability': 0.95}
    return SchemathesisConfig.from_dict(
        {
            'seed': SEED,
            'headers': version_header(version),
            'auth': auth,
            'generation': {'max-examples': EXAMPLES},
            # What 400 may be: see `good_form_is_never_called_bad`.
            'checks': {
                'positive_data_acceptance': {'expected-statuses': ['2xx', '400', '401', '403', '404', '409']}
            },
            'dictionaries': {kind: {'values': [NAMES[name] for name in names]} for kind, names in KNOWN.items()},
            'parameters': {
                'path.server_id': {'dictionary': 'servers', **mostly},
                'path.port_id': {'dictionary': 'ports', **mostly},
                'path.project_id': {'dictionary': 'projects', **mostly},
                'body.interfaceAttachment.port_id': {'dictionary': 'ports', **often},
                'body.interfaceAttachment.net_id': {'dictionary': 'networks', **often},
            },
        }
    )


def load(application: Any, version: str | None, config: SchemathesisConfig | None = None) -> Any:
    """The description as it is served, without the version headers: others ask for another description."""
    served = schemathesis.openapi.from_wsgi(
        '/v2.1/openapi.json', application, headers=version_header(version)
    ).raw_schema
    for path in served['paths'].values():
        for operation in path.values():
            if isinstance(operation, dict):
                kept = [one for one in operation['parameters'] if not one['$ref'].endswith('-API-Version')]
                assert len(kept) == len(operation['parameters']) - 2
                operation['parameters'] = kept
    schema = schemathesis.openapi.from_dict(served, config=config)
    schema.app = application
    return schema


@pytest.mark.parametrize('run', RUNS)
def test_every_answer_is_described(build: Build, run: str, report: Report, tmp_path: pathlib.Path) -> None:
    version, who = RUNS[run]
    world = build()
    application = app.create(world.conf, extension=world.extension)
    schema = load(application, version, configuration(tmp_path, version, who))
    statistic = Statistic()
    checks: set[str] = set()
    phases: collections.Counter[str] = collections.Counter()
    answers: collections.Counter[int] = collections.Counter()
    done: set[tuple[str, int]] = set()
    told: set[str] = set()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            statistic.on_scenario_finished(event.recorder)
            phases[event.phase.value] += len(event.recorder.cases)
            checks |= {check.name for made in event.recorder.checks.values() for check in made}
            for one in event.recorder.interactions.values():
                if one.response is not None:
                    answers[one.response.status_code] += 1
                    done.add((one.request.method, one.response.status_code))
                    told |= set(one.response.headers.get(faults.ERROR_HEADER.lower(), ()))
        elif isinstance(event, events.NonFatalError):
            raise event.value
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.EngineFinished):
            assert event.stop_reason is StopReason.COMPLETED
    report(
        'schemathesis',
        f'{run}: {statistic.total_cases} cases ({_counts(phases)}), {len(checks)} checks, '
        f'{statistic.total_failures} failures; answers {_counts(answers)}; {len(told)} error codes; seed {SEED}',
    )
    found = [group for groups in statistic.failures.values() for group in groups.values()]
    assert not found, '\n\n'.join(
        group.format(index=number, curl=group.code_sample, config=schema.config.output)
        for number, group in enumerate(found[:5], 1)
    )
    assert checks == CHECKS
    assert set(phases) == {'examples', 'coverage', 'fuzzing', 'stateful'}
    assert {400, 401, 404, 405, 409, 415} <= set(answers)
    assert {('GET', 200), ('POST', 200), ('DELETE', 202)} <= done


def _counts(counter: collections.Counter[Any]) -> str:
    return ', '.join(f'{key} {value}' for key, value in sorted(counter.items(), key=lambda item: str(item[0])))


# ------------------------------------------------------------------ the version headers

_NUMBERS = st.integers(0, 120) | st.sampled_from([1, 48, 49, 69, 70, 101, 102, 104, 105])
_VERSIONS = st.one_of(
    st.builds(lambda minor: f'2.{minor}', _NUMBERS),
    st.sampled_from(['latest', '', '2', '2.', '2.070', '3.1', '1.1', '2.1.1', '-2.1', '٢.١', '2.' + '9' * 300]),
    st.text(st.characters(codec='latin-1', categories=['L', 'N', 'P', 'S']), max_size=12),
)
_SERVICES = st.sampled_from(['compute ', 'compute', '', 'volume ', 'volume 3.1, compute ', 'COMPUTE '])


def test_any_version_headers(build: Build, report: Report) -> None:
    """Whatever a version header says, the answer is described by the description of the version that it names."""
    world = build()
    application = app.create(world.conf, extension=world.extension)
    schemas = {scope: load(application, scope.versions[0]) for scope in description.ranges()}
    answers: collections.Counter[int] = collections.Counter()
    path = '/servers/{server_id}/os-interface'

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=round(3000 * SCALE), deadline=None, database=None)
    @hypothesis.given(
        standard=st.none() | st.builds(str.__add__, _SERVICES, _VERSIONS),
        legacy=st.none() | _VERSIONS,
        item=st.booleans(),
        method=st.sampled_from(['GET', 'POST', 'DELETE']),
    )
    def ask(standard: str | None, legacy: str | None, item: bool, method: str) -> None:
        headers = {'X-Auth-Token': TOKENS['a_member']}
        if standard is not None:
            headers[microversions.STANDARD_HEADER] = standard.encode().decode('latin-1')
        if legacy is not None:
            headers[microversions.LEGACY_HEADER] = legacy.encode().decode('latin-1')
        hypothesis.assume((item, method) not in ((True, 'POST'), (False, 'DELETE')))
        parts = {'server_id': NAMES['srv_active'], 'port_id': NAMES['p_active' if method == 'GET' else 'p_b']}
        body = {'interfaceAttachment': {'port_id': NAMES['p_free_b']}}

        def case_of(scope: description.Range) -> Any:
            made = schemas[scope][path + '/{port_id}' if item else path][method]
            known_parts = parts if item else {'server_id': parts['server_id']}
            more = {'body': body, 'media_type': 'application/json'} if method == 'POST' else {}
            return made.Case(path_parameters=known_parts, headers=headers, **more)

        response = case_of(description.ranges()[0]).call()
        answers[response.status_code] += 1
        told = response.headers.get(microversions.LEGACY_HEADER.lower(), ['2.1'])[0]
        major, minor = map(int, told.split('.'))
        version = microversions.Version(major, minor)
        scope = description.ranges()[0]
        if response.status_code != 406:
            scope = description.range_of(version)
        case_of(scope).validate_response(response)

    ask()
    report('schemathesis', f'any version headers: {answers.total()} cases, 0 failures; answers {_counts(answers)}')
    assert {200, 400, 404, 406} <= set(answers)
