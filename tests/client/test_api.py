from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client import model
from client.api import ROUTES, Console, Refused
from client.transport import MOST_ANSWER_BYTES, is_loopback
from core.errors import (
    AccessDenied,
    CloudError,
    ConfigError,
    Conflict,
    Error,
    Gone,
    LimitExceeded,
    Throttled,
    Unavailable,
)
from core.estate import Place
from tests.client.server import Answer, Server, certificate, serving

TOKEN = "kumomori_very-secret-token"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
KEY = "aws://123456789012/eu-west-1/i-0123456789abcdef0"
FINGERPRINT = "ab" * 32
REPOSITORY = Path(__file__).parents[2]


def problem(status: int, error: str = "said why", *headers: tuple[str, str], problems: Any = ()) -> Answer:
    body = json.dumps({"error": error, "problems": list(problems)}).encode()
    return Answer(status, body, headers)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def console(server: Server) -> Iterator[Console]:
    with Console(server.url, TOKEN, timeout_seconds=5) as found:
        yield found


def test_routes_are_those_of_the_documents() -> None:
    """`docs/fleet.md` has each of them, with its scope, and no other."""
    told = set()
    for line in (REPOSITORY / "docs/fleet.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        what, scopes = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3])
        words = [one.strip() for cell in re.findall(r"`([^`]+)`", what) for one in cell.split(", ")]
        verbs: list[str] = []
        found: list[tuple[str, str]] = []
        base = ""
        for word in words:
            verb, _, path = word.partition(" ")
            if word.startswith("/"):  # beside the one before
                found.append((verbs[0], base.rpartition("/")[0] + word))
                continue
            path = re.sub(r"\?.*", "", path)
            if path.startswith("/"):
                base, verbs = path, verb.split(",")
                found += [(one, path) for one in verbs]
        needed = scopes.split(", ")
        told |= {(verb, path, needed[min(index, len(needed) - 1)]) for index, (verb, path) in enumerate(found)}
    ours = {(route.verb, route.path, str(route.scope or "-")) for route in ROUTES.values()}
    assert told == ours


def test_there_is_a_method_for_every_route() -> None:
    methods = {name for name in vars(Console) if not name.startswith("_")} - {"url", "close"}
    assert methods == set(ROUTES)


INSTANCE = {
    "place": {"cloud": "aws", "account": "123456789012", "region": "eu-west-1"},
    "id": "i-0123456789abcdef0",
    "name": "web-1",
}
SCAN = {
    "id": "s-1",
    "kind": "instance",
    "machine": KEY,
    "fleet": "default",
    "why": "manual",
    "state": "running",
    "ordered": NOW.isoformat(),
    "due": NOW.isoformat(),
}
FLEET = {"name": "default", "registered": NOW.isoformat()}
PLACE = model.Compare(place=Place("aws", "123456789012", "eu-west-1"), listed=NOW, complete=True, digests={})
CALLS: list[tuple[str, Callable[[Console], Any], Any, str]] = [
    ("health", lambda c: c.health(), {"status": "ok", "version": "1"}, "/health"),
    ("tokens", lambda c: c.tokens(), [], "/v1/tokens"),
    ("revoke_token", lambda c: c.revoke_token("ci"), None, "/v1/tokens/ci"),
    ("remove_account", lambda c: c.remove_account("aws", "1"), None, "/v1/accounts/aws/1"),
    ("instance", lambda c: c.instance(KEY), {"key": KEY, "instance": INSTANCE, "first_seen": NOW.isoformat(), "last_seen": NOW.isoformat()},
     "/v1/instance?key=aws%3A%2F%2F123456789012%2Feu-west-1%2Fi-0123456789abcdef0"),
    ("instances", lambda c: list(c.instances(text="a b&c")), {"items": []}, "/v1/instances?state=open&text=a+b%26c&limit=1000"),
    ("findings", lambda c: list(c.findings()), {"items": []}, "/v1/findings?state=open&limit=1000"),
    ("scan", lambda c: c.scan("s-1"), SCAN, "/v1/scans/s-1"),
    ("start", lambda c: c.start(model.ScanIn(instances=(KEY,))), {"items": [SCAN]}, "/v1/scans"),
    ("pause", lambda c: c.pause("s-1"), SCAN, "/v1/scans/s-1/pause"),
    ("release", lambda c: c.release("all"), None, "/v1/schedule/holds?scope=all"),
    ("register", lambda c: c.register(model.FleetIn(name="default")), FLEET, "/v1/fleets/default"),
    ("orders", lambda c: c.orders("default", after=7), {"now": NOW.isoformat(), "orders": [], "accounts": []},
     "/v1/fleets/default/orders?after=7&wait_seconds=20"),
    ("files", lambda c: list(c.files("0" * 64)), {"sha256": "0" * 64, "items": [], "instances": 0, "never": 0, "gaps": 0},
     f"/v1/files/{'0' * 64}?limit=1000"),
    ("packages", lambda c: list(c.packages("bash", version="5.2")), {"items": [], "instances": 0, "never": 0, "gaps": 0},
     "/v1/packages?name=bash&version=5.2&limit=1000"),
    ("offer_file_set", lambda c: c.offer_file_set("default", "0" * 64, model.FileSetIn(count=0, pieces=0)), {"state": "whole"},
     f"/v1/fleets/default/file-sets/{'0' * 64}"),
    ("send_file_piece", lambda c: c.send_file_piece("default", "0" * 64, 3, model.FilePieceIn()), None,
     f"/v1/fleets/default/file-sets/{'0' * 64}/pieces/3"),
    ("compare", lambda c: c.compare("default", PLACE), {"wanted": ["i-1"], "closed": 0}, "/v1/fleets/default/compare"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "answer", "path"), CALLS, ids=[one[0] for one in CALLS])
def test_what_is_sent(
    server: Server, console: Console, name: str, call: Callable[[Console], Any], answer: Any, path: str
) -> None:
    server.answers = [Answer(200, b"" if answer is None else json.dumps(answer).encode())]
    call(console)
    (asked,) = server.asked
    assert (asked.verb, asked.path) == (ROUTES[name].verb, path)
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"


def test_documents_go_out_as_they_are(server: Server, console: Console) -> None:
    server.answers = [Answer(200, json.dumps(FLEET).encode())]
    console.register(model.FleetIn(name="default", regions=("eu-west-1",)))
    (asked,) = server.asked
    assert json.loads(asked.body) == {"name": "default", "clouds": [], "regions": ["eu-west-1"]}
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("etag", "header"), [(None, ("if-none-match", "*")), ("v1", ("if-match", '"v1"')), ('"v1"', ("if-match", '"v1"'))]
)
def test_policies_are_applied_on_a_condition(
    server: Server, console: Console, etag: str | None, header: tuple[str, str]
) -> None:
    server.answers = [Answer(200, b'{"version": 2, "etag": "v2", "who": "me", "when": null}')]
    assert console.apply_policies(model.PolicySet(documents={}), etag=etag).etag == "v2"
    assert server.asked[0].headers[header[0]] == header[1]


