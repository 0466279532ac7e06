"""The hashes of the files in a block of a manifest, without taking its rows apart."""

from __future__ import annotations

import stat
from typing import Final

from scanner.manifest.block import Block

SHA256_BYTES: Final = 32


def hashes_in(raw: bytes) -> bytes:
    """SHA-256 of all regular files that were hashed, one after another; of deleted ones that are still on the disk, too. Raises `Corrupt`."""
    block = Block(raw)
    return b"".join(block.sha256(at) for at in range(len(block)) if stat.S_ISREG(block.mode(at)))
