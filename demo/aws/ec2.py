"""The EC2 actions that moto does not do well enough, and what has to follow those that it does.

Source: EC2 API Reference, the actions named below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moto.ec2.models import ec2_backends

from demo.aws.crowd import Crowd, pattern
from demo.aws.ec2_params import Params, filters_of, is_true, page_of, tags_of
from demo.aws.ec2_snapshots import SnapshotActions
from demo.aws.errors import ApiError
from demo.aws.images import Image
from demo.aws.rules import Caller
from demo.aws.snapshots import Library

_LARGEST_PAGE = 1000


class Ec2(SnapshotActions):
    """The actions in `actions` are answered here; `made` and `gone` follow up what moto answered."""

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self.crowds: dict[tuple[str, str], Crowd] = {}
        self.actions: dict[str, Callable[[Caller, Params], Any]] = {
            "CreateSnapshot": self.create_snapshot,
            "CreateSnapshots": self.create_snapshots,
            "DescribeSnapshots": self.describe_snapshots,
            "DeleteSnapshot": self.delete_snapshot,
            "CopySnapshot": self.copy_snapshot,
            "ModifySnapshotAttribute": self.modify_snapshot_attribute,
            "DescribeSnapshotAttribute": self.describe_snapshot_attribute,
            "ResetSnapshotAttribute": self.reset_snapshot_attribute,
            "DescribeInstances": self.describe_instances,
            "DescribeVolumes": self.describe_volumes,
            "DescribeRegions": self.describe_regions,
            "CreateImage": self.create_image,
        }

    def describe_instances(self, caller: Caller, params: Params) -> Any:
        """As moto finds them, but a page is counted in instances and paging by ids is refused."""
        ids = list(params.get("InstanceIds") or ())
        size = params.get("MaxResults")
        if ids and size is not None:
            text = "The parameter instancesSet cannot be used with the parameter maxResults"
            raise ApiError("InvalidParameterCombination", text)
        if size is not None and not 5 <= int(size) <= _LARGEST_PAGE:
            raise ApiError("InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid.")
        backend = ec2_backends[caller.account][caller.region]
        filters = filters_of(params)
        if ids:
            known = {one.id for reservation in backend.all_reservations() for one in reservation.instances}
            if missing := [one for one in ids if one not in known]:
                raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{missing[0]}' does not exist")
            found = backend.get_reservations_by_instance_ids(ids, filters=filters)
        else:
            found = backend.describe_instances(filters=filters)
        pairs = [(reservation, instance) for reservation in found for instance in reservation.instances]
        page, token = page_of(pairs, params, None if ids else _LARGEST_PAGE)
        grouped: dict[str, dict[str, Any]] = {}
        for reservation, instance in page:
            group = grouped.setdefault(reservation.id, {"Reservation": reservation, "Instances": []})
            group["Instances"].append(instance)
        views = [
            {
                "ReservationId": name,
                "OwnerId": caller.account,
                "Groups": [],
                "Instances": group["Instances"],
            }
            for name, group in grouped.items()
        ]
        return {"Reservations": views, "NextToken": token} if token else {"Reservations": views}

    def describe_volumes(self, caller: Caller, params: Params) -> Any:
        ids = list(params.get("VolumeIds") or ())
        backend = ec2_backends[caller.account][caller.region]
        found = backend.describe_volumes(volume_ids=None, filters=filters_of(params))
        if ids:
            missing = sorted(set(ids) - set(backend.volumes))
            if missing:
                raise ApiError("InvalidVolume.NotFound", f"The volume '{missing[0]}' does not exist.")
            found = [volume for volume in found if volume.id in ids]
        page, token = page_of(found, params, None if ids else _LARGEST_PAGE)
        return {"Volumes": page, "NextToken": token} if token else {"Volumes": page}

    def describe_regions(self, caller: Caller, params: Params) -> Any:
        """Disabled ones only if asked for all, with their status."""
        rules = self._library.rules
        wanted = set(params.get("RegionNames") or ())
        everything = is_true(params.get("AllRegions"))
        views = []
        for region in ec2_backends[caller.account][caller.region].describe_regions():
            disabled = rules.region_disabled(caller.account, region.name)
            if (wanted and region.name not in wanted) or (disabled and not everything):
                continue
            status = "not-opted-in" if disabled else region.opt_in_status
            views.append({"RegionName": region.name, "Endpoint": region.endpoint, "OptInStatus": status})
        if wanted - {view["RegionName"] for view in views} and not everything:
            raise ApiError("InvalidParameterValue", "Invalid region provided")
        return {"Regions": views}

    def create_image(self, caller: Caller, params: Params) -> Any:
        """An image of an instance with a snapshot of each volume: the root of the lineage of what is made of it."""
        instance = self._instance(caller, params["InstanceId"])
        backend = ec2_backends[caller.account][caller.region]
        with self._library.lock:
            image = Image(backend, instance, params["Name"], params.get("Description", ""))
            for device, mapping in instance.block_device_mapping.items():
                if mapping.volume_id:
                    text = f"Created by CreateImage({instance.id}) for {image.id}"
                    made = self._snapshot(caller, mapping.volume_id, text, tags_of(params, "snapshot"), image.id)
                    image.add_device(device, made.id, made.size_gib, encrypted=bool(made.key))
            backend.amis[image.id] = image
            image.add_tags(tags_of(params, "image"))
        return {"ImageId": image.id}

    def make_instance_store(self, account: str, region: str, instance_id: str) -> None:
        """Take all volumes from an instance: what is left is storage of its host, which no snapshot can reach."""
        backend = ec2_backends[account][region]
        instance = backend.get_instance(instance_id)
        instance.root_device_type = "instance-store"
        for device, mapping in list(instance.block_device_mapping.items()):
            backend.detach_volume(mapping.volume_id, instance_id, device)
            backend.delete_volume(mapping.volume_id)
            self._library.forget_volume(mapping.volume_id)

    def crowd(self, caller: Caller, count: int) -> None:
        """From now on this account has in this region `count` instances that all look like its newest one."""
        (*_, reservation) = self.describe_instances(caller, {})["Reservations"]
        (instance, *_) = reservation["Instances"]
        (mapping, *_) = instance.block_device_mapping.values()
        names = {
            instance.id: pattern("i"),
            mapping.volume_id: pattern("vol"),
            reservation["ReservationId"]: pattern("r"),
        }
        names[">crowd<"] = ">crowd-%(n)d<"
        volume = self.describe_volumes(caller, {"VolumeIds": [mapping.volume_id]})
        self.crowds[caller.account, caller.region] = Crowd(count, {"Reservations": [reservation]}, volume, names)

    def started(self, caller: Caller, instance_ids: Iterable[str]) -> None:
        """After RunInstances: give each new instance the disks of its image, as moto does not."""
        backend = ec2_backends[caller.account][caller.region]
        for instance_id in instance_ids:
            instance = backend.get_instance(instance_id)
            image = backend.amis.get(instance.image_id)
            if isinstance(image, Image):
                image.equip(instance)
            for mapping in instance.block_device_mapping.values():
                volume = backend.volumes.get(mapping.volume_id)
                if volume is not None and volume.snapshot_id in self._library.snapshots:
                    self.content(caller.account, caller.region, volume.id)

    def created_volume(self, caller: Caller, volume_id: str) -> None:
        """After CreateVolume: take over what its snapshot holds before that can be deleted."""
        volume = ec2_backends[caller.account][caller.region].volumes.get(volume_id)
        if volume is not None and volume.snapshot_id:
            source = self._library.snapshots.get(volume.snapshot_id)
            if source is not None and source.key and not volume.kms_key_id:
                volume.encrypted, volume.kms_key_id = True, source.key
            self.content(caller.account, caller.region, volume_id)

    @staticmethod
    def volumes_of(caller: Caller, instance_ids: Iterable[str]) -> list[str]:
        instances = {one.id: one for one in ec2_backends[caller.account][caller.region].all_instances()}
        found = [instances[name] for name in instance_ids if name in instances]
        return [mapping.volume_id for one in found for mapping in one.block_device_mapping.values()]

    def forget_gone_volumes(self, caller: Caller, volume_ids: Iterable[str]) -> None:
        """After DeleteVolume and TerminateInstances: free what is not there any more."""
        volumes = ec2_backends[caller.account][caller.region].volumes
        for volume_id in volume_ids:
            if volume_id not in volumes:
                self._library.forget_volume(volume_id)
