"""Nothing is scanned twice: what a first, a second and an incremental scan cost, against the physical work and against peers."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.images import Image, mounted, real_files, warm
from bench.measure import Usage, alternate, median, ratio, run, run_watched
from bench.page import Section, megabytes, seconds, spread
from bench.plot import Bar, bars
from bench.sections import kumomori, on_mount, said
from definitions import builtin_rules
from demo.disk import build_clean
from scanner.changes import Changes
from scanner.images import FileSource
from scanner.manifest.file import Reader
from scanner.shared import BLOCK_BYTES

SHARED_RULES: Final = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "yara"
ANY_RESULT: Final = (0, 1, 3)
CHANGED: Final = 0.01
_MOST_BYTES: Final = str(256 << 20)
# ClamAV without what is not matching: no databases of its own, nothing unpacked, as we and `yara` unpack nothing.
_CLAMSCAN: Final = (
    *("clamscan", "-r", "--no-summary", "--infected", "--bytecode=no", "--scan-archive=no", "--scan-mail=no"),
    *("--scan-image=no", "--scan-ole2=no", "--scan-pdf=no", "--scan-html=no", "--scan-swf=no", "--scan-xmldocs=no"),
    *("--scan-hwp3=no", "--scan-onenote=no", "--scan-pe=no", "--scan-elf=no", f"--max-filesize={_MOST_BYTES}"),
    f"--max-scansize={_MOST_BYTES}",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rule files that all sides load; `count` is what ClamAV says it loaded."""

    files: Sequence[Path]
    count: int
    about: str


def common_rules(work: Path) -> Rules:
    """Of our rule files and the shared ones those that ClamAV loads without a word, each whole."""
    folder = work / "rules"
    folder.mkdir(parents=True, exist_ok=True)
    tried: list[tuple[str, str]] = [(f"builtin-{name}", source) for name, source in builtin_rules().items()]
    shared = sorted(SHARED_RULES.rglob("*.yar*")) if SHARED_RULES.is_dir() else []
    tried += [(str(path.relative_to(SHARED_RULES)).replace("/", "-"), path.read_text()) for path in shared]
    empty = work / "empty"
    empty.write_bytes(b"")
    files = []
    count = 0
    for name, source in tried:
        file = folder / (name if name.endswith(".yar") else f"{Path(name).stem}.yar")
        file.write_text(source)
        done = subprocess.run(["clamscan", "-d", str(file), str(empty)], capture_output=True)
        found = re.search(rb"Known viruses: (\d+)", done.stdout)
        if b"LibClamAV" in done.stderr or not found:
            file.unlink()
            continue
        files.append(file)
        count += int(found[1])
    about = f"{count} rules in {len(files)} files, all that ClamAV loads whole of {len(tried)} files"
    if not shared:
        about += " (the built-in ones alone: the shared rule sets are not beside the repository)"
    return Rules(files, count, about)


def first_scans(image: Image, work: Path, rounds: int) -> tuple[Section, list[Bar]]:
    """The same rules over the same image: ours, the `yara` command, clamscan."""
    warm(image)
    rules = common_rules(work)
    # our own command has the built-in rules in any case, so those are not given again
    ours = [word for file in rules.files if not file.name.startswith("builtin-") for word in ("--rules", str(file))]
    yara = ["yara", "-w", "-r", "-N", "-f", f"--skip-larger={_MOST_BYTES}", "-p", "1"]
    yara += [f"n{number}:{file}" for number, file in enumerate(rules.files)]
    database = work / "clam"
    database.mkdir(exist_ok=True)
    for file in rules.files:
        (database / file.name).write_text(file.read_text())
    clamscan = [*_CLAMSCAN, "-d", str(database)]
    scan = kumomori("scan", "image", str(image.path), "--format", "json", "--jobs", "1")
    runs = {
        "`yara -p 1`, kernel mount": partial(on_mount, image, *yara),
        "`clamscan`, kernel mount": partial(on_mount, image, *clamscan, codes=(0, 1)),
        "`kumomori scan image --jobs 1`": partial(run, [*scan, *ours], codes=ANY_RESULT),
        "… with the built-in rules alone": partial(run, scan, codes=ANY_RESULT),
        "`yara -p 1` with those": partial(on_mount, image, *yara[:9], *_builtin(rules)),
    }
    found = alternate(runs, rounds)
    names = list(runs)
    base, clam, mine, small, small_base = (found[name] for name in names)
    rows = [_row(name, usages, image.content) for name, usages in found.items()]
    memory = run_watched([*scan, *ours], codes=ANY_RESULT)[1]
    notes = [
        f"Ours against `yara`: {ratio(mine, base)} of its CPU (goal 0.5); with the built-in rules alone {ratio(small, small_base)}.",
        f"Ours against `clamscan`: {ratio(mine, clam)} of its CPU (goal 0.2). It also normalises scripts, which no option turns off.",
        f"Peak memory of ours: {megabytes(memory.largest)} MB in the largest process, {megabytes(memory.fair)} MB in all.",
    ]
    section = Section(
        "First scan, the same rules on all sides",
        f"{said(image)}. {rules.about}; {rounds} alternating rounds, medians.",
        ["", "CPU s", "lowest-highest", "CPU s per GB", "wall s"],
        rows,
        notes,
    )
    return section, [
        Bar(name, _cpu(usages) / image.content * 1e9)
        for name, usages in (("yara", base), ("clamscan", clam), ("kumomori", mine))
    ]


