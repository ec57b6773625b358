"""Plugs into domains of libvirt, QEMU's, while they run or not: a tap on a bridge for each port.

The domain is the one whose UUID is the server's id. What its state asks for is changed: a running domain, its
configuration, or both; and a NIC is there when it is there in all of these.

**What is ours.** A NIC with the alias ``ua-<port id>``, which libvirt keeps for us, alone is ever touched. libvirt
would plug a second NIC with the same MAC address without a word, but no second one with the alias, nor with the
name of the tap, which follows from the port id as well. Which installation has plugged it stands in metadata of
the domain, one element for each port: nothing can be written into a NIC but its alias.

**Taking out is a request to the guest.** That libvirt has taken it says nothing: a guest that is paused, or has no
operating system yet, does not hear it, and one that boots may lose it. So it is asked again and again, and done
when the NIC is in no description of the domain any more: by then libvirt has removed the tap too.

**Absent is not yet gone.** libvirt makes the changes of a domain one after the other, but not in the order in
which it was asked: a plug that nobody waits for any more may follow. So none is begun that would have to wait; a
NIC is not taken for gone while a plug of this process may yet follow; and it is looked for once more after another
change, before which those that waited have mostly had their turn. Of the plugs of other processes, or of one that
has died, no more than that is known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import time
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import libvirt
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, libvirt_connection

LOG = logging.getLogger(__name__)

GROUP = libvirt_connection.GROUP

#: What an alias may consist of; names that follow from it have to fit elsewhere.
_ALIAS = re.compile(r'[A-Za-z0-9_-]{1,64}')
_PREFIX = 'ua-'
#: A domain's metadata about a port, by its id: the installation that has plugged it.
_NOTE, _KEY = 'urn:os-interface-ext:port:', 'osif'
_UUID = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}')
#: Seconds between two looks: when an end is to be expected, and else, with and without events.
_SOON, _LOOK, _LOOK_WITH_EVENTS = 0.05, 0.25, 1.0
#: Times that a plug goes on with a domain that has changed meanwhile.
_TURNS = 5
_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
#: Somebody else changes the domain for all the time that libvirt waits for him.
_BUSY = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_RESOURCE_BUSY})
_IMPOSSIBLE = frozenset({libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_OPERATION_UNSUPPORTED})


class LibvirtVIFDriver(base.VIFDriver):
    """Options: the group ``[libvirt]``.

    :raises ConfigurationError: a network has two bridges
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._libvirt = libvirt_connection.Libvirt.of(conf)
        self._conf = conf[GROUP]
        twice = sorted(set(self._conf.linux_bridges) & set(self._conf.ovs_bridges))
        if twice:
            raise exceptions.ConfigurationError(
                f'option [{GROUP}] ovs_bridges: {twice[0]!r} is in linux_bridges too: remove it from one of them'
            )

    def check(self, ctxt: RequestContext) -> None:
        self._libvirt.check()

    def capabilities(self, ctxt: RequestContext, server: base.Server) -> frozenset[str]:
        """No tags: a NIC of libvirt has none that its guest could read. Nothing at all but with QEMU."""
        if self._libvirt.read(lambda connection: connection.getType()) != 'QEMU':
            return frozenset()
        return frozenset({base.LIVE_UNPLUG, base.vnic_capability(base.NORMAL)})

    def plug(
        self, ctxt: RequestContext, server: base.Server, port: base.Port, fence: base.Fence
    ) -> dict[str, Any]:
        """The names of the tap and of the bridge.

        :raises PlugFailed: there is no such domain or bridge, or libvirt does not take the NIC
        :raises UnknownOutcome: also if it failed, and what is left must be taken out by an unplug
        """
        if not _ALIAS.fullmatch(port.id):
            raise exceptions.PlugFailed(operator=f'no device can have an alias with the port id {port.id!r}')
        nic, bridge = _Nic(port.id), self._bridge(port)
        description = _describe(nic, port, bridge, self._conf.model)
        failure: libvirt.libvirtError | None = None
        missing = 0
        for _ in range(_TURNS):
            domain = self._look(server)
            if domain is None:
                raise exceptions.PlugFailed(operator=f'there is no domain of server {server.id}')
            domain.require_place(nic, port)
            if fence.installation and domain.installations(nic) != {fence.installation}:
                # Before the NIC: one of which nothing is noted may be anybody's.
                self._note(server, nic, domain, fence, fence.installation)
            if not domain.missing(nic):
                return {'host_interface': nic.tap, 'bridge': bridge.name}
            if failure is not None and domain.missing(nic) == missing:
                break
            # Nothing has failed, or somebody else has changed what it failed at.
            missing = domain.missing(nic)
            failure = self._attach(server, nic, description, missing, fence)
        self._take_back(server, nic, fence)
        raise exceptions.PlugFailed(operator=f'port {port.id}: {failure or "its domain changes all the time"}')

    def unplug(
        self,
        ctxt: RequestContext,
        server: base.Server,
        port_id: str,
        plug_data: dict[str, Any],
        fence: base.Fence,
    ) -> None:
        """A domain that is not there has no NIC; one that is shut off gives it back at once.

        :raises InProgress: the guest has not given it back within ``unplug_wait``, or the time of the fence
        :raises NotSupported: the machine of the guest lets no NIC go, or it was plugged by somebody else
        """
        if not _ALIAS.fullmatch(port_id):
            return
        nic = _Nic(port_id)
        give_up = time.monotonic() + self._conf.unplug_wait
        with self._libvirt.watched(nic.alias) as removed:
            refusal = self._ask(server, nic, fence)
            asked = begun = time.monotonic()
            is_told = False
            domain, is_there = self._look_for(server, nic, fence)
            while is_there:
                now = time.monotonic()
                if now >= give_up or not fence.remaining():
                    raise exceptions.InProgress(
                        operator=f'the guest of server {server.id} has not given port {port_id} back, or a plug '
                        'that was given up may yet be done' + (f': {refusal}' if refusal else '')
                    )
                if now >= asked + self._conf.unplug_repeat:
                    refusal = self._ask(server, nic, fence)
                    asked = time.monotonic()
                is_told = removed.wait(min(self._pause(begun, is_told), give_up - now)) or is_told
                removed.clear()
                domain, is_there = self._look_for(server, nic, fence)
        if domain is None:
            return
        if domain.has_of_others(nic):
            raise exceptions.NotSupported(
                'The interface was plugged by somebody else, who has to take it out.',
                operator=f'port {port_id}: domain {server.id} has a NIC of it without the alias {nic.alias}',
            )

    def plugged(self, ctxt: RequestContext, server: base.Server) -> set[str]:
        """Those of the running domain and of its configuration; a domain that is not there has none."""
        domain = self._look(server)
        return domain.port_ids() if domain is not None else set()

    def find_plugged(self, ctxt: RequestContext, installation: str) -> set[tuple[str, str]]:
        """Of all domains, those that do not run too."""

        def work(connection: libvirt.virConnect) -> set[tuple[str, str]]:
            server_ids = [domain.UUIDString() for domain in connection.listAllDomains()]
            domains = [(server_id, _look(connection, server_id)) for server_id in server_ids]
            found = [(server_id, one, port_id) for server_id, one in domains if one for port_id in one.port_ids()]
            return {
                (server_id, port_id)
                for server_id, one, port_id in found
                if all(base.may_be_of(installation, by) for by in one.installations(_Nic(port_id)))
            }

        try:
            return self._libvirt.read(work)
        except libvirt.libvirtError as error:
            raise exceptions.Unavailable(operator=f'the domains: {error}') from error

    # ------------------------------------------------------------------ within

    def _pause(self, begun: float, is_told: bool) -> float:
        """Seconds until the next look."""
        if self._libvirt.tells_removals:
            return _SOON if is_told else _LOOK_WITH_EVENTS
        return _SOON if time.monotonic() < begun + 1.0 else _LOOK

    def _look(self, server: base.Server) -> _Domain | None:
        """:raises Unavailable: it cannot be looked at"""
        try:
            return self._libvirt.read(lambda connection: _look(connection, server.id))
        except libvirt.libvirtError as error:
            raise exceptions.Unavailable(operator=f'domain {server.id}: {error}') from error

    def _look_for(self, server: base.Server, nic: _Nic, fence: base.Fence) -> tuple[_Domain | None, bool]:
        """The domain, and whether its NIC is there or may yet come."""
        domain = self._look(server)
        if domain is None or domain.has(nic) or self._libvirt.may_appear(nic.alias):
            return domain, domain is not None
        if _LIVE in domain.places or domain.installations(nic) != {''}:
            # If libvirt is asked for a NIC once more just when the guest has given it back, it forgets the NIC
            # and does not save that (measured with 9.0); the next libvirtd would look for it in vain, and end the
            # guest for that. To take away the note is a change that has it saved, even if there is none.
            self._note(server, nic, domain, fence, None)
            # A plug that had waited for its turn has mostly had it by now.
            domain = self._look(server)
        return domain, domain is not None and domain.has(nic)

    def _attach(
        self, server: base.Server, nic: _Nic, description: str, where: int, fence: base.Fence
    ) -> libvirt.libvirtError | None:
        """Plug; the error with which libvirt has refused it."""

        def work(connection: libvirt.virConnect, before_change: Callable[[], None]) -> None:
            domain = libvirt_connection.find(connection, server.id)
            if domain is not None:
                if where & _LIVE:
                    _require_idle(domain)
                before_change()
                domain.attachDeviceFlags(description, where)

        try:
            self._libvirt.write(work, fence, nic.alias)
        except libvirt.libvirtError as error:
            _raise_known(error)
            return error
        return None

    def _ask(self, server: base.Server, nic: _Nic, fence: base.Fence) -> libvirt.libvirtError | None:
        """Ask for the NIC, whether it seems to be there or not; the error with which libvirt has answered."""
        refusals: list[libvirt.libvirtError] = []

        def work(connection: libvirt.virConnect, before_change: Callable[[], None]) -> None:
            domain = _look(connection, server.id)
            if domain is None:
                return
            if _LIVE in domain.places:
                _require_idle(domain.handle)
            # The running domain first: if it gives nothing back, the configuration keeps it too.
            for where in domain.places:
                if where == domain.places[0] or domain.has(nic, where):
                    before_change()
                    try:
                        domain.handle.detachDeviceAlias(nic.alias, where)
                    except libvirt.libvirtError as error:
                        _raise_known(error)
                        refusals.append(error)

        try:
            self._libvirt.write(work, fence)
        except libvirt.libvirtError as error:
            _raise_known(error)
            refusals.append(error)
        return refusals[-1] if refusals else None

    def _note(
        self, server: base.Server, nic: _Nic, domain: _Domain, fence: base.Fence, installation: str | None
    ) -> None:
        """Note which installation plugs a NIC; None: take away what is noted."""
        note = None
        if installation is not None:
            note = ElementTree.tostring(ElementTree.Element('nic', installation=installation), encoding='unicode')
        where = sum(domain.places)

        def work(connection: libvirt.virConnect, before_change: Callable[[], None]) -> None:
            domain = libvirt_connection.find(connection, server.id)
            if domain is not None:
                if note is not None and where & _LIVE:
                    _require_idle(domain)
                before_change()
                domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, note, note and _KEY, nic.note, where)

        try:
            self._libvirt.write(work, fence)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _BUSY:
                raise exceptions.Unavailable(operator=str(error)) from error
            # It may have ended meanwhile.
            LOG.info('domain %s does not note who has plugged port %s: %s', server.id, nic.port_id, error)

    def _take_back(self, server: base.Server, nic: _Nic, fence: base.Fence) -> None:
        """Leave nothing of a plug that has failed.

        :raises UnknownOutcome: something is left yet
        """
        domain = self._look(server)
        if domain is None or not domain.has(nic):
            return
        try:
            self.unplug(RequestContext(), server, nic.port_id, {}, fence)
        except (exceptions.InProgress, exceptions.NotSupported) as error:
            raise exceptions.UnknownOutcome(operator=f'{nic.alias} is left half plugged: {error}') from error

    # ------------------------------------------------------------------ where to

    def _bridge(self, port: base.Port) -> _Bridge:
        """:raises PlugFailed: nothing says which bridge it is, or it is none"""
        linux, ovs = self._conf.linux_bridges, self._conf.ovs_bridges
        for network in (port.network_id, '*'):
            if network in linux:
                return _Bridge(linux[network], is_ovs=False)
            if network in ovs:
                return _Bridge(ovs[network], is_ovs=True)
        name = port.vif_details.get('bridge_name')
        if port.vif_type == 'bridge':
            # So the Linux bridge agent of Neutron calls them.
            return _Bridge(name or f'brq{port.network_id[:11]}', is_ovs=False)
        if port.vif_type == 'ovs' and not port.vif_details.get('ovs_hybrid_plug'):
            return _Bridge(name or self._conf.integration_bridge, is_ovs=True)
        raise exceptions.PlugFailed(
            operator=f'port {port.id}: network {port.network_id} is in neither [{GROUP}] linux_bridges nor '
            f'ovs_bridges, and its binding (vif_type {port.vif_type}) names no bridge for a tap'
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Bridge:
    name: str
    is_ovs: bool


class _Nic:
    """What follows from the id of a port; the tap's name is the one that Neutron's agents look for."""

    def __init__(self, port_id: str) -> None:
        self.port_id = port_id
        self.alias = f'{_PREFIX}{port_id}'
        self.note = f'{_NOTE}{port_id}'
        name = port_id if _UUID.fullmatch(port_id) else hashlib.sha256(port_id.encode()).hexdigest()
        self.tap = f'tap{name[:11]}'


class _Domain:
    """A domain as it was at one moment.

    ``descriptions`` has its XML for each place where a NIC of it must be: running, configured, or both.
    """

    def __init__(self, handle: libvirt.virDomain, descriptions: dict[int, str], *, is_saved: bool) -> None:
        self.handle = handle
        self._is_saved = is_saved
        self._roots = {place: ElementTree.fromstring(xml) for place, xml in descriptions.items()}
        self._nics = {place: root.findall('./devices/interface') for place, root in self._roots.items()}

    @property
    def places(self) -> list[int]:
        """VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_AFFECT_CONFIG, or both in this order."""
        return list(self._nics)

    def port_ids(self) -> set[str]:
        aliases = (_attribute(nic, 'alias', 'name') for nics in self._nics.values() for nic in nics)
        return {alias.removeprefix(_PREFIX) for alias in aliases if alias.startswith(_PREFIX)}

    def installations(self, nic: _Nic) -> set[str]:
        """Those that have plugged it, as each place has it noted; empty: nothing is noted there."""
        return {_attribute(root, f'metadata/{{{nic.note}}}nic', 'installation') for root in self._roots.values()}

    def has(self, nic: _Nic, place: int | None = None) -> bool:
        """Whether it is there, or anywhere."""
        return any(self._ours(nic, one) for one in ([place] if place is not None else self._nics))

    def missing(self, nic: _Nic) -> int:
        """The places where it has to be put, as flags."""
        return sum(place for place in self._nics if not self._ours(nic, place))

    def has_of_others(self, nic: _Nic) -> bool:
        """Whether somebody else has plugged the port."""
        nics = (one for place in self._nics for one in self._nics[place])
        return any(
            _attribute(one, 'alias', 'name') != nic.alias
            and (
                _attribute(one, 'target', 'dev') == nic.tap
                or _attribute(one, 'virtualport/parameters', 'interfaceid') == nic.port_id
            )
            for one in nics
        )

    def require_place(self, nic: _Nic, port: base.Port) -> None:
        """:raises PlugFailed: what is there is in the way"""
        if self._is_saved:
            raise exceptions.PlugFailed(
                operator=f'domain {self.handle.name()} is saved: it would come back without the NIC'
            )
        if self.has_of_others(nic):
            raise exceptions.PlugFailed(operator=f'somebody else has plugged port {port.id} already')
        for place in self._nics:
            for one in self._ours(nic, place):
                if _attribute(one, 'mac', 'address').lower() != port.mac_address.lower():
                    raise exceptions.PlugFailed(operator=f'{nic.alias} is there, with another MAC address')

    def _ours(self, nic: _Nic, place: int) -> list[ElementTree.Element]:
        return [one for one in self._nics.get(place, ()) if _attribute(one, 'alias', 'name') == nic.alias]


def _look(connection: libvirt.virConnect, server_id: str) -> _Domain | None:
    """:raises NotSupported: it is no domain of QEMU's"""
    if connection.getType() != 'QEMU':
        raise exceptions.NotSupported(
            operator=f'[{GROUP}] uri: NICs are plugged with QEMU alone, not with {connection.getType()}'
        )
    handle = libvirt_connection.find(connection, server_id)
    if handle is None:
        return None
    try:
        descriptions = {}
        is_active = bool(handle.isActive())
        if is_active:
            descriptions[_LIVE] = handle.XMLDesc(0)
        if handle.isPersistent():
            descriptions[_CONFIG] = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        return _Domain(handle, descriptions, is_saved=not is_active and bool(handle.hasManagedSaveImage(0)))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _require_idle(domain: libvirt.virDomain) -> None:
    """Of a domain that runs: what is asked of it now has not to wait.

    A backup lets devices come and go. libvirt has the question itself wait for any other change.

    :raises Unavailable: it is being migrated, saved, dumped or the like
    """
    try:
        job = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            # It has ended, as the change will find.
            return
        raise
    operation = job.get(libvirt.VIR_DOMAIN_JOB_OPERATION)
    if job['type'] != libvirt.VIR_DOMAIN_JOB_NONE and operation != libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP:
        raise exceptions.Unavailable(operator=f'domain {domain.name()}: libvirt itself is at it (job {operation})')


def _attribute(element: ElementTree.Element, path: str, name: str) -> str:
    found = element.find(path)
    return found.get(name, '') if found is not None else ''


def _describe(nic: _Nic, port: base.Port, bridge: _Bridge, model: str) -> str:
    """The NIC in libvirt's words (https://libvirt.org/formatdomain.html#network-interfaces)."""
    root = ElementTree.Element('interface', type='bridge')
    ElementTree.SubElement(root, 'mac', address=port.mac_address)
    ElementTree.SubElement(root, 'source', bridge=bridge.name)
    if bridge.is_ovs:
        # libvirt writes external_ids of it: iface-id, attached-mac, vm-id.
        switch = ElementTree.SubElement(root, 'virtualport', type='openvswitch')
        ElementTree.SubElement(switch, 'parameters', interfaceid=port.id)
    ElementTree.SubElement(root, 'target', dev=nic.tap)
    ElementTree.SubElement(root, 'model', type=model)
    if port.mtu is not None:
        ElementTree.SubElement(root, 'mtu', size=str(port.mtu))
    ElementTree.SubElement(root, 'alias', name=nic.alias)
    return ElementTree.tostring(root, encoding='unicode')


def _raise_known(error: libvirt.libvirtError) -> None:
    """Raise what the error means, if that is the same whatever was asked for.

    :raises libvirtError: the connection has broken
    """
    code = error.get_error_code()
    if libvirt_connection.is_on_the_way(error):
        raise error
    if code in _BUSY:
        raise exceptions.Unavailable(operator=str(error)) from error
    # The latter is QEMU's own word, of a device on a bus that was made with the machine.
    if code in _IMPOSSIBLE or 'not support hotplug' in str(error):
        raise exceptions.NotSupported(operator=str(error)) from error