def test_pages_follow_each_other(server: Server, console: Console) -> None:
    pages = [
        {"items": [{**SCAN, "id": f"s-{number}"}], "next": next_} for number, next_ in ((1, "a"), (2, "b"), (3, None))
    ]
    server.answers = [Answer(200, json.dumps(page).encode()) for page in pages]
    assert [one.id for one in console.scans()] == ["s-1", "s-2", "s-3"]
    assert [re.sub(".*after=", "", asked.path) for asked in server.asked[1:]] == ["a", "b"]


def test_pages_that_do_not_end_are_noticed(server: Server, console: Console) -> None:
    server.answers = [Answer(200, b'{"items": [], "next": "a"}')]
    with pytest.raises(CloudError, match="itself"):
        list(console.scans())


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        pytest.param(problem(401), AccessDenied, "unknown or has expired", id="401"),
        pytest.param(problem(403), AccessDenied, "scope `read`", id="403"),
        pytest.param(problem(404), Gone, "said why", id="404"),
        pytest.param(Answer(404, b"<html>"), Gone, "not as a console", id="404-of-another"),
        pytest.param(problem(409), Conflict, "said why", id="409"),
        pytest.param(problem(412), Conflict, "said why", id="412"),
        pytest.param(problem(413), LimitExceeded, "said why", id="413"),
        pytest.param(problem(422), Refused, "said why", id="422"),
        pytest.param(problem(429, "slow", ("Retry-After", "7")), Throttled, "slow", id="429"),
        pytest.param(problem(503), Throttled, "said why", id="503"),
        pytest.param(problem(500), Unavailable, "said why", id="500"),
        pytest.param(Answer(502, b""), Unavailable, "502", id="502"),
        pytest.param(Answer(302, b"", (("Location", "http://elsewhere/"),)), ConfigError, "another address", id="302"),
        pytest.param(problem(400), ConfigError, "said why", id="400"),
        pytest.param(Answer(200, b"<html>welcome"), CloudError, "version", id="no-json"),
        pytest.param(Answer(200, b'{"items": [], "colour": 1}'), CloudError, "colour", id="unknown-field"),
        pytest.param(Answer(200, b"[" * 100_000), CloudError, "version", id="deep"),
        pytest.param(Answer(200, b'{"items"', cut=True), Unavailable, "broke off", id="cut"),
        pytest.param(Answer(500, b"x" * (5 << 20)), LimitExceeded, "bytes", id="endless-error"),
        pytest.param(Answer(200, b"not gzip", (("Content-Encoding", "gzip"),)), Unavailable, "damaged", id="no-gzip"),
        pytest.param(
            Answer(200, gzip.compress(b"{}")[:-4], (("Content-Encoding", "gzip"),)), Unavailable, "cut", id="half-gzip"
        ),
        pytest.param(Answer(200, b"", (("Content-Encoding", "zstd"),)), CloudError, "encoding", id="zstd"),
    ],
)
def test_refusals(server: Server, console: Console, answer: Answer, kind: type[Error], said: str) -> None:
    server.answers = [answer]
    with pytest.raises(kind, match=said) as caught:
        list(console.scans())
    assert type(caught.value) is kind
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_where_policies_are_refused(server: Server, console: Console) -> None:
    row = {"document": "a.yaml", "line": 3, "column": 1, "problem": "no such setting"}
    server.answers = [problem(422, "refused", problems=[row])]
    with pytest.raises(Refused) as caught:
        console.dry_run(model.PolicySet(documents={"a.yaml": "x"}))
    assert caught.value.problems == (model.PolicyProblem(**row),)  # type: ignore[arg-type]


