from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from policy.document import Refused, read_path
from policy.estate import instance
from policy.model import json_schema
from policy.resolve import Resolved, resolve
from policy.tree import load_texts
from tests.policy.documents import NOW, policy, problems

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        pytest.param([policy("a"), policy("a")], "there is another `a` at p.yaml:4:18", id="two-of-one-name"),
        pytest.param([policy("aws"), policy("b", parent="aw")], "no policy `aw`; did you mean `aws`?", id="parent"),
        pytest.param([policy("a", parent="b"), policy("b", parent="a")], "in a circle: a -> b -> a", id="cycle"),
        pytest.param([policy("a", parent="a")], "in a circle: a -> a", id="its-own-parent"),
        pytest.param([policy("a", "lock: [scan.shedule]")], "did you mean `scan.schedule`?", id="lock"),
        pytest.param(
            [policy("a", "lock: [scan]"), policy("b", "settings: {scan: {depth: full}}", "a")],
            "`scan.depth` is locked by a (p.yaml:5:8)",
            id="section-locked",
        ),
        pytest.param([policy("a"), policy("p", parent="a", kind="Profile")], "`until` is missing", id="no-end"),
        pytest.param(
            [policy("a"), policy("p", "until: 2027-01-01\nsince: 2027-02-01", "a", "Profile")], "ends before", id="ends"
        ),
        pytest.param([policy("a", "selector: {}")], "would select everything", id="empty-selector"),
        pytest.param([policy("a", "selector: {regoin: x}")], "did you mean `region`?", id="selector-name"),
        pytest.param([policy("a", "setings: {}")], "p.yaml:5:1: unknown name `setings`; did you mean", id="name"),
        pytest.param([policy("a", kind="Polcy")], "did you mean `Policy`?", id="kind"),
        pytest.param([policy("A b")], "is no name", id="bad-name"),
        pytest.param(["- a"], "is no policy document", id="no-document"),
        pytest.param([policy("a", "selector:")], "`selector` is empty", id="empty"),
        pytest.param([policy("a"), policy("m", parent="a", kind="Local")], "unknown name `parent`", id="local-parent"),
        pytest.param([policy("a", "selector: {address: office}")], "p.yaml:5:21: `office` is no network", id="address"),
        pytest.param([policy("a", f"selector: {{cloud: {'x' * 400}}}")], "p.yaml:5:19: `xxx", id="long-word"),
        pytest.param([policy("a", f"selector: {{tags: {{e: {'x' * 400}}}}}")], "p.yaml:5:22: `xxx", id="long-tag"),
        pytest.param([policy("a", "selector: {not_: {cloud: x}}")], "did you mean `not`?", id="only-one-spelling"),
        pytest.param(
            [
                policy("a", "lock: [actions.critical]"),
                policy("b", "settings: {actions: {by_rule: {'*': [alert]}}}", "a"),
            ],
            "`actions.by_rule` is locked by a (p.yaml:5:8)",
            id="by-rule-comes-before-a-locked-severity",
        ),
        pytest.param(
            [policy("a", "lock: [protection.mode]"), policy("b", "settings: {protection: {why: rent}}", "a")],
            "`protection.why` is locked by a (p.yaml:5:8)",
            id="another-reason-for-a-locked-mode",
        ),
        pytest.param(
            [
                policy("a", "lock: [protection.why]"),
                policy("b", "settings: {protection: {mode: agentless}}", "a"),
            ],
            "`protection.mode` is locked by a (p.yaml:5:8)",
            id="another-mode-for-a-locked-reason",
        ),
    ],
)
def test_refused(texts: list[str], words: str) -> None:
    assert words in problems(*texts)[0]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        pytest.param("scan: {max_file_bytes: 10 MiB}", "in bytes: write 10485760", id="mebibytes"),
        pytest.param("scan: {timeout_seconds: 5m}", "in seconds: write 300", id="minutes"),
        pytest.param("scan: {timeout_seconds: 5GB}", "in seconds, not in bytes", id="bytes-for-seconds"),
        pytest.param("scan: {timeout_minutes: 5}", "did you mean `timeout_seconds`, in seconds?", id="unit-in-name"),
        pytest.param("scan: {timeout_seconds: -1}", "greater than or equal to 0", id="negative"),
        pytest.param("scan: {schedule: {cron: 0 25 * * *}}", "is no cron expression", id="cron"),
        pytest.param("scan: {schedule: {cron: 0 0 30 2 *}}", "is", id="never"),
        pytest.param("scan: {schedule: {cron: 0 1 * * *, time_zone: Europe/Berln}}", "`Europe/Berlin`?", id="zone"),
        pytest.param("protection: {mode: none}", "needs `why`", id="none-without-why"),
        pytest.param("protection: {mode: agentles}", "did you mean `agentless`?", id="mode"),
        pytest.param("gaps: {accepted: [encryptd]}", "did you mean `encrypted`?", id="gap"),
        pytest.param("exclusions: {paths: [/**]}", "leaves everything out", id="everything-left-out"),
        pytest.param("exclusions: {paths: [/**/*]}", "leaves everything out", id="everything-longer"),
        pytest.param("exclusions: {paths: ['/?*/**/**']}", "leaves everything out", id="everything-longest"),
        pytest.param("exclusions: {paths: ['C:\\**']}", "leaves everything out", id="everything-on-windows"),
        pytest.param("exclusions: {paths: ['/srv/" + "*a" * 33 + "']}", "more than 32 stars", id="stars"),
        pytest.param("exclusions: {rules: ['*']}", "leaves everything out", id="every-rule"),
        pytest.param("exclusions: {rules: ['*/*']}", "leaves everything out", id="every-rule-in-parts"),
        pytest.param("exclusions: {paths: []}", "`exclusions.paths` adds nothing", id="empty-does-not-clear"),
        pytest.param("network: {inbound: [{port: tcp/99999, from: 10.0.0.0/8}]}", "is no port", id="port"),
    ],
)
def test_settings_refused(said: str, words: str) -> None:
    (problem,) = problems(policy("a", f"settings:\n  {said}"))
    assert problem.startswith("p.yaml:6:")
    assert words in problem


