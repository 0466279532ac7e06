"""`python -m bench`: measure, print, and write docs/bench.md. Needs root, for loop mounts, and Debian's `yara`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.blocks import block_reading
from bench.console import console
from bench.enrolment import enrolment
from bench.fleet import Crowd, fleet
from bench.images import many_files, real_files
from bench.inventory import inventory
from bench.page import Section
from bench.plot import Bar
from bench.policies import policies
from bench.reconcile import reconciling
from bench.sections import first_scan, listing, million_files, read_and_hash
from bench.sets import Shape, sets
from bench.system import machine
from bench.twice import first_scans, later_scans, plot

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
PAGE: Final = DOCS / "bench.md"
TWICE_PAGE: Final = DOCS / "bench-twice.md"
TWICE_PLOT: Final = DOCS / "bench-twice.svg"
BLOCKS_PAGE: Final = DOCS / "bench-blocks.md"
INVENTORY_PAGE: Final = DOCS / "bench-inventory.md"
POLICIES_PAGE: Final = DOCS / "bench-policies.md"
RECONCILE_PAGE: Final = DOCS / "bench-reconcile.md"
FLEET_PAGE: Final = DOCS / "bench-fleet.md"
CONSOLE_PAGE: Final = DOCS / "bench-console.md"
SETS_PAGE: Final = DOCS / "bench-sets.md"


@dataclass(frozen=True, slots=True)
class Sizes:
    """`content` bytes in at least `files` real files; `many` small ones; `rounds` of each alternating measurement.

    Scans by other programs take minutes: they get `peers_content` bytes in `peers_files` files, `twice_rounds` times.
    """

    content: int
    files: int
    many: int
    rounds: int
    peers_content: int
    peers_files: int
    twice_rounds: int = 3
    blocks: int = 4000
    block_rounds: int = 3
    accounts: int = 40
    account_instances: int = 1250
    inventory_rounds: int = 3
    policy_instances: int = 10_000
    policies: int = 200
    policy_rounds: int = 3
    fleet_machines: int = 500
    console_instances: int = 50_000
    console_results: int = 1_000
    reconcile_instances: int = 50_000
    enrolments: int = 5
    set_machines: int = 1000


_NEED_ROOT: Final = ("scans", "twice")
_NEED_NONE: Final = ("blocks", "inventory", "policies", "fleet", "console", "reconcile", "sets")
FULL: Final = Sizes(1500 << 20, 30_000, 1_000_000, 5, 300 << 20, 5_000)
QUICK: Final = Sizes(
    100 << 20,
    1_000,
    20_000,
    3,
    50 << 20,
    500,
    blocks=800,
    block_rounds=1,
    accounts=4,
    inventory_rounds=1,
    policy_instances=1000,
    policy_rounds=1,
    fleet_machines=60,
    console_instances=2_000,
    console_results=50,
    reconcile_instances=2_000,
    enrolments=1,
    set_machines=30,
)


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
    return "\n".join([_head("Measurements", start), *texts])


def measure_twice(work: Path, sizes: Sizes, tell: Callable[[str], None]) -> tuple[str, str]:
    """The page on later scans, in Markdown, and its plot."""
    tell("making the images\n")
    real = real_files(work, sizes.content, sizes.files)
    start = os.getloadavg()[0]
    texts = []
    drawn: list[Sequence[Bar]] = []
    some = real_files(work, sizes.peers_content, sizes.peers_files)
    for section, shown in (
        first_scans(some, work, sizes.twice_rounds),
        later_scans(real, work, (sizes.content, sizes.files), sizes.twice_rounds),
    ):
        texts.append(section.markdown())
        drawn.append(shown)
        tell("\n" + texts[-1])
    picture = f"![CPU seconds]({TWICE_PLOT.name})\n"
    return "\n".join([_head("Nothing is scanned twice", start), picture, *texts]), plot(*drawn)


def measure_blocks(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on reading snapshots block by block, in Markdown."""
    start = os.getloadavg()[0]
    text = block_reading(sizes.blocks, sizes.block_rounds).markdown()
    tell("\n" + text)
    return "\n".join([_head("Snapshots block by block", start), text])


