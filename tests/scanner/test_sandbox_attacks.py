"""What a parser that was taken over could make its parent keep in memory."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from core.findings import GapReason
from scanner.job import Job, Task
from scanner.manifest import file as manifest
from scanner.manifest.file import Writer
from scanner.sandbox import run
from tests.scanner.sandboxed import Started, file, opened, write_ext4


@pytest.mark.slow
def test_replayed_blocks_of_many_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = write_ext4(tmp_path / "disk.img", [file(b"/a", b"b")])
    started = Started(monkeypatch)
    started.misbehave("index", "replayed")
    with opened(disk) as disks:
        outcome = run(disks, Job(task=Task.SCAN, jobs=1), timeout_seconds=30)
    started.assert_gone()
    assert sum(len(volume.replayed) for volume in outcome.volumes.values()) <= 2 << 20
    assert GapReason.CRASHED in {gap.reason for gap in outcome.gaps}
    assert outcome.suspect


def test_rows_that_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block claims 4096 inodes and is empty, so that each becomes a chunk of its own."""
    monkeypatch.setattr(manifest, "MAX_CHUNKS", 100)
    writer = Writer(io.BytesIO())
    with pytest.raises(ValueError):
        for number in range(1000):
            writer.add(0, number * 4096 + 1, number * 4096 + 4096, 4096, b"")
