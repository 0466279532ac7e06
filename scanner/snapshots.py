"""Scan an instance or its snapshots: snapshot, wait, read block by block, report, and take away again what was made.

What cannot be looked at (a disk that has no snapshot, one that may not be read) is a gap in the report; the others go on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from cloud import Connector, Ledger
from core.blocks import BlockSource, Bytes, Extent
from core.errors import CloudError, ConfigError, Error, Gone, Throttled, Unreadable
from core.estate import Disk, Instance, Resource, Snapshot, SnapshotState
from scanner.disks import RemoteDisk
from scanner.ledger import FileLedger
from scanner.machine import ScanOptions, scan_machine
from scanner.report import Report
from scanner.sandbox import Listener
from scanner.shared import BLOCK_BYTES

_T = TypeVar("_T")
LIFETIME_SECONDS: Final = 86400.0
MOST_EXTENTS: Final = 1 << 20  # of one disk
_NO_SIZE: Final = 1 << 50  # larger than any disk: then the base is refused
_TRIES: Final = 6
_FIRST_LOOK_SECONDS: Final = 0.25
_FIRST_TRY_SECONDS: Final = 0.25
_LAST_LOOK_SECONDS: Final = 15.0


@dataclass(frozen=True)
class SnapshotOptions:
    """`since`: for each snapshot the one that `scan.base` was made of; what changed since is asked of the cloud.

    `keep`: leave the snapshots, as the base of a later scan. `ready_seconds`: how long a snapshot may stay pending.
    """

    scan: ScanOptions = field(default_factory=ScanOptions)
    since: tuple[Snapshot, ...] = ()
    keep: bool = False
    ready_seconds: float = 3600.0


class Lost:
    """A disk that cannot be read, and why."""

    def __init__(self, size: int, reason: str) -> None:
        self.size = size
        self._reason = reason

    def read(self, offset: int, length: int) -> Bytes:  # noqa: ARG002
        raise Unreadable(self._reason)


def scan_snapshots(
    connector: Connector,
    snapshots: Sequence[Snapshot],
    options: SnapshotOptions,
    ledger: Ledger,
    *,
    listener: Listener | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Report:
    """Scan the disks of one machine as their snapshots hold them. Raises `ConfigError`, all else is a gap."""
    scan = options.scan
    if options.since:
        earlier = _earlier(options.since, snapshots)
        changes = _changes(connector, earlier, snapshots)
        # the base is bound to them: what changed since another moment says nothing of what changed since the base
        scan = replace(scan, changes=changes, since=tuple(str(one) if one else "" for one in earlier))
    with ExitStack() as stack:
        disks = [RemoteDisk(str(one), _opened(connector, one, ledger, stack)) for one in snapshots]
        if not any(not isinstance(disk.source, Lost) for disk in disks) and scan.base is not None:
            scan = replace(scan, base=None, changes=None, since=(), full=False)  # there is nothing to compare it with
        return scan_machine(disks, scan, listener, warn)


def _opened(connector: Connector, snapshot: Snapshot, ledger: Ledger, stack: ExitStack) -> BlockSource:
    try:
        return stack.enter_context(connector.open(snapshot, ledger))
    except ConfigError:
        raise
    except Error as error:
        return Lost(max(snapshot.size_bytes, BLOCK_BYTES), str(error))


def _changes(
    connector: Connector, earlier: Sequence[Snapshot | None], new: Sequence[Snapshot]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """What changed, disk by disk; of a disk that cannot be read nothing. Raises `ConfigError` if the cloud cannot tell."""
    found = []
    for after, before in zip(new, earlier, strict=True):
        extents: Iterator[Extent] | None = iter(())
        if before is not None and after.state is SnapshotState.READY:
            extents = connector.changed(before, after)
        if extents is None:
            raise ConfigError(
                f"{after}: the cloud cannot tell what changed since {before}; "
                "give an earlier snapshot of the same disk (or of its image), or scan without --base"
            )
        found.append(tuple(_bounded(extents, after.size_bytes)))
    return tuple(found)


def _bounded(extents: Iterator[Extent], size: int) -> Iterator[tuple[int, int]]:
    """Of very many, all from the last one on counts as changed: the owner of a disk decides how many there are."""
    for number, one in enumerate(extents, 1):
        if number == MOST_EXTENTS:
            yield one.offset, max(one.length, (size or _NO_SIZE) - one.offset)
            return
        yield one.offset, one.length


def _earlier(old: Sequence[Snapshot], new: Sequence[Snapshot]) -> list[Snapshot | None]:
    """For each snapshot that is there the earlier one of its disk, else the one in its place. Raises `ConfigError`."""
    by_disk = {one.disk: one for one in old if one.disk}
    there = [one for one in new if one.id]
    if all(one.disk in by_disk for one in there):
        return [by_disk[one.disk] if one.id else None for one in new]  # the base knows in which order they were
    if len(there) != len(old):
        raise ConfigError(f"{len(there)} snapshots need as many with --since; {len(old)} were given")
    in_turn = iter(old)
    return [next(in_turn) if one.id else None for one in new]


def scan_instance(
    connector: Connector,
    instance: Instance,
    options: SnapshotOptions,
    ledger: FileLedger,
    *,
    listener: Listener | None = None,
    warn: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Report, Sequence[Snapshot]]:
    """Snapshot all its disks at one moment, scan, and delete them; returns the snapshots, too, for `keep`.

    Raises `ConfigError`, and `CloudError` if nothing of it could be snapshotted for a reason that is the instance's.
    """
    token = f"scan-{uuid.uuid4()}"
    disks = in_order(instance.disks)
    if not disks:
        raise ConfigError(f"{instance}: has no disk to scan")
    if options.since:  # before anything is made
        _earlier(options.since, [Snapshot(one.place, "" if one.obstacle else one.id, one.id) for one in disks])
    with ledger.scan(token), _snapshots(connector, disks, token, options, ledger, warn) as made:
        tell(f"waiting for {len(made)} snapshot{'' if len(made) == 1 else 's'}")
        ready = [settled(connector, one, options.ready_seconds) for one in made]
        tell("reading")
        report = scan_snapshots(connector, ready, options, ledger, listener=listener, warn=warn)
    return report, ready


def in_order(disks: Iterable[Disk]) -> list[Disk]:
    """The disks of a machine in the same order each time, the boot disk first."""
    return sorted(disks, key=lambda disk: (not disk.boot, disk.device, disk.id))


def intentions(
    disks: Sequence[Disk], token: str, installation: str, lifetime_seconds: float = LIFETIME_SECONDS
) -> dict[str, Resource]:
    """By disk, what a ledger is told before their snapshots are made."""
    expires = datetime.now(UTC) + timedelta(seconds=lifetime_seconds)
    return {
        disk.id: Resource(disk.place, "snapshot", "", token, installation, expires, of=disk.id)
        for disk in disks
        if not disk.obstacle
    }


@contextmanager
def _snapshots(
    connector: Connector,
    disks: Sequence[Disk],
    token: str,
    options: SnapshotOptions,
    ledger: FileLedger,
    warn: Callable[[str], None],
) -> Iterator[Sequence[Snapshot]]:
    """One snapshot for each disk (those that cannot be are FAILED), gone at the end unless they are kept."""
    intended = intentions(disks, token, ledger.installation)
    made: Sequence[Snapshot] = ()
    for resource in intended.values():
        ledger.intend(resource)
    keep, calls = False, 0

    def make() -> Sequence[Snapshot]:
        nonlocal calls
        calls += 1
        return connector.snapshot(disks, token=token)

    try:
        made = asked(make)
        for one in made:
            if one.id and one.disk in intended:
                ledger.made(replace(intended[one.disk], id=one.id))
        yield made
        keep = options.keep
    finally:
        _put_away(connector, made, intended, ledger, warn, keep=keep, doubtful=calls > 1)


def _put_away(
    connector: Connector,
    made: Sequence[Snapshot],
    intended: dict[str, Resource],
    ledger: FileLedger,
    warn: Callable[[str], None],
    *,
    keep: bool,
    doubtful: bool,
) -> None:
    """`doubtful`: an answer was lost, so there may be a second set, now or when the cloud lists it at last."""
    used = {one.disk: one.id for one in made if one.id}
    for disk, resource in intended.items():
        there = replace(resource, id=used.get(disk, ""))
        kept = keep and there.id
        try:
            if not kept:
                asked(lambda one=there: connector.delete(one))  # type: ignore[misc]
        except Error as error:
            warn(f"{there.id or there.token}: is not deleted yet ({error}); `kumomori cloud sweep` tries again")
            continue
        try:
            if kept:
                ledger.keep(there)
            elif there.id:  # what has none may still come to light: the ledger remembers
                ledger.gone(there)
            if there.id and doubtful:
                ledger.intend(resource)
        except Error as error:
            warn(
                f"{there.id}: {'kept, but the next sweep will delete it' if kept else 'deleted, but not noted'}: {error}"
            )
    if made:
        _delete_leftovers(connector, made, warn)


def _delete_leftovers(connector: Connector, made: Sequence[Snapshot], warn: Callable[[str], None]) -> None:
    """What the same calls made beside them: nobody will look for it by its id."""
    try:
        for one in list(connector.leftovers(made)):
            asked(lambda one=one: connector.delete(one))  # type: ignore[misc]
    except Error as error:
        warn(f"{made[0].place}: what was made twice is not deleted yet ({error}); it is when it has expired")


def asked(call: Callable[[], _T], pause: Callable[[float], None] | None = None) -> _T:
    """The same call again while it is throttled or fails; what is denied or gone is not asked for again."""
    wait = pause or time.sleep
    for number in range(_TRIES):
        try:
            return call()
        except Throttled as error:
            if number == _TRIES - 1:
                raise
            wait(min(error.after, 60.0))
        except CloudError as error:
            if type(error) is not CloudError or number == _TRIES - 1:
                raise
            wait(min(2.0**number * _FIRST_TRY_SECONDS, 10.0))
    raise AssertionError("unreachable")


def settled(
    connector: Connector, snapshot: Snapshot, seconds: float, pause: Callable[[float], None] | None = None
) -> Snapshot:
    """When it is ready or will never be; FAILED with the reason if it stays pending for so long or cannot be asked for.

    `pause` waits so many seconds; what it raises goes on.
    """
    ends = time.monotonic() + seconds
    next_look = _FIRST_LOOK_SECONDS
    while snapshot.state is SnapshotState.PENDING:
        left = ends - time.monotonic()
        if left <= 0:
            detail = f"it is still pending after {seconds:g} s, at {snapshot.progress_percent} %"
            return replace(snapshot, state=SnapshotState.FAILED, detail=detail)
        (pause or time.sleep)(min(next_look, left))
        next_look = min(2 * next_look, _LAST_LOOK_SECONDS)
        try:
            snapshot = connector.refresh(snapshot)
        except Throttled as error:
            next_look = max(next_look, min(error.after, 60.0))
        except Gone as error:
            return replace(snapshot, state=SnapshotState.GONE, detail=str(error))
        except CloudError as error:
            if type(error) is not CloudError:
                return replace(snapshot, state=SnapshotState.FAILED, detail=str(error))
    return snapshot
