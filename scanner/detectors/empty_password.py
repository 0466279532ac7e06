"""Accounts that anyone may enter: an empty password field in shadow(5) or passwd(5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from core.text import escape
from scanner.detectors.base import inspect_lines, is_link, is_regular

RULE = Rule(
    "linux/empty-password",
    "Account without a password",
    Severity.CRITICAL,
    "Lock the account with `passwd -l USER` or give it a password; check when it was last used.",
)


class EmptyPassword:
    """One finding per account; its name is the subject."""

    name = "empty_password"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.path in {b"/etc/shadow", b"/etc/passwd"} and (is_regular(file) or is_link(file))

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        return inspect_lines(file, _without_password)


def _without_password(file: FileEntry, lines: Sequence[bytes]) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        fields = line.split(b":", 2)
        # names that start with + or - are includes of a directory service, not accounts
        if len(fields) < 3 or fields[1] or not fields[0] or fields[0][:1] in b"+-#":
            continue
        yield Finding(RULE, InFile.of(file), escape(fields[0]), {"line": number})
