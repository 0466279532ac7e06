"""What parser and parent say to each other: frames on a socket, and findings and gaps as JSON.

A frame is one kind byte (`J` JSON, `D` data, `A` an answer of a worker: see `scanner.workers.piece`), four bytes of length, big endian, and the body. The parent believes nothing:
whatever a frame holds that is not of the agreed shape is a `WireError`, and the parser is ended.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

from core.errors import Error
from core.findings import Finding, Gap, GapReason, InFile, InVolume, Location, Machine, OnDisk, Package, Rule, Severity

MAX_FRAME_BYTES: Final = 32 << 20  # from the parser
MAX_JOB_BYTES: Final = 1 << 30  # from the parent: all rules the operator gives
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_EXTENTS: Final = 1 << 20
MAX_VOLUMES: Final = 4096
MAX_DISKS: Final = 4096
MAX_PACKAGE_CHARACTERS: Final = 512  # of each of its words
_PACKAGE_WORDS: Final = 6
MAX_ROWS: Final = 4096  # of one block of a manifest
BLOCK_HEAD: Final = struct.Struct("<IQQII")  # before each block: volume, first and last inode, rows, bytes that follow
_HEAD: Final = struct.Struct(">cI")
Message = dict[str, Any]
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each call


class WireError(Error):
    """The other side broke the protocol."""


class Closed(Error):
    """The other side is gone."""


def dump(message: Mapping[str, object]) -> bytes:
    """JSON that survives any text, lone surrogates included."""
    return _ENCODE(message).encode("ascii")


def frame(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames of at most `most` bytes; feed it what comes."""

    def __init__(self, most: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._most = most

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> tuple[bytes, bytes] | None:
        """(kind, body), or None if no whole frame is there yet. Raises `WireError`."""
        if len(self._buffer) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack_from(self._buffer)
        if kind not in {b"J", b"D", b"A"} or length > self._most:
            raise WireError("a frame of an unknown kind or impossible length")
        end = _HEAD.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEAD.size : end])
        del self._buffer[:end]
        return kind, body


def receive(connection: socket.socket, reader: FrameReader) -> tuple[bytes, bytes]:
    """The next frame, waiting for it. Raises `Closed`, `WireError`."""
    while (found := reader.next()) is None:
        data = connection.recv(1 << 16)
        if not data:
            raise Closed("the other side closed the connection")
        reader.feed(data)
    return found


