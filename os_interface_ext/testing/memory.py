"""A small cloud in memory: a complete driver of all three kinds, and an example of how one is written."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import ipaddress
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base

GROUP = 'memory'

OPTS = [
    cfg.IntOpt('port_quota', default=-1, min=-1, help='Ports that a project may have; -1: no limit.'),
    cfg.IntOpt('unplug_asks', default=0, min=0, help='How often an unplug is in progress before it is done.'),
]

_UNPLUGGABLE = 'unpluggable'


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of the cloud; ``cidr`` None: it has no subnet."""

    id: str
    project_id: str
    cidr: str | None
    shared: bool = False
    external: bool = False

    @property
    def subnet_id(self) -> str:
        return f'subnet-of-{self.id}'

    def addresses(self) -> Iterator[str]:
        """The addresses for ports: all but the first, which is the gateway's."""
        hosts = ipaddress.ip_network(self.cidr).hosts() if self.cidr else iter(())
        return (str(address) for number, address in enumerate(hosts) if number)


class MemoryCloud(base.ServerDriver, base.NetworkDriver, base.VIFDriver):
    """Servers, networks, ports and NICs of one process.

    ``add_…`` and ``remove_…`` are what users and operators of the cloud do; :meth:`unreachable` and
    :meth:`answers_lost` are what befalls it.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        # By its name: all configurations would share what an OptGroup object holds.
        conf.register_opts(OPTS, group=GROUP)
        self._conf = conf[GROUP]
        self._lock = threading.RLock()
        self._down = False
        self._losing = False
        self._serial = 0
        self._servers: dict[str, base.Server] = {}
        self._networks: dict[str, Network] = {}
        self._ports: dict[str, base.Port] = {}
        self._of_servers: set[str] = set()
        self._quotas: dict[str, int] = {}
        self._nics: dict[str, list[str]] = collections.defaultdict(list)
        #: by server and port: who has plugged it
        self._installations: dict[tuple[str, str], str] = {}
        self._leaving: collections.Counter[tuple[str, str]] = collections.Counter()
        self._events: dict[str, list[str]] = collections.defaultdict(list)

    # ------------------------------------------------------------------ the world

    def add_server(self, project_id: str, **fields: Any) -> base.Server:
        server = base.Server(**{'id': str(uuid.uuid4()), 'project_id': project_id, 'host': 'host-1'} | fields)
        with self._lock:
            self._servers[server.id] = server
        return server

    def remove_server(self, server_id: str) -> None:
        with self._lock:
            self._servers.pop(server_id, None)
            self._nics.pop(server_id, None)

    def add_network(
        self, project_id: str, cidr: str | None = '10.0.0.0/24', *, shared: bool = False, external: bool = False
    ) -> Network:
        network = Network(str(uuid.uuid4()), project_id, cidr, shared, external)
        with self._lock:
            self._networks[network.id] = network
        return network

    def add_port(self, network_id: str, project_id: str, **fields: Any) -> base.Port:
        """A port as a user makes it, beside any quota."""
        with self._lock:
            return self._make_port(self._networks[network_id], project_id, None, **fields)

    def add_port_of_server(self, network_id: str, server: base.Server) -> base.Port:
        """A port as the controller makes it when a server is built."""
        with self._lock:
            port = self.add_port(network_id, server.project_id, device_id=server.id)
            self._of_servers.add(port.id)
            return port

    def remove_port(self, port_id: str) -> None:
        with self._lock:
            self._ports.pop(port_id, None)
            self._of_servers.discard(port_id)

    def change_port(self, port_id: str, **fields: Any) -> base.Port:
        with self._lock:
            self._ports[port_id] = dataclasses.replace(self._ports[port_id], **fields)
            return self._ports[port_id]

    def set_quota(self, project_id: str, ports: int) -> None:
        with self._lock:
            self._quotas[project_id] = ports

    def find_port(self, port_id: str) -> base.Port | None:
        with self._lock:
            return self._ports.get(port_id)

    def nics(self, server: base.Server) -> list[str]:
        """The ids of the ports of the server's NICs, one for each NIC."""
        with self._lock:
            return list(self._nics[server.id])

    def events(self, server_id: str) -> list[str]:
        """What the controller has been told of a server."""
        with self._lock:
            return list(self._events[server_id])

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """Nothing is answered, and nothing happens."""
        self._down = True
        try:
            yield
        finally:
            self._down = False

    @contextlib.contextmanager
    def answers_lost(self) -> Iterator[None]:
        """Everything happens, but no answer arrives."""
        self._losing = True
        try:
            yield
        finally:
            self._losing = False

    # ------------------------------------------------------------------ servers

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        with self._request():
            if server_id not in self._servers:
                raise exceptions.ServerNotFound(server_id)
            return self._servers[server_id]

    def attachments_changed(self, ctxt: RequestContext, server_id: str, event: str) -> None:
        with self._request():
            if server_id in self._servers:
                self._events[server_id].append(event)

    # ------------------------------------------------------------------ networks

    def list_ports(self, ctxt: RequestContext, server_id: str) -> list[base.Port]:
        with self._request():
            return [port for port in self._ports.values() if port.device_id == server_id and server_id]

    def get_port(self, ctxt: RequestContext, port_id: str) -> base.Port:
        with self._request():
            return self._port(port_id)

    def create(
        self,
        ctxt: RequestContext,
        server: base.Server,
        request: base.PortRequest,
        mark: str,
        fence: base.Fence,
    ) -> base.Port:
        with self._request():
            existing = self._marked(mark)
            if existing is not None:
                return existing
            network = self._network_for(ctxt, server, request.network_id)
            self._check_quota(server.project_id)
            fence.check()
            return self._make_port(network, server.project_id, request.ip_address, device_id=server.id, mark=mark)

    def claim(self, ctxt: RequestContext, server: base.Server, port_id: str, fence: base.Fence) -> base.Port:
        with self._request():
            port = self._port(port_id)
            if port.project_id != server.project_id:
                raise exceptions.PortNotUsable(port_id)
            if port.device_id == server.id:
                return port
            if port.device_id:
                raise exceptions.PortInUse(port_id)
            self._check_use(ctxt, self._networks[port.network_id], exceptions.PortNotUsable(port_id))
            fence.check()
            return self.change_port(port_id, device_id=server.id, device_owner='compute:nova')

    def unbind(self, ctxt: RequestContext, port_id: str, server_id: str, fence: base.Fence) -> None:
        with self._request():
            port = self._ports.get(port_id)
            if port is None or not server_id or port.device_id != server_id:
                return
            fence.check()
            self.change_port(port_id, device_id=None, device_owner='', host=None, status='DOWN')

    def delete(self, ctxt: RequestContext, port_id: str | None, mark: str | None, fence: base.Fence) -> None:
        with self._request():
            port = self._marked(mark) if port_id is None else self._ports.get(port_id)
            if port is None:
                return
            if port.mark != mark or (mark is None and port.id not in self._of_servers):
                raise exceptions.NotOurs()
            fence.check()
            self.remove_port(port.id)

    def bind(self, ctxt: RequestContext, port: base.Port, host: str | None, fence: base.Fence) -> base.Port:
        with self._request():
            current = self._port(port.id)
            if current.device_id != port.device_id:
                raise exceptions.PortInUse(port.id)
            if host == 'host-without-binding':
                raise exceptions.BindingFailed()
            if current.host == host:
                return current
            fence.check()
            return self.change_port(port.id, host=host, status='ACTIVE' if host else 'DOWN')

    def find_marked(self, ctxt: RequestContext, installation: str) -> Iterable[base.Port]:
        with self._request():
            beginning = f'osif:{installation}:'
            return [port for port in self._ports.values() if (port.mark or '').startswith(beginning)]

    def created_by_server(self, ctxt: RequestContext, server: base.Server, port: base.Port) -> bool | None:
        with self._request():
            return port.id in self._of_servers and port.device_id == server.id

    # ------------------------------------------------------------------ VIFs

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        with self._request():
            if port.vnic_type == _UNPLUGGABLE or server.id not in self._servers:
                raise exceptions.PlugFailed()
            if port.id not in self._nics[server.id]:
                fence.check()
                self._nics[server.id].append(port.id)
            self._installations[server.id, port.id] = fence.installation
            self._leaving.pop((server.id, port.id), None)
            return {'nic': f'tap-{port.id[:8]}'}

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        with self._request():
            if port_id not in self._nics[server.id]:
                return
            fence.check()
            self._leaving[server.id, port_id] += 1
            if self._leaving[server.id, port_id] <= self._conf.unplug_asks:
                raise exceptions.InProgress()
            del self._leaving[server.id, port_id]
            self._nics[server.id].remove(port_id)

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        with self._request():
            return set(self._nics[server.id])

    def find_plugged(self, ctxt: RequestContext, installation: str) -> set[tuple[str, str]]:
        with self._request():
            nics = [(server_id, port_id) for server_id, nics in self._nics.items() for port_id in nics]
            return {nic for nic in nics if base.may_be_of(installation, self._installations.get(nic, ''))}

    # ------------------------------------------------------------------ inside, under the lock

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        with self._lock:
            if self._down:
                raise exceptions.Unavailable()
            yield
            if self._losing:
                raise exceptions.UnknownOutcome()

    def _port(self, port_id: str) -> base.Port:
        if port_id not in self._ports:
            raise exceptions.PortNotFound(port_id)
        return self._ports[port_id]

    def _marked(self, mark: str | None) -> base.Port | None:
        if not mark:
            return None
        return next((port for port in self._ports.values() if port.mark == mark), None)

    def _network_for(self, ctxt: RequestContext, server: base.Server, network_id: str | None) -> Network:
        if network_id is None:
            network = self._only_network(server.project_id)
        else:
            visible = self._networks.get(network_id)
            if visible is None or not _sees(ctxt, visible):
                raise exceptions.NetworkNotFound(network_id)
            network = visible
        self._check_use(ctxt, network, exceptions.NetworkNotUsable())
        return network

    def _only_network(self, project_id: str) -> Network:
        possible = [
            network
            for network in self._networks.values()
            if (network.shared or network.project_id == project_id) and not network.external
        ]
        if not possible:
            raise exceptions.NetworkNotUsable('There is no network to attach to. Create one first.')
        if len(possible) > 1:
            raise exceptions.NetworkAmbiguous()
        return possible[0]

    def _check_use(self, ctxt: RequestContext, network: Network, error: exceptions.DriverError) -> None:
        if network.cidr is None:
            raise error
        if network.external and not ctxt.check_is_admin():
            raise exceptions.NetworkForbidden()

    def _check_quota(self, project_id: str) -> None:
        limit = self._quotas.get(project_id, self._conf.port_quota)
        used = sum(port.project_id == project_id for port in self._ports.values())
        if 0 <= limit <= used:
            raise exceptions.QuotaExceeded()

    def _make_port(self, network: Network, project_id: str, ip_address: str | None, **fields: Any) -> base.Port:
        fixed_ips: tuple[base.FixedIP, ...] = ()
        if network.cidr is not None:
            fixed_ips = (base.FixedIP(network.subnet_id, self._address(network, ip_address)),)
        self._serial += 1
        digits = f'{self._serial:06x}'
        port = base.Port(
            id=str(uuid.uuid4()),
            network_id=network.id,
            mac_address=f'fa:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}',
            project_id=project_id,
            fixed_ips=fixed_ips,
            **fields,
        )
        self._ports[port.id] = port
        return port

    def _address(self, network: Network, wanted: str | None) -> str:
        used = {
            fixed_ip.ip_address
            for port in self._ports.values()
            if port.network_id == network.id
            for fixed_ip in port.fixed_ips
        }
        if wanted is None:
            address = next((found for found in network.addresses() if found not in used), None)
            if address is None:
                raise exceptions.NoAddress()
            return address
        if wanted not in network.addresses():
            raise exceptions.AddressInvalid(wanted)
        if wanted in used:
            raise exceptions.AddressInUse(wanted)
        return wanted


def _sees(ctxt: RequestContext, network: Network) -> bool:
    return network.shared or network.external or network.project_id == ctxt.project_id or ctxt.check_is_admin()
