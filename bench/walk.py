"""The peer of our reader: a tree that the kernel has mounted, walked and hashed by the standard library.

`python -m bench.walk FOLDER [--list]`. Like ours it reads the content of hard links once.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator

from core.text import escape


def hashes(folder: bytes) -> Iterator[tuple[bytes, str]]:
    """(path, SHA-256 in hex) of every regular file below `folder`; paths start with `/` at `folder`."""
    linked: dict[int, str] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                continue
            digest = linked.get(status.st_ino) if status.st_nlink > 1 else None
            if digest is None:
                with open(path, "rb", buffering=0) as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                if status.st_nlink > 1:
                    linked[status.st_ino] = digest
            yield path[len(folder) :], digest


def main() -> None:
    found = hashes(os.fsencode(sys.argv[1]).rstrip(b"/"))
    if "--list" in sys.argv[2:]:
        for path, digest in found:
            sys.stdout.write(json.dumps([escape(path), digest]) + "\n")
    else:
        sys.stdout.write(f"{sum(1 for _ in found)}\n")


if __name__ == "__main__":
    main()
