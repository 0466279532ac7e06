"""Where the metadata of an ext image is, by what dumpe2fs and debugfs say: no part of our reader is asked."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.scanner.filesystems.machine import run

JOURNAL_INODE = 8
_SPAN = re.compile(r"\(([A-Z0-9-]+)(?:\[u\])?\):(\d+)(?:-(\d+))?")


@dataclass
class Layout:
    """Regions as (offset, length) in bytes; `inodes` is where each used inode's record is, by its number."""

    block: int
    inode_size: int
    regions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    inodes: dict[int, int] = field(default_factory=dict)
    directories: set[int] = field(default_factory=set)

    def add(self, region: str, blocks: Iterable[int]) -> None:
        self.regions.setdefault(region, []).extend((number * self.block, self.block) for number in blocks)


def find_layout(image: Path) -> Layout:
    """Of every inode that has a name or is reserved for the journal. Raises `Failed` if the programs do."""
    said = run("dumpe2fs", image).decode("utf-8", "replace")
    layout = Layout(_number(r"^Block size: +(\d+)", said), _number(r"^Inode size:\s+(\d+)", said))
    per_group = _number(r"^Inodes per group: +(\d+)", said)
    layout.regions["superblock"] = [(1024, 1024)]
    tables = [int(found) for found in re.findall(r"Inode table at (\d+)", said)]
    for region, pattern in (
        ("descriptors", r"Group descriptors at (\d+)-(\d+)"),
        ("block bitmap", r"Block bitmap at (\d+)"),
        ("inode bitmap", r"Inode bitmap at (\d+)"),
    ):
        for found in re.finditer(pattern, said):
            layout.add(region, [int(found[1])])
    for group, table in enumerate(tables):
        for index in range(per_group):
            layout.inodes[group * per_group + index + 1] = table * layout.block + index * layout.inode_size
    _keep_used(image, layout)
    layout.regions["inode"] = [(offset, layout.inode_size) for offset in layout.inodes.values()]
    return layout


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said, re.MULTILINE)
    assert found, f"{pattern} is not in what dumpe2fs said"
    return int(found[1])


def _keep_used(image: Path, layout: Layout) -> None:
    """Forget the inodes that no file has, and note the blocks of the others."""
    with image.open("rb") as stream:
        for inode, offset in list(layout.inodes.items()):
            stream.seek(offset)
            mode, links = struct.unpack("<H24xH", stream.read(28))
            if not links or not mode:
                del layout.inodes[inode]
            elif mode >> 12 == 4:
                layout.directories.add(inode)
    script = "".join(f"stat <{inode}>\n" for inode in layout.inodes).encode()
    parts = run("debugfs", "-f", "/dev/stdin", image, stdin=script).decode("utf-8", "replace").split("debugfs: stat <")
    for part in parts[1:]:
        inode = int(part.split(">", 1)[0])
        acl = re.search(r"File ACL: (\d+)", part)
        if acl and int(acl[1]):
            layout.add("xattr", [int(acl[1])])
        for kind, first, last in _SPAN.findall(re.split(r"(?:EXTENTS|BLOCKS):\n", part, maxsplit=1)[-1]):
            blocks = range(int(first), int(last or first) + 1)
            if kind.startswith(("ETB", "IND", "DIND", "TIND")):
                layout.add("mapping", blocks)
            elif inode == JOURNAL_INODE:
                layout.add("journal", list(blocks)[:64])
            elif inode in layout.directories:
                layout.add("directory", blocks)
