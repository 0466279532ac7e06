"""A ledger in memory that says what would be left over if we died now."""

from __future__ import annotations

from core.estate import Resource


class MemoryLedger:
    def __init__(self) -> None:
        self.intended: list[Resource] = []
        self.existing: dict[str, Resource] = {}
        self.words: list[str] = []

    def intend(self, resource: Resource) -> None:
        self.words.append("intend")
        self.intended.append(resource)

    def made(self, resource: Resource) -> None:
        self.words.append("made")
        same = [
            one
            for one in self.intended
            if (one.kind, one.token, one.of) == (resource.kind, resource.token, resource.of)
        ]
        assert same, "made without an intention"
        self.existing[resource.id] = resource

    def gone(self, resource: Resource) -> None:
        self.words.append("gone")
        self.existing.pop(resource.id, None)
