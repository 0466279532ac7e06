"""The accounts that fleets enter."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from client.model import AccountIn, AccountOut, Scope
from console.api.params import NameInPath, WordInPath
from console.api.routes import needs, ring, router
from console.clock import now
from console.context import TheCaller, TheConsole
from console.store import accounts

api = router("accounts")


@api.get("/v1/accounts", **needs(Scope.READ))
def list_accounts(console: TheConsole) -> list[AccountOut]:
    with console.database.read() as connection:
        return accounts.everything(connection)


@api.post("/v1/accounts", **needs(Scope.ADMIN, 409, 413))
def put_account(wanted: AccountIn, console: TheConsole, caller: TheCaller) -> AccountOut:
    """Posting the same cloud and account again changes it, if no other program manages it. Its fleet is told to list it."""
    with console.database.write() as connection:
        answer, told = accounts.put(connection, wanted, caller.name, now())
    ring(console, told, plan=True)
    return answer


@api.delete("/v1/accounts/{cloud}/{account}", status_code=204, **needs(Scope.ADMIN, 404))
def delete_account(
    cloud: NameInPath,
    account: WordInPath,
    console: TheConsole,
    caller: TheCaller,
    managed_by: Annotated[str, Query(max_length=500)] = "",
) -> None:
    """Its instances are closed and their scans stopped; findings stay. With `managed_by`, only if it is that program's."""
    with console.database.write() as connection:
        told = accounts.delete(connection, cloud, account, caller.name, now(), managed_by=managed_by)
    ring(console, told, plan=True)
