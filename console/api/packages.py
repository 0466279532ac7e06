"""Which machines have a package installed."""

from __future__ import annotations

from client.model import PAGE, PackageHolders, Scope
from console.api.params import After, KeyQuery, Limit, Text
from console.api.routes import needs, router
from console.context import TheConsole
from console.store import packages

api = router("packages")


@api.get("/v1/packages", **needs(Scope.READ))
def find_package(
    console: TheConsole, name: KeyQuery, version: Text = "", after: After = "", limit: Limit = PAGE
) -> PackageHolders:
    with console.database.read() as connection:
        return packages.holders(connection, name, version, after=after, limit=limit)
