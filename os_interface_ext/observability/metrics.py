"""Metrics for Prometheus: what is measured, and how it is told.

Needs prometheus_client, of which nothing global is touched: neither its default registry nor its
multiprocess mode. Requests, driver calls and events are counted by each process (see :mod:`.shelf`); what is
in the database is looked up when somebody asks.
"""

from __future__ import annotations

import bisect
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import prometheus_client
from oslo_config import cfg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

import os_interface_ext
from os_interface_ext import exceptions
from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Record, Store
from os_interface_ext.attachments.watch import Watch
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, proxies
from os_interface_ext.observability import logs
from os_interface_ext.observability.probe import Probe
from os_interface_ext.observability.shelf import Shelf

LOG = logs.get(__name__)

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
_PREFIX = 'os_interface_ext_'
#: Seconds; the last bucket is that of all.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float('inf'))
#: The name of a series of a histogram that is its sum; every other one is a bucket.
_SUM = 'sum'

#: What processes count: its kind, its labels, and what it is.
MEASURED: dict[str, tuple[type[CounterMetricFamily | HistogramMetricFamily], tuple[str, ...], str]] = {
    'requests': (
        CounterMetricFamily,
        ('operation', 'status', 'microversion'),
        'Requests that have been answered, by the microversion that was answered.',
    ),
    'request_duration_seconds': (
        HistogramMetricFamily,
        ('operation',),
        'From the arrival of a request at the API to its answer.',
    ),
    'driver_call_duration_seconds': (
        HistogramMetricFamily,
        ('kind', 'method', 'outcome'),
        'Calls of drivers; the outcome is ok, or the name of the error.',
    ),
    'attachment_events': (
        CounterMetricFamily,
        ('event',),
        'What happened to attachments: attach_started, attach_ended, …',
    ),
    'undos': (CounterMetricFamily, (), 'Attaches that have been undone completely.'),
    'retries': (
        CounterMetricFamily,
        ('state', 'reason'),
        'Attempts to take a record out that failed and will be repeated.',
    ),
    'reconciler_looks': (
        CounterMetricFamily,
        ('outcome',),
        'Looks of reconcilers; failed ones were broken off (a database that is away, say).',
    ),
    'reconciled': (
        CounterMetricFamily,
        ('result',),
        'What the looks came to: records carried on, pending or gone, ports deleted.',
    ),
    'notifications': (CounterMetricFamily, ('outcome',), 'Notifications that were sent, failed or were dropped.'),
}
#: Of a reconciler's report; orphans are found again by each look, and told from the database.
_RESULTS = ('carried_on', 'pending', 'gone', 'deleted')


