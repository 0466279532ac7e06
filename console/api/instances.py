"""The machines."""

from __future__ import annotations

from client.model import PAGE, InstanceOut, Instances, Scope
from console.api.params import After, KeyQuery, Limit, Text
from console.api.routes import needs, router
from console.context import TheConsole
from console.store import instances

api = router("instances")


@api.get("/v1/instances", **needs(Scope.READ))
def list_instances(
    console: TheConsole, after: After = "", state: instances.State = "open", text: Text = "", limit: Limit = PAGE
) -> Instances:
    with console.database.read() as connection:
        return instances.listed(connection, after=after, state=state, text=text, limit=limit)


@api.get("/v1/instance", **needs(Scope.READ, 404))
def get_instance(console: TheConsole, key: KeyQuery) -> InstanceOut:
    with console.database.read() as connection:
        return instances.get(connection, key)
