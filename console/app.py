"""The console as an ASGI application: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

import anyio.to_thread
from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

from console.api import (
    accounts,
    files,
    findings,
    fleets,
    gaps,
    health,
    instances,
    packages,
    policies,
    scans,
    schedule,
    tasks,
    tokens,
)
from console.api.errors import add_handlers
from console.api.requests import Requests
from console.api.routes import SECURITY
from console.context import Console, Policies
from console.housekeeping import Housekeeping
from console.plan import Planning
from console.policies import StoredPolicies
from console.settings import Settings
from console.store.database import Database
from console.store.migrate import upgrade

# One module a subject. A new one is added here and nowhere else.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    health.api,
    tokens.api,
    accounts.api,
    instances.api,
    findings.api,
    gaps.api,
    scans.api,
    files.api,
    packages.api,
    fleets.api,
    policies.api,
    schedule.api,
    tasks.api,
)


def create_app(settings: Settings, policies: Policies | None = None) -> FastAPI:
    """Raises `ConfigError` for a database that cannot be; its tables are brought up to date when the application starts."""
    database = Database(settings.database.get_secret_value())
    console = Console(settings, database, policies or StoredPolicies())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        await run_in_threadpool(upgrade, database)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(Housekeeping(console))
                if isinstance(console.policies, StoredPolicies):
                    await stack.enter_async_context(Planning(console, console.policies))
                yield
        finally:
            console.wake.close()
            database.close()

    app = FastAPI(
        redirect_slashes=False,
        title="Kumomori console",
        version=version("kumomori"),
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # `GET /v1/openapi.json`, with a token
    )
    app.state.console = console
    for one in ROUTERS:
        app.include_router(one)
    add_handlers(app)
    app.add_middleware(Requests, console=console)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[SECURITY] = {"type": "http", "scheme": "bearer"}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's page "Extending OpenAPI" does it
