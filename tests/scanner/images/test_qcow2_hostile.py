"""qcow2 images made by hand: each field wrong in turn, and random damage. Only errors of `core.errors` may come out."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
import zstandard

from core.blocks import BlockSource, MemorySource
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unsupported
from scanner.images import open_image

CLUSTER = 4096
DATA = 3 * CLUSTER  # header, L1, L2, then the data cluster
COPIED = 1 << 63
COMPRESSED = 1 << 62


def image(
    *,
    version: int = 3,
    l2: list[int] | None = None,
    l1: list[int] | None = None,
    data: bytes = b"d" * CLUSTER,
    extensions: bytes = b"",
    name: bytes = b"",
    compression: int = 0,
    **fields: int,
) -> bytes:
    """A disk of 16 clusters of 4 KiB, by default with data in the first; `fields` override the header's."""
    header = {
        "name_offset": 104 + 8 + len(extensions) + 8 if name else 0,
        "name_length": len(name),
        "cluster_bits": 12,
        "size": 16 * CLUSTER,
        "crypt": 0,
        "l1_size": 1,
        "l1_offset": CLUSTER,
        "incompatible": 8 if compression else 0,
        "header_length": 112,
    }
    header.update(fields)
    h = header
    start = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, h["name_offset"], h["name_length"], h["cluster_bits"], h["size"],
        h["crypt"], h["l1_size"], h["l1_offset"], 0, 0, 0, 0,
    )  # fmt: skip
    if version == 3:
        start += struct.pack(">QQQIIB7x", h["incompatible"], 0, 0, 4, h["header_length"], compression)
    start += extensions + bytes(8) + name
    tables = [*(l1 or [2 * CLUSTER | COPIED])], [*(l2 or [DATA | COPIED])]
    parts = [start, *(struct.pack(f">{len(table)}Q", *table) for table in tables)]
    return b"".join(part.ljust(CLUSTER, b"\0") for part in parts) + data


def opened(content: bytes, below: bytes | None = None) -> BlockSource:
    def open_backing(name: str) -> MemorySource:
        if below is None:
            raise Unsupported(f"not here: {name}")
        return MemorySource(below)

    return open_image(MemorySource(content), open_backing)


def read_all(content: bytes, below: bytes | None = None) -> bytes:
    disk = opened(content, below)
    return bytes(disk.read(0, disk.size))


