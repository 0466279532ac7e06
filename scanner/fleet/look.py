"""The step in which disks are read: one machine's scan in a folder of its own, and what comes of it."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select, update

from client.model import MOST_REPORT_BYTES, MOST_REPORT_JSON_BYTES, ScanKind, ScanOrder
from core.errors import CloudError, ConfigError, Corrupt, Error, Gone, LimitExceeded
from core.estate import Disk, Snapshot, SnapshotState
from core.findings import Gap, GapReason, Machine, OnDisk, Severity
from scanner.fleet import bases, moments, sets
from scanner.fleet.bases import Base
from scanner.fleet.clouds import MachineGone, Site, Spent, accounts
from scanner.fleet.context import Context
from scanner.fleet.database import Database
from scanner.fleet.inventory import machines, signature
from scanner.fleet.masking import masked
from scanner.fleet.tables import draft
from scanner.machine import ScanOptions, scan_machine
from scanner.report import Report
from scanner.reports.document import to_json
from scanner.sandbox import Progress, Silent
from scanner.snapshots import SnapshotOptions, asked, scan_snapshots

_LEFT_OUT: Final = {"left_out": "the report would have been too large"}
_GZIP_LEVEL: Final = 6
_FEWER: Final = (10_000, 1_000, 100)  # findings, packages and gaps of a report that would be too large
# An order may say anything: beyond these, numbers of policies mean nothing else, but would not go through a clock or a database.
_MOST_SECONDS: Final = 31 * 86_400
_MOST_BYTES: Final = 1 << 60
_MOST_PER_SECOND: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Found:
    """`report` and `file_set` are those of `client.model.ResultIn`; `manifest_bytes` is 0 if there is no manifest in the store.

    `worst`: the severity of the worst finding; empty if there is none.
    """

    report: str
    usd: float
    manifest_bytes: int
    blocks_fetched: int | None = None
    file_set: str = ""
    worst: str = ""

    def result(self, base: Sequence[Snapshot]) -> dict[str, Any]:
        """Fields of `ResultIn`."""
        return {
            "report": self.report,
            "usd": self.usd,
            "blocks_fetched": self.blocks_fetched,
            "base": tuple(base),
            "file_set": self.file_set,
        }


def draft_of(connection: Connection, scan_id: str, attempt: int) -> Found | None:
    """What this attempt has found, if it has come so far."""
    row = connection.execute(select(draft).where(draft.c.scan == scan_id, draft.c.attempt == attempt)).first()
    return None if row is None else Found(report=row.report, **json.loads(row.facts))


def store_draft(context: Context, scan_id: str, attempt: int, found: Found) -> None:
    facts = json.dumps(
        {
            "usd": found.usd,
            "manifest_bytes": found.manifest_bytes,
            "blocks_fetched": found.blocks_fetched,
            "file_set": found.file_set,
            "worst": found.worst,
        }
    )
    row = {"attempt": attempt, "facts": facts, "report": found.report}
    with context.database.write() as connection:
        context.fence.guard(connection)
        if not context.database.insert_missing(connection, draft, [{"scan": scan_id, **row}]):
            connection.execute(update(draft).where(draft.c.scan == scan_id).values(**row))


def look(
    context: Context, order: ScanOrder, token: str, snapshots: Sequence[Snapshot], hear: Callable[[], None]
) -> Found:
    """Scan, and keep the manifest if it can be a base. Raises `Error`, `Gone` for a snapshot that vanished before it was read whole,
    and what `hear` raises."""
    with _folder(context, token) as folder:
        options = options_of(order, context, folder)
        if order.place.cloud == "file":
            report, spent = _scan_files(disks_of(context.database, order, context.sites), order, options, hear), Spent()
        else:
            site = context.clouds.enter(order.place, blocks_per_second(order))
            there = _refreshed(order, site, snapshots)
            with context.database.read() as connection:
                base = bases.choose(context.database, connection, order)
            readable = [one for one in there if one.id] or there
            report = _scan_snapshots(context, site, readable, options, base, folder, hear)
            if report.gaps:  # of one that was deleted while it was read
                _refreshed(order, site, snapshots)
            lost = [one for one in there if one not in readable]
            report = _with_lost(
                report, [(one.device or one.disk, one.detail or "it could not be snapshotted") for one in lost]
            )
            spent = context.clouds.spent(site)
        moments.at("scan:read")
        size = 0
        if options.manifest is not None and options.manifest.exists() and bases.is_whole(order, snapshots):
            try:
                context.fence.check()
                size = context.objects.put(token + bases.SUFFIX, options.manifest)
            except (CloudError, LimitExceeded) as error:
                sys.stderr.write(f"worker: no base is kept, the next scan is a full one: {error}\n")
        moments.at("scan:put")
        held = sets.made(context, folder, options.manifest, folder / "base")
        moments.at("scan:set")
    found = (one.rule.severity for one in report.findings)
    worst = max(found, key=list(Severity).index, default=None)
    return Found(fitting(report), spent.usd, size, spent.blocks, held, worst.value if worst else "")


def _refreshed(order: ScanOrder, site: Site, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """As they are now. Raises `Gone` if one that we made is not there; of an image's, whoever's they are, that is a gap."""
    there = [asked(lambda one=one: site.refresh(one)) if one.id else one for one in snapshots]  # type: ignore[misc]
    if order.kind is ScanKind.INSTANCE:
        for one in there:
            if one.state is SnapshotState.GONE:
                raise Gone(f"{one}: the snapshot is not there any more: somebody else deleted it")
    return there


@contextmanager
def _folder(context: Context, token: str) -> Iterator[Path]:
    """Empty at its beginning and gone at its end, also what a worker left there that was killed."""
    folder = context.folder / "work" / token
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise Error(f"the worker has no room for what is under way ({error.strerror})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def options_of(order: ScanOrder, context: Context, folder: Path) -> ScanOptions:
    """The policy's settings. `inventory` is scanned like `changed`: more than was asked for."""
    settings, plain = order.settings, ScanOptions()

    def number(name: str, default: float, most: float = _MOST_SECONDS) -> Any:
        found = settings.get(name)
        is_one = isinstance(found, int | float) and not isinstance(found, bool) and found >= 0
        return min(found, most) if is_one else default  # type: ignore[type-var]

    told = settings.get("gaps.accepted")
    accepted = [one for one in told if isinstance(one, str)] if isinstance(told, list | tuple) else []
    return ScanOptions(
        jobs=context.jobs,
        max_file_bytes=int(number("scan.max_file_bytes", plain.max_file_bytes, _MOST_BYTES)),
        ends_bytes=int(number("scan.scan_ends_bytes", 0, _MOST_BYTES)),
        timeout_seconds=number("scan.timeout_seconds", plain.timeout_seconds),
        file_timeout_seconds=number("scan.file_timeout_seconds", 600),
        accepted=frozenset(GapReason(one) for one in accepted if one in set(GapReason)),
        cache=context.folder / "verdicts",
        machine=order.machine,
        manifest=folder / "manifest",
    )