def _builtin(rules: Rules) -> list[str]:
    return [f"b{at}:{file}" for at, file in enumerate(rules.files) if file.name.startswith("builtin-")]


def _cpu(usages: Sequence[Usage]) -> float:
    return median([usage.cpu_seconds for usage in usages])


def _row(name: str, usages: Sequence[Usage], content: int) -> list[str]:
    cpu = [usage.cpu_seconds for usage in usages]
    wall = median([usage.wall_seconds for usage in usages])
    return [name, seconds(median(cpu)), spread(cpu), seconds(median(cpu) / content * 1e9), seconds(wall)]


def later_scans(image: Image, work: Path, sizes: tuple[int, int], rounds: int) -> tuple[Section, list[Bar]]:
    """The second scan, the scan of a second machine, of an unchanged disk, and of one with 1 % of its files changed."""
    cache, manifest, report = work / "cache", work / "base.manifest", work / "report.json"
    scan = partial(kumomori, "scan", "image", "--format", "json", "--jobs", "1", "--cache", str(cache))
    run(scan(str(image.path), "--manifest", str(manifest)), codes=ANY_RESULT)
    second = real_files(work / "second", *sizes)
    empty = work / "empty.json"
    empty.write_text("[]")
    tiny = work / "tiny.img"
    build_clean(tiny)
    changed, extents, blocks = _changed(image, work)
    based = ("--base", str(manifest), "--changed")
    incremental = scan(str(changed), *based, str(extents), "--manifest", str(work / "new.manifest"))
    run([*incremental, "--output", str(report)], codes=ANY_RESULT)
    done = json.loads(report.read_text())["coverage"]
    inodes, fresh_inodes = work / "candidates.json", work / "changed.json"
    inodes.write_text(json.dumps(candidates(work / "new.manifest", extents)))
    fresh_inodes.write_text(json.dumps(changed_inodes(manifest, work / "new.manifest")))
    for one in (image, second, Image(changed, 0, 0, 0)):
        warm(one)
    reader = [sys.executable, "-m", "bench.reader"]
    fresh = ("--output", "/dev/null")
    runs = {
        "reading and hashing: kernel mount, hashlib": partial(on_mount, image, sys.executable, "-m", "bench.walk"),
        "reading and hashing: our reader alone": partial(run, [*reader, str(image.path)]),
        "second scan, cache": partial(run, [*scan(str(image.path)), *fresh], codes=ANY_RESULT),
        "second machine, shared cache": partial(run, [*scan(str(second.path)), *fresh], codes=ANY_RESULT),
        "start-up: a disk with a few files": partial(run, [*scan(str(tiny)), *fresh], codes=ANY_RESULT),
        "manifest, nothing changed": partial(
            run, [*scan(str(image.path), *based, str(empty)), *fresh], codes=ANY_RESULT
        ),
        "manifest, 1 % of files changed": partial(run, [*incremental, *fresh], codes=ANY_RESULT),
        "hashing the candidates: our reader alone": partial(run, [*reader, str(changed), "--inodes", str(inodes)]),
        "the same, no candidates": partial(run, [*reader, str(changed), "--inodes", str(empty)]),
        "searching what changed: our engine alone": partial(
            run, [*reader, str(changed), "--inodes", str(fresh_inodes), "--search"]
        ),
        "the same, nothing changed": partial(run, [*reader, str(changed), "--inodes", str(empty), "--search"]),
    }
    found = alternate(runs, rounds)
    kernel, alone, again, other, start, same, some, hashed, unhashed, searched, unsearched = found.values()
    limit_same = _cpu(start) + 10e-6 * image.files
    searching = _cpu(searched) - _cpu(unsearched)
    limit_some = limit_same + 2 * (_cpu(hashed) - _cpu(unhashed)) + searching
    limit_blocks = 1.3 * blocks + 0.02 * done["blocks_total"]
    of_disk = done["blocks_total"]
    notes = [
        f"Second scan against reading and hashing the same bytes: {ratio(again, kernel)} by the kernel, {ratio(again, alone)} by "
        f"our reader alone (goal 1.5); a second machine of the same distribution: {ratio(other, kernel)} and {ratio(other, alone)}.",
        f"Nothing changed: {_cpu(same):.2f} s; start-up + 10 µs for each of {image.files:,} files is {limit_same:.2f} s: "
        f"{_verdict(_cpu(same) <= limit_same)}.",
        f"1 % changed: {_cpu(some):.2f} s; that limit + 2 x hashing {done['files_hashed']:,} candidates + searching "
        f"{done['files_scanned']:,} contents ({searching:.2f} s) is {limit_some:.2f} s: {_verdict(_cpu(some) <= limit_some)}.",
        f"1 % changed: {done['blocks_read']:,} blocks of 512 KiB read; {blocks:,} of {of_disk:,} changed, so the limit "
        f"(1.3 x changed + 2 % of the disk) is {limit_blocks:,.0f}: {_verdict(done['blocks_read'] <= limit_blocks)}.",
        f"The manifest takes {manifest.stat().st_size / image.files:.1f} bytes per file.",
    ]  # fmt: skip
    section = Section(
        "Later scans",
        f"{said(image)}, built-in rules, one worker; {rounds} alternating rounds, medians; all in the page cache. Of 1 % of the "
        "files half are longer, a quarter overwritten in place with the time set back, a quarter new.",
        ["", "CPU s", "lowest-highest", "CPU s per GB", "wall s"],
        [_row(name, usages, image.content) for name, usages in found.items()],
        notes,
    )
    names = {"read and hash": kernel, "second scan": again, "nothing changed": same, "1 % changed": some}
    return section, [Bar(name, _cpu(usages)) for name, usages in names.items()]


