"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# Beyond these the system's own calls refuse the number.
_MOST_SECONDS = 365 * 24 * 3600
_MOST_MEMORY_BYTES = 1 << 50

Disks = Annotated[
    list[Path],
    Argument(metavar="DISK...", help="Disk images (raw, qcow2) or block devices of ONE machine.", show_default=False),
]
Jobs = Annotated[
    int | None,
    Option("--jobs", "-j", min=1, max=64, help="Worker processes; all cores by default.", show_default=False),
]
TimeoutSeconds = Annotated[
    float, Option(min=0.1, max=_MOST_SECONDS, help="Most seconds for the whole machine; what is left then is a gap.")
]
FileTimeoutSeconds = Annotated[
    float, Option(min=0.1, max=_MOST_SECONDS, help="Most seconds for one file; it is a gap then.")
]
MaxMemoryBytes = Annotated[
    int, Option(min=128 << 20, max=_MOST_MEMORY_BYTES, help="Most memory of each process that reads the disk.")
]
