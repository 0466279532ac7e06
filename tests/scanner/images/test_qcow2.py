"""qcow2 against QEMU: the same disk, byte for byte, whole and in parts."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.blocks import BlockSource
from core.errors import Encrypted
from scanner.images import FileSource, open_image
from tests.need import need_shared, need_tool

SIZE = (3 << 20) + 512  # no multiple of any cluster size above 512


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=120)


def content(seed: int, size: int = SIZE) -> bytes:
    """Noise, text that compresses, and holes, in pieces of uneven length."""
    random_ = random.Random(seed)
    disk = bytearray(size)
    at = 0
    while at < size:
        length = random_.randrange(1, 200_000)
        kind = random_.randrange(3)
        if kind == 0:
            disk[at : at + length] = random_.randbytes(length)
        elif kind == 1:
            disk[at : at + length] = (b"kumomori %d " % at * length)[:length]
        at += length
    return bytes(disk[:size])


def open_disk(path: Path, *, mapped: bool = True) -> BlockSource:
    def beside(name: str) -> FileSource:
        return FileSource.open(path.parent / name, mapped=mapped)

    return open_image(FileSource.open(path, mapped=mapped), beside)


def whole(path: Path) -> bytes:
    """What QEMU says the disk is."""
    raw = path.with_suffix(".whole")
    run("qemu-img", "convert", "-O", "raw", path, raw)
    return raw.read_bytes()


def check(path: Path, disk: BlockSource | None = None) -> None:
    """Whole content and random reads; then the same reads from four threads at once."""
    expected = whole(path)
    disk = disk or open_disk(path)
    assert disk.size == len(expected)
    assert bytes(disk.read(0, disk.size)) == expected
    random_ = random.Random(7)
    places = [(random_.randrange(disk.size + 10), random_.choice([1, 511, 4096, 70_000])) for _ in range(200)]

    def same(place: tuple[int, int]) -> bool:
        return bytes(disk.read(*place)) == expected[place[0] : place[0] + place[1]]

    assert all(map(same, places))
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, places))


@pytest.mark.parametrize(
    ("options", "convert"),
    [
        pytest.param("compat=0.10", [], id="v2"),
        pytest.param("compat=1.1", [], id="v3"),
        pytest.param("compat=0.10", ["-c"], id="v2-zlib"),
        pytest.param("compat=1.1", ["-c"], id="v3-zlib"),
        pytest.param("compression_type=zstd", ["-c"], id="zstd"),
        pytest.param("compression_type=zstd,cluster_size=2M", ["-c"], id="zstd-2M"),
        pytest.param("cluster_size=2M", ["-c"], id="zlib-2M"),
        pytest.param("cluster_size=512", ["-c"], id="zlib-512"),
        pytest.param("cluster_size=512", [], id="512"),
        pytest.param("cluster_size=4096", [], id="4K"),
        pytest.param("cluster_size=2M", [], id="2M"),
        pytest.param("lazy_refcounts=on", [], id="lazy-refcounts"),
        pytest.param("extended_l2=on", [], id="extended-l2"),
        pytest.param("extended_l2=on,cluster_size=16K", [], id="extended-l2-16K"),
        pytest.param("extended_l2=on", ["-c"], id="extended-l2-zlib"),
        pytest.param("preallocation=metadata", [], id="preallocated-metadata"),
        pytest.param("preallocation=falloc", [], id="preallocated"),
        pytest.param("refcount_bits=1", [], id="refcounts-of-1-bit"),
    ],
)
def test_equals_qemu(tmp_path: Path, options: str, convert: list[str]) -> None:
    need_tool("qemu-img")
    (tmp_path / "raw").write_bytes(content(1))
    image = tmp_path / "a.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, *convert, tmp_path / "raw", image)
    check(image)
    check(image, open_disk(image, mapped=False))


@pytest.mark.parametrize("extended", ["off", "on"])
def test_written_piecemeal(tmp_path: Path, extended: str) -> None:
    """Zero clusters, discarded ones, compressed ones and rewrites, as qemu-io makes them, over a backing file."""
    need_tool("qemu-img", "qemu-io")
    (tmp_path / "base.raw").write_bytes(content(2, 1 << 20))
    image = tmp_path / "a.qcow2"
    options = f"extended_l2={extended}"
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", options, image, "3M")
    commands = [
        "write -P 1 100 300",
        "write -z 64k 64k",
        "write -z 200k 2k",
        "write -z -u 256k 128k",
        "write -P 2 260k 1k",
        "discard 512k 64k",
        "write -c -P 3 640k 64k",
        "write -P 4 650k 4k",
        "write -P 5 2000k 100k",
    ]
    arguments = [part for command in commands for part in ("-c", command)]
    run("qemu-io", "-f", "qcow2", *arguments, image)
    check(image)


def test_zero_cluster_without_backing_is_not_read(tmp_path: Path) -> None:
    need_tool("qemu-img", "qemu-io")
    image = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-f", "qcow2", image, "1M")
    run("qemu-io", "-c", "write -z 0 128k", "-c", "write -P 9 256k 64k", image)
    file = Counting(FileSource.open(image))
    disk = open_image(file, no_backing)
    disk.read(0, 1)  # the table is cached from here on
    before = file.reads
    assert bytes(disk.read(0, 256 << 10)) == bytes(256 << 10)
    assert file.reads == before
    assert bytes(disk.read(256 << 10, 10)) == bytes([9] * 10)
    assert file.reads == before + 1


class Counting:
    def __init__(self, inner: BlockSource) -> None:
        self.inner, self.size, self.reads = inner, inner.size, 0

    def read(self, offset: int, length: int) -> bytes | memoryview:
        self.reads += 1
        return self.inner.read(offset, length)


def no_backing(name: str) -> BlockSource:
    raise AssertionError(name)


def test_neighbouring_clusters_are_one_view(tmp_path: Path) -> None:
    need_tool("qemu-img")
    (tmp_path / "raw").write_bytes(random.Random(3).randbytes(2 << 20))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "a.qcow2")
    assert isinstance(open_disk(tmp_path / "a.qcow2").read(1000, 1 << 20), memoryview)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(("2M", "3M"), id="growing"),
        pytest.param(("1M", "3M"), id="shrunk-and-grown"),
        pytest.param(("3M", "1M"), id="shrunk-on-top"),
    ],
)
def test_backing_chain_of_three(tmp_path: Path, sizes: tuple[str, str]) -> None:
    need_tool("qemu-img", "qemu-io")
    (tmp_path / "base.raw").write_bytes(content(4, (1 << 20) + 1536))
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", tmp_path / "middle.qcow2", sizes[0])
    top = tmp_path / "top.qcow2"
    run("qemu-io", "-c", "write -P 7 300k 70k", "-c", "write -z 700k 70k", tmp_path / "middle.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top, sizes[1])
    run("qemu-io", "-c", "write -P 8 320k 10k", "-c", "write -P 6 900k 5k", top)
    check(top)


def test_raw_backing_file_is_not_probed(tmp_path: Path) -> None:
    """A guest wrote a qcow2 header into its raw disk; the header's format says raw, so it is data."""
    need_tool("qemu-img")
    inner = tmp_path / "inner.qcow2"
    run("qemu-img", "create", "-f", "qcow2", inner, "10M")
    run("qemu-img", "create", "-f", "qcow2", "-b", "inner.qcow2", "-F", "raw", tmp_path / "top.qcow2", "128k")
    assert bytes(open_disk(tmp_path / "top.qcow2").read(0, 4)) == b"QFI\xfb"
    check(tmp_path / "top.qcow2")


