"""What is installed on machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from console.store.columns import Key, Name, PackageWord, Serial, UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    words = ("type", "name", "version", "architecture", "source", "source_version", "distro")
    op.create_table(
        "package",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        *(sa.Column(word, PackageWord, nullable=False) for word in words),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_package")),
        sa.UniqueConstraint("digest", name=op.f("uq_package_digest")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_package_name"), "package", ["name"], unique=False)
    op.create_index(op.f("ix_package_source"), "package", ["source"], unique=False)
    op.create_table(
        "package_set",
        sa.Column("id", Serial, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_package_set")),
        sa.UniqueConstraint("digest", name=op.f("uq_package_set_digest")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "package_set_item",
        sa.Column("package", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("package_set", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["package"], ["package.id"], name=op.f("fk_package_set_item_package")),
        sa.ForeignKeyConstraint(["package_set"], ["package_set.id"], name=op.f("fk_package_set_item_package_set")),
        sa.PrimaryKeyConstraint("package", "package_set", name=op.f("pk_package_set_item")),
    )
    op.create_index("ix_package_set_item_package_set", "package_set_item", ["package_set"], unique=False)
    op.create_table(
        "machine_packages",
        sa.Column("machine", Key, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("package_set", sa.BigInteger(), nullable=False),
        sa.Column("scan", Name, nullable=False),
        sa.Column("seen", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('image', 'instance')", name=op.f("ck_machine_packages_kind")),
        sa.ForeignKeyConstraint(["package_set"], ["package_set.id"], name=op.f("fk_machine_packages_package_set")),
        sa.PrimaryKeyConstraint("machine", name=op.f("pk_machine_packages")),
    )
    op.create_index(op.f("ix_machine_packages_package_set"), "machine_packages", ["package_set"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_machine_packages_package_set"), table_name="machine_packages")
    op.drop_table("machine_packages")
    op.drop_index("ix_package_set_item_package_set", table_name="package_set_item")
    op.drop_table("package_set_item")
    op.drop_table("package_set")
    op.drop_index(op.f("ix_package_source"), table_name="package")
    op.drop_index(op.f("ix_package_name"), table_name="package")
    op.drop_table("package")
