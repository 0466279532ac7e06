"""The example programs, from the first preview to the last trace of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import yaml

import infra.console
from client.api import Console
from client.model import FindingState
from console.serve import Running
from infra.console.policy import holding
from tests.console.made import enrol, finding, scanned
from tests.infra.console.conftest import Secret
from tests.infra.engine import Engine

pytestmark = pytest.mark.slow

EXAMPLES = Path(infra.console.__file__).parent.parent / "examples"
OURS = {"policy": "Policy", "schedule": "Schedule", "exclusion": "Exclusion", "cloud_account": "CloudAccount"}


def test_there_is_one_for_each() -> None:
    assert set(OURS.values()) == set(infra.console.__all__)


@pytest.mark.parametrize("name", OURS)
def test_it_runs(name: str, tmp_path: Path, running: Running, secret: Secret, api: Console) -> None:
    enrol(running.console.database, "i-1")
    scanned(running.console.database, [finding("a")])
    folder = EXAMPLES / name
    project = yaml.safe_load((folder / "Pulumi.yaml").read_text())
    assert project["runtime"]["name"] == "python"
    config = {
        "kumomori:console": running.address,
        "kumomori:token": secret("pulumi"),
        f"{project['name']}:account": "999999999999",
    }

    def program() -> None:
        runpy.run_path(str(folder / "__main__.py"), run_name="__main__")

    with Engine(tmp_path, config, project=project["name"]) as engine:
        seen = engine.preview(program).ok()
        assert OURS[name] in seen.text
        engine.up(program).ok()
        kinds = {one.type.rpartition(":")[2] for one in engine.resources.values()}
        assert OURS[name] in kinds
        assert len(holding(api)[1]) + len(api.accounts()) - 1 == len(
            [one for one in engine.resources.values() if one.dynamic]
        )
        assert engine.up(program).ok().ops == {}
        assert engine.preview(program, refresh=True).ok().ops == {}
        engine.destroy().ok()
    assert holding(api)[1] == {}
    assert [one.account for one in api.accounts()] == ["123456789012"], "what was there before"
    assert [one.state for one in api.findings()] == [FindingState.OPEN], "and no finding is lost"


def test_the_lines_in_the_documentation(tmp_path: Path, running: Running, secret: Secret, api: Console) -> None:
    text = (EXAMPLES.parents[1] / "docs/iac.md").read_text().partition("## Policies and accounts in the console")[2]
    lines = text.partition("```python\n")[2].partition("```")[0]
    assert len(lines.splitlines()) <= 20
    config = {"kumomori:console": running.address, "kumomori:token": secret("pulumi")}
    with Engine(tmp_path, config) as engine:
        engine.up(lambda: exec(lines, {})).ok()
        assert len(holding(api)[1]) == 3
        assert [one.account for one in api.accounts()] == ["123456789012"]
        engine.destroy().ok()
