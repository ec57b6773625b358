"""Records, ports and addresses of other servers, by the ten thousand: what a test or benchmark stands among."""

from __future__ import annotations

import uuid

from os_interface_ext.attachments.states import State
from os_interface_ext.attachments.store import Store
from os_interface_ext.db import tables as records
from os_interface_ext.db.engine import Database
from os_interface_ext.inventory import addresses, tables

#: Ports of each server.
EACH = 10
_BATCH = 20_000


def fill(database: Database, count: int, *, project_id: str, network_id: str, subnet_id: str) -> None:
    """So many attached ports, and as many results of earlier ones.

    The addresses are those of 10.128.0.0/9, from its beginning: the subnet has to be as large.
    """
    installation = Store(database, lease=30.0).installation
    server_id = ''
    for first in range(0, count, _BATCH):
        ports, given, held, ended = [], [], [], []
        for number in range(first, min(first + _BATCH, count)):
            if number % EACH == 0:
                server_id = str(uuid.uuid4())
            port_id, record_id = str(uuid.uuid4()), str(uuid.uuid4())
            mark = f'osif:{installation}:{record_id}'
            address = (10 << 24) + (1 << 23) + number
            ports.append(
                {
                    'id': port_id,
                    'name': '',
                    'project_id': project_id,
                    'network_id': network_id,
                    'mac_address': (number + (2 << 40)).to_bytes(6).hex(':'),
                    'status': 'ACTIVE',
                    'admin_state_up': True,
                    'port_security_enabled': True,
                    'vnic_type': 'normal',
                    'device_id': server_id,
                    'device_owner': 'compute:nova',
                    'host': 'compute1',
                    'tag': None,
                    'created_by_attach': False,
                    'mark': mark,
                }
            )
            given.append(
                {
                    'port_id': port_id,
                    'position': 0,
                    'subnet_id': subnet_id,
                    'address_key': addresses.key(address),
                    'ip_address': addresses.text(address, 4),
                }
            )
            common = {'server_id': server_id, 'project_id': project_id, 'port_id': port_id, 'attempts': 0}
            held.append(
                {
                    **common,
                    'id': record_id,
                    'host': 'compute1',
                    'requested_network_id': network_id,
                    'created': True,
                    'mark': mark,
                    'state': str(State.ATTACHED),
                    'generation': 1,
                    'created_at': 1.0,
                    'updated_at': 1.0,
                }
            )
            ended.append(
                {
                    **common,
                    'attachment_id': str(uuid.uuid4()),
                    'reason': 'detach',
                    'created_at': 1.0,
                    'finished_at': 4e9,
                }
            )
        with database.write() as connection:
            connection.execute(tables.ports.insert(), ports)
            connection.execute(tables.addresses.insert(), given)
            connection.execute(records.attachments.insert(), held)
            connection.execute(records.history.insert(), ended)
