"""What an installation made and nobody remembers: deleted once it has expired, by whoever has its name and no ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    found = [one for one in connector.owned() if everything or one.expires <= now]
    yield from delete_each(connector, found, dry_run=dry_run)


def delete_each(
    connector: Connector, found: Iterable[Resource], *, dry_run: bool = False
) -> Iterator[tuple[Resource, Error | None]]:
    """Delete `found`; one with each step of the iterator. Yields each, with the error if it could not be deleted."""
    for one in found:
        try:
            if not dry_run:
                connector.delete(one)
        except Error as error:
            yield one, error
        else:
            yield one, None
