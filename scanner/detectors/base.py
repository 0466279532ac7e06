"""What the detectors share: reading a text file within bounds, and a bound on findings."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from core.files import FileEntry
from core.findings import Finding, Gap, GapReason, InFile

MAX_TEXT_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 10
MAX_FINDINGS = 100

# strtoul as the C library's account parsers use it: leading white space and one sign, then digits and nothing else
_ZERO = re.compile(rb"[ \t\n\v\f\r]*[+-]?0+")


def is_regular(file: FileEntry) -> bool:
    return stat.S_ISREG(file.mode)


def is_link(file: FileEntry) -> bool:
    return stat.S_ISLNK(file.mode)


def behind_link(file: FileEntry) -> Gap:
    """Programs follow a link, these checks do not: what it leads to is searched for malware, but not judged as this file."""
    return Gap(
        InFile.of(file), GapReason.UNSUPPORTED_FEATURE, "a symbolic link; what it leads to was not checked as this file"
    )


def is_zero(field: bytes) -> bool:
    """Whether a uid field means 0 to the C library: `0`, but also `00`, `+0` and `-0`."""
    return _ZERO.fullmatch(field) is not None


def read_lines(file: FileEntry) -> tuple[list[bytes], list[Gap]]:
    """The lines of a text file without their line ends, and what of it was left out.

    Only the first MiB is read, and lines over 64 KiB come back empty (so that line numbers stay right); each is a gap.
    Raises what `FileEntry.open` raises.
    """
    with file.open() as stream:
        content = stream.read(MAX_TEXT_BYTES + 1)
    gaps = []
    if len(content) > MAX_TEXT_BYTES:
        content = content[:MAX_TEXT_BYTES]
        gaps.append(_limit(file, f"only the first {MAX_TEXT_BYTES} of {file.size} bytes were looked at"))
    lines = content.split(b"\n")
    long = sum(len(line) > MAX_LINE_BYTES for line in lines)
    if long:
        lines = [line if len(line) <= MAX_LINE_BYTES else b"" for line in lines]
        gaps.append(_limit(file, f"{long} lines of more than {MAX_LINE_BYTES} bytes were not looked at"))
    return lines, gaps


def once_each(file: FileEntry, findings: Iterable[Finding]) -> Iterator[Finding | Gap]:
    """`findings` of one file with each subject once, at most 100 of them; that there were more is a gap."""
    seen: set[str] = set()
    for finding in findings:
        if finding.subject in seen:
            continue
        if len(seen) == MAX_FINDINGS:
            yield _limit(file, f"more than {MAX_FINDINGS} findings of {finding.rule.id}; the rest was left out")
            return
        seen.add(finding.subject)
        yield finding


def inspect_lines(
    file: FileEntry, judge: Callable[[FileEntry, Sequence[bytes]], Iterable[Finding]]
) -> Iterator[Finding | Gap]:
    """What `judge` finds in the lines of a settings file, and a gap for what it did not get to see."""
    if is_link(file):
        yield behind_link(file)
        return
    lines, gaps = read_lines(file)
    yield from gaps
    yield from once_each(file, judge(file, lines))


def _limit(file: FileEntry, detail: str) -> Gap:
    return Gap(InFile.of(file), GapReason.LIMIT, detail)
