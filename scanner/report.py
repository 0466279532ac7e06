"""The result of one scan: what was looked at, what was found, and what could not be looked at.

`Report` is the one document behind every output format in `scanner.reports`. It is sorted when it is made, so that two
scans of one disk give the same report whatever order the worker processes answered in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from core.findings import Finding, Gap, GapReason, InFile, InVolume, Location, Machine, OnDisk, Package, Rule
from core.text import printable

Result = Literal["clean", "findings", "gaps"]
FindingKey = tuple[int, int, bytes, str, str]
GapKey = tuple[int, int, bytes, str, str, int]

EXIT_CODES: Mapping[Result, int] = {"clean": 0, "findings": 1, "gaps": 3}


@dataclass(frozen=True)
class VolumeReport:
    """One volume: where it is and what was in it.

    `disk` is the place on the command line (from 0), `kind` how the volume was found (`gpt`, `mbr`, `whole`, ...),
    `filesystem` is None if there is none that we read. `files` counts names looked at, `bytes` their sizes added up.
    `start` and `length` are bytes on the disk.
    """

    index: int
    disk: int
    kind: str
    filesystem: str | None
    label: str
    uuid: str
    files: int
    bytes: int
    start: int
    length: int


@dataclass(frozen=True)
class Stats:
    """Totals of the scan: names looked at, the sizes of the disks, bytes read from them, processor and clock time."""

    files: int
    bytes_total: int
    bytes_read: int
    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Coverage:
    """What was done to know it. `mode` is "full" or "incremental"; `base_refused` says why a base was left aside.

    `files_carried` names were taken over from the base unread. Contents were hashed, searched by the engine (scanned), or
    had a verdict that was known. `inodes_gone` are in the base and not on the disks. Blocks are of 512 KiB, each counted once.
    """

    mode: Literal["full", "incremental"]
    base_refused: str = ""
    files_carried: int = 0
    files_hashed: int = 0
    bytes_hashed: int = 0
    files_scanned: int = 0
    bytes_scanned: int = 0
    verdicts_known: int = 0
    inodes_gone: int = 0
    blocks_read: int = 0
    blocks_total: int = 0


@dataclass(frozen=True)
class GuardReport:
    """One protection of the process that parses the disk. `detail` says why it is not active, when it is not."""

    name: str
    active: bool
    detail: str


@dataclass(frozen=True)
class RuleSet:
    """What was searched for: `digest` names the set (hex digits), `count` is the number of rules.

    `ids` are those of all that could have been found, by detectors of settings, too; empty if the scan did not get so far.
    """

    digest: str
    count: int
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """One scan of one machine. `target` names its disks as the operator gave them; `started` has a time zone.

    `inputs` are the device and inode numbers of all files that were read, which no report may replace; it is not reported.

    Raises `ValueError` if `started` has none.
    """

    target: tuple[str, ...]
    volumes: tuple[VolumeReport, ...]
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...]
    accepted: frozenset[GapReason]
    stats: Stats
    guards: tuple[GuardReport, ...]
    started: datetime
    version: str
    rules: RuleSet
    coverage: Coverage = Coverage("full")
    packages: tuple[Package, ...] = ()
    inputs: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        if self.started.utcoffset() is None:
            raise ValueError("the start of a scan has a time zone")
        # `object.__setattr__` is how a frozen dataclass settles its own fields
        object.__setattr__(self, "volumes", tuple(sorted(self.volumes, key=lambda volume: volume.index)))
        object.__setattr__(self, "findings", tuple(sorted(self.findings, key=finding_order)))
        object.__setattr__(self, "packages", tuple(sorted(self.packages, key=package_order)))
        object.__setattr__(self, "gaps", tuple(sorted(self.gaps, key=gap_order)))

    @property
    def open_gaps(self) -> tuple[Gap, ...]:
        """The gaps that the operator did not accept."""
        return tuple(gap for gap in self.gaps if gap.reason not in self.accepted)

    @property
    def gap_count(self) -> int:
        """How many things were not looked at, accepted or not."""
        return sum(gap.count for gap in self.gaps)

    @property
    def result(self) -> Result:
        """`findings` if there is one, else `gaps` if there is one that was not accepted, else `clean`."""
        if self.findings:
            return "findings"
        return "gaps" if self.open_gaps else "clean"

    @property
    def exit_code(self) -> int:
        """0 clean, 1 findings, 3 gaps only. 2, could not start, is told by an error and never has a report."""
        return EXIT_CODES[self.result]

    @property
    def ended(self) -> datetime:
        return self.started + timedelta(seconds=self.stats.wall_seconds)

    def volume_ids(self) -> dict[int, str]:
        """For each volume in the report a name that outlives reordered disks: the filesystem's UUID if it has one.

        Cloned volumes share a UUID; the second gets its index appended. UUIDs are read from the disk, so they are made
        printable, and one that imitates another volume's name is told apart in the same way.
        """
        ids: dict[int, str] = {}
        taken: set[str] = set()
        for volume in self.volumes:
            name = printable(volume.uuid) or f"volume-{volume.index}"
            while name in taken:
                name = f"{name}/{volume.index}"
            taken.add(name)
            ids[volume.index] = name
        return ids

    def fingerprints(self) -> list[str]:
        """`Finding.fingerprint` of each finding, in the order of `findings`."""
        ids = self.volume_ids()
        return [
            finding.fingerprint(ids.get(finding.where.volume, f"volume-{finding.where.volume}"))
            for finding in self.findings
        ]

    def rules_found(self) -> list[Rule]:
        """The rules that have a finding, each once by its id, the most severe first."""
        found: dict[str, Rule] = {}
        for finding in self.findings:
            found.setdefault(finding.rule.id, finding.rule)
        return list(found.values())


def finding_order(finding: Finding) -> FindingKey:
    """Most severe first, then by volume, path, rule and subject."""
    where = finding.where
    return (-finding.rule.severity.rank, where.volume, where.path, finding.rule.id, finding.subject)


def package_order(package: Package) -> tuple[int, bytes, tuple[str, ...]]:
    """By volume, file, and name."""
    one = package
    words = (one.type, one.name, one.version, one.architecture, one.source, one.source_version, one.distro)
    return (one.where.volume, one.where.path, words)


def with_distro(packages: Iterable[Package]) -> tuple[Package, ...]:
    """Each with the system that its volume says it holds; if no volume but one says so, that is the machine's."""
    found = tuple(packages)
    systems: dict[int, str] = {}
    for one in sorted(found, key=package_order):
        if one.type == "os":
            systems.setdefault(one.where.volume, f"{one.name}-{one.version}" if one.version else one.name)
    only = next(iter(systems.values())) if len(systems) == 1 else ""
    return tuple(replace(one, distro=systems.get(one.where.volume, only)) for one in found)


def gap_order(gap: Gap) -> GapKey:
    """The machine, then disks, then volumes, each with its files by path; then by reason."""
    place, number = _place(gap.where)
    path = gap.where.path if isinstance(gap.where, InFile) else b""
    return (place, number, path, gap.reason.value, gap.detail, gap.count)


def _place(where: Location) -> tuple[int, int]:
    match where:
        case Machine():
            return (0, 0)
        case OnDisk(disk):
            return (1, disk)
        case InVolume(volume) | InFile(volume):
            return (2, volume)
