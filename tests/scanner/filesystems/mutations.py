"""Seeded damage to the metadata of an ext image: random bytes, and lies that a format-aware attacker would tell."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.scanner.filesystems.layout import Layout

Patch = tuple[int, bytes]
EXTENT_MAGIC = 0xF30A


def random_bytes(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """1 to 12 bytes in regions that are picked alike, however large they are."""
    patches = []
    regions = sorted(layout.regions)
    for _ in range(dice.randint(1, 12)):
        offset, length = dice.choice(layout.regions[dice.choice(regions)])
        patches.append((offset + dice.randrange(length), dice.randbytes(1)))
    return patches


def lying_field(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """A field of 2 or 4 bytes becomes nothing, everything, one more, one less, or another inode."""
    region = dice.choice(sorted(layout.regions))
    offset, length = dice.choice(layout.regions[region])
    width = dice.choice([2, 4])
    at = offset + dice.randrange(min(length, 512 if dice.random() < 0.7 else length) // width) * width
    old = int.from_bytes(image[at : at + width], "little")
    top = (1 << 8 * width) - 1
    new = dice.choice(
        [0, top, old + 1, old - 1, old ^ (1 << dice.randrange(8 * width)), dice.choice(list(layout.inodes))]
    )
    return [(at, (new & top).to_bytes(width, "little"))]


def _entry(dice: random.Random, image: bytearray, layout: Layout) -> int:
    """The offset of some directory entry."""
    offset, length = dice.choice(layout.regions["directory"])
    found, at = [], offset
    while at + 8 <= offset + length:
        found.append(at)
        (step,) = struct.unpack_from("<H", image, at + 4)
        if step < 8:
            break
        at += step
    return dice.choice(found)


def directory_loop(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """An entry leads to the root or to another directory, which may be its own ancestor."""
    target = dice.choice([2, *layout.directories])
    return [(_entry(dice, image, layout), struct.pack("<I", target))]


def directory_entry(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """A length of 0 or beyond the block, a name with `/` or NUL in it or named `..`, an inode that cannot be."""
    at = _entry(dice, image, layout)
    return [
        dice.choice(
            [
                (at + 4, struct.pack("<H", dice.choice([0, 1, 4, 7, 9, 0x7FFC, 0xFFFF]))),
                (at + 8 + dice.randrange(3), dice.choice([b"/", b"\0", b"../"])),
                (at + 6, dice.choice([b"\0", b"\xff", b"\x01"])),
                (at, struct.pack("<I", dice.choice([0, 1, 7, 8, 0x7FFFFFFF, 0xFFFFFFFF]))),
            ]
        )
    ]


def inode_field(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """Type, size, links, flags, attribute block or block map of one inode."""
    base = layout.inodes[dice.choice(list(layout.inodes))]
    (flags,) = struct.unpack_from("<I", image, base + 32)
    (mode,) = struct.unpack_from("<H", image, base)
    return dice.choice(
        [
            [(base, struct.pack("<H", mode & 0xFFF | dice.randrange(16) << 12))],
            [
                (base + 4, b"\xff" * 4),
                (base + 108, struct.pack("<I", dice.choice([0, 1, 0x100, 0x7FFFFFFF, 0xFFFFFFFF]))),
            ],
            [(base + 4, struct.pack("<I", dice.choice([0, 1, 59, 60, 61, 1 << 20, 0x7FFFFFFF])))],
            [(base + 26, struct.pack("<H", dice.choice([0, 1, 2, 0xFFFF])))],
            [(base + 32, struct.pack("<I", flags ^ dice.choice([0x80000, 0x10000000, 0x1000, 0x800, 0x200000, 0x4])))],
            [(base + 104, struct.pack("<I", dice.choice([0, 1, 2, layout.block, 0xFFFFFFFF])))],
            [
                (
                    base + 40 + dice.randrange(15) * 4,
                    struct.pack("<I", dice.choice([0, 1, 2, 0xFFFFFFFF, dice.randrange(1 << 14)])),
                )
            ],
            [(base + 128, struct.pack("<H", dice.choice([0, 1, 3, 32, 0x7FFF, 0xFFFF])))],
            [(base + 40, dice.randbytes(60))],
        ]
    )


def looping_map(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """A block of an extent tree or of indirect pointers leads back to itself, or repeats its first entry."""
    offset, length = dice.choice(layout.regions.get("mapping") or layout.regions["directory"])
    own = struct.pack("<I", offset // layout.block)
    (magic, used) = struct.unpack_from("<HH", image, offset)
    if magic != EXTENT_MAGIC:
        return [(offset, own * (length // 4))]
    if dice.random() < 0.5:
        return [(offset + 6, struct.pack("<H", 1)), (offset + 16, own + b"\0\0")]
    first = bytes(image[offset + 12 : offset + 24])
    return [(offset + 12 + 12 * number, first) for number in range(1, max(used, 2))]


def inode_extents(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """An extent tree in an inode that is too deep, counts too much, overlaps itself or lies outside the disk."""
    base = layout.inodes[dice.choice(list(layout.inodes))] + 40
    if struct.unpack_from("<H", image, base)[0] != EXTENT_MAGIC:
        return [(base + 48, struct.pack("<III", *[dice.randrange(1 << 14)] * 3))]
    return dice.choice(
        [
            [(base + 6, struct.pack("<H", dice.choice([1, 2, 5, 6, 0xFFFF])))],
            [(base + 2, struct.pack("<HH", dice.choice([0, 4, 5, 340, 0xFFFF]), dice.choice([4, 0xFFFF])))],
            [(base + 2, struct.pack("<H", 2)), (base + 24, bytes(image[base + 12 : base + 24]))],
            [
                (
                    base + 12,
                    struct.pack("<IHHI", 0, dice.choice([0, 0x8000, 0x8001, 0xFFFF]), 0, dice.randrange(1 << 14)),
                )
            ],
            [(base + 12, struct.pack("<IHHI", dice.choice([1, 0xFFFFFFFF]), 8, dice.choice([0, 0xFFFF]), 0xFFFFFFFF))],
        ]
    )


def attribute(dice: random.Random, image: bytearray, layout: Layout) -> list[Patch]:
    """Values outside the block, names that overlap the values, sizes and counts that lie."""
    base = layout.inodes[dice.choice(list(layout.inodes))]
    places = [offset + 32 for offset, _ in layout.regions.get("xattr", [])]
    if layout.inode_size > 160:
        places.append(base + 160 + 4)
    if not places:
        return lying_field(dice, image, layout)
    at = dice.choice(places)
    return [
        dice.choice(
            [
                (at, dice.choice([b"\xff", b"\x00", b"\x01"])),
                (at + 1, dice.choice([b"\x00", b"\x07", b"\xff"])),
                (at + 2, struct.pack("<H", dice.choice([0, 1, 0xFFF0, 0xFFFF]))),
                (at + 4, struct.pack("<I", dice.choice([1, 2, 8, 0xFFFFFFFF]))),
                (at + 8, struct.pack("<I", dice.choice([1 << 16, 0x7FFFFFFF, 0xFFFFFFFF]))),
                (at - 4, struct.pack("<I", 0xEA020000)),
            ]
        )
    ]


Mutation = Callable[[random.Random, bytearray, Layout], list[Patch]]
MUTATIONS: tuple[Mutation, ...] = (
    random_bytes,
    random_bytes,
    random_bytes,
    lying_field,
    lying_field,
    directory_loop,
    directory_entry,
    inode_field,
    inode_field,
    looping_map,
    inode_extents,
    attribute,
)


def mutate(seed: int, image: bytearray, layout: Layout) -> tuple[str, list[Patch]]:
    """The mutation of `seed`: its name, and what it writes where. Patches never go beyond the image."""
    dice = random.Random(seed)
    chosen = dice.choice(MUTATIONS)
    patches = chosen(dice, image, layout)
    return chosen.__name__, [(offset, data) for offset, data in patches if offset + len(data) <= len(image)]
