"""SSH keys that let someone log in as an account of the system: sshd(8), AUTHORIZED_KEYS FILE FORMAT.

Whose home a folder is stands in another file, so the path decides. Homes of people (/home, /root) are left alone: keys
belong there. A key bound to one command is left alone too: Git hosts and backup jobs use it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity
from core.text import escape
from scanner.detectors.base import inspect_lines, is_link, is_regular

RULE = Rule(
    "linux/authorized-keys-system-account",
    "SSH key that logs in as a system account",
    Severity.MEDIUM,
    "If no one needs to log in as this account: remove the key and set the account's shell to nologin. Ask how it came there.",
)

_SYSTEM_HOME = re.compile(
    rb"/(var/(www|lib|spool|cache|mail|log|run|tmp|backups)|usr/(s?bin|games|lib|share)|s?bin|lib|srv|nonexistent|dev)"
    rb"(/.*)?/\.ssh/authorized_keys2?",
    re.DOTALL,
)
# Containers and machines kept under /var/lib have people's homes inside them.
_INNER_HOME = re.compile(rb"/(root|home/[^/]+)/\.ssh/")
_KEY = re.compile(
    rb"(?P<options>.*?)(?P<type>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]{3,60})[ \t]+(?P<key>AAAA[A-Za-z0-9+/=]{16,})"
    rb"[ \t]*(?P<comment>.*)"
)
_FORCED = re.compile(rb'(?:^|[ \t,])command="', re.IGNORECASE)
COMMENT_CHARS = 80


class AuthorizedKeys:
    """One finding per key; the subject is its type and the end of its text, the evidence its comment."""

    name = "authorized_keys"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        if not file.path.endswith((b"/.ssh/authorized_keys", b"/.ssh/authorized_keys2")):
            return False
        if not is_regular(file) and not is_link(file):
            return False
        return _SYSTEM_HOME.fullmatch(file.path) is not None and _INNER_HOME.search(file.path) is None

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        return inspect_lines(file, _free_keys)


def _free_keys(file: FileEntry, lines: Sequence[bytes]) -> Iterator[Finding]:
    for number, line in enumerate(lines, 1):
        match = None if line.lstrip().startswith(b"#") else _KEY.match(line)
        if match is None or _FORCED.search(match["options"]):
            continue
        subject = f"{escape(match['type'])} …{escape(match['key'][-16:])}"
        evidence = {"line": number, "comment": escape(match["comment"][: COMMENT_CHARS * 4])[:COMMENT_CHARS]}
        yield Finding(RULE, InFile.of(file), subject, evidence)
