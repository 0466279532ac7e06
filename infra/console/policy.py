"""`Policy`, and how one document of the console's set is kept: by reading the set, changing that document, applying all of it.

The console's policies are one set with an ETag. Whoever applies meanwhile is not overwritten: the set is read again. A document's last line
names the resource that it belongs to, so that a creation that broke off is taken up again, and nobody else's document is.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, ReadResult, Resource, UpdateResult

from client.api import Console, Refused
from client.model import MOST_DOCUMENTS, PolicySet, PolicyVersion
from core.errors import CloudError, ConfigError, Conflict, Gone, LimitExceeded, Throttled
from core.text import printable
from infra.console.provider import (
    ConsoleProvider,
    document_name,
    failure,
    is_unknown,
    place,
    refusal,
    refuse_open_token,
)

API_VERSION: Final = "kumomori/v1"
MOST_BYTES: Final = 512 << 10  # of one document; the console's own bound
_TRIES: Final = 10
_MOST_WAIT_SECONDS: Final = 5.0
# Beside a document that inherits it is always refused, so that the console judges each by itself, not whether its parent is there
_STUB: Final = "pulumi/above.yaml"
_one_at_a_time: Final = threading.Lock()  # Pulumi makes resources in parallel; those of one process need not collide
Documents = dict[str, str]
Json = Mapping[str, Any]


class DocumentProvider(ConsoleProvider):
    """Keeps one document. Inputs: `document` (its name, which is also the id), `name`, `parent`, `text`, `mark` (its last line).

    `as_is`: the text is that of a file, and what it inherits from is not known.
    """

    def check(self, _olds: Json, news: Json) -> CheckResult:
        """In previews, too. What depends on other documents is seen when it is applied: they may not be there yet."""
        given = dict(news)
        text = given.get("text")
        if is_unknown(text) or is_unknown(given.get("parent")):
            return CheckResult(given, [])
        if not isinstance(text, str) or len(text.encode("utf-8", "surrogatepass")) > MOST_BYTES:
            return CheckResult(given, [failure("text", f"must be a text of at most {MOST_BYTES:,} bytes")])
        documents = {given["document"]: text}
        if given.get("parent") or given.get("as_is"):
            documents[_STUB] = "kind: none"
        with self.console() as console:
            try:
                problems = console.dry_run(PolicySet(documents=documents)).problems
            except Refused as error:
                problems = error.problems
                if not problems:
                    return CheckResult(given, [failure("text", printable(str(error))[:1000])])
        mine = [one for one in problems if one.document == given["document"]]
        said = [place(one.document, one.line, one.column, one.problem) for one in mine[:20]]
        return CheckResult(given, [failure("text", words) for words in said])

    def diff(self, id_: str, olds: Json, news: Json) -> DiffResult:
        """Compares with what the console holds, not with what was written once: a change by hand is a difference."""
        replaces = [] if news.get("document") == id_ else ["document"]
        if replaces or is_unknown(dict(news)):
            return DiffResult(changes=True, replaces=replaces, delete_before_replace=True)
        with self.console() as console:
            held = holding(console)[1].get(id_)
        same = held == news["text"] and all(olds.get(name) == news.get(name) for name in ("name", "text"))
        return DiffResult(changes=not same, replaces=[], delete_before_replace=True)

    def create(self, props: Json) -> CreateResult:
        name, text = props["document"], props["text"]

        def put(documents: Documents) -> None:
            there = documents.get(name)
            if there is not None and there.rstrip("\n").rpartition("\n")[2] != props["mark"]:
                raise ConfigError(
                    f"{name}: such a document is there already, and is of another resource; give this one another name"
                )
            documents[name] = text

        self._change(put, f"{_said(props)} made")
        return CreateResult(name, _kept(props))

    def update(self, id_: str, _olds: Json, news: Json) -> UpdateResult:
        def put(documents: Documents) -> None:
            documents[id_] = news["text"]

        self._change(put, f"{_said(news)} changed")
        return UpdateResult(_kept(news))

    def read(self, id_: str, props: Json) -> ReadResult:
        """What the console holds now becomes inputs, too: a preview after it shows what was changed by hand, line by line."""
        with self.console() as console:
            held = holding(console)[1].get(id_)
        if held is None:
            return ReadResult("", {}, {})
        found = {**_kept(props), "document": id_, "text": held}
        return ReadResult(id_, found, dict(found))

    def delete(self, id_: str, props: Json) -> None:
        def take(documents: Documents) -> None:
            documents.pop(id_, None)

        self._change(take, f"{_said(props)} removed")

    def _change(self, change: Callable[[Documents], None], message: str) -> None:
        with self.console() as console, _one_at_a_time:
            changed(console, change, message)


def _kept(props: Json) -> dict[str, Any]:
    return {
        key: value for key, value in props.items() if key in {"document", "name", "parent", "text", "mark", "as_is"}
    }


def _said(props: Json) -> str:
    return str(props["mark"]).removeprefix("# ").partition(";")[0]


def holding(console: Console) -> tuple[PolicyVersion | None, Documents]:
    """What holds now; None if nothing was ever applied. Raises `CloudError` for an answer that leaves the documents out."""
    try:
        found = console.policies()
    except Gone:
        return None, {}
    if found.documents is None:  # whoever takes that for none applies one document in place of all that hold
        raise CloudError(f"{console.url}: does not say which policies hold")
    return found, dict(found.documents)


def changed(console: Console, change: Callable[[Documents], None], message: str) -> None:
    """Apply the set that holds as `change` leaves it. Tries again, a bounded number of times, if somebody else applied meanwhile.

    Raises `ConfigError` with the problems if the console refuses it, `Conflict` if others apply all the time, and what
    `client.api` raises.
    """
    for number in range(_TRIES):
        version, documents = holding(console)
        wanted = dict(documents)
        change(wanted)
        if wanted == documents:
            return
        if len(wanted) > MOST_DOCUMENTS:
            raise LimitExceeded(
                f"the console takes at most {MOST_DOCUMENTS:,} documents; write several policies into one"
            )
        try:
            console.apply_policies(
                PolicySet(documents=wanted, message=message[:1_000]), etag=version.etag if version else None
            )
        except Refused as error:
            raise refusal(error, wanted) from None
        except Conflict:
            wait_seconds = 0.05 * 2**number
        except Throttled as error:
            wait_seconds = error.after
        else:
            return
        time.sleep(min(wait_seconds, _MOST_WAIT_SECONDS) * random.uniform(0.5, 1.0))
    raise Conflict(f"others applied policies {_TRIES} times meanwhile, so nothing was changed; run it again")


def document(kind: str, metadata: Json, rest: Json) -> str:
    """JSON, which every reader of the policies understands, with one value in a line so that places mean something."""
    head = {"apiVersion": API_VERSION, "kind": kind, "metadata": _without_none(metadata)}
    return json.dumps({**head, **_without_none(rest)}, indent=2, ensure_ascii=True) + "\n"


def _without_none(value: Any) -> Any:
    """Plain JSON. Numbers that came through Pulumi are fractions, also where they are whole."""
    if isinstance(value, Mapping):
        return {str(name): _without_none(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_without_none(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class DocumentResource(Resource, module="kumomori", name="Document"):
    """A document of the console's policies."""

    name: pulumi.Output[str]
    document: pulumi.Output[str]
    text: pulumi.Output[str]

    def _make(
        self,
        resource_name: str,
        name: pulumi.Input[str],
        parent: pulumi.Input[str] | DocumentResource | None,
        text: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None,
        *,
        as_is: bool = False,
    ) -> None:
        refuse_open_token()
        kept_as = document_name(resource_name)
        owner = f"{pulumi.get_project()}/{pulumi.get_stack()}"
        whose = f"{type(self).__name__} {resource_name}{_part_of(opts)}"
        mark = f"# Pulumi {owner}: {whose}; what is changed here by hand is changed back"
        props = {
            "document": kept_as,
            "name": name,
            "parent": above(parent),
            "text": pulumi.Output.from_input(text).apply(lambda found: f"{found.rstrip()}\n{mark}\n"),
            "mark": mark,
            "as_is": as_is,
        }
        super().__init__(DocumentProvider(), resource_name, props, opts)


