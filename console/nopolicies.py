"""A console to which no policy was told yet: every instance may be scanned, with the built-in settings of the fleet."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from console.context import Settled
from core.estate import Instance


class NoPolicies:
    def version(self, _: Connection) -> int:
        return 0

    def settle(self, _: Connection, instances: Sequence[Instance]) -> Sequence[Settled]:
        return [Settled() for _ in instances]
