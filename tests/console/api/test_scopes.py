"""Every route with every scope, made from the application's own description."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from client.model import Problem, Scope
from console.api.routes import needs, router
from console.serve import Running
from tests.console.api.conftest import AsWho

DOCUMENTED = {
    ("GET", "/health"): "none",
    ("GET", "/metrics"): "read",
    ("GET", "/v1/openapi.json"): "read",
    ("GET", "/v1/tokens"): "admin",
    ("POST", "/v1/tokens"): "admin",
    ("DELETE", "/v1/tokens/{name}"): "admin",
    ("GET", "/v1/accounts"): "read",
    ("POST", "/v1/accounts"): "admin",
    ("DELETE", "/v1/accounts/{cloud}/{account}"): "admin",
    ("GET", "/v1/instances"): "read",
    ("GET", "/v1/instance"): "read",
    ("GET", "/v1/findings"): "read",
    ("POST", "/v1/findings/accept"): "triage",
    ("POST", "/v1/findings/reopen"): "triage",
    ("GET", "/v1/gaps"): "read",
    ("GET", "/v1/files/{sha256}"): "read",
    ("GET", "/v1/packages"): "read",
    ("GET", "/v1/scans"): "read",
    ("GET", "/v1/scans/{id}"): "read",
    ("GET", "/v1/scans/{id}/report"): "read",
    ("POST", "/v1/scans"): "scan",
    ("POST", "/v1/scans/{id}/stop"): "scan",
    ("POST", "/v1/scans/{id}/pause"): "scan",
    ("POST", "/v1/scans/{id}/resume"): "scan",
    ("POST", "/v1/sweeps"): "admin",
    ("POST", "/v1/clears"): "admin",
    ("POST", "/v1/sweeps/dry-run"): "scan",
    ("POST", "/v1/checks"): "scan",
    ("GET", "/v1/tasks/{id}"): "read",
    ("GET", "/v1/fleets"): "read",
    ("PUT", "/v1/fleets/{fleet}"): "fleet",
    ("GET", "/v1/fleets/{fleet}/orders"): "fleet",
    ("POST", "/v1/fleets/{fleet}/status"): "fleet",
    ("POST", "/v1/fleets/{fleet}/results"): "fleet",
    ("PUT", "/v1/fleets/{fleet}/file-sets/{digest}"): "fleet",
    ("PUT", "/v1/fleets/{fleet}/file-sets/{digest}/pieces/{number}"): "fleet",
    ("POST", "/v1/fleets/{fleet}/compare"): "fleet",
    ("POST", "/v1/fleets/{fleet}/sightings"): "fleet",
    ("GET", "/v1/fleets/{fleet}/tasks"): "fleet",
    ("POST", "/v1/fleets/{fleet}/tasks/{id}"): "fleet",
}
PATHS = {
    "name": "nobody",
    "cloud": "aws",
    "account": "1",
    "id": "unknown",
    "fleet": "default",
    "sha256": "0" * 64,
    "digest": "0" * 64,
    "number": 0,
    "version": 1,
}


def described(app: FastAPI) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
@pytest.mark.slow
def test_every_route_with_every_scope(running: Running, as_who: AsWho) -> None:
    clients = {scope: as_who(scope, fleet="default" if scope is Scope.FLEET else None) for scope in Scope} | {
        None: as_who()
    }
    wrong = []
    for (method, path), operation in described(running.app).items():
        needed = operation["x-scope"]
        for scope, client in clients.items():
            answer = client.request(method, path.format(**PATHS), params={"wait_seconds": 0})
            allowed = needed == "none" or scope is Scope.ADMIN or (scope is not None and scope.value == needed)
            refused = answer.status_code in {401, 403}
            if allowed is refused or answer.status_code >= 500:
                wrong.append((method, path, scope, answer.status_code))
            if refused:
                assert answer.status_code == (401 if scope is None else 403)
                Problem.model_validate_json(answer.content)
    assert wrong == []


def test_the_scopes_are_the_documented_ones(running: Running) -> None:
    scopes = {route: operation["x-scope"] for route, operation in described(running.app).items()}
    assert {route: scopes.get(route) for route in DOCUMENTED} == DOCUMENTED
    assert [route for route, scope in scopes.items() if scope == "none"] == [("GET", "/health")]


def test_every_route_is_described(running: Running) -> None:
    operations = described(running.app)
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for route, operation in operations.items():
        assert len(operation["tags"]) == 1, route
        for status in ("401", "403") if operation["x-scope"] != "none" else ():
            schema = operation["responses"][status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, route
            assert operation["security"] == [{"token": []}], route


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/", "/v1", "/v1/tokens/", "/docs/oauth2-redirect"]
)
def test_there_are_no_pages_that_the_framework_adds(admin: httpx.Client, path: str) -> None:
    assert admin.get(path).status_code == 404


def test_a_route_without_a_scope_cannot_be_made() -> None:
    api = router("x")
    with pytest.raises(TypeError, match="scope"):
        api.get("/x")(lambda: None)
    with pytest.raises(TypeError, match="hidden"):
        api.get("/x", include_in_schema=False, **needs(Scope.READ))(lambda: None)


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/fleets/other/orders"),
        ("PUT", "/v1/fleets/other"),
        ("POST", "/v1/fleets/other/results"),
        ("POST", "/v1/fleets/other/compare"),
        ("POST", "/v1/fleets/other/sightings"),
        ("POST", "/v1/fleets/other/status"),
        ("GET", "/v1/fleets/other/tasks"),
        ("POST", "/v1/fleets/other/tasks/sweep-1"),
        ("PUT", f"/v1/fleets/other/file-sets/{'0' * 64}"),
        ("PUT", f"/v1/fleets/other/file-sets/{'0' * 64}/pieces/0"),
    ],
)
def test_a_fleets_token_is_good_for_that_fleet_alone(fleet: httpx.Client, method: str, path: str) -> None:
    assert fleet.request(method, path).status_code == 403