def load(body: bytes) -> Message:
    """Raises `WireError` for anything but a JSON object with text keys."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("a frame that is not an object")
    return message


def path_out(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def path_in(value: object) -> bytes:
    try:
        return text_in(value).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise WireError("a path that no bytes give") from error


def text_in(value: object, most: int = 1 << 20) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise WireError("text was expected")
    return value


def int_in(value: object, most: int = 1 << 64) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise WireError("a number was expected")
    return value


def _where_out(where: Location) -> list[object]:
    match where:
        case Machine():
            return ["machine"]
        case OnDisk(disk):
            return ["disk", disk]
        case InVolume(volume):
            return ["volume", volume]
        case InFile(volume, path):
            return ["file", volume, path_out(path)]


def _where_in(value: object) -> Location:
    match value:
        case ["machine"]:
            return Machine()
        case ["disk", disk]:
            return OnDisk(int_in(disk, MAX_DISKS))
        case ["volume", volume]:
            return InVolume(int_in(volume, MAX_VOLUMES))
        case ["file", volume, path]:
            return InFile(int_in(volume, MAX_VOLUMES), path_in(path))
    raise WireError("a location of an unknown kind")


def gap_out(gap: Gap) -> Message:
    return {"where": _where_out(gap.where), "reason": gap.reason.value, "detail": gap.detail, "count": gap.count}


def gap_in(value: object) -> Gap:
    match value:
        case {"where": where, "reason": reason, "detail": detail, "count": count}:
            try:
                known = GapReason(reason)
            except ValueError as error:
                raise WireError("a gap of an unknown reason") from error
            return Gap(_where_in(where), known, text_in(detail), max(1, int_in(count)))
    raise WireError("a gap was expected")


def finding_out(finding: Finding) -> Message:
    rule = finding.rule
    return {
        "rule": [rule.id, rule.title, rule.severity.value, rule.remedy],
        "where": _where_out(finding.where),
        "subject": finding.subject,
        "evidence": dict(finding.evidence),
    }


def finding_in(value: object) -> Finding:
    match value:
        case {
            "rule": [rule_id, title, severity, remedy],
            "where": where,
            "subject": subject,
            "evidence": dict(evidence),
        }:
            try:
                known = Severity(severity)
            except ValueError as error:
                raise WireError("a finding of an unknown severity") from error
            place = _where_in(where)
            if not isinstance(place, InFile):
                raise WireError("a finding outside any file")
            rule = Rule(text_in(rule_id, 1000), text_in(title), known, text_in(remedy))
            return Finding(rule, place, text_in(subject), evidence)
    raise WireError("a finding was expected")


def package_out(package: Package) -> Message:
    one = package
    words = [one.type, one.name, one.version, one.architecture, one.source, one.source_version]
    return {"where": _where_out(one.where), "package": words}


def package_in(value: object) -> Package:
    """Without `distro`, which takes more than one file to know."""
    match value:
        case {"where": where, "package": [*words]} if len(words) == _PACKAGE_WORDS:
            place = _where_in(where)
            if not isinstance(place, InFile):
                raise WireError("a package outside any file")
            return Package(place, *(text_in(word, MAX_PACKAGE_CHARACTERS) for word in words))
    raise WireError("a package was expected")


def row_in(value: object) -> Message:
    """One line of a listing (see `scanner.scan.list_inode`); what does not belong there is left out."""
    if not isinstance(value, dict):
        raise WireError("a line of a listing was expected")
    given: Message = value
    mtime_ns, deleted = given.get("mtime_ns"), given.get("deleted")
    if not isinstance(mtime_ns, int) or abs(mtime_ns) >= 1 << 72 or not isinstance(deleted, bool):
        raise WireError("a line of a listing was expected")
    path, kind = text_in(given.get("path")), text_in(given.get("type"), 20)
    row: Message = {"volume": 0, "path": path, "type": kind, "size": 0, "mode": 0, "uid": 0, "gid": 0}
    row |= {"mtime_ns": mtime_ns, "inode": 0, "nlink": 0, "deleted": deleted}
    for key, most in _ROW_NUMBERS:
        number = given.get(key)
        if type(number) is not int or not 0 <= number <= most:  # a bool is no number
            raise WireError("a number was expected")
        row[key] = number
    for key, check in _ROW_CHECKS:
        if key in given:
            row[key] = None if given[key] is None else check(given[key])
    return row


def _digest_in(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise WireError("a SHA-256 digest was expected")
    return value


def _extents_in(value: object) -> list[dict[str, int]]:
    if not isinstance(value, list) or len(value) > _MAX_EXTENTS or not all(isinstance(one, dict) for one in value):
        raise WireError("extents were expected")
    return [{key: int_in(one.get(key)) for key in ("disk", "offset", "length", "logical")} for one in value]


def _xattrs_in(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise WireError("extended attributes were expected")
    return {text_in(name): text_in(content) for name, content in value.items()}


_MANY: Final = 1 << 64
_ROW_NUMBERS: Final = (
    ("volume", MAX_VOLUMES),
    ("size", _MANY),
    ("mode", 0xFFFF),
    ("uid", _MANY),
    ("gid", _MANY),
    ("inode", _MANY),
    ("nlink", _MANY),
)
_ROW_CHECKS: Final = (("sha256", _digest_in), ("target", text_in), ("extents", _extents_in), ("xattrs", _xattrs_in))
