"""What demo/ext4 writes, judged by e2fsck, debugfs and the kernel."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.ext4 import Node, Options, write
from demo.ext4.layout import has_superblock
from demo.ext4.records import Run, crc32c, runs_of
from tests.demo.tools import MIB, TIME, debugfs, dumped, expected, make, mounted, options, run, seen
from tests.need import need_root, need_tool

DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def every_other_block(count: int) -> bytes:
    """Content in `count` pieces with a hole after each."""
    return b"".join(noise(4096, n) + bytes(4096) for n in range(count))


TREE = [
    Node(b"/etc", DIRECTORY, mtime_ns=TIME * 10**9 + 5),
    Node(b"/etc/empty", stat.S_IFREG | 0o600),
    Node(b"/etc/owned", stat.S_IFREG | 0o4751, 70_000, 1 << 31, 1_234_567_890_123_456_789, b"owned"),
    Node(b"/etc/before-1970", mtime_ns=-1, content=noise(4096)),
    Node(b"/etc/after-2038", mtime_ns=(1 << 33) * 10**9 + 999_999_999, content=noise(4097)),
    Node(b"/etc/first", content=noise(100_000), key="pair", xattrs={b"user.shared": b"yes"}),
    Node(b"/second", key="pair"),
    Node(b"/etc/\xff\xfe not utf-8", content=b"bytes"),
    Node(b"/etc/two\nlines", content=b"lines"),
    Node(b"/" + b"n" * 255, content=b"long name"),
    Node(b"/short", LINK, target=b"s" * 59),
    Node(b"/long", LINK, target=b"l" * 60),
    Node(b"/longest", LINK, target=b"m" * 4095, xattrs={b"trusted.link": b"1"}),
    Node(b"/fifo", stat.S_IFIFO | 0o620, xattrs={b"trusted.fifo": b"1" * 200}),
    Node(b"/socket", stat.S_IFSOCK | 0o620),
    Node(b"/in-inode", xattrs={b"user.a": b"1", b"user.empty": b"", b"security.demo": b"12345"}),
    Node(b"/in-block", content=b"x", xattrs={b"user.big": noise(3000), b"trusted.bigger": noise(900), b"user.s": b"s"}),
    Node(b"/block-name", xattrs={b"user." + b"\xe9" * 200: b"name with high bits", b"user.none" + b"e" * 200: b""}),
    Node(b"/hole-at-end", content=b"start".ljust(50_000, b"\0")),
    Node(b"/only-hole", content=bytes(50_000)),
    Node(b"/four-pieces", content=every_other_block(4)),
    Node(b"/five-pieces", content=every_other_block(5)),
    Node(b"/many-pieces", content=every_other_block(800)),
    Node(b"/many", DIRECTORY | stat.S_ISVTX),
    *[Node(b"/many/%04d-%s" % (n, b"x" * (n % 240)), content=b"%d" % n) for n in range(700)],
]
DELETED = [Node(b"/gone-%d" % n, stat.S_IFREG | 0o755, content=noise(9000, n), deleted=True) for n in range(3)]

HOW = [
    pytest.param(options(), id="one-group"),
    pytest.param(options(wide=True), id="64bit"),
    pytest.param(options(group_blocks=512), id="groups-of-2-MiB"),
    pytest.param(options(wide=True, group_blocks=1032), id="64bit-odd-groups"),
    pytest.param(options(200 * MIB, wide=True), id="two-full-size-groups"),
]


@pytest.mark.parametrize("how", HOW)
def test_fsck_and_debugfs_agree(how: Options, tmp_path: Path) -> None:
    need_tool("e2fsck", "debugfs")
    image = tmp_path / "image"
    numbers = make(image, TREE, how)
    run("e2fsck", "-fn", image)
    facts = expected(TREE)
    plain = [node for node in TREE if node.kind == stat.S_IFREG and not node.path.startswith(b"/many/")]
    contents = dumped(image, [numbers[node.path] for node in plain])
    for node in plain:
        assert contents[numbers[node.path]] == facts[node.path]["content"], node.path
    listing = debugfs(image, [f"ls -p <{numbers[b'/many']}>"])
    listed = [line.split("/")[5].encode() for line in listing.splitlines() if line.startswith("/")]
    assert listed == [b".", b"..", *(path[6:] for path in facts if path.startswith(b"/many/"))]


@pytest.mark.parametrize("how", HOW)
def test_kernel_shows_the_same_tree(how: Options, tmp_path: Path) -> None:
    need_root()
    image = tmp_path / "image"
    numbers = make(image, [*TREE, *DELETED], how)
    with mounted(image, tmp_path / "point") as point:
        assert seen(point) == expected(TREE)
        assert os.stat(os.fsencode(point) + b"/second").st_ino == numbers[b"/etc/first"] == numbers[b"/second"]


def test_kernel_goes_on_writing(tmp_path: Path) -> None:
    """Bitmaps, free counts and the journal are good enough to write with; the orphans are cleared on the way."""
    need_root()
    need_tool("e2fsck")
    image = tmp_path / "image"
    make(image, [*TREE, *DELETED], options(group_blocks=2048))
    with mounted(image, tmp_path / "point", "rw") as point:
        for n in range(300):
            (point / f"new-{n}").write_bytes(noise(n * 50, n))
        shutil.rmtree(point / "many")
        (point / "etc" / "owned").write_bytes(noise(300_000))
    run("e2fsck", "-fn", image)


@pytest.mark.parametrize("count", [1, 3])
def test_deleted_but_open(count: int, tmp_path: Path) -> None:
    need_tool("e2fsck", "debugfs")
    image = tmp_path / "image"
    numbers = make(image, [*TREE, *DELETED[:count]], options())
    first = max(numbers.values()) + 1
    orphans = list(range(first, first + count))
    assert list(dumped(image, orphans).values()) == [node.content for node in DELETED[:count]]
    said = debugfs(image, [f"stat <{number}>" for number in orphans])
    assert said.count("Links: 0 ") == count
    # exit code 4: an orphan that -n leaves alone counts as an error
    assert "clean" not in run("e2fsck", "-fn", image, code=4)
    repaired = run("e2fsck", "-fy", image)
    assert [line.split()[3] for line in repaired.splitlines() if "Clearing orphaned" in line] == [
        str(n) for n in orphans
    ]
    assert "<y>" not in repaired
    assert "FIXED" not in repaired
    run("e2fsck", "-fn", image)


def test_same_bytes_every_time_and_only_in_place() -> None:
    how = options(8 * MIB)
    outs = [io.BytesIO(), io.BytesIO()]
    for out, start in zip(outs, (0, MIB), strict=True):
        write(out, [*TREE[:12], *DELETED], how, start=start)
    alone, behind = (out.getvalue() for out in outs)
    assert behind == bytes(MIB) + alone
    assert len(alone) <= how.size


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([Node(b"relative")], id="relative"),
        pytest.param([Node(b"/a/../b")], id="dot-dot"),
        pytest.param([Node(b"/a//b")], id="empty-name"),
        pytest.param([Node(b"/a\0b")], id="nul"),
        pytest.param([Node(b"/" + b"n" * 256)], id="name-too-long"),
        pytest.param([Node(b"/a/b")], id="no-parent"),
        pytest.param([Node(b"/a"), Node(b"/a/b")], id="parent-is-a-file"),
        pytest.param([Node(b"/a"), Node(b"/a")], id="twice"),
        pytest.param([Node(b"/lost+found", DIRECTORY)], id="lost-and-found"),
        pytest.param([Node(b"/", stat.S_IFREG)], id="root-is-a-file"),
        pytest.param([Node(b"/", DIRECTORY), Node(b"/", DIRECTORY)], id="two-roots"),
        pytest.param([Node(b"/a", DIRECTORY, key="k"), Node(b"/b", key="k")], id="linked-directory"),
        pytest.param([Node(b"/a", key="k"), Node(b"/b", key="k", deleted=True)], id="linked-and-deleted"),
        pytest.param([Node(b"/a", DIRECTORY, deleted=True)], id="deleted-directory"),
        pytest.param([Node(b"/a", LINK)], id="no-target"),
        pytest.param([Node(b"/a", LINK, target=b"t" * 4096)], id="target-too-long"),
        pytest.param([Node(b"/a", LINK, content=b"c")], id="link-with-content"),
        pytest.param([Node(b"/a", target=b"t")], id="file-with-target"),
        pytest.param([Node(b"/a", stat.S_IFBLK | 0o600)], id="device"),
        pytest.param([Node(b"/a", 0o644)], id="no-type"),
        pytest.param([Node(b"/a", uid=-1)], id="uid"),
        pytest.param([Node(b"/a", gid=(1 << 32) - 1)], id="gid"),
        pytest.param([Node(b"/a", mtime_ns=-(1 << 31) * 10**9 - 1)], id="too-early"),
        pytest.param([Node(b"/a", mtime_ns=((1 << 34) - (1 << 31)) * 10**9)], id="too-late"),
        pytest.param([Node(b"/a", xattrs={b"system.posix_acl_access": b""})], id="acl"),
        pytest.param([Node(b"/a", xattrs={b"user.": b""})], id="xattr-without-name"),
        pytest.param([Node(b"/a", xattrs={b"user.big": bytes(4096)})], id="xattrs-too-big"),
        pytest.param([Node(b"/a", content=noise(5 * MIB))], id="content-too-big"),
        pytest.param([Node(b"/%d" % n) for n in range(40_000)], id="too-many-files"),
    ],
)
def test_refused(nodes: list[Node]) -> None:
    with pytest.raises(ValueError):
        write(io.BytesIO(), nodes, options(8 * MIB))


@pytest.mark.parametrize(
    ("size", "label", "time", "group_blocks", "journal_blocks"),
    [
        pytest.param(0, b"", 0, 32768, 1024, id="no-size"),
        pytest.param(8 * MIB + 1, b"", 0, 32768, 1024, id="half-a-block"),
        pytest.param(8 * MIB, b"l" * 17, 0, 32768, 1024, id="label"),
        pytest.param(8 * MIB, b"", 1 << 31, 32768, 1024, id="time"),
        pytest.param(8 * MIB, b"", 0, 32776, 1024, id="group-too-big"),
        pytest.param(8 * MIB, b"", 0, 255, 1024, id="group-too-small"),
        pytest.param(8 * MIB, b"", 0, 32768, 1023, id="journal-too-small"),
        pytest.param(4 * MIB, b"", 0, 32768, 1024, id="all-journal"),
        pytest.param(8 * MIB + 4096, b"", 0, 256, 1024, id="last-group-too-small"),
    ],
)
def test_refused_options(size: int, label: bytes, time: int, group_blocks: int, journal_blocks: int) -> None:
    with pytest.raises(ValueError):
        how = Options(size, UUID(int=0), time, label, group_blocks=group_blocks, journal_blocks=journal_blocks)
        write(io.BytesIO(), [], how)


@pytest.mark.parametrize(
    ("pairs", "runs"),
    [
        pytest.param([], [], id="none"),
        pytest.param([(0, 9), (1, 10)], [Run(0, 9, 2)], id="joined"),
        pytest.param([(0, 9), (2, 10)], [Run(0, 9, 1), Run(2, 10, 1)], id="hole"),
        pytest.param([(0, 9), (1, 11)], [Run(0, 9, 1), Run(1, 11, 1)], id="jump"),
        pytest.param([(0, 0), (1, 1)], [Run(0, 0, 2)], id="from-zero"),
        pytest.param([(n, n) for n in range(32769)], [Run(0, 0, 32768), Run(32768, 32768, 1)], id="longest-extent"),
    ],
)
def test_runs(pairs: list[tuple[int, int]], runs: list[Run]) -> None:
    assert runs_of(pairs) == runs


def test_crc32c_is_the_plain_one_without_the_last_inversion() -> None:
    assert crc32c(0xFFFFFFFF, b"123", b"456789") == 0xE3069283 ^ 0xFFFFFFFF  # the check value of CRC-32C


def test_superblock_copies() -> None:
    assert [group for group in range(60) if has_superblock(group)] == [0, 1, 3, 5, 7, 9, 25, 27, 49]


def names() -> st.SearchStrategy[bytes]:
    return (
        st.binary(min_size=1, max_size=255)
        .map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
        .filter(lambda name: name not in (b".", b".."))
    )


@st.composite
def trees(draw: st.DrawFn) -> list[Node]:
    """Small trees of files, directories and links, in an order in which parents come first."""
    folders = [b""]
    nodes: dict[bytes, Node] = {}
    for _ in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(folders)) + b"/" + draw(names())
        if path in nodes or path == b"/lost+found":
            continue
        kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK]))
        mode = kind | (0o777 if kind == stat.S_IFLNK else draw(st.integers(0, 0o7777)))
        owner = draw(st.integers(0, (1 << 32) - 2))
        mtime_ns = draw(st.integers(-(1 << 31) * 10**9, ((1 << 34) - (1 << 31)) * 10**9 - 1))
        content = noise(draw(st.integers(0, 200_000)), draw(st.integers(0, 9))) if kind == stat.S_IFREG else b""
        target = draw(names()) if kind == stat.S_IFLNK else b""
        keys = st.from_regex(r"(user|trusted)\.[a-z]{1,60}", fullmatch=True)
        xattrs = draw(st.dictionaries(keys, st.binary(max_size=300), max_size=4)) if kind == stat.S_IFREG else {}
        raw = {name.encode(): value for name, value in xattrs.items()}
        nodes[path] = Node(path, mode, owner, (owner * 7) % ((1 << 32) - 1), mtime_ns, content, target, raw)
        if kind == stat.S_IFDIR:
            folders.append(path)
    return list(nodes.values())


FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(nodes=trees(), wide=st.booleans(), group_blocks=st.sampled_from([1024, 4096]))
def test_random_trees_by_e2fsprogs(nodes: list[Node], wide: bool, group_blocks: int, tmp_path: Path) -> None:
    need_tool("e2fsck", "debugfs")
    image = tmp_path / "image"
    numbers = make(image, nodes, options(16 * MIB, wide=wide, group_blocks=group_blocks))
    run("e2fsck", "-fn", image)
    files = {numbers[node.path]: node for node in nodes if node.kind == stat.S_IFREG}
    contents = dumped(image, list(files))
    values = {(n, name): tmp_path / f"{n}-{name.decode()}" for n, node in files.items() for name in node.xattrs}
    debugfs(image, [f"ea_get -f {place} <{n}> {name.decode()}" for (n, name), place in values.items()])
    for number, node in files.items():
        assert contents[number] == node.content
        for name, value in node.xattrs.items():
            assert values[number, name].read_bytes() == value


@FEW
@given(nodes=trees(), wide=st.booleans(), group_blocks=st.sampled_from([1024, 4096]))
def test_random_trees_by_the_kernel(nodes: list[Node], wide: bool, group_blocks: int, tmp_path: Path) -> None:
    need_root()
    image = tmp_path / "image"
    make(image, nodes, options(16 * MIB, wide=wide, group_blocks=group_blocks))
    with mounted(image, tmp_path / "point") as point:
        assert seen(point) == expected(nodes)
