"""The policies that hold: versions in the database, read into a tree once, and what they say of an instance."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import DryRun, PolicyChange, PolicyProblem, PolicySet, PolicyVersion
from console.clock import now as clock
from console.context import Settled
from console.planner import Rules
from console.problems import Refused
from console.store import tables
from console.store.database import Database
from console.store.estate import INSTANCE
from console.store.events import record
from core.errors import ConfigError
from core.estate import Instance
from core.text import printable
from policy import checks
from policy.compare import compare, survey
from policy.document import Problem
from policy.document import Refused as PoliciesRefused
from policy.explain import as_json
from policy.resolve import Resolver, Unresolved
from policy.settings import DEFAULTS
from policy.tree import Tree, load_texts, plant

NONE_YET: Final = "no policy holds: none was applied yet"
MOST_PROBLEMS: Final = 1_000
MOST_CHANGES: Final = 1_000
MOST_NAMED: Final = 20
_PAGE: Final = 5_000
_NOTHING: Final = plant(())


@dataclass(slots=True)
class Resolution:
    """One version of the policies over a time in which no profile begins or ends."""

    version: int
    tree: Tree
    resolver: Resolver
    changes: datetime | None  # until then
    _rules: dict[int, Rules] = field(default_factory=dict)

    @classmethod
    def at(cls, version: int, tree: Tree, now: datetime) -> Resolution:
        moments = [
            moment
            for rule in tree.profiles()
            for moment in (
                checks.start_of(rule.model.since) if rule.model.since is not None else None,
                checks.end_of(rule.model.until) if rule.model.until != checks.NEVER else None,
            )
            if moment is not None and moment > now
        ]
        return cls(version, tree, Resolver(tree, now), min(moments, default=None))

    def holds_at(self, now: datetime) -> bool:
        return now >= self.resolver.now and (self.changes is None or now < self.changes)

    def rules(self, instance: Instance) -> Rules:
        if not self.version:
            return Rules(problem=NONE_YET)
        found = self.resolver.resolve(instance)
        if isinstance(found, Unresolved):
            return Rules(problem=found.reason, changes=self.changes)
        rules = self._rules.get(id(found))  # the resolver keeps what it found, so the number stays its own
        if rules is None:
            settings = {name: one.value for name, one in found.values.items()}
            rules = self._rules[id(found)] = Rules(found.policy, settings, changes=self.changes)
        return rules


class StoredPolicies:
    """`console.context.Policies` over the database. Used by all threads; what a version says is read once."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._current: Resolution | None = None

    def version(self, connection: Connection) -> int:
        return int(connection.execute(sa.select(sa.func.max(tables.policy_version.c.version))).scalar() or 0)

    def current(self, connection: Connection, now: datetime) -> Resolution:
        """Raises `ConfigError` if what holds cannot be read: it was applied by another version of Kumomori."""
        version = self.version(connection)
        with self._lock:
            known = self._current
            if known is not None and known.version == version and known.holds_at(now):
                return known
            tree = known.tree if known is not None and known.version == version else _tree_of(connection, version)
            self._current = Resolution.at(version, tree, now)
            return self._current

    def settle(self, connection: Connection, instances: Sequence[Instance]) -> Sequence[Settled]:
        """Raises `Refused` (409) if the policies that hold cannot be read."""
        try:
            resolution = self.current(connection, clock())
        except ConfigError as error:
            raise Refused(409, str(error)) from None
        with self._lock:
            return [_settled(resolution, one) for one in instances]


def _settled(resolution: Resolution, instance: Instance) -> Settled:
    if not resolution.version:  # who asks for a scan gets one, as the built-in defaults say
        return Settled(settings=DEFAULTS)
    rules = resolution.rules(instance)
    if not rules.policy:
        return Settled(unprotected=printable(rules.problem))
    unprotected = ""
    if rules.settings.get("protection.mode") == "none":
        unprotected = f"not protected: {printable(str(rules.settings.get('protection.why')))}"
    elif instance.excluded:
        unprotected = f"left out by {printable(instance.excluded)}"
    return Settled(rules.policy, rules.settings, unprotected[:1_000])


