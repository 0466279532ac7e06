"""The example programs and the lines in the documentation, as they stand there: each is run, and makes what it should."""

from __future__ import annotations

import inspect
import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from infra.__main__ import COMPONENTS
from tests.infra.aws.components import CONSOLE, FLEET, IMAGE
from tests.infra.aws.graph import Graph, recorded

ROOT = Path(__file__).resolve().parent.parent.parent.parent
EXAMPLES = ROOT / "infra" / "examples"
ROLE = "arn:aws:iam::222222222222:role/eu-work-1a2b3c4"
PLACE = {"vpc": str(FLEET["vpc"]), "subnets": json.dumps(FLEET["subnets"]), "image": IMAGE}
CONFIG: dict[str, dict[str, str]] = {
    "protected_account": {"installation": "acme", "account": "111122223333", "fleetRole": ROLE},
    "organization": {
        "installation": "acme",
        "root": "r-ab12",
        "externalId": "acme-4711",
        "fleetRole": ROLE,
        "accounts": '["111122223333"]',
    },
    "scan_fleet": {
        **PLACE,
        "installation": "acme",
        "console": "https://kumomori.example.com",
        "accounts": '["111122223333"]',
    },
    "console_on_aws": {
        **PLACE,
        "installation": "acme",
        "host": "kumomori.example.com",
        "certificate": str(CONSOLE["certificate"]),
        "zone": "Z0123456789ABCDEFGHIJ",
        "shell": "true",
    },
    "whole": {
        **PLACE,
        "installation": "acme",
        "console": "https://kumomori.example.com",
        "account": "111122223333",
        "management": "444455556666",
        "root": "r-ab12",
        "externalId": "acme-4711",
        "members": '["333333333333"]',
    },
}
KINDS = {
    "protected_account": {"ProtectedAccount"},
    "organization": {"Organization"},
    "scan_fleet": {"ScanFleet"},
    "console_on_aws": {"Console"},
    "whole": {"ProtectedAccount", "Organization", "ScanFleet"},
}


def run_with(config: dict[str, str], program: Callable[[], object]) -> Graph:
    with recorded(config={f"estate:{key}": value for key, value in config.items()}) as graph:
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    return graph


def run_example(name: str, **changes: str) -> Graph:
    path = EXAMPLES / name / "__main__.py"
    return run_with({**CONFIG[name], **changes}, lambda: runpy.run_path(str(path), run_name="__main__") and None)


def accounts(graph: Graph) -> dict[str, dict[str, Any]]:
    found = [one for one in graph.made if one.type.endswith(":CloudAccount")]
    return {str(one.inputs["account"]): dict(one.inputs) for one in found}


def test_there_is_one_for_each_component() -> None:
    assert set().union(*KINDS.values()) == {one.__name__ for one in COMPONENTS}


@pytest.mark.parametrize("name", CONFIG)
def test_project(name: str) -> None:
    project = yaml.safe_load((EXAMPLES / name / "Pulumi.yaml").read_text())
    assert project["runtime"]["name"] == "python"
    assert (EXAMPLES / name / "requirements.txt").is_file()
    text = (EXAMPLES / name / "__main__.py").read_text()
    for kind in KINDS[name]:
        assert f"{kind}(" in text


@pytest.mark.parametrize("name", CONFIG)
def test_it_runs(name: str) -> None:
    graph = run_example(name)
    made = {one.type.rpartition(":")[2] for one in graph.made}
    signs = {
        "ProtectedAccount": "Queue",
        "Organization": "StackSet",
        "ScanFleet": "LaunchTemplate",
        "Console": "TaskDefinition",
    }
    assert {kind for kind, sign in signs.items() if sign in made} == KINDS[name]


def test_an_account_is_enrolled_as_it_was_made() -> None:
    (one,) = accounts(run_example("protected_account")).values()
    assert (one["role"], one["regions"]) == ("KumomoriScanner", ["eu-central-1", "eu-west-1"])
    assert one["queue_url"].startswith("https://sqs.eu-central-1.")
    assert one["external_id"].startswith("kumomori-")


def test_the_whole_fits_together() -> None:
    graph = run_example("whole")
    enrolled = accounts(graph)
    assert set(enrolled) == {"111122223333", "333333333333"}
    assert enrolled["333333333333"]["external_id"] == "acme-4711"
    fleet = graph.one("Role", "eu-work")
    role = f"arn:aws:iam::111122223333:role/{fleet.name}"
    for name in ("production-scan", "company-list"):
        trust = json.loads(graph.one("Role", name).inputs["assumeRolePolicy"])
        assert trust["Statement"][0]["Principal"] == {"AWS": role}, "the roles trust the fleet that is made here"
    take = graph.one("RolePolicy", "eu-take").policy["Statement"][0]["Resource"]
    assert set(take) == {f"arn:aws:iam::{account}:role/KumomoriScanner" for account in enrolled}
    assert {"Policy", "Schedule", "Exclusion"} <= {one.type.rpartition(":")[2] for one in graph.made}


@pytest.mark.parametrize("name", ["scan_fleet", "console_on_aws", "whole"])
def test_what_is_done_before_a_stack_is_destroyed(name: str) -> None:
    """As docs/iac.md says: the fleet is stopped, the databases' protection taken away; their last snapshots stay."""
    graph = run_example(name, machines="0", deletionProtection="false")
    for database in graph.of("Instance"):
        assert database.inputs["deletionProtection"] is False
        assert database.inputs["skipFinalSnapshot"] is False
    for group in graph.of("Group"):
        assert (group.inputs["minSize"], group.inputs["maxSize"], group.inputs["desiredCapacity"]) == (0, 0, 0)
    for balancer in graph.of("LoadBalancer"):
        assert balancer.inputs["enableDeletionProtection"] is False


def blocks(heading: str) -> Iterator[str]:
    text = (ROOT / "docs" / "iac.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for part in text.split("```python\n")[1:]:
        yield part.partition("```")[0]


def test_an_account_is_protected_by_twenty_lines() -> None:
    """Exactly those of the page."""
    lines = next(blocks("The account, the organisation, the fleet, the console"))
    assert len(lines.splitlines()) <= 20
    graph = run_with({}, lambda: exec(lines, {}))
    assert {one.inputs["name"] for one in graph.of("Role", "scan")} == {"KumomoriScanner"}
    (one,) = accounts(graph).values()
    assert (one["account"], one["role"]) == ("111122223333", "KumomoriScanner")
    assert one["queue_url"]


def test_the_page_names_every_argument() -> None:
    page = (ROOT / "docs" / "iac.md").read_text()
    for component in COMPONENTS:
        for name in inspect.get_annotations(inspect.get_annotations(component.__init__)["args"]):
            assert f"`{name}`" in page, f"{component.__name__}: {name}"
