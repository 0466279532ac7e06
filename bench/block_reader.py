"""`python -m bench.block_reader`: read the blocks of the bench's snapshot once, in order, and print what it took, as JSON.

A process of its own, so that its processor time and memory are those of the reading alone.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import boto3
from botocore.config import Config

from cloud.aws.blocks import open_snapshot, problem_of
from cloud.aws.tokens import pages, token_of
from cloud.aws.transport import Transport
from cloud.store import BLOCK_BYTES
from core.blocks import Extent

SNAPSHOT: Final = "snap-bench"
_REGION: Final = "us-east-1"
_PIECE_BYTES: Final = 8 << 20


def ours(url: str, first: int, blocks: int, threads: int) -> int:
    """Through `cloud.aws.blocks`, as the scanner does; returns how much memory the store takes, in bytes."""
    session = boto3.Session("AKIDEXAMPLE", "not-a-secret", region_name=_REGION)
    with open_snapshot(session, SNAPSHOT, region=_REGION, endpoint=url, threads=threads) as source:
        end = (first + blocks) * BLOCK_BYTES
        for offset in range(first * BLOCK_BYTES, end, _PIECE_BYTES):
            source.prefetch([Extent(offset, min(8 * _PIECE_BYTES, end - offset))])
            source.read(offset, min(_PIECE_BYTES, end - offset))
        if source.blocks.fetched != blocks:
            raise SystemExit(f"{source.blocks.fetched} blocks were fetched instead of {blocks}")
        return os.fstat(source.blocks.store.data_fd).st_blocks * 512


def client(url: str, first: int, blocks: int, threads: int) -> int:
    """Through the HTTP client of `cloud.aws.transport` alone: checksums compared, nothing kept, as with boto3."""
    session = boto3.Session("AKIDEXAMPLE", "not-a-secret", region_name=_REGION)
    with Transport(session, region=_REGION, endpoint=url, connections=threads) as transport:
        listed = pages(lambda query: transport.list_blocks(SNAPSHOT, query), "Blocks")
        tokens = {index: token_of(block, "BlockToken") for page in listed for index, block in page.blocks}

        def fetch(index: int) -> None:
            if wrong := problem_of(transport.get_block(SNAPSHOT, index, tokens[index])):
                raise SystemExit(wrong)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fetch, range(first, first + blocks)))
    return 0


def sdk(url: str, first: int, blocks: int, threads: int) -> int:
    """Through boto3's own calls; checksums compared as well, nothing kept."""
    client = boto3.Session("AKIDEXAMPLE", "not-a-secret", region_name=_REGION).client(
        "ebs",
        endpoint_url=url,
        config=Config(max_pool_connections=threads, retries={"mode": "adaptive", "max_attempts": 20}),
    )
    tokens: dict[int, str] = {}
    following = ""
    while True:
        more = {"NextToken": following} if following else {}
        page = client.list_snapshot_blocks(SnapshotId=SNAPSHOT, MaxResults=10_000, **more)  # type: ignore[arg-type]
        tokens |= {one["BlockIndex"]: one["BlockToken"] for one in page["Blocks"]}
        following = page.get("NextToken", "")
        if not following:
            break

    def fetch(index: int) -> None:
        answer = client.get_snapshot_block(SnapshotId=SNAPSHOT, BlockIndex=index, BlockToken=tokens[index])
        data = answer["BlockData"].read()
        if base64.b64encode(hashlib.sha256(data).digest()).decode() != answer["Checksum"]:
            raise SystemExit("a wrong checksum")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fetch, range(first, first + blocks)))
    return 0


READERS: Final[dict[str, Callable[[str, int, int, int], int]]] = {"ours": ours, "client": client, "boto3": sdk}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.block_reader", description=__doc__)
    parser.add_argument("kind", choices=sorted(READERS))
    parser.add_argument("url")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--core", type=int, help="the one core to run on")
    chosen = parser.parse_args()
    if chosen.core is not None:
        os.sched_setaffinity(0, {chosen.core})
    # what only loads code is not part of reading
    cpu, wall = time.process_time(), time.monotonic()
    store_bytes = READERS[chosen.kind](chosen.url, chosen.first, chosen.blocks, chosen.threads)
    figures = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.monotonic() - wall,
        "peak_bytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) + store_bytes,
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
