"""The documents of the console's API: one definition for the console, the fleets, the command line and infrastructure code.

Everything has a bound, as everything may come from a stranger. Instances, disks and places are those of `core.estate`. Paths and
words that come from disks are bytes until `core.text.escape` made them printable; that is done before they stand in a document here.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from core.estate import Instance, Place, Snapshot
from core.findings import Severity

MOST_DOCUMENTS: Final = 2_000
MOST_DOCUMENT_CHARACTERS: Final = 1 << 20
OF_PROGRAMS: Final = "pulumi/"  # documents below it belong to programs: pulumi/PROJECT/STACK/NAME.yaml
MOST_INSTANCES: Final = 1_000  # in one request
MOST_COMPARED: Final = 200_000  # instances of one account in one region
MOST_REPORT_BYTES: Final = 24 << 20  # of one result, compressed
MOST_REPORT_JSON_BYTES: Final = 256 << 20  # … and as JSON
PAGE: Final = 1_000
MOST_LINES: Final = 2_000  # of the answer to one task
MOST_SET_HASHES: Final = 1 << 21  # distinct contents of one machine
MOST_PIECE_HASHES: Final = 16_384  # in one request, added and removed each

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
ScanId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Words = Annotated[str, StringConstraints(max_length=1_000)]
Key = Annotated[
    str, StringConstraints(min_length=1, max_length=512)
]  # `str(Instance)` or `str(Image)`: cloud://account/region/id
AccountKey = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}://[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
]  # cloud://account, as lists of accounts name it
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1 << 60)]
Usd = Annotated[float, Field(ge=0, le=1e9)]


class Document(BaseModel):
    """Unknown names are refused: a misspelt field must not be silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scope(StrEnum):
    """What a token may do. `ADMIN` holds all others; a fleet's token holds `FLEET` and is bound to that fleet's name."""

    READ = "read"
    SCAN = "scan"  # start, stop, pause, resume
    TRIAGE = "triage"  # accept findings, open them again
    POLICY = "policy"  # apply policies
    FLEET = "fleet"
    ADMIN = "admin"


class TokenIn(Document):
    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=6)]
    fleet: Name | None = None
    expires: AwareDatetime | None = None


class TokenOut(Document):
    name: Name
    scopes: tuple[Scope, ...]
    fleet: Name | None = None
    created: datetime
    expires: datetime | None = None
    last_used: datetime | None = None


class NewToken(TokenOut):
    """`secret` is shown this once; the console keeps its hash."""

    secret: str = Field(repr=False)


class AccountIn(Document):
    """An account that a fleet enters. No secret stands here: the fleet's own credentials take `role` there.

    `regions`: empty means all that are enabled. `queue_url`: where events of instances arrive; empty means reconciliation alone.
    `instances_file`: for cloud `file`, the machines of a site, as `kumomori instances --format jsonl` prints them; on the fleet.
    `managed_by`: the program whose account it is, like `pulumi/PROJECT/STACK/NAME`; empty: somebody's by hand. No other program may
    change it; who changes it by hand leaves it that program's.
    """

    cloud: Literal["aws", "file"]
    account: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    fleet: Name = "default"
    regions: Annotated[tuple[Annotated[str, StringConstraints(max_length=40)], ...], Field(max_length=100)] = ()
    role: Annotated[str, StringConstraints(max_length=512)] = ""
    external_id: Annotated[str, StringConstraints(max_length=1_224)] = ""
    queue_url: Annotated[str, StringConstraints(max_length=1_000)] = ""
    instances_file: Annotated[str, StringConstraints(max_length=4_096)] = ""
    managed_by: Annotated[str, StringConstraints(max_length=500)] = ""


class AccountOut(AccountIn):
    added: datetime
    reconciled: datetime | None = None  # when it was last listed whole
    instances: Count = 0
    problem: Words = ""  # why it could not be listed the last time


class InstanceOut(Document):
    """A machine as the console knows it. `mode` and `policy` are empty while no policy holds, `unprotected` says why."""

    key: Key
    instance: Instance
    first_seen: datetime
    last_seen: datetime
    closed: datetime | None = None  # it vanished, or was terminated
    policy: str = ""
    mode: str = ""
    unprotected: Words = ""
    last_scan: ScanId | None = None
    last_scanned: datetime | None = None
    last_result: Literal["clean", "findings", "gaps", ""] = ""
    next_scan: datetime | None = None
    open_findings: Count = 0
    gaps: Count = 0


