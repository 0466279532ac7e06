"""Nodes become typed documents. What does not fit is said with its place, and with the nearest right spelling."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from core.text import printable
from policy.checks import nearest
from policy.document import At, Node, Problem, Refused
from policy.model import API_VERSION, DOCUMENTS, Local, Policy, Profile
from policy.settings import CATALOGUE, LOCKED_WITH, model_in

_UNITS: Final[dict[str, tuple[str, float]]] = {
    **dict.fromkeys(("b", "byte", "bytes"), ("bytes", 1)),
    **dict.fromkeys(("kb", "k"), ("bytes", 1000)),
    **dict.fromkeys(("mb", "m b"), ("bytes", 1000**2)),
    "gb": ("bytes", 1000**3),
    "tb": ("bytes", 1000**4),
    "kib": ("bytes", 1 << 10),
    "mib": ("bytes", 1 << 20),
    "gib": ("bytes", 1 << 30),
    "tib": ("bytes", 1 << 40),
    "ms": ("seconds", 0.001),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), ("seconds", 60)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3600)),
    **dict.fromkeys(("d", "day", "days"), ("seconds", 86400)),
    **dict.fromkeys(("w", "week", "weeks"), ("seconds", 604800)),
    **dict.fromkeys(("%", "percent"), ("percent", 1)),
    **dict.fromkeys(("$", "usd"), ("usd", 1)),
}
_QUANTITY = re.compile(r"([0-9][0-9_,']{0,17}(?:\.[0-9]{1,6})?) ?([A-Za-z%$]{0,10})")
_NAME_UNITS = re.compile(
    r"_(seconds|secs?|minutes?|mins?|hours?|days?|weeks?|ms|milliseconds|bytes|[kmgt]i?b|mega|percent|usd|eur)$"
)
_EXPECTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a word",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping (name: value)",
    "mapping": "a mapping (name: value)",
    "model": "a mapping (name: value)",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A value in a document and where its name stands; `items` are the places of a list's items or a mapping's names."""

    value: Any
    at: At
    items: tuple[At, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A typed document; `settings` by full name (`scan.schedule`), `at` where its name stands.

    `selector_at` is where `selector` or `when` stands (`at` without one), `lock` where each locked setting is locked:
    also those that are locked with another (`locked_with`).
    """

    name: str
    parent: str | None
    at: At
    parent_at: At
    selector_at: At
    model: Policy | Profile | Local
    settings: Mapping[str, Said]
    lock: Mapping[str, At]


def documents(nodes: Iterable[Node]) -> list[Document]:
    """Typed, in the order given. Raises `Refused` with the problems of all of them."""
    found: list[Document] = []
    problems: list[Problem] = []
    for node in nodes:
        try:
            found.append(document(node))
        except Refused as error:
            problems += error.problems
    if problems:
        raise Refused(problems)
    return found


def document(node: Node) -> Document:
    """Raises `Refused`."""
    model_type = _model(node)
    if empty := list(_empty(node)):
        raise Refused(empty)
    try:
        model = model_type.model_validate_json(json.dumps(node.plain()))
    except ValidationError as error:
        raise Refused([_problem(node, model_type, one) for one in error.errors(include_url=False)]) from None
    if useless := [*_adds_nothing(node, model), *_means_nothing(node, model)]:
        raise Refused(useless)
    name = model.metadata.name
    lock = _locks(node, model.lock) if isinstance(model, Policy) else {}
    metadata = node.find(["metadata"])
    at = node.find(["metadata", "name"]).at
    keys = node.keys or {}
    return Document(
        name=name,
        parent=None if isinstance(model, Local) else model.metadata.parent,
        at=at,
        parent_at=metadata.find(["parent"]).at,
        selector_at=keys.get("selector") or keys.get("when") or at,
        model=model,
        settings=dict(_settings(node, model)),
        lock=lock,
    )


def _model(node: Node) -> type[Policy | Profile | Local]:
    if not isinstance(node.value, dict):
        raise Refused([Problem(node.at, f"is no policy document: it begins with `apiVersion: {API_VERSION}`")])
    for name, known in (("apiVersion", (API_VERSION,)), ("kind", tuple(DOCUMENTS))):
        given = node.find([name])
        if given is node:
            close = nearest(name, tuple(node.value)).replace("did you mean", "is it").rstrip("?")
            where = f"{close}" if close else ""
            raise Refused([Problem(node.at, f"`{name}` is missing: it is one of {', '.join(known)}{where}")])
        if given.text not in known:
            raise Refused([Problem(given.at, _no_such(given, known))])
    return DOCUMENTS[node.find(["kind"]).text]


def _settings(node: Node, model: Policy | Profile | Local) -> Iterator[tuple[str, Said]]:
    plain = model.settings.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    whole = model.settings.model_dump(mode="json", by_alias=True, exclude_none=True)
    for section, values in plain.items():
        keys = node.find(["settings", section]).keys or {}
        for name in values:
            inside = node.find(["settings", section, name])
            items = tuple(item.at for item in inside.value) if isinstance(inside.value, list) else ()
            items = tuple((inside.keys or {}).values()) or items
            yield f"{section}.{name}", Said(whole[section][name], keys[name], items)


def _locks(node: Node, lock: Iterable[str]) -> dict[str, At]:
    """Settings that are locked, and where it stands; a section stands for all that is in it.

    What would undo a locked setting is locked by the same line (`LOCKED_WITH`).
    """
    found: dict[str, At] = {}
    for number, name in enumerate(lock):
        at = node.find(["lock", number]).at
        names = [full for full in CATALOGUE if full == name or full.startswith(f"{name}.")]
        if not names:
            known = [*CATALOGUE, *{full.partition(".")[0] for full in CATALOGUE}]
            raise Refused([Problem(at, f"`{_cut(name)}` is no setting that could be locked{nearest(name, known)}")])
        for full in names:
            found.setdefault(full, at)
            for other in LOCKED_WITH.get(full, ()):
                found.setdefault(other, at)
    return found


def locked_with(lock: Iterable[str], setting: str) -> str:
    """The setting or section of `lock` that `setting` is locked together with; empty if it is locked itself."""
    names = tuple(lock)
    if setting in names or setting.partition(".")[0] in names:
        return ""
    causes = {full for full, others in LOCKED_WITH.items() if setting in others}
    return next((name for name in names if any(one == name or one.startswith(f"{name}.") for one in causes)), "")


def _empty(node: Node) -> Iterator[Problem]:
    inside = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
    for name, child in inside:
        if child.value is None:
            yield Problem(child.at, f"`{_cut(str(name))}` is empty: give it a value, or leave it out")
        elif isinstance(child.value, (dict, list)):
            yield from _empty(child)


def _adds_nothing(node: Node, model: Policy | Profile | Local) -> Iterator[Problem]:
    """Whoever writes an empty list wants to clear what is inherited; where lists add up, it would not."""
    for setting, said in _settings(node, model):
        if CATALOGUE[setting].merged and not said.value:
            yield Problem(said.at, f"`{setting}` adds nothing: what is inherited stays, whatever is said here")


def _means_nothing(node: Node, model: Policy | Profile | Local) -> Iterator[Problem]:
    """`may_select` beside no selector would wait there for one."""
    if isinstance(model, Local) or model.may_select is None:
        return
    name, beside = ("selector", model.selector) if isinstance(model, Policy) else ("when", model.when)
    if beside is None:
        at = (node.keys or {})["may_select"]
        yield Problem(at, f"`may_select` speaks of a `{name}`, and there is none here: leave it out")


def _problem(node: Node, model: type[BaseModel], error: Any) -> Problem:
    path = tuple(error["loc"])
    kind: str = error["type"]
    if kind == "extra_forbidden":
        holder = node.find(path[:-1])
        name = str(path[-1])
        at = (holder.keys or {}).get(name, holder.at)
        return Problem(at, _unknown(name, _names(model, path[:-1])))
    found = node.find(path)
    if kind == "missing":
        text = f"`{path[-1]}` is missing"
        if path[-1] == "until":
            text += ": a date like 2027-01-31, or `never`"
        return Problem(found.at, text)
    return Problem(found.at, _wrong(found, path, kind, error))


def _unknown(name: str, known: list[str]) -> str:
    text = f"unknown name `{_cut(name)}`"
    stem = _NAME_UNITS.sub("", name)
    for other in known:  # the unit alone is wrong
        if stem != name and _NAME_UNITS.sub("", other) == stem:
            unit = other.rpartition("_")[2]
            return f"{text}; did you mean `{other}`, in {unit}?"
    return text + (nearest(name, known) or f"; known here: {', '.join(sorted(known)[:25])}")


def _names(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """The names that the mapping at `path` may hold."""
    here: type[BaseModel] = model
    for step in path:
        for name, field in here.model_fields.items():
            if step in {name, field.alias}:
                here = model_in(field.annotation) or here
                break
    return [field.alias or name for name, field in here.model_fields.items()]


def _wrong(node: Node, path: tuple[str | int, ...], kind: str, error: Any) -> str:
    context = error.get("ctx", {})
    if kind in {"enum", "literal_error"}:
        return _no_such(node, tuple(re.findall(r"'([^']+)'", context["expected"])))
    shown = f"`{_cut(node.text)}`" if not isinstance(node.value, (list, dict)) else "what stands here"
    if kind == "value_error":
        return f"{shown if shown[0] == '`' else 'this'} {context['error']}"
    if kind == "string_pattern_mismatch":
        return f"{shown} is no name: lower-case letters, digits, `-` and `.`, up to 64"
    expected = _EXPECTED.get(kind.partition("_")[0])
    if expected and (kind.endswith(("_type", "_parsing", "_from_float")) or kind == "int_from_float"):
        return f"{shown} is not {expected}{_unit_hint(node, path)}"
    return f"{shown}: {printable(error['msg'][0].lower() + error['msg'][1:])}"


def _unit_hint(node: Node, path: tuple[str | int, ...]) -> str:
    unit = next((str(step).rpartition("_")[2] for step in reversed(path) if isinstance(step, str)), "")
    found = _QUANTITY.fullmatch(node.text.strip())
    if found is None:
        return ""
    word = found[2] if found[2] in _UNITS else found[2].lower()
    number = float(re.sub("[_,']", "", found[1]))
    if not word:
        return f"; write {number:.15g}"
    if word not in _UNITS:
        return f"; the unit is {unit}, without a word behind the number" if unit in {"bytes", "seconds"} else ""
    measures, factor = _UNITS[word]
    if unit != measures:
        return f": this is in {unit}, not in {measures}" if unit in {"bytes", "seconds", "percent", "usd"} else ""
    return f": the number alone, in {unit}: write {round(number * factor, 3):.15g}"


def _no_such(node: Node, known: Iterable[str]) -> str:
    words = tuple(known)
    if isinstance(node.value, (list, dict)):
        return f"what stands here is not one word of {', '.join(words)}"
    return f"`{_cut(node.text)}` is none of {', '.join(words)}{nearest(node.text, words)}"


def _cut(text: str) -> str:
    return printable(text if len(text) <= 60 else text[:57] + "...")