def _verdict(held: bool) -> str:
    return "held" if held else "MISSED"


def _changed(image: Image, work: Path) -> tuple[Path, Path, int]:
    """A copy with 1 % of its files changed, the extents that differ, and their number in blocks of 512 KiB."""
    copy, extents = work / "changed.img", work / "extents.json"
    subprocess.run(["cp", "--sparse=always", str(image.path), str(copy)], check=True)
    with mounted(copy, read_only=False) as root:
        change_files(root, CHANGED, seed=1)
    found = changed_blocks(image.path, copy)
    extents.write_text(json.dumps(found))
    return copy, extents, len(found)


def change_files(root: Path, part: float, seed: int) -> int:
    """Change so many of the files below `root`; returns how many."""
    files = sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(root)
        for name in names
        if not os.path.islink(os.path.join(where, name)) and os.path.getsize(os.path.join(where, name))
    )
    chosen = random.Random(seed).sample(files, max(1, int(len(files) * part)))
    for number, path in enumerate(chosen):
        place = number / len(chosen)
        if place < 0.5:
            with open(path, "ab") as stream:
                stream.write(b"one more line %d\n" % number)
        elif place < 0.75:
            status = os.stat(path)
            with open(path, "r+b") as stream:
                stream.seek(status.st_size // 2)
                stream.write(b"!")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        else:
            with open(f"{path}.new", "wb") as stream:
                stream.write(b"a new file %d\n" % number * 50)
    return len(chosen)


def changed_blocks(old: Path, new: Path) -> list[dict[str, int]]:
    found = []
    with old.open("rb") as before, new.open("rb") as after:
        at = 0
        while block := after.read(BLOCK_BYTES):
            if before.read(BLOCK_BYTES) != block:
                found.append({"offset": at, "length": len(block)})
            at += BLOCK_BYTES
    return found


def candidates(manifest: Path, extents: Path) -> list[int]:
    """Inodes with content in one of the changed blocks."""
    changes = Changes((one["offset"], one["length"]) for one in json.loads(extents.read_text()))
    with FileSource.open(manifest) as source:
        return [
            row.inode
            for block in Reader(source).blocks(0)
            for row in (block.row(at) for at in range(len(block)))
            if row.sha256 and row.size and (not row.extents or any(changes.touch(*place) for place in row.extents))
        ]


def changed_inodes(old: Path, new: Path) -> list[int]:
    """Inodes whose content is another one than before, or new."""
    hashes: list[dict[int, bytes]] = []
    for manifest in (old, new):
        with FileSource.open(manifest) as source:
            blocks = Reader(source).blocks(0)
            hashes.append({block.inodes[at]: block.sha256(at) for block in blocks for at in range(len(block))})
    before, after = hashes
    return [inode for inode, digest in after.items() if digest and digest != before.get(inode)]


def plot(first: Sequence[Bar], later: Sequence[Bar]) -> str:
    return bars(
        [("A first scan, the same rules: CPU seconds per GB", first), ("Later scans of one disk: CPU seconds", later)]
    )
