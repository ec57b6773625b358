"""Ports of Neutron, looked up and made with the caller's authority and bound with the service's.

Neutron's ``If-Match: revision_number=N`` refuses a revision that is out of date, but is no compare-and-swap:
of two requests at one moment both succeed. Among the processes of one installation the attachment record
decides who may act on a port. What another writer does meanwhile is detected where an answer tells it: the
write that claims a port changes it by exactly one revision, and the write that binds it answers with the
device that it has. What cannot be detected: a writer that overwrites ``device_id`` after the last of our
answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import neutron as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.drivers.rest import Answer, Service
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

GROUP = options.GROUP.name
#: Seconds for which is believed what a network was like, and that there is no external one.
_NETWORK_TTL = 300.0
_NONE_TTL = 30.0
#: Times that a port is tried again that changes under our hands.
_ATTEMPTS = 5
_PAGE = 1000
#: ML2's extension driver without which a port cannot be given its tags when it is made.
_TAGS_AT_CREATION = 'tag-ports-during-bulk-creation'

_STATUSES = frozenset({'ACTIVE', 'DOWN', 'BUILD', 'ERROR'})
_is_uuid = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}').fullmatch
_MARK = 'osif:'
#: The owner of a free port for the moment in which it is made sure that it stays free.
_LETTING_GO = 'osif:letting-go'

#: Neutron's names of errors when a port is made, and ours; what is not here goes by the status.
_NO_ADDRESS = frozenset({'ExternalIpAddressExhausted', 'NoMoreIpAddresses'})
_NO_ADDRESS_BEGINS = 'IpAddressGenerationFailure'
_ADDRESS_IN_USE = frozenset({'IpAddressInUse', 'IpAddressAlreadyAllocated'})
_ADDRESS_INVALID = frozenset({'InvalidIpForNetwork', 'InvalidIpForSubnet', 'InvalidInput', 'HTTPBadRequest'})


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A port as Neutron has told it, with the revision that it had."""

    port: base.Port
    revision: int
    addressless: bool
    #: False if the caller does not see it, and we do
    visible: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class _Network:
    id: str
    project_id: str
    external: bool
    shared: bool
    subnets: bool
    port_security: bool
    mtu: int | None


