"""`kumomori up` as a process: its console answers the other commands, and whatever ends it, the next one goes on."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from demo.aws import ACCOUNT, REGION, EmulatedAws
from demo.aws.estate import fill
from tests.cli.commands import KUMOMORI, Result, command

pytestmark = pytest.mark.slow
T = TypeVar("T")
DOCS = Path(__file__).parents[2] / "docs"
_SECONDS = 60.0
_POLICY = """\
apiVersion: kumomori/v1
kind: Policy
metadata: {name: all}
settings: {scan: {at_launch: true}}
"""


class Up:
    """Runs commands in one folder, as one user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOMORI_"))
        }
        self.environment |= {"XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "120"}

    def __call__(self, *words: str | Path) -> Result:
        return command(*words, cwd=self.folder, env=self.environment)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        words = ("env", "--default-signal=INT", KUMOMORI, "up", "--listen", "127.0.0.1:0", "--workers", "1")
        said = self.folder / "said"
        with (
            said.open("wb") as out,
            subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=out, stderr=out) as process,
        ):
            try:
                ends = time.monotonic() + _SECONDS
                while b"Ctrl-C" not in said.read_bytes():
                    assert process.poll() is None, said.read_text()
                    assert time.monotonic() < ends, said.read_text()
                    time.sleep(0.05)
                yield process
            finally:
                process.kill()  # its processes die with it


@pytest.fixture
def up(tmp_path: Path) -> Up:
    return Up(tmp_path)


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    started = time.monotonic()
    process.send_signal(number)
    code = process.wait(_SECONDS)
    assert time.monotonic() - started < 40
    return code


