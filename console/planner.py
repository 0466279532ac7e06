"""What is due: from what is known of machines and what the policies say, the orders to give, change and take back. Pure.

A machine has one open scan at a time; what comes next is planned when that has ended. Orders are given up to `HORIZON` ahead.
The id of a scan is a digest of the machine, of why and when, and of the scan before it, so planning twice orders once.

- A new machine (launched less than `NEW` ago) with `scan.at_launch` waits for the scan of its image, once for all clones, then
  for `scan.settle_seconds` after its launch. Any other that was never scanned is due within the next `spread_seconds`.
- After that, the schedule counts, from the end of the last scan on. Who is overdue for longer than `LATE` (a console was away, a
  policy came) is due within `spread_seconds` too, so that not all of them are at once.
- A scan that is due waits for `scan.window` and is missed at its end; held machines get no orders, and waiting scans are paused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from client.model import ENDED, ScanKind, ScanOrder, ScanState, Why
from console.clock import ASTRAY
from console.times import Clockwork, Opening, offset_seconds, opening
from core.estate import Instance, InstanceState
from core.text import printable

HORIZON: Final = timedelta(hours=24)
NEW: Final = timedelta(hours=1)
LATE: Final = timedelta(hours=1)
LATEST_LOOK: Final = timedelta(hours=24)  # an open machine is planned again by then, whatever is known of it
_AGAIN: Final = timedelta(minutes=5)  # what changes without anybody telling
_SOON: Final = timedelta(seconds=1)  # an image's scan is looked at, the rarer the longer it takes
_LATER: Final = timedelta(seconds=30)
_HELD_AGAIN: Final = timedelta(hours=1)
_SCANNED: Final = frozenset({"agentless", "both"})
_MOST_KEY: Final = 512  # `client.model.Key`
_NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)
_PRIORITY: Final = {Why.MANUAL: 0, Why.LAUNCH: 1, Why.SCHEDULE: 2}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the policies say of one machine: `settings` by full name. Without `policy`, `problem` says why none holds.

    `changes` is when a profile begins or ends next, so that they may say something else.
    """

    policy: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    changes: datetime | None = None


@dataclass(frozen=True, slots=True)
class OpenScan:
    """A scan that has not ended, and what was ordered.

    `held`: its fleet was told to pause it because of a hold; `stopping`: it was told to stop it.
    """

    id: str
    why: Why
    state: ScanState
    due: datetime
    ordered: datetime
    not_after: datetime | None = None
    held: bool = False
    stopping: bool = False
    fleet: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """What is paused because of a hold alone has not."""
        return self.state is ScanState.RUNNING or (self.state is ScanState.PAUSED and not self.held)


@dataclass(frozen=True, slots=True)
class LastScan:
    """The newest scan of an image, or the newest of a machine that has ended. `held`: it is paused by a hold."""

    id: str
    state: ScanState
    ordered: datetime
    ended: datetime | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """An instance and all that is known of it. `fleet` serves its account; None: no account is known."""

    key: str
    instance: Instance
    first_seen: datetime
    rules: Rules
    fleet: str | None = "default"
    closed: bool = False
    last_scanned: datetime | None = None  # of the last scan that came to its end
    last: LastScan | None = None
    open: tuple[OpenScan, ...] = ()

    @property
    def gone(self) -> bool:
        return self.closed or self.instance.state is InstanceState.TERMINATED

    @property
    def image(self) -> str:
        """The key of its image; empty if there is none that can be scanned."""
        place, image = self.instance.place, self.instance.image
        key = f"{place}/{image}"
        return key if image and place.cloud != "file" and len(key) <= _MOST_KEY and key == printable(key) else ""


@dataclass(frozen=True, slots=True)
class Hold:
    """`scope` is `all`, `cloud://account`, or the key of an instance."""

    scope: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    scan: str
    state: ScanState  # as which it ends if its fleet has not fetched it yet
    detail: str


@dataclass(frozen=True, slots=True)
class Replacement:
    """`same` takes the place of what was ordered under its id, if the fleet has not fetched that; else that is stopped, and `new` ordered."""

    fleet: str
    same: ScanOrder
    new: ScanOrder


@dataclass(frozen=True, slots=True)
class State:
    """What is shown of a machine, and when it is to be planned again."""

    key: str
    policy: str
    mode: str
    unprotected: str
    next_scan: datetime | None
    look: datetime