class NeutronNetworkDriver(base.NetworkDriver):
    """Options: the group ``[neutron]``, as Nova has it; see :mod:`os_interface_ext.drivers.rest`."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._neutron = Service(conf, GROUP, 'network', '/v2.0')
        self._locks = _Locks()
        #: of a network: until when it is believed, its MTU, and the lengths of its subnets' prefixes
        self._plugging: dict[str, tuple[float, int | None, dict[str, int]]] = {}
        self._external: tuple[float, frozenset[str]] = (0.0, frozenset())
        #: Whether a port can be given its tags when it is made; None while that is not known.
        self._tags: bool | None = None

    def check(self, ctxt: RequestContext) -> None:
        answer = self._neutron.read(ctxt, '/ports', {'limit': 1, 'fields': 'id'})
        if answer.status != 200 or 'ports' not in answer.body:
            raise exceptions.Unavailable(operator=f'[{GROUP}] GET /ports: the answer {answer.status} is of no use')

    # ------------------------------------------------------------------ reading

    def list_ports(self, ctxt: RequestContext, server_id: str) -> list[base.Port]:
        # With our own authority: who may see the server sees all its ports, whose network ever they are on.
        if not server_id or not server_id.isprintable():
            return []
        found = self._pages(ctxt, 'ports', {'device_id': server_id, 'fields': _LISTED})
        ports = [base.Port(**_listed(body, exceptions.Unavailable)) for body in found]
        # A database may take other texts for the same.
        return [port for port in ports if port.device_id == server_id]

    def get_port(self, ctxt: RequestContext, port_id: str) -> base.Port:
        seen = self._look_as_caller(ctxt, port_id)
        self._remember(ctxt, seen)
        return seen.port

    def find_marked(self, ctxt: RequestContext, installation: str) -> Iterable[base.Port]:
        if not installation.isprintable():
            return []
        prefix = f'{_MARK}{installation}:'
        # A description can only be compared as a whole: without tags all ports are gone through, page by page.
        found = self._list(ctxt, {'tags': prefix[:-1]} if self._has_tags(ctxt) else {'limit': _PAGE})
        return [seen.port for seen in found if seen.port.mark and seen.port.mark.startswith(prefix)]

    def details(self, ctxt: RequestContext, port: base.Port) -> base.Port:
        until, mtu, lengths = self._plugging.get(port.network_id, (0.0, None, {}))
        if until < time.monotonic() or not all(one.subnet_id in lengths for one in port.fixed_ips):
            mtu = self._network(ctxt, port.network_id, as_caller=False).mtu
            query = {'network_id': port.network_id, 'fields': ['id', 'cidr']}
            lengths = {
                subnet['id']: int(subnet['cidr'].rpartition('/')[2])
                for subnet in self._pages(ctxt, 'subnets', query)
            }
            self._plugging[port.network_id] = (time.monotonic() + _NETWORK_TTL, mtu, lengths)
        return dataclasses.replace(port.with_prefixes(lengths), mtu=mtu)

    # ------------------------------------------------------------------ making

    def create(
        self,
        ctxt: RequestContext,
        server: base.Server,
        request: base.PortRequest,
        mark: str,
        fence: base.Fence,
    ) -> base.Port:
        with self._locks.of(mark):
            # Who made the record has not asked before; after him, somebody may have died with the answer.
            made = self._of_mark(ctxt, mark) if fence.generation > 1 else []
            if not made:
                network = self._network_for(ctxt, server, request)
                made = [self._make(ctxt, server, network, request.ip_address, mark, fence)]
        self._remember(ctxt, made[0])
        return made[0].port

    def _make(
        self,
        ctxt: RequestContext,
        server: base.Server,
        network: _Network,
        address: str | None,
        mark: str,
        fence: base.Fence,
    ) -> _Seen:
        wanted: dict[str, Any] = {
            'network_id': network.id,
            'project_id': server.project_id,
            'device_id': server.id,
            'device_owner': _owner(server),
        }
        if address is not None:
            wanted['fixed_ips'] = [{'ip_address': address}]
        # While it is not known whether tags are taken, the mark is written twice, and the answer tells it.
        if self._tags is not False:
            wanted['tags'] = [mark.rpartition(':')[0], mark]
        if self._tags is not True:
            wanted['description'] = mark
        answer = self._neutron.write(ctxt, 'POST', '/ports', fence, {'port': wanted}, as_caller=True)
        if self._tags is not False and answer.status == 400 and 'tags' in _message(answer):
            self._tags = False
            return self._make(ctxt, server, network, address, mark, fence)
        if answer.status >= 400:
            raise _refused(answer, network.id, address)
        body = _of(answer, 'port', exceptions.UnknownOutcome)
        made = _seen(body, exceptions.UnknownOutcome)
        self._tags = mark in (body.get('tags') or ())
        if made.port.mark != mark:
            # Neutron takes tags no more: such a port is found neither by its mark nor deleted with it.
            LOG.warning('port %s has been made without its mark %s', made.port.id, mark)
        return made

    def _network_for(self, ctxt: RequestContext, server: base.Server, request: base.PortRequest) -> _Network:
        if request.network_id is not None:
            network = self._network(ctxt, request.network_id)
        else:
            network = self._only_network(ctxt, server.project_id)
        if network.external and not network.shared and not _is_admin(ctxt):
            raise exceptions.NetworkForbidden()
        if not network.subnets and network.port_security:
            # Security groups need an address; without them a port does with none (as in Nova).
            raise exceptions.NetworkNotUsable('The network has no subnet. Choose another one.')
        return network

    def _network(self, ctxt: RequestContext, network_id: str, *, as_caller: bool = True) -> _Network:
        """:raises NetworkNotFound: unknown, or not visible to the caller"""
        if not _is_uuid(network_id):
            raise exceptions.NetworkNotFound(network_id)
        answer = self._neutron.read(ctxt, f'/networks/{network_id}', as_caller=as_caller)
        if answer.status == 401:
            raise _token_refused()
        if answer.status in (400, 403, 404):
            raise exceptions.NetworkNotFound(network_id)
        network = _as_network(_of(answer, 'network', exceptions.Unavailable))
        if as_caller and not ctxt.auth_token and not self._is_visible(ctxt, network):
            raise exceptions.NetworkNotFound(network_id)
        return network

    def _is_visible(self, ctxt: RequestContext, network: _Network) -> bool:
        """As Neutron would say, of a caller who is authenticated by the host and has no token for Neutron."""
        if _is_admin(ctxt) or network.shared or network.external or network.project_id == ctxt.project_id:
            return True
        query = {
            'object_type': 'network',
            'object_id': network.id,
            'target_tenant': ctxt.project_id,
            'action': 'access_as_shared',
        }
        answer = self._neutron.read(ctxt, '/rbac-policies', query)
        return bool(_of(answer, 'rbac_policies', exceptions.Unavailable))

    def _only_network(self, ctxt: RequestContext, project_id: str) -> _Network:
        """The network that is meant when none is named: of the project, or shared, as Nova has it."""
        fields = ['id', 'project_id', 'router:external', 'shared', 'subnets', 'port_security_enabled', 'mtu']
        found: dict[str, _Network] = {}
        for query in ({'project_id': project_id}, {'shared': 'true'}):
            for body in self._pages(ctxt, 'networks', {**query, 'fields': fields}, as_caller=True):
                network = _as_network(body)
                found[network.id] = network
        usable = list(found.values())
        if not usable:
            raise exceptions.NetworkNotUsable('The project has no network. Create one, or name one with net_id.')
        if len(usable) > 1:
            raise exceptions.NetworkAmbiguous()
        return usable[0]

    # ------------------------------------------------------------------ claiming and binding

    def claim(self, ctxt: RequestContext, server: base.Server, port_id: str, fence: base.Fence) -> base.Port:
        with self._locks.of(port_id):
            for attempt in range(_ATTEMPTS):
                seen = self._recall(ctxt, port_id) or self._look_as_caller(ctxt, port_id)
                if seen.port.device_id == server.id:
                    self._remember(ctxt, seen)
                    return seen.port
                self._check_claimable(ctxt, server, seen)
                claimed = self._claim(ctxt, server, seen, fence)
                if claimed is not None:
                    self._remember(ctxt, claimed)
                    return claimed.port
                time.sleep(min(random.uniform(0, 0.05 * 2**attempt), fence.remaining()))
        raise exceptions.Unavailable(operator=f'port {port_id} is changed by somebody else all the time')

    def _check_claimable(self, ctxt: RequestContext, server: base.Server, seen: _Seen) -> None:
        port = seen.port
        if port.project_id != server.project_id:
            raise exceptions.PortNotUsable(port.id, 'it belongs to another project')
        if not seen.visible:
            raise exceptions.PortNotFound(port.id)
        if port.device_id:
            raise exceptions.PortInUse(port.id)
        if not port.fixed_ips and not seen.addressless:
            raise exceptions.PortNotUsable(port.id, 'it has no address')
        if not _is_admin(ctxt) and port.network_id in self._external_networks(ctxt):
            raise exceptions.NetworkForbidden()

    def _claim(self, ctxt: RequestContext, server: base.Server, seen: _Seen, fence: base.Fence) -> _Seen | None:
        """Write ourselves into a free port; None if somebody else wrote at the same time."""
        body = {'device_id': server.id, 'device_owner': _owner(server)}
        answer = self._put(ctxt, seen, body, fence)
        if answer is None:
            return None
        claimed = _seen(_of(answer, 'port', exceptions.UnknownOutcome), exceptions.UnknownOutcome)
        if claimed.revision == seen.revision + 1:
            return claimed
        # Somebody has written between our read and our write. It may have been a claim, which we have
        # overwritten, or which has overwritten ours: never bound, and taken back as far as it is ours.
        LOG.warning('port %s was written by somebody else while server %s claimed it', seen.port.id, server.id)
        try:
            self._unbind(ctxt, seen.port.id, server.id, fence)
        except exceptions.DriverError as error:
            # Our claim may stand: the record has to outlive it.
            raise exceptions.UnknownOutcome(
                operator=f'port {seen.port.id} is claimed, and could not be let go of: {error}'
            ) from error
        return None

    def bind(self, ctxt: RequestContext, port: base.Port, host: str | None, fence: base.Fence) -> base.Port:
        if host is None:
            return port
        for _ in range(_ATTEMPTS):
            seen = self._recall(ctxt, port.id) or self._look(ctxt, port.id)
            if seen is None or seen.port.device_id != port.device_id:
                raise exceptions.BindingFailed(operator=f'port {port.id} is not of {port.device_id} any more')
            if seen.port.host == host and seen.port.vif_type not in (None, 'binding_failed'):
                return seen.port
            answer = self._put(ctxt, seen, {'binding:host_id': host}, fence)
            if answer is None:
                continue
            bound = _seen(_of(answer, 'port', exceptions.UnknownOutcome), exceptions.UnknownOutcome)
            if bound.port.device_id != port.device_id:
                raise exceptions.BindingFailed(
                    operator=f'port {port.id} was claimed by {bound.port.device_id} while it was bound'
                )
            if bound.port.vif_type in (None, 'binding_failed'):
                raise exceptions.BindingFailed(
                    operator=f'port {port.id}: no mechanism driver of Neutron binds it on host {host}'
                )
            self._remember(ctxt, bound)
            return bound.port
        raise exceptions.Unavailable(operator=f'port {port.id} is changed by somebody else all the time')

    # ------------------------------------------------------------------ letting go

    def unbind(self, ctxt: RequestContext, port_id: str, server_id: str, fence: base.Fence) -> None:
        if _is_uuid(port_id) and server_id:
            self._unbind(ctxt, port_id, server_id, fence)

    def _unbind(self, ctxt: RequestContext, port_id: str, server_id: str, fence: base.Fence) -> None:
        seen = self._recall(ctxt, port_id) or self._look(ctxt, port_id)
        outdated, owner = False, ''
        for _ in range(_ATTEMPTS):
            if seen is None or seen.port.device_id not in (None, server_id):
                return
            if seen.port.device_id == server_id:
                change = {'device_id': '', 'device_owner': '', 'binding:host_id': ''}
            elif not outdated:
                # A claim whose answer was given up may still be on its way, and is to find another revision.
                # (Neutron makes none of a change that changes nothing.)
                if seen.port.device_owner != _LETTING_GO:
                    owner = seen.port.device_owner
                change = {'device_owner': _LETTING_GO}
            elif seen.port.device_owner == _LETTING_GO:
                change = {'device_owner': owner}
            else:
                return
            outdated = self._put(ctxt, seen, change, fence) is not None or outdated
            # Whatever was answered: somebody else may have written at the same time.
            seen = self._look(ctxt, port_id)
        if seen is not None and (seen.port.device_id == server_id or seen.port.device_owner == _LETTING_GO):
            raise exceptions.Unavailable(operator=f'port {port_id} is changed by somebody else all the time')

    def delete(self, ctxt: RequestContext, port_id: str | None, mark: str | None, fence: base.Fence) -> None:
        if port_id is None:
            for seen in self._of_mark(ctxt, mark) if mark else ():
                self._delete(ctxt, seen, mark, fence)
        elif _is_uuid(port_id):
            self._delete(ctxt, self._recall(ctxt, port_id) or self._look(ctxt, port_id), mark, fence)

    def _delete(self, ctxt: RequestContext, seen: _Seen | None, mark: str | None, fence: base.Fence) -> None:
        device_id = seen.port.device_id if seen is not None else None
        for _ in range(_ATTEMPTS):
            if seen is None:
                return
            port = seen.port
            if mark is None or port.mark != mark:
                raise exceptions.NotOurs(operator=f'port {port.id} does not carry the mark {mark}')
            if port.device_id != device_id:
                # It has changed hands since it was decided to delete it: that is to be decided again.
                raise exceptions.Unavailable(operator=f'port {port.id} is of {port.device_id}, not {device_id}')
            answer = self._neutron.write(ctxt, 'DELETE', f'/ports/{port.id}', fence, revision=seen.revision)
            if answer.status == 204 or _is_absent(answer):
                return
            if answer.status != 412:
                raise exceptions.Unavailable(operator=f'port {port.id} is not deleted: {_message(answer)}')
            seen = self._look(ctxt, port.id)
        raise exceptions.Unavailable(operator=f'port {port.id} is changed by somebody else all the time')

    # ------------------------------------------------------------------ within

    def _put(self, ctxt: RequestContext, seen: _Seen, body: dict[str, Any], fence: base.Fence) -> Answer | None:
        """Change a port that is as it was seen, with our own authority; None if it is not any more."""
        answer = self._neutron.write(
            ctxt, 'PUT', f'/ports/{seen.port.id}', fence, {'port': body}, revision=seen.revision
        )
        if answer.status in (404, 412):
            return None
        if answer.status >= 400:
            if _is_no_address(answer):
                raise exceptions.NoAddress(operator=_message(answer))
            raise exceptions.PortNotUsable(
                seen.port.id, 'the network service refuses it', operator=f'{answer.status}: {_message(answer)}'
            )
        return answer

    def _look_as_caller(self, ctxt: RequestContext, port_id: str) -> _Seen:
        """A port that the caller sees, or that we see: who may see a server may see what it has.

        :raises PortNotFound:
        """
        if not _is_uuid(port_id):
            raise exceptions.PortNotFound(port_id)
        answer = self._neutron.read(ctxt, f'/ports/{port_id}', as_caller=True)
        if answer.status == 401:
            raise _token_refused()
        if answer.status < 400:
            seen = _seen(_of(answer, 'port', exceptions.Unavailable), exceptions.Unavailable)
            if seen.port.id == port_id:
                return seen
        elif ctxt.auth_token and answer.status in (403, 404):
            hidden = self._look(ctxt, port_id)
            if hidden is not None:
                return dataclasses.replace(hidden, visible=False)
        elif not _is_absent(answer):
            raise _odd(answer)
        raise exceptions.PortNotFound(port_id)

    def _look(self, ctxt: RequestContext, port_id: str) -> _Seen | None:
        """A port as we ourselves see it, None if there is none."""
        answer = self._neutron.read(ctxt, f'/ports/{port_id}')
        if _is_absent(answer):
            return None
        return _seen(_of(answer, 'port', exceptions.Unavailable), exceptions.Unavailable)

    def _list(self, ctxt: RequestContext, query: dict[str, Any]) -> Iterator[_Seen]:
        for body in self._pages(ctxt, 'ports', query):
            yield _seen(body, exceptions.Unavailable)

    def _pages(
        self, ctxt: RequestContext, key: str, query: dict[str, Any], *, as_caller: bool = False
    ) -> Iterator[dict[str, Any]]:
        """What a list has, page by page where Neutron gives it so."""
        marker: dict[str, str] = {}
        while True:
            answer = self._neutron.read(ctxt, f'/{key}', {**query, **marker}, as_caller=as_caller)
            if answer.status == 401:
                raise _token_refused()
            bodies = _of(answer, key, exceptions.Unavailable)
            yield from bodies
            more = any('next' in str(link) for link in answer.body.get(f'{key}_links') or ())
            if not bodies or not more:
                return
            marker = {'marker': bodies[-1]['id']}

    def _of_mark(self, ctxt: RequestContext, mark: str) -> list[_Seen]:
        """The ports with a mark, wherever it stands."""
        found = {}
        if mark.startswith(_MARK) and mark.isprintable():
            for attribute in ('tags', 'description'):
                for seen in self._list(ctxt, {attribute: mark}):
                    if seen.port.mark == mark:
                        found[seen.port.id] = seen
        return list(found.values())

    def _has_tags(self, ctxt: RequestContext) -> bool:
        if self._tags is None:
            answer = self._neutron.read(ctxt, f'/extensions/{_TAGS_AT_CREATION}')
            self._tags = answer.status == 200
        return self._tags

    def _external_networks(self, ctxt: RequestContext) -> frozenset[str]:
        """The networks that only an administrator may attach to."""
        until, known = self._external
        if time.monotonic() >= until:
            query = {'router:external': 'true', 'fields': ['id', 'shared']}
            bodies = self._pages(ctxt, 'networks', query)
            known = frozenset(body['id'] for body in bodies if not body.get('shared'))
            # That there is none is believed for less long: a Neutron that has just started shows none.
            self._external = (time.monotonic() + (_NETWORK_TTL if known else _NONE_TTL), known)
        return known

    # A port that was read a moment ago in the same request need not be read again: what is done on the
    # strength of it names its revision.

    def _remember(self, ctxt: RequestContext, seen: _Seen) -> None:
        ctxt.kept[self, seen.port.id] = seen

    def _recall(self, ctxt: RequestContext, port_id: str) -> _Seen | None:
        """What was seen last, once."""
        seen: _Seen | None = ctxt.kept.pop((self, port_id), None)
        return seen


class _Locks:
    """One thread of this process at a time for one thing; the record decides among processes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        with self._guard:
            lock, users = self._held.get(name) or (threading.Lock(), 0)
            self._held[name] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._held.pop(name)
                if users > 1:
                    self._held[name] = (lock, users - 1)


