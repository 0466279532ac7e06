"""Which contents machines hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from console.store.columns import Bytes, Json, Key, Name, Serial, UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "file_set",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("base", sa.BigInteger(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("used", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["base"], ["file_set.id"], name=op.f("fk_file_set_base")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_set")),
        sa.UniqueConstraint("digest", name=op.f("uq_file_set_digest")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_file_set_base"), "file_set", ["base"], unique=False)
    op.create_table(
        "file_set_shard",
        sa.Column("shard", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("file_set", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("added", Bytes(), nullable=False),
        sa.Column("removed", Bytes(), nullable=False),
        sa.CheckConstraint("shard BETWEEN 0 AND 255", name=op.f("ck_file_set_shard_shard")),
        sa.ForeignKeyConstraint(["file_set"], ["file_set.id"], name=op.f("fk_file_set_shard_file_set")),
        sa.PrimaryKeyConstraint("shard", "file_set", name=op.f("pk_file_set_shard")),
    )
    op.create_index("ix_file_set_shard_file_set", "file_set_shard", ["file_set"], unique=False)
    op.create_table(
        "file_set_offer",
        sa.Column("fleet", Name, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("document", Json(), nullable=False),
        sa.Column("offered", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "digest", name=op.f("pk_file_set_offer")),
    )
    op.create_table(
        "file_set_piece",
        sa.Column("fleet", Name, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("added", Bytes(), nullable=False),
        sa.Column("removed", Bytes(), nullable=False),
        sa.ForeignKeyConstraint(
            ["fleet", "digest"],
            ["file_set_offer.fleet", "file_set_offer.digest"],
            name=op.f("fk_file_set_piece_fleet"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("fleet", "digest", "number", name=op.f("pk_file_set_piece")),
    )
    op.create_table(
        "machine_files",
        sa.Column("machine", Key, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scan", Name, nullable=False),
        sa.Column("seen", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('image', 'instance')", name=op.f("ck_machine_files_kind")),
        sa.PrimaryKeyConstraint("machine", name=op.f("pk_machine_files")),
    )
    op.create_index(op.f("ix_machine_files_digest"), "machine_files", ["digest"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_machine_files_digest"), table_name="machine_files")
    op.drop_table("machine_files")
    op.drop_table("file_set_piece")
    op.drop_table("file_set_offer")
    op.drop_index("ix_file_set_shard_file_set", table_name="file_set_shard")
    op.drop_table("file_set_shard")
    op.drop_index(op.f("ix_file_set_base"), table_name="file_set")
    op.drop_table("file_set")
