"""Servers of the embedded inventory."""

from __future__ import annotations

import sqlalchemy as sa
from oslo_config import cfg

from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base
from os_interface_ext.inventory import tables
from os_interface_ext.inventory.ids import is_id
from os_interface_ext.inventory.transactions import fetch

_t = tables.servers
# In the order of the fields of Server.
_BY_ID = sa.select(
    _t.c.id,
    _t.c.project_id,
    _t.c.name,
    _t.c.host,
    _t.c.vm_state,
    _t.c.task_state,
    _t.c.locked_by,
    _t.c.availability_zone,
).where(_t.c.id == sa.bindparam('id'))


class SQLServerDriver(base.ServerDriver):
    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._db = Database.of(conf)

    def check(self, ctxt: RequestContext) -> None:
        fetch(self._db, _BY_ID, {'id': ''})

    def get(self, ctxt: RequestContext, server_id: str) -> base.Server:
        if not is_id(server_id):
            raise exceptions.ServerNotFound(server_id)
        row = fetch(self._db, _BY_ID, {'id': server_id}).first()
        if row is None:
            raise exceptions.ServerNotFound(server_id)
        return base.Server(*row)
