"""`kumomori files` against a console on loopback, with sets that a fleet's own link has sent it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from client.api import Console
from client.model import FilePieceIn, FileSetIn, Scope, TokenIn
from console.clock import now
from console.serve import Running
from console.settings import Settings
from console.store import results, tokens
from scanner.fleet import sets
from tests.console import made
from tests.console.made import key
from tests.scanner.fleet.duties import Desk
from tests.scanner.fleet.test_sets import content, finished, name_of

FLEET = "default"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "fleet").mkdir()
    database = f"sqlite:///{tmp_path}/console.sqlite"
    with Running(Settings.model_validate({"database": database, "port": 0})) as running:
        yield running


def token(running: Running, *scopes: Scope, fleet: str | None = None) -> str:
    with running.console.database.write() as connection:
        return tokens.make(
            connection, TokenIn(name="-".join(["t", *scopes]), scopes=scopes, fleet=fleet), "test"
        ).secret


def sent(running: Running, folder: Path, *machines: tuple[str, list[object]]) -> None:
    """Each machine's contents, as differences from an image's, from a fleet's database to the console's."""
    image = [*range(100)]
    desk = Desk(f"sqlite:///{folder}/fleet.sqlite", folder, running.address)
    database = running.console.database
    with Console(running.address, token(running, Scope.FLEET, fleet=FLEET)) as console:
        assert sets.send(console, FLEET, desk.database, finished(desk, folder, "image", image))
        for id_, names in machines:
            digest = finished(desk, folder, f"scan-of-{id_}", [*image, *names], image)
            assert sets.send(console, FLEET, desk.database, digest)
            scan = made.ordered(database, id_)
            results.take(database, FLEET, made.result(scan, made.report(), file_set=digest), now())
    desk.database.close()


def ask(running: Running, folder: Path, *words: str) -> tuple[int, str]:
    path = folder / "token-of-reader"
    if not path.exists():
        path.write_text(token(running, Scope.READ))
    given = [*words, "--console", running.address, "--token-file", str(path)]
    found = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    return found.exit_code, found.output or str(found.exception)


@pytest.mark.slow
def test_from_the_fleet_to_the_answer(running: Running, tmp_path: Path) -> None:
    made.enrol(running.console.database, "i-1", "i-2", "i-3")
    sent(running, tmp_path / "fleet", ("i-1", ["own"]), ("i-2", []))
    code, words = ask(running, tmp_path, "files", content("own").hex().upper())
    assert (code, key("i-1") in words, key("i-2") in words) == (1, True, False)
    assert (
        "1 machine had it when last scanned; not known for 1 of 3 instances: 1 of which nothing is known yet." in words
    )
    code, words = ask(running, tmp_path, "files", content(7).hex())
    assert (code, key("i-1") in words, key("i-2") in words) == (1, True, True)
    code, words = ask(running, tmp_path, "files", content("nobody's").hex())
    assert (code, "No machine is known to have it; not known for 1 of 3 instances" in words) == (3, True)
    (tmp_path / "some file").write_bytes(b"own")
    code, words = ask(running, tmp_path, "files", str(tmp_path / "some file"), "--format", "jsonl")
    page = json.loads(words)
    assert (code, page["sha256"]) == (1, hashlib.sha256(b"own").hexdigest())
    assert [one["machine"] for one in page["items"]] == [key("i-1")]


@pytest.mark.slow
def test_all_are_known(running: Running, tmp_path: Path) -> None:
    made.enrol(running.console.database, "i-1")
    sent(running, tmp_path / "fleet", ("i-1", []))
    code, words = ask(running, tmp_path, "files", content("nobody's").hex())
    assert (code, "all of 1 instance are known" in words) == (0, True)


@pytest.mark.slow
def test_what_is_no_content(running: Running, tmp_path: Path) -> None:
    code, words = ask(running, tmp_path, "files", "abc")
    assert (code, "is no SHA-256 in 64 hex digits, and no file" in words) == (1, True)  # `main` makes it 2


@pytest.mark.slow
def test_pieces_that_are_none_are_refused(running: Running) -> None:
    with Console(running.address, token(running, Scope.FLEET, fleet=FLEET)) as console:
        console.offer_file_set(FLEET, name_of([content(1)]), FileSetIn(count=1, pieces=1))
        for added in ("AAAA", "not base64!", "x"):
            with pytest.raises(Exception, match="hashes"):
                console.send_file_piece(FLEET, name_of([content(1)]), 0, FilePieceIn(added=added))


@pytest.mark.slow
def test_packages(running: Running, tmp_path: Path) -> None:
    made.enrol(running.console.database, "i-1", "i-2")
    bash = {
        "type": "deb",
        "name": "bash",
        "version": "5.2",
        "architecture": "amd64",
        "source": "bash",
        "source_version": "5.2",
    }
    bash |= {"distro": "debian-12"}
    made.scanned(running.console.database, packages=[bash])
    code, words = ask(running, tmp_path, "packages", "bash")
    assert (code, key("i-1") in words, "debian-12" in words) == (1, True, True)
    assert "1 machine had it when last scanned; not known for 1 of 2 instances" in words
    code, words = ask(running, tmp_path, "packages", "bash", "--version", "5.3")
    assert (code, "No machine is known to have it; not known for 1 of 2 instances" in words) == (3, True)
    made.scanned(running.console.database, id_="i-2", packages=[bash])
    assert ask(running, tmp_path, "packages", "zsh")[0] == 0
    code, words = ask(running, tmp_path, "packages", "bash", "--format", "jsonl")
    assert (code, len(json.loads(words)["items"])) == (1, 2)
