from __future__ import annotations

import stat
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.authorized_keys import AuthorizedKeys

PATH = b"/var/www/.ssh/authorized_keys"
KEY = b"AAAAC3NzaC1lZDI1NTE5AAAAIMadeUpForThisTest0123456789abcdefghijk"
SUBJECT = "ssh-ed25519 …" + KEY[-16:].decode()


@pytest.mark.parametrize(
    ("content", "subjects"),
    [
        pytest.param(b"ssh-ed25519 " + KEY + b" me@host\n", [SUBJECT], id="plain"),
        pytest.param(b"  ssh-ed25519\t" + KEY, [SUBJECT], id="indented"),
        pytest.param(b'no-pty,from="10.0.0.1" ssh-ed25519 ' + KEY, [SUBJECT], id="options"),
        pytest.param(b'command="/usr/bin/git-shell" ssh-ed25519 ' + KEY, [], id="forced-command"),
        pytest.param(b'no-pty,Command="x y" ssh-ed25519 ' + KEY, [], id="forced-command-among-options"),
        pytest.param(b"# ssh-ed25519 " + KEY, [], id="comment"),
        pytest.param(b"\n\nssh-rsa\nAAAA\n", [], id="no-key"),
        pytest.param((b"ssh-ed25519 " + KEY + b"\n") * 2, [SUBJECT], id="twice"),
        pytest.param(b"\xff\xfe\x00", [], id="not-text"),
        pytest.param(
            b"sk-ssh-ed25519@openssh.com " + KEY, ["sk-ssh-ed25519@openssh.com …" + KEY[-16:].decode()], id="hardware"
        ),
        pytest.param(b"ecdsa-sha2-nistp256 " + KEY, ["ecdsa-sha2-nistp256 …" + KEY[-16:].decode()], id="ecdsa"),
    ],
)
def test_keys(content: bytes, subjects: list[str]) -> None:
    found = list(AuthorizedKeys().inspect(MemoryFile(PATH, content)))
    assert [one.subject for one in found if isinstance(one, Finding)] == subjects
    assert len(found) == len(subjects)


def test_the_comment_is_cut() -> None:
    (finding,) = AuthorizedKeys().inspect(MemoryFile(PATH, b"ssh-ed25519 " + KEY + b" " + b"c" * 5000))
    assert isinstance(finding, Finding)
    assert finding.evidence == {"line": 1, "comment": "c" * 80}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        pytest.param(b"/var/www/.ssh/authorized_keys", True, id="web-server"),
        pytest.param(b"/var/lib/postgresql/.ssh/authorized_keys2", True, id="service"),
        pytest.param(b"/usr/sbin/.ssh/authorized_keys", True, id="daemon"),
        pytest.param(b"/bin/.ssh/authorized_keys", True, id="bin"),
        pytest.param(b"/nonexistent/.ssh/authorized_keys", True, id="nobody"),
        pytest.param(b"/var/spool/lpd/.ssh/authorized_keys", True, id="spool"),
        pytest.param(b"/srv/app/.ssh/authorized_keys", True, id="srv"),
        pytest.param(b"/root/.ssh/authorized_keys", False, id="root"),
        pytest.param(b"/home/al/.ssh/authorized_keys", False, id="person"),
        pytest.param(b"/var/home/al/.ssh/authorized_keys", False, id="person-on-an-image-based-system"),
        pytest.param(b"/var/lib/docker/overlay2/x/diff/root/.ssh/authorized_keys", False, id="root-in-a-container"),
        pytest.param(b"/var/lib/machines/m/home/al/.ssh/authorized_keys", False, id="person-in-a-container"),
        pytest.param(b"/var/www/authorized_keys", False, id="not-in-ssh"),
        pytest.param(b"/var/www/.ssh/authorized_keys.bak", False, id="backup"),
    ],
)
def test_wants(path: bytes, wanted: bool) -> None:
    assert AuthorizedKeys().wants(MemoryFile(path)) is wanted
    assert AuthorizedKeys().wants(MemoryFile(path, mode=stat.S_IFLNK | 0o777)) is wanted


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"ssh-", id="types"),
        pytest.param(b"ssh-aaa ", id="types-with-spaces"),
        pytest.param(b"ssh-aaa AAAA ", id="short-keys"),
        pytest.param(b'command=" ', id="options"),
        pytest.param(b"sk-ssh-aaaaaaaaaaaaaaaaaaaaaaaa\t", id="hardware-types"),
    ],
)
def test_long_lines_do_not_hang(line: bytes) -> None:
    content = (line * (60_000 // len(line)) + b"\n") * 16
    started = time.process_time()
    list(AuthorizedKeys().inspect(MemoryFile(PATH, content)))
    assert time.process_time() - started < 20


@given(st.binary(max_size=300) | st.text("sh- AAAk\n", max_size=80).map(str.encode))
def test_any_bytes_give_findings_only(content: bytes) -> None:
    assert all(isinstance(one, Finding) for one in AuthorizedKeys().inspect(MemoryFile(PATH, content)))