class Metrics(Watch):
    """Counts for one configuration, in this process.

    :raises ConfigurationError: the directory cannot be used
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        try:
            self._shelf = Shelf(directory)
        except OSError as error:
            raise exceptions.ConfigurationError(
                f'option [metrics] directory: {directory!r} cannot be used ({error.strerror}): correct its owner '
                'or mode, or name another one'
            ) from error
        self._is_broken = False

    # ------------------------------------------------------------------ what is counted

    def answered(self, operation: str, status: int, microversion: str, seconds: float) -> None:
        """A request has got its answer."""
        self._add(
            (_key('requests', operation, str(status), microversion), 1.0),
            *_observed('request_duration_seconds', seconds, operation),
        )

    def called(self, kind: str, method: str, outcome: str, seconds: float) -> None:
        """A driver has been called."""
        self._add(*_observed('driver_call_duration_seconds', seconds, kind, method, outcome))

    def notified(self, outcome: str) -> None:
        """A notification was ``sent``, has ``failed``, or was ``dropped``."""
        self._add((_key('notifications', outcome), 1.0))

    def attach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        self._add((_key('attachment_events', 'attach_started'), 1.0))

    def attach_ended(self, ctxt: RequestContext, server: base.Server, record: Record, port: base.Port) -> None:
        self._add((_key('attachment_events', 'attach_ended'), 1.0))

    def attach_failed(
        self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException
    ) -> None:
        self._add((_key('attachment_events', 'attach_failed'), 1.0))

    def detach_started(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        self._add((_key('attachment_events', 'detach_started'), 1.0))

    def out_ended(self, ctxt: RequestContext, server: base.Server, record: Record) -> None:
        if record.reason == 'undo':
            self._add((_key('undos'), 1.0))
        else:
            event = {'detach': 'detach_ended'}.get(str(record.reason), str(record.reason))
            self._add((_key('attachment_events', event), 1.0))

    def out_failed(self, ctxt: RequestContext, server: base.Server, record: Record, error: BaseException) -> None:
        if record.reason == 'detach':
            self._add((_key('attachment_events', 'detach_failed'), 1.0))

    def postponed(self, record: Record) -> None:
        self._add((_key('retries', str(record.state), str(record.reason)), 1.0))

    def looked(self, found: Mapping[str, int], *, done: bool) -> None:
        amounts = [(_key('reconciled', result), float(found[result])) for result in _RESULTS if found[result]]
        self._add((_key('reconciler_looks', 'done' if done else 'failed'), 1.0), *amounts)

    def _add(self, *amounts: tuple[str, float]) -> None:
        try:
            self._shelf.add(amounts)
        except OSError as error:
            # Nobody's request fails for it; said once.
            if not self._is_broken:
                LOG.warning('[metrics] directory %s: %s; this process is not measured', self.directory, error)
            self._is_broken = True

    # ------------------------------------------------------------------ what is told

    def families(self) -> Iterator[Metric]:
        """What all processes have counted, added up.

        :raises OSError: the directory cannot be read
        """
        series: dict[str, dict[tuple[str, ...], dict[str, float]]] = {name: {} for name in MEASURED}
        for key, value in self._shelf.totals().items():
            name, labels, part = json.loads(key)
            # Another version of this code may have counted other things, or with other labels.
            if name in MEASURED and len(labels) == len(MEASURED[name][1]):
                series[name].setdefault(tuple(labels), {})[part] = value
        for name, (family_class, label_names, help_text) in MEASURED.items():
            family: Any = family_class(_PREFIX + name, help_text, labels=label_names)
            if not label_names and not series[name]:
                family.add_metric((), 0.0)
            for labels, parts in sorted(series[name].items()):
                if family_class is HistogramMetricFamily:
                    family.add_metric(labels, _cumulated(parts), sum_value=parts.get(_SUM, 0.0))
                else:
                    family.add_metric(labels, parts[''])
            yield family


@functools.lru_cache(maxsize=10_000)
def _key(name: str, *labels: str, part: str = '') -> str:
    return json.dumps([name, labels, part])


def _observed(name: str, seconds: float, *labels: str) -> Iterable[tuple[str, float]]:
    bucket, total = _keys_of_bucket(bisect.bisect_left(_BUCKETS, seconds), name, *labels)
    return ((bucket, 1.0), (total, seconds))


@functools.lru_cache(maxsize=10_000)
def _keys_of_bucket(bucket: int, name: str, *labels: str) -> tuple[str, str]:
    return _key(name, *labels, part=_le(_BUCKETS[bucket])), _key(name, *labels, part=_SUM)


def _le(bound: float) -> str:
    return '+Inf' if bound == float('inf') else repr(bound)


def _cumulated(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    total = 0.0
    buckets = []
    for bound in _BUCKETS:
        total += parts.get(_le(bound), 0.0)
        buckets.append((_le(bound), total))
    return buckets


# ------------------------------------------------------------------ the calls of drivers


class _Measured:
    """A driver whose calls are timed; whatever is not a method of a driver is the driver's own."""

    driver: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)


