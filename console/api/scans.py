"""Scans: asked for by hand, followed, and read."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from client.model import PAGE, ScanIn, ScanOut, Scans, ScanState, Scope
from console.api.params import After, Limit, OptionalKey, ScanInPath
from console.api.routes import needs, ring, router
from console.clock import now
from console.context import Console, TheCaller, TheConsole
from console.report import unpacked
from console.store import scans
from console.store.orders import Telling
from console.store.tokens import Caller

api = router("scans")


@api.get("/v1/scans", **needs(Scope.READ))
def list_scans(
    console: TheConsole,
    after: After = "",
    state: ScanState | None = None,
    machine: OptionalKey = "",
    limit: Limit = PAGE,
) -> Scans:
    """Newest first."""
    with console.database.read() as connection:
        return scans.listed(connection, after=after, state=state, machine=machine, limit=limit)


@api.post("/v1/scans", **needs(Scope.SCAN, 404, 409, 413))
def start_scans(wanted: ScanIn, console: TheConsole, caller: TheCaller) -> Scans:
    """One that was asked for before and has not ended is given instead of another one."""
    with console.database.write() as connection:
        started, told = scans.start(connection, wanted, console.policies, caller.name, now())
    ring(console, told)
    return Scans(items=tuple(started))


@api.get("/v1/scans/{id}", **needs(Scope.READ, 404))
def get_scan(id: ScanInPath, console: TheConsole) -> ScanOut:  # noqa: A002  its name in the address
    with console.database.read() as connection:
        return scans.get(connection, id)


@api.get("/v1/scans/{id}/report", response_class=Response, **needs(Scope.READ, 404))
def get_report(id: ScanInPath, request: Request, console: TheConsole) -> Response:  # noqa: A002  its name in the address
    """JSON as `docs/report.schema.json` says, byte for byte as the fleet sent it."""
    with console.database.read() as connection:
        content = scans.report(connection, id)
    headers = {"Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(content, media_type="application/json", headers=headers)
    return StreamingResponse(unpacked(content), media_type="application/json", headers=headers)


@api.post("/v1/scans/{id}/stop", **needs(Scope.SCAN, 404, 409))
def stop_scan(id: ScanInPath, console: TheConsole, caller: TheCaller) -> ScanOut:  # noqa: A002  its name in the address
    """One that no fleet has fetched ends at once."""
    return _tell(console, caller, id, "stop")


@api.post("/v1/scans/{id}/pause", **needs(Scope.SCAN, 404, 409))
def pause_scan(id: ScanInPath, console: TheConsole, caller: TheCaller) -> ScanOut:  # noqa: A002  its name in the address
    return _tell(console, caller, id, "pause")


@api.post("/v1/scans/{id}/resume", **needs(Scope.SCAN, 404, 409))
def resume_scan(id: ScanInPath, console: TheConsole, caller: TheCaller) -> ScanOut:  # noqa: A002  its name in the address
    return _tell(console, caller, id, "resume")


def _tell(console: Console, caller: Caller, scan: str, kind: Telling) -> ScanOut:
    with console.database.write() as connection:
        answer, told = scans.tell(connection, scan, kind, caller.name, now())
    ring(console, told)
    return answer
