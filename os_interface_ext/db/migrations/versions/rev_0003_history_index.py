"""How an attachment ended is found by its id. Only adds, so that old workers go on."""

from os_interface_ext.db.migrations.resumable import create_index

revision = '0003'
down_revision = '0002'


def upgrade() -> None:
    create_index('osif_attachment_history_attachment_id_idx', 'osif_attachment_history', ['attachment_id'])