def blocks_per_second(order: ScanOrder) -> float | None:
    """This scan's share of what may be read of its account, if as many run there as may; None: no limit but the cloud's."""
    most, scans = (order.settings.get(f"limits.{name}") for name in ("blocks_per_second", "scans_per_account"))
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        return None
    return max(min(most, _MOST_PER_SECOND) / max(1, scans if isinstance(scans, int) else 1), 0.1)


def disks_of(database: Database, order: ScanOrder, sites: Sequence[Path] = ()) -> Sequence[Disk]:
    """As the site's own file on this machine names them, whatever the order says: a console may ask for these, and for no other path.

    Raises `ConfigError`, `MachineGone`.
    """
    place = order.place
    known = (one for one in accounts(database) if (one.cloud, one.account) == (place.cloud, place.account))
    site = next(known, None)
    if site is None or order.instance is None:
        raise ConfigError(f"{order.machine}: is at no site that this fleet serves")
    wanted = (place.region, order.instance.id)
    found = next((one for one in machines(site, sites) if (one.place.region, one.id) == wanted), None)
    if found is None:
        raise MachineGone(f"{order.machine}: the site's file names it no longer")
    return found.disks


def _scan_files(disks: Sequence[Disk], order: ScanOrder, options: ScanOptions, hear: Callable[[], None]) -> Report:
    paths = [Path(one.id) for one in disks if not one.obstacle]
    if not paths:
        raise ConfigError(f"{order.machine}: has no disk image to scan")
    if not any(path.exists() for path in paths):
        raise ConfigError(f"{order.machine}: none of its disk images is there; the site's file still names it")
    before = [signature(path) for path in paths]
    report = scan_machine(paths, options, _Hearing(hear))
    # A machine that runs on it, or a copy that is not whole yet: what was read is no state that the disk ever had.
    changed = tuple(
        Gap(
            OnDisk(number),
            GapReason.UNREADABLE,
            "the image was changed or replaced while it was read; scan a copy of it",
        )
        for number, (path, then) in enumerate(zip(paths, before, strict=True))
        if signature(path) != then
    )
    report = replace(report, gaps=report.gaps + changed)
    return _with_lost(report, [(one.id, one.obstacle) for one in disks if one.obstacle])


