"""Servers of the Nova whose own process this is: asked, and kept in step, with Nova's own objects."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nova import config as nova_config
from nova import context as nova_context
from nova import exception as nova_exceptions
from nova import objects, rpc
from nova.compute import api as compute
from nova.db.main import api as database
from nova.db.main import models
from nova.network import model
from nova.network import neutron as network
from oslo_concurrency import lockutils
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.conf import nova_local as options
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base
from os_interface_ext.observability import logs

LOG = logs.get(__name__)

GROUP = options.GROUP.name

#: Seconds from one look at an entry to the next: close at first, for nova-compute writes what it has read before
#: our change as soon as Neutron has answered it; far enough in the end for what is late.
_LOOKS = (0.1, 0.1, 0.2, 0.3, 0.5, 0.8, 2.0, 4.0, 8.0)
#: Seconds for which what Neutron says of a network and its subnets is remembered.
_REMEMBERED = 60.0
_MEMORY = 1000


class NovaLocalServerDriver(base.ServerDriver):
    """For a plug-in that nova-api has loaded: no request, no token, Nova's databases as Nova reads them.

    **Nova is kept in step.** Nova knows the ports of a server from its network info cache: ``addresses``
    of the server and the guest's metadata are made of it, and when it deletes the server it deletes all
    its ports but those whose entry says ``preserve_on_delete``
    (``nova.network.neutron.API.deallocate_for_instance``). So on attach this driver puts in an entry, made by
    Nova's own ``_build_vif_model``, and the VirtualInterface record with the tag; on detach it takes both
    out: Neutron does not tell Nova of an unbind, and Nova (34) keeps an entry whose port has gone.

    **Nova writes there too.** Upon Neutron's event network-changed nova-compute reads the cache, asks
    Neutron, and writes the whole cache back, some hundred milliseconds later; no lock of Nova's spans two
    processes. What it had read before our change it writes without it. So the entry is looked at again
    a few times, and set right. What nova-compute reads after our change keeps it. A server that is deleted
    before the next look (a tenth of a second, or none if this process has died) may still lose a brought port.

    Neutron is asked with the authority, the time-outs and the client of Nova's own ``[neutron]``: for a port
    that is brought once for the port and once for its floating IPs, and once a minute for a network and its
    subnets, however many ports the server has; not at all for a port that was made, and for a detach.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options.register_opts(conf)
        if rpc.TRANSPORT is None:
            _start_nova(conf[GROUP].config_files)
        objects.register_all()
        self._compute = compute.API()
        self._ports = _Ports()
        self._watch = _Watch(self._look_again)

    # ------------------------------------------------------------------ asking

    def check(self, ctxt: RequestContext) -> None:
        """Nova's API database, and that of each cell."""
        nova_ctxt = nova_context.get_admin_context()
        cells = nova_context.scatter_gather_all_cells(nova_ctxt, objects.ServiceList.get_all)
        down = [cell for cell, found in cells.items() if nova_context.is_cell_failure_sentinel(found)]
        if down or not cells:
            what = f'the database of cell {", ".join(down)} does not answer' if down else 'Nova has no cells'
            raise exceptions.Unavailable(operator=what, operator_cure='look at nova-manage cell_v2 list_cells')

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        _, instance = self._find(ctxt, server_id)
        return base.Server(
            id=instance.uuid,
            project_id=instance.project_id,
            name=instance.display_name or '',
            host=instance.host or None,
            vm_state=instance.vm_state,
            task_state=instance.task_state,
            locked_by=(instance.locked_by or 'admin') if instance.locked else None,
            # The one that Nova puts into device_owner of a port.
            availability_zone=instance.availability_zone or None,
        )

    def _find(self, ctxt: RequestContext, server_id: str) -> tuple[Any, Any]:
        """A context of Nova's for the cell of a server, and the server."""
        nova_ctxt = nova_context.get_admin_context()
        nova_ctxt.global_request_id = ctxt.global_id
        try:
            # Targets the context, too.
            return nova_ctxt, self._compute.get(nova_ctxt, server_id)
        except nova_exceptions.InstanceNotFound as error:
            raise exceptions.ServerNotFound(server_id) from error
        except Exception as error:
            raise exceptions.Unavailable(operator=f'Nova cannot tell server {server_id!r}: {error!r}') from error

    # ------------------------------------------------------------------ keeping Nova in step

    def attachments_changed(self, ctxt: RequestContext, server_id: str, event: base.Change) -> None:
        """An entry for what was attached, none for what was detached; a server that is gone is no error."""
        try:
            nova_ctxt, instance = self._find(ctxt, server_id)
        except exceptions.ServerNotFound:
            return
        if event.port_id is None:
            return
        with _failures_told(instance.uuid):
            if event == 'attached':
                self._enter(nova_ctxt, instance.uuid, event)
            elif (interface := self._remove(nova_ctxt, instance.uuid, event)) is not None and interface.tag:
                self._ports.forget_tag(instance, interface)
        # Without the port: it may be another server's by the time of a later look.
        later = base.Change(event, event.port_id, created=event.created, tag=event.tag)
        self._watch.add(nova_ctxt, instance.uuid, later)

    def port_is_brought(self, ctxt: RequestContext, server: base.Server, port_id: str) -> None:
        """The entry is there, and marked, before Neutron's first event has nova-compute read the cache."""
        try:
            nova_ctxt, _ = self._find(ctxt, server.id)
        except exceptions.ServerNotFound:
            return
        # A look that is due after an earlier detach would take the entry for a remnant of that.
        self._watch.forget(server.id, port_id)
        with _failures_told(server.id):
            port = self._ports.look_up(nova_ctxt, port_id)
            if port is not None:
                made = self._ports.entry(nova_ctxt, port)
                with _locked(nova_ctxt, server.id) as cache:
                    _put(cache, made, keep=True)

    def _enter(self, nova_ctxt: Any, server_id: str, change: base.Change) -> None:
        if change.port is not None and change.port.vif_type:
            port = _as_neutron_tells(change.port)
        else:
            port = self._ports.look_up(nova_ctxt, change.port_id)
            if port is None or port['device_id'] != server_id:
                return
        # What is there already has the floating IPs, if there are any: a port that was just made has none.
        is_known = _entry(_read(nova_ctxt, server_id), change.port_id) is not None
        made = self._ports.entry(nova_ctxt, port, floating=not (is_known or change.created))
        with _locked(nova_ctxt, server_id) as cache:
            _put(cache, made, keep=not change.created)
            _record_interface(nova_ctxt, server_id, made, change.tag)

    def _remove(self, nova_ctxt: Any, server_id: str, change: base.Change) -> Any:
        """The VirtualInterface record that has been removed too, or None."""
        with _locked(nova_ctxt, server_id) as cache:
            left = [entry for entry in cache.network_info if entry['id'] != change.port_id]
            if len(left) < len(cache.network_info):
                cache.network_info = model.NetworkInfo(left)
                cache.save()
            interface = objects.VirtualInterface.get_by_uuid(nova_ctxt, change.port_id)
            if interface is None or interface.instance_uuid != server_id:
                return None
            interface.destroy()
            return interface

    def _look_again(self, nova_ctxt: Any, server_id: str, change: base.Change) -> None:
        """Set right what nova-compute has written over; Neutron decides which is right."""
        entry = _entry(_read(nova_ctxt, server_id), change.port_id)
        if change == 'attached' and (entry is None or bool(entry.get('preserve_on_delete')) is change.created):
            LOG.info('port %s in the network info cache of server %s is set right', change.port_id, server_id)
            self._enter(nova_ctxt, server_id, change)
        elif change == 'detached' and entry is not None and not self._ports.is_of(nova_ctxt, server_id, change):
            LOG.info('port %s is removed from the network info cache of %s again', change.port_id, server_id)
            self._remove(nova_ctxt, server_id, change)


