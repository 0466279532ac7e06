"""What the planner needs: when it looks at an instance again, and which scans it paused because of a hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from console.store.columns import UtcDateTime

revision = "0002"
down_revision = "0001"

_IS_OPEN = sa.text("closed IS NULL")
_NOT_ENDED = sa.text("ended IS NULL")


def upgrade() -> None:
    op.add_column("instance", sa.Column("look", UtcDateTime(), nullable=True))
    op.add_column("scan", sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_instance_look", "instance", ["look"], sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
    op.create_index(
        "ix_instance_behind", "instance", ["policy_version"], sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN
    )
    op.create_index("ix_scan_open", "scan", ["machine"], sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED)


def downgrade() -> None:
    op.drop_index("ix_scan_open", table_name="scan")
    op.drop_index("ix_instance_behind", table_name="instance")
    op.drop_index("ix_instance_look", table_name="instance")
    op.drop_column("scan", "held")
    op.drop_column("instance", "look")
