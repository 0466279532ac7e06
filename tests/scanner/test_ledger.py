"""What was made is written down before it is made, survives kill -9, and is taken away by whoever comes next."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import CloudError, ConfigError
from core.estate import Place, Resource
from scanner.ledger import LISTED_SECONDS, FileLedger, sweep

HERE = Place("aws", "111122223333", "eu-central-1")
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def resource(token: str, id_: str = "", of: str = "vol-1", **others: object) -> Resource:
    made = Resource(HERE, "snapshot", id_, token, "acme", datetime.now(UTC) + timedelta(days=1), of)
    return replace(made, **others)  # type: ignore[arg-type]


class Cloud:
    """A connector of which only the sweeper's half is there."""

    def __init__(self, *there: Resource) -> None:
        self.there = list(there)
        self.asked: list[Resource] = []
        self.fails: set[str] = set()

    def delete(self, one: Resource) -> None:
        self.asked.append(one)
        if one.id in self.fails:
            raise CloudError("not now")
        self.there = [other for other in self.there if not (other.token == one.token and one.id in {"", other.id})]

    def owned(self) -> Iterator[Resource]:
        yield from self.there


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[FileLedger]:
    with FileLedger(tmp_path / "data") as found:
        yield found


def swept(ledger: FileLedger, cloud: Cloud, **how: object) -> list[tuple[str, bool]]:
    return [(one.id or one.of, error is None) for one, error in sweep(ledger, cloud, HERE, **how)]  # type: ignore[arg-type]


def test_an_installation_keeps_its_name(tmp_path: Path) -> None:
    with FileLedger(tmp_path / "data") as one, FileLedger(tmp_path / "data") as other:
        assert one.installation == other.installation
        assert one.installation.startswith("kumomori-")
    with FileLedger(tmp_path / "other") as third:
        assert third.installation != one.installation
    assert (tmp_path / "data").stat().st_mode & 0o77 == 0
    assert (tmp_path / "data" / "ledger.sqlite").stat().st_mode & 0o77 == 0


def test_intended_made_gone(ledger: FileLedger) -> None:
    for of in ("vol-1", "vol-2"):
        ledger.intend(resource("scan-1", of=of))
    ledger.made(resource("scan-1", "snap-2", "vol-2"))
    assert [(one.id, one.of) for one in ledger.entries()] == [("", "vol-1"), ("snap-2", "vol-2")]
    ledger.made(resource("scan-1", "snap-2", "vol-2"))  # told twice
    ledger.made(resource("scan-1", "snap-3", "vol-3"))  # never intended: it is remembered all the same
    assert [one.id for one in ledger.entries(HERE)] == ["", "snap-2", "snap-3"]
    assert ledger.entries(replace(HERE, region="us-east-1")) == []
    for _ in range(2):
        ledger.gone(resource("scan-1", "snap-2", "vol-2"))
        ledger.gone(resource("scan-1", of="vol-1"))
    assert [one.id for one in ledger.entries()] == ["snap-3"]


def test_a_living_scan_is_left_alone(ledger: FileLedger, tmp_path: Path) -> None:
    mine = resource("scan-1", "snap-1")
    cloud = Cloud(mine)
    with ledger.scan("scan-1"), FileLedger(tmp_path / "data") as other:
        ledger.intend(resource("scan-1"))
        ledger.made(mine)
        assert swept(other, cloud) == []
    assert swept(ledger, cloud) == [("snap-1", True)]
    assert (cloud.there, ledger.entries()) == ([], [])
    assert not list((tmp_path / "data").glob("scan-*"))


def test_what_could_not_be_deleted_is_tried_again(ledger: FileLedger) -> None:
    ledger.intend(resource("scan-1"))
    ledger.made(resource("scan-1", "snap-1"))
    cloud = Cloud(resource("scan-1", "snap-1"))
    cloud.fails = {"snap-1"}
    assert swept(ledger, cloud) == [("snap-1", False)]
    cloud.fails = set()
    assert swept(ledger, cloud, dry_run=True) == [("snap-1", True)]
    assert swept(ledger, cloud) == [("snap-1", True)]
    assert swept(ledger, cloud) == []