def _start_nova(files: list[str]) -> None:
    for name in files:
        if not os.access(name, os.R_OK):
            raise exceptions.ConfigurationError(
                f'option [{GROUP}] config_files: {name!r} cannot be read: this process is not nova-api, '
                "so that it needs Nova's configuration files"
            )
    nova_config.parse_args(['os-interface-ext'], default_config_files=files)


@contextlib.contextmanager
def _failures_told(server_id: str) -> Iterator[None]:
    try:
        yield
    except exceptions.DriverError:
        raise
    except (nova_exceptions.InstanceNotFound, nova_exceptions.InstanceInfoCacheNotFound):
        LOG.debug('server %s has gone meanwhile', server_id)
    except Exception as error:
        raise exceptions.Unavailable(
            operator=f'the ports of server {server_id} could not be told to Nova: {error!r}'
        ) from error


# ---------------------------------------------------------------------- Nova's records


def _read(nova_ctxt: Any, server_id: str) -> Any:
    """The entries of the network info cache of a server."""
    return objects.InstanceInfoCache.get_by_instance_uuid(nova_ctxt, server_id).network_info or []


@contextlib.contextmanager
def _locked(nova_ctxt: Any, server_id: str) -> Iterator[Any]:
    """The network info cache of a server, in one transaction with what is written within the block.

    Nova's own lock keeps its code in this process out, the lock on the row the other workers of ours.
    """
    with (
        lockutils.lock(f'refresh_cache-{server_id}'),
        database.get_context_manager(nova_ctxt).writer.using(nova_ctxt),
    ):
        row = models.InstanceInfoCache
        nova_ctxt.session.query(row.id).filter_by(instance_uuid=server_id).with_for_update().first()
        cache = objects.InstanceInfoCache.get_by_instance_uuid(nova_ctxt, server_id)
        if cache.network_info is None:
            cache.network_info = model.NetworkInfo([])
        yield cache


