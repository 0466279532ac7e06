"""What dpkg has installed: deb822(5), deb-control(5), and the states of dpkg(1).

`/var/lib/dpkg/status`, and `status.d/` in its place, as images without a package manager have it (one file a package, without a state).
A volume of its own for `/var` begins one folder further down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.files import FileEntry
from core.findings import Gap, Package
from scanner.detectors.base import is_link, is_regular
from scanner.detectors.packages import Broken, Words, inspect_paragraphs, word

_PATH = re.compile(rb"(/var)?/lib/dpkg/(status|status\.d/(?!.*\.md5sums$)[^/]+)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
_SOURCE = re.compile(rb"\s*(\S+)\s*(?:\(([^()]*)\))?\s*")
_WANTED = frozenset({b"package", b"status", b"version", b"architecture", b"source"})
_ABSENT = frozenset({b"not-installed", b"config-files"})


class DpkgPackages:
    """One package for each that has files on the disk, half installed ones too."""

    name = "dpkg_packages"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return (
            b"/lib/dpkg/status" in file.path
            and _PATH.fullmatch(file.path) is not None
            and (is_regular(file) or is_link(file))
            and not file.deleted
        )

    def inspect(self, file: FileEntry) -> Iterator[Package | Gap]:
        return inspect_paragraphs(file, "deb", _understand)


def _understand(lines: list[bytes]) -> Words | None:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            continue  # goes on with the field before: none of ours has more than one line
        key, colon, value = line.partition(b":")
        key = key.lower()
        if not colon:
            raise Broken
        if key in _WANTED:
            if key in fields:
                raise Broken
            fields[key] = value.strip()
    if b"status" in fields:
        state = fields[b"status"].split()
        if len(state) != 3:
            raise Broken
        if state[2] in _ABSENT:
            return None
    name, version = word(fields.get(b"package", b"")), word(fields.get(b"version", b""))
    if _NAME.fullmatch(name) is None:
        raise Broken
    source, source_version = name, version
    if b"source" in fields:
        found = _SOURCE.fullmatch(fields[b"source"])
        if found is None:
            raise Broken
        source = word(found[1])
        source_version = word(found[2]) if found[2] is not None else version
    return Words(name, version, word(fields.get(b"architecture", b""), optional=True), source, source_version)