def test_an_intention_is_looked_for_until_the_cloud_must_have_listed_it(ledger: FileLedger) -> None:
    ledger.intend(resource("scan-1"))
    cloud = Cloud()
    assert swept(ledger, cloud) == [("vol-1", True)]
    assert len(ledger.entries()) == 1, "it may still come to light"
    cloud.there = [resource("scan-1", "snap-late")]
    assert ("snap-late", True) in swept(ledger, cloud)
    assert cloud.there == []
    later = datetime.now(UTC) + timedelta(seconds=LISTED_SECONDS + 1)
    swept(ledger, cloud, now=later)
    assert ledger.entries() == []


def test_what_nobody_remembers_goes_when_it_expires(ledger: FileLedger) -> None:
    unknown = resource("scan-of-a-lost-ledger", "snap-9")
    cloud = Cloud(unknown)
    assert swept(ledger, cloud) == []
    assert swept(ledger, cloud, now=unknown.expires) == [("snap-9", True)]


def test_what_is_kept_stays_until_it_is_not_wanted(ledger: FileLedger) -> None:
    ledger.intend(resource("scan-1"))
    ledger.made(resource("scan-1", "snap-1"))
    ledger.keep(resource("scan-1", "snap-1"))
    cloud = Cloud(resource("scan-1", "snap-1"))
    assert swept(ledger, cloud, now=NOW + timedelta(days=3000)) == []
    ledger.unkeep(HERE)
    assert swept(ledger, cloud) == [("snap-1", True)]


