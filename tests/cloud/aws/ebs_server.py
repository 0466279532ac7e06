"""EBS direct on loopback, for measuring and for tests: pages, tokens that expire, checksums, latency, a quota, faults.

`python -m tests.cloud.aws.ebs_server` serves one snapshot whose blocks are all alike, and prints its address.
Source: botocore's model of the service, version 2019-11-02.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

BLOCK: Final = 512 << 10


@dataclass
class Snapshot:
    """`blocks`: what is written, by index. `alike`: all have the bytes of block 0. `lineage`: who can be compared."""

    blocks: Mapping[int, bytes]
    volume_gib: int = 1
    lineage: str = "a"


@dataclass
class Call:
    """One call as a fault sees it; `number` counts those of this operation on this block."""

    operation: str
    snapshot: str
    block: int
    number: int


@dataclass
class Answer:
    """Instead of the right one. `reset`: break the connection off; `hang`: say nothing; `spoil`: flip a bit of the block."""

    status: int = 200
    code: str = ""
    reason: str = ""
    message: str = "as the test wishes"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    reset: bool = False
    hang: bool = False
    spoil: bool = False
    cut: int = 0


Fault = Callable[[Call], "Answer | None"]


@dataclass
class Service:
    """What is served, and how. `calls` counts by operation, `got` by block; `page` is the most blocks of a page."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    page: int = 10_000
    empty_pages: int = 0  # before each page with blocks
    token_seconds: float = 3600
    latency_seconds: float = 0.0
    blocks_per_second: float = 0.0
    fault: Fault = lambda _: None
    calls: Counter[str] = field(default_factory=Counter)
    got: Counter[int] = field(default_factory=Counter)
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    authorizations: list[str] = field(default_factory=list)
    salt: int = 0  # counted up, all tokens are worthless
    throttled: int = 0
    _allowance: float = 0.0
    _filled: float = 0.0
    _sums: dict[int, str] = field(default_factory=dict)

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        match unquote(parts.path).strip("/").split("/"):
            case ["snapshots", name, "blocks", number]:
                operation, block = "GetSnapshotBlock", int(number)
            case ["snapshots", name, "blocks"]:
                operation, block = "ListSnapshotBlocks", -1
            case ["snapshots", name, "changedblocks"]:
                operation, block = "ListChangedBlocks", -1
            case _:
                return Answer(400, "ValidationException", "INVALID_PARAMETER_VALUE")
        self.calls[operation] += 1
        if len(self.authorizations) < 100:
            self.authorizations.append(headers.get("authorization", ""))
        self.seen[operation, block] += 1
        wrong = self.fault(Call(operation, name, block, self.seen[operation, block]))
        if wrong is not None and not wrong.spoil and not wrong.cut:
            return wrong
        if (snapshot := self.snapshots.get(name)) is None:
            return Answer(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
        if operation == "GetSnapshotBlock":
            return self._get(name, snapshot, block, query, wrong)
        if operation == "ListSnapshotBlocks":
            return self._list(
                sorted(snapshot.blocks), query, snapshot, lambda index: {"BlockToken": self.token(name, index)}
            )
        return self._changed(name, snapshot, query)

    def token(self, name: str, index: int) -> str:
        expires = time.monotonic() + self.token_seconds
        return base64.b64encode(f"{name}/{index}/{self.salt}/{expires:.3f}".encode()).decode()

    def _get(self, name: str, snapshot: Snapshot, block: int, query: Mapping[str, str], wrong: Answer | None) -> Answer:
        if self.blocks_per_second and not self._take():
            self.throttled += 1
            return Answer(400, "RequestThrottledException", "RESOURCE_LEVEL_THROTTLE")
        try:
            said = base64.b64decode(query["blockToken"]).decode().split("/")
        except (KeyError, ValueError):
            said = []
        if said[:3] != [name, str(block), str(self.salt)] or float(said[3]) < time.monotonic():
            return Answer(400, "ValidationException", "INVALID_BLOCK_TOKEN")
        data = snapshot.blocks[block]
        if id(data) not in self._sums:
            self._sums[id(data)] = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self.got[block] += 1
        headers = {
            "x-amz-Data-Length": str(len(data)),
            "x-amz-Checksum": self._sums[id(data)],
            "x-amz-Checksum-Algorithm": "SHA256",
        }
        if wrong is not None and wrong.spoil:
            data = bytes([data[0] ^ 1]) + data[1:]
        return Answer(headers=headers | dict(wrong.headers if wrong else {}), body=data, cut=wrong.cut if wrong else 0)

    def _take(self) -> bool:
        now = time.monotonic()
        rate = self.blocks_per_second
        self._allowance = min(rate / 10, self._allowance + (now - self._filled) * rate) if self._filled else 1.0
        self._filled = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _changed(self, name: str, snapshot: Snapshot, query: Mapping[str, str]) -> Answer:
        first_name = query.get("firstSnapshotId", "")
        first = self.snapshots.get(first_name)
        if first is None:
            return Answer(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND")
        if first.lineage != snapshot.lineage:
            return Answer(400, "ValidationException", "UNRELATED_SNAPSHOTS")
        both = first.blocks.keys() | snapshot.blocks.keys()
        differ = sorted(index for index in both if first.blocks.get(index) != snapshot.blocks.get(index))

        def entry(index: int) -> dict[str, Any]:
            sides = (("FirstBlockToken", first_name, first), ("SecondBlockToken", name, snapshot))
            return {key: self.token(one, index) for key, one, side in sides if index in side.blocks}

        return self._list(differ, query, snapshot, entry, member="ChangedBlocks")

    def _list(
        self,
        indexes: list[int],
        query: Mapping[str, str],
        snapshot: Snapshot,
        entry: Callable[[int], dict[str, Any]],
        member: str = "Blocks",
    ) -> Answer:
        start, empty = int(query.get("startingBlockIndex", 0)), self.empty_pages
        if "pageToken" in query:
            start, empty = (int(part) for part in base64.b64decode(query["pageToken"]).decode().split("/"))
        most = min(int(query.get("maxResults", 10_000)), self.page)
        rest = [index for index in indexes if index >= start]
        shown = rest[: 0 if empty else most]
        following = None
        if len(rest) > len(shown):
            at = shown[-1] + 1 if shown else start
            following = base64.b64encode(f"{at}/{empty - 1 if empty else self.empty_pages}".encode()).decode()
        page = {
            member: [{"BlockIndex": index} | entry(index) for index in shown],
            "ExpiryTime": time.time() + self.token_seconds,
            "VolumeSize": snapshot.volume_gib,
            "BlockSize": BLOCK,
            "NextToken": following,
        }
        return Answer(body=json.dumps(page).encode())


async def _converse(service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            answer = service.answer(first.split(" ")[1], headers)
            if service.latency_seconds:
                await asyncio.sleep(service.latency_seconds)
            if answer.hang:
                await asyncio.sleep(3600)
            if answer.reset:
                writer.transport.abort()
                return
            body = answer.body
            out = {"Content-Type": "application/json"} | dict(answer.headers)
            if answer.code:
                body = json.dumps({"Message": answer.message, "Reason": answer.reason}).encode()
                out["x-amzn-ErrorType"] = answer.code
            body = body or b""
            said = "".join(f"{name}: {value}\r\n" for name, value in out.items())
            writer.write(f"HTTP/1.1 {answer.status} x\r\nContent-Length: {len(body)}\r\n{said}\r\n".encode("latin-1"))
            writer.write(body[: len(body) - answer.cut] if answer.cut else body)
            await writer.drain()
            if answer.cut:
                writer.close()
                return
    writer.close()


@contextlib.contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serve in a thread of this process; yields the address."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    address: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def begin() -> asyncio.Server:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            await _converse(service, reader, writer)
            tasks.discard(task)

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        address.append(f"http://{host}:{port}")
        return server

    async def end(server: asyncio.Server) -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)

    def live() -> None:
        server = loop.run_until_complete(begin())
        started.set()
        loop.run_forever()
        loop.run_until_complete(end(server))
        loop.close()

    thread = threading.Thread(target=live, name="ebs-server", daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def main() -> int:
    """Until its standard input is closed."""
    parser = argparse.ArgumentParser(prog="python -m tests.cloud.aws.ebs_server", description=__doc__)
    parser.add_argument("--blocks", type=int, default=2048)
    parser.add_argument("--latency-seconds", type=float, default=0.025)
    parser.add_argument("--blocks-per-second", type=float, default=0.0)
    chosen = parser.parse_args()
    block = os.urandom(BLOCK)
    snapshot = Snapshot(dict.fromkeys(range(chosen.blocks), block), volume_gib=-(-chosen.blocks // 2048))
    service = Service(
        {"snap-bench": snapshot}, latency_seconds=chosen.latency_seconds, blocks_per_second=chosen.blocks_per_second
    )
    with serving(service) as address:
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
