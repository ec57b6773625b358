"""The tables of the attachment records."""

import sqlalchemy as sa

#: The revision of the schema that this code works with (the head of ``migrations``).
REVISION = '0003'
VERSION_TABLE = 'osif_alembic_version'

metadata = sa.MetaData(
    naming_convention={
        'ix': '%(table_name)s_%(column_0_N_name)s_idx',
        'uq': '%(table_name)s_%(column_0_N_name)s_key',
        'pk': '%(table_name)s_pkey',
        'fk': '%(table_name)s_%(column_0_N_name)s_fkey',
    }
)

BigInteger = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')

installation = sa.Table(
    'osif_installation',
    metadata,
    sa.Column('id', sa.Integer, primary_key=True, autoincrement=False),
    sa.Column('uuid', sa.String(36), nullable=False),
)

attachments = sa.Table(
    'osif_attachments',
    metadata,
    # The order of attachment. Never a part of a mark: numbers come again after a restore.
    sa.Column('sequence', BigInteger, primary_key=True, autoincrement=True),
    sa.Column('id', sa.String(36), nullable=False, unique=True),
    sa.Column('server_id', sa.String(255), nullable=False, index=True),
    sa.Column('project_id', sa.String(255), nullable=False),
    sa.Column('host', sa.String(255)),
    # Unique: the claim on the port.
    sa.Column('port_id', sa.String(255), unique=True),
    sa.Column('requested_network_id', sa.String(255)),
    sa.Column('requested_address', sa.String(45)),
    # As JSON: a tag may hold U+0000, which PostgreSQL's text cannot.
    sa.Column('tag', sa.Text),
    # Made here, so that the way out deletes the port; a brought port is only unbound.
    sa.Column('created', sa.Boolean, nullable=False),
    # What the port carries in the network backend; a port of unknown origin has none.
    sa.Column('mark', sa.String(255)),
    sa.Column('snapshot', sa.Text),
    sa.Column('plug_data', sa.Text),
    sa.Column('state', sa.String(16), nullable=False),
    sa.Column('reason', sa.String(16)),
    sa.Column('generation', BigInteger, nullable=False),
    sa.Column('owner', sa.String(255)),
    sa.Column('lease_expires', sa.Double),
    sa.Column('attempts', sa.Integer, nullable=False),
    sa.Column('next_attempt', sa.Double),
    sa.Column('last_error', sa.Text),
    sa.Column('request_id', sa.String(64)),
    # When the world was first seen to disagree with an ATTACHED record: gone means not found twice.
    sa.Column('missing_since', sa.Double),
    sa.Column('created_at', sa.Double, nullable=False),
    sa.Column('updated_at', sa.Double, nullable=False),
    sa.Index('osif_attachments_state_next_attempt_idx', 'state', 'next_attempt'),
    mysql_engine='InnoDB',
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
)

history = sa.Table(
    'osif_attachment_history',
    metadata,
    sa.Column('sequence', BigInteger, primary_key=True, autoincrement=True),
    sa.Column('attachment_id', sa.String(36), nullable=False, index=True),
    sa.Column('server_id', sa.String(255), nullable=False, index=True),
    sa.Column('project_id', sa.String(255), nullable=False),
    sa.Column('port_id', sa.String(255)),
    sa.Column('reason', sa.String(16), nullable=False),
    sa.Column('attempts', sa.Integer, nullable=False),
    sa.Column('last_error', sa.Text),
    sa.Column('request_id', sa.String(64)),
    sa.Column('created_at', sa.Double, nullable=False),
    sa.Column('finished_at', sa.Double, nullable=False, index=True),
    mysql_engine='InnoDB',
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
)

# Ports of ours without a record, since they were first seen so.
suspects = sa.Table(
    'osif_suspects',
    metadata,
    sa.Column('port_id', sa.String(255), primary_key=True),
    sa.Column('first_seen', sa.Double, nullable=False),
    mysql_engine='InnoDB',
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
)

# Who reconciles, and when it was last heard of; a role that one process at a time has is a row too.
heartbeats = sa.Table(
    'osif_heartbeats',
    metadata,
    sa.Column('name', sa.String(255), primary_key=True),
    sa.Column('owner', sa.String(255), nullable=False),
    sa.Column('seen', sa.Double, nullable=False),
    sa.Column('expires', sa.Double, nullable=False),
    mysql_engine='InnoDB',
    mysql_charset='utf8mb4',
    mysql_collate='utf8mb4_bin',
)
