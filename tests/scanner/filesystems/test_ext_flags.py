"""What an ext volume is called, and what flags on an inode do to its content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from core.findings import GapReason
from scanner.filesystems.ext import READER
from tests.need import need_tool
from tests.scanner.filesystems.images import ImageSource, opened
from tests.scanner.filesystems.machine import make_ext, run
from tests.scanner.filesystems.truth import reader_truth

MIB = 1 << 20


def test_probe_label_and_uuid(workdir: Path) -> None:
    need_tool("mke2fs")
    image = make_ext(workdir / "image", 8 * MIB, ["-t", "ext4", "-L", "kumo label"])
    source = ImageSource(image)
    assert READER.probe(source)
    filesystem = READER.open(source, volume=0)
    assert filesystem.label == "kumo label"
    assert filesystem.uuid == "6b756d6f-6d6f-7269-8000-000000000001"
    assert filesystem.kind == "ext4"
    source.close()


def _with_flags(image: Path, path: str, flags: int) -> None:
    said = run("debugfs", "-R", f"stat {path}", image).decode("utf-8", "replace")
    found = re.search(r"Flags: 0x([0-9a-f]+)", said)
    assert found, said
    run("debugfs", "-w", "-R", f"set_inode_field {path} flags 0x{int(found[1], 16) | flags:x}", image)


@pytest.mark.parametrize(
    ("path", "flags", "reason"),
    [
        pytest.param("/plain", 0x800, GapReason.ENCRYPTED, id="encrypted-file"),
        pytest.param("/folder", 0x800, GapReason.ENCRYPTED, id="encrypted-directory"),
        pytest.param("/plain", 0x10, None, id="immutable"),
        pytest.param("/plain", 0x4000, None, id="journalled-data"),
        pytest.param("/plain", 0x100000, None, id="verity"),
        pytest.param("/folder", 0x40000000, None, id="casefolded-directory"),
        pytest.param("/folder", 0x20000000, None, id="project-inherit"),
    ],
)
def test_inode_flags(path: str, flags: int, reason: GapReason | None, workdir: Path, tmp_path: Path) -> None:
    """Content we have no key for is a gap that says so; flags that do not change how bytes are stored change nothing."""
    need_tool("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "inside").write_bytes(b"inside")
    (tree / "plain").write_bytes(b"plain" * 100)
    image = make_ext(
        workdir / "image", 8 * MIB, ["-t", "ext4", "-O", "encrypt,verity,casefold", "-E", "encoding=utf8"], tree
    )
    _with_flags(image, path, flags)
    with opened(image) as filesystem:
        seen = reader_truth(filesystem)
    if reason is None:
        assert not seen.gaps
        assert seen.names[b"/plain"].sha256 == hashlib.sha256(b"plain" * 100).hexdigest()
        assert seen.names[b"/folder/inside"].sha256 == hashlib.sha256(b"inside").hexdigest()
    else:
        assert seen.gaps
        assert path.encode() in seen.names or reason in {gap.reason for gap in seen.gaps}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        pytest.param("-t ext2", "ext2", id="ext2"),
        pytest.param("-t ext3", "ext3", id="ext3"),
        pytest.param("-t ext4", "ext4", id="ext4"),
        pytest.param("-t ext4 -O ^has_journal", "ext4", id="ext4-no-journal"),
    ],
)
def test_kind(words: str, kind: str, workdir: Path) -> None:
    need_tool("mke2fs")
    image = make_ext(workdir / "image", 16 * MIB, words.split())
    with opened(image) as filesystem:
        assert filesystem.kind == kind
