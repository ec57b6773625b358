"""The attachment records, their results, and the embedded inventory."""

import uuid

import sqlalchemy as sa
from alembic import op

from os_interface_ext.db.migrations.resumable import create_index, create_table

revision = '0001'
down_revision = None


def upgrade() -> None:
    create_table(
        'osif_attachment_history',
        sa.Column(
            'sequence', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False
        ),
        sa.Column('attachment_id', sa.String(length=36), nullable=False),
        sa.Column('server_id', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('port_id', sa.String(length=255), nullable=True),
        sa.Column('reason', sa.String(length=16), nullable=False),
        sa.Column('attempts', sa.Integer(), nullable=False),
        sa.Column('last_error', sa.Text(), nullable=True),
        sa.Column('request_id', sa.String(length=64), nullable=True),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('finished_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('sequence', name=op.f('osif_attachment_history_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(
        op.f('osif_attachment_history_finished_at_idx'), 'osif_attachment_history', ['finished_at'], unique=False
    )
    create_index(
        op.f('osif_attachment_history_server_id_idx'), 'osif_attachment_history', ['server_id'], unique=False
    )
    create_table(
        'osif_attachments',
        sa.Column(
            'sequence', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False
        ),
        sa.Column('id', sa.String(length=36), nullable=False),
        sa.Column('server_id', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('host', sa.String(length=255), nullable=True),
        sa.Column('port_id', sa.String(length=255), nullable=True),
        sa.Column('requested_network_id', sa.String(length=255), nullable=True),
        sa.Column('requested_address', sa.String(length=45), nullable=True),
        sa.Column('tag', sa.Text(), nullable=True),
        sa.Column('created', sa.Boolean(), nullable=False),
        sa.Column('mark', sa.String(length=255), nullable=True),
        sa.Column('snapshot', sa.Text(), nullable=True),
        sa.Column('plug_data', sa.Text(), nullable=True),
        sa.Column('state', sa.String(length=16), nullable=False),
        sa.Column('reason', sa.String(length=16), nullable=True),
        sa.Column('generation', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        sa.Column('owner', sa.String(length=255), nullable=True),
        sa.Column('lease_expires', sa.Double(), nullable=True),
        sa.Column('attempts', sa.Integer(), nullable=False),
        sa.Column('next_attempt', sa.Double(), nullable=True),
        sa.Column('last_error', sa.Text(), nullable=True),
        sa.Column('request_id', sa.String(length=64), nullable=True),
        sa.Column('missing_since', sa.Double(), nullable=True),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('updated_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('sequence', name=op.f('osif_attachments_pkey')),
        sa.UniqueConstraint('id', name=op.f('osif_attachments_id_key')),
        sa.UniqueConstraint('port_id', name=op.f('osif_attachments_port_id_key')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(op.f('osif_attachments_server_id_idx'), 'osif_attachments', ['server_id'], unique=False)
    create_index(
        'osif_attachments_state_next_attempt_idx', 'osif_attachments', ['state', 'next_attempt'], unique=False
    )
    create_table(
        'osif_callers',
        sa.Column('token', sa.String(length=255), nullable=False),
        sa.Column('user_id', sa.String(length=255), nullable=False),
        sa.Column('user_name', sa.String(length=255), nullable=True),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('project_name', sa.String(length=255), nullable=True),
        sa.Column('roles', sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint('token', name=op.f('osif_callers_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_table(
        'osif_installation',
        sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('uuid', sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_installation_pkey')),
    )
    create_table(
        'osif_inventory',
        sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_inventory_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_table(
        'osif_networks',
        sa.Column('id', sa.String(length=255), nullable=False),
        sa.Column('name', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('external', sa.Boolean(), nullable=False),
        sa.Column('admin_state_up', sa.Boolean(), nullable=False),
        sa.Column('mtu', sa.Integer(), nullable=False),
        sa.Column('port_security_enabled', sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_networks_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(op.f('osif_networks_project_id_idx'), 'osif_networks', ['project_id'], unique=False)
    create_table(
        'osif_quotas',
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('ports', sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint('project_id', name=op.f('osif_quotas_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_table(
        'osif_servers',
        sa.Column('id', sa.String(length=255), nullable=False),
        sa.Column('name', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('host', sa.String(length=255), nullable=True),
        sa.Column('availability_zone', sa.String(length=255), nullable=True),
        sa.Column('vm_state', sa.String(length=255), nullable=False),
        sa.Column('task_state', sa.String(length=255), nullable=True),
        sa.Column('locked_by', sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_servers_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(op.f('osif_servers_project_id_idx'), 'osif_servers', ['project_id'], unique=False)
    create_table(
        'osif_network_shares',
        sa.Column('network_id', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ['network_id'],
            ['osif_networks.id'],
            name=op.f('osif_network_shares_network_id_fkey'),
            ondelete='CASCADE',
        ),
        sa.PrimaryKeyConstraint('network_id', 'project_id', name=op.f('osif_network_shares_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(op.f('osif_network_shares_project_id_idx'), 'osif_network_shares', ['project_id'], unique=False)
    create_table(
        'osif_ports',
        sa.Column('id', sa.String(length=255), nullable=False),
        sa.Column('name', sa.String(length=255), nullable=False),
        sa.Column('project_id', sa.String(length=255), nullable=False),
        sa.Column('network_id', sa.String(length=255), nullable=False),
        sa.Column('mac_address', sa.String(length=17), nullable=False),
        sa.Column('status', sa.String(length=16), nullable=False),
        sa.Column('admin_state_up', sa.Boolean(), nullable=False),
        sa.Column('port_security_enabled', sa.Boolean(), nullable=False),
        sa.Column('vnic_type', sa.String(length=64), nullable=False),
        sa.Column('device_id', sa.String(length=255), nullable=True),
        sa.Column('device_owner', sa.String(length=255), nullable=False),
        sa.Column('host', sa.String(length=255), nullable=True),
        sa.Column('tag', sa.Text(), nullable=True),
        sa.Column('created_by_attach', sa.Boolean(), nullable=False),
        sa.Column('mark', sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(
            ['network_id'], ['osif_networks.id'], name=op.f('osif_ports_network_id_fkey'), ondelete='CASCADE'
        ),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_ports_pkey')),
        sa.UniqueConstraint('mac_address', name=op.f('osif_ports_mac_address_key')),
        sa.UniqueConstraint('mark', name=op.f('osif_ports_mark_key')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_index(op.f('osif_ports_device_id_idx'), 'osif_ports', ['device_id'], unique=False)
    create_index(op.f('osif_ports_network_id_idx'), 'osif_ports', ['network_id'], unique=False)
    create_index(op.f('osif_ports_project_id_idx'), 'osif_ports', ['project_id'], unique=False)
    create_table(
        'osif_subnets',
        sa.Column('id', sa.String(length=255), nullable=False),
        sa.Column('network_id', sa.String(length=255), nullable=False),
        sa.Column('position', sa.Integer(), nullable=False),
        sa.Column('name', sa.String(length=255), nullable=False),
        sa.Column('cidr', sa.String(length=64), nullable=False),
        sa.Column('gateway_ip', sa.String(length=45), nullable=True),
        sa.ForeignKeyConstraint(
            ['network_id'], ['osif_networks.id'], name=op.f('osif_subnets_network_id_fkey'), ondelete='CASCADE'
        ),
        sa.PrimaryKeyConstraint('id', name=op.f('osif_subnets_pkey')),
        sa.UniqueConstraint('network_id', 'position', name=op.f('osif_subnets_network_id_position_key')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_table(
        'osif_addresses',
        sa.Column('port_id', sa.String(length=255), nullable=False),
        sa.Column('position', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('subnet_id', sa.String(length=255), nullable=False),
        sa.Column('address_key', sa.String(length=32), nullable=False),
        sa.Column('ip_address', sa.String(length=45), nullable=False),
        sa.ForeignKeyConstraint(
            ['port_id'], ['osif_ports.id'], name=op.f('osif_addresses_port_id_fkey'), ondelete='CASCADE'
        ),
        sa.ForeignKeyConstraint(
            ['subnet_id'], ['osif_subnets.id'], name=op.f('osif_addresses_subnet_id_fkey'), ondelete='CASCADE'
        ),
        sa.PrimaryKeyConstraint('port_id', 'position', name=op.f('osif_addresses_pkey')),
        sa.UniqueConstraint('subnet_id', 'address_key', name=op.f('osif_addresses_subnet_id_address_key_key')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    create_table(
        'osif_allocation_pools',
        sa.Column('subnet_id', sa.String(length=255), nullable=False),
        sa.Column('position', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('first_key', sa.String(length=32), nullable=False),
        sa.Column('last_key', sa.String(length=32), nullable=False),
        sa.Column('next_key', sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ['subnet_id'],
            ['osif_subnets.id'],
            name=op.f('osif_allocation_pools_subnet_id_fkey'),
            ondelete='CASCADE',
        ),
        sa.PrimaryKeyConstraint('subnet_id', 'position', name=op.f('osif_allocation_pools_pkey')),
        mysql_charset='utf8mb4',
        mysql_collate='utf8mb4_bin',
        mysql_engine='InnoDB',
    )
    installation = sa.table('osif_installation', sa.column('id'), sa.column('uuid'))
    op.bulk_insert(installation, [{'id': 1, 'uuid': str(uuid.uuid4())}])
