"""What the readers of package managers' files share: paragraphs of a text file within bounds, and what is left out as a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from core.files import FileEntry
from core.findings import Gap, GapReason, InFile, Package
from scanner.detectors.base import behind_link, is_link

MAX_BYTES: Final = 64 << 20
MAX_PACKAGES: Final = 30_000
MAX_CHARACTERS: Final = 512  # of one word
_MAX_PARAGRAPHS: Final = 200_000


class Broken(Exception):
    """A paragraph that no package manager would have written so."""


@dataclass(frozen=True, slots=True)
class Words:
    """A package without the place where it was read."""

    name: str
    version: str
    architecture: str = ""
    source: str = ""
    source_version: str = ""


def word(raw: bytes, *, optional: bool = False) -> str:
    """Printable ASCII without spaces, as names, versions and architectures are. Raises `Broken`."""
    found = raw.strip()
    if not found and optional:
        return ""
    if not found or len(found) > MAX_CHARACTERS or any(not 0x21 <= byte <= 0x7E for byte in found):
        raise Broken
    return found.decode("ascii")


def inspect_paragraphs(
    file: FileEntry, kind: str, understand: Callable[[list[bytes]], Words | None]
) -> Iterator[Package | Gap]:
    """The packages that `understand` reads out of paragraphs (lists of lines); None: one that is not installed.

    Raises what `FileEntry.open` raises. Broken paragraphs are counted in a gap.
    """
    if is_link(file):
        yield behind_link(file)
        return
    with file.open() as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        content = content[:MAX_BYTES]
        yield _limit(file, f"only the first {MAX_BYTES} of {file.size} bytes were looked at")
    broken = count = 0
    for number, lines in enumerate(_paragraphs(content)):
        if count == MAX_PACKAGES or number == _MAX_PARAGRAPHS:
            yield _limit(file, f"more than {count} packages; the rest was left out")
            break
        try:
            words = understand(lines)
        except Broken:
            broken += 1
            continue
        if words is not None:
            count += 1
            yield Package(
                InFile.of(file), kind, words.name, words.version, words.architecture, words.source, words.source_version
            )
    if broken:
        yield Gap(InFile.of(file), GapReason.CORRUPT, f"{broken} entries of installed packages are broken", broken)


def _paragraphs(content: bytes) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end]
        start = end + 1
        if line.strip():
            lines.append(line)
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _limit(file: FileEntry, detail: str) -> Gap:
    return Gap(InFile.of(file), GapReason.LIMIT, detail)
