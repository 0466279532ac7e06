"""What could not be looked at."""

from __future__ import annotations

from client.model import PAGE, GapsPage, Scope
from console.api.params import After, Limit, OptionalKey
from console.api.routes import needs, router
from console.context import TheConsole
from console.store import findings

api = router("gaps")


@api.get("/v1/gaps", **needs(Scope.READ))
def list_gaps(console: TheConsole, after: After = "", instance: OptionalKey = "", limit: Limit = PAGE) -> GapsPage:
    """Of the last scan of each machine."""
    with console.database.read() as connection:
        return findings.gaps(connection, after=after, instance=instance, limit=limit)
