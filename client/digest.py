"""What a console and its fleets compare instead of whole instances."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from core.estate import Disk, Instance, Place


def digest(instance: Instance) -> str:
    """32 hex digits that differ when anything known of `instance` does; the order of its tags and the offset of times do not count."""
    known = [
        _place(instance.place),
        instance.id,
        instance.name,
        instance.state.value,
        instance.image,
        instance.os,
        instance.architecture,
        instance.kind,
        instance.owner,
        _time(instance.launched),
        instance.zone,
        instance.network,
        instance.subnet,
        list(instance.addresses),
        list(instance.security_groups),
        sorted(instance.tags.items()),
        [_disk(disk) for disk in instance.disks],
        instance.excluded,
    ]
    text = json.dumps(known, separators=(",", ":"))  # ASCII: lone surrogates are escaped
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _place(place: Place) -> list[str]:
    return [place.cloud, place.account, place.region]


def _disk(disk: Disk) -> list[Any]:
    return [
        _place(disk.place),
        disk.id,
        disk.instance,
        disk.device,
        disk.size_bytes,
        disk.boot,
        disk.kind,
        disk.encrypted,
        disk.key,
        disk.obstacle,
    ]


def _time(time: datetime | None) -> str:
    if time is None:
        return ""
    try:
        return time.astimezone(UTC).isoformat()
    except OverflowError:  # at the ends of the calendar
        return time.isoformat()