def measure_inventory(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on listing the instances of many accounts, in Markdown."""
    start = os.getloadavg()[0]
    text = inventory(sizes.accounts, sizes.account_instances, sizes.inventory_rounds).markdown()
    tell("\n" + text)
    return "\n".join([_head("Inventory", start), text])


def measure_policies(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on resolving policies for an estate, in Markdown."""
    start = os.getloadavg()[0]
    text = policies(sizes.policy_instances, sizes.policies, sizes.policy_rounds).markdown()
    tell("\n" + text)
    return "\n".join([_head("Policies", start), text])


def measure_reconcile(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on reconciling an account, in Markdown."""
    start = os.getloadavg()[0]
    text = "\n".join([enrolment(sizes.enrolments).markdown(), reconciling(sizes.reconcile_instances).markdown()])
    tell("\n" + text)
    return "\n".join([_head("Reconciling", start), text])


def measure_fleet(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on limits of a fleet, in Markdown. Needs PostgreSQL."""
    from tests.postgres import server  # noqa: PLC0415  the only one of the measurements that needs a server

    start = os.getloadavg()[0]
    with server() as postgres:
        text = fleet(postgres.database(), Crowd(machines=sizes.fleet_machines)).markdown()
    tell("\n" + text)
    return "\n".join([_head("Limits of a fleet", start), text])


def measure_console(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on a console under results and listings, in Markdown."""
    start = os.getloadavg()[0]
    text = console(sizes.console_instances, sizes.console_results).markdown()
    tell("\n" + text)
    return "\n".join([_head("Console", start), text])


def measure_sets(sizes: Sizes, tell: Callable[[str], None]) -> str:
    """The page on file sets, in Markdown. Needs PostgreSQL."""
    from tests.postgres import server  # noqa: PLC0415  as above

    start = os.getloadavg()[0]
    with server() as postgres:
        text = sets(postgres.database(), Shape(machines=sizes.set_machines)).markdown()
    tell("\n" + text)
    return "\n".join([_head("Which machines hold a content", start), text])


def _head(title: str, start: float) -> str:
    return (
        f"# {title}\n\n"
        f"Written by `make bench`; do not edit. Kumomori {version('kumomori')}, {datetime.now(UTC):%Y-%m-%d}, {machine()}. "
        f"Load average (1 minute) {start:.1f} at the start and {os.getloadavg()[0]:.1f} at the end: near or above the number "
        "of cores, wall times say little; CPU seconds and ratios are what to compare.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 2 if it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, under two minutes; writes no page")
    parser.add_argument("--work", type=Path, help="where the images are kept for the next run (default: not kept)")
    parser.add_argument("--rounds", type=int, help="of each alternating measurement")
    parser.add_argument(
        "--only",
        choices=(*_NEED_ROOT, *_NEED_NONE),
        help="one of the pages",
    )
    parser.add_argument("--output", type=Path, help=f"page to write (default: docs/{PAGE.name}; with --quick none)")
    chosen = parser.parse_args(arguments)
    if os.geteuid() != 0 and chosen.only not in _NEED_NONE:
        sys.stderr.write("bench: it mounts images to compare with the kernel, which needs root: run it with sudo\n")
        return 2
    sizes = QUICK if chosen.quick else FULL
    if chosen.rounds:
        rounds = max(1, chosen.rounds)
        sizes = replace(
            sizes,
            rounds=rounds,
            twice_rounds=rounds,
            block_rounds=rounds,
            inventory_rounds=rounds,
            policy_rounds=rounds,
        )
    page: Path | None = chosen.output or (None if chosen.quick else PAGE)
    with ExitStack() as stack:
        work = (
            chosen.work.resolve()
            if chosen.work
            else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kumomori-bench-")))
        )
        if chosen.only in {None, "scans"}:
            text = measure(work, sizes, _tell)
            if page:
                page.write_text(text)
        if chosen.only in {None, "twice"}:
            text, picture = measure_twice(work, sizes, _tell)
            if not chosen.quick:
                TWICE_PAGE.write_text(text)
                TWICE_PLOT.write_text(picture)
        if chosen.only in {None, "blocks"}:
            text = measure_blocks(sizes, _tell)
            if not chosen.quick:
                BLOCKS_PAGE.write_text(text)
        if chosen.only in {None, "inventory"}:
            text = measure_inventory(sizes, _tell)
            if not chosen.quick:
                INVENTORY_PAGE.write_text(text)
        if chosen.only in {None, "policies"}:
            text = measure_policies(sizes, _tell)
            if not chosen.quick:
                POLICIES_PAGE.write_text(text)
        if chosen.only in {None, "reconcile"}:
            text = measure_reconcile(sizes, _tell)
            if not chosen.quick:
                RECONCILE_PAGE.write_text(text)
        if chosen.only in {None, "fleet"}:
            text = measure_fleet(sizes, _tell)
            if not chosen.quick:
                FLEET_PAGE.write_text(text)
        if chosen.only in {None, "console"}:
            text = measure_console(sizes, _tell)
            if not chosen.quick:
                CONSOLE_PAGE.write_text(text)
        if chosen.only in {None, "sets"}:
            text = measure_sets(sizes, _tell)
            if not chosen.quick:
                SETS_PAGE.write_text(text)
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
