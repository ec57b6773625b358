"""What the reconciler remembers: suspects and heartbeats. Only adds, so that old workers go on."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from os_interface_ext.db.migrations.resumable import create_table

revision = '0002'
down_revision = '0001'

_OPTIONS: dict[str, Any] = {'mysql_engine': 'InnoDB', 'mysql_charset': 'utf8mb4', 'mysql_collate': 'utf8mb4_bin'}


def upgrade() -> None:
    create_table(
        'osif_suspects',
        sa.Column('port_id', sa.String(255), nullable=False),
        sa.Column('first_seen', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('port_id', name=op.f('osif_suspects_pkey')),
        **_OPTIONS,
    )
    create_table(
        'osif_heartbeats',
        sa.Column('name', sa.String(255), nullable=False),
        sa.Column('owner', sa.String(255), nullable=False),
        sa.Column('seen', sa.Double(), nullable=False),
        sa.Column('expires', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('name', name=op.f('osif_heartbeats_pkey')),
        **_OPTIONS,
    )
