"""How AWS says no, in each of the protocols that our calls use.

Sources: "Query API error responses" (EC2 API Reference), botocore's `ebs` service model (2019-11-02), Smithy's restJson1
and awsJson protocols.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import uuid4
from xml.sax.saxutils import escape

Headers = list[tuple[str, str]]


@dataclass
class ApiError(Exception):
    """One answer that is an error. `reason` is the enumerated one that some errors of EBS direct have."""

    code: str
    message: str
    status: int = 400
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Headers
    body: bytes


def not_found(what: str, reason: str = "SNAPSHOT_NOT_FOUND") -> ApiError:
    return ApiError("ResourceNotFoundException", what, 404, reason)


def invalid(message: str, reason: str = "INVALID_PARAMETER_VALUE") -> ApiError:
    return ApiError("ValidationException", message, 400, reason)


def answer_error(service: str, error: ApiError) -> Answer:
    """`error` as `service` (its signing name) writes it."""
    number = str(uuid4())
    if service == "ec2":
        inner = f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message></Error>"
        body = f"<Response><Errors>{inner}</Errors><RequestID>{number}</RequestID></Response>"
        return _xml(error.status, body)
    if service in ("sts", "iam"):
        inner = f"<Type>Sender</Type><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        body = f"<ErrorResponse><Error>{inner}</Error><RequestId>{number}</RequestId></ErrorResponse>"
        return _xml(error.status, body)
    if service == "s3":
        inner = f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        return _xml(error.status, f"<Error>{inner}<RequestId>{number}</RequestId></Error>")
    fields = {"Message": error.message, "message": error.message, "__type": error.code}
    if service == "ebs":
        fields = {"Message": error.message} | ({"Reason": error.reason} if error.reason else {})
    headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", error.code), ("x-amzn-RequestId", number)]
    return Answer(error.status, headers, json.dumps(fields).encode())


def _xml(status: int, body: str) -> Answer:
    return Answer(status, [("Content-Type", "text/xml;charset=UTF-8")], b'<?xml version="1.0"?>' + body.encode())
