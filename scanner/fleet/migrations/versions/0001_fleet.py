"""The first tables of a fleet: slots, scans, the ledger, bases, results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "base",
        sa.Column("scan", sa.String(length=63), nullable=False),
        sa.Column("machine", sa.String(length=512), nullable=False),
        sa.Column("object", sa.String(length=200), nullable=False),
        sa.Column("snapshots", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("usd_month", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("scan"),
    )
    op.create_index("base_by_machine", "base", ["machine", "made_ms"], unique=False)
    op.create_table(
        "draft",
        sa.Column("scan", sa.String(length=63), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scan"),
    )
    op.create_table(
        "outbox",
        sa.Column("scan", sa.String(length=63), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("scan"),
    )
    op.create_index("outbox_by_turn", "outbox", ["sent_ms", "made_ms"], unique=False)
    op.create_table(
        "resource",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("cloud", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=200), nullable=False),
        sa.Column("region", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=256), nullable=False),
        sa.Column("token", sa.String(length=200), nullable=False),
        sa.Column("installation", sa.String(length=200), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("of", sa.String(length=256), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("kept_for", sa.String(length=63), nullable=True),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("resource_by_place", "resource", ["cloud", "account", "region"], unique=False)
    op.create_index("resource_by_token", "resource", ["token"], unique=False)
    op.create_table(
        "scan",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("order", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("machine", sa.String(length=512), nullable=False),
        sa.Column("cloud", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=200), nullable=False),
        sa.Column("region", sa.String(length=200), nullable=False),
        sa.Column("placement", sa.String(length=512), server_default="", nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("not_after_ms", sa.BigInteger(), nullable=True),
        sa.Column("most_per_host", sa.Integer(), nullable=True),
        sa.Column("most_per_account", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("step", sa.String(length=40), server_default="", nullable=False),
        sa.Column("detail", sa.String(length=1000), server_default="", nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stop", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("pause", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("written_ms", sa.BigInteger(), nullable=False),
        sa.Column("progress_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("scan_by_machine", "scan", ["machine", "state"], unique=False)
    op.create_index("scan_by_slot", "scan", ["slot", "state"], unique=False)
    op.create_index("scan_by_turn", "scan", ["state", "priority", "not_before_ms"], unique=False)
    op.create_table(
        "setting",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "slot",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=36), nullable=True),
        sa.Column("worker", sa.String(length=200), server_default="", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_ends_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("slot")
    op.drop_table("setting")
    op.drop_index("scan_by_turn", table_name="scan")
    op.drop_index("scan_by_slot", table_name="scan")
    op.drop_index("scan_by_machine", table_name="scan")
    op.drop_table("scan")
    op.drop_index("resource_by_token", table_name="resource")
    op.drop_index("resource_by_place", table_name="resource")
    op.drop_table("resource")
    op.drop_index("outbox_by_turn", table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("draft")
    op.drop_index("base_by_machine", table_name="base")
    op.drop_table("base")
