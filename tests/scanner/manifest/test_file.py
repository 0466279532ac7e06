from __future__ import annotations

import io
import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from core.blocks import MemorySource
from core.errors import Corrupt, Error, Unsupported
from scanner.manifest.block import Row, encode
from scanner.manifest.file import FORMAT_VERSION, Reader, Writer

ROOT = Path(__file__).resolve().parents[3]


def row(inode: int, path: bytes = b"", sha256: bytes = b"") -> Row:
    return Row(
        *(inode, (path or b"/f%d" % inode,), 0o100644, 0, 0, 5, 0, 1, False, sha256, b""),
        *(((4096, 5),), (), True, b""),
    )


def written(volumes: dict[int, list[list[Row]]], facts: dict[str, object] | None = None) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream)
    for volume, groups in volumes.items():
        for rows in groups:
            writer.add(volume, rows[0].inode, rows[-1].inode, len(rows), encode(rows))
    writer.finish(facts or {"scan": "a"})
    return stream.getvalue()


def read(raw: bytes) -> dict[int, list[Row]]:
    reader = Reader(MemorySource(raw))
    return {
        volume: [block.row(at) for block in reader.blocks(volume) for at in range(len(block))]
        for volume in reader.volumes()
    }


VOLUMES = {
    0: [[row(number) for number in range(at, at + 100)] for at in range(1, 9000, 100)],
    3: [[row(2)], [row(7), row(9)]],
}


def test_what_was_written_is_read() -> None:
    raw = written(VOLUMES, {"a": "\ud800", "n": [1]})
    assert read(raw) == {volume: [one for rows in groups for one in rows] for volume, groups in VOLUMES.items()}
    reader = Reader(MemorySource(raw))
    assert reader.facts == {"a": "\ud800", "n": [1]}
    assert reader.rows == 9003
    assert [chunk.first for chunk in reader.chunks(0)] == [1, 4001, 8001]


def test_an_empty_one() -> None:
    assert read(written({})) == {}


def test_every_cut_is_refused() -> None:
    raw = written({0: [[row(number) for number in range(1, 300)]]})
    for end in range(0, len(raw), 97):
        with pytest.raises(Corrupt, match=r"cut short|damaged|no manifest"):
            Reader(MemorySource(raw[:end]))


def test_every_damaged_byte_is_seen() -> None:
    raw = written({0: [[row(number) for number in range(1, 300)]]})
    chance = random.Random(3)
    for _ in range(1000):
        damaged = bytearray(raw)
        at = chance.randrange(len(damaged))
        damaged[at] ^= 1 << chance.randrange(8)
        with pytest.raises(Error):
            Reader(MemorySource(bytes(damaged)))


def test_another_version_is_named() -> None:
    raw = bytearray(written({}))
    raw[8] = 99
    with pytest.raises(Unsupported, match=rf"version 99, .* version {FORMAT_VERSION}"):
        Reader(MemorySource(bytes(raw)))


def test_a_manifest_made_by_an_enemy() -> None:
    """Whole, with a right checksum, and full of lies: errors of ours, or rows."""
    chance = random.Random(5)
    for _ in range(300):
        stream = io.BytesIO()
        writer = Writer(stream)
        block = bytearray(encode([row(number) for number in range(1, 60)]))
        for _ in range(chance.randrange(4)):
            block[chance.randrange(len(block))] = chance.randrange(256)
        writer.add(
            chance.choice((0, 1 << 60)),
            chance.randrange(9),
            chance.randrange(90),
            chance.randrange(1, 5000),
            bytes(block),
        )
        writer.finish({})
        try:
            read(stream.getvalue())
        except Error:
            continue


MILLION = """
import io, json, os, random, resource, sys, time
from core.blocks import MemorySource
from scanner.images import FileSource
from scanner.manifest.block import Row, encode
from scanner.manifest.file import Reader, Writer
path, what = sys.argv[1:]
if what == "write":
    chance = random.Random(1)
    began = time.process_time()
    with open(path, "wb") as stream:
        writer = Writer(stream)
        for at in range(0, 1_000_000, 500):
            rows = [
                Row(12 + n, (b"/srv/data/group-%03d/folder-%03d/document-%07d.txt" % (n // 20000, n // 200 % 100, n),),
                    0o100644, 1000, 1000, chance.randrange(4000), 1_700_000_000_000_000_000 + n * 40_000_000
                    + chance.randrange(40_000_000), 1, False, chance.randbytes(32), b"",
                    ((4096 * (9000 + n), 4096),), (), True, b"", chance.randbytes(8))
                for n in range(at, at + 500)
            ]
            writer.add(0, rows[0].inode, rows[-1].inode, len(rows), encode(rows))
        writer.finish({})
else:
    began = time.process_time()
    with FileSource.open(path, mapped=False) as source:
        count = sum(len([block.row(at) for at in range(len(block))]) for block in Reader(source).blocks(0))
    assert count == 1_000_000
used = time.process_time() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))  # since exec, unlike ru_maxrss
print(json.dumps([used, int(peak.split()[1])]))
"""


@pytest.mark.slow
def test_a_million_files_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    for what in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", MILLION, str(path), what], cwd=ROOT, capture_output=True, check=True, timeout=300
        )
        used, peak = json.loads(done.stdout)
        print(f"{what}: {used:.1f} us per file, {peak / 1000:.0f} MB, {path.stat().st_size / 1e6:.1f} bytes per file")
        assert peak * 1024 <= 100e6
    assert path.stat().st_size <= 60e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
