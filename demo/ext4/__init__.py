"""Writes small ext4 filesystems from a tree in memory: no root, no external program, the same bytes every time.

What it makes: 4 KiB blocks, 256-byte inodes, extents, a clean journal, linear directories, checksums over all metadata.
Source: Linux kernel documentation, "ext4 Data Structures and Algorithms" (Documentation/filesystems/ext4).
"""

from demo.ext4.layout import Options
from demo.ext4.tree import Node
from demo.ext4.writer import write

__all__ = ["Node", "Options", "write"]
