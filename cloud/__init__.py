"""A cloud is anything that lists machines and lends us their bytes.

The contracts that every connector keeps; `tests/cloud/contract.py` runs one suite over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from core.blocks import BlockSource, Extent
from core.estate import Disk, Instance, Resource, Snapshot


class Ledger(Protocol):
    """Remembers what we made, so that it is deleted even if we die: written before the call that makes it, and durable."""

    def intend(self, resource: Resource) -> None:
        """`resource` (without an id, or with a known one) is about to be made; returns when that is safely stored."""
        ...

    def made(self, resource: Resource) -> None:
        """It exists now, under `resource.id`; the intention with the same kind, `token` and `of` is fulfilled."""
        ...

    def gone(self, resource: Resource) -> None:
        """It was deleted; forgetting twice is not an error."""
        ...


class Connector(Protocol):
    """One account (subscription, project, host) in one region.

    All methods raise `CloudError` and its kinds: `Throttled` with the seconds to wait, `AccessDenied` naming the missing
    permission, `Gone` for what is not there any more.
    """

    @property
    def name(self) -> str: ...

    def instances(self) -> Iterator[Instance]:
        """Every instance, streamed, those left out by the operator included and marked."""
        ...

    def snapshot(self, disks: Sequence[Disk], *, token: str) -> Sequence[Snapshot]:
        """One for each of `disks` (of one instance, in that order), all of one moment; those of `token` if they exist already.

        A disk that cannot be snapshotted (an obstacle, detached meanwhile, an unusable key) has a FAILED one without an id
        that says why. Raises `Gone` if the instance is.
        """
        ...

    def leftovers(self, used: Sequence[Snapshot]) -> Iterator[Resource]:
        """What carries the tokens of `used` and is not among them: a second set of a repeated call, disks not asked for."""
        ...

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """As it is now; its state is GONE, not an error, if it is not there."""
        ...

    def open(self, snapshot: Snapshot, ledger: Ledger) -> AbstractContextManager[BlockSource]:
        """The bytes of a READY snapshot. Whatever has to be made for it is written to `ledger` first, and deleted at the end."""
        ...

    def changed(self, old: Snapshot, new: Snapshot) -> Iterator[Extent] | None:
        """What differs from `old` to `new`, as extents of the disk, in order. None: this platform cannot tell for these two."""
        ...

    def delete(self, resource: Resource) -> None:
        """Deleting what is gone is not an error. Refuses what does not carry this installation's tag."""
        ...

    def owned(self) -> Iterator[Resource]:
        """All that carries this installation's tag: the sweeper's list."""
        ...


class Responder(Protocol):
    """What may be done to a machine; uses another role than `Connector`. Doing it twice is not an error."""

    def isolate(self, instance: Instance) -> None: ...
    def release(self, instance: Instance) -> None: ...
    def tag(self, instance: Instance, key: str, value: str) -> None: ...
    def stop(self, instance: Instance) -> None: ...
