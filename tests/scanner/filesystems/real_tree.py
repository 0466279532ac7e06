"""A tree of real files: many of this machine's own, in a fixed order."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tests.scanner.filesystems.machine import run


def real_files(least: int, most_bytes: int) -> list[bytes]:
    """Files, links and directories of this machine's /usr in a fixed order, until there are `least` regular files.

    Large files are left out once they would go beyond `most_bytes`; unreadable ones always.
    """
    chosen: list[bytes] = []
    files = total = 0
    for top in (b"/usr/bin", b"/usr/lib", b"/usr/share", b"/usr/include", b"/usr/sbin", b"/opt", b"/var/lib"):
        for here, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                path = here + b"/" + name
                found = os.lstat(path)
                regular = stat.S_ISREG(found.st_mode)
                if not (regular or stat.S_ISLNK(found.st_mode)) or not os.access(path, os.R_OK, follow_symlinks=False):
                    continue
                if regular and total + found.st_size > most_bytes * (files + least // 4) / least:
                    continue  # keeps room for the files that still come
                chosen.append(path)
                files, total = files + regular, total + found.st_size * regular
                if files >= least and total > most_bytes // 2:
                    return chosen
    return chosen


def copy_real(chosen: list[bytes], into: Path) -> None:
    """Copy with times, owners, attributes and hard links, through the kernel. Raises `Failed`."""
    for start in range(0, len(chosen), 500):
        names = [path.lstrip(b"/") for path in chosen[start : start + 500]]  # absolute ones confuse it
        run("cp", "-a", "--parents", "-t", into, "--", *names, timeout=300, cwd=Path("/"))
