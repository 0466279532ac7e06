"""The workflows in docs/examples: their commands exist, their scripts run against a console, and nobody's words get into a script."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.comment import MARK
from cli.main import app
from client.api import Console
from client.model import Scope, TokenIn
from console.serve import Running
from console.settings import Settings
from console.store import tokens
from tests.cli.commands import KUMOMORI
from tests.console.policyset import document

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GITHUB: dict[Any, Any] = yaml.safe_load((EXAMPLES / "github-policies.yml").read_text())
GITLAB: dict[str, Any] = yaml.safe_load((EXAMPLES / "gitlab-policies.yml").read_text())
Steps = dict[str, str]


def of_github(job: str) -> Steps:
    return {step["name"]: step["run"] for step in GITHUB["jobs"][job]["steps"] if "run" in step}


def of_gitlab(job: str) -> Steps:
    return {str(number): script for number, script in enumerate(GITLAB[job]["script"])}


SCRIPTS = [
    *(text for job in GITHUB["jobs"] for text in of_github(job).values()),
    *(text for job in ("policies-check", "policies-apply") for text in of_gitlab(job).values()),
]


def test_every_command_and_option_exists() -> None:
    lines = [line.strip() for text in SCRIPTS for line in text.splitlines() if line.strip().startswith("kumomori ")]
    for name in ("github-policies.yml", "gitlab-policies.yml"):
        comments = re.findall(r"^#\s+(kumomori .*)$", (EXAMPLES / name).read_text(), re.MULTILINE)
        lines += comments
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(re.sub(r" (>|\|\|) .*", "", line))[1:]
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context("kumomori", words)  # raises for an option that there is not


def test_what_others_write_gets_into_no_script() -> None:
    for text in SCRIPTS:
        assert "${{" not in text
        for word in ("title", "body", "head_ref", "MERGE_REQUEST_TITLE", "COMMIT_MESSAGE"):
            assert word not in text.replace("--body-file", "").replace('"body": open', "")
    assert "pull_request_target" not in GITHUB[True]  # `on`, as YAML 1.1 reads it
    assert GITHUB["permissions"] == {"contents": "read"}
    assert "permissions" not in GITHUB["jobs"]["apply"]


class Runner:
    """Runs the steps of a job in a checkout, as their service does: `bash -e`, with a `gh` and a `curl` that write down what they got."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.checkout = folder / "work"
        self.calls = folder / "calls.jsonl"
        (self.checkout / "policies").mkdir(parents=True)
        (self.checkout / "policies/company.yaml").write_text(document())
        tools, self.temp, self.exported = folder / "tools", folder / "temp", folder / "exported"
        tools.mkdir()
        self.temp.mkdir()
        for name in ("gh", "curl", "pip", "pipx"):
            (tools / name).write_text(f"#!/bin/sh\nprintf '%s\\n' \"{name} $*\" >> {self.calls}\n")
            (tools / name).chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{KUMOMORI.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "KUMOMORI_CONSOLE": running.address,
            "KUMOMORI_TOKEN_FILE": str(folder / "kumomori.token"),
            "KUMOMORI_PACKAGE": "kumomori",
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_ENV": str(folder / "exported"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_REPOSITORY": "acme/infra",
            "GITHUB_SHA": "0" * 40,
            "NUMBER": "7",
            "CI_PROJECT_PATH": "acme/infra",
            "CI_COMMIT_SHA": "0" * 40,
            "NOTE_HEADER_FILE": "/header",
        }

    def __call__(self, steps: Steps, token: str) -> int:
        self.exported.write_text("")
        for script in steps.values():
            exported = dict(line.split("=", 1) for line in self.exported.read_text().splitlines())
            done = subprocess.run(
                ["bash", "-e", "-c", script],
                cwd=self.checkout,
                env={**self.environment, **exported, "TOKEN": token},
                capture_output=True,
            )
            if done.returncode:
                return done.returncode
        return 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    given = {"database": f"sqlite:///{tmp_path}/console.sqlite", "port": 0}
    with Running(Settings.model_validate(given)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_from_the_pull_request_to_the_console(service: str, running: Running, tmp_path: Path) -> None:
    with running.console.database.write() as connection:
        reader = tokens.make(connection, TokenIn(name="check", scopes=(Scope.READ,)), "test").secret
        writer = tokens.make(connection, TokenIn(name="apply", scopes=(Scope.READ, Scope.POLICY)), "test").secret
    run = Runner(running, tmp_path)
    check, apply = (of_github("check"), of_github("apply")) if service == "github" else (
        of_gitlab("policies-check"), of_gitlab("policies-apply"),
    )  # fmt: skip
    token = Path(run.environment["KUMOMORI_TOKEN_FILE"])
    if service == "github":
        del run.environment["KUMOMORI_TOKEN_FILE"]
    token.write_text(reader if service == "gitlab" else "")
    assert run(check, reader) == 0
    comment = (run.temp / "comment.md" if service == "github" else run.checkout / "comment.md").read_text()
    assert comment.startswith(MARK)
    assert "1 document differs" in comment
    said = run.calls.read_text()
    assert ("gh pr comment 7 --edit-last" in said) if service == "github" else ("curl --fail" in said)
    if service == "gitlab":
        assert json.loads((run.checkout / "note.json").read_text()) == {"body": comment}
    assert reader not in said
    (run.checkout / "policies/company.yaml").write_text(document(settings="scan: {deep: full}"))
    assert run(check, reader) == 1, "refused: the check is red"
    (run.checkout / "policies/company.yaml").write_text(document())
    token.write_text(writer if service == "gitlab" else "")
    assert run(apply, writer) == 0
    with Console(running.address, writer) as api:
        assert api.policies().documents == {"company.yaml": document()}
        assert (api.policies().who, api.policies().message) == ("apply", f"acme/infra@{'0' * 40}")
    if service == "github":
        assert (run.temp / "kumomori.token").stat().st_mode & 0o077 == 0
        shutil.rmtree(run.temp)  # as the runner does after a job
        left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".sqlite"]
        assert not [path for path in left if writer.encode() in path.read_bytes()], (
            "of the next job, which may be another's"
        )
        run.temp.mkdir()
    run.environment["KUMOMORI_CONSOLE"] = "http://127.0.0.1:9"
    calls = run.calls.read_text().count("gh pr comment") + run.calls.read_text().count("curl")
    assert run(check, reader) == 1, "a console that is away is no green check, and no comment either"
    assert run.calls.read_text().count("gh pr comment") + run.calls.read_text().count("curl") == calls
