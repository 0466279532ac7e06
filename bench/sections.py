"""The measurements themselves: each makes one `Section` of the page."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from bench.images import Image, mounted, warm
from bench.measure import Failed, Memory, Usage, alternate, median, ratio, run, run_watched
from bench.page import Section, megabytes, seconds, spread
from bench.reader import listing_bytes
from core.text import unescape
from definitions import builtin_rules

GOAL_BYTES: Final = 250_000_000
_YARA_MOST_BYTES: Final = 256 << 20  # as `kumomori scan image` has it
_WHOLE_OR_GAPS: Final = (0, 3)
_ANY_RESULT: Final = (0, 1, 3)  # the image is a copy of real software: a finding in it is no failure


def kumomori(*arguments: str) -> list[str]:
    """The command as an operator runs it."""
    return [str(Path(sys.executable).with_name("kumomori")), *arguments]


def on_mount(image: Image, *command: str, codes: Sequence[int] = (0,)) -> Usage:
    """Run `command FOLDER` on a fresh mount, so that the loop device's own page cache is empty each time."""
    with mounted(image.path) as root:
        return run([*command, str(root)], codes=codes)


def _figures(name: str, usages: Sequence[Usage], base: Sequence[Usage], content: int) -> list[str]:
    cpu = [usage.cpu_seconds for usage in usages]
    return [
        name,
        seconds(median(cpu)),
        spread(cpu),
        megabytes(content / median(cpu)),
        seconds(median([usage.wall_seconds for usage in usages])),
        seconds(median([usage.kernel_seconds for usage in usages])),
        "1" if usages is base else ratio(usages, base),
    ]


def _head(base: str) -> list[str]:
    return ["", "CPU s", "lowest-highest", "MB per CPU s", "wall s", "kernel threads s", f"CPU / {base}"]


_KERNEL_NOTE: Final = (
    "CPU is user + system time of the command and all its children, start-up included. What the loop device costs in "
    "kernel threads is not in it; the column shows what all kernel threads of the machine used meanwhile."
)


def said(image: Image) -> str:
    return f"{image.files:,} files, {megabytes(image.content)} MB of content, image of {megabytes(image.size)} MB"


# reading and hashing


def read_and_hash(image: Image, rounds: int) -> Section:
    """Our reader, alone and as a command, against the kernel's mount and the standard library's hashing."""
    warm(image)
    gaps = check_same(image)
    path = str(image.path)
    listing = partial(kumomori, "ls", path, "--hash", "--format", "jsonl", "--jobs")
    kernel = "kernel mount, os.walk, hashlib.file_digest"
    runs = {
        kernel: partial(on_mount, image, sys.executable, "-m", "bench.walk"),
        "our reader alone, one process": partial(run, [sys.executable, "-m", "bench.reader", path]),
        "`kumomori ls --hash --jobs 1`": partial(run, listing("1"), codes=_WHOLE_OR_GAPS),
        "`kumomori ls --hash --jobs 2`": partial(run, listing("2"), codes=_WHOLE_OR_GAPS),
    }
    found = alternate(runs, rounds)
    return Section(
        "Read and hash every file",
        f"{said(image)}, ext4, copied from a Debian system. {rounds} alternating rounds, medians; all in the page cache; "
        "each kernel run on a fresh read-only loop mount. Every hash of `kumomori ls` was compared with the kernel's: they are equal.",
        _head("kernel"),
        [_figures(name, usages, found[kernel], image.content) for name, usages in found.items()],
        [
            _KERNEL_NOTE,
            "`kumomori ls` also passes each file through guarded processes and writes a line of JSON; the others print nothing.",
            *gaps,
        ],
    )


def check_same(image: Image) -> list[str]:
    """Notes on gaps. Raises `Failed` unless `kumomori ls --hash` and the kernel see the same files and content."""
    with tempfile.TemporaryFile() as ours, tempfile.TemporaryFile() as theirs:
        run(kumomori("ls", str(image.path), "--hash", "--format", "jsonl"), codes=_WHOLE_OR_GAPS, output=ours)
        with mounted(image.path) as root:
            run([sys.executable, "-m", "bench.walk", str(root), "--list"], output=theirs)
        ours.seek(0)
        theirs.seek(0)
        rows = [json.loads(line) for line in ours]
        seen = {unescape(row["path"]): row["sha256"] for row in rows if row["type"] == "file"}
        right = {unescape(path): digest for path, digest in map(json.loads, theirs)}
    if seen != right:
        wrong = sorted(path for path in seen.keys() | right.keys() if seen.get(path) != right.get(path))
        raise Failed(f"{len(wrong)} files differ from what the kernel says, the first is {wrong[0]!r}")
    gaps = [row for row in rows if row["type"] == "gap"]
    # the image was unmounted cleanly: a gap here is a fault of ours, and the page says so
    return [f"FAULT: {len(gaps)} gaps on a clean image, the first: {gaps[0]['detail']}."] if gaps else []


