from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import TypeAdapter

from client.digest import digest
from core.estate import Disk, Instance, InstanceState, Place
from tests.console.made import PLACE, instance

OTHERS: dict[str, Any] = {
    "place": Place("aws", "123456789012", "eu-west-2"),
    "id": "i-2",
    "name": "other",
    "state": InstanceState.STOPPED,
    "image": "ami-2",
    "os": "windows",
    "architecture": "arm64",
    "kind": "m7.large",
    "owner": "me",
    "launched": datetime(2026, 1, 3, tzinfo=UTC),
    "zone": "a",
    "network": "vpc-1",
    "subnet": "subnet-1",
    "addresses": ("10.0.0.1",),
    "security_groups": ("sg-1",),
    "tags": {"env": "test"},
    "disks": (),
    "excluded": "by a tag",
}
DISKS: dict[str, Any] = {
    "place": Place("aws", "123456789012", "eu-west-2"),
    "id": "vol-2",
    "instance": "i-2",
    "device": "/dev/xvdb",
    "size_bytes": 1,
    "boot": False,
    "kind": "gp3",
    "encrypted": True,
    "key": "k",
    "obstacle": "instance storage",
}


@pytest.mark.parametrize("name", [field.name for field in fields(Instance)])
def test_every_field_of_an_instance_counts(name: str) -> None:
    assert digest(replace(instance(), **{name: OTHERS[name]})) != digest(instance())


@pytest.mark.parametrize("name", [field.name for field in fields(Disk)])
def test_every_field_of_a_disk_counts(name: str) -> None:
    (disk,) = instance().disks
    assert digest(replace(instance(), disks=(replace(disk, **{name: DISKS[name]}),))) != digest(instance())


def test_what_does_not_count() -> None:
    turned = replace(instance(), tags={"app": "web", "env": "prod"})
    assert digest(turned) == digest(instance())
    launched = datetime(2026, 1, 2, 5, tzinfo=timezone(timedelta(hours=5)))
    assert digest(replace(instance(), launched=launched)) == digest(instance())


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(instance(), id="usual"),
        pytest.param(Instance(PLACE, "i"), id="bare"),
        pytest.param(replace(instance(), name="\x00\u202e", tags={"": "\x7f"}), id="controls"),
        pytest.param(
            replace(instance(), launched=datetime.max.replace(tzinfo=timezone(timedelta(hours=-12)))), id="end-of-time"
        ),
    ],
)
def test_it_is_the_same_after_the_way_to_the_console(one: Instance) -> None:
    adapter = TypeAdapter(Instance)
    there = adapter.validate_json(adapter.dump_json(one))
    assert digest(there) == digest(one)
    assert len(digest(one)) == 32


def test_lone_surrogates_have_a_digest() -> None:
    assert digest(replace(instance(), name="\ud800")) != digest(replace(instance(), name="\ud801"))
