"""What fleets are asked to do once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from console.store.columns import Json, Key, Name, UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", Name, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("fleet", Name, nullable=False),
        sa.Column("account", Key, nullable=True),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("evidence", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("by", Name, nullable=False),
        sa.Column("asked", UtcDateTime(), nullable=False),
        sa.Column("expires", UtcDateTime(), nullable=False),
        sa.Column("fetched", UtcDateTime(), nullable=True),
        sa.Column("answered", UtcDateTime(), nullable=True),
        sa.Column("answer", Json(), nullable=True),
        sa.CheckConstraint("kind IN ('sweep', 'clear', 'check')", name=op.f("ck_task_kind")),
        sa.CheckConstraint("(answered IS NULL) = (answer IS NULL)", name=op.f("ck_task_answered")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
    )
    op.create_index(op.f("ix_task_asked"), "task", ["asked"], unique=False)
    op.create_index("ix_task_fleet", "task", ["fleet", "asked"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_task_fleet", table_name="task")
    op.drop_index(op.f("ix_task_asked"), table_name="task")
    op.drop_table("task")