# a first scan


def first_scan(image: Image, rounds: int) -> Section:
    """The malware scan of every file, against YARA's own command with the same rules on a mount."""
    warm(image)
    scan = partial(kumomori, "scan", "image", str(image.path), "--format", "json", "--jobs")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ("-w", "-r", "-N", "-f", f"--skip-larger={_YARA_MOST_BYTES}", *_rule_files(folder), "-p")
        runs = {
            "`yara -p 1`, kernel mount": partial(on_mount, image, "yara", *yara_order(options, 1)),
            "`yara -p 2`, kernel mount": partial(on_mount, image, "yara", *yara_order(options, 2)),
            "`kumomori scan image --jobs 1`": partial(run, scan("1"), codes=_ANY_RESULT),
            "`kumomori scan image --jobs 2`": partial(run, scan("2"), codes=_ANY_RESULT),
        }
        found = alternate(runs, rounds)
    base = next(iter(found.values()))
    memory = [
        f"Memory of `kumomori scan image --jobs {jobs}`: {said_memory(_scan_memory(scan(jobs)))}." for jobs in "12"
    ]
    return Section(
        "First scan",
        f"{said(image)}. The built-in YARA rules on every file; {rounds} alternating rounds, medians. `yara` is Debian's "
        "command with the same rule files; it has no other detectors, no sandbox, and needs root to mount the image.",
        _head("`yara -p 1`"),
        [_figures(name, usages, base, image.content) for name, usages in found.items()],
        [_KERNEL_NOTE, *memory],
    )


def yara_order(options: Sequence[str], threads: int) -> list[str]:
    """The command takes its options before the rule files."""
    rules = [option for option in options if ":" in option]
    return [*(option for option in options if option not in rules), str(threads), *rules]


def _rule_files(folder: Path) -> list[str]:
    """The built-in rules as files; NAMESPACE:FILE for each."""
    files = []
    for name, source in builtin_rules().items():
        file = folder / f"{name}.yar"
        file.write_text(source)
        files.append(f"{name}:{file}")
    return files


def _scan_memory(command: Sequence[str]) -> Memory:
    return run_watched(command, codes=_ANY_RESULT)[1]


def said_memory(memory: Memory) -> str:
    return (
        f"{megabytes(memory.largest)} MB in the largest process, {megabytes(memory.total)} MB added up, "
        f"{megabytes(memory.fair)} MB with shared pages counted once"
    )


# many files


def million_files(image: Image) -> Section:
    """Memory and time where the number of files, not their size, is the load."""
    warm(image)
    path = str(image.path)
    commands = {
        "`kumomori ls`": kumomori("ls", path, "--format", "jsonl", "--jobs", "2"),
        "`kumomori ls --hash`": kumomori("ls", path, "--hash", "--format", "jsonl", "--jobs", "2"),
        "`kumomori scan image --jobs 1`": kumomori("scan", "image", path, "--jobs", "1"),
        "`kumomori scan image --jobs 2`": kumomori("scan", "image", path, "--jobs", "2"),
    }
    rows = []
    worst = 0
    for name, command in commands.items():
        usage, memory = run_watched(command, codes=_ANY_RESULT)
        worst = max(worst, memory.fair)
        rows.append(
            [
                name,
                seconds(usage.cpu_seconds),
                seconds(usage.wall_seconds),
                *(megabytes(size) for size in (memory.largest, memory.total, memory.fair)),
            ]
        )
    verdict = "within" if worst <= GOAL_BYTES else "ABOVE"
    return Section(
        "Many files",
        f"{said(image)}, in {-(-image.files // 200):,} folders. One run each, memory sampled 20 times a second: resident "
        f"beyond pages of mapped files, in MB (10^6 bytes). The goal is {megabytes(GOAL_BYTES)} MB.",
        ["", "CPU s", "wall s", "largest process", "all added up", "shared once"],
        rows,
        [
            f"The most, with shared pages counted once: {megabytes(worst)} MB, {verdict} the goal.",
            "Worker processes are forked and share what they do not change; added up, such pages count for each.",
            "`shared once` is sampled only twice a second, since it is slow to ask; the other two, 20 times.",
        ],
    )


# listing


def listing(images: Sequence[Image]) -> Section:
    """How much of an image must be fetched to list it."""
    rows = []
    for image in images:
        names, read = listing_bytes(image.path)
        rows.append(
            [
                said(image),
                f"{names:,}",
                megabytes(read),
                f"{100 * read / image.size:.1f} %",
                f"{100 * read / image.content:.1f} %",
            ]
        )
    return Section(
        "Bytes read to list an image",
        "What the reader asks of the image for all names and inodes without content (`kumomori ls`); bytes asked for twice "
        "count twice.",
        ["", "names", "MB read", "of the image", "of the content"],
        rows,
    )
