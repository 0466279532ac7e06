"""Other people's view of a filesystem we wrote: e2fsck, debugfs and the kernel."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from demo.ext4 import Node, Options, write

MIB = 1 << 20
TIME = 1_700_000_000
TREE_UUID = UUID("00112233-4455-4677-8899-aabbccddeeff")
SBIN = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}


def options(size: int = 32 * MIB, *, wide: bool = False, group_blocks: int = 32768) -> Options:
    return Options(size, TREE_UUID, TIME, b"a label", wide=wide, group_blocks=group_blocks)


def make(image: Path, nodes: Sequence[Node], how: Options) -> dict[bytes, int]:
    """Write an image of its own file; inode numbers by path."""
    with image.open("wb") as out:
        out.truncate(how.size)
        return write(out, nodes, how)


def run(*command: str | Path, code: int = 0) -> str:
    """What a program said; an exit code other than `code` fails the test and shows it."""
    done = subprocess.run(command, env=SBIN, capture_output=True)
    said = done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")
    assert done.returncode == code, said
    return said


def debugfs(image: Path, commands: Sequence[str]) -> str:
    """What debugfs says to `commands`, one after the other."""
    script = image.with_suffix(".debugfs")
    script.write_text("\n".join(commands) + "\n")
    return run("debugfs", "-f", script, image)


def dumped(image: Path, numbers: Sequence[int]) -> dict[int, bytes]:
    """The content of inodes, by debugfs."""
    places = {number: image.with_suffix(f".{number}") for number in numbers}
    debugfs(image, [f"dump <{number}> {place}" for number, place in places.items()])
    return {number: place.read_bytes() for number, place in places.items()}


@contextmanager
def mounted(image: Path, point: Path, how: str = "ro") -> Iterator[Path]:
    """The image, mounted by the kernel through a loop device."""
    point.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", "-o", f"loop,{how}", image, point)
    try:
        yield point
    finally:
        run("umount", point)


Facts = Mapping[str, object]


def expected(nodes: Sequence[Node]) -> dict[bytes, Facts]:
    """What a reader must say of `nodes`, by path; what hard links share comes from the first of them."""
    first: dict[str, Node] = {}
    for node in nodes:
        if node.key:
            first.setdefault(node.key, node)
    facts: dict[bytes, Facts] = {}
    for node in nodes:
        if node.deleted:
            continue
        source = first.get(node.key, node)
        below = [other for other in nodes if not other.deleted and other.path.rpartition(b"/")[0] == node.path]
        folders = sum(other.kind == stat.S_IFDIR for other in below)
        names = sum(other.key == node.key for other in nodes) if node.key else 1
        facts[node.path] = {
            "mode": source.mode,
            "owner": (source.uid, source.gid),
            "mtime_ns": source.mtime_ns,
            "links": 2 + folders if node.kind == stat.S_IFDIR else names,
            "content": source.target or source.content,
            "xattrs": dict(source.xattrs),
        }
    return facts


def seen(point: Path) -> dict[bytes, Facts]:
    """The same of a mounted filesystem, root and lost+found left out."""
    top = os.fsencode(point)
    facts: dict[bytes, Facts] = {}
    for folder, folders, files in os.walk(top):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            status = os.lstat(path)
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            names = os.listxattr(path, follow_symlinks=False)
            facts[path[len(top) :]] = {
                "mode": status.st_mode,
                "owner": (status.st_uid, status.st_gid),
                "mtime_ns": status.st_mtime_ns,
                "links": status.st_nlink,
                "content": content,
                "xattrs": {os.fsencode(n): os.getxattr(path, n, follow_symlinks=False) for n in names},
            }
    del facts[b"/lost+found"]
    return facts
