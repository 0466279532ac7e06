"""The first tables: tokens, accounts, fleets and their orders, the estate, scans, findings and gaps, policies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from console.store.columns import Bytes, Escaped, Json, Key, Name, Serial, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("cloud", Name, nullable=False),
        sa.Column("account", Name, nullable=False),
        sa.Column("fleet", Name, nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("added", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "account", name=op.f("pk_account")),
    )
    op.create_index(op.f("ix_account_fleet"), "account", ["fleet"], unique=False)
    op.create_table(
        "event",
        sa.Column("number", Serial, autoincrement=True, nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("who", sa.String(length=80), nullable=False),
        sa.Column("what", sa.String(length=80), nullable=False),
        sa.Column("subject", Escaped(), nullable=False),
        sa.Column("detail", Json(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_event_time"), "event", ["time"], unique=False)
    op.create_table(
        "finding",
        sa.Column("instance", Key, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("rule", Escaped(), nullable=False),
        sa.Column("title", Escaped(), nullable=False),
        sa.Column("severity", sa.SmallInteger(), nullable=False),
        sa.Column("remedy", Escaped(), nullable=False),
        sa.Column("volume", Escaped(), nullable=False),
        sa.Column("path", Bytes(), nullable=False),
        sa.Column("subject", Escaped(), nullable=False),
        sa.Column("evidence", Json(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.Column("last_scan", Name, nullable=False),
        sa.Column("fixed", UtcDateTime(), nullable=True),
        sa.Column("fixed_scan", Name, nullable=True),
        sa.Column("accepted_by", Name, nullable=False),
        sa.Column("accepted_why", Escaped(), nullable=False),
        sa.Column("accepted_until", UtcDateTime(), nullable=True),
        sa.Column("actions", Json(), nullable=False),
        sa.CheckConstraint("(state = 'accepted') = (accepted_by <> '')", name=op.f("ck_finding_accepted")),
        sa.CheckConstraint("(state = 'fixed') = (fixed IS NOT NULL)", name=op.f("ck_finding_fixed")),
        sa.CheckConstraint("state IN ('open', 'accepted', 'fixed')", name=op.f("ck_finding_state")),
        sa.CheckConstraint("(fixed IS NULL) = (fixed_scan IS NULL)", name=op.f("ck_finding_fixed_scan")),
        sa.CheckConstraint("first_seen <= last_seen", name=op.f("ck_finding_seen")),
        sa.CheckConstraint("severity BETWEEN 0 AND 4", name=op.f("ck_finding_severity")),
        sa.PrimaryKeyConstraint("instance", "id", name=op.f("pk_finding")),
    )
    op.create_index("ix_finding_state", "finding", ["state", "severity", "instance", "id"], unique=False)
    op.create_index("ix_finding_worst", "finding", ["severity", "instance", "id"], unique=False)
    op.create_table(
        "fleet",
        sa.Column("name", Name, nullable=False),
        sa.Column("clouds", Json(), nullable=False),
        sa.Column("regions", Json(), nullable=False),
        sa.Column("registered", UtcDateTime(), nullable=False),
        sa.Column("seen", UtcDateTime(), nullable=True),
        sa.Column("clock_off_seconds", sa.Float(), nullable=False),
        sa.Column("status", Json(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fleet")),
    )
    op.create_table(
        "gap",
        sa.Column("instance", Key, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("where", Escaped(), nullable=False),
        sa.Column("detail", Escaped(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("scan", Name, nullable=False),
        sa.PrimaryKeyConstraint("instance", "number", name=op.f("pk_gap")),
    )
    op.create_table(
        "hold",
        sa.Column("scope", Key, nullable=False),
        sa.Column("why", Escaped(), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("by", Name, nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_hold")),
    )
    op.create_table(
        "image",
        sa.Column("key", Key, nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_scan", Name, nullable=True),
        sa.Column("last_scanned", UtcDateTime(), nullable=True),
        sa.Column("last_result", sa.String(length=20), nullable=False),
        sa.CheckConstraint("last_result IN ('clean', 'findings', 'gaps', '')", name=op.f("ck_image_result")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_image")),
    )
    op.create_table(
        "instance",
        sa.Column("key", Key, nullable=False),
        sa.Column("cloud", Name, nullable=False),
        sa.Column("account", Name, nullable=False),
        sa.Column("region", Key, nullable=False),
        sa.Column("id", Key, nullable=False),
        sa.Column("name", Escaped(), nullable=False),
        sa.Column("search", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("image", Key, nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("launched", UtcDateTime(), nullable=True),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.Column("closed", UtcDateTime(), nullable=True),
        sa.Column("changed", sa.Boolean(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("mode", sa.String(length=40), nullable=False),
        sa.Column("unprotected", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("next_scan", UtcDateTime(), nullable=True),
        sa.Column("last_scan", Name, nullable=True),
        sa.Column("last_scanned", UtcDateTime(), nullable=True),
        sa.Column("last_result", sa.String(length=20), nullable=False),
        sa.CheckConstraint("last_result IN ('clean', 'findings', 'gaps', '')", name=op.f("ck_instance_result")),
        sa.CheckConstraint("first_seen <= last_seen", name=op.f("ck_instance_seen")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_instance")),
    )
    op.create_index("ix_instance_changed", "instance", ["changed"], unique=False)
    op.create_index("ix_instance_next_scan", "instance", ["next_scan"], unique=False)
    op.create_index("ix_instance_place", "instance", ["cloud", "account", "region"], unique=False)
    op.create_table(
        "lease",
        sa.Column("name", Name, nullable=False),
        sa.Column("holder", sa.String(length=80), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "order_counter",
        sa.Column("fleet", Name, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", name=op.f("pk_order_counter")),
    )
    op.create_table(
        "policy_version",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("etag", sa.String(length=80), nullable=False),
        sa.Column("who", Name, nullable=False),
        sa.Column("when", UtcDateTime(), nullable=False),
        sa.Column("message", Escaped(), nullable=False),
        sa.Column("documents", Bytes(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policy_version")),
    )
    op.create_table(
        "scan",
        sa.Column("id", Name, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("machine", Key, nullable=False),
        sa.Column("cloud", Name, nullable=False),
        sa.Column("account", Name, nullable=False),
        sa.Column("region", Key, nullable=False),
        sa.Column("fleet", Name, nullable=False),
        sa.Column("why", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("step", sa.String(length=40), nullable=False),
        sa.Column("detail", Escaped(), nullable=False),
        sa.Column("ordered", UtcDateTime(), nullable=False),
        sa.Column("due", UtcDateTime(), nullable=False),
        sa.Column("not_after", UtcDateTime(), nullable=True),
        sa.Column("order_number", sa.BigInteger(), nullable=False),
        sa.Column("started", UtcDateTime(), nullable=True),
        sa.Column("ended", UtcDateTime(), nullable=True),
        sa.Column("result", sa.String(length=20), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
        sa.Column("gaps", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.String(length=20), nullable=False),
        sa.Column("blocks_read", sa.BigInteger(), nullable=False),
        sa.Column("bytes_read", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Float(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("base", Json(), nullable=True),
        sa.CheckConstraint(
            "(ended IS NOT NULL) = (state IN ('done', 'failed', 'stopped', 'missed', 'gone'))",
            name=op.f("ck_scan_ended"),
        ),
        sa.CheckConstraint("kind IN ('image', 'instance')", name=op.f("ck_scan_kind")),
        sa.CheckConstraint("result IN ('clean', 'findings', 'gaps', '')", name=op.f("ck_scan_result")),
        sa.CheckConstraint(
            "state IN ('ordered', 'waiting', 'running', 'paused', 'done', 'failed', 'stopped', 'missed', 'gone')",
            name=op.f("ck_scan_state"),
        ),
        sa.CheckConstraint("why IN ('manual', 'launch', 'schedule')", name=op.f("ck_scan_why")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scan")),
    )
    op.create_index("ix_scan_account", "scan", ["cloud", "account", "ended"], unique=False)
    op.create_index("ix_scan_machine", "scan", ["machine", "ordered"], unique=False)
    op.create_index("ix_scan_ordered", "scan", ["ordered", "id"], unique=False)
    op.create_index("ix_scan_state", "scan", ["state", "ordered", "id"], unique=False)
    op.create_table(
        "token",
        sa.Column("name", Name, nullable=False),
        sa.Column("digest", Bytes(), nullable=False),
        sa.Column("scopes", Json(), nullable=False),
        sa.Column("fleet", Name, nullable=True),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("expires", UtcDateTime(), nullable=True),
        sa.Column("last_used", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_token_digest")),
    )
    op.create_table(
        "order",
        sa.Column("fleet", Name, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("scan", Name, nullable=True),
        sa.Column("document", Json(), nullable=True),
        sa.Column("written", UtcDateTime(), nullable=False),
        sa.Column("fetched", UtcDateTime(), nullable=True),
        sa.CheckConstraint("kind IN ('scan', 'stop', 'pause', 'resume', 'reconcile')", name=op.f("ck_order_kind")),
        sa.CheckConstraint("number > 0", name=op.f("ck_order_number")),
        sa.ForeignKeyConstraint(["scan"], ["scan.id"], name=op.f("fk_order_scan")),
        sa.PrimaryKeyConstraint("fleet", "number", name=op.f("pk_order")),
    )
    op.create_index("ix_order_scan", "order", ["scan"], unique=False)
    op.create_table(
        "place",
        sa.Column("cloud", Name, nullable=False),
        sa.Column("account", Name, nullable=False),
        sa.Column("region", Key, nullable=False),
        sa.Column("reconciled", UtcDateTime(), nullable=True),
        sa.Column("problem", Escaped(), nullable=False),
        sa.ForeignKeyConstraint(
            ["cloud", "account"], ["account.cloud", "account.account"], name=op.f("fk_place_cloud"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cloud", "account", "region", name=op.f("pk_place")),
    )
    op.create_table(
        "report",
        sa.Column("scan", Name, nullable=False),
        sa.Column("content", Bytes(), nullable=False),
        sa.Column("json_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["scan"], ["scan.id"], name=op.f("fk_report_scan")),
        sa.PrimaryKeyConstraint("scan", name=op.f("pk_report")),
    )


def downgrade() -> None:
    op.drop_table("report")
    op.drop_table("place")
    op.drop_index("ix_order_scan", table_name="order")
    op.drop_table("order")
    op.drop_table("token")
    op.drop_index("ix_scan_state", table_name="scan")
    op.drop_index("ix_scan_ordered", table_name="scan")
    op.drop_index("ix_scan_machine", table_name="scan")
    op.drop_index("ix_scan_account", table_name="scan")
    op.drop_table("scan")
    op.drop_table("policy_version")
    op.drop_table("order_counter")
    op.drop_table("lease")
    op.drop_index("ix_instance_place", table_name="instance")
    op.drop_index("ix_instance_next_scan", table_name="instance")
    op.drop_index("ix_instance_changed", table_name="instance")
    op.drop_table("instance")
    op.drop_table("image")
    op.drop_table("hold")
    op.drop_table("gap")
    op.drop_table("fleet")
    op.drop_index("ix_finding_worst", table_name="finding")
    op.drop_index("ix_finding_state", table_name="finding")
    op.drop_table("finding")
    op.drop_index(op.f("ix_event_time"), table_name="event")
    op.drop_table("event")
    op.drop_index(op.f("ix_account_fleet"), table_name="account")
    op.drop_table("account")
