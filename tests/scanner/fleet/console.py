"""A console on loopback that keeps the contract of docs/fleet.md in memory, and breaks it as a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from client.digest import digest
from client.model import (
    AccountIn,
    Compare,
    Compared,
    FleetIn,
    FleetOut,
    FleetStatus,
    FleetTasks,
    Health,
    Order,
    Pull,
    ResultIn,
    ScanKind,
    ScanOrder,
    Sighting,
    Task,
    TaskAnswer,
    Why,
)
from core.estate import Instance, Place

TOKEN = "the-right-token"
PLACE = Place("aws", "111122223333", "eu-central-1")


class Cut(Exception):
    """The connection ends without an answer."""


class FakeConsole:
    """`faults` are asked before each answer with the route's name and the body; they return (status, body), raise `Cut`, or None.

    `clock` is how far its clock is ahead of this machine's. `log` counts answers by route.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.fleets: dict[str, FleetIn] = {}
        self.orders: list[Order] = []
        self.accounts: tuple[AccountIn, ...] = ()
        self.results: dict[str, list[ResultIn]] = {}
        self.statuses: list[FleetStatus] = []
        self.tasks: list[Task] = []
        self.answers: dict[str, list[TaskAnswer]] = {}
        self.compares: list[Compare] = []
        self.sightings: list[Sighting] = []
        self.known: dict[Place, dict[str, Instance]] = {}
        self.digests: dict[Place, dict[str, str]] = {}
        self.registered = datetime.now(UTC)
        self.clock = timedelta(0)
        self.token = TOKEN
        self.log: Counter[str] = Counter()
        self.faults: list[Callable[[str, bytes], tuple[int, bytes] | None]] = []
        self.after: list[Callable[[str, bytes], None]] = []  # once it has taken something, before it answers

    # what a test does and asks

    def order(self, kind: Any, scan: str | None = None, order: ScanOrder | None = None) -> Order:
        with self.changed:
            found = Order(number=len(self.orders) + 1, kind=kind, scan=scan, order=order)
            self.orders.append(found)
            self.changed.notify_all()
        return found

    def order_scan(self, name: str, **more: Any) -> Order:
        return self.order("scan", order=scan_order(name, **more))

    def wait(self, ready: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Until `ready()` is true."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline, f"not within {seconds} seconds; {dict(self.log)}"
            time.sleep(0.01)
        return found

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock

    # the routes

    def answer(self, name: str, fleet: str, query: dict[str, str], body: bytes) -> Any:
        match name:
            case "health":
                return Health(status="ok", version="0")
            case "fleets":
                self.fleets[fleet] = FleetIn.model_validate_json(body)
                return FleetOut(**dict(self.fleets[fleet]), registered=self.registered)
            case "orders":
                after = int(query.get("after", "0"))
                with self.changed:
                    self.changed.wait_for(
                        lambda: len(self.orders) > after, timeout=float(query.get("wait_seconds", "0"))
                    )
                    return Pull(now=self.now(), orders=tuple(self.orders[after:]), accounts=self.accounts)
            case "tasks":
                with self.changed:
                    self.changed.wait_for(lambda: self.tasks, timeout=float(query.get("wait_seconds", "0")))
                    return FleetTasks(items=tuple(self.tasks[:1]))
            case "status":
                self.statuses.append(FleetStatus.model_validate_json(body))
            case "results":
                result = ResultIn.model_validate_json(body)
                self.results.setdefault(result.scan, []).append(result)
            case "compare":
                return self._compare(Compare.model_validate_json(body))
            case "sightings":
                self._sight(Sighting.model_validate_json(body))
        return None

    def answer_path(self, parts: list[str], body: bytes) -> Any:
        """Of routes that have more than a fleet in their path."""
        if parts[3] == "tasks":
            with self.changed:
                self.answers.setdefault(parts[4], []).append(TaskAnswer.model_validate_json(body))
                self.tasks = [one for one in self.tasks if one.id != parts[4]]
        return None

    def _compare(self, listing: Compare) -> Compared:
        with self.changed:
            self.compares.append(listing)
            known = self.digests.setdefault(listing.place, {})
            gone = [one for one in known if one not in listing.digests] if listing.complete else []
            for one in gone:
                del known[one], self.known[listing.place][one]
            wanted = tuple(one for one, value in listing.digests.items() if known.get(one) != value)
            return Compared(wanted=wanted, closed=len(gone))

    def _sight(self, sighting: Sighting) -> None:
        with self.changed:
            self.sightings.append(sighting)
            for one in sighting.instances:
                self.known.setdefault(one.place, {})[one.id] = one
                self.digests.setdefault(one.place, {})[one.id] = digest(one)


def scan_order(name: str, **more: Any) -> ScanOrder:
    instance = Instance(PLACE, "i-0123456789abcdef0")
    given = {
        "scan": name,
        "kind": ScanKind.INSTANCE,
        "place": PLACE,
        "machine": str(instance),
        "instance": instance,
        "why": Why.MANUAL,
        "not_before": datetime(2026, 1, 1, tzinfo=UTC),
        **more,
    }
    return ScanOrder(**given)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    console: FakeConsole

    def _handle(self) -> None:
        console = self.console
        address = urlsplit(self.path)
        parts = address.path.strip("/").split("/")
        name = "health" if parts == ["health"] else parts[3] if len(parts) > 3 else parts[1]
        fleet = parts[2] if len(parts) > 2 else ""
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for fault in list(console.faults):
                if (broken := fault(name, body)) is not None:
                    self._reply(*broken)
                    return
            if name != "health" and self.headers.get("Authorization") != f"Bearer {console.token}":
                self._reply(401, b'{"error": "no such token"}')
                return
            deep = len(parts) > 4
            found = console.answer_path(parts, body) if deep else console.answer(name, fleet, query, body)
            for after in list(console.after):
                after(name, body)
        except Cut:
            self.close_connection = True
            return
        console.log[name] += 1
        self._reply(200 if found is not None else 204, found.model_dump_json().encode() if found is not None else b"")

    do_GET = do_POST = do_PUT = _handle  # noqa: N815  names of the base class

    def _reply(self, status: int, body: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the fleet was killed, or did not want that much
            self.close_connection = True

    def log_message(self, *_: Any) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextmanager
def served(console: FakeConsole, port: int = 0) -> Iterator[str]:
    """Its address."""
    handler = type("Handler", (_Handler,), {"console": console})
    with _Server(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def problem(status: int, words: str) -> tuple[int, bytes]:
    """As a console refuses."""
    return status, json.dumps({"error": words}).encode()
