"""`kumomori scan snapshot` and `kumomori scan instance`: disks that are far away, read block by block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cli.aws import (
    DATA,
    Access,
    CopyKey,
    Data,
    Endpoint,
    ExternalId,
    Lend,
    RoleName,
)
from cli.disks import find_snapshot
from cli.estate import swept
from cli.options import (
    STDOUT,
    AcceptGap,
    Cache,
    CacheBytes,
    FileTimeoutSeconds,
    Format,
    Full,
    Jobs,
    Manifest,
    MaxFileBytes,
    MaxMemoryBytes,
    Output,
    OutputFormat,
    Rules,
    ScanEndsBytes,
    TimeoutSeconds,
    scan_options,
)
from cli.progress import progress_on_stderr
from cli.scan import check_targets, finish, warn
from cloud.location import Location
from core.errors import ConfigError, Gone
from core.estate import Instance, InstanceState, Place, Snapshot
from scanner.ledger import FileLedger
from scanner.snapshots import SnapshotOptions, scan_instance, scan_snapshots

if TYPE_CHECKING:
    from cloud.aws.connector import AwsConnector

Base = Annotated[
    Path | None,
    Option(
        help="Manifest of an earlier scan of this machine: look only at what changed. Needs --since.",
        show_default=False,
    ),
]
Since = Annotated[
    list[str] | None,
    Option(
        metavar="LOCATION",
        help="The snapshot that the base was made of: the cloud tells what changed since. Once for each disk.",
        show_default=False,
    ),
]


def snapshot(
    locations: Annotated[
        list[str],
        Argument(
            metavar="aws://ACCOUNT/REGION/snap-...", help="Snapshots of the disks of ONE machine.", show_default=False
        ),
    ],
    output_format: Format = OutputFormat.TABLE,
    output: Output = STDOUT,
    rules: Rules = None,
    max_file_bytes: MaxFileBytes = 256 << 20,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 600,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    scan_ends_bytes: ScanEndsBytes = 0,
    cache: Cache = None,
    cache_bytes: CacheBytes = 1 << 30,
    manifest: Manifest = None,
    base: Base = None,
    since: Since = None,
    full: Full = False,
    accept_gap: AcceptGap = None,
    role: RoleName = "",
    external_id: ExternalId = "",
    lend: Lend = False,
    copy_key: CopyKey = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    """Scan snapshots of one machine's disks, block by block, reading only what is needed.

    Exits 0: clean, and all of it was looked at (or only accepted gaps); 1: findings; 3: no findings, but gaps;
    2: it could not start.
    """
    from cli import entering

    _check_base(base, since, full)
    check_targets(output, manifest, [*(rules or ()), *([base] if base else ())])
    places = [Location.parse(one, "snap-") for one in locations]
    for one in places:
        if places.count(one) > 1:
            raise ConfigError(f"{one}: given twice; name each disk of the machine once")
    place = _one_place(places)
    with FileLedger(data) as ledger:
        connector = entering.connector(
            Access(role, external_id, endpoint_url, lend, copy_key), place, ledger.installation
        )
        scan = scan_options(
            ends_bytes=scan_ends_bytes,
            cache=cache,
            cache_bytes=cache_bytes,
            machine=str(places[0]),
            manifest=manifest,
            base=base,
            full=full,
            rules=rules,
            jobs=jobs,
            max_file_bytes=max_file_bytes,
            max_memory_bytes=max_memory_bytes,
            timeout_seconds=timeout_seconds,
            file_timeout_seconds=file_timeout_seconds,
            accept_gap=accept_gap,
        )
        options = SnapshotOptions(scan, since=_snapshots(connector, since or ()))
        found = _snapshots(connector, locations)
        with progress_on_stderr("Scanning") as listener:
            report = scan_snapshots(connector, found, options, ledger, listener=listener, warn=warn)
    warn(f"{place}: {entering.price_after(connector)}")
    finish(report, output, output_format)


def instance(
    location: Annotated[str, Argument(metavar="aws://ACCOUNT/REGION/i-...", help="The machine.", show_default=False)],
    output_format: Format = OutputFormat.TABLE,
    output: Output = STDOUT,
    rules: Rules = None,
    max_file_bytes: MaxFileBytes = 256 << 20,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 600,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    scan_ends_bytes: ScanEndsBytes = 0,
    cache: Cache = None,
    cache_bytes: CacheBytes = 1 << 30,
    manifest: Manifest = None,
    base: Base = None,
    since: Since = None,
    full: Full = False,
    accept_gap: AcceptGap = None,
    keep: Annotated[bool, Option("--keep", help="Leave the snapshots, to be the --since of a later scan.")] = False,
    snapshot_timeout_seconds: Annotated[
        float, Option(min=1, max=86400, help="Most seconds that a snapshot may stay pending; then its disk is a gap.")
    ] = 3600,
    role: RoleName = "",
    external_id: ExternalId = "",
    lend: Lend = False,
    copy_key: CopyKey = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    """Snapshot all disks of a running or stopped machine at one moment, scan them, delete the snapshots.

    What earlier scans left behind there is deleted first. Exits as `scan snapshot`; 2 also if the machine is gone.
    """
    from cli import entering

    _check_base(base, since, full)
    check_targets(output, manifest, [*(rules or ()), *([base] if base else ())])
    where = Location.parse(location, "i-")
    for one in since or ():
        Location.parse(one, "snap-")
    with FileLedger(data) as ledger:
        connector = entering.connector(
            Access(role, external_id, endpoint_url, lend, copy_key), where.place, ledger.installation
        )
        swept(ledger, connector)
        machine = _instance(connector, where)
        if machine.excluded:
            raise ConfigError(f"{where}: is left out of all scans ({machine.excluded}); take that tag away first")
        warn(f"{where}: {entering.price_before(machine.disks, incremental=bool(since))}")
        scan = scan_options(
            ends_bytes=scan_ends_bytes,
            cache=cache,
            cache_bytes=cache_bytes,
            machine=str(where),
            manifest=manifest,
            base=base,
            full=full,
            rules=rules,
            jobs=jobs,
            max_file_bytes=max_file_bytes,
            max_memory_bytes=max_memory_bytes,
            timeout_seconds=timeout_seconds,
            file_timeout_seconds=file_timeout_seconds,
            accept_gap=accept_gap,
        )
        options = SnapshotOptions(scan, _snapshots(connector, since or ()), keep, snapshot_timeout_seconds)
        with progress_on_stderr("Scanning") as listener:
            report, used = scan_instance(
                connector,
                machine,
                options,
                ledger,
                listener=listener,
                warn=warn,
                tell=lambda text: warn(f"{where}: {text}"),
            )
    warn(f"{where}: {entering.price_after(connector)}")
    if keep:
        warn(f"{where}: kept {' '.join(str(one) for one in used if one.id)}")
    finish(report, output, output_format)


def _check_base(base: Path | None, since: Sequence[str] | None, full: bool) -> None:
    if base is None and (since or full):
        raise ConfigError("--since and --full say how to use a base: give its manifest with --base")
    if base is not None and not since:
        raise ConfigError("--base needs the snapshots that it was made of: give them with --since")


def _one_place(locations: Sequence[Location]) -> Place:
    if len({one.place for one in locations}) != 1:
        raise ConfigError("the snapshots of one machine are in one account and region")
    return locations[0].place


def _snapshots(connector: AwsConnector, locations: Sequence[str]) -> tuple[Snapshot, ...]:
    """As they are now. Raises `Gone` for one that is not there."""
    places = [Location.parse(text, "snap-") for text in locations]
    for where in places:
        if where.place != connector.place:
            raise ConfigError(f"{where}: is not in {connector.place}, where the others are")
    return tuple(find_snapshot(connector, where) for where in places)


def _instance(connector: AwsConnector, where: Location) -> Instance:
    found = next((one for one in connector.instances() if one.id == where.id), None)
    if found is None or found.state is InstanceState.TERMINATED:
        raise Gone(f"{where}: there is no such instance; `kumomori instances` lists them")
    return found
