"""How a file pretends to be a disk. A new format is one module here and one entry in `IMAGES`."""

from __future__ import annotations

from core.blocks import BlockSource
from core.errors import Corrupt, LimitExceeded, Unreadable, Unsupported
from scanner.images.base import HEAD_BYTES, TAIL_BYTES, DiskFile, ImageFormat, OpenBacking
from scanner.images.others import OTHERS, FixedVhd
from scanner.images.qcow2 import Qcow2
from scanner.images.raw import FileSource, Raw

__all__ = ["IMAGES", "MAX_DEPTH", "DiskFile", "FileSource", "ImageFormat", "OpenBacking", "open_image"]

IMAGES: tuple[ImageFormat, ...] = (
    Qcow2(),
    *OTHERS,
    FixedVhd(),
    Raw(),
)  # in the order of probing; raw takes what is left
MAX_DEPTH = 16  # backing files below the image

_AS_RAW = {"file", "host_device"}  # what QEMU's protocol layers are called when they stand for raw


def open_image(file: DiskFile, open_backing: OpenBacking, *, image_format: str | None = None) -> BlockSource:
    """The disk inside `file`; its format is probed unless `image_format` (a name of `IMAGES`) gives it.

    Probing trusts bytes that a guest can write: on a raw disk, root of that machine may put the header of another
    format in front. QEMU has the same weakness. Two things limit it: a file with a partition table where a raw disk has
    one is raw whatever its first bytes say, and `open_backing` decides which files a header may name at all (it raises
    `Unsupported`, `Unreadable` or `ConfigError`). A backing file that comes with a format is read as that format, so a
    raw one stays raw; without a format it is probed, as QEMU does. A caller who knows the format should say it.

    Raises `Corrupt`, `Unsupported`, `Encrypted`, `Unreadable`, and `LimitExceeded` for a chain of more than 16 backing
    files, which a loop of them is, too.
    """
    return _open(file, open_backing, image_format, 0)


def _open(file: DiskFile, open_backing: OpenBacking, image_format: str | None, depth: int) -> BlockSource:
    def open_parent(name: str, parent_format: str | None) -> BlockSource:
        if depth >= MAX_DEPTH:
            raise LimitExceeded(f"more than {MAX_DEPTH} backing files below the image, or a loop of them")
        return _open(open_backing(name), open_backing, parent_format, depth + 1)

    return _format_of(file, image_format).open(file, open_parent)


def _format_of(file: DiskFile, image_format: str | None) -> ImageFormat:
    head = bytes(file.read(0, HEAD_BYTES))
    try:
        tail = bytes(file.read(max(0, file.size - TAIL_BYTES), TAIL_BYTES))
    except Unreadable:
        tail = b""  # a device that fails at its end may still be read up to there
    raw = IMAGES[-1]
    if image_format is None:
        # the last two refuse nothing that a raw disk can hold
        candidates = IMAGES[-2:] if _is_surely_raw(head) else IMAGES
        return next(image for image in candidates if image.probe(head, tail))
    if image_format == raw.name or image_format in _AS_RAW:
        return raw
    named = [image for image in IMAGES if image.name == image_format]
    if not named:
        raise Unsupported(f"the image format {image_format[:40]!r} is not known")
    for image in named:
        if image.probe(head, tail):
            return image
    raise Corrupt(f"the image is said to be {image_format}, but does not look like it")


def _is_surely_raw(head: bytes) -> bool:
    """A GPT header, an MBR with at least one partition, or an ext superblock stands where only a raw disk has it."""
    superblock = head[1024:2048]
    if superblock[56:58] == b"\x53\xef" and superblock[24] <= 6 and any(superblock[:4]) and any(superblock[32:36]):
        return True  # ext leaves the first 1024 bytes free: the machine's root could write any image header there
    if b"EFI PART" in {head[512:520], head[4096:4104]}:
        return True
    entries = [head[at : at + 16] for at in range(446, 510, 16)]
    return (
        head[510:512] == b"\x55\xaa"
        and all(entry[0] in {0, 0x80} for entry in entries)
        and any(any(entry[12:16]) for entry in entries)
    )
