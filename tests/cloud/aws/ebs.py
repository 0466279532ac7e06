"""What the tests of EBS direct share: a server on loopback, its snapshots, and a source that reads from it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from cloud.aws.blocks import SnapshotSource, open_snapshot
from cloud.pace import Quotas
from tests.cloud.aws.ebs_server import BLOCK, Service, Snapshot, serving

SNAPSHOT = "snap-0123456789abcdef0"


def session() -> boto3.Session:
    return boto3.Session("AKIDEXAMPLE", "not-a-secret", region_name="eu-west-1")


def content(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def service(written: dict[int, bytes] | None = None, **others: object) -> Service:
    """One snapshot of 1 GiB; blocks 0, 1, 2, 7, 100 and the last are written if nothing else is said."""
    blocks = {number: content(number) for number in (0, 1, 2, 7, 100, 2047)} if written is None else written
    return Service({SNAPSHOT: Snapshot(blocks)}, **others)  # type: ignore[arg-type]


@contextmanager
def opened(
    served: Service,
    snapshot: str = SNAPSHOT,
    *,
    threads: int = 4,
    patience_seconds: float = 10,
    store_bytes: int = 16 * BLOCK,
    read_seconds: float = 0.3,
) -> Iterator[SnapshotSource]:
    with (
        serving(served) as address,
        open_snapshot(
            session(),
            snapshot,
            region="eu-west-1",
            quotas=Quotas(),
            endpoint=address,
            threads=threads,
            patience_seconds=patience_seconds,
            read_seconds=read_seconds,
            store_bytes=store_bytes,
        ) as source,
    ):
        yield source
