"""A scan that builds on an earlier one must say what a full scan says, and leave the same manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scanner.filesystems.ext import READER as EXT
from scanner.images import FileSource
from scanner.machine import ScanOptions, scan_machine
from scanner.manifest.block import Row
from scanner.manifest.file import Reader
from scanner.report import Report
from scanner.shared import BLOCK_BYTES
from scanner.volumes import find_volumes
from tests.scanner.filesystems.machine import run

OPTIONS = ScanOptions(jobs=2)


def rows_of(manifest: Path) -> dict[tuple[int, int], Row]:
    with FileSource.open(manifest) as source:
        reader = Reader(source)
        return {
            (volume, row.inode): row
            for volume in reader.volumes()
            for block in reader.blocks(volume)
            for row in (block.row(at) for at in range(len(block)))
        }


def facts_of(manifest: Path) -> dict[str, Any]:
    with FileSource.open(manifest) as source:
        return Reader(source).facts


def changed_extents(old: Path, new: Path, grain: int) -> tuple[tuple[int, int], ...]:
    """(offset, length) of blocks of `grain` bytes that differ: an independent way to find them."""
    found = []
    with old.open("rb") as before, new.open("rb") as after:
        at = 0
        while block := after.read(grain):
            if before.read(grain) != block:
                found.append((at, len(block)))
            at += grain
    return tuple(found)


def full(disk: Path, manifest: Path, options: ScanOptions = OPTIONS) -> Report:
    return scan_machine([disk], replace(options, manifest=manifest))


def incremental(
    disk: Path, base: Path, manifest: Path, changes: tuple[tuple[int, int], ...], options: ScanOptions = OPTIONS
) -> Report:
    return scan_machine([disk], replace(options, manifest=manifest, base=base, changes=(changes,)))


def differences(expected: Report, found: Report, right: Path, wrong: Path) -> list[str]:
    """Between a full and an incremental scan of one disk, and between their manifests; in words, empty if there are none."""
    lines = []
    for name in ("findings", "packages", "gaps", "volumes"):
        one, other = getattr(expected, name), getattr(found, name)
        lines += [f"{name}: missed {item}" for item in one if item not in other]
        lines += [f"{name}: made up {item}" for item in other if item not in one]
    rows, mine = rows_of(right), rows_of(wrong)
    for key in rows.keys() | mine.keys():
        row, ours = rows.get(key), mine.get(key)
        if row is None or ours is None:
            lines.append(f"row {key}: {'made up' if row is None else 'missed'} {(row or ours).paths}")  # type: ignore[union-attr]
        elif _plain(row) != _plain(ours):
            lines.append(f"row {key}: is {ours}, should be {row}")
    for manifest, found_rows in ((right, rows), (wrong, mine)):
        lines += _wrong_stamps(Path(expected.target[0]), facts_of(manifest), found_rows)
    return lines


def _wrong_stamps(disk: Path, facts: Mapping[str, Any], rows: Mapping[tuple[int, int], Row]) -> list[str]:
    """A stamp is of the record as it is on the disk now, whichever scan made it: an older one would hide the next change."""
    lines = []
    key = bytes.fromhex(facts["stamp_key"])
    with FileSource.open(disk) as source:
        for volume in find_volumes([source])[0]:
            if not EXT.probe(volume.source):
                continue
            filesystem = EXT.open(volume.source, volume.index)
            for (number, inode), row in rows.items():
                raw = filesystem.raw_record(inode) if number == volume.index else None
                if raw is not None and row.stamp != hashlib.blake2b(raw, digest_size=8, key=key).digest():
                    lines.append(f"row {(number, inode)}: its stamp is not of its record")
    return lines


def _plain(row: Row) -> object:
    """The findings in a row stand in the order in which they were made; a gap that is told twice counts once."""
    results = json.loads(row.results) if row.results else None
    if results:
        results["content"] = sorted(map(json.dumps, results["content"] or ()))
        results["said"] = sorted(set(map(json.dumps, results["said"])))
    return replace(row, results=b"", stamp=b""), results


GRAINS: Sequence[int] = (4096, BLOCK_BYTES)


def copy(image: Path, target: Path) -> Path:
    run("cp", "--sparse=always", image, target)
    return target