def _with_lost(report: Report, lost: Sequence[tuple[str, str]]) -> Report:
    """Disks that cannot be read (name and reason) are gaps, and no disks to the scanner: so those of the base and those of now
    are the same."""
    first = len(report.target)
    gaps = tuple(Gap(OnDisk(number), GapReason.UNREADABLE, why) for number, (_, why) in enumerate(lost, first))
    target = tuple(name for name, _ in lost)
    return replace(report, target=report.target + target, gaps=report.gaps + gaps) if lost else report


def _scan_snapshots(
    context: Context,
    site: Any,
    snapshots: Sequence[Snapshot],
    options: ScanOptions,
    base: Base | None,
    folder: Path,
    hear: Callable[[], None],
) -> Report:
    """From the base if it can be; else all, with the reason in the report."""
    refused = ""
    if base is not None:
        try:
            path = folder / "base"
            context.objects.get(base.object, path)
            since = SnapshotOptions(replace(options, base=path, full=True), since=base.snapshots)
            return scan_snapshots(site, snapshots, since, context.ledger, listener=_Hearing(hear))
        except (Gone, Corrupt, LimitExceeded, CloudError, ConfigError) as error:
            refused = str(error)
            (folder / "base").unlink(missing_ok=True)
    report = scan_snapshots(site, snapshots, SnapshotOptions(options), context.ledger, listener=_Hearing(hear))
    if refused:
        report = replace(report, coverage=replace(report.coverage, base_refused=refused[:1000]))
    return report


class _Hearing(Silent):
    """What it raises ends the scan and its processes."""

    def __init__(self, hear: Callable[[], None]) -> None:
        self._hear = hear

    def progress(self, progress: Progress) -> None:  # noqa: ARG002
        moments.at("scan:progress")
        self._hear()


def fitting(report: Report) -> str:
    """As `packed`; of what would still be too large, the worst findings, with a gap for the others.

    Whoever fills a disk with findings, packages and gaps under long names must not keep the rest of it from being told.
    """
    try:
        return packed(to_json(report))
    except LimitExceeded:
        pass
    found = sorted(report.findings, key=lambda one: -one.rule.severity.rank)
    for most in _FEWER:
        rest = [max(0, len(some) - most) for some in (found, report.packages, report.gaps)]
        words = f"the report would be too large: {rest[0]:,} findings, {rest[1]:,} packages and {rest[2]:,} gaps are left out"
        gaps = (*report.gaps[:most], Gap(Machine(), GapReason.LIMIT, words, max(1, sum(rest))))
        cut = replace(report, findings=tuple(found[:most]), packages=report.packages[:most], gaps=gaps)
        try:
            return packed(to_json(cut))
        except LimitExceeded:
            continue
    raise LimitExceeded(f"the report has {len(found):,} findings and is too large to be sent")


def packed(document: Mapping[str, Any]) -> str:
    """A report for the console: secrets masked, JSON, gzip, base64. Raises `LimitExceeded` for one that is too large.

    One that would be too large goes without evidence first.
    """
    findings = [
        one | {"evidence": masked(one["evidence"]), "subject": masked(one["subject"])} for one in document["findings"]
    ]
    for cut in (findings, [one | {"evidence": _LEFT_OUT} for one in findings]):
        raw = json.dumps({**document, "findings": cut}, ensure_ascii=True, allow_nan=False).encode()
        small = gzip.compress(raw, _GZIP_LEVEL, mtime=0)
        if len(raw) <= MOST_REPORT_JSON_BYTES and len(small) <= MOST_REPORT_BYTES // 4 * 3:
            return base64.b64encode(small).decode()
    raise LimitExceeded(f"the report has {len(findings):,} findings and is too large to be sent")
