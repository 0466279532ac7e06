"""A report as a fleet sent it, taken apart by hand: whatever the JSON is, it is understood or refused, and bounded either way.

What is used of `docs/report.schema.json` is checked; the rest is kept as it came. Text that comes from disks may be of any length
there, so it is cut here rather than refused: a hostile disk must not keep its own report out.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, NoReturn, get_args

from client.model import MOST_REPORT_JSON_BYTES
from console.problems import Refused
from core.findings import GapReason, Severity
from core.text import escape, printable, unescape

MOST_FINDINGS: Final = 50_000  # kept of one scan; the others are counted in a gap
MOST_GAPS: Final = 20_000
MOST_PACKAGES: Final = 100_000
MOST_PACKAGE_WORD: Final = 512
MOST_EVIDENCE_BYTES: Final = 4 << 10
_MOST_VALUES: Final = 6_000_000  # of all kinds in one report: bounds the memory that its JSON can take
_MOST_DEPTH: Final = 8  # of evidence
_MOST_WORDS: Final = 1_000
_MOST_SUBJECT: Final = 4 << 10
_MOST_PATH: Final = 16 << 10
_MOST_VOLUMES: Final = 100_000
_PIECE: Final = 256 << 10
_MOST_NUMBER: Final = 1 << 60
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
Result = Literal["clean", "findings", "gaps"]
Scope = Literal["machine", "disk", "volume", "file"]


@dataclass(frozen=True, slots=True)
class Found:
    """`volume` is the volume's name as in the fingerprint. Texts are cut, `evidence` is at most `MOST_EVIDENCE_BYTES` of JSON."""

    fingerprint: str
    rule: str
    title: str
    severity: Severity
    remedy: str
    volume: str
    path: bytes
    subject: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unseen:
    """A gap. `disk` and `volume` are numbers of the report; `path` is set for files."""

    scope: Scope
    disk: int | None
    volume: int | None
    path: bytes | None
    reason: GapReason
    detail: str
    count: int
    accepted: bool

    @property
    def where(self) -> str:
        match self.scope:
            case "machine":
                return "machine"
            case "disk":
                return f"disk {self.disk}"
            case "volume":
                return f"volume {self.volume}"
            case "file":
                return f"volume {self.volume}: {escape(self.path or b'')}"


class Package(NamedTuple):
    """Printable, each word cut to `MOST_PACKAGE_WORD` characters."""

    type: str
    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    distro: str


@dataclass(frozen=True, slots=True)
class Volume:
    index: int
    disk: int
    name: str  # in fingerprints
    read: bool  # it has a filesystem that is read


@dataclass(frozen=True)
class Read:
    """`seen` has the fingerprints of all findings, those too that were too many to keep. `compressed` is the report as it came.

    `rules` are the ids of all that the scan could have found; empty if it does not say.
    """

    result: Result
    findings: tuple[Found, ...]
    seen: frozenset[str]
    gaps: tuple[Unseen, ...]
    packages: tuple[Package, ...]
    volumes: tuple[Volume, ...]
    mode: Literal["full", "incremental"]
    blocks_read: int
    bytes_read: int
    compressed: bytes
    json_bytes: int
    rules: frozenset[str] = frozenset()


def read_report(text: str) -> Read:
    """`text` is base64 of gzip of JSON. Raises `Refused` (422), saying what is wrong with it."""
    try:
        compressed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse("it is not base64")
    raw = unpack(compressed)
    document = _parse(raw)
    volumes = _volumes(document)
    names = {volume.index: volume.name for volume in volumes}
    findings, seen = _findings(document, names)
    gaps = [_gap(one) for one in _list(document, "gaps")]
    if len(seen) > len(findings):
        more = len(seen) - len(findings)
        gaps.append(_machine_gap(f"{more:,} more findings are not kept one by one", more))
    packages, more = _packages(document)
    if more:
        gaps.append(_machine_gap(f"{more:,} more packages are not kept", more))
    if len(gaps) > MOST_GAPS:
        more = len(gaps) - MOST_GAPS + 1
        gaps = [_machine_gap(f"{more:,} more gaps are not kept one by one", more), *gaps[: MOST_GAPS - 1]]
    coverage = _mapping(document, "coverage")
    return Read(
        result=_one_of(document, "result", get_args(Result)),
        findings=findings,
        seen=seen,
        gaps=tuple(gaps),
        packages=packages,
        volumes=volumes,
        mode=_one_of(coverage, "mode", ("full", "incremental")),
        blocks_read=_number(coverage, "blocks_read"),
        bytes_read=_number(_mapping(document, "stats"), "bytes_read"),
        compressed=compressed,
        json_bytes=len(raw),
        rules=_rules(document),
    )


