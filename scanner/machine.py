"""Scan one machine: its disks in, one report out. What the command line calls today and the fleet will call tomorrow."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Final, Self

from core.errors import ConfigError
from core.findings import Gap, GapReason, InFile, InVolume
from core.text import printable
from definitions import builtin_rules
from scanner.base import STAMP_KEY_BYTES
from scanner.disks import Disk, Identity, RemoteDisk, identity, open_disk
from scanner.job import Job, Task
from scanner.manifest.file import MAGIC, Writer
from scanner.report import Coverage, GuardReport, Report, RuleSet, Stats, VolumeReport, with_distro
from scanner.reports.files import STDOUT, NewFile, check_target
from scanner.sandbox import Listener, Outcome, Support, Verdicts, VolumeState, run
from scanner.shared import BLOCK_BYTES
from scanner.verdicts import Generation, Provenance, Session, VerdictCache
from scanner.wire import gap_out

# What decides about results besides the engine: the readers and the checks. Counted up whenever one of them changes, so
# that no manifest of an older version is taken at its word.
SCANNER: Final = f"{version('kumomori')}/3"
MAX_RULE_BYTES = 64 << 20
_RULE_SUFFIXES = {".yar", ".yara"}


@dataclass(frozen=True)
class ScanOptions:
    """How to scan. `timeout_seconds` is for the whole machine, `file_timeout_seconds` for one file.

    `ends_bytes`: of files over `max_file_bytes`, scan that much of each end. `cache` is a folder of verdicts that many scans
    share, `machine` the name under which verdicts are kept (the first disk's path if empty). `manifest` is written,
    `base` is one of an earlier scan: then `changes` (for each disk, (offset, length) of what changed since) or `base_disks`
    (the disks as they were then, to find the changes by comparing) is given; `full` scans all if the base does not fit. `since`:
    for each disk the name by which the base must have known it (empty: any).
    """

    rules: tuple[Path, ...] = ()
    jobs: int = field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))))
    max_file_bytes: int = 256 << 20
    max_memory_bytes: int = 2 << 30
    timeout_seconds: float = 6 * 3600
    file_timeout_seconds: float = 60
    accepted: frozenset[GapReason] = frozenset()
    ends_bytes: int = 0
    cache: Path | None = None
    cache_bytes: int = 1 << 30
    machine: str = ""
    manifest: Path | None = None
    base: Path | None = None
    changes: tuple[tuple[tuple[int, int], ...], ...] | None = None
    base_disks: tuple[Path, ...] = ()
    full: bool = False
    since: tuple[str, ...] = ()


@contextmanager
def opened(given: Sequence[Path | RemoteDisk]) -> Iterator[list[Disk | RemoteDisk]]:
    """All the disks of one machine; remote ones are open already. Raises `ConfigError` if one cannot be opened."""
    disks: list[Disk | RemoteDisk] = []
    try:
        # keeps those before one that fails, for closing
        disks.extend(one if isinstance(one, RemoteDisk) else open_disk(one) for one in given)
        seen: set[Identity | int] = set()
        for disk in disks:
            mark = id(disk.source) if isinstance(disk, RemoteDisk) else disk.identity
            if mark in seen:
                name = disk.name if isinstance(disk, RemoteDisk) else str(disk.path)
                raise ConfigError(f"{printable(name)}: given twice; name each disk of the machine once")
            seen.add(mark)
        yield disks
    finally:
        for disk in disks:
            if isinstance(disk, Disk):
                os.close(disk.fd)


def scan_machine(
    paths: Sequence[Path | RemoteDisk],
    options: ScanOptions,
    listener: Listener | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Report:
    """Scan the disks of one machine as one. Raises `ConfigError` for what the operator must change; all else is a gap.

    `warn` hears of what went wrong beside the scan, such as a damaged cache.
    """
    rules = read_rules(options.rules)
    job = Job(
        task=Task.SCAN,
        jobs=options.jobs,
        memory_bytes=options.max_memory_bytes,
        file_timeout_seconds=options.file_timeout_seconds,
        max_file_bytes=options.max_file_bytes,
        ends_bytes=options.ends_bytes,
        rules=rules,
        rows=options.manifest is not None,
        stamp_key=os.urandom(STAMP_KEY_BYTES).hex(),
        changes=options.changes,
        full=options.full,
        since=tuple(map(printable, options.since)),
    )
    started = datetime.now(UTC)
    scan_id = str(uuid.uuid4())
    clock = time.monotonic()
    cpu = cpu_seconds()
    machine = options.machine or str(paths[0])
    with ExitStack() as stack:
        disks = stack.enter_context(opened(paths))
        old_disks = [one for one in stack.enter_context(opened(options.base_disks)) if isinstance(one, Disk)]
        _check_old(disks, old_disks)
        inputs = _identities([*disks, *old_disks])
        manifests = [stack.enter_context(opened_manifest(options.base))] if options.base else []
        inputs |= {identity(fd) for fd in manifests}
        verdicts = stack.enter_context(_Verdicts(options, scan_id, machine, started, warn)) if options.cache else None
        target = stack.enter_context(ManifestFile(options.manifest, inputs)) if options.manifest else None
        job = replace(job, warm=verdicts is not None and verdicts.is_warm)
        support = Support(
            scanner=SCANNER,
            manifests=manifests,
            old_disks=old_disks,
            verdicts=verdicts.begin if verdicts else None,
            rows=target,
        )
        outcome = run(disks, job, timeout_seconds=options.timeout_seconds, listener=listener, support=support)
        if verdicts:
            verdicts.settle(outcome)
        if target:
            target.finish(manifest_facts(outcome, scan_id, machine, started, paths))
            inputs |= target.identities
    sizes = outcome.sizes or [0]
    digest = _digest(rules)
    return Report(
        target=tuple(str(path) for path in paths),
        volumes=tuple(volume_reports(outcome)),
        findings=tuple(outcome.findings),
        packages=with_distro(outcome.packages),
        gaps=tuple(outcome.gaps),
        accepted=options.accepted,
        stats=Stats(
            files=sum(volume.files for volume in outcome.volumes.values()),
            bytes_total=sum(sizes),
            bytes_read=outcome.bytes_read,
            cpu_seconds=cpu_seconds() - cpu,
            wall_seconds=time.monotonic() - clock,
        ),
        coverage=coverage_of(outcome, incremental=options.base is not None),
        guards=tuple(GuardReport(guard.name, guard.active, guard.detail) for guard in outcome.guards),
        started=started,
        version=version("kumomori"),
        rules=RuleSet(digest, outcome.rules, outcome.rule_ids),
        inputs=frozenset(inputs | outcome.inputs | rule_files(options.rules)),
    )


def _check_old(disks: Sequence[Disk | RemoteDisk], old_disks: Sequence[Disk]) -> None:
    """A disk compared with itself would not differ, and nothing of it would be looked at. Raises `ConfigError`."""
    now = _identities(disks)
    for disk in old_disks:
        if disk.identity in now:
            raise ConfigError(
                f"{printable(str(disk.path))}: is the disk that is scanned; --base-image takes the disk as the base saw it"
            )


def coverage_of(outcome: Outcome, *, incremental: bool) -> Coverage:
    done = outcome.done
    rows = sum(volume.base_rows or 0 for volume in outcome.volumes.values())
    return Coverage(
        mode="incremental" if incremental and not outcome.base_refused else "full",
        base_refused=outcome.base_refused,
        files_carried=done.carried,
        files_hashed=done.hashed,
        bytes_hashed=done.hashed_bytes,
        files_scanned=done.scanned,
        bytes_scanned=done.scanned_bytes,
        verdicts_known=done.known,
        inodes_gone=max(0, rows - done.matched),
        blocks_read=done.blocks,
        blocks_total=sum(-(-size // BLOCK_BYTES) for size in outcome.sizes),
    )


class _Verdicts:
    """The cache during one scan: opened when the parser says what engine it has, written when it ended cleanly."""

    def __init__(
        self, options: ScanOptions, scan_id: str, machine: str, started: datetime, warn: Callable[[str], None]
    ) -> None:
        assert options.cache is not None
        self._cache = VerdictCache.open(options.cache, most_bytes=options.cache_bytes, warn=warn)
        self._provenance = Provenance(scan_id, machine, started)
        self._session: Session | None = None
        self.is_warm = not self._cache.is_empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.close()
        self._cache.close()

    def begin(self, outcome: Outcome) -> Verdicts:
        """One session for all parsers of a scan: what one of them recorded before it crashed is not used (see `settle`)."""
        if self._session is None:
            engine = outcome.engine
            self._session = self._cache.session(
                engine["engine"], engine["options"], Generation(engine["rules"]), self._provenance
            )
        return self._session

    def settle(self, outcome: Outcome) -> None:
        if self._session is not None and not outcome.suspect:
            self._session.commit()


def manifest_facts(
    outcome: Outcome, scan_id: str, machine: str, started: datetime, paths: Sequence[Path | RemoteDisk]
) -> dict[str, object]:
    """What a manifest says besides its rows; `docs/manifest.md` explains it."""
    return {
        "scan": scan_id,
        "machine": printable(machine),
        "time": started.isoformat(),
        "scanner": SCANNER,
        "target": [printable(str(path)) for path in paths],
        "stamp_key": outcome.stamp_key,
        "disks": list(outcome.sizes),
        "volumes": [_volume_facts(volume) for volume in outcome.volumes.values()],
        "gaps": [gap_out(gap) for gap in outcome.gaps if not isinstance(gap.where, (InFile, InVolume))],
    } | (outcome.engine or {"engine": "", "options": "", "rules": {}})


def _volume_facts(volume: VolumeState) -> dict[str, object]:
    return {
        "index": volume.index,
        "disk": volume.disk,
        "table": volume.table,
        "start": volume.start,
        "length": volume.length,
        "filesystem": volume.filesystem,
        "label": volume.label,
        "uuid": volume.uuid,
        "layout": volume.layout,
        "replayed": volume.replayed,
        "files": volume.files,
        "size": volume.size,
        "rows": volume.rows,
        "incomplete": volume.incomplete,
        "finished": volume.finished,
        "gaps": [gap_out(gap) for gap in volume.gaps],
    }


class ManifestFile:
    """A manifest being written, which takes its name only when it is whole; killed, it leaves what was there before.

    Raises `ConfigError` if it cannot be written, or is one of the files that are read.
    """

    def __init__(self, path: Path, inputs: set[Identity]) -> None:
        self._path = path
        if str(path) in STDOUT or (path.exists() and not path.is_file()):
            raise ConfigError(f"{printable(str(path))}: is no place for a manifest; give a file")
        check_target(path, inputs)
        try:
            self._file = NewFile(
                Path(os.path.realpath(path)), 0o600
            )  # it tells what is on the disk: for its owner alone
        except (OSError, ValueError) as error:
            raise _cannot_write(path, error) from error
        self._stream = os.fdopen(self._file.fd, "wb", closefd=False)
        self.identities: set[Identity] = set()
        try:
            self._writer = Writer(self._stream)
        except OSError as error:
            self.__exit__()
            raise _cannot_write(path, error) from error

    def __enter__(self) -> Self:
        return self

    def add(self, volume: int, first: int, last: int, rows: int, block: bytes) -> None:
        try:
            self._writer.add(volume, first, last, rows, block)
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def finish(self, facts: dict[str, object]) -> None:
        try:
            self._writer.finish(facts)
            self._stream.flush()
            self._file.commit()
            self.identities = {identity(self._path)}
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def __exit__(self, *_: object) -> None:
        try:
            self._stream.close()
        except OSError:
            pass  # what is left in its buffer is not wanted any more
        self._file.__exit__()


def _cannot_write(path: Path, error: OSError | ValueError) -> ConfigError:
    said = getattr(error, "strerror", None) or error
    return ConfigError(f"{printable(str(path))}: the manifest cannot be written ({said}); give another place")


@contextmanager
def opened_manifest(path: Path) -> Iterator[int]:
    """A descriptor. Raises `ConfigError`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{printable(str(path))}: the manifest cannot be read ({said})") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"{printable(str(path))}: is no file; give a manifest that `kumomori scan` has written")
        yield fd
    finally:
        os.close(fd)


def is_manifest(path: Path) -> bool:
    """Whether the file begins like one; what is wrong with it otherwise is told when it is read."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def write_manifest(disk: Path | RemoteDisk, stream: BinaryIO, options: ScanOptions, listener: Listener) -> list[Gap]:
    """Read and hash every file of a disk into a manifest, without searching for anything. Raises `ConfigError`."""
    job = Job(
        task=Task.INVENTORY,
        jobs=options.jobs,
        memory_bytes=options.max_memory_bytes,
        file_timeout_seconds=options.file_timeout_seconds,
        rows=True,
        stamp_key=os.urandom(STAMP_KEY_BYTES).hex(),
    )
    started = datetime.now(UTC)
    try:
        with opened([disk]) as disks:
            writer = Writer(stream)
            support = Support(scanner=SCANNER, rows=writer)
            outcome = run(disks, job, timeout_seconds=options.timeout_seconds, listener=listener, support=support)
            writer.finish(manifest_facts(outcome, str(uuid.uuid4()), str(disk), started, [disk]))
            stream.flush()
    except OSError as error:
        raise ConfigError(
            f"{printable(str(disk))}: what is on it cannot be kept ({error.strerror}); make room in the temporary folder"
        ) from error
    return list(outcome.gaps)


def _identities(disks: Sequence[Disk | RemoteDisk]) -> set[Identity]:
    return {disk.identity for disk in disks if isinstance(disk, Disk)}


def diff_manifests(old: int, new: int, listener: Listener, *, max_memory_bytes: int, timeout_seconds: float) -> Outcome:
    """What differs between two manifests (descriptors), told to `listener.change`. Raises `ConfigError`."""
    job = Job(task=Task.DIFF, jobs=1, memory_bytes=max_memory_bytes)
    support = Support(scanner=SCANNER, manifests=[old, new])
    return run([], job, timeout_seconds=timeout_seconds, listener=listener, support=support)


def manifest_hashes(manifests: Sequence[int], listener: Listener, *, timeout_seconds: float) -> Outcome:
    """The hashes of the files in manifests (descriptors), told to `listener.data`: the manifest's place among them (a byte), then
    any number of SHA-256, in any order, also repeatedly."""
    job = Job(task=Task.HASHES, jobs=1, memory_bytes=1 << 30)
    support = Support(scanner=SCANNER, manifests=manifests)
    return run([], job, timeout_seconds=timeout_seconds, listener=listener, support=support)


def volume_reports(outcome: Outcome) -> Iterator[VolumeReport]:
    for volume in outcome.volumes.values():
        yield VolumeReport(
            index=volume.index,
            disk=volume.disk,
            kind=volume.table,
            filesystem=volume.filesystem,
            label=volume.label,
            uuid=volume.uuid,
            files=volume.files,
            bytes=volume.size,
            start=volume.start,
            length=volume.length,
        )


def cpu_seconds() -> float:
    """Processor time of this process and of the parsers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def read_rules(paths: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """(name, source) of rule files; of a folder, all its .yar and .yara files. Raises `ConfigError`."""
    rules = []
    size = 0
    seen: set[Identity] = set()
    for given in paths:
        for path in _rule_files(given):
            if (found := _identity(path)) in seen:
                continue  # a folder and a file in it, both given
            seen.add(found)
            source = _read_rule(path)
            size += len(source)
            if size > MAX_RULE_BYTES:
                raise ConfigError(
                    f"{printable(str(path))}: more than {MAX_RULE_BYTES} bytes of rules in all; give fewer of them"
                )
            rules.append((str(path.relative_to(given.parent)), source))
    return tuple(rules)


def rule_files(paths: Sequence[Path]) -> set[Identity]:
    """Which files `read_rules` reads. Raises `ConfigError`."""
    return {_identity(path) for given in paths for path in _rule_files(given)}


def _identity(path: Path) -> Identity:
    try:
        return identity(path)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read ({error.strerror})") from error


def _rule_files(given: Path) -> list[Path]:
    shown = printable(str(given))
    if not given.exists():
        raise ConfigError(f"{shown}: no such rule file; --rules takes a YARA source file or a folder of them")
    if not given.is_dir():
        return [given]
    try:
        found = sorted(path for path in given.rglob("*") if path.suffix in _RULE_SUFFIXES and path.is_file())
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be searched for rules ({error.strerror}); name the files") from error
    if not found:
        raise ConfigError(f"{shown}: no .yar or .yara file in this folder")
    return found


def _read_rule(path: Path) -> str:
    shown = printable(str(path))
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_RULE_BYTES + 1)  # a device has no size, but may have no end
        if len(raw) > MAX_RULE_BYTES:
            raise ConfigError(f"{shown}: larger than {MAX_RULE_BYTES} bytes, which no rule file is")
        return raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: not UTF-8 text; --rules takes YARA source, not compiled rules") from error


def _digest(extra: Sequence[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for name, source in [*sorted(builtin_rules().items()), *extra]:
        for part in (name.encode(errors="surrogateescape"), source.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
