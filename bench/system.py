"""What the kernel tells: processes of a command, their memory, processor time of kernel threads, the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_KERNEL_THREAD: Final = 0x00200000  # PF_KTHREAD in the kernel's include/linux/sched.h


def descendants(root: int) -> list[int]:
    """`root` and all processes below it, as far as they still live."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def unmapped_bytes(pid: int) -> int:
    """Resident memory that is not pages of mapped files (RssAnon + RssShmem); 0 if the process is gone."""
    return _kilobytes(PROC / str(pid) / "status", (b"RssAnon:", b"RssShmem:")) << 10


def proportional_bytes(pid: int) -> int:
    """The same with each page that processes share divided between them (Pss_Anon + Pss_Shmem); slower to ask."""
    return _kilobytes(PROC / str(pid) / "smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")) << 10


def _kilobytes(file: Path, keys: tuple[bytes, ...]) -> int:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(keys))


def kernel_worker_seconds() -> dict[int, float]:
    """Processor time of each kernel worker thread so far, by its id: a loop device's reads happen in these."""
    ticks = os.sysconf("SC_CLK_TCK")
    found = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields and int(fields[6]) & _KERNEL_THREAD:
            found[pid] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(PROC) if name.isdigit()]


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third (state) on; empty if the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return []


def machine() -> str:
    """One line on what was measured on."""
    lines = (PROC / "cpuinfo").read_text(errors="replace").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    memory = _kilobytes(PROC / "meminfo", (b"MemTotal:",)) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores, {memory:.0f} GiB, Linux {platform.release().partition('-')[0]}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
