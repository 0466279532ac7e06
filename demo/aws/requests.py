"""One HTTP request, and what it is about."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from demo.aws.identity import Signed
from demo.aws.rules import Caller

Environ = dict[str, Any]
MAX_BODY = 64 << 20
_RESOURCE = re.compile(r"(i|vol|snap|ami|sg|eni|subnet|vpc)-[0-9a-f]{8,17}")
_KINDS = {"i": "instance", "vol": "volume", "snap": "snapshot", "ami": "image", "sg": "security-group"}
_KINDS |= {"eni": "network-interface", "subnet": "subnet", "vpc": "vpc"}


@dataclass
class Request:
    """One HTTP request, its body read. Header names are in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    environ: Environ

    def signed(self) -> Signed:
        target = self.environ.get("REQUEST_URI") or self.environ.get("RAW_URI") or self.path
        return Signed(self.method, target, self.headers, self.body)


def read(environ: Environ) -> Request:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        body = environ["wsgi.input"].read(MAX_BODY)
    else:
        body = environ["wsgi.input"].read(min(length, MAX_BODY)) if length else b""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    headers["content-type"] = environ.get("CONTENT_TYPE", "")
    environ["wsgi.input"] = io.BytesIO(body)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    return Request(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), query, headers, body, environ)


def resources_of(request: Request, service: str, caller: Caller) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ARNs that a request names, and all names by which a fault may pick it."""
    if service == "ebs":
        parts = request.path.split("/")
        snapshot = next((part for part in parts if part.startswith("snap-")), "")
        names = [name for name in (snapshot, request.query.get("firstSnapshotId", "")) if name]
        arns = tuple(_arn("snap", name, caller) for name in names)
        block = f"{snapshot}/{parts[-1]}" if "blocks" in parts[:-1] else ""
        return arns, (*arns, snapshot, block)
    values: Iterable[str] = ()
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        pairs = parse_qsl(request.body.decode("utf-8", "replace"))
        # a tag may hold an id, and a key is authorised by KMS: neither is a resource of the call itself
        values = [value for name, value in pairs if ".Tag." not in name and name != "KmsKeyId"]
    found = (_named(value, caller) for value in values)
    arns = tuple(arn for arn in found if arn)
    return arns, (*arns, *(arn.rpartition("/")[2] for arn in arns), "")


def _named(value: str, caller: Caller) -> str:
    """The ARN of what a parameter's value names; empty if it names nothing."""
    if value.startswith("arn:"):
        return value
    match = _RESOURCE.fullmatch(value)
    return _arn(match[1], value, caller) if match else ""


def _arn(prefix: str, name: str, caller: Caller) -> str:
    account = "" if prefix in ("snap", "ami") else caller.account
    return f"arn:aws:ec2:{caller.region}:{account}:{_KINDS[prefix]}/{name}"
