"""The benchmark on tiny images: that it runs and measures what it says, not what the figures are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import Sizes, measure, measure_twice
from bench.images import Image, many_files, mounted, real_files
from bench.measure import Failed, Memory, Usage, alternate, ratio, run, run_watched
from bench.page import Section, spread, table
from bench.reader import hash_all, listing_bytes
from bench.sections import check_same
from bench.system import descendants, machine, proportional_bytes, unmapped_bytes
from bench.walk import hashes
from tests.need import need_root, need_tool

ALLOCATE = "import time; block = bytearray(b'x') * 50_000_000; time.sleep(0.5)"
FORK = f"import os; pid = os.fork(); (exec({ALLOCATE!r}) if not pid else os.waitpid(pid, 0))"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need_tool("mke2fs", "mount", "umount", "yara")
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def real(work: Path) -> Iterator[Image]:
    yield real_files(work, 2_000_000, 50)


SIZES = Sizes(content=2_000_000, files=50, many=500, rounds=1, peers_content=1_000_000, peers_files=20, twice_rounds=1)


@pytest.mark.slow
def test_page_on_later_scans(work: Path) -> None:
    need_tool("clamscan", "yara")
    told: list[str] = []
    page, picture = measure_twice(work, SIZES, told.append)
    for title in ("First scan, the same rules on all sides", "Later scans"):
        assert f"\n## {title}\n" in page
    assert "candidates" in page
    assert picture.startswith("<svg")
    assert str(work) not in page


@pytest.mark.slow
def test_page(work: Path) -> None:
    told: list[str] = []
    page = measure(work, SIZES, told.append)
    for title in ("Read and hash every file", "Many files", "First scan", "Bytes read to list an image"):
        assert f"\n## {title}\n" in page
        assert any(title in text for text in told)
    assert str(work) not in page


@pytest.mark.slow
def test_image_is_made_once(work: Path, real: Image) -> None:
    made = real.path.stat().st_mtime_ns
    assert real_files(work, 2_000_000, 50) == real
    assert real.path.stat().st_mtime_ns == made
    assert real.content >= 2_000_000
    assert real.files >= 50


@pytest.mark.slow
def test_both_read_the_same_files(real: Image) -> None:
    with mounted(real.path) as root:
        listed = list(hashes(bytes(root)))
    assert len(listed) == len(dict(listed)) == real.files == hash_all(real.path)
    check_same(real)


@pytest.mark.slow
def test_a_difference_is_told(real: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    # a command that lists nothing stands for a reader that misses files
    monkeypatch.setattr("bench.sections.kumomori", lambda *_: ["true"])
    with pytest.raises(Failed, match="files differ from what the kernel says"):
        check_same(real)


@pytest.mark.slow
def test_listing_reads_little(work: Path) -> None:
    image = many_files(work, 500)
    names, read = listing_bytes(image.path)
    assert names == 500 + 3 + 1 + 1  # files, folders, their group, lost+found; the root has no name
    assert 0 < read < image.size // 10


@pytest.mark.slow
def test_too_few_files_on_this_machine(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.images.SOURCES", ())
    with pytest.raises(ValueError, match="to copy"):
        real_files(work, 1, 1)
    assert not list(work.glob("real-1-1.img"))


@pytest.mark.parametrize(
    ("code", "lowest", "highest"),
    [
        pytest.param(ALLOCATE, 50_000_000, 80_000_000, id="itself"),
        pytest.param(FORK, 50_000_000, 80_000_000, id="child"),
    ],
)
def test_memory_of_a_command(code: str, lowest: int, highest: int) -> None:
    _, memory = run_watched([sys.executable, "-c", code])
    assert lowest <= memory.largest <= highest
    assert memory.largest <= memory.total
    assert memory.fair <= memory.total


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import time\nwhile time.process_time() < 0.3: pass", id="itself"),
        pytest.param(
            "import os, time\npid = os.fork()\nif not pid:\n while time.process_time() < 0.3: pass\nelse: os.waitpid(pid, 0)",
            id="child",
        ),
    ],
)
def test_processor_time_of_a_command(code: str) -> None:
    usage = run([sys.executable, "-c", code])
    assert usage.cpu_seconds >= 0.3
    assert usage.wall_seconds >= 0.3


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(Failed, match="ended with 3: no luck"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('no luck'); sys.exit(3)"])


def test_a_result_that_is_no_failure() -> None:
    run([sys.executable, "-c", "import sys; sys.exit(3)"], codes=(0, 3))


def test_rounds_alternate() -> None:
    order: list[str] = []

    def one(name: str) -> Usage:
        order.append(name)
        return Usage(1.0, 1.0, 0.0)

    found = alternate({"a": lambda: one("a"), "b": lambda: one("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(usages) for usages in found.values()] == [3, 3]


def test_ratio() -> None:
    these = [Usage(cpu, 0, 0) for cpu in (1.0, 2.0, 4.0)]
    those = [Usage(2.0, 0, 0)] * 3
    assert ratio(these, those) == "1.00 (0.50-2.00)"
    assert spread([3, 1, 2]) == "1.00-3.00"


def test_table() -> None:
    assert table(["", "CPU s"], [["reader", "1.0"], ["us", "12.5"]]).splitlines() == [
        "|        | CPU s |",
        "|--------|------:|",
        "| reader |   1.0 |",
        "| us     |  12.5 |",
    ]
    assert Section("Title", "About.", ["a"], [["b"]], ["note"]).markdown().endswith("\n\n- note\n")


def test_the_machine_is_named() -> None:
    assert "Linux" in machine()
    assert "\n" not in machine()


def test_a_process_that_is_gone() -> None:
    gone = 4_194_305  # one more than Linux ever hands out
    assert descendants(gone) == [gone]
    assert unmapped_bytes(gone) == proportional_bytes(gone) == 0
    assert Memory(0, 0, 0).largest == 0
