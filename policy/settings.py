"""Every setting that a policy may say, in one section for each capability. What is not said is inherited.

Sizes are bytes, durations seconds, money US dollars: the unit stands in the name. A list or mapping is `merged`: items of
parent and child add up; or it replaces what was inherited. `catalogue` has all settings by name, such as `scan.schedule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.findings import GapReason, Severity
from policy import checks

_DAY: Final = 24 * 3600
_YEAR: Final = 366 * _DAY


class Strict(BaseModel):
    """Unknown names are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Mode(StrEnum):
    AGENTLESS = "agentless"
    LIGHT_AGENT = "light_agent"
    BOTH = "both"
    FULL_AGENT = "full_agent"
    NONE = "none"


class Offline(StrEnum):
    """What a light agent answers while no appliance does: all and check later, only what is known good, nothing."""

    ALLOW = "allow"
    TRUSTED = "trusted"
    DENY = "deny"


class Depth(StrEnum):
    """`inventory`: names and packages; refused as yet. `changed`: contents that changed since the last scan. `full`: all contents."""

    INVENTORY = "inventory"
    CHANGED = "changed"
    FULL = "full"


class Guard(StrEnum):
    """Of a protection in the guest: `audit` tells what it would have stopped."""

    OFF = "off"
    AUDIT = "audit"
    ENFORCE = "enforce"


class Patching(StrEnum):
    OFF = "off"
    PLAN = "plan"
    APPLY = "apply"


class Watch(StrEnum):
    """`snapshots`: from scan to scan. `live`: with who did it, which needs an agent."""

    OFF = "off"
    SNAPSHOTS = "snapshots"
    LIVE = "live"


class Source(StrEnum):
    PACKAGES = "packages"
    IMAGE = "image"
    PUBLISHERS = "publishers"
    PREVALENCE = "prevalence"


class Channel(StrEnum):
    EARLY = "early"
    STABLE = "stable"


class Clones(StrEnum):
    REKEY = "rekey"
    REFUSE = "refuse"


class Reputation(StrEnum):
    """`private`: only what this installation holds is asked."""

    OFF = "off"
    PRIVATE = "private"
    PUBLIC_FEEDS = "public_feeds"


class Action(StrEnum):
    ALERT = "alert"
    TAG = "tag"
    BLOCK = "block"
    DISINFECT = "disinfect"
    QUARANTINE = "quarantine"
    ROLL_BACK = "roll_back"
    PATCH = "patch"
    ISOLATE = "isolate"
    STOP = "stop"


class Day(StrEnum):
    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


