from __future__ import annotations

from typing import Any

import pytest

from console.looked import Looked
from console.report import read_report
from tests.console.made import UUID, gap, packed, report, volume

OTHER = "6e6b8d1c-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    ("gaps", "volumes", "settings", "looked"),
    [
        pytest.param([], [volume()], {}, True, id="all"),
        pytest.param([], [volume(), volume(1, OTHER, filesystem=None)], {}, True, id="another-volume-is-not-read"),
        pytest.param([gap("machine")], [volume()], {}, False, id="machine"),
        pytest.param([gap("machine", accepted=True)], [volume()], {}, False, id="an-accepted-gap-is-a-gap"),
        pytest.param([gap("disk")], [volume()], {}, False, id="disk"),
        pytest.param([gap("disk", disk=1)], [volume(), volume(1, OTHER, disk=1)], {}, True, id="another-disk"),
        pytest.param([gap("volume")], [volume()], {}, False, id="volume"),
        pytest.param([gap("volume", volume=1)], [volume(), volume(1, OTHER)], {}, True, id="another-volume"),
        pytest.param([], [], {}, False, id="volume-is-not-there"),
        pytest.param([], [volume(uuid=OTHER)], {}, False, id="made-anew"),
        pytest.param([], [volume(filesystem=None)], {}, False, id="not-read"),
        pytest.param([gap(path=b"/etc/shadow")], [volume()], {}, False, id="file"),
        pytest.param([gap(path=b"/etc")], [volume()], {}, False, id="folder"),
        pytest.param([gap(path=b"/")], [volume()], {}, False, id="root"),
        pytest.param([gap(path=b"/etc/shadow-")], [volume()], {}, True, id="another-file"),
        pytest.param([gap(path=b"/etc/sha")], [volume()], {}, True, id="a-name-that-begins-alike"),
        pytest.param([gap(path=b"/x", count=2)], [volume()], {}, False, id="a-file-that-stands-for-more"),
        pytest.param([gap(reason="crashed", path=b"/x")], [volume()], {}, False, id="crashed-at-a-file"),
        pytest.param([gap(reason="file_too_large", path=b"/x")], [volume()], {}, True, id="a-large-file"),
        pytest.param([gap(path=b"/etc/shadow", volume=1)], [volume(), volume(1, OTHER)], {}, True, id="file-elsewhere"),
        pytest.param([], [volume(), volume(1, UUID)], {}, True, id="clones-both-read"),
        pytest.param([], [volume(), volume(1, UUID, filesystem=None)], {}, False, id="one-of-two-clones"),
        pytest.param([], [volume()], {"scan.depth": "inventory"}, False, id="names-only"),
        pytest.param([], [volume()], {"scan.depth": "changed"}, True, id="changed"),
    ],
)
def test_a_gap_is_never_a_look(gaps: list[Any], volumes: list[Any], settings: dict[str, Any], looked: bool) -> None:
    read = read_report(packed(report([], gaps, volumes)))
    assert Looked(read, settings).at(UUID, b"/etc/shadow") is looked


@pytest.mark.parametrize("path", [b"", b"/", b"x", b"x/y", b"//", b"/\x00/\xff"])
def test_any_path_is_answered(path: bytes) -> None:
    assert Looked(read_report(packed(report())), {}).at(UUID, path) is True