@dataclass(slots=True)
class Plan:
    """`orders` by the fleet that gets them; `pauses` and `resumes` are ids of scans."""

    orders: dict[str, list[ScanOrder]] = field(default_factory=dict)
    replacements: list[Replacement] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    pauses: list[str] = field(default_factory=list)
    resumes: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)


def plan(
    machines: Iterable[Machine],
    *,
    images: Mapping[str, LastScan],
    holds: Iterable[Hold],
    spent_usd: Mapping[tuple[str, str], float],
    version: int,
    now: datetime,
    clockwork: Clockwork | None = None,
) -> Plan:
    """`images` has the newest scan of each image by key; `spent_usd` this month's price of (cloud, account) so far."""
    planner = _Planner(
        dict(images),
        {one.scope: one.until or _NEVER for one in holds if one.until is None or one.until > now},
        spent_usd,
        version,
        now,
        clockwork or Clockwork(),
    )
    for one in sorted(machines, key=lambda machine: machine.key):
        planner.add(one)
    return planner.plan


def scan_id(kind: ScanKind, machine: str, why: Why, due: datetime | None, before: str) -> str:
    """`before` is the id of the machine's newest scan: the same moment may be ordered again after a policy came and went."""
    text = "\0".join([kind.value, machine, why.value, due.isoformat() if due else "", before])
    return f"{kind.value}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


