from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

import pytest

from core.blocks import Extent
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.files import FileEntry, MemoryFile
from core.findings import Finding, Gap, GapReason, InFile, InVolume, Rule, Severity
from scanner.scan import chunks, list_inode, scan_inode, sha256

RULE = Rule("test/rule", "t", Severity.LOW, "r")


class Says:
    """Reports every file it is shown, and counts how often it looked."""

    def __init__(self, act: Callable[[FileEntry], object] | None = None, *, content_only: bool = False) -> None:
        self.name = "says"
        self.content_only = content_only
        self.looked = 0
        self._act = act

    def wants(self, file: FileEntry) -> bool:
        return not file.path.endswith(b".skip")

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        self.looked += 1
        yield Finding(RULE, InFile.of(file), "before")
        if self._act:
            self._act(file)
        yield Finding(RULE, InFile.of(file), "after")


def raises(error: BaseException) -> Callable[[FileEntry], object]:
    def act(file: FileEntry) -> object:
        raise error

    return act


ONE, TWO = MemoryFile(b"/one", b"same"), MemoryFile(b"/two", b"same")
GAP = Gap(InVolume(0), GapReason.CORRUPT, "broken")


def test_every_detector_sees_every_name() -> None:
    results = list(scan_inode([ONE, GAP, TWO, MemoryFile(b"/x.skip")], [Says(), Says()]))
    assert results.count(GAP) == 1
    assert [found.where.path for found in results if isinstance(found, Finding)] == [b"/one"] * 4 + [b"/two"] * 4


def test_content_is_looked_at_once_for_all_names() -> None:
    detector = Says(content_only=True)
    found = [one for one in scan_inode([ONE, TWO], [detector]) if isinstance(one, Finding)]
    assert detector.looked == 1
    assert [(one.where.path, one.subject) for one in found] == [
        (b"/one", "before"),
        (b"/one", "after"),
        (b"/two", "before"),
        (b"/two", "after"),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(Corrupt("x"), GapReason.CORRUPT, id="corrupt"),
        pytest.param(Unsupported("x"), GapReason.UNSUPPORTED_FEATURE, id="unsupported"),
        pytest.param(Encrypted("x"), GapReason.ENCRYPTED, id="encrypted"),
        pytest.param(Unreadable("x"), GapReason.UNREADABLE, id="unreadable"),
        pytest.param(LimitExceeded("x"), GapReason.LIMIT, id="limit"),
        pytest.param(Error("x"), GapReason.CORRUPT, id="any-other-of-ours"),
        pytest.param(MemoryError(), GapReason.OUT_OF_MEMORY, id="memory"),
        pytest.param(ZeroDivisionError("x"), GapReason.DETECTOR_FAILED, id="bug"),
        pytest.param(RecursionError("x"), GapReason.DETECTOR_FAILED, id="recursion"),
        pytest.param(ValueError("x" * 10_000), GapReason.DETECTOR_FAILED, id="long-message"),
        pytest.param(OSError(5, "I/O"), GapReason.DETECTOR_FAILED, id="system"),
    ],
)
@pytest.mark.parametrize("content_only", [False, True])
def test_a_detector_that_fails_is_a_gap_and_no_more(error: Exception, reason: GapReason, content_only: bool) -> None:
    other = Says()
    results = list(scan_inode([ONE], [Says(raises(error), content_only=content_only), other]))
    (gap,) = [one for one in results if isinstance(one, Gap)]
    assert (gap.where, gap.reason) == (InFile(0, b"/one"), reason)
    assert len(gap.detail) <= 500
    # what it said before stands, and the others are not disturbed
    assert [one.subject for one in results if isinstance(one, Finding)] == ["before", "before", "after"]


def test_a_failing_detector_on_hard_links_is_told_once() -> None:
    results = list(scan_inode([ONE, TWO], [Says(raises(Corrupt("x")), content_only=True)]))
    assert len([one for one in results if isinstance(one, Gap)]) == 1


class Broken(MemoryFile):
    """A file whose content, attributes and extents cannot be read."""

    def open(self) -> BinaryIO:
        raise Unreadable("no content")

    def xattrs(self) -> Mapping[bytes, bytes]:
        raise Corrupt("no attributes")

    def extents(self) -> Sequence[Extent]:
        raise MemoryError


def rows_and_gaps(*items: FileEntry | Gap) -> tuple[list[dict[str, object]], list[Gap]]:
    everything = list(list_inode(items, hashed=True, to_disk=lambda extent: {"offset": extent.offset}, xattrs=True))
    return [one for one in everything if isinstance(one, dict)], [one for one in everything if isinstance(one, Gap)]


def test_lines() -> None:
    (one, two), gaps = rows_and_gaps(ONE, GAP, TWO)
    assert gaps == [GAP]
    assert one["sha256"] == two["sha256"] == hashlib.sha256(b"same").hexdigest()
    assert (one["path"], two["path"]) == ("/one", "/two")
    assert one["extents"] == []
    assert one["xattrs"] == {}


def test_a_line_of_what_cannot_be_read() -> None:
    (row,), gaps = rows_and_gaps(Broken(b"/broken"))
    assert (row["sha256"], row["extents"], row["xattrs"]) == (None, None, None)
    assert [gap.reason for gap in gaps] == [GapReason.UNREADABLE, GapReason.OUT_OF_MEMORY, GapReason.CORRUPT]
    (link,), _ = rows_and_gaps(Broken(b"/link", mode=stat.S_IFLNK | 0o777))
    assert link["target"] is None


def test_a_symlink_has_a_target_and_no_digest() -> None:
    (row,), _ = rows_and_gaps(MemoryFile(b"/l", b"/\xff", mode=stat.S_IFLNK | 0o777))
    assert row["target"] == "/\\xff"
    assert "sha256" not in row


def test_only_what_was_asked_for() -> None:
    (row,) = list(list_inode([ONE], hashed=False, to_disk=None, xattrs=False))
    assert isinstance(row, dict)
    assert not {"sha256", "extents", "xattrs", "target"} & set(row)


def test_chunks_of_a_plain_stream() -> None:
    content = bytes(range(256)) * 10_000
    assert b"".join(bytes(piece) for piece in chunks(io.BytesIO(content))) == content
    assert sha256(MemoryFile(b"/a", content)) == hashlib.sha256(content).hexdigest()
