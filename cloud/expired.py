"""What an installation made and nobody remembers: deleted once it has expired, by whoever has its name and no ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cloud import Connector
from core.errors import Error
from core.estate import Resource


def sweep_expired(
    connector: Connector, *, everything: bool = False, dry_run: bool = False, now: datetime | None = None
) -> Iterator[tuple[Resource, Error | None]]:
    """Delete what the installation of `connector` made and what had expired by `now`, or `everything`; one with each step of the iterator.

    Yields each, with the error if it could not be deleted. Raises `CloudError` if what is there cannot be listed.
    """
    now = now or datetime.now(UTC)
    for one in [one for one in connector.owned() if everything or one.expires <= now]:
        try:
            if not dry_run:
                connector.delete(one)
        except Error as error:
            yield one, error
        else:
            yield one, None