def test_scopes_and_pauses_are_told(server: Server, console: Console) -> None:
    server.answers = [problem(403)]
    with pytest.raises(AccessDenied) as denied:
        console.stop("s-1")
    assert denied.value.permission == "scan"
    for word, seconds in (("7", 7.0), ("99999", 300.0), ("soon", 5.0), ("-1", 5.0), ("1e9", 5.0), ("", 5.0)):
        server.answers = [problem(429, "slow", ("Retry-After", word))]
        with pytest.raises(Throttled) as throttled:
            console.scan("s-1")
        assert throttled.value.after == seconds, word


def test_gzip_is_read_and_a_bomb_is_not(server: Server, console: Console) -> None:
    encoded = (("Content-Encoding", "gzip"),)
    server.answers = [Answer(200, gzip.compress(json.dumps(SCAN).encode()), encoded)]
    assert console.scan("s-1").id == "s-1"
    assert server.asked[0].headers["accept-encoding"] == "gzip"
    bomb = gzip.compress(b" " * (MOST_ANSWER_BYTES + 1), 1)
    server.answers = [Answer(200, bomb, encoded)]
    with pytest.raises(LimitExceeded):
        console.scan("s-1")


def test_a_degraded_console_tells_its_health(server: Server, console: Console) -> None:
    server.answers = [Answer(503, b'{"status": "degraded", "version": "1", "problems": ["disk"]}')]
    assert console.health().problems == ("disk",)


def test_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shut:
        url = f"http://127.0.0.1:{shut.getsockname()[1]}"
        with Console(url, TOKEN, timeout_seconds=0.3) as console:
            started = time.monotonic()
            with pytest.raises(Unavailable, match="too long"):
                console.health()
            assert time.monotonic() - started < 5
    with Console(url, TOKEN) as console, pytest.raises(Unavailable, match="cannot be reached"):
        console.health()