def _tree_of(connection: Connection, version: int) -> Tree:
    documents = documents_of(connection, version)
    try:
        return load_texts(documents) if documents else _NOTHING
    except ConfigError as error:
        raise ConfigError(f"version {version} of the policies cannot be read any more: {error}") from None


def documents_of(connection: Connection, version: int) -> dict[str, str]:
    """Text by name; empty if there is no such version."""
    table = tables.policy_version
    content = connection.execute(sa.select(table.c.documents).where(table.c.version == version)).scalar()
    if content is None:
        return {}
    found: dict[str, str] = json.loads(gzip.decompress(content))
    return found


def newest(connection: Connection) -> PolicyVersion | None:
    """What holds now, with its documents; None if nothing was applied yet."""
    found = listed(connection, limit=1)
    if not found:
        return None
    return found[0].model_copy(update={"documents": documents_of(connection, found[0].version)})


def numbered(connection: Connection, version: int) -> PolicyVersion | None:
    """That version with its documents; None if there is none."""
    found = listed(connection, 1, tables.policy_version.c.version == version)
    return found[0].model_copy(update={"documents": documents_of(connection, version)}) if found else None


def listed(connection: Connection, limit: int = 1_000, *where: sa.ColumnElement[bool]) -> list[PolicyVersion]:
    """Newest first, without their documents."""
    table = tables.policy_version
    names = (table.c.version, table.c.etag, table.c.who, table.c.when, table.c.message)
    rows = connection.execute(sa.select(*names).where(*where).order_by(table.c.version.desc()).limit(limit))
    return [PolicyVersion(**row._mapping) for row in rows]  # noqa: SLF001  SQLAlchemy's public name for it


@dataclass(frozen=True, slots=True)
class Condition:
    """`If-Match` and `If-None-Match` of RFC 9110, 13.1; empty where a header was not sent."""

    match: str = ""
    none_match: str = ""

    def check(self, etag: str | None) -> None:
        """`etag` is that of what holds now. Raises `Refused` (412)."""
        if not self.match and not self.none_match:
            raise Refused(412, "say what it replaces: If-Match with its ETag, or If-None-Match: * for the first")
        if self.none_match and (self.none_match.strip() != "*" or etag is not None):
            raise Refused(412, "policies were applied already: say which by If-Match")
        if self.match and (etag is None or (self.match.strip() != "*" and etag not in _tags(self.match))):
            raise Refused(412, "other policies hold by now: look at them, then apply again")


def _tags(header: str) -> set[str]:
    """Strong comparison: a weak tag fits nothing."""
    parts = (part.strip() for part in header.split(","))
    return {part[1:-1] for part in parts if len(part) >= 2 and part[0] == part[-1] == '"'}


def apply(database: Database, wanted: PolicySet, condition: Condition, who: str, now: datetime) -> PolicyVersion:
    """All documents become the next version, or nothing does. What is the same as what holds makes no new version.

    Raises `Refused`: 412 if other policies hold than the caller thinks, 422 with all problems.
    """
    with database.read() as connection:
        condition.check(_etag(connection))
    if not wanted.documents and condition.match.strip() in {"", "*"}:
        raise Refused(422, "there is no policy in it; to take back all, say which by If-Match with their ETag")
    tree = planted(wanted)
    with database.read() as connection:
        estate = list(open_instances(connection))
    if estate and (problems := survey(tree, estate, now).problems):
        raise refusal(problems)
    text = json.dumps(wanted.documents, sort_keys=True)
    content = gzip.compress(text.encode(), 6, mtime=0)
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    try:
        with database.write() as connection:
            now_holds = listed(connection, limit=1)
            condition.check(now_holds[0].etag if now_holds else None)
            if now_holds and now_holds[0].etag.endswith(f"-{digest}"):
                return now_holds[0]
            version = now_holds[0].version + 1 if now_holds else 1
            made = PolicyVersion(version=version, etag=f"{version}-{digest}", who=who, when=now, message=wanted.message)
            row = made.model_dump(exclude={"documents"})
            connection.execute(tables.policy_version.insert().values(documents=content, **row))
            record(connection, now, who, "policy.applied", str(version), documents=len(wanted.documents))
            return made
    except sa.exc.IntegrityError:  # PostgreSQL: another was applied between our look and our writing
        raise Refused(412, "other policies hold by now: look at them, then apply again") from None


