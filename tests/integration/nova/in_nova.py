"""A process with Nova's own code: does what it is told over its standard input, by name.

Run with the Python of Nova. ``in_nova.py CONFIG_FILE`` has the server driver nova-local of that file.
"""

from __future__ import annotations

import copy
import os
import pickle
import sys
from typing import Any

from oslo_config import cfg

from os_interface_ext import conf as configuration
from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.drivers import base, loader


class Process:
    """What can be asked for."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._driver = loader.load(loader.SERVER, 'nova-local', configuration.new([file]))

    def get(self, who: dict[str, Any], server_id: str) -> base.Server:
        return self._driver.get(RequestContext(**who), server_id)

    def check(self, who: dict[str, Any]) -> None:
        self._driver.check(RequestContext(**who))

    def attachments_changed(
        self, who: dict[str, Any], server_id: str, kind: str, port_id: str | None, created: bool, tag: str | None
    ) -> None:
        change = base.Change(kind, port_id, created=created, tag=tag)
        self._driver.attachments_changed(RequestContext(**who), server_id, change)

    def entry(self, server_id: str, port_id: str) -> dict[str, Any] | None:
        """What Nova's network info cache says of a port."""
        for vif in self._cache(server_id).network_info:
            if vif['id'] == port_id:
                return {
                    'kept': vif['preserve_on_delete'],
                    'mac': vif['address'],
                    'addresses': [ip['address'] for ip in vif.fixed_ips()],
                    'network': vif['network']['label'],
                    'vif_type': vif['type'],
                }
        return None

    def interface(self, server_id: str, port_id: str) -> dict[str, Any] | None:
        """Nova's VirtualInterface record of a port."""
        from nova import objects

        found = objects.VirtualInterface.get_by_uuid(self._cache(server_id)._context, port_id)
        return found and {'server': found.instance_uuid, 'tag': found.tag, 'mac': found.address}

    def write_over(self, server_id: str, port_id: str) -> None:
        """As nova-compute does with what it has read before a port was attached: the entry is not marked."""
        cache = self._cache(server_id)
        for vif in cache.network_info:
            if vif['id'] == port_id:
                vif['preserve_on_delete'] = False
        cache.network_info = cache.network_info
        cache.save()

    def enter_unknown(self, server_id: str, port_id: str) -> None:
        """As nova-compute does with what it has read before a port was detached: the entry comes back."""
        cache = self._cache(server_id)
        entry = copy.deepcopy(cache.network_info[0])
        entry['id'] = port_id
        cache.network_info.append(entry)
        cache.network_info = cache.network_info
        cache.save()

    def load_filter(self, paste_file: str) -> list[str]:
        """What loading the filter changes in Nova's configuration object."""
        from nova.api.openstack import compute as _routes  # noqa: F401
        from nova.conf import CONF
        from paste import deploy

        deploy.loadapp(f'config:{paste_file}', name='without')
        before = _options(CONF)
        deploy.loadapp(f'config:{paste_file}', name='with')
        after = _options(CONF)
        return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))

    def _cache(self, server_id: str) -> Any:
        from nova import context, objects

        ctxt = context.get_admin_context()
        mapping = objects.InstanceMapping.get_by_instance_uuid(ctxt, server_id)
        context.set_target_cell(ctxt, mapping.cell_mapping)
        return objects.InstanceInfoCache.get_by_instance_uuid(ctxt, server_id)


def _options(conf: cfg.ConfigOpts) -> dict[str, str]:
    """Every option that is registered, and its value."""
    found = {}
    for group in (None, *conf._groups.values()):
        for name in (conf if group is None else group)._opts:
            try:
                value = repr(getattr(conf if group is None else conf[group.name], name))
            except (cfg.Error, ValueError) as error:
                value = type(error).__name__
            found[f'{group.name if group else "DEFAULT"}.{name}'] = value
    return found


def main() -> None:
    answers = os.fdopen(os.dup(1), 'wb')
    # What Nova prints is no answer.
    os.dup2(2, 1)
    process = Process(sys.argv[1])
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[Any, ...]
        try:
            answer = (True, getattr(process, name)(*arguments))
        except exceptions.DriverError as error:
            answer = (False, type(error).__name__, error.operator)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == '__main__':
    main()