def measured(driver: Any, kind: str, abstract: type, metrics: Metrics) -> Any:
    """A driver that does what ``driver`` does, and is timed.

    :param kind: ``server``, ``network`` or ``vif``, of which ``abstract`` is the class
    """

    def method(name: str) -> Callable[..., Any]:
        real = getattr(driver, name)

        def timed(self: _Measured, *args: Any, **kwargs: Any) -> Any:
            outcome = 'ok'
            begun = time.perf_counter()
            try:
                answer = real(*args, **kwargs)
                # A generator does its work while it is read.
                return list(answer) if isinstance(answer, Iterator) else answer
            except BaseException as error:
                outcome = type(error).__name__
                raise
            finally:
                metrics.called(kind, name, outcome, time.perf_counter() - begun)

        timed.__name__ = name
        return timed

    made = proxies.proxy(driver, method, (abstract,), _Measured, 'Measured')
    made.driver = driver
    return made


# ------------------------------------------------------------------ the page


class Page:
    """What ``/metrics`` shows: what was counted, and what is in the database now.

    :param metrics: of this process, or of none: what is in its directory is that of all
    """

    def __init__(self, metrics: Metrics, store: Store, conf: cfg.ConfigOpts) -> None:
        self._metrics = metrics
        self._store = store
        self._conf = conf
        self._probe = Probe('database', self._look, conf.health.timeout, conf.health.cache)

    def render(self) -> bytes:
        """In Prometheus' text format.

        :raises OSError: the directory cannot be read
        """
        registry = prometheus_client.CollectorRegistry()
        registry.register(self)  # type: ignore[arg-type]
        return prometheus_client.generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Nothing: what is there need not be known before it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.families()
        build = GaugeMetricFamily(
            f'{_PREFIX}build_info', 'Always 1; the version is the label.', labels=['version']
        )
        build.add_metric([os_interface_ext.__version__], 1)
        yield build
        [answer] = Probe.ask([self._probe])
        yield GaugeMetricFamily(
            f'{_PREFIX}database_up', 'Whether the database has answered.', value=float(answer.error is None)
        )
        if answer.error is None:
            yield from answer.value

    def _look(self) -> list[Metric]:
        reconciler = self._conf.reconciler
        census = self._store.census(attempts=reconciler.stuck_attempts, rest=2 * reconciler.backoff_cap)
        records = GaugeMetricFamily(
            f'{_PREFIX}records',
            'Attachment records by state and age: younger than a minute, than an hour, than a day, or older.',
            labels=['state', 'age'],
        )
        oldest = GaugeMetricFamily(
            f'{_PREFIX}records_oldest_seconds', 'The age of the oldest record of a state.', labels=['state']
        )
        stuck = GaugeMetricFamily(
            f'{_PREFIX}records_stuck',
            'Records in motion that have failed often, or rest for too long.',
            labels=['state'],
        )
        by_state = {count.state: count for count in census}
        for state in State:
            count = by_state.get(state)
            for age in ('minute', 'hour', 'day', 'older'):
                records.add_metric([state, age], count.ages[age] if count else 0)
            oldest.add_metric([state], count.oldest if count else 0)
            if state is not State.ATTACHED:
                stuck.add_metric([state], count.stuck if count else 0)
        beats = GaugeMetricFamily(
            f'{_PREFIX}reconciler_heartbeat_age_seconds',
            'How long ago each reconciler was last heard of.',
            labels=['reconciler'],
        )
        for beat in self._store.heartbeats():
            if beat.name != 'reconciler':
                beats.add_metric([beat.owner], max(0.0, beat.age))
        orphans = GaugeMetricFamily(
            f'{_PREFIX}orphan_ports', 'Ports of ours without a record, as of the last sweep.'
        )
        orphans.add_metric([], self._store.orphans())
        return [records, oldest, stuck, beats, orphans]


class Application:
    """The page as a WSGI application, at whatever URL it is mounted."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ['REQUEST_METHOD'] not in ('GET', 'HEAD'):
            start_response('405 Method Not Allowed', [('Allow', 'GET, HEAD'), ('Content-Length', '0')])
            return []
        try:
            body = self._page.render()
        except OSError as error:
            LOG.warning('[metrics] directory: %s', error)
            start_response('503 Service Unavailable', [('Content-Length', '0')])
            return []
        start_response('200 OK', [('Content-Type', CONTENT_TYPE), ('Content-Length', str(len(body)))])
        return [] if environ['REQUEST_METHOD'] == 'HEAD' else [body]
