"""Every error becomes a `Problem`; what went wrong inside stands in the log, not in the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from client.model import PolicyProblem, Problem
from console.problems import Refused
from core.text import printable

_MOST_CHARACTERS: Final = 2_000
_AGAIN_SECONDS: Final = "5"
_WORDS: Final = {404: "there is no such page", 405: "this page does not take that method", 413: "the body is too large"}


def problem(
    status: int, message: str, problems: tuple[PolicyProblem, ...] = (), headers: Mapping[str, str] | None = None
) -> Response:
    body = Problem(error=printable(message)[:_MOST_CHARACTERS], problems=problems)
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


def unavailable() -> Response:
    return problem(503, "the database cannot be reached or is busy", headers={"Retry-After": _AGAIN_SECONDS})


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    # An IntegrityError is of somebody who wrote the same at the same time: the next try sees what is there.
    for away in (
        sa.exc.OperationalError,
        sa.exc.InterfaceError,
        sa.exc.InternalError,
        sa.exc.IntegrityError,
        sa.exc.TimeoutError,
    ):
        app.add_exception_handler(away, _away)
    app.add_exception_handler(sa.exc.DataError, _data)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, str(error), error.problems, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    said = [f"{_where(one)}: {one.get('msg', '')}" for one in errors[:5]]
    if len(errors) > len(said):
        said.append(f"and {len(errors) - len(said)} more")
    return problem(422, "; ".join(said))


def _where(error: Any) -> str:
    return ".".join(str(part)[:100] for part in error.get("loc", ())[:10])


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # which the framework says of a body that it cannot read
        return problem(422, "body: it is not JSON")
    return problem(error.status_code, _WORDS.get(error.status_code, str(error.detail)), headers=error.headers)


async def _away(request: Request, error: Exception) -> Response:
    request.state.trouble = type(error).__name__
    return unavailable()


async def _data(request: Request, error: Exception) -> Response:
    request.state.trouble = type(error).__name__
    return problem(422, "a text or number is not one that can be kept")
