"""Partition tables for the tests: made by sfdisk, or by hand where they are to be wrong."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

from core.blocks import BlockSource, MemorySource
from core.findings import Gap
from scanner.volumes import Volume, find_volumes

MIB = 1 << 20


def run(*command: str | Path, text: str | None = None) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(part) for part in command],
        check=True,
        capture_output=True,
        timeout=60,
        input=text,
        text=True,
        env=environment,
    )
    return done.stdout


def sfdisk(path: Path, script: str, size: int) -> bytes:
    """With `--no-tell-kernel`, without which sfdisk (and sgdisk always) flushes every filesystem of the machine."""
    with path.open("wb") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path, text=script)
    return path.read_bytes()


def by_sfdisk(path: Path) -> list[dict[str, Any]]:
    out = run("sfdisk", "--json", path)
    found: list[dict[str, Any]] = json.loads(out)["partitiontable"]["partitions"]
    return found


def find(disk: bytes | bytearray | BlockSource) -> tuple[list[Volume], list[Gap]]:
    return find_volumes([MemorySource(bytes(disk)) if isinstance(disk, bytes | bytearray) else disk])


def places(volumes: list[Volume]) -> list[tuple[int, int, int]]:
    return [(volume.number, volume.start, volume.length) for volume in volumes]


def assembled(size: int, pieces: dict[int, bytes]) -> bytes:
    disk = bytearray(size)
    for sector, piece in pieces.items():
        disk[sector * 512 : sector * 512 + len(piece)] = piece
    return bytes(disk)


def boot_record(*entries: tuple[int, int, int, int], start: bytes = b"") -> bytes:
    packed = b"".join(struct.pack("<B3xB3xII", *one) for one in entries)
    return start.ljust(446, b"\0") + packed.ljust(64, b"\0") + b"\x55\xaa"


def entry(first: int, last: int, kind: bytes = b"k" * 16) -> bytes:
    return struct.pack(
        "<16s16sQQQ72s", kind, b"u" * 16, first, last, 0, "n\ud800x".encode("utf-16-le", "surrogatepass")
    )


def sealed(disk: bytes | bytearray, header_at: int, entries_at: int, entries: bytes, **header: int) -> bytearray:
    """The disk with other entries in one copy, and right checksums."""
    changed = bytearray(disk)
    changed[entries_at : entries_at + len(entries)] = entries
    count = header.get("count", 128)
    each = header.get("each", 128)
    struct.pack_into("<II", changed, header_at + 80, count, each)
    array = bytes(changed[entries_at : entries_at + min(count * each, 5 * MIB)])
    struct.pack_into("<I", changed, header_at + 88, zlib.crc32(array))
    size = header.get("size", 92)
    struct.pack_into("<II", changed, header_at + 12, size, 0)
    struct.pack_into("<I", changed, header_at + 16, zlib.crc32(changed[header_at : header_at + min(size, 512)]))
    return changed


GPT = """label: gpt
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="boot"
start=3MiB, size=2MiB, type=linux, name="wurzel \u6839"
start=8MiB, size=1MiB, type=swap
"""


RIGHT = [(1, MIB, MIB), (2, 3 * MIB, 2 * MIB), (3, 8 * MIB, MIB)]


LAST = 16 * MIB - 512


EXT = assembled(MIB, {2: struct.pack("<II16xI12xI12xHH20xI", 16, 1024, 0, 8192, 0xEF53, 1, 1)})
