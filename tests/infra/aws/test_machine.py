"""What a machine of a fleet, and a task of the console, are told: commands and settings that exist, and no secret."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app
from console.settings import from_environment
from infra.aws.machine import DATA, SECRETS, Machine, run_script, secrets_script, worker_options
from scanner.fleet.objects import Objects
from scanner.fleet.sealing import Keys
from scanner.fleet.settings import Settings
from tests.infra.aws.components import IMAGE, full, plain
from tests.infra.aws.graph import REGION, Graph

PASSWORD = r"a:b\c'd\"$e!"
VALUES = {
    "tok": "kmt_0123456789",
    "keys": "0a1b2c3d " + "ab" * 32,
    "rds!db-1": json.dumps({"username": "kumomori", "password": PASSWORD}),
}
MACHINE = Machine(REGION, IMAGE, "tok", "keys", "rds!db-1", worker_options("eu", "https://k.example", REGION, 2), {})
AWS = """#!/usr/bin/env python3
import json, sys
values = json.loads(open("{values}").read())
arguments = sys.argv[1:]
assert arguments[:2] == ["secretsmanager", "get-secret-value"], arguments
assert arguments[2:4] == ["--region", "eu-central-1"] and arguments[6:] == ["--query", "SecretString", "--output", "text"]
if arguments[5] not in values:
    sys.exit("ResourceNotFoundException")
