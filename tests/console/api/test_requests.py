"""What surrounds every request: errors, bounds, logs, figures."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.model import AcceptIn, Compare, FleetStatus, Health, Problem, Scope, Sighting
from console.clock import now
from console.serve import Running
from console.settings import Settings
from console.store.database import Database
from tests.console.api.conftest import AsWho
from tests.console.api.test_policies import until
from tests.console.made import ACCOUNT, FLEET, PLACE, enrol, finding, gap, instance, key, ordered, report, result
from tests.postgres import Postgres

pytestmark = pytest.mark.slow

SQLITE = pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
JSON = {"Content-Type": "application/json"}


def problem(answer: httpx.Response, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    return Problem.model_validate_json(answer.content)


def test_the_whole_way(admin: httpx.Client, fleet: httpx.Client) -> None:
    """From an account to a finding that somebody accepted, over the network."""
    assert admin.post("/v1/accounts", json=ACCOUNT.model_dump(mode="json")).status_code == 200
    assert fleet.put(f"/v1/fleets/{FLEET}", json={"name": FLEET, "clouds": ["aws"]}).status_code == 200
    pull = fleet.get(f"/v1/fleets/{FLEET}/orders", params={"after": 0}).json()
    assert [order["kind"] for order in pull["orders"]] == ["reconcile"]
    assert pull["accounts"] == [ACCOUNT.model_dump(mode="json")]
    listing = Compare(place=PLACE, listed=now(), complete=True, digests={"i-1": "0" * 32})
    compared = fleet.post(f"/v1/fleets/{FLEET}/compare", content=listing.model_dump_json(), headers=JSON).json()
    assert compared == {"wanted": ["i-1"], "closed": 0}
    sighting = Sighting(instances=(instance("i-1"),), seen=now())
    assert (
        fleet.post(f"/v1/fleets/{FLEET}/sightings", content=sighting.model_dump_json(), headers=JSON).status_code == 204
    )
    (seen,) = admin.get("/v1/instances").json()["items"]
    assert seen["key"] == key()
    (scan,) = admin.post("/v1/scans", json={"instances": [key()]}).json()["items"]
    (order,) = fleet.get(f"/v1/fleets/{FLEET}/orders", params={"after": 1}).json()["orders"]
    assert (order["number"], order["order"]["machine"]) == (2, key())
    status = FleetStatus.model_validate(
        {"clock": now(), "workers": 2, "scans": [{"scan": scan["id"], "state": "running", "step": "scan"}]}
    )
    assert fleet.post(f"/v1/fleets/{FLEET}/status", content=status.model_dump_json(), headers=JSON).status_code == 204
    told = admin.get(f"/v1/scans/{scan['id']}").json()
    assert (told["state"], told["step"]) == ("running", "scan")
    assert admin.get(f"/v1/scans/{scan['id']}/report").status_code == 404
    sent = result(scan["id"], report([finding("a"), finding("b", severity="critical")], [gap()])).model_dump_json()
    first = fleet.post(f"/v1/fleets/{FLEET}/results", content=sent, headers=JSON)
    assert first.status_code == 200
    assert fleet.post(f"/v1/fleets/{FLEET}/results", content=sent, headers=JSON).json() == first.json()
    whole = admin.get("/v1/findings", params={"limit": 1}).json()
    assert whole["items"][0]["rule"] == "linux/b"
    rest = admin.get("/v1/findings", params={"limit": 1, "after": whole["next"]}).json()
    assert (rest["items"][0]["rule"], rest["next"]) == ("linux/a", None)
    asked = {"instance": key(), "id": rest["items"][0]["id"]}
    accepted = admin.post(
        "/v1/findings/accept", params=asked, json=AcceptIn(why="known").model_dump(mode="json")
    ).json()
    assert (accepted["state"], accepted["accepted_by"]) == ("accepted", "token-1")
    assert len(admin.get("/v1/findings").json()["items"]) == 1
    assert len(admin.get("/v1/findings", params={"state": "all"}).json()["items"]) == 2
    assert admin.post("/v1/findings/reopen", params=asked).json()["state"] == "open"
    assert admin.get("/v1/gaps").json()["items"][0]["where"] == "volume 0: /x"
    for encoding in ("gzip", "identity"):
        read = admin.get(f"/v1/scans/{scan['id']}/report", headers={"Accept-Encoding": encoding})
        assert read.json()["schema"] == "kumomori.report/1"
    assert admin.post(f"/v1/scans/{scan['id']}/stop").status_code == 409
    (known,) = admin.get("/v1/instances").json()["items"]
    assert (known["open_findings"], known["gaps"], known["last_scan"]) == (2, 1, scan["id"])
    (registered,) = admin.get("/v1/fleets").json()
    assert (registered["status"]["workers"], registered["status"]["scans"]) == (2, [])
    assert admin.delete(f"/v1/accounts/{ACCOUNT.cloud}/{ACCOUNT.account}").status_code == 204
    assert admin.get("/v1/instances").json()["items"] == []


def test_scans_are_listed_newest_first(admin: httpx.Client, database: Database) -> None:
    enrol(database, *(f"i-{number}" for number in range(5)))
    expected = [ordered(database, f"i-{number}") for number in range(5)][::-1]
    found, after = [], None
    while True:
        params: dict[str, str | int] = {"limit": 2, "state": "ordered", **({"after": after} if after else {})}
        page = admin.get("/v1/scans", params=params).json()
        found += [one["id"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert found == expected


def test_orders_wait_without_a_thread_and_come_at_once(
    running: Running, admin: httpx.Client, fleet: httpx.Client, database: Database
) -> None:
    enrol(database, "i-1")
    after = 1
    most = running.console.settings.threads * 2
    answers: list[tuple[float, Any]] = []

    def wait() -> None:
        with httpx.Client(base_url=running.address, headers=fleet.headers, timeout=60) as client:
            answer = client.get(f"/v1/fleets/{FLEET}/orders", params={"after": after, "wait_seconds": 30})
            answers.append((time.monotonic(), answer.json()))

    threads = [threading.Thread(target=wait) for _ in range(most)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    assert answers == []
    began = time.monotonic()
    assert admin.get("/v1/accounts").status_code == 200  # twice as many wait as there are threads
    assert time.monotonic() - began < 5
    told = time.monotonic()
    admin.post("/v1/scans", json={"instances": [key()]})
    for thread in threads:
        thread.join()
    assert len(answers) == most
    assert all(answer["orders"][0]["number"] == 2 for _, answer in answers)
    assert max(when for when, _ in answers) - told < 10


def test_orders_that_another_console_wrote_are_found(fleet: httpx.Client, database: Database) -> None:
    enrol(database, "i-1")
    answers: list[httpx.Response] = []
    params = {"after": 1, "wait_seconds": 30}
    thread = threading.Thread(target=lambda: answers.append(fleet.get(f"/v1/fleets/{FLEET}/orders", params=params)))
    thread.start()
    time.sleep(0.5)
    ordered(database)  # nobody rings
    thread.join(20)
    assert [len(answer.json()["orders"]) for answer in answers] == [1]


@SQLITE
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("POST", "/v1/tokens", b"", 422, id="no-body"),
        pytest.param("POST", "/v1/tokens", b"{", 422, id="no-json"),
        pytest.param("POST", "/v1/tokens", b"\xff\xfe", 422, id="no-utf8"),
        pytest.param("POST", "/v1/tokens", b"[" * 100_000, 422, id="deep"),
        pytest.param("POST", "/v1/tokens", b"9" * 100_000, 422, id="endless-number"),
        pytest.param("POST", "/v1/tokens", b'{"name":"\\ud800","scopes":["read"]}', 422, id="lone-surrogate"),
        pytest.param("POST", "/v1/tokens", b'{"name":"a","scopes":["read"],"more":1}', 422, id="unknown-field"),
        pytest.param("POST", "/v1/tokens", b'{"name":"a","scopes":["root"]}', 422, id="unknown-scope"),
        pytest.param("POST", "/v1/tokens", b'{"name":"a","scopes":["read"],"expires":"2020-01-01T00:00:00"}', 422, id="naive"),
        pytest.param(
            "POST", "/v1/tokens", b'{"name":"a","scopes":["read"],"expires":"0001-01-01T00:00:00+14:00"}', 422, id="before-time"
        ),
        pytest.param(
            "POST", "/v1/tokens", b'{"name":"a","scopes":["read"],"expires":"9999-12-31T23:59:59-12:00"}', 201, id="after-time"
        ),
        pytest.param("POST", "/v1/tokens", b"x" * ((1 << 20) + 1), 413, id="large"),
        pytest.param("GET", "/v1/instances?limit=0", None, 422, id="no-rows"),
        pytest.param("GET", "/v1/instances?limit=1001", None, 422, id="many-rows"),
        pytest.param("GET", "/v1/instances?after=%00", None, 422, id="nul"),
        pytest.param("GET", "/v1/instances?text=%FF%00", None, 422, id="nul-in-text"),
        pytest.param("GET", "/v1/findings?after=abc", None, 422, id="no-cursor"),
        pytest.param("GET", "/v1/findings?after=WzEsMiwzXQ", None, 422, id="another-cursor"),
        pytest.param("GET", "/v1/scans?after=WyJ4IiwieSJd", None, 422, id="cursor-without-a-time"),
        pytest.param("GET", "/v1/findings?severity=worst", None, 422, id="no-severity"),
        pytest.param("GET", "/v1/scans/UPPER", None, 422, id="no-id"),
        pytest.param("GET", "/v1/scans/unknown", None, 404, id="unknown-scan"),
        pytest.param("GET", "/v1/instance?key=x", None, 404, id="unknown-instance"),
        pytest.param("GET", "/v1/fleets/default/orders?after=-1", None, 422, id="negative"),
        pytest.param("GET", "/v1/fleets/default/orders?wait_seconds=nan", None, 422, id="nan"),
        pytest.param("GET", "/v1/fleets/default/orders?wait_seconds=1e9", None, 422, id="for-ever"),
        pytest.param("POST", "/v1/fleets/default/status", b'{"clock":"2027-01-01T00:00:00Z","workers":1}', 404, id="not-registered"),
        pytest.param("PUT", "/v1/fleets/default", b'{"name":"other"}', 422, id="two-names"),
        pytest.param("PATCH", "/v1/tokens", b"{}", 405, id="method"),
        pytest.param("GET", "/v2", None, 404, id="no-page"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(admin: httpx.Client, method: str, path: str, body: bytes | None, status: int) -> None:
    answer = admin.request(method, path, content=body, headers=JSON if body is not None else {})
    if status == 201:
        assert answer.status_code == 201
    else:
        assert problem(answer, status).error


@SQLITE
def test_a_body_that_does_not_say_its_length_is_bounded_too(admin: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b" " * (1 << 16)

    try:
        answer = admin.post("/v1/tokens", content=endless(), headers=JSON)
    except httpx.TransportError:
        return  # it was cut off in the middle
    problem(answer, 413)


@SQLITE
def test_no_body_is_read_without_a_token(running: Running) -> None:
    """Headers alone are enough for the refusal, of a body that never comes."""
    host, port = running.address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest("POST", "/v1/fleets/default/results")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(20 << 20))
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


@SQLITE
def test_wrong_tokens_are_bounded_and_right_ones_pass(as_who: AsWho, admin: httpx.Client) -> None:
    assert admin.get("/v1/tokens").status_code == 200
    nobody = as_who()
    wrong = {"Authorization": "Bearer kumomori_" + "x" * 43}
    answers = [nobody.get("/v1/tokens", headers=wrong) for _ in range(30)]
    assert {answer.status_code for answer in answers[:20]} == {401}
    assert answers[0].headers["www-authenticate"] == "Bearer"
    problem(answers[-1], 429)
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
    assert admin.get("/v1/tokens").status_code == 200


@SQLITE
@pytest.mark.parametrize("word", ["", "Bearer", "Basic eDp5", "Bearer \u00e4", "Bearer " + "x" * 10_000])
def test_what_is_no_token(as_who: AsWho, word: str) -> None:
    problem(as_who().get("/v1/tokens", headers={b"Authorization": word.encode()}), 401)


@SQLITE
def test_a_deleted_token_is_refused_at_once(admin: httpx.Client, as_who: AsWho) -> None:
    reader = as_who(Scope.READ)
    assert reader.get("/v1/accounts").status_code == 200
    assert admin.delete("/v1/tokens/token-2").status_code == 204
    assert reader.get("/v1/accounts").status_code == 401


@SQLITE
def test_the_log_has_ids_and_no_secrets(admin: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = admin.post("/v1/tokens?x=SECRET-IN-QUERY", json={"name": "new", "scopes": ["read"]})
    secret = made.json()["secret"]
    answer = admin.get("/v1/accounts", headers={"X-Request-Id": "abc-1", "Authorization": f"Bearer {secret}"})
    assert answer.headers["x-request-id"] == "abc-1"
    strange = admin.get("/v1/accounts", headers={"X-Request-Id": 'a"b'})
    assert strange.headers["x-request-id"] != 'a"b'
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("kumomori")]
    ours = [json.loads(line) for line in lines if '"request"' in line]
    assert {"request": "abc-1", "route": "/v1/accounts", "status": 200, "token": "new"}.items() <= next(
        one for one in ours if one["request"] == "abc-1"
    ).items()
    whole = "\n".join(lines)
    assert secret not in whole and "SECRET-IN-QUERY" not in whole and admin.headers["authorization"][7:] not in whole


@SQLITE
def test_an_error_of_ours_shows_no_trace(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("SECRET-IN-ERROR")

    monkeypatch.setattr("console.store.accounts.everything", broken)
    answer = admin.get("/v1/accounts")
    said = problem(answer, 500)
    assert "SECRET-IN-ERROR" not in answer.text and answer.headers["x-request-id"] in said.error
    assert any(record.exc_info for record in caplog.records)
    assert admin.get("/v1/tokens").status_code == 200


def test_figures(admin: httpx.Client, fleet: httpx.Client, database: Database) -> None:
    enrol(database, "i-1", "i-2")
    fleet.put(f"/v1/fleets/{FLEET}", json={"name": FLEET})
    scan = ordered(database)
    sent = result(scan, report([finding("a"), finding("b", severity="critical")], [gap(count=4)])).model_dump_json()
    fleet.post(f"/v1/fleets/{FLEET}/results", content=sent, headers=JSON)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(admin.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["kumomori_scans", (("state", "done"),)] == 1
    assert samples["kumomori_scans", (("state", "failed"),)] == 0
    assert samples["kumomori_findings", (("severity", "critical"), ("state", "open"))] == 1
    # the planner may or may not have said yet that no policy holds
    assert sum(samples["kumomori_instances", (("protected", one),)] for one in ("yes", "no")) == 2
    assert samples["kumomori_gaps", (("reason", "corrupt"),)] == 4
    assert abs(samples["kumomori_fleet_last_contact_timestamp_seconds", (("fleet", FLEET),)] - time.time()) < 60
    route = "/v1/fleets/{fleet}/results"
    assert samples["kumomori_console_requests_total", (("method", "POST"), ("route", route), ("status", "200"))] == 1
    assert samples["kumomori_console_request_seconds_count", (("method", "POST"), ("route", route))] == 1


def test_while_the_database_is_away(postgres: Postgres) -> None:
    url = postgres.database()
    with Running(Settings.model_validate({"database": url, "port": 0})) as running:
        from console.store.tokens import first_admin

        headers = {"Authorization": f"Bearer {first_admin(running.console.database)}"}
        with httpx.Client(base_url=running.address, headers=headers, timeout=60) as client:
            assert client.get("/v1/accounts").status_code == 200
            postgres.stop()
            try:
                answer = client.get("/v1/accounts")
                problem(answer, 503)
                assert int(answer.headers["retry-after"]) > 0
                unhealthy = client.get("/health")
                assert unhealthy.status_code == 503
                assert Health.model_validate_json(unhealthy.content).status == "degraded"
            finally:
                postgres.go()
            assert client.get("/v1/accounts").status_code == 200
            # what plans scans tells of its own trouble until its next turn
            until(lambda: client.get("/health").json()["status"] == "ok", 60)
    postgres.drop(url)
