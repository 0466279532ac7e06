"""Scan one machine: its disks in, one report out. What the command line calls today and the fleet will call tomorrow."""

from __future__ import annotations

import hashlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from core.errors import ConfigError
from core.findings import GapReason
from core.text import printable
from definitions import builtin_rules
from scanner.disks import Disk, Identity, identity, open_disk
from scanner.job import Job, Task
from scanner.report import GuardReport, Report, RuleSet, Stats, VolumeReport
from scanner.sandbox import Listener, Outcome, run

MAX_RULE_BYTES = 64 << 20
_RULE_SUFFIXES = {".yar", ".yara"}


@dataclass(frozen=True)
class ScanOptions:
    """How to scan. `timeout_seconds` is for the whole machine, `file_timeout_seconds` for one file."""

    rules: tuple[Path, ...] = ()
    jobs: int = field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))))
    max_file_bytes: int = 256 << 20
    max_memory_bytes: int = 2 << 30
    timeout_seconds: float = 6 * 3600
    file_timeout_seconds: float = 60
    accepted: frozenset[GapReason] = frozenset()


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Disk]]:
    """All the disks of one machine. Raises `ConfigError` if one cannot be opened."""
    disks: list[Disk] = []
    try:
        disks.extend(open_disk(path) for path in paths)  # keeps those before one that fails, for closing
        seen: dict[Identity, Path] = {}
        for disk in disks:
            if disk.identity in seen:
                raise ConfigError(f"{printable(str(disk.path))}: given twice; name each disk of the machine once")
            seen[disk.identity] = disk.path
        yield disks
    finally:
        for disk in disks:
            os.close(disk.fd)


def scan_machine(paths: Sequence[Path], options: ScanOptions, listener: Listener | None = None) -> Report:
    """Scan the disks of one machine as one. Raises `ConfigError` for what the operator must change; all else is a gap."""
    rules = read_rules(options.rules)
    job = Job(
        task=Task.SCAN,
        jobs=options.jobs,
        memory_bytes=options.max_memory_bytes,
        file_timeout_seconds=options.file_timeout_seconds,
        max_file_bytes=options.max_file_bytes,
        rules=rules,
    )
    started = datetime.now(UTC)
    clock = time.monotonic()
    cpu = cpu_seconds()
    with opened(paths) as disks:
        inputs = {disk.identity for disk in disks}
        outcome = run(disks, job, timeout_seconds=options.timeout_seconds, listener=listener)
    sizes = outcome.sizes or [0]
    return Report(
        target=tuple(str(path) for path in paths),
        volumes=tuple(volume_reports(outcome)),
        findings=tuple(outcome.findings),
        gaps=tuple(outcome.gaps),
        accepted=options.accepted,
        stats=Stats(
            files=sum(volume.files for volume in outcome.volumes.values()),
            bytes_total=sum(sizes),
            bytes_read=outcome.bytes_read,
            cpu_seconds=cpu_seconds() - cpu,
            wall_seconds=time.monotonic() - clock,
        ),
        guards=tuple(GuardReport(guard.name, guard.active, guard.detail) for guard in outcome.guards),
        started=started,
        version=version("kumomori"),
        rules=RuleSet(_digest(rules), outcome.rules),
        inputs=frozenset(inputs | outcome.inputs | rule_files(options.rules)),
    )


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
