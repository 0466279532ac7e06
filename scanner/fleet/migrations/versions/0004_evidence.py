"""Snapshots of machines with findings, kept until a moment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("resource", sa.Column("evidence_until_ms", sa.BigInteger(), nullable=True))