def _put(cache: Any, entry: Any, *, keep: bool) -> None:
    """Save an entry, in the place of the one that the port has; ``keep``: the port outlives its server."""
    entries = cache.network_info
    entry['preserve_on_delete'] = keep
    known = _entry(entries, entry['id'])
    if known is None:
        entries.append(entry)
    else:
        entry['network']['subnets'] = known['network']['subnets']
        entry['profile'] = known['profile']
        entries[entries.index(known)] = entry
    cache.network_info = entries
    cache.save()


def _entry(entries: Any, port_id: str | None) -> Any:
    return next((entry for entry in entries if entry['id'] == port_id), None)


def _record_interface(nova_ctxt: Any, server_id: str, entry: Any, tag: str | None) -> None:
    """The VirtualInterface record, from which Nova takes the tag and the order of the ports."""
    known = objects.VirtualInterface.get_by_uuid(nova_ctxt, entry['id'])
    if known is not None and (known.instance_uuid, known.tag) == (server_id, tag):
        return
    if known is not None:
        # Left by a server that the port was taken from behind Nova's back.
        known.destroy()
    interface = objects.VirtualInterface(nova_ctxt)
    interface.instance_uuid = server_id
    # Unique among all: Nova, too, adds the port to the MAC.
    interface.address = f'{entry["address"]}/{entry["id"]}'
    interface.uuid = entry['id']
    interface.tag = tag
    interface.create()


# ---------------------------------------------------------------------- Neutron, through Nova's client


