"""Who signed a request. Keys are moto's: its IAM users and the roles that STS handed out.

Source: "AWS Signature Version 4 for API requests" (IAM User Guide).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from demo.aws.clock import Clock
from demo.aws.errors import ApiError

PARTITION = "aws"
_UNVERIFIED = {"s3"}  # signs by rules of its own
_SIGNED = re.compile(r"SignedHeaders=([a-z0-9;_-]+), *Signature=([0-9a-f]{64})")
_CREDENTIAL = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([A-Z0-9]{16,32})/([0-9]{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request"
)


@dataclass(frozen=True, slots=True)
class Key:
    """An access key. `expires` is in seconds since 1970, or None; `token` is the session's, or empty."""

    account: str
    principal: str
    secret: str
    token: str = ""
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What the Authorization header says before anything is checked."""

    access_key: str
    region: str
    service: str


def scope_of(headers: Mapping[str, str]) -> Scope | None:
    match = _CREDENTIAL.match(headers.get("authorization", ""))
    return Scope(match[1], match[3], match[4]) if match else None


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature is about: `target` is path and query as they came, header names are in small letters."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class Identities:
    """Looks keys up and remembers them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, Key] = {}

    def key(self, access_key: str) -> Key | None:
        """None for a key that nobody has."""
        if access_key not in self._known:
            found = _find(access_key)
            if found is None:
                return None
            if found.expires is not None:  # by the real time, which moto goes by
                found = replace(found, expires=found.expires + self._clock.ahead)
            self._known[access_key] = found
        return self._known[access_key]

    def check(self, scope: Scope, headers: Mapping[str, str]) -> Key:
        """The key of a request. Raises `ApiError` if it is unknown, its session's token is wrong or its time is over."""
        key = self.key(scope.access_key)
        if key is None or (key.token and headers.get("x-amz-security-token") != key.token):
            raise wrong_credentials(scope.service)
        if key.expires is not None and self._clock.now() >= key.expires:
            raise expired_credentials(scope.service)
        return key

    def verify(self, scope: Scope, key: Key, message: Signed) -> None:
        """Raise `ApiError` if the request was not signed with the secret of `key`, or changed afterwards."""
        if scope.service in _UNVERIFIED:
            return
        signed = _SIGNED.search(message.headers.get("authorization", ""))
        if signed is None:
            raise wrong_signature(scope.service)
        names = signed[1].split(";")
        headers = {name: message.headers.get(name, "") for name in names}
        request = AWSRequest(
            message.method, f"http://{message.headers.get('host')}{message.target}", headers, message.body
        )
        request.context["timestamp"] = message.headers.get("x-amz-date", "")
        signer = SigV4Auth(Credentials(scope.access_key, key.secret), scope.service, scope.region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        if "host" not in names or not hmac.compare_digest(signer.signature(text, request), signed[2]):
            raise wrong_signature(scope.service)


def _find(access_key: str) -> Key | None:
    for account, backends in list(iam_backends.items()):
        found = backends[PARTITION].access_keys.get(access_key)
        if found is None:
            continue
        if found.role_arn:
            roles = sts_backends[account][PARTITION].assumed_roles
            session = next((role for role in roles if role.access_key_id == access_key), None)
            if session is None:
                return None
            expires = session.expiration.timestamp()
            return Key(account, found.role_arn, found.secret_access_key, session.session_token, expires)
        principal = f"arn:aws:iam::{account}:user/{found.user_name}"
        return Key(account, principal, found.secret_access_key)
    return None


def wrong_signature(service: str) -> ApiError:
    text = "The request signature we calculated does not match the signature you provided."
    if service == "ec2":
        return wrong_credentials(service)
    return ApiError("SignatureDoesNotMatch" if service in ("sts", "iam") else "InvalidSignatureException", text, 403)


def wrong_credentials(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    message = "The security token included in the request is invalid."
    if service in ("sts", "iam"):
        return ApiError("InvalidClientTokenId", message, 403)
    return ApiError("UnrecognizedClientException", message, 403 if service == "ebs" else 400)


def expired_credentials(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("RequestExpired", "Request has expired.")
    message = "The security token included in the request is expired"
    if service in ("sts", "iam"):
        return ApiError("ExpiredToken", message, 403)
    return ApiError("ExpiredTokenException", message, 403 if service == "ebs" else 400)


def no_permission(service: str, action: str, principal: str, resource: str) -> ApiError:
    who = f"User: {principal} is not authorized to perform: {action} on resource: {resource or '*'}"
    if service == "ec2":
        text = f"You are not authorized to perform this operation. {who} because no identity-based policy allows the action"
        return ApiError("UnauthorizedOperation", text, 403)
    if service in ("sts", "iam", "s3"):
        return ApiError("AccessDenied", who, 403)
    return ApiError("AccessDeniedException", who, 403 if service == "ebs" else 400)


def throttled(service: str) -> ApiError:
    if service == "ec2":
        return ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
    if service == "ebs":
        return ApiError("RequestThrottledException", "Rate exceeded", 400, "ACCOUNT_THROTTLED")
    return ApiError("Throttling" if service in ("sts", "iam") else "ThrottlingException", "Rate exceeded", 400)


def internal(service: str) -> ApiError:
    code = {"ec2": "InternalError", "ebs": "InternalServerException"}.get(service, "InternalFailure")
    return ApiError(code, "An internal error has occurred", 500)
