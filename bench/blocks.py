"""Reading a snapshot block by block: how much of a quota one core can use, in how much memory, and what boto3 would take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measure import median
from bench.page import Section, megabytes, spread

ROOT: Final = Path(__file__).resolve().parent.parent
GOAL_SHARE: Final = 0.85
GOAL_BYTES: Final = 300_000_000
QUOTA: Final = 400
LATENCY_SECONDS: Final = 0.025
_THREADS: Final = 32
_WAIT_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Reading:
    blocks: int
    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int

    @property
    def per_second(self) -> float:
        return self.blocks / self.wall_seconds

    @property
    def cpu_milliseconds(self) -> float:
        """Of processor time, for each block."""
        return 1000 * self.cpu_seconds / self.blocks


@contextmanager
def server(blocks: int, quota: float) -> Iterator[str]:
    """The loopback service in a process of its own, not on the first core if there are several."""
    command = [sys.executable, "-m", "tests.cloud.aws.ebs_server", "--blocks", str(blocks)]
    command += ["--latency-seconds", str(LATENCY_SECONDS), "--blocks-per-second", str(quota)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[1:] or cores)
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def read(kind: str, url: str, ranges: Sequence[tuple[int, int]], cores: Sequence[int | None]) -> list[Reading]:
    """One reader for each (first, blocks) at the same time, on its core."""
    begun = []
    for (first, blocks), core in zip(ranges, cores, strict=True):
        command = [
            sys.executable,
            "-m",
            "bench.block_reader",
            kind,
            url,
            "--first",
            str(first),
            "--blocks",
            str(blocks),
        ]
        command += ["--threads", str(_THREADS)] + (["--core", str(core)] if core is not None else [])
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    found = []
    for (_, blocks), process in zip(ranges, begun, strict=True):
        said, _ = process.communicate(timeout=_WAIT_SECONDS)
        if process.returncode:
            raise RuntimeError(f"the reader {kind} failed")
        found.append(Reading(blocks, **json.loads(said)))
    return found


def block_reading(blocks: int, rounds: int) -> Section:
    """`blocks` of 512 KiB, each time all of them; the runs of ours and boto3's take turns."""
    core = min(os.sched_getaffinity(0))
    with server(blocks, QUOTA) as url:
        limited = [read("ours", url, [(0, blocks)], [core])[0] for _ in range(rounds)]
    with server(blocks, 0) as url:
        turns = [
            [read(kind, url, [(0, blocks)], [core])[0] for kind in ("ours", "client", "boto3")] for _ in range(rounds)
        ]
        halves = [(0, blocks // 2), (blocks // 2, blocks - blocks // 2)]
        both = [read("ours", url, halves, [None, None]) for _ in range(rounds)]
    free, client, theirs = ([turn[place] for turn in turns] for place in range(3))
    share = median([one.per_second for one in limited]) / QUOTA
    peak = max(one.peak_bytes for one in (*limited, *free))
    together = [blocks / max(one.wall_seconds for one in pair) for pair in both]
    return Section(
        title="One snapshot through the EBS direct APIs",
        about=(
            f"{blocks:,} blocks of 512 KiB ({megabytes(blocks << 19)} MB) from a service on loopback in a process of its own, which "
            f"waits {LATENCY_SECONDS * 1000:.0f} ms before each answer; {_THREADS} threads, one process on one core, {rounds} runs "
            "in turns. Every block's SHA-256 is compared. 'Kumomori' also keeps the blocks in its store and copies them out again; the HTTP client alone and boto3 drop them. CPU is user + system time of the reading process without the "
            "loading of its code; memory is its largest resident set and the block store."
        ),
        head=["", "blocks/s", "lowest-highest", "% of quota", "CPU ms / block", "memory MB"],
        rows=[
            _row(f"Kumomori, quota {QUOTA}/s", limited, f"{100 * share:.0f}"),
            _row("Kumomori, no quota", free, ""),
            _row("its HTTP client alone, no quota", client, ""),
            _row("boto3 get_snapshot_block, no quota", theirs, ""),
        ],
        notes=[
            f"Goal: at least {100 * GOAL_SHARE:.0f} % of a quota of {QUOTA} blocks/s from one core: {_verdict(share >= GOAL_SHARE)}. "
            f"At most {megabytes(GOAL_BYTES)} MB: {_verdict(peak <= GOAL_BYTES)} ({megabytes(peak)} MB). "
            "The reader is not told the quota: it begins with AWS's 1,000/s and finds out by being refused.",
            f"boto3 takes {median([one.cpu_milliseconds for one in theirs]) / median([one.cpu_milliseconds for one in client]):.1f} x "
            "the CPU time of our HTTP client for the same work; the SHA-256, which both need, is a large part of either.",
            f"Two processes that share the snapshot, half of it each: {median(together):,.0f} blocks/s together "
            f"({min(together):,.0f}-{max(together):,.0f}), on {len(os.sched_getaffinity(0))} cores that also run the service.",
            "AWS allows 1,000 blocks/s for a snapshot and, unless it was raised, for an account. One process "
            "is held by Python's one thread at a time, and TLS comes on top: so the 1,000 are reached by several processes on "
            "as many cores, each with a part of the disk or a disk of its own, as the scans of several machines are anyway. Each "
            "has its own `Quotas`, which adapts when the service refuses; inside one process all disks of an account share one.",
        ],
    )


def _row(name: str, readings: Sequence[Reading], share: str) -> list[str]:
    rates = [one.per_second for one in readings]
    return [
        name,
        f"{median(rates):,.0f}",
        spread(rates),
        share,
        f"{median([one.cpu_milliseconds for one in readings]):.2f}",
        megabytes(max(one.peak_bytes for one in readings)),
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"