print(values[arguments[5]])
"""


def user_data(graph: Graph) -> str:
    return base64.b64decode(graph.one("LaunchTemplate").inputs["userData"]).decode()


def container(graph: Graph) -> dict[str, Any]:
    (one,) = json.loads(graph.one("TaskDefinition").inputs["containerDefinitions"])
    assert isinstance(one, dict)
    return one


def docker_run(graph: Graph) -> list[str]:
    (line,) = [line for line in user_data(graph).splitlines() if line.startswith("exec docker run ")]
    return shlex.split(line)


@pytest.mark.parametrize("of", [plain, full])
def test_every_option_is_one_of_the_real_command(of: Any) -> None:
    words = docker_run(of("fleet"))
    command = words[words.index(IMAGE) + 1 :]
    group: Any = typer.main.get_command(app)
    worker = group.commands[command[0]]
    context = worker.make_context("worker", command[1:], resilient_parsing=False)
    assert context.params["fleet"] == ("eu" if of is full else "default")
    assert context.params["console"] == "https://kumomori.example.com"
    assert context.params["token_file"] == Path(f"{SECRETS}/token")
    assert context.params["data"] == Path(DATA)
    assert (context.params["region"], context.params["workers"]) == ([REGION], 2)


@pytest.mark.parametrize(("of", "slots"), [(plain, 4), (full, 10)])
def test_every_setting_is_one_of_the_fleets(of: Any, slots: int) -> None:
    given = [word.removeprefix("--env=") for word in docker_run(of("fleet")) if word.startswith("--env=")]
    environment = dict(one.split("=", 1) for one in given)
    options = {
        "KUMOMORI_FLEET_DATA": DATA,
        "KUMOMORI_FLEET_CONSOLE": "https://k.example",
        "KUMOMORI_FLEET_TOKEN_FILE": "t",
    }
    settings = Settings.from_environment(environment | options)
    assert (settings.installation, settings.home_region, settings.all_slots) == ("acme", REGION, slots)
    assert settings.objects == f"s3://prod-man-1a2b3c4/{'eu' if of is full else 'default'}"
    address = settings.database.get_secret_value()
    assert address == f"postgresql://kumomori@prod-db.abc.{REGION}.rds.amazonaws.com:5432/kumomori?sslmode=require"
    assert set(environment) - set(settings.environment()) == {"AWS_REGION", "PGPASSFILE"}


def test_the_store_takes_its_address_and_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", REGION)
    keys = Keys.kept_in(tmp_path / "manifest.keys")
    assert Objects("s3://prod-man-1a2b3c4/default", keys, scratch=tmp_path / "work") is not None


def test_the_console_is_started_as_it_can_be() -> None:
    one = container(plain("console"))
    assert one["entryPoint"][:2] == ["python", "-m"]
    assert find_spec(one["entryPoint"][2]) is not None
    settings = from_environment({pair["name"]: pair["value"] for pair in one["environment"]})
    assert (settings.host, settings.port) == ("0.0.0.0", 8420)
    assert "password" not in settings.database.get_secret_value()
    (secret,) = one["secrets"]
    assert (secret["name"], secret["valueFrom"].endswith(":password::")) == ("PGPASSWORD", True)
    target = plain("console").one("TargetGroup").inputs
    assert (target["port"], target["healthCheck"]["path"]) == (settings.port, "/health")


def test_rights_of_the_containers() -> None:
    words = docker_run(plain("fleet"))
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001:10001"} <= set(words)
    assert not [word for word in words if "privileged" in word and "no-new" not in word]
    one = container(plain("console"))
    assert (one["user"], one["readonlyRootFilesystem"]) == ("10001:10001", True)
    assert one["linuxParameters"]["capabilities"]["drop"] == ["ALL"]
    assert container(full("console"))["readonlyRootFilesystem"] is False


@pytest.mark.parametrize("of", [plain, full])
def test_machines_ask_for_credentials_with_a_session_and_one_hop(of: Any) -> None:
    options = of("fleet").one("LaunchTemplate").inputs["metadataOptions"]
    assert options == {"httpTokens": "required", "httpPutResponseHopLimit": 1, "httpEndpoint": "enabled"}


@pytest.mark.parametrize("of", [plain, full])
def test_the_script_is_one(of: Any, tmp_path: Path) -> None:
    text = user_data(of("fleet"))
    assert len(text.encode()) <= 16_384, "EC2 takes no more"
    parts = text.split("<<'KUMOMORI_END'\n")
    inner = [part.partition("KUMOMORI_END\n")[0] for part in parts[1:]]
    for number, script in enumerate([text, *(one for one in inner if one.startswith("#!"))]):
        path = tmp_path / str(number)
        path.write_text(script)
        subprocess.run(["bash", "-n", path], check=True)
    assert len(inner) == 5
    assert sum(one.startswith("#!/bin/bash\nset -euo pipefail\n") for one in inner) == 2


def read_secrets(root: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for folder in ("bin", "run", "var/lib/kumomori"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "values").write_text(json.dumps(values))
    (root / "bin/aws").write_text(AWS.format(values=root / "values"))
    (root / "bin/aws").chmod(0o755)
    script = secrets_script(MACHINE, root=str(root), owner=f"{os.getuid()}:{os.getgid()}")
    environment = {**os.environ, "PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, timeout=60)


def test_secrets_are_put_where_the_worker_reads_them(tmp_path: Path) -> None:
    done = read_secrets(tmp_path, VALUES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    kept = tmp_path / "run/kumomori"
    assert (kept / "token").read_text() == "kmt_0123456789\n"
    assert (kept / "pgpass").read_text() == "*:*:*:*:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n"
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in kept.iterdir()} == {
        "token": "0o600",
        "pgpass": "0o600",
        "manifest.keys": "0o600",
    }
    assert (tmp_path / "var/lib/kumomori/manifest.keys").readlink() == Path(f"{SECRETS}/manifest.keys")
    assert Keys.kept_in(kept / "manifest.keys").current.hex() == "0a1b2c3d"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kumomori"], "no copy is left"


def test_a_changed_secret_counts_and_a_missing_one_changes_nothing(tmp_path: Path) -> None:
    read_secrets(tmp_path, VALUES)
    assert read_secrets(tmp_path, VALUES | {"tok": "kmt_9"}).returncode == 0
    token = tmp_path / "run/kumomori/token"
    assert token.read_text() == "kmt_9\n"
    for lost in ("tok", "keys", "rds!db-1"):
        done = read_secrets(tmp_path, {name: value for name, value in VALUES.items() if name != lost} | {"x": "y"})
        assert done.returncode != 0, lost
        assert token.read_text() == "kmt_9\n"
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["kumomori"]
    assert read_secrets(tmp_path, VALUES | {"rds!db-1": "no JSON"}).returncode != 0
    assert PASSWORD not in read_secrets(tmp_path, VALUES | {"tok": "t"}).stderr


def test_hostile_values_stay_words() -> None:
    """They are checked before; quoted all the same."""
    hostile = "'; reboot #"
    machine = Machine(REGION, IMAGE, hostile, hostile, hostile, [hostile], {"A": hostile})
    assert f"secret {shlex.quote(hostile)} >" in secrets_script(machine)
    line = next(line for line in run_script(machine).splitlines() if line.startswith("exec"))
    assert shlex.split(line)[-1] == hostile
    assert f"--env=A={hostile}" in shlex.split(line)
