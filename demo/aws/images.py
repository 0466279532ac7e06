"""A golden image: moto's has one empty disk of 15 GiB, ours has the snapshots of the instance that it was made of."""

from __future__ import annotations

from typing import Any

from moto.ec2.models.amis import Ami
from moto.ec2.utils import random_ami_id


class Image(Ami):
    """An image of `instance`. `add_device` gives it its disks; `equip` gives them to a new instance."""

    def __init__(self, backend: Any, instance: Any, name: str, description: str) -> None:
        super().__init__(
            backend,
            random_ami_id(),
            instance=instance,
            name=name,
            description=description,
            root_device_type="ebs",
            root_device_name=instance.root_device_name or "/dev/sda1",
        )
        backend.snapshots.pop(self.ebs_snapshot.id, None)  # moto's own, of an empty disk
        self._devices: list[dict[str, Any]] = []

    def add_device(self, device: str, snapshot_id: str, size_gib: int, *, encrypted: bool) -> None:
        ebs = {"SnapshotId": snapshot_id, "VolumeSize": size_gib, "Encrypted": encrypted}
        ebs |= {"DeleteOnTermination": True, "VolumeType": "gp3"}
        self._devices.append({"DeviceName": device, "Ebs": ebs})

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        return self._devices

    def equip(self, instance: Any) -> None:
        """Attach a volume for each disk of the image that the request did not give a volume of its own."""
        for entry in self._devices:
            device, ebs = entry["DeviceName"], entry["Ebs"]
            there = instance.block_device_mapping.get(device)
            volume = self.ec2_backend.volumes.get(there.volume_id) if there else None
            if volume is not None and volume.snapshot_id:
                continue
            if volume is not None:
                self.ec2_backend.detach_volume(volume.id, instance.id, device)
                self.ec2_backend.delete_volume(volume.id)
            size = max(ebs["VolumeSize"], volume.size if volume is not None and volume.size != 8 else 0)
            instance.add_block_device(size, device, ebs["SnapshotId"], ebs["Encrypted"], True, None, "gp3")
