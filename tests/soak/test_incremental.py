"""Incremental scans against full ones, manifests and caches against damage: `make soak`, which keeps the lines printed here.

`KUMOMORI_SOAK_SECONDS` bounds each of the three (120 by default), `KUMOMORI_SOAK_SEED` is where their seeds begin.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.findings import Finding
from scanner.images import FileSource
from scanner.machine import ScanOptions, diff_manifests, opened_manifest, scan_machine
from scanner.manifest.block import encode
from scanner.manifest.file import Reader, Writer
from scanner.report import Report
from scanner.sandbox import Silent
from tests.need import need_root, need_tool
from tests.scanner.filesystems.machine import Failed, Mounts, make_ext
from tests.scanner.incremental.compare import changed_extents, copy, differences, full, incremental
from tests.scanner.incremental.mixes import EICAR, Mixer
from tests.scanner.incremental.test_mixes import FORMATS
from tests.scanner.sandboxed import MIB, file, folder, write_ext4

SECONDS = float(os.environ.get("KUMOMORI_SOAK_SECONDS", "120"))
FIRST_SEED = int(os.environ.get("KUMOMORI_SOAK_SEED", "1000"))
OPTIONS = ScanOptions(jobs=1)
LONGEST_SECONDS = 120.0  # of one look at something damaged
_TRAILER = struct.Struct("<QQQ32s8s")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(int(4 * SECONDS) + 1800)]


def seeds() -> Iterator[int]:
    """Until the time is over, but at least one."""
    ends = time.monotonic() + SECONDS
    seed = FIRST_SEED
    yield seed
    while time.monotonic() < ends:
        seed += 1
        yield seed


def report(what: str, counts: Counter[str], broken: list[str]) -> None:
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"\n{what}: {told}; {len(broken)} failures", flush=True)
    assert not broken, "\n".join(line[:1000] for line in broken[:10])


# changes


def test_mixes_of_changes(tmp_path: Path) -> None:
    """Every kind of ext filesystem in turn; each round builds on what the incremental scan before it left."""
    need_root()
    need_tool("mke2fs", "mount", "umount")
    counts: Counter[str] = Counter()
    broken: list[str] = []
    for seed in seeds():
        words, grain = FORMATS[seed % len(FORMATS)].values
        place = tmp_path / str(seed)
        place.mkdir()
        with Mounts(place) as mounts:
            broken += [
                f"seed {seed}: {line}" for line in _rounds(mounts, place, seed, str(words), int(str(grain)), counts)
            ]
        shutil.rmtree(place)
    report("incremental", counts, broken)


def _rounds(mounts: Mounts, place: Path, seed: int, words: str, grain: int, counts: Counter[str]) -> Iterator[str]:
    chance = random.Random(seed)
    disk = make_ext(place / "disk", 64 * MIB, words.split())
    mixer = Mixer(mounts.mount(disk, "rw,noatime"), seed)
    mixer.fill(chance.choice((60, 200)))
    mounts.unmount(mixer.root)
    rules = _rules(place, chance)
    options = replace(OPTIONS, cache=place / "cache" if chance.random() < 0.5 else None, rules=rules)
    base = place / "base"
    full(disk, base, replace(options, cache=None))
    for number in range(4):
        before = copy(disk, place / "before")
        if number % 3 != 2:  # else nothing changes on the disk
            with suppress(Failed):
                mixer.root = mounts.mount(disk, "rw,noatime")
            counts["changes"] += len(mixer.mix(chance.choice((1, 5, 30))))
            mounts.unmount(mixer.root)
        if chance.random() < 0.4:
            rules = _rules(place, chance)
            limits = {"max_file_bytes": chance.choice((1000, 100_000, 256 << 20)), "ends_bytes": chance.choice((0, 50))}
            options = replace(options, rules=rules, **limits)  # type: ignore[arg-type]
        changes = changed_extents(before, disk, grain)
        found = incremental(disk, base, place / "found", changes, options)
        expected = full(disk, place / "right", replace(options, cache=None))
        counts["scans"] += 1
        counts["files taken over"] += found.coverage.files_carried
        yield from differences(expected, found, place / "right", place / "found")
        if found.exit_code != expected.exit_code:
            yield f"exit code {found.exit_code}, not {expected.exit_code}"
        base = (place / "found").rename(place / f"base{number}")


def _rules(place: Path, chance: random.Random) -> tuple[Path, ...]:
    """Rule files that come, go, change, and sometimes ask for names."""
    sources = (
        'rule standard { strings: $a = "STANDARD-ANTIVIRUS" condition: $a }',
        'rule hole { strings: $a = "behind a hole" condition: $a }',
        f"rule big {{ condition: filesize > {chance.choice((1000, 60_000))} }}",
        "rule named { condition: filename matches /^f1/ }",
    )
    chosen = []
    for number, source in enumerate(sources):
        if chance.random() < (0.2 if "filename" in source else 0.5):
            path = place / f"{number}.yar"
            path.write_text(source)
            chosen.append(path)
    return tuple(chosen)


# damage


def _disk(place: Path) -> Path:
    nodes = [file(b"/f%d" % number, b"content %d\n" % number * 300) for number in range(60)]
    nodes += [folder(b"/etc"), file(b"/etc/passwd", b"evil:x:0:0::/:/bin/sh\n"), file(b"/eicar.com", EICAR)]
    return write_ext4(place / "disk.img", nodes)


def _key(findings: tuple[Finding, ...]) -> set[tuple[str, str]]:
    return {(str(finding.where), finding.subject) for finding in findings}


class _Guarded:
    """One look at something damaged: an error of ours or a report, in time, and never less than is there."""

    def __init__(self, disk: Path, expected: Report) -> None:
        self._disk = disk
        self._expected = expected
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def scan(self, name: str, options: ScanOptions) -> None:
        began = time.monotonic()
        try:
            found = scan_machine([self._disk], options)
        except ConfigError:
            self.counts["refused"] += 1
        except Exception as error:  # noqa: BLE001  this is what is searched for
            self.broken.append(f"{name}: {error!r}")
        else:
            gaps = bool(list(found.gaps))
            missed = _key(self._expected.findings) - _key(found.findings)
            self.counts["gaps" if gaps else "equal"] += 1
            if (missed and not gaps) or _key(found.findings) - _key(self._expected.findings):
                self.broken.append(f"{name}: missed {missed}, found {_key(found.findings)}")
        if time.monotonic() - began > LONGEST_SECONDS:
            self.broken.append(f"{name}: took {time.monotonic() - began:.0f} s")


def _mutated(raw: bytes, chance: random.Random, most: int = 4) -> bytes:
    data = bytearray(raw)
    for _ in range(chance.randint(1, most)):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(7):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x80", b"\xff" * 7 + b"\x7f"))
            case 2:
                del data[at : at + chance.choice((1, 16, 4096))]
            case 3:
                data[at:at] = chance.randbytes(chance.choice((1, 16, 4096)))
            case 4:
                data[at : at + 64] = chance.randbytes(64)
            case 5:
                other = chance.randrange(len(data)) if data else 0
                data[at : at + 64] = data[other : other + 64]
            case _ if chance.random() < 0.2:
                del data[at:]
    return bytes(data)


def _sealed(raw: bytes) -> bytes:
    """With a checksum that is right, so that the damage is read."""
    end = len(raw) - _TRAILER.size + 24
    return raw[:end] + hashlib.sha256(raw[:end]).digest() + b"KUMO-END" if end > 36 else raw


def _rewritten(raw: bytes, chance: random.Random, place: Path) -> bytes:
    """Blocks, facts or both changed below the compression. What the file says of the findings is left as it is."""
    place.write_bytes(raw)
    with FileSource.open(place) as source, (place.with_suffix(".new")).open("wb") as stream:
        reader = Reader(source)
        writer = Writer(stream)
        for volume in reader.volumes():
            for block in reader.blocks(volume):
                rows = [block.row(at) for at in range(len(block))]
                first, last, count, new = rows[0].inode, rows[-1].inode, len(rows), encode(rows)
                if chance.random() < 0.6:
                    new = _mutated(new, chance, 2)
                if chance.random() < 0.2:
                    first, last = (chance.choice((0, 1, last, 1 << 63)), chance.choice((last, 5, (1 << 64) - 1)))
                writer.add(volume, first, last, count, new)
        facts = json.dumps(reader.facts)
        if chance.random() < 0.5:
            facts = _mutated(facts.encode(), chance, 2).decode("latin-1")
        with suppress(ValueError):
            loaded = json.loads(facts)
            reader.facts = loaded if isinstance(loaded, dict) else {}
        writer.finish(reader.facts)
    return place.with_suffix(".new").read_bytes()


def test_damaged_manifests(tmp_path: Path) -> None:
    """As the base of a scan that has changes everywhere, and as a side of `diff`."""
    disk = _disk(tmp_path)
    expected = full(disk, tmp_path / "base", OPTIONS)
    raw = (tmp_path / "base").read_bytes()
    guarded = _Guarded(disk, expected)
    bad = tmp_path / "bad"
    for seed in seeds():
        chance = random.Random(seed)
        kind = chance.choice(("plain", "sealed", "rewritten", "rewritten"))
        if kind == "rewritten":
            bad.write_bytes(_rewritten(raw, chance, tmp_path / "work"))
        else:
            damaged = _mutated(raw, chance)
            bad.write_bytes(_sealed(damaged) if kind == "sealed" else damaged)
        everything = ((0, 16 * MIB),)
        changes = everything if kind != "plain" else ()  # a wrong checksum is refused whatever has changed
        full_too = chance.random() < 0.5
        guarded.scan(f"seed {seed}: {kind}", replace(OPTIONS, base=bad, changes=(changes,), full=full_too))
        _compare(f"seed {seed}: {kind}", guarded, tmp_path / "base", bad)
    report("damaged manifests", guarded.counts, guarded.broken)


def _compare(name: str, guarded: _Guarded, good: Path, bad: Path) -> None:
    try:
        with opened_manifest(good) as old, opened_manifest(bad) as new:
            diff_manifests(old, new, Silent(), max_memory_bytes=1 << 30, timeout_seconds=60)
    except ConfigError:
        pass
    except Exception as error:  # noqa: BLE001  this is what is searched for
        guarded.broken.append(f"{name}: diff: {error!r}")
    guarded.counts["compared"] += 1


def test_damaged_caches(tmp_path: Path) -> None:
    """After the damage a scan finds what is there, and the one after the next uses the cache again."""
    disk = _disk(tmp_path)
    cache = tmp_path / "cache"
    options = replace(OPTIONS, cache=cache)
    expected = scan_machine([disk], options)
    shutil.copytree(cache, tmp_path / "whole")
    guarded = _Guarded(disk, expected)
    for seed in seeds():
        chance = random.Random(seed)
        shutil.rmtree(cache)
        shutil.copytree(tmp_path / "whole", cache)
        files = sorted(path for path in cache.iterdir() if path.name != "lock")
        for path in chance.sample(files, chance.randint(1, len(files))):
            if chance.random() < 0.15:
                path.unlink()
            else:
                head = 100 if chance.random() < 0.3 else path.stat().st_size
                data = path.read_bytes()
                path.write_bytes(_mutated(data[:head], chance) + data[head:])
        guarded.scan(f"seed {seed}", options)
        guarded.scan(f"seed {seed}: again", options)
        last = scan_machine([disk], options)
        guarded.counts["works again" if not last.coverage.files_scanned else "still without"] += 1
        if _key(last.findings) != _key(expected.findings):
            guarded.broken.append(f"seed {seed}: the last scan found {_key(last.findings)}")
    report("damaged caches", guarded.counts, guarded.broken)
