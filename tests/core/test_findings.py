from __future__ import annotations

import stat
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile, kind_of
from core.findings import Finding, Gap, GapReason, InFile, InVolume, Machine, OnDisk, Rule, Severity

RULE = Rule("linux/empty-password", "Account without a password", Severity.CRITICAL, "passwd -l USER")
FINDING = Finding(RULE, InFile(0, b"/etc/shadow"), "guest", {"line": 3})


def test_the_fingerprint_is_stable() -> None:
    # written down: a change would make every finding of an estate look new
    expected = "080ec6eeae83bb0d3432e43899e62d689ec03ccffc495ad26bf03e12dc1b16f4"
    assert FINDING.fingerprint("uuid") == expected


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(replace(FINDING, evidence={}), id="evidence"),
        pytest.param(replace(FINDING, where=InFile(5, b"/etc/shadow")), id="volume-number"),
        pytest.param(replace(FINDING, rule=replace(RULE, title="other", severity=Severity.LOW, remedy="")), id="words"),
    ],
)
def test_what_does_not_change_the_fingerprint(same: Finding) -> None:
    assert same.fingerprint("uuid") == FINDING.fingerprint("uuid")


parts = st.tuples(st.text(max_size=5), st.text(max_size=5), st.binary(max_size=5), st.text(max_size=5))


@given(parts, parts)
def test_fingerprints_tell_any_two_apart(one: tuple[str, str, bytes, str], other: tuple[str, str, bytes, str]) -> None:
    def fingerprint(rule: str, volume: str, path: bytes, subject: str) -> str:
        return Finding(replace(RULE, id=rule), InFile(0, path), subject).fingerprint(volume)

    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_subject_has_a_fingerprint(subject: str) -> None:
    assert len(replace(FINDING, subject=subject).fingerprint("uuid")) == 64


def test_severities_are_ranked() -> None:
    assert [severity.rank for severity in Severity] == [0, 1, 2, 3, 4]
    assert Severity.CRITICAL.rank > Severity.INFO.rank


@pytest.mark.parametrize(
    ("where", "text"),
    [
        pytest.param(Machine(), "machine", id="machine"),
        pytest.param(OnDisk(1), "disk 1", id="disk"),
        pytest.param(InVolume(2), "volume 2", id="volume"),
        pytest.param(InFile(2, b"/r\xe9"), "volume 2: /r\\xe9", id="file"),
    ],
)
def test_places_in_words(where: Machine | OnDisk | InVolume | InFile, text: str) -> None:
    assert str(Gap(where, GapReason.LIMIT, "").where) == text


def test_a_file_knows_its_place() -> None:
    assert InFile.of(MemoryFile(b"/a", volume=3)) == InFile(3, b"/a")


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        pytest.param(stat.S_IFREG | 0o644, "file", id="file"),
        pytest.param(stat.S_IFDIR | 0o1777, "directory", id="directory"),
        pytest.param(stat.S_IFLNK | 0o777, "symlink", id="symlink"),
        pytest.param(stat.S_IFIFO, "fifo", id="fifo"),
        pytest.param(0, "unknown", id="no-type"),
        pytest.param(0o170000, "unknown", id="all-bits"),
    ],
)
def test_kinds(mode: int, kind: str) -> None:
    assert kind_of(mode) == kind


def test_a_memory_file() -> None:
    small = MemoryFile(b"/a", b"abc", attributes={b"user.a": b"1"})
    assert (small.size, small.open().read(), small.xattrs(), list(small.extents())) == (
        3,
        b"abc",
        {b"user.a": b"1"},
        [],
    )
    assert MemoryFile(b"/a", b"abc", declared_size=1 << 40).size == 1 << 40
