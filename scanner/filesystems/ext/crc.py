"""The checksums of ext4 and jbd2, in the kernel's raw form: no inversion at the start or the end."""

from __future__ import annotations

import zlib

import google_crc32c

from core.blocks import Bytes

MASK = 0xFFFFFFFF
_REVERSED_BYTES = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def crc32c(seed: int, data: Bytes) -> int:
    """CRC-32C of `data`, going on from `seed` (the kernel's `crc32c_le`)."""
    return google_crc32c.extend(seed ^ MASK, data if type(data) is bytes else bytes(data)) ^ MASK  # type: ignore[no-any-return]


def crc32_be(seed: int, data: Bytes) -> int:
    """CRC-32 most significant bit first (the kernel's `crc32_be`): the reflected one over reflected bytes."""
    return _reverse32(zlib.crc32(bytes(data).translate(_REVERSED_BYTES), _reverse32(seed) ^ MASK) ^ MASK)


def _reverse32(value: int) -> int:
    return int(f"{value:032b}"[::-1], 2)


def crc16(seed: int, data: Bytes) -> int:
    """CRC-16 (polynomial 0xA001), used by `uninit_bg` group descriptors without `metadata_csum`."""
    for byte in bytes(data):
        seed ^= byte
        for _ in range(8):
            seed = (seed >> 1) ^ 0xA001 if seed & 1 else seed >> 1
    return seed
