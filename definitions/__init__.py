"""What is known to be bad: for now our own YARA rules, which ship inside the package."""

from __future__ import annotations

from importlib.resources import files


def builtin_rules() -> dict[str, str]:
    """Our rules: namespace (the file's name without `.yar`) to source text, in the order of the names."""
    folder = files(__name__) / "yara"
    found = {entry.name.removesuffix(".yar"): entry for entry in folder.iterdir() if entry.name.endswith(".yar")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}
