"""`python -m bench`: measure, print, and write docs/bench.md. Needs root, for loop mounts, and Debian's `yara`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.images import many_files, real_files
from bench.page import Section
from bench.sections import first_scan, listing, million_files, read_and_hash
from bench.system import machine

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "bench.md"


@dataclass(frozen=True, slots=True)
class Sizes:
    """`content` bytes in at least `files` real files; `many` small ones; `rounds` of each alternating measurement."""

    content: int
    files: int
    many: int
    rounds: int


FULL: Final = Sizes(1500 << 20, 30_000, 1_000_000, 5)
QUICK: Final = Sizes(100 << 20, 1_000, 20_000, 3)


def measure(work: Path, sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page, in Markdown. Images are made in `work`, or taken from there."""
    tell("making the images\n")
    real = real_files(work, sizes.content, sizes.files)
    many = many_files(work, sizes.many)
    parts: list[Callable[[], Section]] = [
        lambda: read_and_hash(real, sizes.rounds),
        lambda: million_files(many),
        lambda: first_scan(real, sizes.rounds),
        lambda: listing([real, many]),
    ]
    start = os.getloadavg()[0]
    texts = []
    for part in parts:
        texts.append(part().markdown())
        tell("\n" + texts[-1])
    head = (
        "# Measurements\n\n"
        f"Written by `make bench`; do not edit. Kumomori {version('kumomori')}, {datetime.now(UTC):%Y-%m-%d}, {machine()}. "
        f"Load average (1 minute) {start:.1f} at the start and {os.getloadavg()[0]:.1f} at the end: near or above the number "
        "of cores, wall times say little; CPU seconds and ratios are what to compare.\n"
    )
    return "\n".join([head, *texts])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 2 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, under two minutes; writes no page")
    parser.add_argument("--work", type=Path, help="where the images are kept for the next run (default: not kept)")
    parser.add_argument("--rounds", type=int, help="of each alternating measurement")
    parser.add_argument("--output", type=Path, help=f"page to write (default: docs/{PAGE.name}; with --quick none)")
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0:
        sys.stderr.write("bench: it mounts images to compare with the kernel, which needs root: run it with sudo\n")
        return 2
    sizes = QUICK if chosen.quick else FULL
    if chosen.rounds:
        sizes = Sizes(sizes.content, sizes.files, sizes.many, max(1, chosen.rounds))
    page: Path | None = chosen.output or (None if chosen.quick else PAGE)
    with ExitStack() as stack:
        work = (
            chosen.work.resolve()
            if chosen.work
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kumomori-bench-")))
        )
        text = measure(work, sizes, _tell)
    if page:
        page.write_text(text)
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
