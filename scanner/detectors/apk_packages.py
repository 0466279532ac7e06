"""What apk has installed: apk-package(5) and the fields of its database, https://wiki.alpinelinux.org/wiki/Apk_spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from core.files import FileEntry
from core.findings import Gap, Package
from scanner.detectors.base import is_link, is_regular
from scanner.detectors.packages import Broken, Words, inspect_paragraphs, word

_PATHS: Final = frozenset({b"/lib/apk/db/installed", b"/usr/lib/apk/db/installed"})
_WANTED: Final = frozenset({b"P", b"V", b"A", b"o"})


class ApkPackages:
    """One package for each paragraph of the database."""

    name = "apk_packages"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.path in _PATHS and (is_regular(file) or is_link(file)) and not file.deleted

    def inspect(self, file: FileEntry) -> Iterator[Package | Gap]:
        return inspect_paragraphs(file, "apk", _understand)


def _understand(lines: list[bytes]) -> Words:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon:
            raise Broken
        if key in _WANTED:
            if key in fields:
                raise Broken
            fields[key] = value
    name, version = word(fields.get(b"P", b"")), word(fields.get(b"V", b""))
    source = word(fields.get(b"o", b""), optional=True) or name
    return Words(name, version, word(fields.get(b"A", b""), optional=True), source, version)