class FindingState(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    FIXED = "fixed"  # a later scan looked there and it was gone


class FindingOut(Document):
    """`id` is the fingerprint of the finding on its instance: the same from scan to scan."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    instance: Key
    rule: Words
    title: Words
    severity: Severity
    remedy: Words
    path: str
    subject: str
    evidence: dict[str, Any]
    state: FindingState
    first_seen: datetime
    last_seen: datetime
    fixed: datetime | None = None
    accepted_by: str = ""
    accepted_why: Words = ""
    accepted_until: datetime | None = None
    actions: tuple[str, ...] = ()  # what the policy wants, and "wanted X, could only Y"


class AcceptIn(Document):
    why: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
    until: AwareDatetime | None = None


class GapOut(Document):
    instance: Key
    reason: str
    where: str
    detail: str
    count: Count
    accepted: bool
    scan: ScanId


class ScanKind(StrEnum):
    IMAGE = "image"  # what instances are made from, once for all of them
    INSTANCE = "instance"


class Why(StrEnum):
    """What asked for a scan; also its priority, the first highest."""

    MANUAL = "manual"
    LAUNCH = "launch"
    SCHEDULE = "schedule"


class ScanState(StrEnum):
    ORDERED = "ordered"  # the console wants it; its fleet may not know yet
    WAITING = "waiting"  # in the fleet: not due yet, or limits are reached
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    MISSED = "missed"  # its window closed before it could start
    GONE = "gone"  # the machine is


ENDED: Final = frozenset({ScanState.DONE, ScanState.FAILED, ScanState.STOPPED, ScanState.MISSED, ScanState.GONE})


class ScanIn(Document):
    instances: Annotated[tuple[Key, ...], Field(min_length=1, max_length=PAGE)]
    full: bool = False  # leave the base aside


class ScanOut(Document):
    id: ScanId
    kind: ScanKind
    machine: Key  # the instance, or the image
    fleet: Name
    why: Why
    state: ScanState
    step: str = ""  # of a running one: snapshot, wait, scan, store, release
    detail: Words = ""
    ordered: datetime
    due: datetime
    started: datetime | None = None
    ended: datetime | None = None
    result: Literal["clean", "findings", "gaps", ""] = ""
    findings: Count = 0
    gaps: Count = 0
    mode: Literal["full", "incremental", ""] = ""
    blocks_read: Count = 0
    bytes_read: Count = 0
    usd: Usd = 0.0
    policy_version: Count = 0


class ScanOrder(Document):
    """Everything a fleet needs to carry out one scan, and to go on with it while the console is away.

    `settings` are the effective ones of the policy by full name (`scan.depth`). `placement` is the host that the machine runs on, if
    that is known: limits per host count by it. The scan starts within `not_before` and `not_after` (None: any time later).
    """

    scan: ScanId
    kind: ScanKind
    place: Place
    machine: Key
    instance: Instance | None = None  # of kind `instance`
    image: str = ""  # the image's id, of both kinds; empty if it is not known
    placement: str = ""
    why: Why
    not_before: AwareDatetime
    not_after: AwareDatetime | None = None
    full: bool = False
    policy_version: Count = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    usd_left: Usd | None = None  # of the account's budget of this month


class Order(Document):
    """`number` grows; a fleet asks for what comes after the last that it has written down."""

    number: Annotated[int, Field(ge=1)]
    kind: Literal["scan", "stop", "pause", "resume", "reconcile"]
    scan: ScanId | None = None
    order: ScanOrder | None = None  # of kind `scan`


class Pull(Document):
    """`now` is the console's clock: a fleet whose own is off reckons with the difference."""

    now: AwareDatetime
    orders: tuple[Order, ...]
    accounts: tuple[AccountIn, ...]


class ScanProgress(Document):
    scan: ScanId
    state: Literal[ScanState.WAITING, ScanState.RUNNING, ScanState.PAUSED]
    step: Annotated[str, StringConstraints(max_length=40)] = ""
    started: AwareDatetime | None = None


class FleetStatus(Document):
    """Sent every few seconds. `clock` is the fleet's; `bases` and what they cost a month, from its ledger."""

    clock: AwareDatetime
    workers: Count
    scans: Annotated[tuple[ScanProgress, ...], Field(max_length=10_000)] = ()
    resources: Count = 0  # in the ledger
    bases: Count = 0
    bases_usd_month: Usd = 0.0
    problem: Words = ""


class FleetIn(Document):
    name: Name
    clouds: Annotated[tuple[Annotated[str, StringConstraints(max_length=40)], ...], Field(max_length=20)] = ()
    regions: Annotated[tuple[Annotated[str, StringConstraints(max_length=40)], ...], Field(max_length=200)] = ()


class FleetOut(FleetIn):
    registered: datetime
    seen: datetime | None = None
    clock_off_seconds: float = 0.0
    status: FleetStatus | None = None


class ResultIn(Document):
    """What came of one scan; sent until the console has it, taken once. `attempt` counts how often it was begun.

    `report`, of state DONE, is that of `docs/report.schema.json`: JSON, compressed by gzip, in base64. So no text in it can be something
    that JSON, a database or a validator between here and there would not let through.
    """

    scan: ScanId
    state: ScanState
    detail: Words = ""
    attempt: Annotated[int, Field(ge=1, le=1_000)] = 1
    started: AwareDatetime | None = None
    ended: AwareDatetime
    policy_version: Count = 0
    report: Annotated[str, StringConstraints(max_length=MOST_REPORT_BYTES // 3 * 4)] = ""
    usd: Usd = 0.0
    blocks_fetched: Count | None = (
        None  # from the cloud: what the report calls read may have been known to hold nothing
    )
    base: tuple[Snapshot, ...] = ()  # kept as the next base
    file_set: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""  # see `FileSetIn`; empty: not known


class SweepIn(Document):
    """What fleets made in clouds and nothing needs any more. Of `account` alone, if it is named; by the fleet of that, `fleet`, or each that registered."""

    fleet: Name | None = None
    account: AccountKey | None = None


class ClearIn(Document):
    """All that `fleet` keeps in `account`, which was removed before. Without `fleet`, whatever fleet keeps something there."""

    account: AccountKey
    fleet: Name | None = None
    evidence: bool = False  # also what is kept as evidence, which else stays until its time is over


class CheckIn(Document):
    """Whether the fleet of `account` may do there all that a scan needs."""

    account: AccountKey


class Task(Document):
    """Something that a fleet does once, now, and answers. It may be handed out twice: each kind does no harm then."""

    id: ScanId
    kind: Literal["sweep", "clear", "check"]
    account: AccountKey | None = None
    dry_run: bool = False  # of kind `sweep`
    evidence: bool = False  # of kind `clear`: what is kept as evidence goes, too


class FleetTasks(Document):
    """What a fleet is to do next; none, or one."""

    items: tuple[Task, ...]


class SweptLine(Document):
    """One thing that was deleted, would be, or could not be (`problem`). Without a `kind`, a place that could not be entered."""

    place: Words = ""  # empty: it is the fleet's own, not a cloud's
    kind: Annotated[str, StringConstraints(max_length=40)] = ""
    id: Annotated[str, StringConstraints(max_length=512)] = (
        ""  # empty: it was to be made `of` something, and is not known
    )
    of: Annotated[str, StringConstraints(max_length=512)] = ""
    size_bytes: Count | None = None  # of the disk that it is a snapshot of, if that is known
    problem: Words = ""


class CheckedLine(Document):
    """`ok` is None if it could not be tried, `detail` says why; `advice` names the statement that is missing."""

    place: Words
    permission: Annotated[str, StringConstraints(max_length=200)]
    ok: bool | None
    detail: Words = ""
    advice: Words = ""


class TaskAnswer(Document):
    """`problem`: why not all of it was done. `more`: lines that there was no room for."""

    installation: Annotated[str, StringConstraints(max_length=63)] = ""  # the name that policies of roles are bound to
    swept: Annotated[tuple[SweptLine, ...], Field(max_length=MOST_LINES)] = ()
    checked: Annotated[tuple[CheckedLine, ...], Field(max_length=MOST_LINES)] = ()
    more: Count = 0
    bases: Count = 0  # snapshots that are kept …
    bases_bytes: Count = 0  # … and the size of their disks
    evidence: Count = 0  # of kind `clear`: snapshots that stay as evidence …
    evidence_until: datetime | None = None  # … until then at the latest
    problem: Words = ""


class TaskOut(Task):
    """`fetched`: its fleet has begun. What is not `answered` when it `expires` is handed out no more; a day later it is forgotten."""

    fleet: Name
    by: str
    asked: datetime
    expires: datetime
    fetched: datetime | None = None
    answered: datetime | None = None
    answer: TaskAnswer | None = None


class Tasks(Document):
    items: tuple[TaskOut, ...]


class FileSetIn(Document):
    """The distinct SHA-256 of the files of a machine: `count` of them, named by the SHA-256 of all of them, ascending, one after another.

    With a `base`, the pieces say what is added to that set and removed from it; without, they are the set.
    """

    count: Annotated[int, Field(ge=0, le=MOST_SET_HASHES)]
    base: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    pieces: Annotated[int, Field(ge=0, le=2 * MOST_SET_HASHES // MOST_PIECE_HASHES)]


class FilePieceIn(Document):
    """Hashes (32 bytes each, in base64), ascending, also from piece to piece."""

    added: Annotated[str, StringConstraints(max_length=MOST_PIECE_HASHES * 44)] = ""
    removed: Annotated[str, StringConstraints(max_length=MOST_PIECE_HASHES * 44)] = ""


class FileSetOut(Document):
    """`whole`: the console has it. `unknown`: it does not have the base. `wanted`: pieces are `missing`."""

    state: Literal["whole", "unknown", "wanted"]
    missing: tuple[int, ...] = ()


class Compare(Document):
    """All instances of one place, each with a digest of what is known of it: what differs is then sent, and nothing else.

    `complete`: the listing ended well, so what is not in it has vanished. `listed` is when it began, by the fleet's corrected clock.
    """

    place: Place
    listed: AwareDatetime
    complete: bool
    digests: Annotated[
        dict[str, Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]], Field(max_length=MOST_COMPARED)
    ]
    problem: Words = ""


class Compared(Document):
    """Ids to send, and how many were closed because they are not there any more."""

    wanted: tuple[str, ...]
    closed: Count


class Sighting(Document):
    """Instances as they are now, or were at `seen`: an older sighting that comes late changes nothing."""

    instances: Annotated[tuple[Instance, ...], Field(max_length=MOST_INSTANCES)]
    seen: AwareDatetime


class PolicySet(Document):
    """All documents by name (`company.yaml`), applied as one. `message` says why, for the history."""

    documents: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=200)],
            Annotated[str, StringConstraints(max_length=MOST_DOCUMENT_CHARACTERS)],
        ],
        Field(max_length=MOST_DOCUMENTS),
    ]
    message: Words = ""


