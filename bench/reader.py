"""Our ext4 reader alone, in one process, without sandbox and command line:

`python -m bench.reader IMAGE [--inodes FILE] [--search]`. With `--search` the contents are also searched for the built-in rules.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

from core.blocks import Counted
from core.findings import Gap
from definitions import builtin_rules
from scanner.detectors.content import Content, read_content
from scanner.engine import Engine
from scanner.filesystems.ext import READER
from scanner.images import FileSource
from scanner.scan import sha256


def hash_all(image: Path, chosen: frozenset[int] | None = None, engine: Engine | None = None) -> int:
    """Hash (and search) the content of every regular file (of these inodes, if given) once; returns how many names they have."""
    names = 0
    before = 0
    with FileSource.open(image) as disk:
        filesystem = READER.open(disk, 0)
        for file in filesystem.files(0, filesystem.index()):
            if (
                isinstance(file, Gap)
                or not stat.S_ISREG(file.mode)
                or (chosen is not None and file.inode not in chosen)
            ):
                continue
            names += 1
            if file.inode != before:  # names of one inode follow each other
                before = file.inode
                sha256(file)
                if engine is not None and file.size:
                    content = read_content(file, 1 << 30)
                    assert isinstance(content, Content)
                    engine.match(content.data)
    return names


def listing_bytes(image: Path) -> tuple[int, int]:
    """(names, bytes read from the image) when every name and inode is listed and no content is read."""
    with FileSource.open(image) as disk:
        counted = Counted(disk)
        filesystem = READER.open(counted, 0)
        names = sum(1 for item in filesystem.files(0, filesystem.index()) if not isinstance(item, Gap))
        return names, counted.bytes_read


if __name__ == "__main__":
    only = frozenset(json.loads(Path(sys.argv[3]).read_text())) if "--inodes" in sys.argv[2:] else None
    search = Engine(builtin_rules(), little=True) if "--search" in sys.argv else None
    sys.stdout.write(f"{hash_all(Path(sys.argv[1]), only, search)}\n")
