"""Raw files: mapped and unmapped give the same bytes; what is no disk is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.blocks import BlockSource
from core.errors import ConfigError, LimitExceeded, Unreadable
from scanner.images import FileSource, open_image


def no_backing(name: str) -> BlockSource:
    raise AssertionError(name)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        pytest.param(0, 10, b"0123456789", id="all"),
        pytest.param(3, 2, b"34", id="middle"),
        pytest.param(8, 100, b"89", id="short-at-the-end"),
        pytest.param(10, 1, b"", id="at-the-end"),
        pytest.param(1 << 70, 1, b"", id="far-past-the-end"),
        pytest.param(0, 1 << 70, b"0123456789", id="huge-length"),
        pytest.param(5, 0, b"", id="nothing"),
    ],
)
def test_read(tmp_path: Path, mapped: bool, offset: int, length: int, expected: bytes) -> None:
    (tmp_path / "disk").write_bytes(b"0123456789")
    with FileSource.open(tmp_path / "disk", mapped=mapped) as disk:
        assert bytes(disk.read(offset, length)) == expected


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    with FileSource.open(tmp_path / "disk") as disk:
        assert disk.size == 0
        assert disk.read(0, 10) == b""
        assert open_image(disk, no_backing) is disk


def test_no_copy_when_mapped(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(10))
    view = FileSource.open(tmp_path / "disk").read(0, 10)
    assert isinstance(view, memoryview)
    assert view.readonly


def test_a_view_outlives_close(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"abc")
    disk = FileSource.open(tmp_path / "disk")
    view = disk.read(0, 3)
    disk.close()
    disk.close()
    assert bytes(view) == b"abc"


def test_sparse_file_larger_than_memory(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(8 << 40)
    with FileSource.open(tmp_path / "disk") as disk:
        assert disk.size == 8 << 40
        assert bytes(disk.read((8 << 40) - 5, 10)) == bytes(5)
    with FileSource.open(tmp_path / "disk", mapped=False) as disk, pytest.raises(LimitExceeded):
        disk.read(0, 8 << 40)


def test_file_cut_short_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(10_000))
    with FileSource.open(tmp_path / "disk", mapped=False) as disk:
        os.truncate(tmp_path / "disk", 100)
        with pytest.raises(Unreadable, match="ends at offset 100"):
            disk.read(0, 10_000)


def test_what_is_no_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "missing", Path("/dev/null"), tmp_path / "a\0b"):
        with pytest.raises(ConfigError):
            FileSource.open(path)


def test_read_error_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").write_bytes(bytes(100))

    def fail(fd: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with FileSource.open(tmp_path / "disk", mapped=False) as disk:
        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(Unreadable, match="Input/output error"):
            disk.read(0, 10)
