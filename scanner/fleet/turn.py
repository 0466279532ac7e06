"""Whose turn it is: which of the waiting scans may start beside those that run. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Candidate(NamedTuple):
    """A scan, as far as limits go. `placement` may be unknown (empty). A limit of None does not limit, one of 0 forbids."""

    id: str
    machine: str
    placement: str
    cloud: str
    account: str
    region: str
    most_per_host: int | None = None
    most_per_account: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a fleet, in scans at once; 0: no limit."""

    total: int = 0
    per_region: int = 0


@dataclass(slots=True)
class Load:
    """What runs now, counted by each of the things that limits are about."""

    total: int = 0
    machines: set[str] = field(default_factory=set)
    hosts: Counter[tuple[str, str]] = field(default_factory=Counter)
    accounts: Counter[tuple[str, str]] = field(default_factory=Counter)
    regions: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, running: Iterable[Candidate]) -> Load:
        load = cls()
        for one in running:
            load.add(one)
        return load

    def add(self, one: Candidate) -> None:
        self.total += 1
        self.machines.add(one.machine)
        self.hosts[one.cloud, one.placement] += bool(one.placement)
        self.accounts[one.cloud, one.account] += 1
        self.regions[one.cloud, one.region] += 1

    def is_full(self, limits: Limits) -> bool:
        return bool(limits.total) and self.total >= limits.total

    def admits(self, one: Candidate, limits: Limits) -> bool:
        """Whether `one` may start now. A machine is scanned once at a time: two would share its base."""
        if self.is_full(limits) or one.machine in self.machines:
            return False
        if limits.per_region and self.regions[one.cloud, one.region] >= limits.per_region:
            return False
        if one.most_per_account is not None and self.accounts[one.cloud, one.account] >= one.most_per_account:
            return False
        return not (
            one.placement
            and one.most_per_host is not None
            and self.hosts[one.cloud, one.placement] >= one.most_per_host
        )


def choose(waiting: Iterable[Candidate], load: Load, limits: Limits) -> Candidate | None:
    """The first of `waiting` (in the order of their turns) that may start. Reads no further than that."""
    if load.is_full(limits):
        return None
    return next((one for one in waiting if load.admits(one, limits)), None)