def test_a_day_with_it(up: Up, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/all.yaml").write_text(_POLICY)
    (tmp_path / "machines.jsonl").write_text("")
    with up.running() as process:
        token = next(
            line.split()[1] for line in (tmp_path / "said").read_text().splitlines() if line.startswith("Token")
        )
        for path in (tmp_path / "var/kumomori").iterdir():
            if path.is_file():
                assert token.encode() not in path.read_bytes(), f"{path.name}: it was to be kept nowhere"
        assert up("estate").code == 0
        again = up("up")
        assert again.code == 2
        assert b"running already" in again.err
        assert up("policy", "sync", "policies", "--dry-run").code == 3
        assert up("policy", "apply", "policies", "--dry-run").code in {0, 3}
        assert up("policy", "apply", "policies").code == 0
        assert b"nothing to do" in up("policy", "sync", "policies").out
        (tmp_path / "policies/all.yaml").write_text(_POLICY.replace("at_launch", "at_lunch"))
        refused = up("policy", "sync", "policies")
        assert refused.code == 1, refused
        assert b"at_launch" in refused.out
        assert up("cloud", "add", "file", "attic", "--instances", "machines.jsonl").code == 0
        assert b"file://attic" in up("cloud", "list").out
        assert up("schedule", "hold", "all", "--why", "we move").code == 0
        assert b"we move" in up("schedule", "list").out
        assert up("schedule", "release", "all").code == 0
        assert up("token", "create", "ci", "--scope", "read", "--output", "ci.token").code == 0
        reader = ("--token-file", "ci.token")
        assert up("estate", *reader).code == 0
        denied = up("cloud", "remove", "file://attic", *reader)
        assert denied.code == 2
        assert b"admin" in denied.err
        assert up("findings").code == 0
        assert up("gaps").code == 0
        assert up("scans").code == 0
        assert up("cloud", "remove", "file://attic").code == 0
        assert _end(process, signal.SIGINT) == 0
    away = up("estate")
    assert away.code == 2
    assert b"cannot be reached" in away.err


def test_the_first_hour(up: Up, tmp_path: Path) -> None:
    """What is said to who begins: by what name the role's policy is bound, that nothing changes, and why a scan failed."""
    machine = {"place": {"cloud": "plain", "account": "berlin", "region": "attic"}, "id": "attic-1", "name": "files"}
    (tmp_path / "machines.jsonl").write_text(json.dumps(machine) + "\n")
    none = up("cloud", "policy", "--fleet-data", "var/kumomori")
    assert none.code == 2
    assert b"start `kumomori up` first" in none.err
    with up.running() as process:
        tagged = _eventually(lambda: _installation(tmp_path / "var/kumomori/fleet.db"))
        bound = up("cloud", "policy", "--fleet-data", "var/kumomori").out.decode()
        assert f'"{tagged}"' in bound, "the role must allow what the fleet makes"
        assert tagged not in up("cloud", "policy").out.decode(), "commands have a name of their own"
        first = up("policy", "apply", DOCS / "first-policies")
        assert first.code == 0
        assert b"Applied: version 1" in first.out
        assert b"hold already" in up("policy", "apply", DOCS / "first-policies").out
        assert up("cloud", "add", "file", "attic", "--instances", "machines.jsonl").code == 0
        _eventually(lambda: b"attic-1" in up("estate").out)
        failed = up("scan", "start", "files", "--wait")
        assert failed.code == 3
        assert b"failed: has no disk image to scan" in failed.err
        assert up("policy", "apply", DOCS / "first-policies", "--dry-run").code == 0, "it fits any machines"
        assert b"`kumomori scans`" in up("scan", "show", "nothing").err
        assert _end(process, signal.SIGINT) == 0


def test_the_policy_for_a_fleet_is_enough_for_it(up: Up) -> None:
    """The role is held to exactly what is printed for it; what is printed for the commands here is not enough."""
    with EmulatedAws() as aws:
        fill(aws)
        keys = aws.credentials(ACCOUNT)
        up.environment |= {
            "AWS_ENDPOINT_URL": aws.endpoint,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }
        add = ("cloud", "add", "aws", ACCOUNT, "--role", "KumomoriScanner", "--region", REGION)
        check = ("cloud", "check", f"aws://{ACCOUNT}/{REGION}", "--role", "KumomoriScanner")
        with up.running() as process:
            aws.restrict("KumomoriScanner", json.loads(up("cloud", "policy").out))
            assert up("policy", "apply", DOCS / "first-policies").code == 0
            assert up(*add).code == 0
            _eventually(lambda: b"web-1" in up("estate").out)
            denied = up("scan", "start", "web-1", "--wait")
            assert denied.code == 3
            assert b"ec2:CreateSnapshots" in denied.err
            bound = _eventually(lambda: up("cloud", "policy", "--fleet-data", "var/kumomori").out)
            tagged = _installation(up.folder / "var/kumomori/fleet.db")
            aws.restrict("KumomoriScanner", json.loads(bound))
            clean = up("scan", "start", "web-1", "--wait")
            assert clean.code == 0, clean
            checked = up(*check, "--fleet-data", "var/kumomori")
            assert b" NO " not in checked.out
            assert b"that of this fleet" in checked.out
            asked = up("cloud", "check", f"aws://{ACCOUNT}")
            assert asked.code in {0, 3}, asked
            assert b" NO " not in asked.out
            assert tagged in asked.out.decode(), "by the fleet, with its name, its role and its credentials"
            _asked_from_elsewhere(up, aws)
            assert _end(process, signal.SIGINT) == 0


def _asked_from_elsewhere(up: Up, aws: EmulatedAws) -> None:
    """Who has a token and the console's address needs no credentials for a cloud, and no folder of the fleet's."""
    known = json.loads((up.folder / "var/kumomori/client.json").read_text())
    for name, scopes in (("looker", ("scan", "read")), ("boss", ("admin",))):
        words = [word for scope in scopes for word in ("--scope", scope)]
        assert up("token", "create", name, *words, "--output", f"{name}.token").code == 0
    away = Up(up.folder / "away")
    away.folder.mkdir()

    def ask(who: str, *words: str) -> Result:
        return away(*words, "--console", known["console"], "--token-file", up.folder / f"{who}.token")

    dry = ask("looker", "sweep", "--dry-run")
    assert dry.code == 0, dry
    assert b"nothing to delete" in dry.err
    assert b"kept as bases" in dry.err
    denied = ask("looker", "sweep")
    assert denied.code == 2
    assert b"admin" in denied.err
    assert ask("boss", "sweep", "--account", f"aws://{ACCOUNT}").code == 0
    (told,) = ask("boss", "sweep", "--dry-run", "--format", "json").rows
    assert told["answer"]["bases"] > 0
    assert ask("looker", "cloud", "check", f"aws://{ACCOUNT}").code in {0, 3}
    assert b"not known" in ask("looker", "cloud", "check", "aws://999999999999").err
    aws.deny("ec2:DescribeInstances", principal="KumomoriScanner")
    lacking = ask("looker", "cloud", "check", f"aws://{ACCOUNT}")
    assert lacking.code == 1, lacking
    assert b"KumomoriInventory" in lacking.out, "the statement that is missing"


def _installation(path: Path) -> str:
    """The fleet's name in clouds; empty while it has none yet."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT value FROM setting WHERE name = 'installation'").fetchone()
        return str(found[0]) if found else ""
    return ""


def _eventually(look: Callable[[], T]) -> T:
    ends = time.monotonic() + _SECONDS
    while not (found := look()):
        assert time.monotonic() < ends
        time.sleep(0.2)
    return found


def test_killed_it_goes_on_with_what_it_had(up: Up, tmp_path: Path) -> None:
    with up.running() as process:
        assert up("token", "create", "ci", "--scope", "read", "--output", "ci.token").code == 0
        process.kill()
        process.wait()
    with up.running() as process:
        assert "Token" not in (tmp_path / "said").read_text(), "only the first time"
        assert b"ci" in up("token", "list").out
        assert up("estate", "--token-file", "ci.token").code == 0
        assert _end(process, signal.SIGTERM) == 143


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--listen", "0.0.0.0:0"), b"TLS"),
        (("--listen", "nonsense"), b"write it like"),
        (("--listen", "127.0.0.1:70000"), b"write it like"),
        (("--data", "/dev/null"), b"data folder"),
        (("--data", "what?"), b"names of a data folder"),
    ],
)
def test_what_it_does_not_start_with(up: Up, words: tuple[str, ...], said: bytes) -> None:
    result = up("up", *words)
    assert result.code == 2
    assert said in result.err
    assert b"Traceback" not in result.err


def test_a_port_that_is_taken(up: Up) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = up("up", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.code == 2
    assert b"--listen" in result.err
