"""A result that the console does not take: when it is sent again, or why it never will be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("try_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("refused", sa.String(length=1000), nullable=True))


def downgrade() -> None:
    for name in ("refused", "try_ms", "tries"):
        op.drop_column("outbox", name)
