"""Which operation a request asks for, in each of the protocols of AWS. Source: botocore's service models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qs

_EBS = (
    ("GET", re.compile(r"/snapshots/[^/]+/blocks"), "ListSnapshotBlocks"),
    ("GET", re.compile(r"/snapshots/[^/]+/changedblocks"), "ListChangedBlocks"),
    ("GET", re.compile(r"/snapshots/[^/]+/blocks/[^/]+"), "GetSnapshotBlock"),
    ("PUT", re.compile(r"/snapshots/[^/]+/blocks/[^/]+"), "PutSnapshotBlock"),
    ("POST", re.compile(r"/snapshots/completion/[^/]+"), "CompleteSnapshot"),
    ("POST", re.compile(r"/snapshots"), "StartSnapshot"),
)


def operation_of(service: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> str:
    """The operation's name; for a REST service that is not EBS direct, its method and path."""
    if service == "ebs":
        return next((name for verb, form, name in _EBS if verb == method and form.fullmatch(path)), "Unknown")
    if target := headers.get("x-amz-target"):
        return target.rpartition(".")[2]
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return parse_qs(body.decode("utf-8", "replace")).get("Action", ["Unknown"])[0]
    return f"{method} {path}"
