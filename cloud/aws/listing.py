"""The listing calls of EC2, streamed page by page. A page that never ends is cut off, with an error.

Source: EC2 API reference, DescribeInstances, DescribeVolumes, DescribeInstanceTypes, DescribeSnapshots, DescribeImages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

from cloud.aws.errors import translated_errors
from cloud.aws.inventory import (
    LocalDisks,
    Rules,
    Volume,
    instance_id,
    iter_instances,
    to_image,
    to_instance,
    to_local,
    to_snapshot,
    to_volume,
)
from core.errors import CloudError, Gone
from core.estate import Image, Instance, Place, Snapshot

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

PAGE: Final = 1000  # AWS's maximum; fewer calls, and an answer of some 5 MB
FILTER_VALUES: Final = 200  # AWS's maximum of values in one filter
MOST_PAGES: Final = 100_000
_TYPES: Final = 100


def list_instances(ec2: EC2Client, place: Place, rules: Rules) -> Iterator[Instance]:
    """Every instance with its disks: one page of instances in memory at a time, their volumes 200 instances at a time.

    Raises `AccessDenied` for ec2:DescribeInstances, ec2:DescribeVolumes or ec2:DescribeInstanceTypes, `Throttled`, `CloudError`.
    """
    pages = ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": PAGE})
    return _with_disks(ec2, place, rules, pages)


def list_without_disks(ec2: EC2Client, place: Place, rules: Rules) -> Iterator[Instance]:
    """Every instance as DescribeInstances alone shows it, the sizes of its disks unknown. Raises as `list_instances`."""
    pages = ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": PAGE})
    for page in bounded(pages, "ec2:DescribeInstances", str(place)):
        for raw in iter_instances(page):
            yield to_instance(raw, place, rules, {})


def instances_by_id(ec2: EC2Client, place: Place, rules: Rules, ids: Sequence[str]) -> Iterator[Instance]:
    """Those of `ids` that EC2 lists (a new one may be listed late). Raises as `list_instances`.

    A filter, as ids would fail as a whole if one vanished.
    """
    for start in range(0, len(ids), FILTER_VALUES):
        some = list(ids[start : start + FILTER_VALUES])
        pages = ec2.get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-id", "Values": some}])
        yield from _with_disks(ec2, place, rules, pages)


def _with_disks(ec2: EC2Client, place: Place, rules: Rules, pages: Iterable[Any]) -> Iterator[Instance]:
    types: dict[str, tuple[LocalDisks, ...]] = {}
    for page in bounded(pages, "ec2:DescribeInstances", str(place)):
        found = iter_instances(page)
        while some := list(islice(found, FILTER_VALUES)):
            _learn_types(ec2, place, some, types)
            volumes = attached_volumes(ec2, place, [instance_id(raw) for raw in some if raw.get("BlockDeviceMappings")])
            for raw in some:
                yield to_instance(raw, place, rules, volumes, types.get(str(raw.get("InstanceType")), ()))


def find_instance(ec2: EC2Client, place: Place, rules: Rules, wanted: str) -> Instance:
    """One instance with its disks as they are now. Raises `Gone` if it is not there, and as `list_instances`."""
    with translated_errors("ec2:DescribeInstances", wanted):
        answer = ec2.describe_instances(InstanceIds=[wanted])
    types: dict[str, tuple[LocalDisks, ...]] = {}
    for raw in iter_instances(answer):
        if instance_id(raw) == wanted:
            _learn_types(ec2, place, [raw], types)
            volumes = attached_volumes(ec2, place, [wanted])
            return to_instance(raw, place, rules, volumes, types.get(str(raw.get("InstanceType")), ()))
    raise Gone(f"{place}/{wanted}: there is no such instance")


def find_image(ec2: EC2Client, place: Place, wanted: str) -> Image:
    """One image, whosever it is. Raises `Gone` if it is not there or not to be seen, and as `list_images`."""
    with translated_errors("ec2:DescribeImages", wanted):
        answer = ec2.describe_images(ImageIds=[wanted])
    for raw in answer.get("Images", ()):
        if (found := to_image(raw, place)).id == wanted:
            return found
    raise Gone(f"{place}/{wanted}: there is no such image")


def attached_volumes(ec2: EC2Client, place: Place, instances: Sequence[str]) -> dict[str, Volume]:
    """Volumes attached to `instances` (at most 200 ids), by their id. A filter, not ids: those fail as a whole if one vanished."""
    if not instances:
        return {}
    found: dict[str, Volume] = {}
    pages = ec2.get_paginator("describe_volumes").paginate(
        Filters=[{"Name": "attachment.instance-id", "Values": list(instances)}], PaginationConfig={"PageSize": PAGE}
    )
    for page in bounded(pages, "ec2:DescribeVolumes", str(place)):
        found.update(filter(None, map(to_volume, page.get("Volumes", ()))))
    return found


def list_snapshots(
    ec2: EC2Client, place: Place, *, of: Literal["own", "shared"] = "own", filters: Sequence[Any] = ()
) -> Iterator[Snapshot]:
    """Snapshots of the account, or those shared with it by another. Raises `AccessDenied`, `Throttled`, `CloudError`."""
    whose: Mapping[str, Any] = {"OwnerIds": ["self"]} if of == "own" else {"RestorableByUserIds": ["self"]}
    pages = ec2.get_paginator("describe_snapshots").paginate(
        **whose, Filters=list(filters), PaginationConfig={"PageSize": PAGE}
    )
    for page in bounded(pages, "ec2:DescribeSnapshots", str(place)):
        for raw in page.get("Snapshots", ()):
            snapshot = to_snapshot(raw, place)
            if of == "own" or snapshot.owner != place.account:
                yield snapshot


def list_images(ec2: EC2Client, place: Place, *, of: Literal["own", "shared"] = "own") -> Iterator[Image]:
    """Images of the account, or those shared with it (not the public ones). Raises as `list_snapshots`."""
    whose: Mapping[str, Any] = {"Owners": ["self"]} if of == "own" else {"ExecutableUsers": ["self"]}
    pages = ec2.get_paginator("describe_images").paginate(**whose, PaginationConfig={"PageSize": PAGE})
    for page in bounded(pages, "ec2:DescribeImages", str(place)):
        for raw in page.get("Images", ()):
            yield to_image(raw, place)


def bounded(pages: Iterable[Any], permission: str, subject: str, most: int = MOST_PAGES) -> Iterator[Mapping[str, Any]]:
    """`pages` with our errors, at most `most` of them. The SDK itself refuses a token that it has just been given."""
    walk = iter(pages)
    for _ in range(most):
        with translated_errors(permission, subject):
            page = next(walk, None)
        if page is None:
            return
        if isinstance(page, dict):
            yield page
    raise CloudError(f"{subject}: {permission} does not come to an end after {most:,} pages")


def _learn_types(
    ec2: EC2Client, place: Place, raws: Iterable[Mapping[str, Any]], known: dict[str, tuple[LocalDisks, ...]]
) -> None:
    """DescribeInstances does not show instance storage; its types do. One that AWS does not list any more has none."""
    new = sorted({str(raw["InstanceType"]) for raw in raws if raw.get("InstanceType")} - known.keys())
    for start in range(0, len(new), _TYPES):
        some = new[start : start + _TYPES]
        pages = ec2.get_paginator("describe_instance_types").paginate(
            Filters=[{"Name": "instance-type", "Values": some}]
        )
        known.update(dict.fromkeys(some, ()))
        for page in bounded(pages, "ec2:DescribeInstanceTypes", str(place)):
            known.update(filter(None, map(to_local, page.get("InstanceTypes", ()))))
