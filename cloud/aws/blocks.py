"""EBS snapshots block by block, through the EBS direct APIs: nothing is made, attached or mounted.

Source: Amazon EBS User Guide, "Use EBS direct APIs to access the contents of an EBS snapshot"; EBS direct APIs reference,
ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from cloud.aws.errors import translated
from cloud.aws.patience import PATIENCE_SECONDS, Caller, GaveUp, reason_of
from cloud.aws.tokens import Page, Query, Tokens, pages
from cloud.aws.transport import READ_SECONDS, BlockAnswer, Transport
from cloud.fetcher import Fetcher, Zeros
from cloud.pace import Quotas
from cloud.store import BLOCK_BYTES, STORE_BYTES, BlockStore
from core.blocks import Extent
from core.errors import AccessDenied, ConfigError, Corrupt, Error, Gone

if TYPE_CHECKING:
    from boto3.session import Session

GET: Final = "ebs:GetSnapshotBlock"
LIST: Final = "ebs:ListSnapshotBlocks"
CHANGED: Final = "ebs:ListChangedBlocks"
THREADS: Final = 32  # 25 ms each: more than the quota of a snapshot
_MOST_SPOILT: Final = 4  # times that one block may come with a wrong checksum
_MOST_RENEWALS: Final = 4
_FORBIDDEN: Final = 403


class SnapshotSource:
    """The bytes of a snapshot: a `core.blocks.BlockSource` that also takes hints of what is read next.

    `read` raises `AccessDenied` naming ebs:GetSnapshotBlock, ebs:ListSnapshotBlocks or kms:Decrypt, `Gone`, `Corrupt` for a
    block whose checksum stays wrong, `Throttled` and `CloudError` when it failed for 40 s. After the first two, or if
    nothing at all comes any more, all that follows fails at once. `lists` counts calls, `blocks.fetched` blocks.
    """

    def __init__(
        self,
        transport: Transport,
        snapshot: str,
        quotas: Quotas,
        *,
        store: BlockStore,
        threads: int = THREADS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.snapshot = snapshot
        self.lists = 0
        self._transport = transport
        self._quotas = quotas
        self._pacer = quotas.of_snapshot(snapshot)
        self._stop = threading.Event()
        self._caller = Caller(f"snapshot {snapshot}", self._stop, patience_seconds=patience_seconds)
        self._failed: Error | None = None
        self._succeeded = time.monotonic()
        try:
            self._tokens = Tokens(self._page)
        except ClientError as error:
            raise translated(error, LIST, f"snapshot {snapshot}") from None
        except GaveUp as error:
            raise error.last from None
        self.size = self._tokens.size
        self.blocks = Fetcher(self._fetch, size=self.size, store=store, threads=threads, stop=self._stop)

    def read(self, offset: int, length: int) -> bytes:
        return self.blocks.read(offset, length)

    def prefetch(self, extents: Sequence[Extent]) -> None:
        """Fetch these meanwhile, as far as they can be kept."""
        self.blocks.prefetch(extents)

    def close(self) -> None:
        """Whatever is under way is broken off."""
        self._stop.set()
        self._transport.close()
        self.blocks.close()

    def _page(self, query: Query) -> Mapping[str, Any]:
        self.lists += 1
        return self._caller.call(lambda: self._transport.list_blocks(self.snapshot, query), LIST, self._quotas.lists)

    def _fetch(self, block: int) -> bytes | Zeros:
        if self._failed is not None:
            raise self._failed
        begun = time.monotonic()
        try:
            return self._fetched(block)
        except ClientError as error:
            permission = GET if error.operation_name == "GetSnapshotBlock" else LIST
            problem = translated(error, permission, self._subject(block))
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == _FORBIDDEN:
                self._failed = problem  # what is wrong with the credentials is so for every block
        except GaveUp as error:
            problem = error.last
            if self._succeeded < begun and not self._stop.is_set():
                self._failed = problem  # nothing came at all: the others would each take as long to find out
        except (AccessDenied, ConfigError) as error:
            problem = error  # of the credentials
        if isinstance(problem, AccessDenied | Gone | ConfigError):
            self._failed = problem
        raise problem

    def _subject(self, block: int) -> str:
        return f"snapshot {self.snapshot}, block {block}"

    def _fetched(self, block: int) -> bytes | Zeros:
        renewals = spoilt = 0
        while True:
            token = self._tokens.token(block)
            if isinstance(token, int):
                return Zeros(token)
            try:
                answer = self._get(block, token)
            except ClientError as error:
                if reason_of(error) != "INVALID_BLOCK_TOKEN" or renewals >= _MOST_RENEWALS:
                    raise
                renewals += 1  # it has expired, or the snapshot's key was changed
                self._tokens.expired(block, token)
                continue
            self._succeeded = time.monotonic()
            wrong = problem_of(answer)
            if not wrong:
                return answer.data
            spoilt += 1
            if spoilt >= _MOST_SPOILT:
                raise Corrupt(f"{self._subject(block)}: {wrong}, {spoilt} times")

    def _get(self, block: int, token: str) -> BlockAnswer:
        return self._caller.call(
            lambda: self._transport.get_block(self.snapshot, block, token), GET, self._quotas.blocks, self._pacer
        )


def problem_of(answer: BlockAnswer) -> str:
    """What is wrong with a block; empty if nothing is."""
    if len(answer.data) != BLOCK_BYTES or answer.length != str(BLOCK_BYTES):
        return f"it has {len(answer.data)} bytes and says {answer.length[:20]!r}; {BLOCK_BYTES} were expected"
    if answer.algorithm.upper() != "SHA256":
        return f"its checksum is of an unknown kind {answer.algorithm[:20]!r}"
    if answer.checksum != base64.b64encode(hashlib.sha256(answer.data).digest()).decode("ascii"):
        return "its checksum is wrong"
    return ""


@contextmanager
def open_snapshot(
    session: Session,
    snapshot: str,
    *,
    region: str,
    quotas: Quotas | None = None,
    endpoint: str | None = None,
    store: BlockStore | None = None,
    store_bytes: int = STORE_BYTES,
    threads: int = THREADS,
    patience_seconds: float = PATIENCE_SECONDS,
    read_seconds: float = READ_SECONDS,
) -> Iterator[SnapshotSource]:
    """A completed snapshot, open for reading. `quotas`: those of the account, one object for all that is read of it.

    `store`: where blocks are kept, if several disks share one; else one of `store_bytes`. A call that is silent for
    `read_seconds` is made again, until `patience_seconds` are over. Raises at once `AccessDenied`
    naming ebs:ListSnapshotBlocks, `Gone`, `Throttled`, `CloudError`, `ConfigError`. Leaving ends all threads.
    """
    own = BlockStore(store_bytes) if store is None else None
    source: SnapshotSource | None = None
    transport: Transport | None = None
    try:
        transport = Transport(session, region=region, endpoint=endpoint, connections=threads, read_seconds=read_seconds)
        source = SnapshotSource(
            transport,
            snapshot,
            quotas or Quotas(),
            store=store or own or BlockStore(store_bytes),
            threads=threads,
            patience_seconds=patience_seconds,
        )
        yield source
    finally:
        if source is not None:
            source.close()
        elif transport is not None:
            transport.close()
        if own is not None:
            own.close()


@dataclass(frozen=True, slots=True)
class Changed:
    """`extents` in order, none touching another; None if these snapshots cannot be compared, and `reason` says why."""

    extents: Iterator[Extent] | None
    reason: str = ""


def changed_extents(
    session: Session,
    first: str,
    second: str,
    *,
    region: str,
    first_bytes: int = 0,
    second_bytes: int = 0,
    quotas: Quotas | None = None,
    endpoint: str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Changed:
    """What differs from snapshot `first` to `second`, of the same volume or one made from the other.

    `first_bytes` and `second_bytes` are the volumes' sizes: what only the larger one has differs, written or not. The first
    page is listed at once, the others while the extents are taken. Raises as `open_snapshot`, for ebs:ListChangedBlocks.
    """
    subject = f"snapshots {first} and {second}"
    quotas = quotas or Quotas()
    transport = Transport(session, region=region, endpoint=endpoint, connections=1)
    caller = Caller(subject, threading.Event(), patience_seconds=patience_seconds)

    def page(query: Query) -> Mapping[str, Any]:
        asked = {"firstSnapshotId": first} | query
        return caller.call(lambda: transport.list_changed_blocks(second, asked), CHANGED, quotas.lists)

    def rest(begun: Page, others: Iterator[Page]) -> Iterator[Extent]:
        try:
            yield from _merged(begun, others, min(first_bytes, second_bytes), max(first_bytes, second_bytes))
        except (ClientError, GaveUp) as error:
            raise _ours(error, subject) from None
        finally:
            transport.close()

    listed = pages(page, "ChangedBlocks")
    try:
        begun = next(listed)
    except (ClientError, GaveUp) as error:
        transport.close()
        if isinstance(error, ClientError) and reason_of(error) == "UNRELATED_SNAPSHOTS":
            return Changed(None, f"{subject} are not of one lineage")
        raise _ours(error, subject) from None
    except BaseException:
        transport.close()
        raise
    return Changed(rest(begun, listed))


def _ours(error: ClientError | GaveUp, subject: str) -> Error:
    return error.last if isinstance(error, GaveUp) else translated(error, CHANGED, subject)


def _merged(begun: Page, others: Iterator[Page], common: int, longest: int) -> Iterator[Extent]:
    """Neighbouring blocks as one extent, and what lies beyond `common` bytes, if the sizes differ."""
    start = end = 0
    for index in _indexes(begun, others):
        at = index * BLOCK_BYTES
        if longest > common and at >= common:
            break  # all from there on differs
        if at != end:
            if end > start:
                yield Extent(start, end - start)
            start = at
        end = at + BLOCK_BYTES
    if longest > common:
        if end != common:
            if end > start:
                yield Extent(start, end - start)
            start = common
        end = longest
    if end > start:
        yield Extent(start, end - start)


def _indexes(begun: Page, others: Iterator[Page]) -> Iterator[int]:
    for page in chain((begun,), others):
        for index, _ in page.blocks:
            yield index
