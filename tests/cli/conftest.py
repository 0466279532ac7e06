from __future__ import annotations

from pathlib import Path

import pytest

from demo.disk import build, build_clean
from tests.cli.commands import SLOW_BYTES, SLOW_RULE, Kumomori
from tests.scanner.sandboxed import file, write_ext4


@pytest.fixture
def kumomori(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Kumomori:
    return Kumomori(monkeypatch, capfdbinary)


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bad.img`, `clean.img`, and `slow.img` on which `slow.yar` takes for ever."""
    folder = tmp_path_factory.mktemp("disks")
    build(folder / "bad.img")
    build_clean(folder / "clean.img")
    write_ext4(folder / "slow.img", [file(b"/slow", b"s" * SLOW_BYTES), file(b"/quick", b"q")])
    (folder / "slow.yar").write_text(SLOW_RULE)
    return folder
