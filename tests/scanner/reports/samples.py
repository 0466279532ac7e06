"""Reports to write: good ones, hostile ones, and a strategy that makes any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

from hypothesis import strategies as st

from core.findings import Finding, Gap, GapReason, InFile, InVolume, Location, Machine, OnDisk, Rule, Severity
from scanner.report import GuardReport, Report, RuleSet, Stats, VolumeReport

EICAR = Rule("malware/eicar", "EICAR test file", Severity.CRITICAL, "Delete the file.")
SHELL = Rule("malware/webshell", "PHP web shell", Severity.HIGH, "Take the site offline; restore from a backup.")
SUDO = Rule("linux/sudo-nopasswd", "Root without a password", Severity.MEDIUM, "Remove NOPASSWD.")
MARKUP = Rule("user/[bold]x[/bold]", "[red]a[/red] [link](http://localhost) {0}", Severity.INFO, "[link=x]y[/link]")

UUID = "0b9d1f7e-4f0c-4e36-8d26-5a7c7b1a0c11"
ROOT = VolumeReport(0, 0, "gpt", "ext4", "root", UUID, 48_211, 1 << 31, 1 << 20, 8 << 30)
BOOT = VolumeReport(1, 0, "gpt", None, "", "", 0, 0, 9 << 30, 1 << 26)
HOSTILE_VOLUME = VolumeReport(2, 1, "mbr", "ext4", "データ\u202e\x1b[2J\ud800\0", "[/]\n\udc80", 1, 1, 0, 1)

HOSTILE_PATHS = {
    "long": b"/var/" + b"a" * 300,
    "newline": b"/opt/a\nCRITICAL all is well",
    "escape-sequence": b"/opt/\x1b[31m\x1b]0;title\x07",
    "bidi": "/opt/\u202egnp.exe".encode(),
    "not-utf8": b"/opt/\xff\xfe\xed\xa0\x80",
    "wide": "/srv/日本語のとても長いファイル名/さらに深いフォルダー/終わり".encode(),
    "nul": b"/opt/\0",
    "backslash": b"/opt/\\xff\\x5c\\",
    "markup": b"/[bold]x[/bold]{0}[a](http://b)",
    "root": b"/",
    "double-slash": b"//localhost/x",
    "scheme": b"/javascript:x",
    "percent": b"/100%25?a#b",
    "empty": b"",
}


def make(
    findings: tuple[Finding, ...] = (),
    gaps: tuple[Gap, ...] = (),
    accepted: frozenset[GapReason] = frozenset(),
    volumes: tuple[VolumeReport, ...] = (ROOT, BOOT),
    files: int = 48_211,
    target: tuple[str, ...] = ("disk.qcow2",),
) -> Report:
    """A report with plausible values for all that a test does not care about."""
    return Report(
        target=target,
        volumes=volumes,
        findings=findings,
        gaps=gaps,
        accepted=accepted,
        stats=Stats(files, 8 << 30, 1 << 30, 31.25, 12.5),
        guards=(
            GuardReport("seccomp", active=True, detail=""),
            GuardReport("landlock", active=False, detail="too old"),
        ),
        started=datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC),
        version="0.1.0",
        rules=RuleSet("ab" * 32, 40, ("linux/second-root", "yara/x")),
    )


def found(rule: Rule, path: bytes, subject: str = "", volume: int = 0, **evidence: object) -> Finding:
    return Finding(rule, InFile(volume, path), subject, evidence)


def hostile() -> Report:
    """Every hostile path as a finding and as a gap, and hostile words everywhere else."""
    return make(
        (
            *(found(EICAR, path, subject="\x1b[2J\ud83d\0", sha256="A" * 64) for path in HOSTILE_PATHS.values()),
            found(MARKUP, b"/x", subject="[blink]", volume=7, nan=float("nan"), raw=b"\xff", deep=[[[[[[[[]]]]]]]]),
        ),
        (
            *(Gap(InFile(2, path), GapReason.CORRUPT, "[b]\x1b\ud800\n{0}", 3) for path in HOSTILE_PATHS.values()),
            Gap(Machine(), GapReason.NOT_STARTED, ""),
            Gap(OnDisk(1), GapReason.UNREADABLE, "I/O error"),
            Gap(InVolume(1), GapReason.SWAP, "swap space", 2),
        ),
        frozenset({GapReason.SWAP}),
        (ROOT, BOOT, HOSTILE_VOLUME),
        target=("a\udcff\n.img", "[red]b"),
    )


def strict(text: str) -> Any:
    """Parse as the strictest reader would: ASCII, no NaN, no lone surrogates."""
    assert text.isascii()
    document = json.loads(text, parse_constant=_refuse)
    for word in words(document):
        word.encode("utf-8")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def words(document: object) -> Iterator[str]:
    """All texts in a document, keys included."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from words(value)
    elif isinstance(document, list):
        for item in document:
            yield from words(item)


_text = st.text(st.characters(codec=None), max_size=12)  # lone surrogates, NUL and controls included
_number = st.integers(0, 2**63)
_paths = st.binary(max_size=24).map(lambda tail: b"/" + tail)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_rules = st.builds(
    Rule, st.from_regex(r"[a-z]{1,5}/[a-z]{1,5}", fullmatch=True), _text, st.sampled_from(Severity), _text
)
_volume_numbers = st.integers(0, 4)
_files = st.builds(InFile, _volume_numbers, _paths)
_locations: st.SearchStrategy[Location] = st.one_of(
    _files, st.builds(OnDisk, _volume_numbers), st.builds(InVolume, _volume_numbers), st.just(Machine())
)
_volumes = st.builds(VolumeReport, _volume_numbers, _number, _text, st.none() | _text, _text, _text, *[_number] * 4)
_evidence = st.dictionaries(_text | st.just("sha256"), _values | st.just("a" * 64), max_size=3)

gap_lists = st.lists(st.builds(Gap, _locations, st.sampled_from(GapReason), _text, st.integers(1, 5)), max_size=8)
reports = st.builds(
    Report,
    target=st.lists(_text, max_size=3).map(tuple),
    volumes=st.lists(_volumes, max_size=4, unique_by=lambda volume: volume.index).map(tuple),
    findings=st.lists(st.builds(Finding, _rules, _files, _text, _evidence), max_size=4).map(tuple),
    gaps=gap_lists.map(tuple),
    accepted=st.frozensets(st.sampled_from(GapReason), max_size=3),
    stats=st.builds(Stats, _number, _number, _number, st.floats(0, 1e9), st.floats(0, 1e9)),
    guards=st.lists(st.builds(GuardReport, _text, st.booleans(), _text), max_size=2).map(tuple),
    started=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    version=_text,
    rules=st.builds(RuleSet, _text, _number),
)
