"""Programs that have no name any more but were still running or open when the snapshot was taken.

Malware deletes its own file after it has started. An upgrade leaves the same trace until the service is restarted, so
the remedy begins with that.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from scanner.detectors.base import is_regular

RULE = Rule(
    "linux/deleted-executable",
    "Deleted executable that was still open or running",
    Severity.HIGH,
    "If a package was upgraded, restart what still runs the old file. Otherwise look for the process (`ls -l /proc/*/exe`)"
    " before the machine is restarted, and keep this copy as evidence.",
)

ELF_MAGIC = b"\x7fELF"
ANY_EXECUTE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


class DeletedExecutable:
    """One finding per deleted file that is executable by its mode or begins like an ELF file."""

    name = "deleted_executable"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.deleted and is_regular(file) and file.size > 0

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        with file.open() as stream:
            elf = stream.read(len(ELF_MAGIC)) == ELF_MAGIC
        if elf or file.mode & ANY_EXECUTE:
            evidence = {"elf": elf, "mode": f"{stat.S_IMODE(file.mode):04o}", "uid": file.uid, "size": file.size}
            yield Finding(RULE, InFile.of(file), evidence=evidence)
