from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.findings import GapReason
from demo.disk import build_clean
from scanner import machine
from scanner.machine import ScanOptions, opened, read_rules, scan_machine, volume_reports
from scanner.sandbox import Outcome, VolumeState

RULE = "rule a { condition: false }"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.yar").write_text(RULE)
    (folder / "a.yara").write_text(RULE)
    (folder / "sub" / "c.yar").write_text(RULE)
    (folder / "readme.txt").write_text("no rule")
    (folder / "d.yar").mkdir()
    return folder


def test_rules_of_a_folder_in_order(rules: Path) -> None:
    assert [name for name, _ in read_rules([rules])] == ["rules/a.yara", "rules/b.yar", "rules/sub/c.yar"]
    assert read_rules([rules / "b.yar", rules / "readme.txt"]) == (("b.yar", RULE), ("readme.txt", "no rule"))
    assert read_rules([]) == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"\xff\xfe", "not UTF-8", id="binary"),
        pytest.param(b"YARA\x8b\0", "not UTF-8", id="compiled"),
        pytest.param(b"x" * 101, "larger than", id="large"),
    ],
)
def test_rules_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str) -> None:
    monkeypatch.setattr(machine, "MAX_RULE_BYTES", 100)
    path = tmp_path / "a\n.yar"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_rules([path])
    assert str(caught.value).isprintable()


def test_rules_are_bounded_together(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_RULE_BYTES", len(RULE) * 2)
    with pytest.raises(ConfigError, match="in all"):
        read_rules([rules])


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_rules_that_are_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError):
        read_rules([tmp_path / name])


def test_all_disks_are_closed_when_one_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError), opened([tmp_path / "a", tmp_path / "b", tmp_path / "missing"]):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    with opened([tmp_path / "a", tmp_path / "b"]) as disks:
        assert len(disks) == 2
    (tmp_path / "c").hardlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="given twice"), opened([tmp_path / "a", tmp_path / "c"]):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_report(tmp_path: Path) -> None:
    disk = tmp_path / "clean.img"
    build_clean(disk)
    begun = datetime.now(UTC)
    report = scan_machine([disk], ScanOptions(jobs=1, accepted=frozenset({GapReason.SWAP})))
    assert report.exit_code == 0
    assert report.target == (str(disk),)
    assert begun <= report.started <= datetime.now(UTC)
    assert report.accepted == {GapReason.SWAP}
    (volume,) = report.volumes
    assert (volume.kind, volume.filesystem, volume.start) == ("gpt", "ext4", 1 << 20)
    assert report.stats.files == volume.files > 400
    assert report.stats.bytes_total == disk.stat().st_size
    assert 0 < report.stats.bytes_read < report.stats.bytes_total
    assert report.stats.cpu_seconds > 0
    assert report.stats.wall_seconds > 0
    assert report.rules.count > 10
    assert report.guards


def test_the_rule_set_has_a_name_of_its_own(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(2000))
    (tmp_path / "a.yar").write_text(RULE)
    (tmp_path / "b.yar").write_text(RULE.replace("false", "true"))
    digests = [
        scan_machine([disk], ScanOptions(jobs=1, rules=rules)).rules.digest
        for rules in ((), (), (tmp_path / "a.yar",), (tmp_path / "b.yar",))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(len(digest) == 64 for digest in digests)


def test_volumes_of_an_outcome() -> None:
    state = VolumeState(3, 1, "gpt", 512, 1024, "ext4", "label", "uuid", files=5, size=6)
    (volume,) = volume_reports(Outcome(volumes={3: state}))
    assert (volume.index, volume.disk, volume.kind, volume.start, volume.length) == (3, 1, "gpt", 512, 1024)
    assert (volume.filesystem, volume.label, volume.uuid, volume.files, volume.bytes) == ("ext4", "label", "uuid", 5, 6)