def unpack(compressed: bytes) -> bytes:
    """Raises `Refused` (422) if it is no gzip, not whole, or larger than a report may be."""
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        raw = inflate.decompress(compressed, MOST_REPORT_JSON_BYTES + 1)
    except zlib.error:
        _refuse("it is not gzip")
    if len(raw) > MOST_REPORT_JSON_BYTES:
        _refuse(f"it has more than {MOST_REPORT_JSON_BYTES:,} bytes of JSON")
    if not inflate.eof or inflate.unused_data:
        _refuse("its gzip is cut short, or something follows it")
    return raw


def unpacked(compressed: bytes) -> Iterator[bytes]:
    """What was taken by `read_report`, piece by piece: who asks for it may read slowly, and many may ask."""
    inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    while compressed and not inflate.eof:
        yield inflate.decompress(compressed, _PIECE)
        compressed = inflate.unconsumed_tail
    yield inflate.flush()


def _parse(raw: bytes) -> Mapping[str, Any]:
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MOST_VALUES:
        _refuse(f"it has more than {_MOST_VALUES:,} values")
    try:
        document = json.loads(raw, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):  # the first also for text that is no UTF-8, and for endless numbers
        _refuse("it is not JSON")
    if not isinstance(document, dict) or document.get("schema") != "kumomori.report/1":
        _refuse("schema: it is not kumomori.report/1")
    return document


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(word)
    return number


def _volumes(document: Mapping[str, Any]) -> tuple[Volume, ...]:
    """Named as the report's fingerprints do it: by the filesystem's UUID, a second one with its index."""
    found = _list(document, "volumes")
    if len(found) > _MOST_VOLUMES:
        _refuse(f"volumes: more than {_MOST_VOLUMES:,}")
    volumes = []
    taken: set[str] = set()
    for one in found:
        index, disk = _number(one, "index"), _number(one, "disk")
        name = printable(_text(one, "uuid"))[:_MOST_WORDS] or f"volume-{index}"
        if name in taken:
            name = f"{name}/{index}"
        taken.add(name)
        filesystem = one.get("filesystem")
        if filesystem is not None and not isinstance(filesystem, str):
            _refuse("filesystem: neither text nor null")
        volumes.append(Volume(index, disk, name, filesystem is not None))
    if len({volume.index for volume in volumes}) != len(volumes):
        _refuse("volumes: two have one index")
    return tuple(volumes)


def _findings(document: Mapping[str, Any], names: Mapping[int, str]) -> tuple[tuple[Found, ...], frozenset[str]]:
    kept: dict[str, Found] = {}
    seen = set()
    for one in _list(document, "findings"):
        found = _finding(one, names, whole=len(kept) < MOST_FINDINGS)
        seen.add(found.fingerprint)
        if len(kept) < MOST_FINDINGS:
            kept.setdefault(found.fingerprint, found)
    return tuple(kept.values()), frozenset(seen)


def _finding(one: Mapping[str, Any], names: Mapping[int, str], *, whole: bool) -> Found:
    fingerprint = _text(one, "fingerprint")
    if not _FINGERPRINT.fullmatch(fingerprint):
        _refuse("fingerprint: not 64 hex digits")
    volume = _number(one, "volume")
    return Found(
        fingerprint=fingerprint,
        rule=cut(_text(one, "rule"), _MOST_WORDS),
        title=cut(_text(one, "title"), _MOST_WORDS),
        severity=Severity(_one_of(one, "severity", tuple(severity.value for severity in Severity))),
        remedy=cut(_text(one, "remedy"), _MOST_WORDS),
        volume=names.get(volume, f"volume-{volume}"),
        path=_path(_text(one, "path")),
        subject=cut(_text(one, "subject"), _MOST_SUBJECT),
        evidence=bounded(_mapping(one, "evidence")) if whole else {},
    )


