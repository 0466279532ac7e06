"""The tables. Times are UTC, sizes bytes; what comes from disks is `Bytes`, `Escaped` or `Json`, never text.

A key is `str(Instance)` or `str(Image)`; columns called `machine` hold either, and so do findings and gaps.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, ForeignKey, ForeignKeyConstraint, Index, MetaData, Table

from console.store.columns import Bytes, Escaped, Json, Key, Name, PackageWord, Serial, UtcDateTime

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)

_IS_OPEN: Final = "closed IS NULL"
_NOT_ENDED: Final = "ended IS NULL"

token = Table(
    "token",
    metadata,
    Column("name", Name, primary_key=True),
    Column("digest", Bytes, nullable=False, unique=True),  # SHA-256 of the secret
    Column("scopes", Json, nullable=False),
    Column("fleet", Name),
    Column("created", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime),
    Column("last_used", UtcDateTime),
)

account = Table(
    "account",
    metadata,
    Column("cloud", Name, primary_key=True),
    Column("account", Name, primary_key=True),
    Column("fleet", Name, nullable=False, index=True),
    Column("document", Json, nullable=False),  # AccountIn
    Column("added", UtcDateTime, nullable=False),
)

place = Table(  # an account in one region, as its fleet listed it
    "place",
    metadata,
    Column("cloud", Name, primary_key=True),
    Column("account", Name, primary_key=True),
    Column("region", Key, primary_key=True),
    Column("reconciled", UtcDateTime),  # when it was last listed whole
    Column("problem", Escaped, nullable=False, default=""),
    ForeignKeyConstraint(["cloud", "account"], ["account.cloud", "account.account"], ondelete="CASCADE"),
)

fleet = Table(
    "fleet",
    metadata,
    Column("name", Name, primary_key=True),
    Column("clouds", Json, nullable=False),
    Column("regions", Json, nullable=False),
    Column("registered", UtcDateTime, nullable=False),
    Column("seen", UtcDateTime),
    Column("clock_off_seconds", sa.Float, nullable=False, default=0.0),
    Column("status", Json),  # FleetStatus without its scans
)

# The counter's row is locked from the number's making until its commit, so numbers become visible in their order.
order_counter = Table(
    "order_counter",
    metadata,
    Column("fleet", Name, primary_key=True),
    Column("last", sa.BigInteger, nullable=False),
)

order = Table(
    "order",
    metadata,
    Column("fleet", Name, primary_key=True),
    Column("number", sa.BigInteger, primary_key=True),
    Column("kind", sa.String(20), nullable=False),
    Column("scan", Name, ForeignKey("scan.id")),
    Column("document", Json),  # ScanOrder, of kind `scan`
    Column("written", UtcDateTime, nullable=False),
    Column("fetched", UtcDateTime),  # first handed out: from then on it is not changed any more
    CheckConstraint("kind IN ('scan', 'stop', 'pause', 'resume', 'reconcile')", name="kind"),
    CheckConstraint("number > 0", name="number"),
    Index("ix_order_scan", "scan"),
)

instance = Table(
    "instance",
    metadata,
    Column("key", Key, primary_key=True),
    Column("cloud", Name, nullable=False),
    Column("account", Name, nullable=False),
    Column("region", Key, nullable=False),
    Column("id", Key, nullable=False),
    Column("name", Escaped, nullable=False),
    Column("search", sa.Text, nullable=False),  # key and name, lower case, printable
    Column("state", sa.String(20), nullable=False),
    Column("image", Key, nullable=False, default=""),  # its id; empty if it is not known
    Column("digest", sa.String(32), nullable=False),  # `client.digest.digest`
    Column("document", Json, nullable=False),  # Instance
    Column("launched", UtcDateTime),
    Column("first_seen", UtcDateTime, nullable=False),
    Column(
        "last_seen", UtcDateTime, nullable=False
    ),  # or when its place was last listed whole, if it is open and that is later
    Column("closed", UtcDateTime),
    # What the planner knows of it. `changed` is set whenever any of the above but the times is written, and cleared by the planner.
    Column("changed", sa.Boolean, nullable=False, default=True),
    Column("policy", sa.Text, nullable=False, default=""),
    Column("mode", sa.String(40), nullable=False, default=""),
    Column("unprotected", sa.Text, nullable=False, default=""),
    Column("policy_version", sa.BigInteger, nullable=False, default=0),  # by which the three were decided
    Column("next_scan", UtcDateTime),
    Column("look", UtcDateTime),  # when it is to be planned again; NULL: at once
    # What its last scan that ended DONE said.
    Column("last_scan", Name),
    Column("last_scanned", UtcDateTime),
    Column("last_result", sa.String(20), nullable=False, default=""),
    CheckConstraint("first_seen <= last_seen", name="seen"),
    CheckConstraint("last_result IN ('clean', 'findings', 'gaps', '')", name="result"),
    Index("ix_instance_place", "cloud", "account", "region"),
    Index("ix_instance_changed", "changed"),
    Index("ix_instance_next_scan", "next_scan"),
    Index("ix_instance_look", "look", sqlite_where=sa.text(_IS_OPEN), postgresql_where=sa.text(_IS_OPEN)),
    Index("ix_instance_behind", "policy_version", sqlite_where=sa.text(_IS_OPEN), postgresql_where=sa.text(_IS_OPEN)),
)

image = Table(  # what instances are made from, as far as it was scanned
    "image",
    metadata,
    Column("key", Key, primary_key=True),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_scan", Name),
    Column("last_scanned", UtcDateTime),
    Column("last_result", sa.String(20), nullable=False, default=""),
    CheckConstraint("last_result IN ('clean', 'findings', 'gaps', '')", name="result"),
)

scan = Table(
    "scan",
    metadata,
    Column("id", Name, primary_key=True),
    Column("kind", sa.String(20), nullable=False),
    Column("machine", Key, nullable=False),
    Column("cloud", Name, nullable=False),
    Column("account", Name, nullable=False),
    Column("region", Key, nullable=False),
    Column("fleet", Name, nullable=False),
    Column("why", sa.String(20), nullable=False),
    Column("state", sa.String(20), nullable=False),
    Column("step", sa.String(40), nullable=False, default=""),
    Column("detail", Escaped, nullable=False, default=""),
    Column("ordered", UtcDateTime, nullable=False),
    Column("due", UtcDateTime, nullable=False),  # ScanOrder.not_before
    Column("not_after", UtcDateTime),
    Column("order_number", sa.BigInteger, nullable=False),  # the order of kind `scan` that it was told by
    Column("started", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("result", sa.String(20), nullable=False, default=""),
    Column("findings", sa.BigInteger, nullable=False, default=0),
    Column("gaps", sa.BigInteger, nullable=False, default=0),
    Column("mode", sa.String(20), nullable=False, default=""),
    Column("blocks_read", sa.BigInteger, nullable=False, default=0),
    Column("bytes_read", sa.BigInteger, nullable=False, default=0),
    Column("usd", sa.Float, nullable=False, default=0.0),
    Column("policy_version", sa.BigInteger, nullable=False, default=0),
    Column("attempt", sa.Integer, nullable=False, default=0),  # of the result that was taken
    Column("base", Json),  # snapshots that its fleet keeps
    Column("held", sa.Boolean, nullable=False, default=False, server_default=sa.false()),  # paused because of a hold
    CheckConstraint("kind IN ('image', 'instance')", name="kind"),
    CheckConstraint("why IN ('manual', 'launch', 'schedule')", name="why"),
    CheckConstraint(
        "state IN ('ordered', 'waiting', 'running', 'paused', 'done', 'failed', 'stopped', 'missed', 'gone')",
        name="state",
    ),
    CheckConstraint("result IN ('clean', 'findings', 'gaps', '')", name="result"),
    CheckConstraint("(ended IS NOT NULL) = (state IN ('done', 'failed', 'stopped', 'missed', 'gone'))", name="ended"),
    Index("ix_scan_machine", "machine", "ordered"),
    Index("ix_scan_ordered", "ordered", "id"),
    Index("ix_scan_state", "state", "ordered", "id"),
    Index("ix_scan_account", "cloud", "account", "ended"),
    Index("ix_scan_open", "machine", sqlite_where=sa.text(_NOT_ENDED), postgresql_where=sa.text(_NOT_ENDED)),
)

report = Table(
    "report",
    metadata,
    Column("scan", Name, ForeignKey("scan.id"), primary_key=True),
    Column("content", Bytes, nullable=False),  # gzip
    Column("json_bytes", sa.BigInteger, nullable=False),
)

finding = Table(
    "finding",
    metadata,
    Column("instance", Key, primary_key=True),  # or an image's key
    Column("id", sa.String(64), primary_key=True),  # the fingerprint
    Column("rule", Escaped, nullable=False),
    Column("title", Escaped, nullable=False),
    Column("severity", sa.SmallInteger, nullable=False),  # 0 critical … 4 info: worst first is the index's order
    Column("remedy", Escaped, nullable=False),
    Column("volume", Escaped, nullable=False),  # the filesystem's UUID, or the index of the volume
    Column("path", Bytes, nullable=False),
    Column("subject", Escaped, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("state", sa.String(20), nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
    Column("last_scan", Name, nullable=False),  # that saw it
    Column("fixed", UtcDateTime),
    Column("fixed_scan", Name),  # that looked and did not see it
    Column("accepted_by", Name, nullable=False, default=""),
    Column("accepted_why", Escaped, nullable=False, default=""),
    Column("accepted_until", UtcDateTime),
    Column("actions", Json, nullable=False),  # a list of texts
    CheckConstraint("severity BETWEEN 0 AND 4", name="severity"),
    CheckConstraint("state IN ('open', 'accepted', 'fixed')", name="state"),
    CheckConstraint("first_seen <= last_seen", name="seen"),
    CheckConstraint("(state = 'fixed') = (fixed IS NOT NULL)", name="fixed"),
    CheckConstraint("(fixed IS NULL) = (fixed_scan IS NULL)", name="fixed_scan"),
    CheckConstraint("(state = 'accepted') = (accepted_by <> '')", name="accepted"),
    Index("ix_finding_worst", "severity", "instance", "id"),
    Index("ix_finding_state", "state", "severity", "instance", "id"),
)

gap = Table(  # of the last scan of each machine
    "gap",
    metadata,
    Column("instance", Key, primary_key=True),  # or an image's key
    Column("number", sa.Integer, primary_key=True),  # from 0, in the report's order
    Column("reason", sa.String(40), nullable=False),
    Column("where", Escaped, nullable=False),
    Column("detail", Escaped, nullable=False),
    Column("count", sa.BigInteger, nullable=False),
    Column("accepted", sa.Boolean, nullable=False),
    Column("scan", Name, nullable=False),
)

# What files hold, by SHA-256. A set is whole and never changes. With a base, its shards say how it differs from that, which has none.
file_set = Table(
    "file_set",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column(
        "digest", sa.String(64), nullable=False, unique=True
    ),  # SHA-256 of its members, ascending, one after another
    Column("base", sa.BigInteger, ForeignKey("file_set.id"), index=True),
    Column("count", sa.BigInteger, nullable=False),
    Column("used", UtcDateTime, nullable=False),  # last offered
    sqlite_autoincrement=True,
)

file_set_shard = (
    Table(  # the members that begin with one byte, each 32 bytes, ascending; a shard without any has no row
        "file_set_shard",
        metadata,
        Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        Column("file_set", sa.BigInteger, ForeignKey("file_set.id"), primary_key=True, autoincrement=False),
        Column("added", Bytes, nullable=False),
        Column("removed", Bytes, nullable=False),
        CheckConstraint("shard BETWEEN 0 AND 255", name="shard"),
        Index("ix_file_set_shard_file_set", "file_set"),
    )
)

file_set_offer = Table(  # a set on its way from a fleet
    "file_set_offer",
    metadata,
    Column("fleet", Name, primary_key=True),
    Column("digest", sa.String(64), primary_key=True),
    Column("document", Json, nullable=False),  # FileSetIn
    Column("offered", UtcDateTime, nullable=False),
)

file_set_piece = Table(
    "file_set_piece",
    metadata,
    Column("fleet", Name, primary_key=True),
    Column("digest", sa.String(64), primary_key=True),
    Column("number", sa.Integer, primary_key=True, autoincrement=False),
    Column("added", Bytes, nullable=False),
    Column("removed", Bytes, nullable=False),
    ForeignKeyConstraint(["fleet", "digest"], ["file_set_offer.fleet", "file_set_offer.digest"], ondelete="CASCADE"),
)

machine_files = (
    Table(  # which set a machine's last scan left; the set may not be there (yet): then nothing is known of its files
        "machine_files",
        metadata,
        Column("machine", Key, primary_key=True),
        Column("kind", sa.String(20), nullable=False),
        Column("digest", sa.String(64), nullable=False, index=True),
        Column("scan", Name, nullable=False),
        Column("seen", UtcDateTime, nullable=False),
        CheckConstraint("kind IN ('image', 'instance')", name="kind"),
    )
)

package = Table(
    "package",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("digest", sa.String(64), nullable=False, unique=True),  # of what follows
    Column("type", PackageWord, nullable=False),
    Column("name", PackageWord, nullable=False, index=True),
    Column("version", PackageWord, nullable=False),
    Column("architecture", PackageWord, nullable=False),
    Column("source", PackageWord, nullable=False, index=True),
    Column("source_version", PackageWord, nullable=False),
    Column("distro", PackageWord, nullable=False),
    sqlite_autoincrement=True,
)

package_set = Table(  # of all machines with the same packages; never changes
    "package_set",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("digest", sa.String(64), nullable=False, unique=True),  # of its packages' digests, ascending
    Column("count", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

package_set_item = Table(
    "package_set_item",
    metadata,
    Column("package", sa.BigInteger, ForeignKey("package.id"), primary_key=True, autoincrement=False),
    Column("package_set", sa.BigInteger, ForeignKey("package_set.id"), primary_key=True, autoincrement=False),
    Index("ix_package_set_item_package_set", "package_set"),
)

machine_packages = Table(  # what the last scan of a machine saw installed; a machine without any it knows has no row
    "machine_packages",
    metadata,
    Column("machine", Key, primary_key=True),
    Column("kind", sa.String(20), nullable=False),
    Column("package_set", sa.BigInteger, ForeignKey("package_set.id"), nullable=False, index=True),
    Column("scan", Name, nullable=False),
    Column("seen", UtcDateTime, nullable=False),
    CheckConstraint("kind IN ('image', 'instance')", name="kind"),
)

policy_version = Table(
    "policy_version",
    metadata,
    Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    Column("etag", sa.String(80), nullable=False),
    Column("who", Name, nullable=False),
    Column("when", UtcDateTime, nullable=False),
    Column("message", Escaped, nullable=False),
    Column("documents", Bytes, nullable=False),  # gzip of JSON: text by name
)

hold = Table(
    "hold",
    metadata,
    Column("scope", Key, primary_key=True),
    Column("why", Escaped, nullable=False),
    Column("until", UtcDateTime),
    Column("by", Name, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

event = Table(  # append-only
    "event",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    Column("time", UtcDateTime, nullable=False, index=True),
    Column("who", sa.String(80), nullable=False),  # a token's name, or `console`
    Column("what", sa.String(80), nullable=False),  # `token.made`, `policy.applied` …
    Column("subject", Escaped, nullable=False),
    Column("detail", Json, nullable=False),
    sqlite_autoincrement=True,
)

task = Table(  # what a fleet is asked to do once, and its answer; a day later it is forgotten
    "task",
    metadata,
    Column("id", Name, primary_key=True),
    Column("kind", sa.String(20), nullable=False),
    Column("fleet", Name, nullable=False),
    Column("account", Key),  # cloud://account
    Column("dry_run", sa.Boolean, nullable=False),
    Column("evidence", sa.Boolean, nullable=False, server_default=sa.false()),
    Column("by", Name, nullable=False),
    Column("asked", UtcDateTime, nullable=False, index=True),
    Column("expires", UtcDateTime, nullable=False),
    Column("fetched", UtcDateTime),  # first handed out
    Column("answered", UtcDateTime),
    Column("answer", Json),  # TaskAnswer
    CheckConstraint("kind IN ('sweep', 'clear', 'check')", name="kind"),
    CheckConstraint("(answered IS NULL) = (answer IS NULL)", name="answered"),
    Index("ix_task_fleet", "fleet", "asked"),
)

lease = Table(  # what one console at a time does
    "lease",
    metadata,
    Column("name", Name, primary_key=True),
    Column("holder", sa.String(80), nullable=False),
    Column("until", UtcDateTime, nullable=False),
)