def test_backing_file_without_a_format_is_probed(tmp_path: Path) -> None:
    need_tool("qemu-img", "qemu-io")
    run("qemu-img", "create", "-f", "qcow2", tmp_path / "base.qcow2", "1M")
    run("qemu-io", "-c", "write -P 5 0 64k", tmp_path / "base.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", tmp_path / "top.qcow2", "1M")
    # QEMU writes no image without the format any more: give its header extension a type that nobody knows
    image = (tmp_path / "top.qcow2").read_bytes()
    (tmp_path / "top.qcow2").write_bytes(image.replace(bytes.fromhex("e2792aca"), b"none", 1))
    assert bytes(open_disk(tmp_path / "top.qcow2").read(0, 4)) == b"\5\5\5\5"


def test_internal_snapshot_is_ignored(tmp_path: Path) -> None:
    need_tool("qemu-img", "qemu-io")
    image = tmp_path / "a.qcow2"
    run("qemu-img", "create", "-f", "qcow2", image, "1M")
    run("qemu-io", "-c", "write -P 1 0 128k", image)
    run("qemu-img", "snapshot", "-c", "before", image)
    run("qemu-io", "-c", "write -P 2 64k 32k", image)
    check(image)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[BlockSource], bytes]:
    """One disk behind every kind of source there is."""
    need_tool("qemu-img")
    folder = tmp_path_factory.mktemp("mixed")
    expected = content(5, (1 << 20) + 512)
    raw = folder / "raw"
    raw.write_bytes(expected)
    rows: list[tuple[str, list[str]]] = [
        ("cluster_size=4096", []),
        ("cluster_size=512", ["-c"]),
        ("compression_type=zstd", ["-c"]),
        ("extended_l2=on", []),
    ]
    for index, (options, convert) in enumerate(rows):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, *convert, raw, folder / f"{index}.qcow2")
    paths = [raw, *sorted(folder.glob("*.qcow2"))]
    return [open_disk(path, mapped=mapped) for path in paths for mapped in (True, False)], expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.tuples(st.integers(0, (1 << 20) + 2000), st.integers(0, 300_000)))