def test_the_published_schema_is_the_model() -> None:
    assert json.loads((DOCS / "policy.schema.json").read_text()) == json_schema()


def test_the_examples_fit_the_published_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    nodes = read_path(DOCS / "policies")
    assert len(nodes) == 12
    for node in nodes:
        validator.validate(node.plain())
    root = {"apiVersion": "kumomori/v1", "kind": "Policy", "metadata": {"name": "a"}}
    validator.validate({**root, "selector": {"cloud": "gcp"}, "may_select": ["nothing"]})
    assert not validator.is_valid({**root, "may_select": ["nothing"]})
    assert not validator.is_valid({**root, "selector": {"cloud": "gcp"}, "may_select": ["some"]})


def test_the_smallest_set_of_the_page() -> None:
    page = (DOCS / "policy.md").read_text()
    text = page.split("```yaml\n")[1].partition("```")[0]
    row = json.loads(next(line for line in page.splitlines() if line.startswith("{")))
    found = resolve(load_texts({"policy.md": text}), instance(row), NOW)
    assert isinstance(found, Resolved)
    assert found.path == ("company", "web-servers")


@pytest.mark.parametrize("name", ["scans_per_account", "scans_per_host"])
def test_a_limit_of_no_scans_says_what_to_say_instead(name: str) -> None:
    with pytest.raises(Refused) as caught:
        load_texts({"company.yaml": policy("a", f"settings: {{limits: {{{name}: 0}}}}")})
    assert "at least 1; to scan nothing, say `protection.mode: none`" in str(caught.value)
    load_texts({"company.yaml": policy("a", f"settings: {{limits: {{{name}: 1}}}}")})


def test_a_depth_that_is_not_carried_out_is_refused_and_says_why() -> None:
    with pytest.raises(Refused) as caught:
        load_texts({"company.yaml": policy("a", "settings: {scan: {depth: inventory}}")})
    assert "not there yet: contents would be looked at all the same; say `changed`" in str(caught.value)