def _part_of(opts: pulumi.ResourceOptions | None) -> str:
    """Of which kind of component: two kinds may each have a resource of one name, which are two to Pulumi, but one document."""
    if opts is None or opts.parent is None:
        return ""
    return f", part of {printable(opts.parent.pulumi_resource_type)[:100]}"


def above(parent: pulumi.Input[str] | DocumentResource | None) -> pulumi.Input[str]:
    """Its name. Of a resource as an output, so that it is made before this one, and removed after it."""
    if isinstance(parent, DocumentResource):
        return parent.name
    return "" if parent is None else parent


def written(kind: str, metadata: Json, rest: Json) -> pulumi.Output[str]:
    """The text of a document whose values may be outputs."""
    given: pulumi.Output[Any] = pulumi.Output.from_input([dict(metadata), dict(rest)])
    return given.apply(lambda found: document(kind, *found))


class Policy(DocumentResource, module="kumomori", name="Policy"):
    """A policy (docs/policy.md). `parent`: the policy that it inherits from; give the resource, so that it is made first.

    `settings`, `selector`, `lock` and `may_select` are those of the document; values may be outputs. `name`: what other documents
    call it, if not as this resource. Instead of all of these `text` takes one or more documents as they stand in a file.
    """

    def __init__(
        self,
        resource_name: str,
        *,
        settings: pulumi.Input[Json] | None = None,
        parent: pulumi.Input[str] | DocumentResource | None = None,
        selector: pulumi.Input[Json] | None = None,
        may_select: pulumi.Input[Sequence[str]] | None = None,
        lock: pulumi.Input[Sequence[str]] | None = None,
        description: pulumi.Input[str] | None = None,
        name: pulumi.Input[str] | None = None,
        text: pulumi.Input[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        called = resource_name if name is None else name
        said = {"selector": selector, "may_select": may_select, "settings": settings, "lock": lock}
        if text is not None:
            if any(one is not None for one in (*said.values(), description)):
                raise ConfigError(f"{resource_name}: give a text, or what would stand in it, not both")
            self._make(resource_name, called, parent, text, opts, as_is=True)
            return
        metadata = {"name": called, "parent": None if parent is None else above(parent), "description": description}
        self._make(resource_name, called, parent, written("Policy", metadata, said), opts)
