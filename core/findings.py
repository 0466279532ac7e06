"""The third waist: `Finding` hides detectors from policy and console; `Package` is what is installed, `Gap` what could not be looked at."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Iterable, Mapping, Protocol, Union

from core.files import FileEntry
from core.text import escape


class Severity(str, Enum):
    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 (info) to 4 (critical)."""
        return list(Severity).index(self)


class GapReason(str, Enum):
    """Why something was not looked at. The value is what `--accept-gap` takes."""

    UNSUPPORTED_IMAGE = "unsupported_image"
    UNSUPPORTED_VOLUME = "unsupported_volume"
    UNSUPPORTED_FILESYSTEM = "unsupported_filesystem"
    UNSUPPORTED_FEATURE = "unsupported_feature"
    ENCRYPTED = "encrypted"
    SWAP = "swap"
    NOT_A_FILESYSTEM = "not_a_filesystem"
    UNRECOGNISED = "unrecognised"
    EMPTY = "empty"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    JOURNAL_NOT_REPLAYED = "journal_not_replayed"
    FILE_TOO_LARGE = "file_too_large"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    DETECTOR_FAILED = "detector_failed"
    LIMIT = "limit"
    NOT_STARTED = "not_started"


@dataclass(frozen=True)
class OnDisk:
    """A whole disk, by its place on the command line (from 0)."""

    disk: int

    def __str__(self) -> str:
        return f"disk {self.disk}"


@dataclass(frozen=True)
class InVolume:
    """A volume, by its index in the report."""

    volume: int

    def __str__(self) -> str:
        return f"volume {self.volume}"


@dataclass(frozen=True)
class InFile:
    """A file on a volume."""

    volume: int
    path: bytes

    @classmethod
    def of(cls, file: FileEntry) -> InFile:
        return cls(file.volume, file.path)

    def __str__(self) -> str:
        return f"volume {self.volume}: {escape(self.path)}"


@dataclass(frozen=True)
class Machine:
    """All the disks together."""

    def __str__(self) -> str:
        return "machine"


Location = Union[OnDisk, InVolume, InFile, Machine]


@dataclass(frozen=True)
class Rule:
    """What is wrong and what to do about it, in words. `id` is stable, lower case, like `linux/empty-password`."""

    id: str
    title: str
    severity: Severity
    remedy: str


@dataclass(frozen=True)
class Finding:
    """Something wrong. `subject` tells two findings of one rule in one file apart (a user, a line, a match)."""

    rule: Rule
    where: InFile
    subject: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)

    def fingerprint(self, volume_id: str) -> str:
        """64 hex digits, the same for every scan of one machine; `volume_id` is the filesystem's UUID or its index."""
        digest = hashlib.sha256()
        for part in (
            self.rule.id.encode(),
            volume_id.encode(),
            self.where.path,
            self.subject.encode("utf-8", "surrogatepass"),
        ):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


@dataclass(frozen=True)
class Package:
    """Installed software, as a package manager wrote it down in the file `where`. No judgement: a later advisory judges it without a scan.

    `type` is that of a package URL (`deb`, `apk`), or `os` for the system itself. `source` is what it was built from, which advisories
    name. `distro` is `ID-VERSION_ID` of the system, empty if that is not known.
    """

    where: InFile
    type: str
    name: str
    version: str
    architecture: str = ""
    source: str = ""
    source_version: str = ""
    distro: str = ""


@dataclass(frozen=True)
class Gap:
    """Something that could not be looked at; `count` > 1 stands for that many of the same kind."""

    where: Location
    reason: GapReason
    detail: str
    count: int = 1


class Detector(Protocol):
    """Looks at one file. States what is there; only a policy says what to do.

    `content_only` is true if the result depends on nothing but the bytes, so that one look serves every file with them.
    """

    @property
    def name(self) -> str: ...
    @property
    def content_only(self) -> bool: ...

    def wants(self, file: FileEntry) -> bool:
        """Decided by path and stat alone, without I/O."""
        ...

    def inspect(self, file: FileEntry) -> Iterable[Union[Finding, Package, Gap]]: ...
