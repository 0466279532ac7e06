"""Ten thousand damaged ext images and more: `make soak`, which keeps the line that this prints in docs/soak.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.need import need_tool
from tests.scanner.filesystems.hostile_images import KINDS, damage_kind

MUTATIONS, TRUNCATIONS = 950, 60  # of each of the kinds of image
FIRST_SEED = 1_000_000  # others than the short test has


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_ext_mutations(tmp_path: Path) -> None:
    need_tool("mke2fs", "debugfs", "dumpe2fs")
    total: Counter[str] = Counter()
    broken: list[str] = []
    for name in KINDS:
        outcome = damage_kind(name, tmp_path / name, MUTATIONS, TRUNCATIONS, FIRST_SEED)
        total.update(outcome.counts)
        broken += [f"{name}: {line}" for line in outcome.broken]
    told = ", ".join(f"{count} {what}" for what, count in sorted(total.items()))
    print(f"\next: {sum(total.values())} damaged images of {len(KINDS)} kinds: {told}; {len(broken)} failures")
    assert sum(total.values()) >= 10_000
    assert not broken, "\n".join(broken[:50])
