from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from scanner.lookup import CLEAN, Verdict, key_of
from scanner.verdicts import Generation, Provenance, Session, VerdictCache

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 3, 4, tzinfo=UTC)
RULES = Generation({"a": "1" * 64, "b": "2" * 64})
FOUND: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a", {"rule": ["r", "t", "high", "x"], "subject": "\ud800", "evidence": {}}),
)


def key(number: int) -> bytes:
    return key_of(random.Random(number).randbytes(32), number)


class Folder:
    """A cache in a folder, opened anew for each step as scans do it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []

    def open(self, most_bytes: int = 64 << 20) -> VerdictCache:
        return VerdictCache.open(self.path, most_bytes=most_bytes, warn=self.warnings.append)

    def scan(self, verdicts: Mapping[int, tuple[tuple[str, dict[str, Any]], ...]], **about: Any) -> int:
        with self.open() as cache:
            session = self.session(cache, **about)
            for number, findings in verdicts.items():
                session.record(key(number), findings)
            done = session.commit()
            session.close()
            return done

    def session(
        self,
        cache: VerdictCache,
        *,
        rules: Generation = RULES,
        engine: str = "e",
        options: str = "o",
        machine: str = "m",
        scan: str = "",
        when: datetime = NOW,
    ) -> Session:
        return cache.session(engine, options, rules, Provenance(scan or os.urandom(8).hex(), machine, when))

    def known(self, numbers: list[int], **about: Any) -> list[Verdict | None]:
        with self.open() as cache:
            session = self.session(cache, **about)
            found = session.lookup([key(number) for number in numbers])
            session.close()
            return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    yield Folder(tmp_path / "cache")


def test_what_was_recorded_is_known(folder: Folder) -> None:
    assert folder.known([1]) == [None]
    assert folder.scan({1: (), 2: FOUND}) == 2
    assert folder.known([1, 2, 3]) == [CLEAN, Verdict(FOUND), None]
    assert not folder.warnings
    assert (folder.path.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("about", [{"engine": "other"}, {"options": "other"}])
def test_another_engine_or_other_options_know_nothing(folder: Folder, about: dict[str, str]) -> None:
    folder.scan({1: ()})
    assert folder.known([1], **about) == [None]


@pytest.mark.parametrize(
    ("rules", "clean", "found"),
    [
        pytest.param({"a": "1" * 64, "b": "2" * 64}, Verdict(), Verdict(FOUND), id="same"),
        pytest.param({"a": "1" * 64}, Verdict(), Verdict(FOUND), id="one-gone"),
        pytest.param({"b": "2" * 64}, Verdict(), Verdict(), id="the-one-with-the-finding-gone"),
        pytest.param(
            {"a": "9" * 64, "b": "2" * 64}, Verdict((), frozenset("a")), Verdict((), frozenset("a")), id="changed"
        ),
        pytest.param(
            {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64},
            Verdict((), frozenset("c")),
            Verdict(FOUND, frozenset("c")),
            id="new",
        ),
    ],
)
def test_other_rules(folder: Folder, rules: dict[str, str], clean: Verdict, found: Verdict) -> None:
    """What is new or changed has to be searched for, and findings of what is gone or changed do not count."""
    folder.scan({1: (), 2: FOUND})
    assert folder.known([1, 2], rules=Generation(rules)) == [clean, found]


def test_nothing_is_seen_before_the_commit(folder: Folder) -> None:
    with folder.open() as cache:
        session = folder.session(cache)
        session.record(key(1), ())
        assert folder.known([1]) == [None]
        session.discard()
        session.commit()
        session.close()
    assert folder.known([1]) == [None]


def test_a_known_generation(folder: Folder) -> None:
    for expected in (False, True):
        with folder.open() as cache:
            session = folder.session(cache)
            assert session.knows_generation is expected
            session.commit()
            session.close()


@pytest.mark.parametrize("wrong", [b"", b"x" * 39, b"x" * 41])
def test_wrong_keys(folder: Folder, wrong: bytes) -> None:
    with folder.open() as cache:
        session = folder.session(cache)
        with pytest.raises(ValueError):
            session.lookup([wrong])
        with pytest.raises(ValueError):
            session.record(wrong, ())
        session.close()


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("criteria", "left"),
    [
        pytest.param({"machine": "one"}, [3, 4], id="machine"),
        pytest.param({"scan": "s3"}, [1, 2, 4], id="scan"),
        pytest.param({"since": NOW + HOUR}, [1], id="since"),
        pytest.param({"until": NOW + HOUR}, [3, 4], id="until"),
        pytest.param({"machine": "two", "since": NOW + 3 * HOUR}, [1, 2, 3], id="machine-and-time"),
        pytest.param({"machine": "none"}, [1, 2, 3, 4], id="nothing-fits"),
    ],
)
def test_revoked(folder: Folder, criteria: dict[str, object], left: list[int]) -> None:
    for number, machine in ((1, "one"), (2, "one"), (3, "two"), (4, "two")):
        folder.scan({number: ()}, machine=machine, scan=f"s{number}", when=NOW + (number - 1) * HOUR)
    with folder.open() as cache:
        assert cache.revoke(**criteria) == 4 - len(left)  # type: ignore[arg-type]
    assert [number for number in (1, 2, 3, 4) if folder.known([number]) == [CLEAN]] == left
    with folder.open() as cache, pytest.raises(ValueError):
        cache.revoke()


@pytest.mark.parametrize(("machine", "written"), [("m", 0), ("other", 1)])
def test_a_revocation_holds_for_scans_under_way(folder: Folder, machine: str, written: int) -> None:
    with folder.open() as cache, folder.open() as other:
        session = folder.session(cache)
        session.record(key(1), ())
        other.revoke(machine=machine)
        assert session.commit() == written
        session.close()
    assert folder.scan({2: ()}) == 1  # a later scan of that machine counts again


def test_the_least_recently_used_goes(folder: Folder) -> None:
    folder.scan(dict.fromkeys(range(4000), ()))
    with folder.open() as cache:
        cache._store.connection.execute("UPDATE verdict SET used = 1")  # type: ignore[union-attr]
    folder.scan(dict.fromkeys(range(10000, 14000), ()))
    folder.known(list(range(100)))  # looked up, but by a scan that never ended: does not count
    with folder.open() as cache:
        session = folder.session(cache)
        session.lookup([key(number) for number in range(100, 200)])
        session.commit()
        session.close()
    with folder.open() as cache:
        size = cache.stats().bytes
        assert cache.trim(size * 6 // 10) > 2000
        assert cache.stats().bytes <= size * 6 // 10
    assert folder.known(list(range(100, 200))) == [CLEAN] * 100
    assert folder.known(list(range(10_000, 10_100))) == [CLEAN] * 100
    assert folder.known(list(range(300))).count(None) >= 150


def test_it_stays_within_its_bytes(folder: Folder) -> None:
    with folder.open(most_bytes=1 << 20) as cache:
        for at in range(3):
            session = folder.session(cache)
            for number in range(at * 20_000, at * 20_000 + 8000):
                session.record(key(number), ())
            session.commit()
            session.close()
        assert cache.stats().bytes <= 1 << 20
        assert cache.stats().verdicts > 3000


@pytest.mark.parametrize("kind", ["file", "not-empty", "no-parent", "read-only"])
def test_folders_that_cannot_be_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cache"
    if kind == "file":
        path.write_text("")
    elif kind == "not-empty":
        path.mkdir()
        (path / "thesis.txt").write_text("mine")
    elif kind == "no-parent":
        path = tmp_path / "a" / "b"
    else:
        path = Path("/proc/self/cache")
    with pytest.raises(ConfigError):
        VerdictCache.open(path, warn=lambda _: None)


# damage


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_never_makes_a_verdict(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = Folder(tmp_path_factory.mktemp("damage") / "cache")
    folder.scan({number: FOUND if number % 2 else () for number in range(300)})
    files = sorted(path for path in folder.path.iterdir() if path.name != "lock")
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(files))
        raw = bytearray(path.read_bytes())
        action = data.draw(st.sampled_from(["flip", "zero", "cut", "noise"]))
        at = data.draw(st.integers(0, len(raw) - 1)) if raw else 0
        if action == "flip" and raw:
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "zero":
            raw[at : at + 4096] = bytes(len(raw[at : at + 4096]))
        elif action == "cut":
            del raw[at:]
        elif raw:
            raw[at : at + 500] = random.Random(at).randbytes(len(raw[at : at + 500]))
        path.write_bytes(raw)
    found = folder.known(list(range(600)))
    for number, verdict in enumerate(found):
        right = [None, Verdict(FOUND) if number % 2 else CLEAN] if number < 300 else [None]
        assert verdict in right
    for _ in range(3):  # the scan that meets the damage drops the cache and goes on without it
        folder.scan({1000: ()})
    assert folder.known([1000]) == [CLEAN], "after the damage it works again"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdict SET findings = NULL",
        "UPDATE verdict SET generation = generation + 1",
        "UPDATE generation SET namespaces = '{}'",
        "UPDATE context SET options = 'x', engine = 'e2'",
        "UPDATE verdict SET sum = x'0000000000000000'",
        "DROP TABLE verdict",
        "PRAGMA user_version = 9",
    ],
)
def test_a_row_that_was_changed_is_seen(folder: Folder, statement: str) -> None:
    folder.scan({1: FOUND})
    name = (folder.path / "current").read_text()
    with sqlite3.connect(folder.path / name) as connection:
        connection.execute(statement)
    connection.close()
    assert folder.known([1]) == [None]


def test_a_full_disk_is_no_damage(folder: Folder) -> None:
    folder.scan({1: ()})
    code = (
        "import resource, sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path\n"
        "from tests.scanner.verdicts.test_verdicts import Folder\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "folder = Folder(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
        "folder.scan({number: () for number in range(5000)})\n"
        "print(folder.warnings)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder.path), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "goes on without it" in done.stdout
    assert folder.known([1]) == [CLEAN]
    assert not folder.warnings


WRITER = """
import sys; sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from tests.scanner.verdicts.test_verdicts import FOUND, Folder
folder = Folder(Path(sys.argv[1]))
start = int(sys.argv[3])
print("ready", flush=True)
for at in range(start, start + 400_000, 2000):
    folder.scan({number: FOUND if number % 2 else () for number in range(at, at + 2000)})
    if len(sys.argv) > 4 and at - start >= int(sys.argv[4]):
        break
print(folder.warnings, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_stays_whole(folder: Folder) -> None:
    chance = random.Random(1)
    known = 0
    for turn in range(20):
        start = turn * 1_000_000
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder.path), str(ROOT), str(start)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.02, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = folder.known(list(range(start, start + 6000)))
        for number, verdict in enumerate(found, start):
            assert verdict in (None, Verdict(FOUND) if number % 2 else CLEAN)
        known += sum(verdict is not None for verdict in found)
    assert known > 6000
    assert not folder.warnings


@pytest.mark.slow
def test_many_processes_at_once(folder: Folder) -> None:
    command = [sys.executable, "-c", WRITER, str(folder.path), str(ROOT)]
    processes = [
        subprocess.Popen([*command, str(at * 1_000_000), "8000"], stdout=subprocess.PIPE, text=True) for at in range(4)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said == "ready\n[]\n"
    for at in range(4):
        numbers = list(range(at * 1_000_000, at * 1_000_000 + 8000))
        assert folder.known(numbers) == [Verdict(FOUND) if number % 2 else CLEAN for number in numbers]