MOST_ITEMS: Final = 10_000  # of a setting that is merged, in one document and in effect
_MERGED: Final[dict[str, Any]] = {"combine": "merge"}
Seconds = Annotated[int, Field(ge=0, le=10 * _YEAR)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Scans = Annotated[int, Field(le=1_000_000, json_schema_extra={"minimum": 1}), AfterValidator(checks.scans)]
Usd = Annotated[float, Field(ge=0, le=1e9)]
Word = Annotated[str, Field(min_length=1, max_length=300)]
Cron = Annotated[str, AfterValidator(checks.cron)]
Zone = Annotated[str, AfterValidator(checks.time_zone)]
Clock = Annotated[str, AfterValidator(checks.clock)]
Network = Annotated[str, AfterValidator(checks.network)]
RulePattern = Annotated[Word, AfterValidator(checks.rule_pattern)]
PathPattern = Annotated[Word, AfterValidator(checks.absolute)]
Sha256 = Annotated[str, AfterValidator(checks.sha256)]
Ports = Annotated[str, AfterValidator(checks.ports)]
Device = Annotated[str, AfterValidator(checks.device)]
Actions = Annotated[tuple[Action, ...], Field(min_length=1, max_length=9)]


def _merged(about: str = "") -> Any:
    return Field(default=None, description=about or None, json_schema_extra=_MERGED, max_length=MOST_ITEMS)


class Schedule(Strict):
    """When a scan is due; it starts at a moment within `spread_seconds` that is the same for a machine every time."""

    cron: Cron
    time_zone: Zone = "UTC"
    spread_seconds: Annotated[int, Field(ge=0, le=7 * _DAY)] = 0


class Window(Strict):
    """When work may be done. An `end` before `start` is on the next day."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = tuple(Day)
    start: Clock
    end: Clock
    time_zone: Zone = "UTC"

    @model_validator(mode="after")
    def _some_time(self) -> Window:
        if self.start == self.end:
            raise ValueError("has no time in it: `start` and `end` are the same")
        return self


class Inbound(Strict):
    """One thing that the firewall lets in."""

    port: Ports
    source: Annotated[Network, Field(alias="from")]


class Protection(Strict):
    mode: Mode | None = Field(default=None, description="How the machine is looked at.")
    why: Word | None = Field(default=None, description="Why it is not; required with mode: none.")
    offline: Offline | None = None
    appliance_tags: tuple[Word, ...] | None = _merged("Only appliances with all of these serve the machine.")

    @model_validator(mode="after")
    def _says_why(self) -> Protection:
        if self.mode is Mode.NONE and self.why is None:
            raise ValueError("mode `none` needs `why` beside it: the reason is shown in every report")
        return self


def _carried_out(depth: Depth) -> Depth:
    if depth is Depth.INVENTORY:
        raise ValueError("`inventory` is not there yet: contents would be looked at all the same; say `changed`")
    return depth


class Scan(Strict):
    depth: Annotated[Depth, AfterValidator(_carried_out)] | None = None
    schedule: Schedule | None = None
    window: Window | None = Field(default=None, description="A scan that is due waits for it.")
    at_launch: bool | None = Field(default=None, description="Scan a new instance as soon as it is seen.")
    settle_seconds: Seconds | None = Field(default=None, description="After its launch, before its disks are judged.")
    timeout_seconds: Seconds | None = None
    file_timeout_seconds: Seconds | None = None
    max_file_bytes: Bytes | None = Field(default=None, description="Larger files are gaps.")
    scan_ends_bytes: Bytes | None = None
    max_age_seconds: Seconds | None = Field(default=None, description="Without a scan for so long is a gap.")


class Exclusions(Strict):
    paths: tuple[PathPattern, ...] | None = _merged("* within a folder, ** across folders.")
    sha256: tuple[Sha256, ...] | None = _merged("Contents that are known to be good here.")
    processes: tuple[PathPattern, ...] | None = _merged("Programs whose files are not scanned on access.")
    rules: tuple[RulePattern, ...] | None = _merged("Rules whose findings are not acted on, such as linux/*.")


class Limits(Strict):
    scans_per_host: Scans | None = None
    scans_per_account: Scans | None = None
    blocks_per_second: Count | None = Field(default=None, description="Read from snapshots of one account.")
    agent_cpu_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    agent_memory_bytes: Bytes | None = None
    scan_usd: Usd | None = Field(default=None, description="A scan that would cost more is not started.")
    month_usd: Usd | None = Field(default=None, description="The same, for all scans of an account in a month.")


class OnAccess(Strict):
    mode: Guard | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] | None = None
    network_shares: bool | None = None


class ActionsBySeverity(Strict):
    """What to do about a finding. `by_rule` comes before severity."""

    info: Actions | None = None
    low: Actions | None = None
    medium: Actions | None = None
    high: Actions | None = None
    critical: Actions | None = None
    by_rule: Mapping[Word, Actions] | None = _merged("By rule or pattern; the longest pattern that fits counts.")


class Gaps(Strict):
    accepted: tuple[GapReason, ...] | None = _merged("Kinds of gap that one can live with; they are still shown.")


class Evidence(Strict):
    keep_snapshot: bool | None = Field(default=None, description="Of a machine with a finding.")
    minimum_severity: Severity | None = None
    keep_seconds: Seconds | None = None


class BaseSnapshots(Strict):
    keep: Annotated[int, Field(ge=0, le=10)] | None = Field(default=None, description="How many per disk.")
    max_age_seconds: Seconds | None = None


class Definitions(Strict):
    channel: Channel | None = None
    max_age_seconds: Seconds | None = None


class ReputationLookups(Strict):
    mode: Reputation | None = None


class ApplicationControl(Strict):
    mode: Guard | None = None
    trust: tuple[Source, ...] | None = Field(default=None, description="What builds the allow-list.")
    allow_sha256: tuple[Sha256, ...] | None = _merged()
    deny_sha256: tuple[Sha256, ...] | None = _merged()
    allow_paths: tuple[PathPattern, ...] | None = _merged()


class ExploitPrevention(Strict):
    mode: Guard | None = None
    processes_left_out: tuple[PathPattern, ...] | None = _merged()


class Vulnerabilities(Strict):
    assess: bool | None = None
    minimum_severity: Severity | None = None
    patching: Patching | None = None
    patch_window: Window | None = None
    patch_within_seconds: Seconds | None = None
    held_packages: tuple[Word, ...] | None = _merged("Never patched by us.")


class Integrity(Strict):
    watch: Watch | None = None
    paths: tuple[PathPattern, ...] | None = _merged()
    registry_keys: tuple[Word, ...] | None = _merged()


class NetworkProtection(Strict):
    firewall: Guard | None = None
    inbound: tuple[Inbound, ...] | None = _merged("All that is let in while the firewall is on.")
    attacks: Guard | None = Field(default=None, description="Port scans, floods, brute force, exploits.")
    reachable_when_isolated: tuple[Network, ...] | None = _merged()


class Behaviour(Strict):
    mode: Guard | None = None
    privilege_control: Guard | None = None
    roll_back: bool | None = None


class Memory(Strict):
    mode: Guard | None = None


class Web(Strict):
    mode: Guard | None = None
    blocked_categories: tuple[Word, ...] | None = _merged()
    blocked_domains: tuple[Word, ...] | None = _merged()
    allowed_domains: tuple[Word, ...] | None = _merged()


class Devices(Strict):
    mode: Guard | None = None
    allowed: tuple[Device, ...] | None = _merged()


class Rootkits(Strict):
    cross_views: bool | None = None
    remediation: Guard | None = None


class CloneSettings(Strict):
    identity: Clones | None = None
    scan_differences_only: bool | None = None


class Outputs(Strict):
    send_to: tuple[Word, ...] | None = _merged("Names of outputs that the console knows.")


class Settings(Strict):
    """All sections."""

    protection: Protection | None = None
    scan: Scan | None = None
    exclusions: Exclusions | None = None
    limits: Limits | None = None
    on_access: OnAccess | None = None
    actions: ActionsBySeverity | None = None
    gaps: Gaps | None = None
    evidence: Evidence | None = None
    base_snapshots: BaseSnapshots | None = None
    definitions: Definitions | None = None
    reputation: ReputationLookups | None = None
    application_control: ApplicationControl | None = None
    exploit_prevention: ExploitPrevention | None = None
    vulnerabilities: Vulnerabilities | None = None
    integrity: Integrity | None = None
    network: NetworkProtection | None = None
    behaviour: Behaviour | None = None
    memory: Memory | None = None
    web: Web | None = None
    devices: Devices | None = None
    rootkits: Rootkits | None = None
    clones: CloneSettings | None = None
    outputs: Outputs | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """`merged`: items of upper and lower levels add up; else the lower one replaces."""

    name: str
    merged: bool


def _catalogue() -> dict[str, Setting]:
    found = {}
    for section, field in Settings.model_fields.items():
        model = model_in(field.annotation)
        assert model is not None
        for name, setting in model.model_fields.items():
            full = f"{section}.{name}"
            found[full] = Setting(full, setting.json_schema_extra == _MERGED)
    return found


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model in a type such as `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := model_in(part)) is not None:
            return found
    return None


CATALOGUE: Final = _catalogue()
# What takes a finding away before any action is looked up. A gap that is accepted is still shown and takes nothing away.
_TAKES_FINDINGS_AWAY: Final = ("exclusions.paths", "exclusions.sha256", "exclusions.rules")
# What would undo a locked setting from beside it is locked with it: rules come before severities, exclusions before
# both, and a reason without its mode, or a mode without its reason, would be a lie.
LOCKED_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    **{f"actions.{severity.value}": ("actions.by_rule", *_TAKES_FINDINGS_AWAY) for severity in Severity},
    "actions.by_rule": _TAKES_FINDINGS_AWAY,
    "protection.mode": ("protection.why",),
    "protection.why": ("protection.mode",),
}
# What holds where no policy says anything: looked at without entering it, nothing changed, everything told.
DEFAULTS: Final[Mapping[str, Any]] = {
    "protection.mode": "agentless",
    "protection.offline": "allow",
    "scan.depth": "changed",
    "scan.schedule": {"cron": "0 2 * * *", "time_zone": "UTC", "spread_seconds": 4 * 3600},
    "scan.at_launch": True,
    "scan.settle_seconds": 300,
    "scan.timeout_seconds": 6 * 3600,
    "scan.file_timeout_seconds": 600,
    "scan.max_file_bytes": 256 << 20,
    "scan.max_age_seconds": 8 * _DAY,
    "on_access.mode": "off",
    "on_access.timeout_seconds": 2.0,
    **{f"actions.{severity.value}": ["alert"] for severity in Severity},
    "evidence.keep_snapshot": False,
    "base_snapshots.keep": 1,
    "definitions.channel": "stable",
    "reputation.mode": "private",
    "vulnerabilities.assess": True,
    "vulnerabilities.patching": "off",
}
