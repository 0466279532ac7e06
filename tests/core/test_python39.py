"""The light agent carries `core`, on the Python of old systems."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "core").rglob("*.py"))
# what `typing` and others have only since 3.10 or later, and core could reach for
TOO_NEW = {
    *("Self", "LiteralString", "Never", "assert_never", "TypeAlias", "ParamSpec", "TypeGuard", "override", "Unpack"),
    *(
        "StrEnum",
        "UTC",
        "pairwise",
        "ExceptionGroup",
        "BaseExceptionGroup",
        "aiter",
        "anext",
        "bit_count",
        "reveal_type",
    ),
}


def _python39() -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(str(path) for path in pyenv.glob("versions/3.9*/bin/python3.9"))
    return found[0] if found else shutil.which("python3.9")


def test_there_is_something_to_check() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in FILES])
def test_core_is_written_for_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    annotated = any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.names[0].name == "annotations"
        for node in tree.body
    )
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            top = (module or "").partition(".")[0]
            assert top in {"__future__", "core"} or top in sys.stdlib_module_names
            assert not {alias.name for alias in node.names} & TOO_NEW
        if isinstance(node, ast.Attribute):
            assert node.attr not in TOO_NEW
        if isinstance(node, ast.Call):
            assert not {word.arg for word in node.keywords} & {"slots", "kw_only", "strict"}
    # `X | Y` outside an annotation is evaluated, which 3.9 cannot do for types
    unions = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)]
    assert not [node for node in unions if isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr)]
    assert annotated or len(tree.body) <= 1


def test_core_imports_on_python_3_9() -> None:
    python = _python39()
    if python is None:
        pytest.skip("no Python 3.9 on this machine: only the syntax of core was checked")
    names = ", ".join(f"core.{path.stem}" for path in FILES if path.stem != "__init__")
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.dont_write_bytecode = True; import {names}; print(sys.version)"
    done = subprocess.run([python, "-I", "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3.9")
