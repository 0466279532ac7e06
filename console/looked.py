"""Whether a scan looked at the place of a finding. Only then does not seeing it mean that it is gone: a gap is never a fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from console.report import Read
from core.findings import GapReason

# Of a file that these stand for, other names are not told, nor which files were lost with it.
_SPREADS: Final = frozenset({GapReason.TIMEOUT, GapReason.CRASHED, GapReason.OUT_OF_MEMORY, GapReason.LIMIT})
_NAMES_ONLY: Final = "inventory"


class Looked:
    """What one report says of where the scan was.

    Not looked at, with all that is in it: the machine if it has a gap of its own (findings may be left out, disks not read); a disk
    with a gap; a volume with a gap, without a filesystem that is read, or not there at all (its disk may be missing); of files with a
    gap they themselves and what is below them, and the whole volume where the gap may stand for more than the file it names.
    """

    def __init__(self, report: Read, settings: Mapping[str, Any]) -> None:
        """`settings` are those of the scan's order."""
        disks = {gap.disk for gap in report.gaps if gap.scope == "disk"}
        shut = {gap.volume for gap in report.gaps if gap.scope == "volume"}
        shut |= {gap.volume for gap in report.gaps if gap.scope == "file" and (gap.count > 1 or gap.reason in _SPREADS)}
        self._nowhere = settings.get("scan.depth") == _NAMES_ONLY or any(gap.scope == "machine" for gap in report.gaps)
        self._open = {
            volume.name: volume.index
            for volume in report.volumes
            if volume.read and volume.disk not in disks and volume.index not in shut
        }
        self._rules = report.rules
        self._files = {(gap.volume, gap.path) for gap in report.gaps if gap.scope == "file"}
        # Clones share a UUID and are told apart by their order alone: if one is not read, it is not known which.
        counts = Counter(_uuid(volume.name) for volume in report.volumes)
        closed = {_uuid(volume.name) for volume in report.volumes if volume.name not in self._open}
        self._clones = {name for name, count in counts.items() if count > 1 and name in closed}

    def for_rule(self, rule: str) -> bool:
        """It could have been found at all: an older worker may lack its detector, another may have other rules."""
        return rule in self._rules

    def at(self, volume: str, path: bytes) -> bool:
        """The file, or that there is none, was looked at."""
        index = self._open.get(volume)
        if self._nowhere or index is None or _uuid(volume) in self._clones:
            return False
        while True:
            if (index, path) in self._files:
                return False
            above = path.rpartition(b"/")[0] or b"/"
            if above == path or not path:
                return True
            path = above


def _uuid(name: str) -> str:
    return name.partition("/")[0]
