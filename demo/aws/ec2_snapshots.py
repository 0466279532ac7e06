"""The snapshot actions of EC2: states, late listing, sharing, copies, keys, paging.

moto keeps the instances, volumes and all tags; what a snapshot holds and who may see it is kept by `Library`.
Source: EC2 API Reference, the actions named below, and its "Error codes for the Amazon EC2 API".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_block_store import Snapshot as MotoSnapshot

from demo.aws.content import GIB, Content
from demo.aws.ec2_params import Params, any_like, is_true, new_id, page_of, tags_of, time_of
from demo.aws.errors import ApiError
from demo.aws.rules import Caller
from demo.aws.snapshots import Library, Snapshot

_NO_VOLUME = "vol-ffffffff"


class SnapshotActions:
    """Each action takes who calls and the parameters by their names in boto3, and returns what boto3 shows."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def content(self, account: str, region: str, volume_id: str) -> Content:
        """The content of a volume. Raises `ApiError` (InvalidVolume.NotFound)."""
        volume = ec2_backends[account][region].volumes.get(volume_id)
        if volume is None:
            raise ApiError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        return self._library.volume(volume.id, volume.size * GIB, volume.snapshot_id or "")

    def create_snapshot(self, caller: Caller, params: Params) -> Any:
        made = self._snapshot(caller, params["VolumeId"], params.get("Description", ""), tags_of(params, "snapshot"))
        return self._view(made, caller)

    def create_snapshots(self, caller: Caller, params: Params) -> Any:
        wanted = params.get("InstanceSpecification", {})
        instance = self._instance(caller, wanted.get("InstanceId", ""))
        devices = dict(instance.block_device_mapping)
        if is_true(wanted.get("ExcludeBootVolume")):
            devices.pop(instance.root_device_name, None)
        excluded = set(wanted.get("ExcludeDataVolumeIds") or wanted.get("ExcludeDataVolumeId") or ())
        volumes = [device.volume_id for device in devices.values() if device.volume_id]
        if excluded - set(volumes):
            raise ApiError("InvalidParameterValue", "An excluded volume is not attached to the instance.")
        volumes = [volume for volume in volumes if volume not in excluded]
        if not volumes:
            raise ApiError("InvalidParameterValue", f"Instance {instance.id} has no EBS volume to snapshot.")
        with self._library.lock:  # one moment for all of them
            tags, text = tags_of(params, "snapshot"), params.get("Description", "")
            made = [
                self._snapshot(caller, volume, text, {**self._copied_tags(caller, volume, params), **tags})
                for volume in volumes
            ]
            return {"Snapshots": [self._view(one, caller) for one in made]}

    def _copied_tags(self, caller: Caller, volume_id: str, params: Params) -> dict[str, str]:
        if params.get("CopyTagsFromSource") != "volume":
            return {}
        return dict(ec2_backends[caller.account][caller.region].tags.get(volume_id, {}))

    def _snapshot(
        self, caller: Caller, volume_id: str, text: str, tags: Mapping[str, str], image: str = ""
    ) -> Snapshot:
        backend = ec2_backends[caller.account][caller.region]
        with self._library.lock:
            content = self.content(caller.account, caller.region, volume_id)
            volume = backend.volumes[volume_id]
            key = self._key_of(volume, caller) if volume.encrypted else ""
            shell = MotoSnapshot(backend, new_id(), volume, text, volume.encrypted, key or None, from_ami=image or None)
            made = self._library.take(shell.id, caller, volume_id, content, key)
            made.description = text
            self._register(made, shell, tags)
            return made

    def _key_of(self, volume: Any, caller: Caller) -> str:
        keys = self._library.keys
        if volume.kms_key_id:
            return keys.resolve(volume.kms_key_id, caller.account, caller.region)
        return keys.default(caller.account, caller.region)

    def _register(self, made: Snapshot, shell: Any, tags: Mapping[str, str]) -> None:
        """Let moto know of a snapshot, so that it can be tagged and made into volumes and images."""
        ec2_backends[made.account][made.region].snapshots[made.id] = shell
        shell.add_tags(dict(tags))

    def adopt(self, made: Snapshot) -> None:
        """Let EC2 know of a snapshot that was started by EBS direct."""
        backend = ec2_backends[made.account][made.region]
        volume = SimpleNamespace(
            id=_NO_VOLUME, size=made.size_gib, encrypted=bool(made.key), kms_key_id=made.key or None
        )
        self._register(
            made, MotoSnapshot(backend, made.id, volume, made.description, bool(made.key), made.key or None), made.tags
        )

    def describe_snapshots(self, caller: Caller, params: Params) -> Any:
        ids = list(params.get("SnapshotIds") or ())
        if ids and params.get("MaxResults") is not None:
            text = "The parameter SnapshotIds cannot be used with the parameter MaxResults"
            raise ApiError("InvalidParameterCombination", text)
        with self._library.lock:
            found = [one for one in self._visible(caller) if self._selected(one, caller, params)]
            if ids:
                missing = sorted(set(ids) - {one.id for one in found})
                if missing:
                    raise ApiError("InvalidSnapshot.NotFound", f"The snapshot '{missing[0]}' does not exist.")
                found = [one for one in found if one.id in ids]
            page, token = page_of(found, params)
            views = [self._view(one, caller) for one in page]
        return {"Snapshots": views, "NextToken": token} if token else {"Snapshots": views}

    def _visible(self, caller: Caller) -> Iterable[Snapshot]:
        """Those in the caller's region that it may see and that are not hidden by the late listing; each is polled once."""
        for one in list(self._library.snapshots.values()):
            if one.region == caller.region and one.visible_to(caller.account):
                late = self._library.late(one)
                self._library.state(one, polled=True)
                if not late:
                    yield one

    def _selected(self, one: Snapshot, caller: Caller, params: Params) -> bool:
        owners = params.get("OwnerIds") or ()
        if owners and one.account not in [caller.account if owner == "self" else owner for owner in owners]:
            return False
        restorable = params.get("RestorableByUserIds") or ()
        if restorable and not any(self._restorable(one, user, caller) for user in restorable):
            return False
        return all(self._passes(one, caller, filter_) for filter_ in params.get("Filters") or ())

    @staticmethod
    def _restorable(one: Snapshot, user: str, caller: Caller) -> bool:
        account = caller.account if user == "self" else user
        return one.account == account or account in one.shared_with

    def _passes(self, one: Snapshot, caller: Caller, wanted: Mapping[str, Any]) -> bool:
        name, values = wanted.get("Name", ""), [str(value) for value in wanted.get("Values") or ()]
        tags = self._tags_of(one, caller)
        if name.startswith("tag:"):
            return any_like([tags[name[4:]]] if name[4:] in tags else [], values)
        facts: dict[str, Iterable[str]] = {
            "snapshot-id": [one.id],
            "volume-id": [one.volume],
            "volume-size": [str(one.size_gib)],
            "owner-id": [one.account],
            "status": [one.state],
            "description": [one.description],
            "encrypted": ["true" if one.key else "false"],
            "progress": [f"{self._library.progress(one)}%"],
            "tag-key": tags,
            "tag-value": tags.values(),
            "storage-tier": ["standard"],
        }
        if name not in facts:
            raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
        return any_like(facts[name], values)

    def _tags_of(self, one: Snapshot, caller: Caller) -> dict[str, str]:
        """Only the owner sees the tags of a shared snapshot."""
        if one.account != caller.account:
            return {}
        return dict(ec2_backends[one.account][one.region].tags.get(one.id, {}))

    def _view(self, one: Snapshot, caller: Caller) -> dict[str, Any]:
        tags = [{"Key": key, "Value": value} for key, value in self._tags_of(one, caller).items()]
        view: dict[str, Any] = {
            "SnapshotId": one.id,
            "VolumeId": one.volume,
            "State": one.state,
            "StartTime": time_of(one.started),
            "Progress": f"{self._library.progress(one)}%",
            "OwnerId": one.account,
            "Description": one.description,
            "VolumeSize": one.size_gib,
            "Encrypted": bool(one.key),
            "StorageTier": "standard",
            "Tags": tags,
        }
        if one.key:
            view["KmsKeyId"] = one.key
        if one.state == "error":
            view["StateMessage"] = one.message
        return view

    def delete_snapshot(self, caller: Caller, params: Params) -> None:
        with self._library.lock:
            one = self._own(caller, params["SnapshotId"])
            backend = ec2_backends[caller.account][caller.region]
            shell = backend.snapshots.get(one.id)
            if shell is not None and shell.from_ami and shell.from_ami in backend.amis:
                text = f"The snapshot {one.id} is currently in use by {shell.from_ami}"
                raise ApiError("InvalidSnapshot.InUse", text)
            self.forget(one)

    def forget(self, one: Snapshot) -> None:
        """As if it had never been: content, tags and all."""
        backend = ec2_backends[one.account][one.region]
        backend.snapshots.pop(one.id, None)
        backend.tags.pop(one.id, None)
        self._library.delete(one.id)

    def copy_snapshot(self, caller: Caller, params: Params) -> Any:
        library = self._library
        region = params.get("SourceRegion") or caller.region
        with library.lock:
            source = library.snapshots.get(params["SourceSnapshotId"])
            if source is None or source.region != region or not source.visible_to(caller.account):
                text = f"The snapshot '{params['SourceSnapshotId']}' does not exist."
                raise ApiError("InvalidSnapshot.NotFound", text)
            if library.state(source) != "completed":
                raise ApiError("IncorrectState", f"Snapshot {source.id} is in the state {source.state}.")
            key, failure = self._copy_key(caller, source, params)
            made = library.copy(new_id(), source, caller, key, failure)
            default = f"[Copied {source.id} from {region}]"
            made.description = params.get("Description") or default
            self.adopt(made)
            tags = tags_of(params, "snapshot")
            ec2_backends[caller.account][caller.region].snapshots[made.id].add_tags(tags)
        return {"SnapshotId": made.id, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def _copy_key(self, caller: Caller, source: Snapshot, params: Params) -> tuple[str, str]:
        """The key of a copy, and why the copy will fail: missing rights on keys show up only afterwards, as in AWS."""
        keys = self._library.keys
        name = params.get("KmsKeyId")
        if not source.key and not is_true(params.get("Encrypted")):
            if name:
                text = "The parameter KmsKeyId requires the parameter Encrypted to be set."
                raise ApiError("InvalidParameterDependency", text)
            return "", ""
        account, region = caller.account, caller.region
        key = keys.resolve(name, account, region) if name else keys.default(account, region)
        needed = [("kms:Decrypt", source.key)] if source.key else []
        needed += [("kms:GenerateDataKeyWithoutPlaintext", key), ("kms:CreateGrant", key)]
        failed = any(not keys.may(caller, action, arn) for action, arn in needed)
        return key, "Given key ID is not accessible" if failed else ""

    def modify_snapshot_attribute(self, caller: Caller, params: Params) -> None:
        with self._library.lock:
            one = self._own(caller, params["SnapshotId"])
            changes = params.get("CreateVolumePermission") or {}
            add = list(changes.get("Add") or ())
            remove = list(changes.get("Remove") or ())
            who = [{"UserId": user} for user in params.get("UserIds") or ()]
            who += [{"Group": group} for group in params.get("GroupNames") or ()]
            (remove if params.get("OperationType") == "remove" else add).extend(who)
            names = {str(entry.get("UserId") or entry.get("Group")) for entry in add}
            if names and one.key and self._library.keys.is_default(one.key):
                text = "Encrypted snapshots with EBS default key cannot be shared"
                raise ApiError("OperationNotPermitted", text)
            if "all" in names and one.key:
                raise ApiError("OperationNotPermitted", "Encrypted snapshots cannot be shared with everybody")
            for name in names:
                if name != "all" and not (name.isascii() and name.isdigit() and len(name) == 12):
                    raise ApiError("InvalidUserID.Malformed", f"Invalid user id: {name}")
            one.shared_with |= names
            one.shared_with -= {str(entry.get("UserId") or entry.get("Group")) for entry in remove}

    def describe_snapshot_attribute(self, caller: Caller, params: Params) -> Any:
        one = self._own(caller, params["SnapshotId"])
        entries = [{"Group": name} if name == "all" else {"UserId": name} for name in sorted(one.shared_with)]
        return {"SnapshotId": one.id, "CreateVolumePermissions": entries, "ProductCodes": []}

    def reset_snapshot_attribute(self, caller: Caller, params: Params) -> None:
        self._own(caller, params["SnapshotId"]).shared_with.clear()

    def _own(self, caller: Caller, snapshot_id: str) -> Snapshot:
        one = self._library.snapshots.get(snapshot_id)
        if one is None or one.region != caller.region or not one.visible_to(caller.account):
            raise ApiError("InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist.")
        if one.account != caller.account:
            text = f"You are not the owner of snapshot {snapshot_id}."
            raise ApiError("UnauthorizedOperation", text, 403)
        return one

    @staticmethod
    def _instance(caller: Caller, instance_id: str) -> Any:
        for reservation in ec2_backends[caller.account][caller.region].reservations.values():
            for instance in reservation.instances:
                if instance.id == instance_id:
                    if instance.state == "terminated":
                        text = f"Instance {instance_id} is terminated."
                        raise ApiError("IncorrectInstanceState", text)
                    return instance
        raise ApiError("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
