"""Accounts other than root with user id 0, which are root by another name: passwd(5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from core.text import escape
from scanner.detectors.base import inspect_lines, is_link, is_regular, is_zero

RULE = Rule(
    "linux/second-root",
    "Second account with the rights of root",
    Severity.HIGH,
    "Find out who made the account. Remove it with `userdel USER` (edit /etc/passwd by hand if it shares root's home).",
)


class SecondRoot:
    """One finding per account; its name is the subject."""

    name = "second_root"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.path == b"/etc/passwd" and (is_regular(file) or is_link(file))

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        return inspect_lines(file, _roots)


def _roots(file: FileEntry, lines: Sequence[bytes]) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        fields = line.split(b":", 3)
        if len(fields) < 4 or not is_zero(fields[2]):
            continue
        if not fields[0] or fields[0] == b"root" or fields[0][:1] in b"+-#":
            continue
        yield Finding(RULE, InFile.of(file), escape(fields[0]), {"line": number})