@pytest.mark.parametrize("moment", ["intended", "made"])
def test_after_kill_9_the_next_one_takes_it_away(tmp_path: Path, moment: str) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from core.estate import Place, Resource
from scanner.ledger import FileLedger
one = Resource(Place("aws", "111122223333", "eu-central-1"), "snapshot", "", "scan-1", "acme", datetime.now(UTC) + timedelta(days=1), "vol-1")
with FileLedger(Path({str(tmp_path / "data")!r})) as ledger, ledger.scan("scan-1"):
    ledger.intend(one)
    if {moment!r} == "made":
        ledger.made(replace(one, id="snap-1"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == -signal.SIGKILL
    with FileLedger(tmp_path / "data") as ledger:
        assert not ledger.is_alive("scan-1")
        cloud = Cloud(resource("scan-1", "snap-1"))
        swept(ledger, cloud)
        assert cloud.there == []


def test_many_at_once(tmp_path: Path) -> None:
    def work(number: int) -> None:
        with FileLedger(tmp_path / "data") as one:
            for at in range(10):
                token = f"scan-{number}-{at}"
                with one.scan(token):
                    one.intend(resource(token))
                    one.made(resource(token, f"snap-{number}-{at}"))
                    if at % 2:
                        one.gone(resource(token, f"snap-{number}-{at}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with FileLedger(tmp_path / "data") as ledger:
        assert len(ledger.entries()) == 20
        assert {one.id for one in ledger.entries()} == {f"snap-{n}-{at}" for n in range(4) for at in range(0, 10, 2)}


def test_a_ledger_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="--data"):
        FileLedger(tmp_path / "file")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ledger.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(ConfigError, match="--data"):
        FileLedger(tmp_path / "data")


def test_nothing_is_made_that_cannot_be_written_down(ledger: FileLedger, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "data" / "ledger.sqlite", isolation_level=None)
    other.execute("DROP TABLE resource")
    other.close()
    with pytest.raises(ConfigError, match="cannot be written"):
        ledger.intend(resource("scan-1"))


def test_the_lock_is_not_given_to_children(ledger: FileLedger) -> None:
    """A child that outlives its scan does not keep it alive."""
    with ledger.scan("scan-1"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
        ledger.intend(resource("scan-1"))
    try:
        deadline = time.monotonic() + 30  # the kernel lets us go on a moment before the new program's files are closed
        while ledger.is_alive("scan-1"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert os.path.exists(ledger._lock("scan-1"))


# what others do to it, and a disk that is full


def test_a_scan_that_keeps_its_snapshots_while_they_are_swept(ledger: FileLedger, tmp_path: Path) -> None:
    """The sweeper read the entries before it was kept, and looked for the scan after that had ended."""
    mine = resource("scan-1", "snap-1")
    scan = ledger.scan("scan-1")
    scan.__enter__()
    ledger.intend(resource("scan-1"))
    ledger.made(mine)

    class Sweeper(FileLedger):
        def entries(self, place: Place | None = None, *, kept: bool = False) -> list[Resource]:
            found = super().entries(place, kept=kept)
            if found:
                ledger.keep(mine)
                scan.__exit__(None, None, None)
            return found

    cloud = Cloud(mine)
    with Sweeper(tmp_path / "data") as other:
        assert swept(other, cloud) == []
    assert cloud.there == [mine]


def test_a_scan_that_began_while_others_are_swept(ledger: FileLedger, tmp_path: Path) -> None:
    """Somebody wrote an expiry of long ago on its snapshot."""
    mine = resource("scan-1", "snap-1", expires=NOW - timedelta(days=9999))

    class Late(Cloud):
        def owned(self) -> Iterator[Resource]:
            with ledger.scan("scan-1"):
                ledger.intend(resource("scan-1"))
                yield mine

    with FileLedger(tmp_path / "data") as other:
        assert swept(other, Late(mine)) == []


@pytest.mark.parametrize("token", ["x" * 256, "../../etc/x", "a/b", "", "\0", "ü" * 200])
def test_a_token_that_somebody_wrote_is_no_path(ledger: FileLedger, tmp_path: Path, token: str) -> None:
    cloud = Cloud(resource(token, "snap-1", expires=NOW - timedelta(days=9999)))
    before = sorted(tmp_path.rglob("*"))
    assert swept(ledger, cloud, now=NOW) == [("snap-1", True)]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_entry_that_the_connector_does_not_take_holds_up_no_other(ledger: FileLedger) -> None:
    class Picky(Cloud):
        def delete(self, one: Resource) -> None:
            if one.token == "*":
                raise ConfigError("the token may not have wildcards")
            super().delete(one)

    cloud = Picky()
    for token in ("*", "scan-2"):
        ledger.intend(resource(token))
        ledger.made(resource(token, f"snap-{token}"))
        cloud.there.append(resource(token, f"snap-{token}"))
    assert swept(ledger, cloud) == [("snap-*", False), ("snap-scan-2", True)]


def fill_up(ledger: FileLedger) -> int:
    """No page more fits in; how many fitted before."""
    (most,) = ledger._connection.execute("PRAGMA max_page_count").fetchone()
    ledger._connection.execute("PRAGMA max_page_count = 1")
    return int(most)


def test_a_full_disk(ledger: FileLedger) -> None:
    """It says so; what is there can be read and forgotten, and when there is room it goes on."""
    ledger.intend(resource("scan-1"))
    most = fill_up(ledger)
    with pytest.raises(ConfigError, match="full"):
        for number in range(1000):
            ledger.intend(resource("scan-1", of=f"vol-{number}" * 20))
    assert ledger.entries()
    ledger.gone(resource("scan-1"))
    ledger._connection.execute(f"PRAGMA max_page_count = {most}")
    ledger.intend(resource("scan-2"))
    assert "scan-2" in {one.token for one in ledger.entries()}


def test_a_commit_that_fails_does_not_stop_later_ones(ledger: FileLedger) -> None:
    class Failing:
        def __init__(self, real: sqlite3.Connection) -> None:
            self.real = real
            self.fail = True

        def execute(self, words: str, *values: object) -> object:
            if words == "COMMIT" and self.fail:
                self.fail = False
                raise sqlite3.OperationalError("disk I/O error")
            return self.real.execute(words, *values)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    ledger._connection = Failing(ledger._connection)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="disk I/O error"):
        ledger.intend(resource("scan-1"))
    ledger.intend(resource("scan-2"))
    assert [one.token for one in ledger.entries()] == ["scan-2"]


def test_what_cannot_be_read_or_locked_is_said_in_one_line(ledger: FileLedger, tmp_path: Path) -> None:
    (tmp_path / "data" / "scan-scan-1.lock").mkdir()
    with pytest.raises(ConfigError, match="cannot be locked"), ledger.scan("scan-1"):
        pass
    other = sqlite3.connect(tmp_path / "data" / "ledger.sqlite", isolation_level=None)
    other.execute("DROP TABLE resource")
    other.close()
    for read in (ledger.entries, ledger.kept_ids, lambda: ledger.age_seconds(resource("scan-1"), NOW)):
        with pytest.raises(ConfigError, match="cannot be read"):
            read()
