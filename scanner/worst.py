"""The worst findings of a scan, bounded: a hostile disk can hold millions of files of which each is one."""

from __future__ import annotations

from collections.abc import Iterator

from core.findings import Finding, Severity


class Worst:
    """At most `most` findings, of at most `most_bytes` together; of one severity the first. In the order in which they came."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._room = most_bytes
        self._came = 0
        self._kept: dict[Severity, list[tuple[int, int, Finding]]] = {one: [] for one in Severity}  # the mildest first

    def add(self, finding: Finding, size_bytes: int) -> bool:
        """False: this one or others, none of them worse, are left out now."""
        self._came += 1
        self._room -= size_bytes
        self._kept[finding.rule.severity].append((self._came, size_bytes, finding))
        fits = True
        while len(self) > self._most or self._room < 0:
            mildest = next(some for some in self._kept.values() if some)
            self._room += mildest.pop()[1]
            fits = False
        return fits

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def __iter__(self) -> Iterator[Finding]:
        for _, _, finding in sorted((one for some in self._kept.values() for one in some), key=lambda one: one[0]):
            yield finding