# ---------------------------------------------------------------------- shapes


def _of(answer: Answer, key: str, failure: type[exceptions.Unavailable]) -> Any:
    """What an answer carries under its only key."""
    if answer.status >= 400:
        raise _odd(answer)
    wanted = list if key.endswith('s') else dict
    if not isinstance(found := answer.body.get(key), wanted):
        raise failure(operator=f'Neutron answered {answer.status} without {key}')
    return found


# What a list asks for: the rest of a port Neutron need not put together.
# A mark is one of the tags, or the description.
_LISTED = [*(name for name in base.LISTED if name not in ('mark', 'tag')), 'tags', 'description']


def _listed(body: dict[str, Any], failure: type[exceptions.Unavailable]) -> dict[str, Any]:
    """The fields of a port that a list tells."""
    try:
        status = body['status']
        return {
            'id': body['id'],
            'network_id': body['network_id'],
            'mac_address': body['mac_address'],
            'project_id': body['project_id'],
            'fixed_ips': tuple(base.FixedIP(one['subnet_id'], one['ip_address']) for one in body['fixed_ips']),
            'status': status if status in _STATUSES else 'DOWN',
            'device_id': body['device_id'] or None,
            'mark': _mark(body),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_sense(failure, error) from error


def _seen(body: dict[str, Any], failure: type[exceptions.Unavailable]) -> _Seen:
    listed = _listed(body, failure)
    try:
        vif_type = body.get('binding:vif_type')
        port = base.Port(
            **listed,
            device_owner=body['device_owner'] or '',
            host=body.get('binding:host_id') or None,
            vnic_type=body.get('binding:vnic_type') or base.NORMAL,
            admin_state_up=body['admin_state_up'],
            name=body['name'] or '',
            vif_type=None if vif_type == 'unbound' else vif_type,
            vif_details=body.get('binding:vif_details') or {},
        )
        addressless = body.get('ip_allocation') in ('none', 'deferred')
        return _Seen(port, int(body['revision_number']), addressless)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_sense(failure, error) from error


def _no_sense(failure: type[exceptions.Unavailable], error: Exception) -> exceptions.Unavailable:
    return failure(operator=f'Neutron answered with a port that makes no sense: {error!r}')


def _mark(body: dict[str, Any]) -> str | None:
    for text in (*body.get('tags', ()), body.get('description') or ''):
        if text.startswith(_MARK) and text.count(':') >= 2:
            return str(text)
    return None


def _as_network(body: dict[str, Any]) -> _Network:
    try:
        return _Network(
            id=body['id'],
            project_id=body['project_id'],
            external=body.get('router:external', False),
            shared=body['shared'],
            subnets=bool(body['subnets']),
            port_security=body.get('port_security_enabled', True),
            mtu=body.get('mtu'),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise exceptions.Unavailable(
            operator=f'Neutron answered with a network that makes no sense: {error!r}'
        ) from error


def _owner(server: base.Server) -> str:
    """As Nova has it: clients tell by it whose a port is."""
    return f'compute:{server.availability_zone or "nova"}'


def _is_admin(ctxt: RequestContext) -> bool:
    return ctxt.check_is_admin() if ctxt.is_admin is None else ctxt.is_admin


def _error(answer: Answer) -> dict[str, Any]:
    found = answer.body.get('NeutronError')
    return found if isinstance(found, dict) else {'message': str(found or answer.body)[:500]}


def _type(answer: Answer) -> str:
    return str(_error(answer).get('type', ''))


def _message(answer: Answer) -> str:
    return f'{_type(answer)} {_error(answer).get("message", "")}'.strip()


def _is_absent(answer: Answer) -> bool:
    """Whether Neutron itself says that there is no such port: not something in between, and not its policies.

    (For its first moments a Neutron with threads knows no rules yet, and shows an administrator nothing.)
    """
    return answer.status == 404 and _type(answer) == 'PortNotFound'


def _odd(answer: Answer) -> exceptions.Unavailable:
    return exceptions.Unavailable(operator=f'Neutron answered {answer.status}: {_message(answer)}')


def _token_refused() -> exceptions.TokenRefused:
    LOG.warning(
        "Neutron does not take a caller's token, or not ours beside it: has the user of [%s] one of the "
        "service_token_roles of Neutron's [keystone_authtoken]?",
        GROUP,
    )
    return exceptions.TokenRefused()


def _is_no_address(answer: Answer) -> bool:
    kind = _type(answer)
    return kind in _NO_ADDRESS or kind.startswith(_NO_ADDRESS_BEGINS)


def _refused(answer: Answer, network_id: str, address: str | None) -> exceptions.DriverError:
    """What the contract calls the reason for which Neutron made no port."""
    kind, said = _type(answer), f'Neutron made no port: {answer.status} {_message(answer)}'
    LOG.info(said)
    if kind == 'OverQuota':
        return exceptions.QuotaExceeded(operator=said)
    if _is_no_address(answer):
        return exceptions.NoAddress(operator=said)
    if address is not None and kind in _ADDRESS_IN_USE:
        return exceptions.AddressInUse(address, operator=said)
    if address is not None and kind in _ADDRESS_INVALID:
        return exceptions.AddressInvalid(address, operator=said)
    if answer.status == 404:
        return exceptions.NetworkNotFound(network_id, operator=said)
    if answer.status == 401:
        return _token_refused()
    if answer.status == 403:
        return exceptions.CallerRefused(operator=said)
    return exceptions.NetworkNotUsable(operator=said)
