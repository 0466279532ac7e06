"""Isolate, release, tag, stop: twice is fine, half done is fine, and nothing of anybody else's is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cloud.aws.accounts import Role, Sessions
from cloud.aws.responder import GROUPS, QUARANTINE, AwsResponder
from core.errors import AccessDenied, CloudError, ConfigError, Gone
from core.estate import Instance, Place
from demo.aws.emulator import REGION, EmulatedAws
from infra.aws import policies
from infra.aws.policies import Setup
from tests.cloud.aws.conftest import INSTALLATION, fails, launch, over


@dataclass
class Machine:
    ec2: Any
    instance: Instance

    def cards(self) -> list[Any]:
        filters = [{"Name": "attachment.instance-id", "Values": [self.instance.id]}]
        found: list[Any] = self.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
        return found

    def groups(self) -> list[list[str]]:
        return [sorted(group["GroupName"] for group in card["Groups"]) for card in self.cards()]

    def tags(self) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for card in self.cards() for tag in card.get("TagSet", ())}

    def make_group(self, name: str, **more: Any) -> str:
        return str(
            self.ec2.create_security_group(GroupName=name, Description="x", VpcId=self.instance.network, **more)[
                "GroupId"
            ]
        )


@pytest.fixture
def responder(sessions: Callable[[str], Sessions]) -> AwsResponder:
    of = sessions("responder")
    return AwsResponder(of.client(of.base, "ec2", REGION), INSTALLATION, pause=lambda _: None)


@pytest.fixture
def machine(ec2: Any, account: str) -> Machine:
    launched = launch(ec2)
    network = ec2.describe_instances(InstanceIds=[launched])["Reservations"][0]["Instances"][0]["VpcId"]
    made = Machine(ec2, Instance(Place("aws", account, REGION), launched, network=network))
    groups = [made.make_group("web"), made.make_group("db")]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=made.cards()[0]["NetworkInterfaceId"], Groups=groups)
    return made


def test_isolate_and_release(responder: AwsResponder, machine: Machine) -> None:
    for _ in range(2):
        responder.isolate(machine.instance)
        assert machine.groups() == [[QUARANTINE]]
    (quarantine,) = machine.ec2.describe_security_groups(GroupNames=[QUARANTINE])["SecurityGroups"]
    assert (quarantine["IpPermissions"], quarantine["IpPermissionsEgress"]) == ([], [])
    assert f"{GROUPS}1" in machine.tags()
    for _ in range(2):
        responder.release(machine.instance)
        assert machine.groups() == [["db", "web"]]
    assert machine.tags() == {}
    responder.isolate(machine.instance)
    assert machine.groups() == [[QUARANTINE]]


def test_rules_that_somebody_added_go(responder: AwsResponder, machine: Machine) -> None:
    responder.isolate(machine.instance)
    (quarantine,) = machine.ec2.describe_security_groups(GroupNames=[QUARANTINE])["SecurityGroups"]
    rule = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    machine.ec2.authorize_security_group_ingress(GroupId=quarantine["GroupId"], IpPermissions=rule)
    machine.ec2.authorize_security_group_egress(GroupId=quarantine["GroupId"], IpPermissions=rule)
    responder.isolate(machine.instance)
    (quarantine,) = machine.ec2.describe_security_groups(GroupNames=[QUARANTINE])["SecurityGroups"]
    assert (quarantine["IpPermissions"], quarantine["IpPermissionsEgress"]) == ([], [])


def test_died_between_note_and_change(responder: AwsResponder, machine: Machine) -> None:
    broken = replace(
        responder,
        ec2=over(responder.ec2, modify_network_interface_attribute=fails("InternalError")),
    )
    with pytest.raises(CloudError, match="InternalError"):
        broken.isolate(machine.instance)
    assert machine.groups() == [["db", "web"]]
    responder.isolate(machine.instance)
    responder.release(machine.instance)
    assert machine.groups() == [["db", "web"]]


def test_every_interface(responder: AwsResponder, machine: Machine) -> None:
    subnet = machine.cards()[0]["SubnetId"]
    group = machine.make_group("mgmt")
    second = machine.ec2.create_network_interface(SubnetId=subnet, Groups=[group])["NetworkInterface"][
        "NetworkInterfaceId"
    ]
    machine.ec2.attach_network_interface(NetworkInterfaceId=second, InstanceId=machine.instance.id, DeviceIndex=1)
    responder.isolate(machine.instance)
    assert machine.groups() == [[QUARANTINE]] * 2
    responder.release(machine.instance)
    assert sorted(machine.groups()) == [["db", "web"], ["mgmt"]]


def test_foreign_group_of_our_name(responder: AwsResponder, machine: Machine) -> None:
    machine.make_group(QUARANTINE)
    with pytest.raises(CloudError, match="exists and is not ours"):
        responder.isolate(machine.instance)
    assert machine.groups() == [["db", "web"]]


def test_group_made_by_another_responder_meanwhile(responder: AwsResponder, machine: Machine) -> None:
    real = responder.ec2.create_security_group

    def create(**given: Any) -> Any:
        real(**given)
        return real(**given)

    racing = replace(responder, ec2=over(responder.ec2, create_security_group=create))
    racing.isolate(machine.instance)
    assert machine.groups() == [[QUARANTINE]]


def test_groups_deleted_meanwhile(responder: AwsResponder, machine: Machine) -> None:
    responder.isolate(machine.instance)
    web = machine.ec2.describe_security_groups(GroupNames=["web"])["SecurityGroups"][0]["GroupId"]
    machine.ec2.delete_security_group(GroupId=web)
    with pytest.raises(CloudError, match=f"released, but these groups were deleted meanwhile: {web}"):
        responder.release(machine.instance)
    assert machine.groups() == [["db"]]
    responder.release(machine.instance)


def test_all_groups_deleted_meanwhile(responder: AwsResponder, machine: Machine) -> None:
    responder.isolate(machine.instance)
    for name in ("web", "db"):
        machine.ec2.delete_security_group(GroupName=name)
    with pytest.raises(CloudError, match="stays isolated"):
        responder.release(machine.instance)
    assert machine.groups() == [[QUARANTINE]]
    assert f"{GROUPS}1" in machine.tags()


@pytest.mark.parametrize("memory", ["", "none", "sg-x ../.. 0", "0123456789abcdef0 " * 14, "\u202e"])
def test_hostile_memory(responder: AwsResponder, machine: Machine, memory: str) -> None:
    """Somebody wrote into the tag: what is no group of ours to give back leaves it isolated."""
    responder.isolate(machine.instance)
    card = machine.cards()[0]["NetworkInterfaceId"]
    machine.ec2.create_tags(Resources=[card], Tags=[{"Key": f"{GROUPS}1", "Value": memory}])
    with pytest.raises(CloudError, match="stays isolated"):
        responder.release(machine.instance)
    assert machine.groups() == [[QUARANTINE]]


def test_group_changed_by_hand_is_kept(responder: AwsResponder, machine: Machine) -> None:
    responder.isolate(machine.instance)
    card = machine.cards()[0]["NetworkInterfaceId"]
    machine.ec2.modify_network_interface_attribute(NetworkInterfaceId=card, Groups=[machine.make_group("repair")])
    responder.release(machine.instance)
    assert machine.groups() == [["repair"]]
    assert machine.tags() == {}


def test_many_groups_fit_into_tags() -> None:
    written: list[Any] = []

    class Ec2:
        def create_tags(self, **given: Any) -> None:
            written.extend(given["Tags"])

    groups = [f"sg-{at:017x}" for at in range(16)]
    AwsResponder(Ec2(), INSTALLATION)._remember("eni-1", groups)  # type: ignore[arg-type]
    assert all(len(tag["Value"]) <= 256 for tag in written)
    from cloud.aws.responder import _remembered

    assert _remembered({tag["Key"]: tag["Value"] for tag in written}) == groups


def test_tag_that_does_not_count_yet(responder: AwsResponder, machine: Machine) -> None:
    real = responder.ec2.modify_network_interface_attribute
    refusals = iter([True, True])
    paused: list[float] = []

    def modify(**given: Any) -> Any:
        if next(refusals, False):
            fails("UnauthorizedOperation")()
        return real(**given)

    late = replace(responder, ec2=over(responder.ec2, modify_network_interface_attribute=modify), pause=paused.append)
    late.isolate(machine.instance)
    assert len(paused) == 2
    assert machine.groups() == [[QUARANTINE]]


@pytest.mark.parametrize(
    ("action", "statement"),
    [
        ("ec2:DescribeNetworkInterfaces", "KumomoriLook"),
        ("ec2:DescribeSecurityGroups", "KumomoriLook"),
        ("ec2:CreateSecurityGroup", "KumomoriQuarantineGroup"),
        ("ec2:RevokeSecurityGroupEgress", "KumomoriQuarantineRules"),
        ("ec2:ModifyNetworkInterfaceAttribute", "KumomoriIsolateInterface"),
    ],
)
def test_denied(responder: AwsResponder, machine: Machine, emulator: EmulatedAws, action: str, statement: str) -> None:
    emulator.deny(action)
    with pytest.raises(AccessDenied, match=f"{statement} of the responder policy") as caught:
        responder.isolate(machine.instance)
    assert caught.value.permission == action


def test_instance_that_is_gone(responder: AwsResponder, machine: Machine) -> None:
    machine.ec2.terminate_instances(InstanceIds=[machine.instance.id])
    missing = replace(machine.instance, id="i-0123456789abcdef0")
    with pytest.raises(Gone):
        responder.isolate(missing)
    with pytest.raises(Gone):
        responder.stop(missing)
    responder.release(missing)


def test_stop(responder: AwsResponder, machine: Machine) -> None:
    responder.stop(machine.instance)
    responder.stop(machine.instance)
    state = machine.ec2.describe_instances(InstanceIds=[machine.instance.id])["Reservations"][0]["Instances"][0][
        "State"
    ]
    assert state["Name"] == "stopped"


def test_stop_in_the_wrong_state(responder: AwsResponder, machine: Machine) -> None:
    refused = replace(responder, ec2=over(responder.ec2, stop_instances=fails("IncorrectInstanceState")))
    with pytest.raises(CloudError, match="not in a state from which it can be stopped"):
        refused.stop(machine.instance)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param("webshell", "webshell", id="plain"),
        pytest.param("/var/www/a.php", "/var/www/a.php", id="path"),
        pytest.param("a\x00\x1b[31m\u202eb<>", "a__[31m_b__".replace("[", "_"), id="hostile"),
        pytest.param("x" * 5000, "x" * 256, id="long"),
        pytest.param("日本", "日本", id="letters"),
    ],
)
def test_tag(responder: AwsResponder, machine: Machine, value: str, written: str) -> None:
    for _ in range(2):
        responder.tag(machine.instance, "kumomori:finding", value)
    raw = machine.ec2.describe_instances(InstanceIds=[machine.instance.id])["Reservations"][0]["Instances"][0]
    assert {tag["Key"]: tag["Value"] for tag in raw["Tags"]}["kumomori:finding"] == written


@pytest.mark.parametrize(
    "key",
    [
        "",
        "Name",
        "aws:x",
        "kumomori:",
        "kumomori:installation",
        "kumomori:exclude",
        "kumomori:groups-1",
        "kumomori:\n",
        "kumomori:" + "x" * 200,
    ],
)
def test_tags_that_are_not_set(responder: AwsResponder, machine: Machine, key: str) -> None:
    with pytest.raises(ConfigError):
        responder.tag(machine.instance, key, "x")


def test_by_the_responder_policy(sessions: Callable[[str], Sessions], machine: Machine, emulator: EmulatedAws) -> None:
    """All of it by a role that may do what the policy allows, and no more."""
    of = sessions("organization")
    session = of.assume(machine.instance.place.account, Role("KumomoriResponder"), REGION)
    emulator.restrict("KumomoriResponder", policies.responder(Setup(INSTALLATION)))
    allowed = AwsResponder(of.client(session, "ec2", REGION), INSTALLATION, pause=lambda _: None)
    for _ in range(2):
        allowed.isolate(machine.instance)
        assert machine.groups() == [[QUARANTINE]]
    for _ in range(2):
        allowed.release(machine.instance)
        assert machine.groups() == [["db", "web"]]
    allowed.tag(machine.instance, "kumomori:finding", "webshell")
    allowed.stop(machine.instance)
    machine.ec2.create_tags(Resources=[machine.instance.id], Tags=[{"Key": "kumomori:exclude", "Value": "yes"}])
    with pytest.raises(AccessDenied, match="KumomoriStop"):
        allowed.stop(machine.instance)
    with pytest.raises(AccessDenied, match="ec2:CreateTags"):
        allowed.tag(machine.instance, "kumomori:x", "y")