@dataclass(slots=True)
class _Planner:
    images: dict[str, LastScan]
    holds: Mapping[str, datetime]
    spent_usd: Mapping[tuple[str, str], float]
    version: int
    now: datetime
    clockwork: Clockwork
    plan: Plan = field(default_factory=Plan)

    def add(self, one: Machine) -> None:
        self._hold_image(one)
        mode = str(one.rules.settings.get("protection.mode") or "") if one.rules.policy else ""
        why_not = self._why_not(one, mode)
        if why_not is not None:
            self._end_all(one, "the machine is gone" if one.closed else why_not or f"protection.mode is {mode}")
            self._state(one, mode, why_not, None, _NEVER if one.closed else self.now + HORIZON)
            return
        scan = self._one_of(one)
        held = self._held_until(one)
        if scan is not None:
            self._keep(one, mode, scan, held)
        else:
            self._order(one, mode, held)

    def _why_not(self, one: Machine, mode: str) -> str | None:
        """Why it gets no scans from here; empty if that is as it should be, None if it gets them."""
        if one.gone:
            return ""
        if not one.rules.policy:
            return printable(one.rules.problem)[:1_000] or "no policy holds"
        if mode == "none":
            why = one.rules.settings.get("protection.why")
            return f"not protected: {printable(str(why)) if why else 'the policy does not say why'}"[:1_000]
        if one.instance.excluded:
            return f"left out by {printable(one.instance.excluded)}"[:1_000]
        if mode not in _SCANNED:
            return ""
        if one.fleet is None:
            return "no fleet serves its account"
        return None

    def _end_all(self, one: Machine, detail: str) -> None:
        for scan in one.open:
            if scan.stopping:
                continue
            if one.gone:
                self.plan.stops.append(Stop(scan.id, ScanState.GONE, detail))
            elif scan.why is not Why.MANUAL:
                self.plan.stops.append(Stop(scan.id, ScanState.STOPPED, detail))

    def _one_of(self, one: Machine) -> OpenScan | None:
        """The open scan that counts; others of the machine are stopped, unless somebody asked for them."""
        scans = sorted(
            one.open, key=lambda scan: (scan.stopping, not scan.begun, _PRIORITY[scan.why], scan.due, scan.id)
        )
        for other in scans[1:]:
            if other.why is not Why.MANUAL and not other.stopping:
                self.plan.stops.append(Stop(other.id, ScanState.STOPPED, "another scan of the machine takes its place"))
        return scans[0] if scans else None

    def _keep(self, one: Machine, mode: str, scan: OpenScan, held: datetime | None) -> None:
        """One scan is open: it is paused if the machine is held, changed if the policy was, and waited for.

        What was asked for by hand is not held, and what has begun goes on under the policy that it began with.
        """
        due = scan.due
        waits = scan.why is not Why.MANUAL and not scan.begun and not scan.stopping
        left = scan.stopping and scan.fleet != one.fleet  # the fleet before may never answer
        if held is None and scan.held:
            self.plan.resumes.append(scan.id)
        if waits and held is not None and not scan.held:
            self.plan.pauses.append(scan.id)
        other = scan.settings != one.rules.settings or scan.fleet != one.fleet or self._astray(due)
        if held is None and (left or (waits and other)):
            due = self._changed(one, scan)
        look = self.now + _AGAIN
        if waits and due > self.now:
            look = max(self.now, due - HORIZON) if due > self.now + HORIZON else due
        self._state(one, mode, self._too_old(one), due, look if held is None else min(look, held))

    def _changed(self, one: Machine, scan: OpenScan) -> datetime:
        """Change what was ordered to what the policy says now; when it is due then."""
        assert one.fleet is not None
        settings = one.rules.settings
        due = scan.due
        name = "scan.settle_seconds" if scan.why is Why.LAUNCH else "scan.schedule"
        if due > self.now and (scan.settings.get(name) != settings.get(name) or self._astray(due)):
            due = self._launch(one) if scan.why is Why.LAUNCH else self._due(one)
        opens = self._opening(one, due)
        new = self._scan_order(one, scan.why, opens, before=scan.id)
        if opens.start == scan.due and scan.fleet == one.fleet:
            self.plan.replacements.append(Replacement(one.fleet, new.model_copy(update={"scan": scan.id}), new))
            return opens.start
        if not scan.stopping:
            self.plan.stops.append(Stop(scan.id, ScanState.STOPPED, "what was said of it changed: it is planned anew"))
        if opens.start <= self.now + HORIZON:
            self._give(one.fleet, new)
        return opens.start

    def _hold_image(self, one: Machine) -> None:
        """The scan of its image that has not begun waits while all is held, or its account: others may have the image, too."""
        last = self.images.get(one.image)
        if last is None or last.state in ENDED:
            return
        place = one.instance.place
        wanted = not self.holds.keys().isdisjoint(("all", f"{place.cloud}://{place.account}"))
        begun = last.state is ScanState.RUNNING or (last.state is ScanState.PAUSED and not last.held)
        if wanted == last.held or (wanted and begun):
            return
        (self.plan.pauses if wanted else self.plan.resumes).append(last.id)
        self.images[one.image] = replace(last, held=wanted)

    def _order(self, one: Machine, mode: str, held: datetime | None) -> None:
        assert one.fleet is not None
        used_up = self._month_left_usd(one) == 0
        stays = held is not None or used_up
        launch = self._is_new(one) and bool(one.rules.settings.get("scan.at_launch"))
        if launch and not stays and self._waits_for_image(one):
            wait = min(max((self.now - self.images[one.image].ordered) / 10, _SOON), _LATER)
            self._state(one, mode, self._too_old(one), self._launch(one), self.now + wait)
            return
        opens = self._opening(one, self._launch(one) if launch else self._due(one))
        problem = "limits.month_usd of its account is used up" if used_up else self._too_old(one)
        if stays:
            self._state(one, mode, problem, opens.start, min(held or _NEVER, self.now + _HELD_AGAIN))
        elif opens.start > self.now + HORIZON:
            self._state(one, mode, problem, opens.start, opens.start - HORIZON)
        else:
            self._give(one.fleet, self._scan_order(one, Why.LAUNCH if launch else Why.SCHEDULE, opens))
            self._state(one, mode, problem, opens.start, max(opens.start, self.now + _AGAIN))

    def _is_new(self, one: Machine) -> bool:
        launched = one.instance.launched
        if one.last is not None or launched is None:
            return False
        return one.first_seen - launched < NEW and self.now - one.first_seen < HORIZON

    def _launch(self, one: Machine) -> datetime:
        settle = timedelta(seconds=int(one.rules.settings.get("scan.settle_seconds") or 0))
        seen = min(one.first_seen, self.now)
        return min(one.instance.launched or seen, seen).replace(microsecond=0) + settle

    def _due(self, one: Machine) -> datetime:
        """By the schedule; of one that was never scanned or is long overdue, within the next `spread_seconds`."""
        schedule = one.rules.settings["scan.schedule"]
        spread = timedelta(seconds=offset_seconds(one.key, int(schedule.get("spread_seconds", 0))))
        if one.last is None and not self._is_new(one):
            due = min(one.first_seen, self.now).replace(microsecond=0) + spread
        else:
            since = one.first_seen if one.last is None else one.last.ended or self.now
            due = self.clockwork.due_after(schedule, one.key, min(since, self.now))
        return due if due > self.now - LATE else self.now.replace(microsecond=0) + spread

    def _astray(self, due: datetime) -> bool:
        """Nothing is ordered so far ahead: the clock was wrong when it was."""
        return due > self.now + HORIZON + ASTRAY

    def _opening(self, one: Machine, due: datetime) -> Opening:
        """When it may start; what is overdue keeps its time if the window is open now."""
        found = opening(one.rules.settings.get("scan.window"), max(due, self.now))
        return Opening(due, found.end) if found.start <= self.now else found

    def _waits_for_image(self, one: Machine) -> bool:
        """Orders the scan of its image if nobody did; once that has ended or takes too long, the machine does not wait."""
        if not one.image:
            return False
        assert one.fleet is not None
        last = self.images.get(one.image)
        failed = last is not None and last.state in {ScanState.FAILED, ScanState.MISSED, ScanState.STOPPED}
        if last is None or (failed and last.ended is not None and last.ended < one.first_seen):
            order = self._image_order(one, last.id if last else "")
            self._give(one.fleet, order)
            self.images[one.image] = LastScan(order.scan, ScanState.ORDERED, self.now, None)
            return True
        timeout = timedelta(seconds=int(one.rules.settings.get("scan.timeout_seconds") or 0) or 6 * 3600)
        return last.state not in ENDED and -ASTRAY < self.now - last.ordered < timeout

    def _scan_order(self, one: Machine, why: Why, opens: Opening, before: str | None = None) -> ScanOrder:
        last = one.last.id if one.last else ""
        return ScanOrder(
            scan=scan_id(ScanKind.INSTANCE, one.key, why, opens.start, last if before is None else before),
            kind=ScanKind.INSTANCE,
            place=one.instance.place,
            machine=one.key,
            instance=one.instance,
            image=one.instance.image,
            why=why,
            not_before=opens.start,
            not_after=opens.end,
            policy_version=self.version,
            settings=dict(one.rules.settings),
            usd_left=self._left_usd(one),
        )

    def _image_order(self, one: Machine, before: str) -> ScanOrder:
        return ScanOrder(
            scan=scan_id(ScanKind.IMAGE, one.image, Why.LAUNCH, None, before),
            kind=ScanKind.IMAGE,
            place=one.instance.place,
            machine=one.image,
            image=one.instance.image,
            why=Why.LAUNCH,
            not_before=self.now,
            policy_version=self.version,
            settings=dict(one.rules.settings),
            usd_left=self._left_usd(one),
        )

    def _give(self, fleet: str, order: ScanOrder) -> None:
        self.plan.orders.setdefault(fleet, []).append(order)

    def _left_usd(self, one: Machine) -> float | None:
        """What the scan may cost: the rest of the account's month, and what the policy allows one scan. None: anything."""
        month = self._month_left_usd(one)
        scan = one.rules.settings.get("limits.scan_usd")
        if scan is None:
            return month
        return float(scan) if month is None else min(month, float(scan))

    def _month_left_usd(self, one: Machine) -> float | None:
        month = one.rules.settings.get("limits.month_usd")
        place = one.instance.place
        return None if month is None else max(0.0, float(month) - self.spent_usd.get((place.cloud, place.account), 0.0))

    def _held_until(self, one: Machine) -> datetime | None:
        """When the last hold on it ends; None if there is none."""
        place = one.instance.place
        scopes = ("all", f"{place.cloud}://{place.account}", one.key)
        return max((self.holds[scope] for scope in scopes if scope in self.holds), default=None)

    def _too_old(self, one: Machine) -> str:
        """What is said of a machine that was not scanned for too long."""
        most = one.rules.settings.get("scan.max_age_seconds")
        since = one.last_scanned or one.first_seen
        if most is None or self.now - since <= timedelta(seconds=int(most)):
            return ""
        said = (
            f"last scanned {since:%Y-%m-%d %H:%MZ}"
            if one.last_scanned
            else f"seen since {since:%Y-%m-%d %H:%MZ}, never scanned"
        )
        return f"{said}: scan.max_age_seconds is {int(most):,}"

    def _state(self, one: Machine, mode: str, unprotected: str, due: datetime | None, look: datetime) -> None:
        """`look` is brought forward to where the policy or the age of the last scan says something else."""
        changes = one.rules.changes
        if not one.closed:
            look = min(look, self.now + LATEST_LOOK)
        if changes is not None and changes > self.now:
            look = min(look, changes)
        most = one.rules.settings.get("scan.max_age_seconds")
        if most is not None and due is not None:
            too_old = (one.last_scanned or one.first_seen) + timedelta(seconds=int(most) + 1)
            look = min(look, too_old) if too_old > self.now else look
        self.plan.states.append(State(one.key, one.rules.policy, mode, unprotected, due, look))
