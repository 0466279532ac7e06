"""A seeded sample of what `make soak` does in full: workers die, the cloud fails, and nothing stays behind."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scanner.fleet import leaks
from tests.scanner.fleet.fleet import Fleet

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("KUMOMORI_SOAK_SEED", "7"))
_CHANCE = random.Random(SEED)
KILLS = ["after:CreateSnapshots", *_CHANCE.sample(leaks.KILLS, 3)]
_MINUTES = {1, 7}  # faults that the connector waits out for minutes: in `make soak` only
FAULTS = random.Random(SEED).sample(sorted(set(range(len(leaks.FAULTS))) - _MINUTES), 2)


@pytest.fixture
def fleet(url: str, tmp_path: Path, aws: dict[str, Any]) -> Iterator[Fleet]:
    made = Fleet(url, tmp_path, aws, work="tests.scanner.fleet.killed")
    yield made
    made.close()


@pytest.mark.parametrize("kill", KILLS)
def test_killed(fleet: Fleet, kill: str) -> None:
    assert leaks.run(fleet, kill) == ""


@pytest.mark.parametrize("number", FAULTS)
def test_the_cloud_fails(fleet: Fleet, number: int) -> None:
    assert leaks.run(fleet, fault=leaks.FAULTS[number]) == ""


def test_killed_after_the_call_and_it_is_listed_a_minute_later(fleet: Fleet) -> None:
    """The next worker cannot know that there is a set, and makes another."""
    assert leaks.run(fleet, "after:CreateSnapshots", late=True) == ""
