"""Secrets by their ARN: their text, and errors that do not tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from cloud.aws.accounts import Sessions
from cloud.aws.secrets import MOST_BYTES, read_secret
from core.errors import CloudError, ConfigError, Error
from demo.aws.emulator import REGION, EmulatedAws


@pytest.fixture
def sessions(emulator: EmulatedAws, account: str) -> Sessions:
    keys = emulator.credentials(account)
    return Sessions(boto3.Session(keys.access_key, keys.secret_key), endpoint_url=emulator.endpoint)


@pytest.fixture
def store(backdoor: Callable[[str], Any]) -> Callable[..., str]:
    return lambda **what: str(backdoor("secretsmanager").create_secret(Name="kumomori/fleet", **what)["ARN"])


def test_text(sessions: Sessions, store: Callable[..., str]) -> None:
    assert read_secret(sessions, store(SecretString="postgresql://a:b@c/d")) == "postgresql://a:b@c/d"


def test_bytes_are_no_text(sessions: Sessions, store: Callable[..., str]) -> None:
    with pytest.raises(CloudError, match="no text"):
        read_secret(sessions, store(SecretBinary=b"\x00hush"))


def test_one_that_is_not_there(sessions: Sessions, account: str) -> None:
    with pytest.raises(Error, match="secret:none"):
        read_secret(sessions, f"arn:aws:secretsmanager:{REGION}:{account}:secret:none-AbCdEf")


@pytest.mark.parametrize("size", [MOST_BYTES + 1, 0])
def test_an_odd_answer(size: int) -> None:
    class Odd(Sessions):
        def client(self, *_: Any, **__: Any) -> Any:
            return type("Client", (), {"get_secret_value": lambda *_, **__: {"SecretString": "h" * size}})()

    with pytest.raises(CloudError, match="no text, or too much") as told:
        read_secret(Odd(), "arn:aws:secretsmanager:eu-central-1:111122223333:secret:x-AbCdEf")
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "postgresql://a:hush@c/d",  # the secret itself where its name should be
        "kumomori/fleet",
        "arn:aws:s3:::bucket",
        "arn:aws:secretsmanager:eu-central-1:1:secret:x",
        "arn:aws:secretsmanager:eu/../x:111122223333:secret:x",
    ],
)
def test_no_arn(arn: str) -> None:
    with pytest.raises(ConfigError, match="by its ARN") as told:
        read_secret(Sessions(), arn)
    assert "hush" not in str(told.value)