def _rules(document: Mapping[str, Any]) -> frozenset[str]:
    """Written as those of findings are. A report of an older fleet says none."""
    found = _mapping(document, "rules").get("ids", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        _refuse("rules: ids: not a list of texts")
    return frozenset(cut(one, _MOST_WORDS) for one in found)


def _packages(document: Mapping[str, Any]) -> tuple[tuple[Package, ...], int]:
    """Each once, sorted, and how many were too many. A report of an older fleet has none."""
    if "packages" not in document:
        return (), 0
    found = sorted(
        {
            Package(*(printable(_text(one, field))[:MOST_PACKAGE_WORD] for field in Package._fields))
            for one in _list(document, "packages")
        }
    )
    return tuple(found[:MOST_PACKAGES]), max(0, len(found) - MOST_PACKAGES)


def _gap(one: Mapping[str, Any]) -> Unseen:
    where = _mapping(one, "where")
    scope: Scope = _one_of(where, "scope", get_args(Scope))
    accepted = one.get("accepted")
    if not isinstance(accepted, bool):
        _refuse("accepted: neither true nor false")
    return Unseen(
        scope=scope,
        disk=_number(where, "disk") if scope == "disk" else None,
        volume=_number(where, "volume") if scope in {"volume", "file"} else None,
        path=_path(_text(where, "path")) if scope == "file" else None,
        reason=GapReason(_one_of(one, "reason", tuple(reason.value for reason in GapReason))),
        detail=cut(_text(one, "detail"), _MOST_WORDS),
        count=max(1, _number(one, "count")),
        accepted=accepted,
    )


def _machine_gap(detail: str, count: int) -> Unseen:
    return Unseen("machine", None, None, None, GapReason.LIMIT, detail, count, accepted=False)


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """`evidence` in at most `MOST_EVIDENCE_BYTES` of JSON; in place of values that are too large stands how large they were."""
    shallow: dict[str, Any] = _shallow(evidence, _MOST_DEPTH)
    if _size(shallow) <= MOST_EVIDENCE_BYTES:
        return shallow
    kept: dict[str, Any] = {}
    room = MOST_EVIDENCE_BYTES - 100
    for key, value in shallow.items():
        size = _size(key) + _size(value) + 2
        if size > room and isinstance(value, str) and _size(key) + 200 < room:
            value = value[: (room - _size(key)) // 12] + " (cut)"  # noqa: PLW2901  a character takes at most 12 bytes
            size = _size(key) + _size(value) + 2
        elif size > room:
            key, value = key[:30], f"(left out: {size:,} bytes)"  # noqa: PLW2901
            size = _size(key) + _size(value) + 2
        if size > room:
            kept["..."] = "(left out)"
            break
        kept[key] = value
        room -= size
    return kept


def _shallow(value: Any, depth: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "(left out: too deep)"
    if isinstance(value, list):
        return [_shallow(one, depth - 1) for one in value]
    return {key: _shallow(one, depth - 1) for key, one in value.items()}


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _path(text: str) -> bytes:
    try:
        raw = unescape(text)
    except UnicodeEncodeError:  # a surrogate, which `escape` never writes
        raw = text.encode("utf-8", "surrogatepass")
    return raw[:_MOST_PATH]


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _list(document: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = document.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        _refuse(f"{name}: not a list of objects")
    return found


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    if not isinstance(found, dict):
        _refuse(f"{name}: not an object")
    return found


def _text(document: Mapping[str, Any], name: str) -> str:
    found = document.get(name)
    if not isinstance(found, str):
        _refuse(f"{name}: not a text")
    return found


def _number(document: Mapping[str, Any], name: str) -> int:
    found = document.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= _MOST_NUMBER:
        _refuse(f"{name}: not a number from 0 to 2^60")
    return found


def _one_of(document: Mapping[str, Any], name: str, words: tuple[str, ...]) -> Any:
    found = document.get(name)
    if not isinstance(found, str) or found not in words:
        _refuse(f"{name}: none of {', '.join(words)}")
    return found


def _refuse(what: str) -> NoReturn:
    raise Refused(422, f"report: {what}")
