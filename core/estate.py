"""The nouns of an estate: machines, their disks, and what we make beside them. Sizes are bytes, times UTC with an offset.

All of it comes from a provider's answer or an operator's file, so texts are untrusted: they are escaped where they are printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Mapping, Optional, Tuple


class InstanceState(str, Enum):
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"  # or on its way there: its disks are still
    TERMINATED = "terminated"  # or on its way there: its disks may be gone at any moment
    UNKNOWN = "unknown"


class SnapshotState(str, Enum):
    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"
    GONE = "gone"  # it was deleted, or was never there


@dataclass(frozen=True)
class Place:
    """Where something is: `cloud` is the connector's name, `account` an account, subscription or project."""

    cloud: str
    account: str
    region: str

    def __str__(self) -> str:
        return f"{self.cloud}://{self.account}/{self.region}"


@dataclass(frozen=True)
class Disk:
    """A disk of an instance. `obstacle` says why it cannot be snapshotted at all (instance storage, say); empty if it can.

    `key` names the customer's or provider's key that it is encrypted with; empty if it is not encrypted.
    """

    place: Place
    id: str
    instance: str
    device: str = ""
    size_bytes: int = 0
    boot: bool = False
    kind: str = ""
    encrypted: bool = False
    key: str = ""
    obstacle: str = ""


@dataclass(frozen=True)
class Instance:
    """A machine. `owner` is the account that pays for it or, if the operator names a tag for it, that tag's value.

    `excluded` says by what the operator left it out of all scans; empty if it is protected.
    """

    place: Place
    id: str
    name: str = ""
    state: InstanceState = InstanceState.UNKNOWN
    image: str = ""
    os: str = ""
    architecture: str = ""
    kind: str = ""
    owner: str = ""
    launched: Optional[datetime] = None
    zone: str = ""
    network: str = ""
    subnet: str = ""
    addresses: Tuple[str, ...] = ()
    security_groups: Tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    disks: Tuple[Disk, ...] = ()
    excluded: str = ""

    def __str__(self) -> str:
        return f"{self.place}/{self.id}"


@dataclass(frozen=True)
class Snapshot:
    """What a disk held at one moment. `size_bytes` is the disk's size; `token` is the scan it was made for, if we made it.

    One that could not even be made has no `id`, is FAILED, and `detail` says why.
    """

    place: Place
    id: str
    disk: str = ""
    instance: str = ""
    device: str = ""
    size_bytes: int = 0
    state: SnapshotState = SnapshotState.PENDING
    detail: str = ""  # why it failed, in the provider's words
    progress_percent: int = 0
    started: Optional[datetime] = None
    owner: str = ""  # the account that it belongs to, if it is shared with us
    encrypted: bool = False
    key: str = ""
    token: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""  # as it was made, unlike tags nobody can change it

    def __str__(self) -> str:
        return f"{self.place}/{self.id}"


@dataclass(frozen=True)
class Image:
    """What instances are made from. `snapshots` are those of its disks, the boot disk's first."""

    place: Place
    id: str
    name: str = ""
    os: str = ""
    architecture: str = ""
    owner: str = ""
    created: Optional[datetime] = None
    snapshots: Tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.place}/{self.id}"


@dataclass(frozen=True)
class InstanceEvent:
    """A provider's word that an instance was launched or changed its state; `id` is the same if it is sent again."""

    place: Place
    instance: str
    state: InstanceState
    time: datetime
    id: str


@dataclass(frozen=True)
class Resource:
    """Something that we make in a cloud and must take away again.

    `id` is empty while only the intention is written down: it is then found by `token`. `expires` is when the sweeper may
    delete it even if nobody knows it any more.
    """

    place: Place
    kind: str  # "snapshot", "security_group" …: what `Connector.delete` understands
    id: str
    token: str
    installation: str
    expires: datetime
    of: str = ""  # what it was made of: a disk, another snapshot
