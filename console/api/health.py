"""Whether the console works, and its figures."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import sqlalchemy as sa
from fastapi import Request, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from client.model import Health, Scope
from console.api.routes import needs, router
from console.context import TheConsole
from console.store import figures

api = router("health")


@api.get("/health", **needs(None))
def get_health(console: TheConsole, response: Response) -> Health:
    """`degraded` while something does not work; with status 503 while the database cannot be reached."""
    problems = tuple(dict(console.problems).values())
    try:
        with console.database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError:
        problems = ("the database cannot be reached or is busy",)
        response.status_code = 503
    return Health(status="degraded" if problems else "ok", version=version("kumomori"), problems=problems)


@api.get("/metrics", response_class=Response, **needs(Scope.READ))
def get_metrics(console: TheConsole) -> Response:
    """For Prometheus."""
    with console.database.read() as connection:
        estate = figures.of(connection)
    return Response(generate_latest(estate) + generate_latest(console.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@api.get("/v1/openapi.json", **needs(Scope.READ))
def get_openapi(request: Request) -> dict[str, Any]:
    """This API's own description."""
    document: dict[str, Any] = request.app.openapi()
    return document
