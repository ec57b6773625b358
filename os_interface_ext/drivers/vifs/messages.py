"""What the VIF driver ``rpc``, the agents and the reconcilers say to each other: topics, and forms.

Every argument and answer is of JSON's types. Nothing of the caller but the request id travels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from os_interface_ext import context, exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)


def agent_topic(prefix: str) -> str:
    """Each agent is the server on it that is called like its host."""
    return f'{prefix}-agent'


def orders_topic(prefix: str) -> str:
    """Any reconciler answers."""
    return f'{prefix}-orders'


# ------------------------------------------------------------------ time


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """A time by the clock of one agent: seconds since its machine started, and ``epoch``, which is its process.

    A deadline is sent in the receiver's own time, so that no two clocks have to agree.
    """

    epoch: str
    seconds: float

    def dump(self) -> list[Any]:
        return [self.epoch, self.seconds]

    @classmethod
    def load(cls, form: list[Any]) -> Moment:
        return cls(str(form[0]), float(form[1]))


# ------------------------------------------------------------------ values


def dump_context(ctxt: RequestContext) -> dict[str, Any]:
    return {'request_id': ctxt.request_id, 'global_request_id': ctxt.global_request_id}


def load_context(form: dict[str, Any]) -> RequestContext:
    """This service's own authority, under the request id of the caller."""
    ctxt = context.service_context()
    ctxt.request_id = form.get('request_id') or ctxt.request_id
    ctxt.global_request_id = form.get('global_request_id')
    return ctxt


def dump_server(server: base.Server) -> dict[str, Any]:
    return dataclasses.asdict(server)


def load_server(form: dict[str, Any]) -> base.Server:
    return base.Server(**_known(base.Server, form))


def dump_port(port: base.Port) -> dict[str, Any]:
    form = {field.name: getattr(port, field.name) for field in dataclasses.fields(port)}
    form['fixed_ips'] = [dataclasses.asdict(ip) for ip in port.fixed_ips]
    form['vif_details'] = dict(port.vif_details)
    return form


def load_port(form: dict[str, Any]) -> base.Port:
    values = _known(base.Port, form)
    values['fixed_ips'] = tuple(base.FixedIP(**_known(base.FixedIP, ip)) for ip in values.get('fixed_ips', ()))
    return base.Port(**values)


def dump_order(order: base.Order) -> dict[str, Any]:
    return dataclasses.asdict(order) | {'direction': str(order.direction)}


def load_order(form: dict[str, Any]) -> base.Order:
    values = _known(base.Order, form)
    values['direction'] = base.Direction(values['direction'])
    return base.Order(**values)


def dump_installation(installation: str) -> dict[str, Any]:
    return {'installation': installation}


def load_installation(form: dict[str, Any] | None) -> str:
    """Empty: an earlier version has answered."""
    return str((form or {}).get('installation', ''))


def dump_review(review: base.Review) -> dict[str, Any]:
    form = {field.name: getattr(review, field.name) for field in dataclasses.fields(review)}
    form['orders'] = [[dump_server(server), dump_order(order)] for server, order in review.orders]
    form['suspects'] = [list(nic) for nic in review.suspects]
    return form


def load_review(form: dict[str, Any]) -> base.Review:
    values = _known(base.Review, form)
    values['orders'] = [(load_server(server), load_order(order)) for server, order in values['orders']]
    values['suspects'] = [(server_id, port_id) for server_id, port_id in values['suspects']]
    return base.Review(**values)


def _known(kind: type, form: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of the fields that another one has sent."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in form.items() if name in names}


# ------------------------------------------------------------------ answers


def answer(work: Callable[[], Any]) -> dict[str, Any]:
    """What work has come to, an error included; one that nobody has foreseen is told in the log alone."""
    try:
        return {'result': work()}
    except exceptions.DriverError as error:
        return {'error': dump_error(error)}
    except Exception as error:
        LOG.exception('a call failed')
        return {'error': dump_error(exceptions.DriverError(operator=f'{type(error).__name__}: {error}'))}


def result(form: dict[str, Any], where: str) -> Any:
    """What an answer holds.

    :param where: who has sent it, for the operator
    :raises DriverError: what has been raised there
    """
    if 'error' in form:
        raise load_error(form['error'], where)
    return form['result']


def dump_error(error: exceptions.DriverError) -> dict[str, Any]:
    """By the nearest class that everybody knows; a driver may have some of its own."""
    known = next(one for one in type(error).__mro__ if getattr(exceptions, one.__name__, None) is one)
    return {'type': known.__name__, 'message': error.message, 'operator': error.operator}


def load_error(form: dict[str, Any], where: str) -> exceptions.DriverError:
    """:param where: who has sent it, for the operator"""
    found = getattr(exceptions, str(form.get('type')), None)
    if not (isinstance(found, type) and issubclass(found, exceptions.DriverError)):
        found = exceptions.DriverError
    operator = f'{where}: {form.get("operator")}'
    if issubclass(found, exceptions.Unavailable):
        return found(form.get('message'), operator=operator)
    # Some are made of other things than their texts.
    error = found.__new__(found)
    exceptions.OsInterfaceError.__init__(error, form.get('message'), operator=operator)
    return error
