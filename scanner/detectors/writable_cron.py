"""Scheduled jobs that others than root may change: crontab(5), cron(8), anacrontab(5)."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from scanner.detectors.base import behind_link, is_link

RULE = Rule(
    "linux/writable-cron",
    "Scheduled jobs that others than root may change",
    Severity.HIGH,
    "`chown root:root FILE; chmod go-w FILE`, and check what the job runs.",
)

# run as root by name: only root may own them
_SYSTEM = re.compile(rb"/etc/(crontab|anacrontab|cron\.(d|hourly|daily|weekly|monthly|yearly)(/.*)?)", re.DOTALL)
# jobs of users and of at(1): owned by their users
_SPOOL = re.compile(rb"/var/spool/(cron|anacron|at)(/.*)?", re.DOTALL)


class WritableCron:
    """One finding per file or directory; the evidence says what is wrong with it."""

    name = "writable_cron"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        if not file.path.startswith((b"/etc/", b"/var/spool/")):
            return False
        if not (stat.S_ISREG(file.mode) or stat.S_ISDIR(file.mode) or is_link(file)):
            return False
        return bool(_SYSTEM.fullmatch(file.path) or _SPOOL.fullmatch(file.path))

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        if is_link(file):
            yield behind_link(file)
            return
        problems = list(_problems(file))
        if problems:
            evidence = {
                "problems": problems,
                "mode": f"{stat.S_IMODE(file.mode):04o}",
                "uid": file.uid,
                "gid": file.gid,
            }
            yield Finding(RULE, InFile.of(file), evidence=evidence)


def _problems(file: FileEntry) -> Iterator[str]:
    # A sticky directory keeps others' files safe but still takes new ones, and a new file is a new job: so the sticky
    # bit excuses only the group. Spool directories are made that way (1730 root:crontab) for a set-group-id program.
    excused = stat.S_ISDIR(file.mode) and bool(file.mode & stat.S_ISVTX) and _SPOOL.fullmatch(file.path) is not None
    if file.mode & stat.S_IWOTH:
        yield "writable by everyone"
    if file.mode & stat.S_IWGRP and file.gid != 0 and not excused:
        yield f"writable by group {file.gid}"
    if file.uid != 0 and _SYSTEM.fullmatch(file.path):
        yield f"owned by user {file.uid}"
