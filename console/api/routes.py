"""Routes that know which scope they need, and look at the token before they read a body."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable
from contextlib import nullcontext
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from client.model import Problem, Scope
from console.context import Console
from console.problems import STATUSES, Refused
from console.store import tokens

SCOPE: Final = "x-scope"
NOBODY: Final = "none"  # the scope of a route that needs no token
MOST_BODY: Final = "x-most-body-bytes"
MOST_BODY_BYTES: Final = 1 << 20  # where a route does not say more
_BODY_SECONDS: Final = 30.0  # for a body, and a second more for each …
_BODY_BYTES_PER_SECOND: Final = 64 << 10
SECURITY: Final = "token"  # the name of the scheme in the OpenAPI document
_COMMON: Final = (401, 403, 422, 429, 503)


def needs(scope: Scope | None, *refusals: int, most_body_bytes: int = MOST_BODY_BYTES) -> dict[str, Any]:
    """What a route says of itself: its scope (None: no token needed), and the statuses it refuses with beside the usual ones."""
    statuses = sorted({*refusals, *_COMMON} if scope else {*refusals, 422, 503})
    extra: dict[str, Any] = {SCOPE: scope.value if scope else NOBODY, MOST_BODY: most_body_bytes}
    extra["security"] = [{SECURITY: []}] if scope else []
    return {
        "openapi_extra": extra,
        "responses": {status: {"model": Problem, "description": STATUSES[status]} for status in statuses},
    }


class Guarded(APIRoute):
    """A route made without `needs` is a mistake of ours: the application does not start."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        extra = settings.get("openapi_extra") or {}
        if SCOPE not in extra:
            raise TypeError(f"the route {path} does not say which scope it needs")
        if not settings.get("include_in_schema", True):
            raise TypeError(f"the route {path} would be hidden")
        settings["operation_id"] = settings.get("operation_id") or endpoint.__name__
        super().__init__(path, endpoint, **settings)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        extra = self.openapi_extra or {}
        scope = None if extra[SCOPE] == NOBODY else Scope(extra[SCOPE])
        most = int(extra[MOST_BODY])

        async def guarded(request: Request) -> Response:
            if scope is not None:
                request.state.caller = await authenticate(request, scope)
            console: Console = request.app.state.console
            async with console.uploads if most > MOST_BODY_BYTES and not _is_small(request) else nullcontext():
                return await handler(Request(request.scope, _limited(request, most)))

        return guarded


def _is_small(request: Request) -> bool:
    said = request.headers.get("content-length", "")
    return said.isdecimal() and int(said[:30]) <= MOST_BODY_BYTES


def _limited(request: Request, most: int) -> Receive:
    """Bodies are read up to `most` bytes, whatever they say of their length, and not from who only drips: few large ones are read at once."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:30]) > most:
        raise HTTPException(413)
    receive = request.receive
    left = most
    loop = asyncio.get_running_loop()
    ends = loop.time() + _BODY_SECONDS
    whole = False

    async def limited() -> Message:
        nonlocal left, ends, whole
        if whole:  # what comes now is that the client has left
            return await receive()
        try:
            async with asyncio.timeout_at(ends):
                message = await receive()
        except TimeoutError:
            raise HTTPException(503, "the body came too slowly", _retry(_BODY_SECONDS)) from None
        whole = not message.get("more_body", False)
        ends += len(message.get("body", b"")) / _BODY_BYTES_PER_SECOND
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413)
        return message

    return limited


def router(tag: str) -> APIRouter:
    return APIRouter(route_class=Guarded, tags=[tag])


async def authenticate(request: Request, scope: Scope) -> tokens.Caller:
    """Who calls. Raises `Refused`: 401 without a good token, 403 without the scope or for another fleet, 429 after many wrong ones."""
    console: Console = request.app.state.console
    secret = _bearer(request)
    address = request.client.host if request.client else ""
    digest = tokens.hashed(secret)
    if (seconds := console.guesses.wait_seconds(address, digest)) > 0:
        raise Refused(429, "too many wrong tokens came from this address", headers=_retry(seconds))
    caller = await run_in_threadpool(_find, console, secret)
    if caller is None:
        console.guesses.wrong(address, digest)
        raise _unauthorized("the token is not known, or has expired")
    console.guesses.right(digest)
    request.state.caller = caller
    if not caller.may(scope):
        raise Refused(403, f"this needs a token with scope {scope.value}")
    fleet = request.path_params.get("fleet")
    if scope is Scope.FLEET and not caller.may_be(str(fleet)):
        raise Refused(403, "the token is another fleet's")
    return caller


def _bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise _unauthorized("a token is needed: Authorization: Bearer …")
    return secret.strip()


def _unauthorized(message: str) -> Refused:
    return Refused(401, message, headers={"WWW-Authenticate": "Bearer"})


def _retry(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _find(console: Console, secret: str) -> tokens.Caller | None:
    if not tokens.plausible(secret):
        return None
    with console.database.read() as connection:
        caller = tokens.find(connection, secret)
        marking = caller is not None and tokens.wants_marking(connection, secret)
    if caller is not None and marking:
        with console.database.write() as connection:
            tokens.mark_used(connection, caller.name)
    return caller


def ring(console: Console, fleets: Iterable[str] = (), *, plan: bool = False) -> None:
    """Wake who waits for orders of `fleets`, and the planner; after the transaction, never before."""
    for fleet in fleets:
        console.wake.ring(f"orders/{fleet}")
    if plan:
        console.wake.ring("plan")
