"""Manifests at rest: nothing of them can be read, changed, cut, swapped or taken for another without its being noticed."""

from __future__ import annotations

import io
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError, Corrupt, LimitExceeded
from scanner.fleet.sealing import PIECE_BYTES, Keys

NAME = "scan-1.manifest"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.kept_in(tmp_path / "keys")


def sealed(keys: Keys, content: bytes, name: str = NAME) -> bytes:
    target = io.BytesIO()
    assert keys.seal(name, io.BytesIO(content), target) == len(target.getvalue())
    return target.getvalue()


def unsealed(keys: Keys, raw: bytes, name: str = NAME, most: int = 1 << 30) -> bytes:
    target = io.BytesIO()
    keys.unseal(name, io.BytesIO(raw), target, most)
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_there_and_back(keys: Keys, size: int) -> None:
    content = secrets.token_bytes(size)
    raw = sealed(keys, content)
    assert unsealed(keys, raw) == content
    assert size < 100 or content[:100] not in raw
    assert sealed(keys, content) != raw, "each time another salt"


def test_every_changed_byte_is_noticed(keys: Keys) -> None:
    raw = sealed(keys, b"what the disk holds")
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x20
        with pytest.raises(Corrupt):
            unsealed(keys, bytes(changed))


def test_every_cut_is_noticed(keys: Keys) -> None:
    raw = sealed(keys, b"x" * (2 * PIECE_BYTES + 5))
    piece = PIECE_BYTES + 16 + 4
    head = len(raw) - (2 * piece + 5 + 16 + 4)
    for end in (0, 5, head, head + 3, head + piece, head + 2 * piece, head + piece + 9, len(raw) - 1):
        with pytest.raises(Corrupt):
            unsealed(keys, raw[:end])
    with pytest.raises(Corrupt):
        unsealed(keys, raw + b"more")
    first, second = raw[head : head + piece], raw[head + piece : head + 2 * piece]
    for moved in (second + first, first + first, second):
        with pytest.raises(Corrupt):
            unsealed(keys, raw[:head] + moved + raw[head + 2 * piece :])


def test_under_another_name_or_key(keys: Keys, tmp_path: Path) -> None:
    raw = sealed(keys, b"of one machine")
    with pytest.raises(Corrupt):
        unsealed(keys, raw, "scan-2.manifest")
    with pytest.raises(Corrupt, match="not there any more"):
        unsealed(Keys.kept_in(tmp_path / "others"), raw)


def test_what_is_larger_than_it_may_be(keys: Keys) -> None:
    with pytest.raises(LimitExceeded):
        unsealed(keys, sealed(keys, b"x" * 1001), most=1000)


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old = Keys.kept_in(path)
    raw = sealed(old, b"old")
    path.write_text(f"0badcafe {secrets.token_hex(32)}\n{path.read_text()}")
    new = Keys.kept_in(path)
    assert new.current.hex() == "0badcafe"
    assert unsealed(new, raw) == b"old"
    with pytest.raises(Corrupt):
        unsealed(old, sealed(new, b"new"))


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "keys"
    script = f"from pathlib import Path; from scanner.fleet.sealing import Keys; print(Keys.kept_in(Path({str(path)!r})).current.hex())"
    racing = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({one.communicate()[0] for one in racing}) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text().split()[1] not in repr(Keys.kept_in(path))


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("", 0o600, "no key"),
        ("deadbeef 12\n", 0o600, "line 1"),
        (f"deadbeef {'0' * 64}\ndeadbeef {'1' * 64}\n", 0o600, "line 2"),
        ("\u00e9", 0o600, "cannot be read"),
        (f"deadbeef {'0' * 64}\n", 0o640, "chmod"),
    ],
)
def test_a_bad_key_file(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=words):
        Keys.kept_in(path)
