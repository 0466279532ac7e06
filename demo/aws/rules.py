"""What a test may arrange: who may not do what, what goes wrong and when, how slow and how scarce everything is."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from threading import Lock

from demo.aws.policy import Policy

MAX_CALLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: found by the access key of the signature; `principal` is the ARN of a user or role."""

    account: str
    region: str
    principal: str
    access_key: str

    def is_like(self, pattern: str) -> bool:
        """Whether `pattern` (`*` and `?` allowed) is its ARN, the last part of that, its account or its access key."""
        names = (self.principal, self.principal.rpartition("/")[2], self.account, self.access_key)
        return any(fnmatchcase(name, pattern) for name in names)


@dataclass(slots=True)
class Call:
    """One request. `operation` is written as in a policy with its service: `ec2:CreateSnapshots`."""

    service: str
    operation: str
    caller: Caller
    resources: tuple[str, ...] = ()
    status: int = 0
    error: str = ""
    dry_run: bool = False
    implied: bool = False  # needed by another call, not one of its own
    at: float = 0.0

    @property
    def action(self) -> str:
        return f"{self.service}:{self.operation}"


class CallLog:
    """Every request since the start, or the last million of them."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self._once: set[tuple[str, Caller, tuple[str, ...], int]] = set()

    def add(self, call: Call) -> None:
        self._calls.append(call)

    def add_once(self, call: Call) -> None:
        """Add a call if there was none of that action, caller, resource and outcome."""
        what = (call.action, call.caller, call.resources, call.status)
        if what not in self._once:
            self._once.add(what)
            self.add(call)

    def calls(self, action: str = "*", *, principal: str = "*", failed: bool | None = None) -> list[Call]:
        """Those of an action (`ebs:Get*`), of a caller, and with or without success."""
        return [
            call
            for call in list(self._calls)
            if fnmatchcase(call.action, action)
            and call.caller.is_like(principal)
            and (failed is None or failed == (call.status >= 400))
        ]

    def count(self, action: str = "*", *, principal: str = "*", failed: bool | None = None) -> int:
        return len(self.calls(action, principal=principal, failed=failed))

    def actions(self) -> Counter[str]:
        return Counter(call.action for call in list(self._calls))

    def clear(self) -> None:
        self._calls.clear()
        self._once.clear()


@dataclass(frozen=True, slots=True)
class Denial:
    """An action that a principal has no permission for. All three take `*` and `?`; `resource` is an ARN or an id."""

    action: str
    principal: str = "*"
    resource: str = "*"

    def forbids(self, action: str, caller: Caller, resources: tuple[str, ...]) -> bool:
        if not (fnmatchcase(action.lower(), self.action.lower()) and caller.is_like(self.principal)):
            return False
        return self.resource == "*" or any(
            fnmatchcase(one, self.resource) or fnmatchcase(one.rpartition("/")[2], self.resource) for one in resources
        )


class FaultKind(StrEnum):
    """What can go wrong with one request."""

    ERROR_500 = "error_500"
    ERROR = "error"  # with the fault's own `code` and `status`
    THROTTLED = "throttled"
    RESET = "reset"  # the connection ends before anything happens
    RESET_AFTER = "reset_after"  # … after it happened: the caller never learns
    HANG_AFTER = "hang_after"  # no answer for `seconds`, though it happened
    WRONG_CHECKSUM = "wrong_checksum"  # the checksum is not that of the bytes
    WRONG_BYTES = "wrong_bytes"  # the bytes are not those of the checksum
    NO_CHECKSUM = "no_checksum"
    SHORT_BODY = "short_body"  # fewer bytes than a block, and the answer says so
    CUT_BODY = "cut_body"  # fewer bytes than the answer promises
    EXPIRE_TOKENS = "expire_tokens"  # all tokens given out so far are void, from this request on
    EMPTY_PAGE = "empty_page"  # a page of a listing with nothing but a token for the next


@dataclass(slots=True)
class Fault:
    """Something that goes wrong with the requests that match: the first `after` of them are spared, then `times` are hit.

    With `every` = n only each n-th one is hit; with `chance` one is hit by luck, but the same luck for the same `seed`.
    """

    kind: FaultKind
    action: str = "ebs:GetSnapshotBlock"
    resource: str = "*"
    after: int = 0
    times: int | None = 1
    every: int = 1
    chance: float = 1.0
    seed: int = 0
    seconds: float = 0.0
    code: str = ""
    status: int = 400
    _seen: int = 0
    _hits: int = 0
    _luck: random.Random | None = None

    def hits(self, action: str, resources: tuple[str, ...]) -> bool:
        if not fnmatchcase(action, self.action):
            return False
        if self.resource != "*" and not any(fnmatchcase(one, self.resource) for one in resources):
            return False
        self._seen += 1
        turn = self._seen - self.after
        if turn <= 0 or (turn - 1) % self.every or (self.times is not None and self._hits >= self.times):
            return False
        if self._luck is None:
            self._luck = random.Random(self.seed)
        if self._luck.random() >= self.chance:
            return False
        self._hits += 1
        return True


class Bucket:
    """A token bucket of `rate` a second, which holds `depth` at most."""

    def __init__(self, rate: float, depth: float) -> None:
        self.rate = rate
        self._depth = self._level = max(depth, 1.0)
        self._at = time.monotonic()
        self._lock = Lock()

    def take(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._level = min(self._depth, self._level + (now - self._at) * self.rate)
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
            return True


@dataclass
class Limits:
    """Requests a second; None: without limit. AWS: 1,000 blocks per account and per snapshot, 50 listings per account.

    After a rest `burst_seconds` of a quota may be used up at once; make it small where a rate is measured.
    `block_latency_seconds` is how long each GetSnapshotBlock takes, on top of what the emulator needs.
    """

    blocks_per_account: float | None = None
    blocks_per_snapshot: float | None = None
    lists_per_account: float | None = None
    ec2_per_account: float | None = None
    block_latency_seconds: float = 0.0
    burst_seconds: float = 1.0
    _buckets: dict[tuple[str, float, float], Bucket] = field(default_factory=dict)

    def exceeded(self, name: str, rate: float | None) -> bool:
        """Count one request against the bucket `name`; whether it was one too many."""
        if rate is None:
            return False
        key = (name, rate, self.burst_seconds)
        bucket = self._buckets.setdefault(key, Bucket(rate, rate * self.burst_seconds))
        return not bucket.take()


@dataclass
class Rules:
    """All that a test may change at any moment."""

    denials: list[Denial] = field(default_factory=list)
    standing: list[Denial] = field(default_factory=list)  # denials that belong to the estate and stay
    policies: list[tuple[str, Policy]] = field(default_factory=list)  # whose calls they bound, as in `Caller.is_like`
    faults: list[Fault] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    disabled_regions: set[tuple[str, str]] = field(default_factory=set)  # (account or *, region)
    refused_roles: set[str] = field(default_factory=set)  # ARNs that nobody may assume
    external_ids: dict[str, str] = field(default_factory=dict)  # by ARN of the role
    snapshot_seconds: float = 0.0  # from pending to completed
    snapshot_polls: int = 0  # … and at least so often described as pending
    late_seconds: float = 0.0  # how long DescribeSnapshots does not show a new snapshot
    late_polls: int = 0  # … and at least so often
    snapshot_failures: list[str] = field(default_factory=list)  # messages: the next snapshots fail with these
    stuck_snapshots: int = 0  # so many of the next snapshots stay pending
    blocks_per_page: int | None = None  # pages of EBS direct are shorter than asked for, as AWS may do
    _lock: Lock = field(default_factory=Lock)

    def fault(self, action: str, resources: tuple[str, ...]) -> Fault | None:
        """The first fault that hits this request."""
        if not self.faults:
            return None
        with self._lock:
            return next((fault for fault in self.faults if fault.hits(action, resources)), None)

    def denied(self, action: str, caller: Caller, resources: tuple[str, ...]) -> bool:
        return any(denial.forbids(action, caller, resources) for denial in (*self.denials, *self.standing))

    def region_disabled(self, account: str, region: str) -> bool:
        return (account, region) in self.disabled_regions or ("*", region) in self.disabled_regions