class PolicyVersion(Document):
    version: Count
    etag: str
    who: str
    when: datetime | None
    message: Words = ""
    documents: dict[str, str] | None = None  # not in lists of versions


class PolicyProblem(Document):
    document: str
    line: Count
    column: Count
    problem: str


class PolicyChange(Document):
    setting: str
    old: Any = None
    new: Any = None
    instances: tuple[str, ...]
    count: Count


class DryRun(Document):
    """What applying would say: refused with `problems`, or what would change for whom. `notes` are worth a look."""

    problems: tuple[PolicyProblem, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[PolicyChange, ...] = ()


class Hold(Document):
    """Scheduled scans of `scope` do not start until it is taken back: `all`, `cloud://account`, or an instance's key."""

    scope: Key
    why: Words = ""
    until: AwareDatetime | None = None


class HoldOut(Hold):
    by: str
    since: datetime


class Upcoming(Document):
    instance: Key
    due: datetime
    policy: str
    held: bool = False


class Page(Document):
    """`next` goes into `?after=` for the rest; None: that is all."""

    next: str | None = None


class Instances(Page):
    items: tuple[InstanceOut, ...]


class Findings(Page):
    items: tuple[FindingOut, ...]


class GapsPage(Page):
    items: tuple[GapOut, ...]


class Scans(Page):
    items: tuple[ScanOut, ...]


class FileHolder(Document):
    """An instance or an image that had the content when `scan` saw its disks, which was the last time."""

    machine: Key
    kind: ScanKind
    scan: ScanId
    seen: datetime


class FileHolders(Page):
    """Who holds a content now. Of the open `instances`, it is not known for those that were `never` scanned for it, and not sure for
    those that have `gaps` and are not in `items`: what could not be read, or is too large, is in no set."""

    sha256: Sha256
    items: tuple[FileHolder, ...]
    instances: Count
    never: Count
    gaps: Count


class PackageHolder(Document):
    """A machine on which `scan` saw the package installed, which was the last time. `source` is what it was built from."""

    machine: Key
    kind: ScanKind
    scan: ScanId
    seen: datetime
    type: str
    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    distro: str


class PackageHolders(Page):
    """Of the open `instances`, nothing is known for `never`: not scanned, or no package manager was found that is read; and it is not
    sure for those that have `gaps` and do not have it."""

    items: tuple[PackageHolder, ...]
    instances: Count
    never: Count
    gaps: Count


class Schedule(Page):
    items: tuple[Upcoming, ...]
    holds: tuple[HoldOut, ...] = ()


class Health(Document):
    status: Literal["ok", "degraded"]
    version: str
    problems: tuple[str, ...] = ()


class Problem(Document):
    """Every error of the API has this shape. `problems` name document, line and column where policies were refused."""

    error: str
    problems: tuple[PolicyProblem, ...] = ()
