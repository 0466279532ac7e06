"""What AWS says becomes our tree: the right kind, what to do, and no secret."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from cloud.aws.errors import clean, translated, translated_errors
from core.errors import AccessDenied, CloudError, ConfigError, Error, Gone, Throttled

KEY = "ASIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def said(code: Any, message: Any = "no", **more: Any) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, **more}
    return ClientError(answer, "DescribeInstances")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        pytest.param(said("RequestLimitExceeded"), Throttled, "throttled", id="ec2-throttled"),
        pytest.param(said("SnapshotCreationPerVolumeRateExceeded"), Throttled, "throttled", id="volume-rate"),
        pytest.param(said("RequestThrottledException", Reason="ACCOUNT_THROTTLED"), Throttled, "throttled", id="ebs-throttled"),
        pytest.param(said("Other", ResponseMetadata={"HTTPStatusCode": 429}), Throttled, "throttled", id="http-429"),
        pytest.param(said("UnauthorizedOperation"), AccessDenied, "KumomoriInventory of the scanner policy", id="denied"),
        pytest.param(said("AccessDeniedException", "with an explicit deny in a policy"), AccessDenied, "by an explicit deny", id="explicit-deny"),
        pytest.param(said("AccessDeniedException", Reason="DEPENDENCY_ACCESS_DENIED"), AccessDenied, "kms:Decrypt is denied: add the statement KumomoriDecrypt", id="key-denied"),
        pytest.param(said("UnauthorizedOperation", "x is not authorized to perform: ec2:FutureCall on y"), AccessDenied, "allow ec2:FutureCall for this role", id="unknown-action"),
        pytest.param(said("AuthFailure"), CloudError, "does not know these credentials", id="wrong-credentials"),
        pytest.param(said("InvalidClientTokenId"), CloudError, "does not know these credentials", id="wrong-token"),
        pytest.param(said("SignatureDoesNotMatch"), CloudError, "does not know these credentials", id="wrong-secret"),
        pytest.param(said("ExpiredToken"), CloudError, "have expired", id="expired"),
        pytest.param(said("OptInRequired"), CloudError, "has not opted in", id="disabled-region"),
        pytest.param(said("InvalidSnapshot.NotFound"), Gone, "not there any more", id="snapshot-gone"),
        pytest.param(said("ResourceNotFoundException", Reason="SNAPSHOT_NOT_FOUND"), Gone, "not there any more", id="ebs-gone"),
        pytest.param(said("InternalError", "oops"), CloudError, "InternalError: oops", id="aws-failed"),
        pytest.param(said(None, None), CloudError, "failed", id="nothing-said"),
        pytest.param(said(17, ["x"]), CloudError, "failed", id="wrong-types"),
        pytest.param(ClientError({}, "X"), CloudError, "failed", id="empty"),
        pytest.param(ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRole"), AccessDenied, "its role: sts:AssumeRole is denied: add the statement KumomoriAssume", id="role-renewed-in-the-middle"),
        pytest.param(NoCredentialsError(), ConfigError, "Unable to locate credentials: set AWS_PROFILE", id="no-credentials"),
        pytest.param(EndpointConnectionError(endpoint_url="https://ec2.nowhere"), CloudError, "did not answer", id="no-connection"),
        pytest.param(ConnectTimeoutError(endpoint_url="https://e"), CloudError, "did not answer", id="connect-timeout"),
        pytest.param(ReadTimeoutError(endpoint_url="https://e"), CloudError, "did not answer", id="read-timeout"),
        pytest.param(ProxyConnectionError(proxy_url="http://p"), CloudError, "did not answer", id="proxy"),
        pytest.param(SSLError(endpoint_url="https://e", error=OSError("bad")), CloudError, "did not answer", id="tls"),
        pytest.param(ParamValidationError(report="bad"), CloudError, "failed", id="wrong-parameter"),
        pytest.param(ResponseParserError("not XML"), CloudError, "not XML", id="answer-is-no-xml"),
        pytest.param(ValueError("year 99999"), CloudError, "year 99999", id="answer-makes-no-sense"),
        pytest.param(RuntimeError("no such time"), CloudError, "no such time", id="answer-with-an-impossible-time"),
        pytest.param(OverflowError("too far"), CloudError, "too far", id="answer-with-a-huge-number"),
        pytest.param(KeyError("Credentials"), CloudError, "Credentials", id="answer-lacks-something"),
        pytest.param(RecursionError("deep"), CloudError, "deep", id="answer-too-deep"),
    ],
)  # fmt: skip
def test_translation(error: Exception, kind: type[Error], words: str) -> None:
    with pytest.raises(Error) as caught, translated_errors("ec2:DescribeInstances", "acc"):
        raise error
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_other_errors_pass() -> None:
    with pytest.raises(OSError, match="disk"), translated_errors("ec2:X", "acc"):
        raise OSError("disk")
    with pytest.raises(CloudError, match="ours"), translated_errors("ec2:X", "acc"):
        raise CloudError("ours")


@pytest.mark.parametrize(
    ("told", "after"),
    [
        pytest.param(None, 15.0, id="nothing"),
        pytest.param("60", 60.0, id="longer"),
        pytest.param("1", 15.0, id="shorter-than-aws-asks-for"),
        pytest.param("1e9", 300.0, id="for-ever"),
        pytest.param("nan", 15.0, id="not-a-number"),
        pytest.param("-5", 15.0, id="negative"),
        pytest.param("soon", 15.0, id="words"),
        pytest.param(["1"], 15.0, id="list"),
    ],
)
def test_seconds_to_wait(told: Any, after: float) -> None:
    headers = {} if told is None else {"retry-after": told}
    error = translated(
        said("SnapshotCreationPerVolumeRateExceeded", ResponseMetadata={"HTTPHeaders": headers}), "a:B", "x"
    )
    assert isinstance(error, Throttled)
    assert error.after == after


def test_denied_names_the_action_that_aws_names() -> None:
    text = (
        "User: arn:aws:sts::1:assumed-role/r/s is not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:…"
    )
    error = translated(said("UnauthorizedOperation", text), "ec2:CreateSnapshots", "i-1")
    assert isinstance(error, AccessDenied)
    assert error.permission == "ec2:CreateTags"


@pytest.mark.parametrize(
    "text",
    [
        f"key {KEY} is bad",
        f"secret {SECRET}",
        f"https://x/?X-Amz-Credential={KEY}%2F2026&X-Amz-Signature=abcdef0123",
        f"X-Amz-Security-Token={SECRET}{SECRET}",
        f"Encoded authorization failure message: {SECRET}",
        f"secret_access_key={SECRET[:20]}",
    ],
)
def test_no_secret_in_texts(text: str) -> None:
    shown = clean(text)
    for secret in (KEY, SECRET, SECRET[:20], "abcdef0123"):
        assert secret not in shown


def test_texts_are_short_and_printable() -> None:
    shown = clean("a\nb\x1b[31m\u202e" + "word " * 1000)
    assert len(shown) <= 301
    assert shown.isprintable()