def _etag(connection: Connection) -> str | None:
    table = tables.policy_version
    return connection.execute(sa.select(table.c.etag).order_by(table.c.version.desc()).limit(1)).scalar()


def planted(wanted: PolicySet) -> Tree:
    """Raises `Refused` (422) with all problems."""
    try:
        return _loaded(wanted)
    except PoliciesRefused as error:
        raise refusal(error.problems) from None
    except ConfigError as error:
        raise Refused(422, str(error)) from None


def _loaded(wanted: PolicySet) -> Tree:
    if not wanted.documents:  # the last of them was taken back: no policy holds, and no instance is protected
        return _NOTHING
    tree = load_texts(wanted.documents)
    if not tree.branches:
        raise ConfigError("there is no policy in it; to protect nothing, say `protection.mode: none` and why")
    return tree


def refusal(problems: Sequence[Problem]) -> Refused:
    shown = _shown(problems)
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    return Refused(422, f"the policies are refused: {problems[0]}{more}", problems=shown)


def _shown(problems: Sequence[Problem]) -> tuple[PolicyProblem, ...]:
    return tuple(
        PolicyProblem(
            document=printable(one.at.document), line=one.at.line, column=one.at.column, problem=printable(one.text)
        )
        for one in problems[:MOST_PROBLEMS]
    )


def open_instances(connection: Connection) -> Iterator[Instance]:
    """All that were not closed, by key; read in pages so that no transaction holds all rows."""
    table, after = tables.instance, ""
    while True:
        rows = connection.execute(
            sa.select(table.c.key, table.c.document)
            .where(table.c.closed.is_(None), table.c.key > after)
            .order_by(table.c.key)
            .limit(_PAGE)
        ).all()
        for row in rows:
            yield INSTANCE.validate_python(row.document)
        if len(rows) < _PAGE:
            return
        after = rows[-1].key


def dry_run(database: Database, wanted: PolicySet, policies: StoredPolicies, now: datetime) -> DryRun:
    """What applying `wanted` would say and change, over the estate as it is."""
    try:
        new = _loaded(wanted)
    except PoliciesRefused as error:
        return DryRun(problems=_shown(error.problems))
    except ConfigError as error:
        raise Refused(422, str(error)) from None
    with database.read() as connection:
        estate = list(open_instances(connection))
        old = policies.current(connection, now).tree
    if not estate:
        return DryRun(notes=("there are no instances yet: whom the policies select cannot be said",))
    report = survey(new, estate, now)
    changes = compare(old, new, estate, now)
    notes = [printable(note)[:2_000] for note in report.notes[:MOST_PROBLEMS]]
    if len(changes) > MOST_CHANGES:
        notes.append(f"{len(changes):,} changes: the first {MOST_CHANGES:,} are shown")
    return DryRun(
        problems=_shown(report.problems),
        notes=tuple(notes),
        changes=tuple(
            PolicyChange(
                setting=one.setting,
                old=one.old,
                new=one.new,
                instances=one.instances[:MOST_NAMED],
                count=len(one.instances),
            )
            for one in changes[:MOST_CHANGES]
        ),
    )


def effective(connection: Connection, policies: StoredPolicies, key: str, now: datetime) -> dict[str, Any]:
    """Every setting that holds for the instance `key`, and why. Raises `Refused` (404)."""
    table = tables.instance
    document = connection.execute(sa.select(table.c.document).where(table.c.key == key)).scalar()
    if document is None:
        raise Refused(404, "no such instance is known")
    resolution = policies.current(connection, now)
    if not resolution.version:
        return {"instance": key, "version": 0, "policy": None, "reason": NONE_YET, "policies": []}
    found = resolution.resolver.resolve(INSTANCE.validate_python(document))
    return {"version": resolution.version, **as_json(key, found)}
