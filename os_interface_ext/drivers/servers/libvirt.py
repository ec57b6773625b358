"""Domains of libvirt."""

from __future__ import annotations

from xml.etree import ElementTree

import libvirt
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, libvirt_connection

GROUP = libvirt_connection.GROUP

#: Where a domain says which project it is of: <server xmlns="…" project="…"/> in its metadata.
NAMESPACE = 'urn:os-interface-ext:server:1'
#: What Nova writes there, in the forms that it has had.
_NOVA = ('http://openstack.org/xmlns/libvirt/nova/1.1', 'http://openstack.org/xmlns/libvirt/nova/1.0')

#: As Nova reads them; a domain on its way down is still active to it.
_VM_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: 'active',
    libvirt.VIR_DOMAIN_RUNNING: 'active',
    libvirt.VIR_DOMAIN_BLOCKED: 'active',
    libvirt.VIR_DOMAIN_PAUSED: 'paused',
    libvirt.VIR_DOMAIN_SHUTDOWN: 'active',
    libvirt.VIR_DOMAIN_SHUTOFF: 'stopped',
    libvirt.VIR_DOMAIN_CRASHED: 'error',
    libvirt.VIR_DOMAIN_PMSUSPENDED: 'suspended',
}
#: What libvirt itself does with a domain just now: nobody changes it meanwhile.
_TASK_STATES = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION): 'migrating',
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): 'suspending',
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP): 'powering-on',
}


class LibvirtServerDriver(base.ServerDriver):
    """Options: the group ``[libvirt]``.

    The id of a server is the UUID of its domain. Its project is what the metadata say: our element, else that
    of Nova, else the option ``project_id``.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._libvirt = libvirt_connection.Libvirt.of(conf)
        self._conf = conf[GROUP]

    def check(self, ctxt: RequestContext) -> None:
        self._libvirt.check()

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        try:
            server = self._libvirt.read(lambda connection: self._get(connection, server_id))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise exceptions.Unavailable(operator=f'[{GROUP}] domain {server_id}: {error}') from error
            server = None
        if server is None:
            raise exceptions.ServerNotFound(server_id)
        if not server.project_id:
            raise exceptions.ServerNotFound(
                server_id,
                operator=f'domain {server.id} names no project, and [{GROUP}] project_id is not set',
            )
        return server

    def _get(self, connection: libvirt.virConnect, server_id: str) -> base.Server | None:
        domain = libvirt_connection.find(connection, server_id)
        if domain is None:
            return None
        state, reason = domain.state()
        description = ElementTree.fromstring(domain.XMLDesc(0))
        is_saved = state == libvirt.VIR_DOMAIN_SHUTOFF and domain.hasManagedSaveImage(0)
        return base.Server(
            id=domain.UUIDString(),
            project_id=_project(description) or self._conf.project_id,
            name=_name(description),
            host=self._conf.host or connection.getHostname() or None,
            # Its memory waits for it, and the devices as they were.
            vm_state='suspended' if is_saved else _VM_STATES.get(state, 'error'),
            task_state=_TASK_STATES.get((state, reason)),
        )


def _project(description: ElementTree.Element) -> str:
    ours = description.find(f'./metadata/{{{NAMESPACE}}}server')
    if ours is not None and ours.get('project'):
        return ours.get('project', '')
    for namespace in _NOVA:
        owner = description.find(f'./metadata/{{{namespace}}}instance/{{{namespace}}}owner/{{{namespace}}}project')
        if owner is not None:
            return owner.get('uuid', '')
    return ''


def _name(description: ElementTree.Element) -> str:
    """What its owner calls it."""
    for namespace in _NOVA:
        name = description.findtext(f'./metadata/{{{namespace}}}instance/{{{namespace}}}name')
        if name:
            return name
    return description.findtext('./title') or description.findtext('./name') or ''
