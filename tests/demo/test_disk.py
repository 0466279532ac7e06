"""The demo disks, judged by sgdisk, blkid, cryptsetup, e2fsck and the kernel."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import pytest

from demo import disk
from demo.ext4 import Node
from tests.demo.tools import MIB, SBIN, mounted, run, seen
from tests.need import need_root, need_tool

EICAR = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"  # SHA-256 of the 68 bytes
PARTITIONS = {"root": (1, 48), "data": (49, 16), "swap": (65, 8), "vault": (73, 22)}  # start and size in MiB


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("built") / "demo.img"
    disk.build(path)
    return path


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "clean.img"
    disk.build_clean(path)
    return path


def cut(image: Path, start_mib: int, size_mib: int, into: Path) -> Path:
    """One partition as a file of its own."""
    with image.open("rb") as source:
        source.seek(start_mib * MIB)
        into.write_bytes(source.read(size_mib * MIB))
    return into


def cut_named(image: Path, name: str, folder: Path) -> Path:
    return cut(image, *PARTITIONS[name], folder / name)


def test_partition_tables_are_right(built: Path, clean: Path) -> None:
    need_tool("sgdisk")
    for image in (built, clean):
        assert "No problems found" in run("sgdisk", "-v", image)
    table = [line.split() for line in run("sgdisk", "-p", built).splitlines() if line.startswith("  ")]
    assert [row[-1] for row in table] == list(PARTITIONS)
    assert [int(row[1]) // 2048 for row in table] == [start for start, _ in PARTITIONS.values()]


@pytest.mark.parametrize("where", [pytest.param(0, id="primary"), pytest.param(-512, id="backup")])
def test_either_table_is_enough(where: int, built: Path, tmp_path: Path) -> None:
    """With one header wiped, sgdisk finds the same partitions by the other."""
    need_tool("sgdisk")
    raw = bytearray(built.read_bytes())
    at = 512 if where == 0 else len(raw) + where
    assert raw[at : at + 8] == b"EFI PART"
    raw[at : at + 512] = bytes(512)
    image = tmp_path / "wiped"
    image.write_bytes(raw)
    done = subprocess.run(["sgdisk", "-i", "4", image], env=SBIN, capture_output=True, text=True)
    assert "'vault'" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("root", ['TYPE="ext4"', 'LABEL="demo-root"'], id="root"),
        pytest.param("data", ['TYPE="ext4"', 'LABEL="demo-data"'], id="data"),
        pytest.param("swap", ['TYPE="swap"', 'VERSION="1"', 'LABEL="demo-swap"'], id="swap"),
        pytest.param("vault", ['TYPE="crypto_LUKS"', 'VERSION="2"', 'LABEL="demo-vault"'], id="vault"),
    ],
)
def test_blkid_knows_each_partition(name: str, words: list[str], built: Path, tmp_path: Path) -> None:
    need_tool("blkid")
    said = run("blkid", "-p", cut_named(built, name, tmp_path))
    assert all(word in said for word in words), said


def test_vault_is_luks2(built: Path, tmp_path: Path) -> None:
    """Its headers and checksums are right, the first one and the spare."""
    need_tool("cryptsetup")
    vault = cut_named(built, "vault", tmp_path)
    run("cryptsetup", "isLuks", "--type", "luks2", vault)
    with vault.open("r+b") as out:
        out.write(bytes(4096))
    run("cryptsetup", "isLuks", "--type", "luks2", vault)


def test_filesystems_are_sound(built: Path, clean: Path, tmp_path: Path) -> None:
    need_tool("e2fsck")
    run("e2fsck", "-fn", cut_named(built, "data", tmp_path))
    run("e2fsck", "-fn", cut(clean, 1, 62, tmp_path / "clean"))
    root = cut_named(built, "root", tmp_path)
    assert run("e2fsck", "-fy", root).count("Clearing orphaned inode") == 1
    run("e2fsck", "-fn", root)


def test_what_is_planted(built: Path, clean: Path, tmp_path: Path) -> None:
    need_root()
    with mounted(cut_named(built, "root", tmp_path), tmp_path / "point") as point:
        bad = seen(point)
    with mounted(cut(clean, 1, 62, tmp_path / "clean"), tmp_path / "point") as point:
        good = seen(point)
    files = {path for path, fact in bad.items() if stat.S_ISREG(int(str(fact["mode"])))}
    assert len(files) > 300
    # what differs is what is planted, and the harmless text that stands for a library
    assert {path for path in files if good.get(path) != bad[path]} - {b"/usr/local/lib/libprocesshider.so"} == set(
        disk.PLANTED
    )
    eicar = bad[b"/home/ci/eicar.com"]["content"]
    assert isinstance(eicar, bytes)
    assert hashlib.sha256(eicar).hexdigest() == EICAR
    assert not [path for path, fact in good.items() if int(str(fact["mode"])) & 0o7022 and not is_link(fact["mode"])]
    assert any(b"\n" in path for path in good)
    assert any(b"\xe9" in path for path in good)
    assert any(fact["xattrs"] for fact in good.values())


def is_link(mode: object) -> bool:
    return stat.S_ISLNK(int(str(mode)))


def test_the_deleted_program_is_on_the_disk(built: Path, clean: Path) -> None:
    assert disk.DELETED.startswith(b"\x7fELF")
    assert disk.DELETED in built.read_bytes()
    assert disk.DELETED not in clean.read_bytes()


def test_same_bytes_every_time(built: Path, clean: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    for image, build in ((built, disk.build), (clean, disk.build_clean), (built, disk.build)):
        build(again)  # also over what is there
        assert again.read_bytes() == image.read_bytes()


def test_disks_are_sparse(built: Path) -> None:
    status = built.stat()
    assert status.st_size == 96 * MIB
    assert status.st_blocks * 512 < 8 * MIB


@pytest.mark.parametrize(
    ("builder", "least"),
    [
        pytest.param(disk.build, 96, id="with-problems"),
        pytest.param(disk.build_clean, 64, id="clean"),
        pytest.param(disk.build_data, 32, id="data"),
    ],
)
def test_disks_have_the_size_asked_for_and_change_little(builder: Builder, least: int, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    builder(before, size=200 * MIB)
    assert before.stat().st_size == 200 * MIB
    assert before.stat().st_blocks * 512 < 8 * MIB
    if builder is not disk.build_data:
        need_tool("sgdisk")
        assert "No problems found" in run("sgdisk", "-v", before)
    builder(after, size=200 * MIB, changes=[disk.file(b"/lost+found.txt", "new")])
    old, new = before.read_bytes(), after.read_bytes()
    pages = [at for at in range(0, len(old), 4096) if old[at : at + 4096] != new[at : at + 4096]]
    assert 1 < len(pages) < 16
    for size in (least * MIB - MIB, 200 * MIB + 512):
        with pytest.raises(ValueError, match="MiB"):
            builder(after, size=size)


class Builder(Protocol):
    def __call__(self, path: Path, *, size: int = ..., changes: Iterable[Node] = ...) -> None: ...


@pytest.mark.parametrize("clean", [pytest.param(False, id="with-problems"), pytest.param(True, id="clean")])
def test_command(clean: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.img"
    assert disk.main([str(out), *(["--clean"] if clean else [])]) == 0
    said = capsys.readouterr().out
    assert str(out) in said
    assert ("nothing planted" in said) == clean
    assert out.stat().st_size == (64 if clean else 96) * MIB


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert disk.main([str(tmp_path / "no" / "such" / "folder")]) == 2
    assert "cannot write the disk" in capsys.readouterr().err


def test_module_runs_without_any_program_on_the_path(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.disk", str(tmp_path / "out.img")]
    root = Path(disk.__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env={"PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_source_file_holds_what_it_plants() -> None:
    for source in Path(disk.__file__).parent.rglob("*.py"):
        text = source.read_text()
        assert "EICAR-STANDARD" not in text
        assert "/dev/tcp" not in text
        assert "system($_GET" not in text
        assert "getRuntime().exec" not in text
        assert "stratum+tcp" not in text
