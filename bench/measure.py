"""One command, measured: processor time of it and all its children, wall time, memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from bench.system import descendants, kernel_worker_seconds, proportional_bytes, unmapped_bytes

ROOT: Final = Path(__file__).resolve().parent.parent  # commands run here, so that they find this package
SAMPLES_PER_SECOND: Final = 20
_PROPORTIONAL_EVERY: Final = 10  # samples: the kernel walks all page tables for it
_MAX_ERROR_BYTES: Final = 2000


class Failed(Exception):
    """A command ended otherwise than it should: its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """`cpu_seconds` is user + system of the command and all its children; `kernel_seconds` is what kernel threads of the
    whole machine used meanwhile, which a loop device's reads are part of."""

    cpu_seconds: float
    wall_seconds: float
    kernel_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Peaks, in bytes, of resident memory beyond pages of mapped files.

    `largest` is that of any one process, `total` that of all processes added up (pages shared after a fork count for
    each), `fair` the same with shared pages counted once.
    """

    largest: int
    total: int
    fair: int


Watch = Callable[[int], None]


def run(command: Sequence[str], *, codes: Sequence[int] = (0,), output: IO[bytes] | None = None) -> Usage:
    """Raises `Failed` for an exit code not in `codes`."""
    return _run(command, codes, output, None)


def run_watched(command: Sequence[str], *, codes: Sequence[int] = (0,)) -> tuple[Usage, Memory]:
    """As `run`, and sample memory 20 times a second. Raises `Failed`."""
    watch = _MemoryWatch()
    usage = _run(command, codes, None, watch.sample)
    return usage, Memory(watch.largest, watch.total, watch.fair)


class _MemoryWatch:
    def __init__(self) -> None:
        self.largest = self.total = self.fair = 0
        self._samples = 0

    def sample(self, root: int) -> None:
        pids = descendants(root)
        sizes = [unmapped_bytes(pid) for pid in pids]
        self.largest = max(self.largest, *sizes)
        self.total = max(self.total, sum(sizes))
        if self._samples % _PROPORTIONAL_EVERY == 0:
            self.fair = max(self.fair, sum(proportional_bytes(pid) for pid in pids))
        self._samples += 1


def _run(command: Sequence[str], codes: Sequence[int], output: IO[bytes] | None, watch: Watch | None) -> Usage:
    kernel = kernel_worker_seconds()
    clock = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output or subprocess.DEVNULL, stderr=errors, cwd=ROOT
        )
        while watch and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            watch(process.pid)
            time.sleep(1 / SAMPLES_PER_SECOND)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - clock
        errors.seek(0)
        said = errors.read(_MAX_ERROR_BYTES)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise Failed(f"{command[0]} ended with {process.returncode}: {said.decode('utf-8', 'replace').strip()}")
    return Usage(usage.ru_utime + usage.ru_stime, wall, _since(kernel))


def _since(before: Mapping[int, float]) -> float:
    return sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in kernel_worker_seconds().items())


def alternate(runs: Mapping[str, Callable[[], Usage]], rounds: int) -> dict[str, list[Usage]]:
    """Each of `runs` once in each round, every second round backwards, so that noise and warmth fall on all alike."""
    found: dict[str, list[Usage]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(reversed(list(runs))):
            found[name].append(runs[name]())
    return found


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def ratio(these: Sequence[Usage], those: Sequence[Usage]) -> str:
    """Processor time of these over those: the median of the rounds' ratios, with the lowest and highest."""
    found = [this.cpu_seconds / that.cpu_seconds for this, that in zip(these, those, strict=True)]
    return f"{median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
