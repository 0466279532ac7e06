from __future__ import annotations

import random
from dataclasses import replace

import pytest

from core.findings import Finding, Gap, GapReason, InFile, InVolume, Machine, OnDisk, Severity
from scanner.report import Report, VolumeReport
from tests.scanner.reports.samples import EICAR, MARKUP, SHELL, SUDO, UUID, found, make

SWAP = Gap(InVolume(1), GapReason.SWAP, "swap space")
BROKEN = Gap(InFile(0, b"/x"), GapReason.CORRUPT, "bad magic", 4)
FINDING = found(EICAR, b"/x")


@pytest.mark.parametrize(
    ("report", "result", "code"),
    [
        pytest.param(make(), "clean", 0, id="nothing"),
        pytest.param(make((FINDING,)), "findings", 1, id="finding"),
        pytest.param(make((FINDING,), (BROKEN,)), "findings", 1, id="finding-and-gap"),
        pytest.param(make((), (BROKEN,)), "gaps", 3, id="gap"),
        pytest.param(make((), (SWAP,), frozenset({GapReason.SWAP})), "clean", 0, id="accepted"),
        pytest.param(make((), (SWAP, BROKEN), frozenset({GapReason.SWAP})), "gaps", 3, id="one-accepted"),
        pytest.param(make((), (BROKEN,), frozenset({GapReason.SWAP})), "gaps", 3, id="another-accepted"),
    ],
)
def test_result(report: Report, result: str, code: int) -> None:
    assert (report.result, report.exit_code) == (result, code)


def test_a_start_needs_a_time_zone() -> None:
    good = make()
    with pytest.raises(ValueError, match="time zone"):
        replace(good, started=good.started.replace(tzinfo=None))


def test_order_does_not_depend_on_arrival() -> None:
    findings = [
        found(EICAR, b"/b"),
        found(SHELL, b"/a", "1"),
        found(SHELL, b"/a", "2"),
        found(SHELL, b"/a", volume=1),
        found(SUDO, b"/a"),
        found(MARKUP, b"/a"),
    ]
    gaps = [
        Gap(Machine(), GapReason.TIMEOUT, ""),
        Gap(OnDisk(0), GapReason.UNREADABLE, ""),
        Gap(OnDisk(1), GapReason.CORRUPT, ""),
        Gap(InVolume(0), GapReason.CORRUPT, ""),
        Gap(InFile(0, b"/a"), GapReason.CORRUPT, ""),
        Gap(InFile(0, b"/a"), GapReason.UNREADABLE, ""),
        Gap(InFile(0, b"/b"), GapReason.CORRUPT, ""),
        Gap(InVolume(1), GapReason.CORRUPT, ""),
    ]
    for seed in range(5):
        shuffle = random.Random(seed)
        report = make(
            tuple(shuffle.sample(findings, len(findings))),
            tuple(shuffle.sample(gaps, len(gaps))),
            volumes=tuple(shuffle.sample(make().volumes, 2)),
        )
        assert list(report.findings) == findings
        assert list(report.gaps) == gaps
        assert [volume.index for volume in report.volumes] == [0, 1]
    assert report.rules_found() == [EICAR, SHELL, SUDO, MARKUP]


def _volumes(*uuids: str) -> tuple[VolumeReport, ...]:
    return tuple(VolumeReport(index, 0, "gpt", "ext4", "", uuid, 1, 1, 0, 1) for index, uuid in enumerate(uuids))


@pytest.mark.parametrize(
    ("uuids", "ids"),
    [
        pytest.param([UUID], [UUID], id="uuid"),
        pytest.param(["", ""], ["volume-0", "volume-1"], id="none"),
        pytest.param([UUID, UUID, UUID], [UUID, f"{UUID}/1", f"{UUID}/2"], id="clones"),
        pytest.param(["volume-1", ""], ["volume-1", "volume-1/1"], id="imitates-another-volume"),
        pytest.param(["u/2", "u", "u"], ["u/2", "u", "u/2/2"], id="imitates-a-clone"),
        pytest.param(["\ud800\n"], ["\\ud800\\x0a"], id="not-a-uuid"),
    ],
)
def test_volume_ids(uuids: list[str], ids: list[str]) -> None:
    assert list(make(volumes=_volumes(*uuids)).volume_ids().values()) == ids


def test_fingerprints_outlive_reordered_volumes() -> None:
    there = make((found(EICAR, b"/x", volume=0),), volumes=_volumes("a", "b"))
    moved = make((found(EICAR, b"/x", volume=1),), volumes=_volumes("b", "a"))
    clone = make((found(EICAR, b"/x", volume=0), found(EICAR, b"/x", volume=1)), volumes=_volumes("a", "a"))
    assert there.fingerprints() == moved.fingerprints() == clone.fingerprints()[:1]
    assert len(set(clone.fingerprints())) == 2
    unlisted = make((found(EICAR, b"/x", volume=9),), volumes=())
    assert unlisted.fingerprints() == [unlisted.findings[0].fingerprint("volume-9")]


def test_severity_comes_first() -> None:
    order = [rule.severity for rule in make(tuple(found(rule, b"/") for rule in (MARKUP, SUDO, EICAR))).rules_found()]
    assert order == [Severity.CRITICAL, Severity.MEDIUM, Severity.INFO]


def test_duplicates_of_a_finding_stay() -> None:
    twice: tuple[Finding, ...] = (FINDING, FINDING)
    assert len(make(twice).findings) == 2
