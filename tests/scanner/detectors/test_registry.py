"""Every detector is in the one list, keeps the protocol, and is written up."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

from core.findings import Detector, Rule, Severity
from definitions import builtin_rules
from scanner import detectors
from scanner.detectors import DetectorOptions, make_detectors, rule_ids
from scanner.detectors.malware import compile_rules

# modules that detectors share
HELPERS = {"base", "content", "packages"}
DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def made() -> tuple[Detector, ...]:
    return make_detectors(DetectorOptions(compile_rules(builtin_rules(), [])))


def modules() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(detectors.__path__)} - HELPERS


def rules() -> list[Rule]:
    found = [getattr(importlib.import_module(f"scanner.detectors.{name}"), "RULE", None) for name in sorted(modules())]
    written = [rule for rule in found if isinstance(rule, Rule)]
    yara_rules = [
        Rule(one.meta["id"], one.meta["title"], Severity(one.meta["severity"]), one.meta["remedy"])
        for one in compile_rules(builtin_rules(), [])
        if not one.is_private
    ]
    return written + yara_rules


def test_every_detector_module_is_registered(made: tuple[Detector, ...]) -> None:
    assert sorted(detector.name for detector in made) == sorted(modules())


def test_every_detector_module_has_its_test_file() -> None:
    here = Path(__file__).parent
    for name in sorted(modules() | HELPERS):
        assert (here / f"test_{name}.py").exists(), name


def test_only_malware_depends_on_content_alone(made: tuple[Detector, ...]) -> None:
    assert [detector.name for detector in made if detector.content_only] == ["malware"]


def test_rule_ids_are_unique() -> None:
    ids = [rule.id for rule in rules()]
    assert len(ids) == len(set(ids))


def test_a_report_can_say_all_that_may_be_found() -> None:
    own = ("own.yara", 'rule mine { condition: true } rule named { meta: id = "our/named" condition: true }')
    ids = rule_ids(compile_rules(builtin_rules(), [own]))
    assert ids >= {rule.id for rule in rules()} | {"yara/mine", "our/named"}


def test_the_page_of_detectors_is_complete() -> None:
    """One table row per rule, word for word, and no row for a rule that is gone."""
    rows = [line for line in (DOCS / "detectors.md").read_text().splitlines() if line.startswith("| `")]
    expected = [f"| `{rule.id}` | {rule.severity.value} | {rule.title} | {rule.remedy} |" for rule in rules()]
    assert sorted(rows) == sorted(expected)


def test_the_guide_names_what_exists() -> None:
    guide = (DOCS / "adding-a-detector.md").read_text()
    for word in (
        "make_detectors",
        "inspect_lines",
        "MemoryFile",
        "docs/detectors.md",
        "tests/scanner/detectors",
    ):
        assert word in guide, word
