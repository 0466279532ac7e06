"""Policies: what holds, what held before, and applying others, all documents at once."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Header, Response

from client.model import DryRun, PolicySet, PolicyVersion, Scope
from console import policies
from console.api.params import KeyQuery, VersionInPath
from console.api.routes import needs, ring, router
from console.clock import now
from console.context import Console, TheCaller, TheConsole
from console.policies import Condition, StoredPolicies
from console.problems import Refused
from core.errors import ConfigError

api = router("policies")
_MOST_SET: Final = 32 << 20
_Condition = Annotated[str, Header(max_length=1_000)]


@api.get("/v1/policies", **needs(Scope.READ, 404))
def get_policies(console: TheConsole, response: Response) -> PolicyVersion:
    """What holds now, with its documents; 404 while nothing was ever applied."""
    with console.database.read() as connection:
        found = policies.newest(connection)
    if found is None:
        raise Refused(404, policies.NONE_YET)
    response.headers["ETag"] = f'"{found.etag}"'
    return found


@api.get("/v1/policies/versions", **needs(Scope.READ))
def list_policy_versions(console: TheConsole) -> list[PolicyVersion]:
    """Newest first, the last 1,000, without their documents."""
    with console.database.read() as connection:
        return policies.listed(connection)


@api.get("/v1/policies/versions/{version}", **needs(Scope.READ, 404))
def get_policy_version(version: VersionInPath, console: TheConsole) -> PolicyVersion:
    """With its documents, also of one that holds no longer."""
    with console.database.read() as connection:
        found = policies.numbered(connection, version)
    if found is None:
        raise Refused(404, "there is no such version of the policies")
    return found


@api.put("/v1/policies", **needs(Scope.POLICY, 412, 413, most_body_bytes=_MOST_SET))
def apply_policies(
    wanted: PolicySet,
    console: TheConsole,
    caller: TheCaller,
    response: Response,
    if_match: _Condition = "",
    if_none_match: _Condition = "",
) -> PolicyVersion:
    """All documents or none. The same documents again make no new version."""
    applied = policies.apply(console.database, wanted, Condition(if_match, if_none_match), caller.name, now())
    ring(console, plan=True)
    response.headers["ETag"] = f'"{applied.etag}"'
    return applied


@api.post("/v1/policies/dry-run", **needs(Scope.READ, 409, 413, most_body_bytes=_MOST_SET))
def dry_run_policies(wanted: PolicySet, console: TheConsole, caller: TheCaller) -> DryRun:
    """What applying them would say, and what would change for whom. Few at once, and one for each token: else 429."""
    try:
        with console.surveys.one(caller.name):
            return policies.dry_run(console.database, wanted, _stored(console), now())
    except ConfigError as error:
        raise Refused(409, str(error)) from None


@api.get("/v1/policies/effective", **needs(Scope.READ, 404, 409))
def get_effective(console: TheConsole, instance: KeyQuery) -> dict[str, Any]:
    """Every setting that holds for an instance, and which document, line and lock decided."""
    try:
        with console.database.read() as connection:
            return policies.effective(connection, _stored(console), instance, now())
    except ConfigError as error:
        raise Refused(409, str(error)) from None


def _stored(console: Console) -> StoredPolicies:
    if not isinstance(console.policies, StoredPolicies):
        raise Refused(404, "this console has no policies of its own")
    return console.policies
