"""The snapshots of all accounts and regions: who owns and may see each, its state, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from threading import RLock

from demo.aws.clock import Clock
from demo.aws.content import GIB, BlockMap, BlockStore, Content, restore, take
from demo.aws.keys import Keys
from demo.aws.rules import Caller, Rules


@dataclass
class Snapshot:
    """One EBS snapshot. `blocks` is what it holds, `lineage` what it may be compared with."""

    id: str
    account: str
    region: str
    size_gib: int
    blocks: BlockMap
    lineage: str
    volume: str
    started: float
    description: str = ""
    key: str = ""  # ARN of its KMS key; empty if it is not encrypted
    parent: str = ""
    state: str = "pending"
    message: str = ""
    direct: bool = False  # written through EBS direct: it completes when it is told to
    adopted: bool = False  # EC2 knows of it
    stuck: bool = False
    polls: int = 0  # how often it was described
    shared_with: set[str] = field(default_factory=set)  # accounts, or "all"
    tags: dict[str, str] = field(default_factory=dict)  # those of StartSnapshot, until EC2 has them
    timeout_seconds: float = 3600.0
    last_write: float = 0.0
    written: dict[int, bytes] = field(default_factory=dict)  # checksums of blocks put by EBS direct

    @property
    def arn(self) -> str:
        return f"arn:aws:ec2:{self.region}::snapshot/{self.id}"

    def visible_to(self, account: str) -> bool:
        return self.account == account or account in self.shared_with or "all" in self.shared_with


@dataclass
class Library:
    """Contents of volumes and snapshots, all accounts together. `lock` guards everything but reading blocks."""

    folder: Path
    clock: Clock
    rules: Rules
    keys: Keys
    lock: RLock = field(default_factory=RLock)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    volumes: dict[str, Content] = field(default_factory=dict)
    tokens: dict[tuple[str, str, str], str] = field(default_factory=dict)  # of StartSnapshot

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = BlockStore(self.folder / "blocks")

    def volume(self, volume_id: str, size_bytes: int, made_of: str = "") -> Content:
        """The content of a volume: an empty one, or what the snapshot `made_of` holds, if it was not asked for before."""
        with self.lock:
            content = self.volumes.get(volume_id)
            if content is None:
                path = self.folder / f"{volume_id}.raw"
                source = self.snapshots.get(made_of)
                restore(source.blocks if source else BlockMap(), self.store, path, size_bytes)
                lineage = source.lineage if source else new_lineage()
                content = self.volumes[volume_id] = Content(path, size_bytes, lineage)
            elif content.size_bytes < size_bytes:  # ModifyVolume
                with content.path.open("r+b") as out:
                    out.truncate(size_bytes)
                content.size_bytes = size_bytes
            return content

    def forget_volume(self, volume_id: str) -> None:
        with self.lock:
            content = self.volumes.pop(volume_id, None)
        if content:
            content.path.unlink(missing_ok=True)

    def take(self, snapshot_id: str, caller: Caller, volume_id: str, content: Content, key: str) -> Snapshot:
        """A snapshot of a volume as it is now; it fails or gets stuck if the rules say so of the next one."""
        with self.lock:
            blocks = take(content, self.store)
            made = Snapshot(
                snapshot_id,
                caller.account,
                caller.region,
                -(-content.size_bytes // GIB),
                blocks,
                content.lineage,
                volume_id,
                self.clock.now(),
                key=key,
            )
            self._fate(made)
            self.snapshots[snapshot_id] = made
            return made

    def _fate(self, made: Snapshot) -> None:
        if self.rules.snapshot_failures:
            made.message = self.rules.snapshot_failures.pop(0)
        elif self.rules.stuck_snapshots:
            self.rules.stuck_snapshots -= 1
            made.stuck = True

    def copy(self, snapshot_id: str, source: Snapshot, caller: Caller, key: str, failure: str) -> Snapshot:
        """A copy in the caller's account and region. Copies of one lineage under one key are a lineage of their own."""
        with self.lock:
            lineage = f"{source.lineage}>{caller.account}/{caller.region}/{key}"
            blocks = self.store.share(source.blocks)
            made = Snapshot(
                snapshot_id,
                caller.account,
                caller.region,
                source.size_gib,
                blocks,
                lineage,
                "vol-ffffffff",  # what AWS shows for copies
                self.clock.now(),
                key=key,
                message=failure,
            )
            if not failure:
                self._fate(made)
            self.snapshots[snapshot_id] = made
            return made

    def add(self, snapshot: Snapshot) -> None:
        with self.lock:
            self.snapshots[snapshot.id] = snapshot

    def delete(self, snapshot_id: str) -> None:
        """Forget a snapshot and free what only it held."""
        with self.lock:
            gone = self.snapshots.pop(snapshot_id, None)
            if gone:
                self.store.release(gone.blocks.slots)

    def state(self, snapshot: Snapshot, *, polled: bool = False) -> str:
        """pending, completed or error, as it is now; being `polled` may be what it waited for."""
        with self.lock:
            if snapshot.state == "pending" and snapshot.direct:
                last = snapshot.last_write or snapshot.started
                if self.clock.now() - last > snapshot.timeout_seconds:
                    snapshot.state, snapshot.message = "error", "Snapshot timed out before it was completed"
            elif snapshot.state == "pending" and not snapshot.stuck:
                waited = self.clock.now() - snapshot.started >= self.rules.snapshot_seconds
                if waited and snapshot.polls >= self.rules.snapshot_polls:
                    snapshot.state = "error" if snapshot.message else "completed"
            if polled:
                snapshot.polls += 1
            return snapshot.state

    def late(self, snapshot: Snapshot) -> bool:
        """Whether a listing does not show it yet. Counts as one look at it."""
        young = self.clock.now() - snapshot.started < self.rules.late_seconds
        return young or snapshot.polls < self.rules.late_polls

    def progress(self, snapshot: Snapshot) -> int:
        """In percent."""
        if snapshot.state == "completed":
            return 100
        if self.rules.snapshot_seconds <= 0 or snapshot.stuck:
            return 0
        return max(0, min(99, int((self.clock.now() - snapshot.started) * 100 / self.rules.snapshot_seconds)))


def new_lineage() -> str:
    return token_hex(8)
