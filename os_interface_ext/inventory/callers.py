"""Who a token belongs to."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import tables
from os_interface_ext.inventory.ids import is_id
from os_interface_ext.inventory.transactions import fetch

_t = tables.callers
_BY_TOKEN = sa.select(
    _t.c.token, _t.c.user_id, _t.c.user_name, _t.c.project_id, _t.c.project_name, _t.c.roles
).where(_t.c.token == sa.bindparam('token'))


def find(database: Database, token: str) -> dict[str, Any] | None:
    """The caller with a token, as the arguments of a RequestContext; None if nobody has it.

    :raises Unavailable: the database does not answer
    """
    if not is_id(token):
        return None
    row = fetch(database, _BY_TOKEN, {'token': token}).first()
    if row is None:
        return None
    return {
        'auth_token': row.token,
        'user_id': row.user_id,
        'user_name': row.user_name,
        'project_id': row.project_id,
        'project_name': row.project_name,
        'roles': json.loads(row.roles),
    }


def find_by_password(database: Database, user: str, password: str) -> dict[str, Any] | None:
    """The caller whose password, which is the token, belongs to a user; None if it does not.

    :param user: the id or the name of the user; one without a name has the id for a name
    :raises Unavailable: the database does not answer
    """
    caller = find(database, password)
    if caller is None or user not in (caller['user_id'], caller['user_name']):
        return None
    return caller