def compressed_at(host: int, sectors: int = 0) -> int:
    return COMPRESSED | sectors << (62 - 4) | host


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-12)
    return packer.compress(content) + packer.flush()


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body.ljust(-(-len(body) // 8) * 8, b"\0")


def test_the_image_made_by_hand_is_right() -> None:
    assert read_all(image()) == b"d" * CLUSTER + bytes(15 * CLUSTER)
    assert read_all(image(version=2)) == b"d" * CLUSTER + bytes(15 * CLUSTER)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        pytest.param(image()[:50], Corrupt, "cut short", id="header-of-50-bytes"),
        pytest.param(image()[:80], Corrupt, "cut short", id="header-of-80-bytes"),
        pytest.param(image(version=1), Unsupported, "version 1", id="version-1"),
        pytest.param(image(version=4), Unsupported, "version 4", id="version-4"),
        pytest.param(image(cluster_bits=8), Corrupt, "2\\*\\*8", id="small-clusters"),
        pytest.param(image(cluster_bits=22), Corrupt, "2\\*\\*22", id="large-clusters"),
        pytest.param(image(cluster_bits=0xFFFFFFFF), Corrupt, "clusters", id="huge-clusters"),
        pytest.param(image(size=1 << 63), Corrupt, "size", id="huge-disk"),
        pytest.param(image(size=1 << 50), Corrupt, "L1", id="more-than-l1-covers"),
        pytest.param(image(l1_size=(4 << 20) + 1), Corrupt, "32 MiB", id="l1-above-limit"),
        pytest.param(image(size=4 << 40, l1_size=4 << 20), Corrupt, "outside", id="l1-larger-than-file"),
        pytest.param(image(l1_offset=100), Corrupt, "misplaced", id="l1-unaligned"),
        pytest.param(image(l1_offset=1 << 40), Corrupt, "outside", id="l1-outside"),
        pytest.param(image(crypt=1), Encrypted, "AES", id="aes"),
        pytest.param(image(crypt=2), Encrypted, "LUKS", id="luks"),
        pytest.param(image(crypt=3), Unsupported, "method 3", id="unknown-crypt"),
        pytest.param(image(incompatible=4), Unsupported, "external data file", id="data-file"),
        pytest.param(image(incompatible=1 << 5 | 1 << 63), Unsupported, "5, 63", id="unknown-features"),
        pytest.param(image(incompatible=8), Corrupt, "contradict", id="compression-bit-alone"),
        pytest.param(image(compression=1, incompatible=0), Corrupt, "contradict", id="compression-type-alone"),
        pytest.param(image(compression=2), Unsupported, "type 2", id="unknown-compression"),
        pytest.param(image(incompatible=16), Corrupt, "16 KiB", id="subclusters-in-small-clusters"),
        pytest.param(image(header_length=96), Corrupt, "length", id="header-length-short"),
        pytest.param(image(header_length=107), Corrupt, "length", id="header-length-odd"),
        pytest.param(image(name=b"x", name_length=1024), Corrupt, "name", id="long-backing-name"),
        pytest.param(image(name=b"x", name_offset=CLUSTER), Corrupt, "name", id="backing-name-outside"),
        pytest.param(image(name=b"a\0b"), Corrupt, "zero byte", id="backing-name-with-zero"),
        pytest.param(image(name=b'json:{"driver":"nbd"}'), Unsupported, "plain", id="json-backing"),
        pytest.param(image(name=b"nbd:10.0.0.1:1"), Unsupported, "plain", id="network-backing"),
        pytest.param(image(name=b"../../etc/passwd"), Unsupported, "not here", id="policy-refuses"),
        pytest.param(image(extensions=extension(1, b"")[:4] + b"\xff" * 4), Corrupt, "longer", id="extension-too-long"),
        pytest.param(image(extensions=extension(1, b"") * 300), Corrupt, "more than 256", id="many-extensions"),
        pytest.param(image(extensions=extension(0xE2792ACA, b"r" * 16)), Corrupt, "16 bytes", id="long-format-name"),
    ],
)
def test_bad_header(content: bytes, error: type[Error], words: str) -> None:
    with pytest.raises(error, match=words):
        opened(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(image(l1=[1 << 40]), "L2 table", id="l2-outside"),
        pytest.param(image(l1=[2 * CLUSTER + 512]), "L2 table", id="l2-unaligned"),
        pytest.param(image(l1=[DATA], data=b"short"), "L2 table", id="l2-cut-short"),
        pytest.param(image(l2=[1 << 40]), "outside", id="data-outside"),
        pytest.param(image(l2=[DATA + CLUSTER]), "outside", id="data-at-end-of-file"),
        pytest.param(image(l2=[DATA + 512]), "misplaced", id="data-unaligned"),
        pytest.param(image(version=2, l2=[1]), "version 2", id="zero-cluster-in-v2"),
        pytest.param(image(l2=[compressed_at(DATA)]), "compressed", id="no-deflate"),
        pytest.param(image(l2=[compressed_at(1 << 50)]), "outside", id="compressed-outside"),
        pytest.param(image(l2=[compressed_at(DATA)], data=deflated(b"x" * 100)), "too short", id="inflates-short"),
        pytest.param(image(l2=[compressed_at(DATA)], data=b""), "outside", id="compressed-at-end-of-file"),
        pytest.param(image(l2=[compressed_at(DATA)], compression=1), "compressed", id="no-zstd"),
        pytest.param(
            image(l2=[compressed_at(DATA)], compression=1, data=zstandard.compress(b"x" * 100)),
            "too short",
            id="zstd-short",
        ),
    ],
)
def test_bad_table(content: bytes, words: str) -> None:
    disk = opened(content)
    with pytest.raises(Corrupt, match=words):
        disk.read(0, CLUSTER)
    assert disk.read(disk.size, 1) == b""


