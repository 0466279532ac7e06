"""What is wrong, and who decided to live with it."""

from __future__ import annotations

from typing import Literal

from client.model import PAGE, AcceptIn, FindingOut, Findings, FindingState, Scope
from console.api.params import After, FindingId, KeyQuery, Limit, OptionalKey
from console.api.routes import needs, router
from console.clock import now
from console.context import TheCaller, TheConsole
from console.store import findings
from core.findings import Severity

api = router("findings")


@api.get("/v1/findings", **needs(Scope.READ))
def list_findings(
    console: TheConsole,
    after: After = "",
    state: FindingState | Literal["all"] = FindingState.OPEN,
    severity: Severity | None = None,
    instance: OptionalKey = "",
    limit: Limit = PAGE,
) -> Findings:
    """Worst first."""
    only = None if state == "all" else FindingState(state)
    with console.database.read() as connection:
        return findings.listed(connection, after=after, state=only, severity=severity, instance=instance, limit=limit)


@api.post("/v1/findings/accept", **needs(Scope.TRIAGE, 404, 409, 413))
def accept_finding(
    wanted: AcceptIn,
    instance: KeyQuery,
    id: FindingId,  # noqa: A002  its name in the address
    console: TheConsole,
    caller: TheCaller,
) -> FindingOut:
    """It stays accepted until then, whichever scan sees it, or until it is fixed."""
    with console.database.write() as connection:
        return findings.accept(connection, instance, id, wanted, caller.name, now())


@api.post("/v1/findings/reopen", **needs(Scope.TRIAGE, 404, 409))
def reopen_finding(
    instance: KeyQuery,
    id: FindingId,  # noqa: A002  its name in the address
    console: TheConsole,
    caller: TheCaller,
) -> FindingOut:
    with console.database.write() as connection:
        return findings.reopen(connection, instance, id, caller.name, now())
