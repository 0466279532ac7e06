"""What may be done to an instance: isolate, release, tag, stop. By the responder policy, a role of its own.

Isolating puts every network interface into a quarantine group without rules. What it was in before stands in tags of the
interface, so that any responder can release it. Connections that are open and tracked stay open until they time out: AWS
does not cut them when groups change (EC2 User Guide, "Security group connection tracking"); stop the instance to be sure.
Source: EC2 API reference, ModifyNetworkInterfaceAttribute, CreateSecurityGroup, RevokeSecurityGroupEgress.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from cloud.aws.errors import error_code, translated_errors
from cloud.aws.listing import bounded
from cloud.aws.tags import INSTALLATION, MOST_KEY, MOST_VALUE, PREFIX, plain, tag_list, to_tags
from core.errors import AccessDenied, CloudError, ConfigError, Gone
from core.estate import Instance

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

QUARANTINE: Final = "kumomori-quarantine"
GROUPS: Final = "kumomori:groups-"  # + 1, 2 …: a value holds 14 groups, an interface may have 16
_RESERVED: Final = ("installation", "token", "expires", "instance", "of", "exclude", "groups-")
_PER_TAG: Final = 14
_MOST_GROUPS: Final = 56
_GROUP: Final = re.compile(r"sg-([0-9a-f]{8,17})")
_REMEMBERED: Final = re.compile(r"[0-9a-f]{8,17}")
_NOT_IN_TAGS: Final = re.compile(r"[^\w .:/=+@-]")
_TRIES: Final = 6
_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class AwsResponder:
    """Responses in one account and region. Every method raises `AccessDenied`, `Gone`, `Throttled`, `CloudError`."""

    ec2: EC2Client
    installation: str
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        plain("installation's name", self.installation)

    def isolate(self, instance: Instance) -> None:
        """Quarantine all its interfaces, and remember the groups they had. One that is in quarantine already stays so."""
        cards = self._interfaces(instance)
        if not cards:
            raise Gone(f"{instance}: it has no network interface: it was terminated")
        for card in cards:
            quarantine = self._quarantine(_network(card, instance))
            now = _groups(card)
            if now == [quarantine]:
                continue
            if quarantine not in now:
                self._remember(card["NetworkInterfaceId"], now)
            self._put(card["NetworkInterfaceId"], [quarantine])

    def release(self, instance: Instance) -> None:
        """Give back the groups it had. Raises `CloudError` at the end for those that were deleted meanwhile, named; an
        interface none of whose groups exists any more stays isolated."""
        lost: list[str] = []
        for card in self._interfaces(instance):
            tags = to_tags(card.get("TagSet"))
            memory = [key for key in tags if key.startswith(GROUPS)]
            if not memory:
                continue
            quarantine = self._find_quarantine(_network(card, instance))
            if quarantine and quarantine.get("GroupId") in _groups(card):
                remembered = _remembered(tags)
                existing = self._existing(card["NetworkInterfaceId"], remembered)
                lost += [group for group in remembered if group not in existing]
                if not existing:
                    lost.append(
                        f"all groups of {card['NetworkInterfaceId']}, which stays isolated: give it one by hand"
                    )
                    continue
                self._put(card["NetworkInterfaceId"], existing)
            self._forget(card["NetworkInterfaceId"], memory)
        if lost:
            raise CloudError(f"{instance}: released, but these groups were deleted meanwhile: {', '.join(lost)}")

    def tag(self, instance: Instance, key: str, value: str) -> None:
        """Set a tag in our name space. `value` may come from a hostile disk: what AWS does not take becomes `_`, the rest is cut.

        Raises `ConfigError` for a key that is not ours to set.
        """
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or len(key) > MOST_KEY or not name or _NOT_IN_TAGS.search(name):
            raise ConfigError(f"a tag that we set is called {PREFIX}NAME, at most {MOST_KEY} characters")
        if name.startswith(_RESERVED):
            raise ConfigError(f"the tag {key} is set by Kumomori itself")
        cut = _NOT_IN_TAGS.sub("_", value)[:MOST_VALUE]
        with translated_errors("ec2:CreateTags", str(instance)):
            self.ec2.create_tags(Resources=[instance.id], Tags=[{"Key": key, "Value": cut}])

    def stop(self, instance: Instance) -> None:
        """Stop it as its operating system would; one that is stopped already stays so."""
        with translated_errors("ec2:StopInstances", str(instance)):
            try:
                self.ec2.stop_instances(InstanceIds=[instance.id])
            except ClientError as error:
                if error_code(error) == "IncorrectInstanceState":
                    raise CloudError(f"{instance}: it is not in a state from which it can be stopped") from None
                raise

    def _interfaces(self, instance: Instance) -> list[Mapping[str, Any]]:
        pages = self.ec2.get_paginator("describe_network_interfaces").paginate(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance.id]}]
        )
        found = bounded(pages, "ec2:DescribeNetworkInterfaces", str(instance))
        return [card for page in found for card in page.get("NetworkInterfaces", ()) if card.get("NetworkInterfaceId")]

    def _quarantine(self, network: str) -> str:
        """The id of the network's quarantine group, made if there is none, and emptied of all rules."""
        group = self._find_quarantine(network)
        if group is None:
            self._make_quarantine(network)
            group = self._find_quarantine(network)
        for _ in range(_TRIES):
            if group is not None:
                break
            self.pause(_PAUSE_SECONDS)  # EC2 lists late
            group = self._find_quarantine(network)
        if group is None:
            raise CloudError(f"{network}: the group {QUARANTINE} was made but is not listed")
        found = str(group.get("GroupId", ""))
        self._empty(found, group)
        return found

    def _find_quarantine(self, network: str) -> Mapping[str, Any] | None:
        filters = [{"Name": "vpc-id", "Values": [network]}, {"Name": "group-name", "Values": [QUARANTINE]}]
        with translated_errors("ec2:DescribeSecurityGroups", network):
            answer = self.ec2.describe_security_groups(Filters=filters)  # type: ignore[arg-type]
        for group in answer.get("SecurityGroups", ()):
            if to_tags(group.get("Tags")).get(INSTALLATION) == self.installation:
                return group
            raise CloudError(f"{network}: a group {QUARANTINE} exists and is not ours: rename it, then isolate again")
        return None

    def _make_quarantine(self, network: str) -> None:
        tags = {INSTALLATION: self.installation, "Name": QUARANTINE}
        with translated_errors("ec2:CreateSecurityGroup", network):
            try:
                self.ec2.create_security_group(
                    GroupName=QUARANTINE,
                    Description="Kumomori: no traffic at all",
                    VpcId=network,
                    TagSpecifications=[{"ResourceType": "security-group", "Tags": tag_list(tags)}],
                )
            except ClientError as error:
                if error_code(error) != "InvalidGroup.Duplicate":  # another responder made it first
                    raise

    def _empty(self, group: str, raw: Mapping[str, Any]) -> None:
        """AWS gives a new group a rule that lets everything out; somebody may have added others. One revoked meanwhile is fine."""
        if rules := raw.get("IpPermissionsEgress"):
            with suppress(Gone), translated_errors("ec2:RevokeSecurityGroupEgress", group):
                self.ec2.revoke_security_group_egress(GroupId=group, IpPermissions=rules)
        if rules := raw.get("IpPermissions"):
            with suppress(Gone), translated_errors("ec2:RevokeSecurityGroupIngress", group):
                self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)

    def _remember(self, card: str, groups: Sequence[str]) -> None:
        plain_ids = [match[1] for group in groups[:_MOST_GROUPS] if (match := _GROUP.fullmatch(group))]
        parts = [plain_ids[start : start + _PER_TAG] for start in range(0, len(plain_ids), _PER_TAG)] or [[]]
        tags = {f"{GROUPS}{number}": " ".join(part) or "none" for number, part in enumerate(parts, 1)}
        with translated_errors("ec2:CreateTags", card):
            self.ec2.create_tags(Resources=[card], Tags=tag_list({**tags, INSTALLATION: self.installation}))

    def _put(self, card: str, groups: Sequence[str]) -> None:
        """The policy allows this for interfaces with our tag only, and a tag set a moment ago may not count yet."""
        for tries in range(1, _TRIES + 1):
            try:
                with translated_errors("ec2:ModifyNetworkInterfaceAttribute", card):
                    self.ec2.modify_network_interface_attribute(NetworkInterfaceId=card, Groups=list(groups))
            except AccessDenied:
                if tries == _TRIES:
                    raise
                self.pause(_PAUSE_SECONDS)
            else:
                return

    def _existing(self, card: str, remembered: Sequence[str]) -> list[str]:
        if not remembered:
            return []
        filters: Any = [{"Name": "group-id", "Values": list(remembered)}]
        with translated_errors("ec2:DescribeSecurityGroups", card):
            answer = self.ec2.describe_security_groups(Filters=filters)
        found = {str(group.get("GroupId")) for group in answer.get("SecurityGroups", ())}
        return [group for group in remembered if group in found]

    def _forget(self, card: str, keys: Sequence[str]) -> None:
        tags: Any = [{"Key": key} for key in (*keys, INSTALLATION)]
        with translated_errors("ec2:DeleteTags", card):
            self.ec2.delete_tags(Resources=[card], Tags=tags)


def _network(card: Mapping[str, Any], instance: Instance) -> str:
    return str(card.get("VpcId") or instance.network)


def _groups(card: Mapping[str, Any]) -> list[str]:
    return [str(group.get("GroupId")) for group in card.get("Groups", ()) if group.get("GroupId")]


def _remembered(tags: Mapping[str, str]) -> list[str]:
    """Group ids of our tags. Anybody who may tag can write there: only what looks like an id counts, and not many."""
    return list(dict.fromkeys(_ids(tags)))[:_MOST_GROUPS]


def _ids(tags: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(tag for tag in tags if tag.startswith(GROUPS)):
        yield from (f"sg-{word}" for word in tags[key].split() if _REMEMBERED.fullmatch(word))
