"""Bodies made from the API's own description, sound ones and spoilt ones: never an error of the console's."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from client.model import Problem, ScanKind, ScanOrder, ScanState, Why
from console.clock import now
from console.serve import Running
from console.store import orders, tables
from console.store.database import Database
from tests.console.made import FLEET, ended, enrol, instance, key, packed, report

ANY: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\x00", "\ud800", "a" * 600]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TIMES: Final = st.sampled_from(
    [
        "2027-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2027-01-01T00:00:00",
        "1e99",
        "",
    ]
)
KNOWN: Final = {
    "scan": "known",
    "machine": key(),
    "cloud": "aws",
    "account": "123456789012",
    "name": FLEET,
    "fleet": FLEET,
}


def values(schema: dict[str, Any], parts: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """What fits `schema`, mostly: now and then something else stands in its place."""
    return st.one_of(*[_fitting(schema, parts, depth)] * 12, ANY)


def _fitting(schema: dict[str, Any], parts: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _fitting(parts[schema["$ref"].rpartition("/")[2]], parts, depth)
    if depth > 6:
        return st.none()
    if "anyOf" in schema:
        return st.one_of([_fitting(one, parts, depth + 1) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _object(schema, parts, depth)
        case "object":
            inner = schema.get("additionalProperties")
            below = values(inner, parts, depth + 1) if isinstance(inner, dict) else ANY
            return st.dictionaries(st.sampled_from(["i-1", "x", "", "\x00"]), below, max_size=3)
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(values(schema.get("items", {}), parts, depth + 1), min_size=min(least, 2), max_size=3)
        case "string":
            return (
                TIMES
                if schema.get("format") == "date-time"
                else st.sampled_from(["", "a", "i-1", "0" * 32, "\x00", "x" * 2000])
            )
        case "integer":
            return st.integers(0, 3) | st.sampled_from([-1, 1 << 60, 1 << 70])
        case "number":
            return st.floats(0, 1e9) | st.just(1e300)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    return ANY


def _object(schema: dict[str, Any], parts: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    needed: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for name, one in schema["properties"].items():
        made = values(one, parts, depth + 1)
        if name in KNOWN:
            made = st.one_of(st.just(KNOWN[name]), made)
        (needed if name in schema.get("required", ()) else optional)[name] = made
    return st.fixed_dictionaries(needed, optional=optional)


@pytest.fixture
def prepared(running: Running, database: Database) -> None:
    enrol(database, "i-1")
    order = ScanOrder(
        scan="known", kind=ScanKind.INSTANCE, place=instance().place, machine=key(), instance=instance(), why=Why.SCHEDULE, not_before=now()
    )  # fmt: skip
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [order], now())


@pytest.mark.slow
def test_no_body_is_an_error_of_the_console(running: Running, admin: httpx.Client, prepared: None) -> None:
    document = running.app.openapi()
    parts = document["components"]["schemas"]
    bodies = [
        (
            method,
            path.format(fleet=FLEET, digest="0" * 64, number=0, id="known"),
            values(operation["requestBody"]["content"]["application/json"]["schema"], parts),
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    ]
    assert len(bodies) >= 9
    seen: set[int] = set()

    @settings(
        max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        method, path, made = data.draw(st.sampled_from(bodies))
        body = json.dumps(data.draw(made))
        params = {"instance": key(), "id": "0" * 64}
        answer = admin.request(method, path, content=body, headers={"Content-Type": "application/json"}, params=params)
        seen.add(answer.status_code)
        assert answer.status_code < 500 and answer.status_code != 400, (path, body, answer.text)
        if answer.status_code >= 400:
            Problem.model_validate_json(answer.content)

    attempt()
    assert {200, 422} <= seen
    for path in (
        "/v1/instances",
        "/v1/scans",
        "/v1/findings",
        "/v1/gaps",
        "/v1/accounts",
        "/v1/fleets",
        "/v1/tokens",
        "/metrics",
    ):
        assert (
            admin.get(path, params={"state": "all"} if path in {"/v1/instances", "/v1/findings"} else {}).status_code
            == 200
        )


@pytest.mark.slow
def test_no_report_is_an_error_of_the_console(fleet: httpx.Client, database: Database, prepared: None) -> None:
    seen: set[int] = set()

    @settings(
        max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(st.dictionaries(st.sampled_from(sorted(report())), ANY, max_size=2))
    def attempt(spoilt: dict[str, Any]) -> None:
        with database.write() as connection:  # as if nothing had come of it yet
            connection.execute(tables.report.delete())
            connection.execute(tables.scan.update().values(state="ordered", ended=None))
        body = ended("known", ScanState.DONE, report=packed({**report(), **spoilt})).model_dump_json()
        answer = fleet.post(f"/v1/fleets/{FLEET}/results", content=body, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in {200, 422}, (spoilt, answer.text)

    attempt()
    assert seen == {200, 422}
