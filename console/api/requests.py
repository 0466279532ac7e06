"""Around every request: an id, a line in the log, a count; and no exception leaves."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from typing import Any, Final

import sqlalchemy as sa
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.api.errors import problem, unavailable
from console.context import Console

LOG: Final = logging.getLogger("kumomori.console")
_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_UNKNOWN: Final = "(none)"


class Requests:
    """ASGI middleware. A log line has no path, query, header or body: names of routes and tokens are enough, and no secret."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        started = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(request_id)]
            await send(message)

        scope.setdefault("state", {})
        trouble = ""
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # the border: a stack trace is for the log, not for the caller
            trouble = type(error).__name__
            LOG.exception(line("request_failed", request=request_id, error=trouble))
            if status == 0:
                away = isinstance(error, sa.exc.OperationalError | sa.exc.TimeoutError)
                answer = (
                    unavailable() if away else problem(500, f"an error of the console; its log says more: {request_id}")
                )
                await answer(scope, receive, sending)
        finally:
            self._told(scope, request_id, status, time.monotonic() - started, trouble)

    def _told(self, scope: Scope, request_id: str, status: int, seconds: float, trouble: str) -> None:
        route = scope.get("route")
        name = str(getattr(route, "path", _UNKNOWN)) if route is not None else _UNKNOWN
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._console.metrics.requests.labels(name, method, str(status)).inc()
        self._console.metrics.seconds.labels(name, method).observe(seconds)
        state = scope.get("state", {})
        caller = state.get("caller")
        LOG.info(
            line(
                "request",
                request=request_id,
                method=method,
                route=name,
                status=status,
                seconds=round(seconds, 4),
                token=caller.name if caller is not None else None,
                trouble=trouble or state.get("trouble"),
            )
        )


_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})


def line(event: str, **values: Any) -> str:
    """One line of the log: JSON, ASCII, without what is None."""
    return json.dumps({"event": event, **{name: value for name, value in values.items() if value is not None}})


def _request_id(scope: Scope) -> str:
    given = dict(scope.get("headers", ())).get(b"x-request-id", b"")
    return given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)


def _headers(request_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-request-id", request_id.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