def test_any_read_is_a_slice_of_the_whole(mixed: tuple[list[BlockSource], bytes], place: tuple[int, int]) -> None:
    disks, expected = mixed
    for disk in disks:
        assert bytes(disk.read(*place)) == expected[place[0] : place[0] + place[1]]


def test_same_from_four_threads(mixed: tuple[list[BlockSource], bytes]) -> None:
    disks, expected = mixed
    random_ = random.Random(11)
    work = [(disk, random_.randrange(len(expected)), random_.randrange(100_000)) for disk in disks for _ in range(40)]
    random_.shuffle(work)

    def same(item: tuple[BlockSource, int, int]) -> bool:
        disk, offset, length = item
        return bytes(disk.read(offset, length)) == expected[offset : offset + length]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(same, work))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_negative_is_a_bug_of_the_caller(mixed: tuple[list[BlockSource], bytes], offset: int, length: int) -> None:
    for disk in mixed[0]:
        with pytest.raises(ValueError, match="not negative"):
            disk.read(offset, length)


def shared_images() -> list[str]:
    return ["osv-scalibr/valid-ext-exfat-fat32-ntfs.qcow2", "dfvfs/ext2.qcow2", "dfvfs/iso9660.raw"]


@pytest.mark.parametrize("name", shared_images())
def test_shared_images(name: str) -> None:
    folder = need_shared("disk-images")
    expected = json.loads((folder / "expected_contents.json").read_text())[name]
    disk = open_disk(folder / name)
    assert disk.size == expected["virtual_size"]
    digest = hashlib.sha256()
    for at in range(0, disk.size, 1 << 20):
        digest.update(disk.read(at, 1 << 20))
    assert digest.hexdigest() == expected["sha256_raw"]


def test_legacy_aes_is_encrypted() -> None:
    path = need_shared("disk-images/osv-scalibr/valid-ext-exfat-fat32-ntfs-encrypted-legacy-aes.qcow2")
    with pytest.raises(Encrypted, match="AES"):
        open_disk(path)
