"""Filesystem readers. A new format is one module or folder here and one entry in `FILESYSTEMS`."""

from __future__ import annotations

from scanner.filesystems.base import Filesystem, Reader
from scanner.filesystems.ext import READER as EXT

FILESYSTEMS: tuple[Reader, ...] = (EXT,)

__all__ = ["FILESYSTEMS", "Filesystem", "Reader"]