def test_zstd_window_is_bounded() -> None:
    """A frame that asks for 128 MiB is refused before they are allocated."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packer.compress(b"x" * CLUSTER) + packer.flush()
    assert zstandard.get_frame_parameters(frame).window_size == 1 << 27
    with pytest.raises(Corrupt, match="damaged"):
        opened(image(l2=[compressed_at(DATA)], compression=1, data=frame)).read(0, 1)


@pytest.mark.parametrize(
    ("content", "first"),
    [
        pytest.param(image(l2=[compressed_at(DATA)], data=deflated(b"x" * (64 << 20))[:8192]), b"x", id="zlib"),
        pytest.param(
            image(l2=[compressed_at(DATA, 7)], compression=1, data=zstandard.compress(b"y" * (4 << 20))),
            b"y",
            id="zstd",
        ),
    ],
)
def test_bomb_stops_at_one_cluster(content: bytes, first: bytes) -> None:
    assert bytes(opened(content).read(0, 2 * CLUSTER)) == first * CLUSTER + bytes(CLUSTER)


def test_last_cluster_may_be_unfinished() -> None:
    assert read_all(image(data=b"abc"))[:5] == b"abc\0\0"


@pytest.mark.parametrize("bit", [pytest.param(1, id="dirty"), pytest.param(2, id="corrupt")])
def test_flags_that_speak_of_writing_do_not_stop_reading(bit: int) -> None:
    assert read_all(image(incompatible=bit)).startswith(b"ddd")


def test_version_2_name_straight_behind_the_header() -> None:
    """There are no extensions then, and the name must not be taken for one."""
    content = bytearray(image(version=2, l2=[0, DATA]))
    content[72:76] = b"base"
    content[8:20] = struct.pack(">QI", 72, 4)
    assert read_all(bytes(content), b"B" * 100)[:101] == b"B" * 100 + b"\0"


@pytest.mark.parametrize(
    ("bitmap", "words"),
    [pytest.param(1 | 1 << 32, "both", id="allocated-and-zero"), pytest.param(1, "both", id="allocated-nowhere")],
)
def test_bad_subclusters(bitmap: int, words: str) -> None:
    cluster = 1 << 14
    header = image(incompatible=16, cluster_bits=14, l1_offset=cluster, size=cluster).ljust(cluster, b"\0")[:4096]
    entry = 3 * cluster if words and bitmap != 1 else 0
    tables = (
        struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0"),
        struct.pack(">QQ", entry, bitmap).ljust(cluster, b"\0"),
    )
    disk = opened(b"".join([header.ljust(cluster, b"\0"), *tables, bytes(cluster)]))
    with pytest.raises(Corrupt, match=words):
        disk.read(0, 1)


def test_a_disk_of_nothing_but_holes_is_cheap() -> None:
    content = image(cluster_bits=21, size=1 << 50, l1_size=1 << 12, l1_offset=1 << 21).ljust(1 << 21, b"\0")[:4096]
    disk = opened(content.ljust(1 << 21, b"\0") + bytes(8 << 12))
    assert bytes(disk.read(1 << 49, 100)) == bytes(100)
    with pytest.raises(LimitExceeded):
        disk.read(0, disk.size)


def test_a_loop_of_backing_files_ends() -> None:
    content = image(name=b"myself", l2=[0, DATA])
    with pytest.raises(LimitExceeded, match="16"):
        opened(content, content)


@pytest.mark.parametrize(("depth", "fails"), [(16, False), (17, True)])
def test_depth(depth: int, fails: bool) -> None:
    files = {str(number): image(name=str(number - 1).encode(), l2=[0, DATA]) for number in range(1, depth + 1)}
    files["0"] = b"bottom"

    def open_backing(name: str) -> MemorySource:
        return MemorySource(files[name])

    if fails:
        with pytest.raises(LimitExceeded):
            open_image(open_backing(str(depth)), open_backing)
    else:
        disk = open_image(open_backing(str(depth)), open_backing)
        assert bytes(disk.read(0, 7)) == b"bottom\0"


@pytest.mark.parametrize("seed", range(4))
def test_random_damage(seed: int) -> None:
    """Bytes of header, L1 and L2 changed, and files cut short: data or one of our errors, soon."""
    random_ = random.Random(seed)
    packed = deflated(b"z" * CLUSTER)
    good = image(l2=[DATA | COPIED, 0, 1, compressed_at(DATA + CLUSTER)], data=b"d" * CLUSTER + packed, name=b"b")
    read = 0
    for _ in range(200):
        bad = bytearray(good)
        for _ in range(random_.randrange(1, 6)):
            area = random_.choice([range(112), range(CLUSTER, CLUSTER + 8), range(2 * CLUSTER, 2 * CLUSTER + 32)])
            bad[random_.choice(area)] = random_.choice([0, 1, 0xFF, random_.randrange(256)])
        if random_.random() < 0.2:
            del bad[random_.randrange(len(bad)) :]
        try:
            disk = opened(bytes(bad), b"below" * 1000)
            for _ in range(5):
                disk.read(random_.randrange(disk.size + 1), random_.randrange(100_000))
            read += 1
        except Error:
            continue
    assert read > 10
