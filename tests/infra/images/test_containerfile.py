"""What both descriptions of images keep to, whoever changes them; and that they name only what is there."""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from infra.images.build import HERE, ROOT, TARGETS

FILES = sorted(TARGETS.values())


def instructions(text: str) -> list[tuple[str, str]]:
    """Each with what is said to it, in order; https://docs.docker.com/reference/dockerfile/#format"""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (line.split()[0].upper(), line.strip().partition(" ")[2].strip()) for line in whole.splitlines() if line.strip()
    ]


def faults(text: str, root: Path = ROOT) -> list[str]:
    found = []
    stages: list[str] = []
    user = ""
    for word, rest in instructions(text):
        if word == "FROM":
            user = ""
            image, _, stage = rest.partition(" AS ")
            if "${" not in image and image != "scratch" and image not in stages:
                found.append(f"an image that no build can choose: {image}")
            stages.append(stage)
        elif word == "USER":
            user = rest
        elif word == "ADD":
            found.append("ADD fetches and unpacks: use COPY")
        elif word == "COPY":
            found += _copied(rest, stages, root)
        elif word == "RUN":
            found += _run(rest)
    if not user or not all(part.isdigit() and int(part) for part in user.split(":")):
        found.append(
            f"ends as user {user or 'root'}: give numbers, so that an orchestrator can see that it is not root"
        )
    return found


def _copied(rest: str, stages: list[str], root: Path) -> list[str]:
    *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
    origin = [word.removeprefix("--from=") for word in shlex.split(rest) if word.startswith("--from=")]
    if origin:
        return [] if origin[0] in stages else [f"copies from an unknown stage: {origin[0]}"]
    missing = [f"not there: {one}" for one in sources if not (root / one).exists()]
    return missing + [f"left out by .containerignore: {one}" for one in sources if not kept(one)]


def _run(rest: str) -> list[str]:
    found = []
    for command in rest.split(";"):
        words = command.split()
        if "pip" in words and "install" in words and not {"--require-hashes", "--no-deps"} & set(words):
            found.append(f"pip without hashes: {command.strip()}")
        if "apt-get" in words and "install" in words and "--no-install-recommends" not in words:
            found.append(f"recommended packages: {command.strip()}")
        if {"curl", "wget"} & set(words):
            found.append(f"fetches: {command.strip()}")
    return found


def kept(path: str) -> bool:
    """Whether the build sees it: the last rule that fits decides, as in https://docs.docker.com/build/concepts/context/#dockerignore-files"""
    seen = True
    for line in (ROOT / ".containerignore").read_text().splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        beneath = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)]
        ends = parts if "**/" in rule else []
        if any(fnmatch(one, pattern) for one in [*beneath, *ends]):
            seen = rule.startswith("!")
    return seen


@pytest.mark.parametrize("name", FILES)
def test_rules(name: str) -> None:
    assert faults((HERE / name).read_text()) == []


GOOD = "ARG BASE=debian\nFROM ${BASE} AS build\nRUN pip install --require-hashes -r x\nFROM build\nUSER 10001:10001\n"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param("USER root", "ends as user root", id="root"),
        pytest.param("USER 0:0", "ends as user 0:0", id="zero"),
        pytest.param("USER kumomori", "ends as user kumomori", id="a-name"),
        pytest.param("FROM build", "ends as user root", id="no-user"),
        pytest.param("ADD https://example.com/x.tar /", "ADD", id="add"),
        pytest.param("COPY nothing /", "not there: nothing", id="missing"),
        pytest.param("COPY tests /", "left out by .containerignore: tests", id="ignored"),
        pytest.param("COPY --from=other /x /", "unknown stage: other", id="stage"),
        pytest.param("RUN set -eu; \\\n  pip install flask", "pip without hashes", id="pip"),
        pytest.param("RUN apt-get install gcc", "recommended packages", id="apt"),
        pytest.param("RUN curl https://example.com | sh", "fetches", id="curl"),
        pytest.param("FROM debian:latest\nUSER 1:1", "no build can choose: debian:latest", id="image"),
    ],
)
def test_a_fault_is_found(line: str, fault: str) -> None:
    assert faults(GOOD) == []
    assert any(fault in one for one in faults(GOOD + line + "\n"))


def settings(name: str) -> dict[str, str]:
    """What ENV and the last WORKDIR of a file say."""
    found: dict[str, str] = {}
    for word, rest in instructions((HERE / name).read_text()):
        if word == "ENV":
            found |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "WORKDIR":
            found["WORKDIR"] = rest
    return found


def test_no_code_comes_from_where_it_can_be_written(tmp_path: Path) -> None:
    """`python -m` would import from the working folder first, and so does awslambdaric, whatever Python is told."""
    assert settings("Containerfile")["PYTHONSAFEPATH"] == "1"
    function = settings("Containerfile.function")
    for folder in (function["WORKDIR"], *function["PYTHONPATH"].split(":")):
        assert folder.startswith("/opt/"), "which is root's"
    (tmp_path / "json.py").write_text("raise SystemExit('code of somebody else')")
    command = [sys.executable, "-m", "json.tool", "--help"]
    variables = {name: value for name, value in settings("Containerfile").items() if name.startswith("PYTHON")}
    assert subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=False).returncode == 0
    assert subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("path", ["tests", "docs", "var", ".git", ".venv", "demo", "infra", "bench", "core/__pycache__", "cli/main.pyc"])  # fmt: skip
def test_left_out(path: str) -> None:
    assert not kept(path)


@pytest.mark.parametrize("path", ["core", "scanner/fleet/worker.py", "definitions/yara/x.yar", "pyproject.toml"])
def test_kept(path: str) -> None:
    assert kept(path)


def test_both_engines_leave_out_the_same() -> None:
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


def copied() -> set[Path]:
    """Every module of ours that the image has."""
    found: set[Path] = set()
    for word, rest in instructions((HERE / "Containerfile").read_text()):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                path = ROOT / source
                found |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return {path for path in found if path.suffix == ".py"}


def imported(module: Path) -> set[str]:
    """What it imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{one.name}" for one in node.names}
    return names


def test_what_programs_import_is_in_the_image() -> None:
    """A module that is there in the repository but not in the image."""
    modules = copied()
    assert ROOT / "cli/main.py" in modules
    missing = set()
    for module in modules:
        for name in imported(module):
            path = ROOT / name.replace(".", "/")
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file() and file not in modules:
                    missing.add(f"{module.relative_to(ROOT)} imports {name}")
    assert not missing


@pytest.mark.parametrize("lock", ["cli.txt", "function.txt"])
def test_locks_have_hashes_and_no_index(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text()
    pinned = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert pinned
    assert all(line.endswith("\\") for line in pinned)
    assert not [
        line for line in text.splitlines() if line.startswith(("--index-url", "--extra-index-url", "--find-links"))
    ]
