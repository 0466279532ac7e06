"""Which system a volume holds: os-release(5). Packages get their distribution from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from core.files import FileEntry
from core.findings import Gap, InFile, Package
from scanner.detectors.base import is_regular, read_lines

_PATHS: Final = frozenset({b"/etc/os-release", b"/usr/lib/os-release"})
_LINE: Final = re.compile(rb"(ID|VERSION_ID)=(?:\"([^\"\\$`]*)\"|'([^']*)'|([^\s\"'\\$`]*))\s*")
_VALUE: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class OsRelease:
    """A package of type `os`. Where `/etc/os-release` is a link, what it leads to is read under its own name."""

    name = "os_release"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        return file.path in _PATHS and is_regular(file) and not file.deleted

    def inspect(self, file: FileEntry) -> Iterator[Package | Gap]:
        lines, gaps = read_lines(file)
        yield from gaps
        values: dict[bytes, str] = {}
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is not None:
                value = next((one for one in found.groups()[1:] if one is not None), b"")
                if _VALUE.fullmatch(value):
                    values[found[1]] = value.decode("ascii")
        if b"ID" in values:
            yield Package(InFile.of(file), "os", values[b"ID"], values.get(b"VERSION_ID", ""))
