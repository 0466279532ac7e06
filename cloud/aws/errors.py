"""What AWS and its SDK raise becomes our tree, without credentials and with what to do next.

Source: "Error codes for the Amazon EC2 API", "EBS direct APIs: common errors", botocore's service models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError

from cloud.aws.permissions import advice
from core.errors import AccessDenied, CloudError, ConfigError, Error, Gone, Throttled
from core.text import printable

MOST_WAIT_SECONDS: Final = 300.0
_WAIT_SECONDS: Final = {  # what to wait where the answer does not say
    "SnapshotCreationPerVolumeRateExceeded": 15.0,  # AWS: "wait at least 15 seconds"
    "ConcurrentSnapshotLimitExceeded": 60.0,  # until one of the pending ones is done
    "PendingSnapshotLimitExceeded": 60.0,
    "ResourceLimitExceeded": 60.0,  # CopySnapshot: too many copies at once
    "SnapshotCopyLimitExceeded": 60.0,
    "RequestLimitExceeded": 5.0,
    "Throttling": 2.0,
    "ThrottlingException": 2.0,
    "ThrottledException": 2.0,
    "RequestThrottled": 2.0,
    "RequestThrottledException": 1.0,
    "TooManyRequestsException": 2.0,
    "ConcurrentLimitExceededException": 2.0,
    "EC2ThrottledException": 5.0,
    "PriorRequestNotComplete": 2.0,
    "SlowDown": 2.0,
}
_DENIED: Final = {
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
    "Client.UnauthorizedOperation",
    "AuthorizationError",
    "NotAuthorized",
    "NotAuthorizedException",
    "KMSAccessDeniedException",
    "AWS.SimpleQueueService.AccessDenied",
}
_BAD_CREDENTIALS: Final = {
    "AuthFailure",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "InvalidAccessKeyId",
    "IncompleteSignature",
    "MissingAuthenticationToken",
}
_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_GONE: Final = {
    "ResourceNotFoundException",
    "NotFoundException",
    "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue",
}
# AWS names the action that it missed, which need not be the call: CreateSnapshots with tags needs ec2:CreateTags too.
_ACTION: Final = re.compile(r"not authorized to perform:? ([a-z0-9-]{2,40}:[A-Za-z]{3,60})")
_ENCODED: Final = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)
_SECRETS: Final = (
    re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"),
    re.compile(
        r"(?i)(?:x-amz-(?:credential|signature|security-token)|signature|awsaccesskeyid|secret\w*|token)=[^\s&'\"]+"
    ),
    re.compile(r"[A-Za-z0-9/+=]{40,}"),
)
_MOST_TEXT: Final = 300
# What the SDK's parsers, and we when we pick from their results, raise for an answer that is not as documented.
_NO_SENSE: Final = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RuntimeError)


@contextmanager
def translated_errors(permission: str, subject: str) -> Iterator[None]:
    """Raise what the SDK raises inside as ours. `permission` is the IAM action of the call, `subject` what it is about.

    Raises `Throttled` with the seconds to wait, `AccessDenied` naming the action and the statement to add, `Gone`,
    `ConfigError` if there are no credentials at all, and `CloudError` for the rest, answers that make no sense included.
    """
    try:
        yield
    except ClientError as error:
        raise translated(error, permission, subject) from None
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise ConfigError(
            f"AWS: {clean(str(error))}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (BotoConnectionError, HTTPClientError) as error:
        raise CloudError(f"{subject}: AWS did not answer {permission}: {clean(str(error))}") from None
    except (BotoCoreError, ResponseParserError, *_NO_SENSE) as error:
        raise CloudError(f"{subject}: {permission} failed: {clean(str(error)) or type(error).__name__}") from None


def translated(error: ClientError, permission: str, subject: str) -> Error:
    """Our error for what AWS answered."""
    code, message = _said(error)
    if error.operation_name == "AssumeRole" and permission != "sts:AssumeRole":
        permission, subject = (
            "sts:AssumeRole",
            f"{subject}: its role",
        )  # credentials renewed in the middle of something else
    status = _mapping(error.response, "ResponseMetadata").get("HTTPStatusCode")
    if code in _WAIT_SECONDS or status == 429:
        return Throttled(f"{subject}: {permission} is throttled ({code})", after=_wait(error.response, code))
    if code in _DENIED:
        return _denied(error.response, message, permission, subject)
    if code in _BAD_CREDENTIALS:
        return CloudError(
            f"{subject}: AWS does not know these credentials ({code}): check the key or role, the clock, "
            "and that the region is enabled for the account"
        )
    if code in _EXPIRED:
        return CloudError(
            f"{subject}: the credentials have expired ({code}): log in again or check the role's session time"
        )
    if code == "OptInRequired":
        return CloudError(
            f"{subject}: the account has not opted in to this region or service: enable it or leave it out"
        )
    if code in _GONE or code.endswith(".NotFound"):
        return Gone(f"{subject}: it is not there any more ({code})")
    return CloudError(f"{subject}: {permission} failed: {code}: {message}")


def error_code(error: ClientError) -> str:
    """AWS's own code, or an empty text."""
    return _said(error)[0]


def clean(text: str) -> str:
    """`text` of a provider: one short line in which nothing looks like a credential any more."""
    text = _ENCODED.sub("", text)
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    text = printable(" ".join(text.split()))
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"


def _denied(response: Mapping[str, Any], message: str, permission: str, subject: str) -> AccessDenied:
    named = _ACTION.search(message)
    reason = response.get("Reason")
    if reason == "DEPENDENCY_ACCESS_DENIED":  # EBS direct: the key, not the snapshot
        permission = "kms:Decrypt"
    elif named:
        permission = named[1]
    why = " by an explicit deny" if "explicit deny" in message else ""
    return AccessDenied(f"{subject}: {permission} is denied{why}: {advice(permission)}", permission=permission)


def _said(error: ClientError) -> tuple[str, str]:
    said = _mapping(error.response, "Error")
    code, message = said.get("Code"), said.get("Message")
    return clean(code if isinstance(code, str) else ""), clean(message if isinstance(message, str) else "")


def _wait(response: Mapping[str, Any], code: str) -> float:
    least = _WAIT_SECONDS.get(code, 2.0)
    told = _mapping(_mapping(response, "ResponseMetadata"), "HTTPHeaders").get("retry-after", "")
    try:
        asked = float(told)
    except (TypeError, ValueError):
        return least
    return min(max(asked, least), MOST_WAIT_SECONDS) if asked == asked else least  # noqa: PLR0124  not a number


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}
