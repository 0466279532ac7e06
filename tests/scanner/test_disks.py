from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import ConfigError, Unsupported
from scanner.disks import open_backing, open_disk


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """disks/{disk.img, base.img, sub/base.img, out -> ../secret}, secret"""
    folder = tmp_path / "disks"
    (folder / "sub").mkdir(parents=True)
    for name in ("disk.img", "base.img", "sub/base.img"):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "disks-too").mkdir()
    (tmp_path / "disks-too" / "base.img").write_bytes(b"secret")
    (folder / "out").symlink_to("../secret")
    (folder / "in").symlink_to("base.img")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("base.img", b"base.img", id="beside"),
        pytest.param("./base.img", b"base.img", id="dot"),
        pytest.param("sub/base.img", b"sub/base.img", id="below"),
        pytest.param("sub/../base.img", b"base.img", id="down-and-up"),
        pytest.param("in", b"base.img", id="link-inside"),
    ],
)
def test_backing_files_that_are_opened(place: Path, name: str, content: bytes) -> None:
    for given in (name, str(place / name)):
        fd = open_backing(place / "disk.img", given)
        try:
            assert os.pread(fd, 100, 0) == content
            with pytest.raises(OSError):
                os.write(fd, b"x")
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="nothing"),
        pytest.param(".", id="dot"),
        pytest.param("..", id="dots"),
        pytest.param("sub", id="folder"),
        pytest.param("../secret", id="parent"),
        pytest.param("/etc/passwd", id="absolute"),
        pytest.param("sub/../../secret", id="down-and-too-far-up"),
        pytest.param("../disks-too/base.img", id="folder-with-the-same-start"),
        pytest.param("out", id="link-out"),
        pytest.param("up/secret", id="through-a-link-out"),
        pytest.param("fifo", id="named-pipe"),
        pytest.param("missing", id="missing"),
        pytest.param("base.img\0", id="nul"),
        pytest.param("\ud800", id="lone-surrogate"),
        pytest.param("x" * 100_000, id="very-long"),
        pytest.param("/dev/stdin", id="device"),
        pytest.param("/proc/self/fd/0", id="own-descriptor"),
        pytest.param("file:///etc/passwd", id="url"),
    ],
)
def test_backing_files_that_are_refused(place: Path, name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unsupported) as caught:
        open_backing(place / "disk.img", name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_folder_is_that_of_the_disk_behind_a_link(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link.img").symlink_to(place / "disk.img")
    os.close(open_backing(tmp_path / "link.img", "base.img"))
    with pytest.raises(Unsupported):
        open_backing(tmp_path / "link.img", "secret")


def test_a_disk_is_opened_for_reading_only(place: Path) -> None:
    disk = open_disk(place / "disk.img")
    try:
        assert os.pread(disk.fd, 100, 0) == b"disk.img"
        assert not os.get_inheritable(disk.fd)
        with pytest.raises(OSError):
            os.write(disk.fd, b"x")
    finally:
        os.close(disk.fd)


@pytest.mark.parametrize("name", ["missing", "sub", "fifo", "", "x" * 300, "a\0b", "\udcff", "out/x"])
def test_what_is_no_disk_leaks_nothing(place: Path, name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError) as caught:
        open_disk(place / name)
    assert str(caught.value).isprintable()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_empty_file_is_no_disk(place: Path) -> None:
    (place / "empty").touch()
    with pytest.raises(ConfigError, match="empty"):
        open_disk(place / "empty")