class _Ports(network.API):  # type: ignore[misc]
    """Nova's own look at a port, with what hardly ever changes asked for once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: dict[Any, tuple[float, Any]] = {}

    def look_up(self, nova_ctxt: Any, port_id: str | None) -> Any:
        """The port as Neutron tells it, or None."""
        try:
            return network.get_client(nova_ctxt, admin=True).show_port(port_id)['port']
        except network.neutron_client_exc.PortNotFoundClient:
            return None

    def entry(self, nova_ctxt: Any, port: dict[str, Any], *, floating: bool = True) -> Any:
        """The entry of a port in the network info cache; ``floating``: with its floating IPs."""
        client = _Thrifty(network.get_client(nova_ctxt, admin=True), self._memory, floating=floating)
        networks = client.list_networks(id=[port['network_id']])['networks']
        return self._build_vif_model(nova_ctxt, client, port, networks, set())

    def is_of(self, nova_ctxt: Any, server_id: str, change: base.Change) -> bool:
        """Whether Neutron says that the server has the port."""
        port = self.look_up(nova_ctxt, change.port_id)
        return port is not None and port['device_id'] == server_id

    def forget_tag(self, instance: Any, interface: Any) -> None:
        """Take a port out of what the guest is told of its tagged devices."""
        self._delete_nic_metadata(instance, interface)

    def _get_physnet_tunneled_info(self, context: Any, neutron: Any, net_id: str) -> Any:
        return super()._get_physnet_tunneled_info(context, _Thrifty(neutron, self._memory), net_id)


class _Thrifty:
    """A client of Neutron that remembers what it says of networks and subnets.

    :param floating: whether floating IPs are asked for
    """

    def __init__(self, client: Any, memory: dict[Any, tuple[float, Any]], *, floating: bool = True) -> None:
        self._client = client
        self._memory = memory
        self._floating = floating

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_networks(self, **query: Any) -> Any:
        return self._remembered('list_networks', **query)

    def show_network(self, network_id: str, **query: Any) -> Any:
        return self._remembered('show_network', network_id, **query)

    def list_subnets(self, **query: Any) -> Any:
        return self._remembered('list_subnets', **query)

    def list_ports(self, **query: Any) -> Any:
        """Those of DHCP, as ``_build_vif_model`` asks."""
        return self._remembered('list_ports', **query)

    def list_floatingips(self, **query: Any) -> Any:
        return self._client.list_floatingips(**query) if self._floating else {'floatingips': []}

    def _remembered(self, method: str, *names: Any, **query: Any) -> Any:
        key = (method, names, *sorted((option, str(value)) for option, value in query.items()))
        known = self._memory.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        answer = getattr(self._client, method)(*names, **query)
        if len(self._memory) >= _MEMORY:
            self._memory.clear()
        self._memory[key] = (time.monotonic() + _REMEMBERED, answer)
        return answer


def _as_neutron_tells(port: base.Port) -> dict[str, Any]:
    """A port in the form of Neutron's answers, with what ``_build_vif_model`` reads."""
    return {
        'id': port.id,
        'network_id': port.network_id,
        'tenant_id': port.project_id,
        'mac_address': port.mac_address,
        'admin_state_up': port.admin_state_up,
        'status': port.status,
        'fixed_ips': [{'subnet_id': ip.subnet_id, 'ip_address': ip.ip_address} for ip in port.fixed_ips],
        'binding:vnic_type': port.vnic_type,
        'binding:vif_type': port.vif_type,
        'binding:vif_details': dict(port.vif_details),
        'binding:profile': {},
    }


# ---------------------------------------------------------------------- looking again


class _Watch:
    """Calls ``look(nova_ctxt, server_id, change)`` for each change a few times, from a thread of its own.

    The thread comes with the first change, so after a fork, and goes when there is nothing left to look at.
    """

    def __init__(self, look: Callable[[Any, str, base.Change], None]) -> None:
        self._look = look
        self._begin()
        # A fork has neither the thread nor, perhaps, a lock that anybody gives back.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._news = threading.Condition()
        self._due: dict[tuple[str, str | None], tuple[float, int, Any, base.Change]] = {}
        self._running = False

    def forget(self, server_id: str, port_id: str) -> None:
        with self._news:
            self._due.pop((server_id, port_id), None)

    def add(self, nova_ctxt: Any, server_id: str, change: base.Change) -> None:
        with self._news:
            # The latest change of a port is the one that counts.
            self._due[server_id, change.port_id] = (time.monotonic() + _LOOKS[0], 0, nova_ctxt, change)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name='os-interface-ext-nova', daemon=True).start()
            self._news.notify()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            nova_ctxt, server_id, change = found
            try:
                with _failures_told(server_id):
                    self._look(nova_ctxt, server_id, change)
            except Exception:
                LOG.warning('server %s could not be looked at again', server_id, exc_info=True)

    def _next(self) -> tuple[Any, str, base.Change] | None:
        with self._news:
            while self._due:
                key = min(self._due, key=lambda key: self._due[key][0])
                at, turn, nova_ctxt, change = self._due[key]
                if (wait := at - time.monotonic()) > 0:
                    self._news.wait(wait)
                    continue
                if turn + 1 < len(_LOOKS):
                    self._due[key] = (time.monotonic() + _LOOKS[turn + 1], turn + 1, nova_ctxt, change)
                else:
                    del self._due[key]
                return nova_ctxt, key[0], change
            self._running = False
            return None
