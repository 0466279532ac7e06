"""A block device instead of an image, and one that fails in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.disk import build_clean
from tests.cli.commands import Kumomori
from tests.need import need_root, need_tool


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A read-only loop device over a clean disk, and the file behind it."""
    need_root()
    need_tool("losetup")
    behind = tmp_path / "disk.img"
    build_clean(behind)
    attached = subprocess.run(
        ["losetup", "--read-only", "--find", "--show", behind], capture_output=True, text=True, check=True, timeout=60
    )
    loop = Path(attached.stdout.strip())
    yield loop, behind
    subprocess.run(["losetup", "--detach", loop], check=True, timeout=60)


@pytest.mark.slow
def test_a_device_reads_like_its_file(kumomori: Kumomori, device: tuple[Path, Path], tmp_path: Path) -> None:
    loop, behind = device
    assert kumomori("scan", "image", loop).code == 0
    listing = [kumomori("ls", "--hash", "--extents", "--format", "jsonl", disk) for disk in (loop, behind)]
    assert listing[0].code == 0
    assert listing[0].out == listing[1].out


@pytest.mark.slow
def test_a_device_that_fails_is_never_clean(kumomori: Kumomori, device: tuple[Path, Path], tmp_path: Path) -> None:
    """What is cut off behind a loop device is an I/O error of that device."""
    loop, behind = device
    whole = kumomori("ls", "--hash", "--extents", "--format", "jsonl", behind)
    last = max((row["extents"][-1]["offset"], row["path"]) for row in whole.rows if row.get("extents"))
    os.truncate(behind, last[0])
    scan = kumomori("scan", "image", loop, "--format", "json")
    assert scan.code == 3
    unreadable = [gap for gap in scan.report["gaps"] if gap["reason"] == "unreadable"]
    assert last[1] in {gap["where"]["path"] for gap in unreadable}
    assert scan.report["stats"]["files"] == len(whole.rows), "the other files were looked at"
    shutil.copyfile(behind, tmp_path / "short.img")
    assert kumomori("scan", "image", tmp_path / "short.img").code == 3
