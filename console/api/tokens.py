"""Who may do what."""

from __future__ import annotations

from client.model import NewToken, Scope, TokenIn, TokenOut
from console.api.params import NameInPath
from console.api.routes import needs, router
from console.context import TheCaller, TheConsole
from console.store import tokens

api = router("tokens")


@api.get("/v1/tokens", **needs(Scope.ADMIN))
def list_tokens(console: TheConsole) -> list[TokenOut]:
    with console.database.read() as connection:
        return list(tokens.everything(connection))


@api.post("/v1/tokens", status_code=201, **needs(Scope.ADMIN, 409, 413))
def create_token(wanted: TokenIn, console: TheConsole, caller: TheCaller) -> NewToken:
    """The secret in the answer is shown this once."""
    with console.database.write() as connection:
        return tokens.make(connection, wanted, caller.name)


@api.delete("/v1/tokens/{name}", status_code=204, **needs(Scope.ADMIN, 404, 409))
def delete_token(name: NameInPath, console: TheConsole, caller: TheCaller) -> None:
    """It is refused from the next request on."""
    with console.database.write() as connection:
        tokens.delete(connection, name, caller.name)