def test_the_console_may_think_it_over_for_as_long_as_it_was_allowed(server: Server) -> None:
    pull = json.dumps({"now": NOW.isoformat(), "orders": [], "accounts": []}).encode()
    server.answers = [Answer(200, pull, wait_seconds=0.6)]
    with Console(server.url, TOKEN, timeout_seconds=0.3) as console:
        assert console.orders("default", wait_seconds=1).orders == ()
        with pytest.raises(Unavailable):
            console.orders("default", wait_seconds=0)


@pytest.mark.parametrize("word", ["..", "a/b", "", "a?b", "a b", "-", "x" * 65, "a%2fb", "é"])
def test_what_can_be_no_name_is_not_sent(server: Server, console: Console, word: str) -> None:
    with pytest.raises(ConfigError):
        console.scan(word)
    assert server.asked == []


@pytest.mark.parametrize(
    ("url", "token", "good"),
    [
        pytest.param("http://127.0.0.1:1", TOKEN, True, id="loopback"),
        pytest.param("http://[::1]:1", TOKEN, True, id="loopback-6"),
        pytest.param("http://localhost", TOKEN, True, id="localhost"),
        pytest.param("https://console.example/prefix/", TOKEN, True, id="tls"),
        pytest.param("http://console.example", "", True, id="nothing-to-lose"),
        pytest.param("http://console.example", TOKEN, False, id="plain"),
        pytest.param("http://127.0.0.1.example.com", TOKEN, False, id="looks-like-loopback"),
        pytest.param("http://localhost.example.com", TOKEN, False, id="looks-like-localhost"),
        pytest.param("http://localhost@console.example", TOKEN, False, id="user"),
        pytest.param("https://user:password@console.example", TOKEN, False, id="password"),
        pytest.param("https://console.example/?a=b", TOKEN, False, id="query"),
        pytest.param("ftp://console.example", TOKEN, False, id="ftp"),
        pytest.param("file:///etc/passwd", TOKEN, False, id="file"),
        pytest.param("console.example", TOKEN, False, id="no-scheme"),
        pytest.param("https://", TOKEN, False, id="no-host"),
        pytest.param("", TOKEN, False, id="empty"),
        pytest.param("https://a\nb", TOKEN, False, id="newline"),
        pytest.param("https://console.example", "two words", False, id="token-with-space"),
        pytest.param("https://console.example", f"{TOKEN}\r\nX: y", False, id="token-with-newline"),
        pytest.param("https://console.example", "é" + TOKEN, False, id="token-not-ascii"),
        pytest.param("https://console.example", "x" * 513, False, id="endless-token"),
    ],
)
def test_where_a_token_may_go(url: str, token: str, good: bool) -> None:
    if good:
        Console(url, token).close()
        return
    with pytest.raises(ConfigError) as caught:
        Console(url, token)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert "password" not in str(caught.value)


def test_plain_http_elsewhere_only_if_told() -> None:
    Console("http://console.example", TOKEN, allow_http=True).close()
    assert [is_loopback(host) for host in ("127.8.8.8", "::1", "10.0.0.1", "0.0.0.0", "loopback")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_tls(tmp_path: Path, server: Server) -> None:
    pair = certificate(tmp_path)
    with serving(Answer(200, json.dumps(SCAN).encode()), tls=pair) as secure:
        with Console(secure.url, TOKEN) as console, pytest.raises(Unavailable, match="--ca"):
            console.scan("s-1")
        assert secure.asked == [], "no token goes to a stranger"
        with Console(secure.url, TOKEN, ca=pair[0]) as console:
            assert console.scan("s-1").id == "s-1"
    (tmp_path / "empty").write_text("")
    for path in (tmp_path / "missing", tmp_path / "empty", pair[1]):
        with pytest.raises(ConfigError):
            Console("https://console.example", TOKEN, ca=path)


def test_no_proxy_between_here_and_a_plain_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = [Answer(200, json.dumps(SCAN).encode())]
    with serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with Console(server.url, TOKEN) as console:
            console.scan("s-1")
        assert proxy.asked == []


def test_the_token_shows_nowhere(server: Server, console: Console, caplog: pytest.LogCaptureFixture) -> None:
    server.answers = [Answer(200, json.dumps(SCAN).encode())]
    with caplog.at_level(logging.DEBUG):
        console.scan("s-1")
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(console) + repr(console._transport)
    new = model.NewToken(name="ci", scopes=(model.Scope.READ,), created=NOW, secret=TOKEN)
    assert TOKEN not in repr(new)
