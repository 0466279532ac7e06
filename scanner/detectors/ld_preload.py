"""Libraries that are loaded into every program: /etc/ld.so.preload, ld.so(8)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from core.text import escape
from scanner.detectors.base import inspect_lines, is_link, is_regular

RULE = Rule(
    "linux/ld-so-preload",
    "Library that is loaded into every program",
    Severity.HIGH,
    "If no software you installed on purpose needs it: keep a copy of the library, empty /etc/ld.so.preload from a rescue"
    " system, and treat the host as broken into (rootkits hide this way).",
)

# the loader takes white space and colons between entries, and `#` to the end of the line as a comment
_SEPARATOR = re.compile(rb"[ \t\r\v\f:\0]+")


class LdPreload:
    """One finding per library; its path as written is the subject."""

    name = "ld_preload"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.path == b"/etc/ld.so.preload" and (is_link(file) or (is_regular(file) and file.size > 0))

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        return inspect_lines(file, _entries)


def _entries(file: FileEntry, lines: Sequence[bytes]) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        for entry in _SEPARATOR.split(line.partition(b"#")[0]):
            if entry:
                yield Finding(RULE, InFile.of(file), escape(entry), {"line": number})
