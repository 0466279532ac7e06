from __future__ import annotations

from pathlib import Path

import pytest

from client.api import Refused
from client.model import PolicyProblem
from console.serve import Running
from core.errors import ConfigError
from infra.console import CloudAccount, Policy
from infra.console.provider import connect, refusal
from tests.infra.console.conftest import Secret
from tests.infra.engine import Engine

TOKEN = "kumomori_very-secret-token"
HERE = "http://127.0.0.1:1"


def test_from_the_configuration_or_the_environment_never_from_both(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    environment = {"KUMOMORI_CONSOLE": HERE, "KUMOMORI_TOKEN_FILE": str(path)}
    assert connect({}, environment).url == HERE
    assert connect({"console": "http://127.0.0.1:2", "token": "x"}, environment).url == "http://127.0.0.1:2"
    for configured in ({"console": "http://127.0.0.1:2"}, {"token": "x"}):
        with pytest.raises(ConfigError, match="is not configured"):
            connect(configured, environment)
    for name, value in environment.items():
        with pytest.raises(ConfigError, match="no console is named"):
            connect({}, {name: value})
    for odd in (7.0, ["x"], {"a": "b"}):
        with pytest.raises(ConfigError, match="are words"):
            connect({"console": odd, "token": "x"}, {})
    with pytest.raises(ConfigError, match="over plain http"):
        connect({"console": "http://console.example", "token": TOKEN}, {})
    with pytest.raises(ConfigError, match="cannot be read as certificates"):
        connect({"console": "https://console.example", "token": TOKEN, "ca": str(path)}, {})
    assert TOKEN not in repr(connect({}, environment))


@pytest.mark.parametrize("raw", [b"", b" \n", b"two words", b"x" * 20_000, b"\xff\xfe"])
def test_files_that_hold_no_token(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        connect({}, {"KUMOMORI_CONSOLE": HERE, "KUMOMORI_TOKEN_FILE": str(path)})
    assert "two words" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        connect({}, {"KUMOMORI_CONSOLE": HERE, "KUMOMORI_TOKEN_FILE": str(tmp_path)})


def test_the_environment_reaches_the_providers_process(tmp_path: Path, running: Running, secret: Secret) -> None:
    path = tmp_path / "token"
    path.write_text(secret("ci"))
    environment = {"KUMOMORI_CONSOLE": running.address, "KUMOMORI_TOKEN_FILE": str(path)}
    with Engine(tmp_path, environment=environment) as engine:
        engine.up(lambda: Policy("web")).ok()
        assert path.read_text() not in engine.path.read_text()
    with Engine(tmp_path) as nothing:
        assert "no console is named" in nothing.preview(lambda: Policy("web")).refused()


def test_a_refusal_is_bounded_and_printable() -> None:
    evil = "\x1b[31m\u202e"
    problems = tuple(
        PolicyProblem(document=f"{evil}{number}.yaml", line=1, column=1, problem=evil * 1000) for number in range(100)
    )
    said = str(
        refusal(Refused(evil * 1000, problems), {f"{evil}{number}.yaml": evil * 10_000 for number in range(100)})
    )
    assert len(said) < 40_000
    assert "… and 80 more" in said
    assert not {"\x1b", "\u202e"} & set(said)
    odd = PolicyProblem(document="x", line=99, column=1, problem="p")
    assert str(refusal(Refused("no", (odd,)), {"x": "one line"})).endswith("  x:99:1: p")


def test_a_token_that_is_configured_in_the_open_is_refused(tmp_path: Path, running: Running, secret: Secret) -> None:
    """Pulumi would keep it as it is, in the stack's file and in the state."""
    config = {"kumomori:console": running.address, "kumomori:token": secret("ci")}
    for program in (lambda: Policy("web"), lambda: CloudAccount("web", account="1")):
        with Engine(tmp_path, config, secrets=()) as engine:
            said = engine.preview(program).refused()
        assert "pulumi config set --secret kumomori:token" in said
        assert config["kumomori:token"] not in said
