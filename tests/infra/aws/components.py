"""Every component as plain as it can be and with all that can be asked for, and what each makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import pulumi

from infra.aws.account import ProtectedAccount
from infra.aws.console import Console
from infra.aws.fleet import ScanFleet
from infra.aws.organization import Organization
from tests.infra.aws.graph import ACCOUNT, REGION, Graph, run

READER: Final = "222222222222"
TRUSTED: Final = f"arn:aws:iam::{READER}:role/Fleet"
KEY: Final = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd"
IMAGE: Final = f"{READER}.dkr.ecr.{REGION}.amazonaws.com/kumomori@sha256:{'a' * 64}"
NETWORK: Final = {"vpc": "vpc-0a1b2c3d", "subnets": ["subnet-0a1b2c3d", "subnet-0a1b2c3e"]}

PROTECTED: Final = {"installation": "acme", "account": ACCOUNT, "regions": [REGION], "trusted": TRUSTED}
ORGANIZATION: Final = {
    "installation": "acme",
    "region": REGION,
    "trusted": TRUSTED,
    "units": ["ou-ab12-11111111"],
    "external_id": "acme-4711",
}
FLEET: Final = {
    "installation": "acme",
    "region": REGION,
    "console": "https://kumomori.example.com",
    "image": IMAGE,
    "accounts": [ACCOUNT, "333333333333"],
    **NETWORK,
}
CONSOLE: Final = {
    "installation": "acme",
    "region": REGION,
    "clients": ["10.0.0.0/8"],
    "host": "kumomori.example.com",
    "certificate": f"arn:aws:acm:{REGION}:{READER}:certificate/12345678-1234-1234-1234-123456789012",
    "image": IMAGE,
    **NETWORK,
}
CLASSES: Final[Mapping[str, tuple[Callable[..., pulumi.ComponentResource], Mapping[str, Any]]]] = {
    "account": (ProtectedAccount, PROTECTED),
    "organization": (Organization, ORGANIZATION),
    "fleet": (ScanFleet, FLEET),
    "console": (Console, CONSOLE),
}
MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "account": {
        "regions": [REGION, "us-east-1", "ap-southeast-2"],
        "any_snapshot": True,
        "keys": [KEY],
        "granted_keys": [KEY],
        "scanner_account": READER,
        "copy_key": KEY,
        "responder": True,
        "reader": True,
        "external_id": "word-1",
        "role_name": "Scanner",
    },
    "organization": {"delegated": True, "any_snapshot": True, "role_name": "Scanner"},
    "fleet": {
        "endpoints": True,
        "route_tables": ["rtb-0a1b2c3d"],
        "machines": 5,
        "on_demand": 1,
        "database_multi_az": True,
        "database_key": KEY,
        "deletion_protection": False,
        "final_snapshot": False,
        "fleet": "eu",
    },
    "console": {"zone": "Z0123456ABC", "shell": True, "clients": ["10.1.0.0/16", "192.168.7.0/24"], "log_days": 30},
}


def make(kind: str, name: str = "prod", **changes: Any) -> pulumi.ComponentResource:
    of, usual = CLASSES[kind]
    return of(name, {key: value for key, value in {**usual, **changes}.items() if value is not ...})


@cache
def plain(kind: str) -> Graph:
    return run(lambda: make(kind))


@cache
def full(kind: str) -> Graph:
    return run(lambda: make(kind, **MORE[kind]))
