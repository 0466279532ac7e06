"""Fixtures for the volume tests."""

from __future__ import annotations

import pytest

from tests.need import need_tool
from tests.scanner.volumes.tables import (
    GPT,
    MIB,
    sfdisk,
)


@pytest.fixture(scope="module")
def gpt_disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need_tool("sfdisk")
    return sfdisk(tmp_path_factory.mktemp("gpt") / "disk", GPT, 16 * MIB)
