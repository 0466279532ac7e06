"""Listing 50,000 instances in 40 accounts: our inventory against the bare SDK loop, over canned answers on loopback.

`python -m bench.inventory serve|ours|bare|bare-instances` are the commands that are measured.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs

from bench.measure import ROOT, Failed, Usage, alternate, median, ratio, run, run_watched
from bench.page import Section, megabytes, seconds, spread

REGION: Final = "eu-central-1"
DISKS: Final = 2
_PAGE: Final = 1000
_NAMESPACE: Final = "http://ec2.amazonaws.com/doc/2016-11-15/"
_GOAL_RATIO: Final = 1.5
_GOAL_BYTES: Final = 500_000_000


def inventory(accounts: int, instances: int, rounds: int) -> Section:
    """`instances` in each of `accounts`, each with two disks and five tags. Raises `Failed` if the counts differ."""
    with canned(instances) as endpoint:
        command = partial(_command, endpoint=endpoint, accounts=accounts)
        for name in ("ours", "bare"):
            expected = f"{accounts * instances} instances, {accounts * instances * DISKS} disks\n"
            said = subprocess.run(command(name), capture_output=True, text=True, cwd=ROOT, check=False).stdout
            if said != expected:
                raise Failed(f"{name} listed {said.strip() or 'nothing'} and not {expected.strip()}")
        runs = {name: partial(run, command(name)) for name in ("bare-instances", "bare", "ours")}
        found = alternate(runs, rounds)
        memory = run_watched(command("ours"))[1]
        bare_memory = run_watched(command("bare"))[1]
    alone, bare, ours = found.values()
    total = accounts * instances
    rows = [
        _row("bare loop, DescribeInstances alone", alone, total),
        _row("bare loop, the calls that we make", bare, total),
        _row("`AwsConnector.instances()`", ours, total),
    ]
    cpu = [usage.cpu_seconds for usage in ours]
    notes = [
        f"Ours against the bare loop with the same calls: {ratio(ours, bare)} of its CPU (goal {_GOAL_RATIO}). DescribeInstances "
        f"does not tell a disk's size or key, so DescribeVolumes has to be asked; against a loop that does not: {ratio(ours, alone)}.",
        f"Peak memory: {megabytes(memory.largest)} MB, of the bare loop {megabytes(bare_memory.largest)} MB (goal "
        f"{megabytes(_GOAL_BYTES)} MB). {median(cpu) / total * 1e6:,.0f} µs of CPU per instance.",
    ]
    about = (
        f"{total:,} instances in {accounts} accounts, {DISKS} disks and 5 tags each; answers of EC2's shape from a server on loopback "
        f"whose CPU is not counted; {rounds} alternating rounds, medians. Ours takes a role in each account, asks for its regions and "
        "makes our `Instance` with its `Disk`s; the bare loop has one session, paginates and counts."
    )
    return Section(
        "Inventory of AWS accounts", about, ["", "CPU s", "lowest-highest", "µs per instance", "wall s"], rows, notes
    )


def _row(name: str, usages: list[Usage], total: int) -> list[str]:
    cpu = [usage.cpu_seconds for usage in usages]
    wall = median([usage.wall_seconds for usage in usages])
    return [name, seconds(median(cpu)), spread(cpu), f"{median(cpu) / total * 1e6:,.0f}", seconds(wall)]


def _command(name: str, *, endpoint: str, accounts: int) -> list[str]:
    return [sys.executable, "-m", "bench.inventory", name, endpoint, str(accounts)]


@contextmanager
def canned(instances: int) -> Iterator[str]:
    """The address of answers for any account, in a process of its own."""
    command = [sys.executable, "-m", "bench.inventory", "serve", str(instances)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


# The other side: answers of EC2's shape, made once.


def _instance(number: int) -> str:
    name = f"i-{number:017x}"
    disks = "".join(
        f"<item><deviceName>{device}</deviceName><ebs><volumeId>vol-{number * DISKS + at:017x}</volumeId><status>attached</status>"
        "<attachTime>2026-01-01T00:00:00.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item>"
        for at, device in enumerate(("/dev/xvda", "/dev/sdf"))
    )
    tags = "".join(f"<item><key>tag-{at}</key><value>value {number} {at}</value></item>" for at in range(4))
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return (
        f"<item><reservationId>r-{number:017x}</reservationId><ownerId>111122223333</ownerId><groupSet/><instancesSet><item>"
        f"<instanceId>{name}</instanceId><imageId>ami-0123456789abcdef0</imageId><instanceState><code>16</code><name>running</name>"
        f"</instanceState><privateDnsName>ip-{number}.eu-central-1.compute.internal</privateDnsName><dnsName/><reason/><keyName>ops</keyName>"
        "<amiLaunchIndex>0</amiLaunchIndex><productCodes/><instanceType>m5.large</instanceType><launchTime>2026-01-01T00:00:00.000Z"
        "</launchTime><placement><availabilityZone>eu-central-1a</availabilityZone><groupName/><tenancy>default</tenancy></placement>"
        "<monitoring><state>disabled</state></monitoring><subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId>"
        f"<privateIpAddress>{address}</privateIpAddress><sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>"
        "sg-0123456789abcdef0</groupId><groupName>default</groupName></item></groupSet><architecture>x86_64</architecture><rootDeviceType>"
        f"ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping>{disks}</blockDeviceMapping><virtualizationType>"
        f"hvm</virtualizationType><clientToken>c-{number}</clientToken><tagSet><item><key>Name</key><value>web-{number}</value></item>{tags}"
        f"</tagSet><hypervisor>xen</hypervisor><networkInterfaceSet><item><networkInterfaceId>eni-{number:017x}</networkInterfaceId><subnetId>"
        "subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId><description/><ownerId>111122223333</ownerId><status>in-use"
        f"</status><macAddress>02:00:00:00:00:01</macAddress><privateIpAddress>{address}</privateIpAddress><sourceDestCheck>true"
        "</sourceDestCheck><groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>default</groupName></item></groupSet><attachment>"
        f"<attachmentId>eni-attach-{number:017x}</attachmentId><deviceIndex>0</deviceIndex><status>attached</status><attachTime>"
        "2026-01-01T00:00:00.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></attachment><privateIpAddressesSet><item>"
        f"<privateIpAddress>{address}</privateIpAddress><primary>true</primary></item></privateIpAddressesSet></item></networkInterfaceSet>"
        "<ebsOptimized>true</ebsOptimized><enaSupport>true</enaSupport><metadataOptions><state>applied</state><httpTokens>required</httpTokens>"
        "</metadataOptions><platformDetails>Linux/UNIX</platformDetails></item></instancesSet></item>"
    )


def _volume(number: int) -> str:
    instance, at = divmod(number, DISKS)
    return (
        f"<item><volumeId>vol-{number:017x}</volumeId><size>{8 + 92 * at}</size><snapshotId>snap-0123456789abcdef0</snapshotId>"
        "<availabilityZone>eu-central-1a</availabilityZone><status>in-use</status><createTime>2026-01-01T00:00:00.000Z</createTime>"
        f"<attachmentSet><item><volumeId>vol-{number:017x}</volumeId><instanceId>i-{instance:017x}</instanceId><device>/dev/xvda</device>"
        "<status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></item>"
        "</attachmentSet><volumeType>gp3</volumeType><iops>3000</iops><encrypted>true</encrypted><kmsKeyId>arn:aws:kms:eu-central-1:"
        "111122223333:key/01234567-89ab-cdef-0123-456789abcdef</kmsKeyId><multiAttachEnabled>false</multiAttachEnabled></item>"
    )


@cache
def _instances_page(first: int, last: int, total: int) -> bytes:
    items = "".join(map(_instance, range(first, last)))
    token = f"<nextToken>{last}</nextToken>" if last < total else ""
    return _answer("DescribeInstances", f"<reservationSet>{items}</reservationSet>{token}")


@cache
def _volumes_page(instances: tuple[str, ...]) -> bytes:
    numbers = [int(one.removeprefix("i-"), 16) * DISKS + at for one in instances for at in range(DISKS)]
    return _answer("DescribeVolumes", f"<volumeSet>{''.join(map(_volume, numbers))}</volumeSet>")


def _answer(action: str, inner: str) -> bytes:
    return f'<{action}Response xmlns="{_NAMESPACE}"><requestId>r</requestId>{inner}</{action}Response>'.encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    total = 0

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        body = self._body({key: values[0] for key, values in form.items()})
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self, form: dict[str, str]) -> bytes:
        action = form["Action"]
        if action == "DescribeInstances":
            first = int(form.get("NextToken", "0"))
            return _instances_page(first, min(first + int(form["MaxResults"]), self.total), self.total)
        if action == "DescribeVolumes":
            wanted = [value for key, value in form.items() if re.fullmatch(r"Filter\.1\.Value\.\d+", key)]
            return _volumes_page(tuple(wanted))
        if action == "DescribeRegions":
            item = f"<item><regionName>{REGION}</regionName><optInStatus>opt-in-not-required</optInStatus></item>"
            return _answer(action, f"<regionInfo>{item}</regionInfo>")
        if action == "DescribeInstanceTypes":
            return _answer(
                action, "<instanceTypeSet><item><instanceType>m5.large</instanceType></item></instanceTypeSet>"
            )
        return (
            b'<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAX'
            b"</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
            b"</Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )

    def log_message(self, *_: Any) -> None:
        pass


def _serve(instances: int) -> None:
    _Handler.total = instances
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


# What is measured.


def _ours(endpoint: str, accounts: int) -> tuple[int, int]:
    import boto3  # noqa: PLC0415  the server needs none of it

    from cloud.aws.accounts import Account, Role, Sessions, places  # noqa: PLC0415
    from cloud.aws.connector import connect  # noqa: PLC0415

    sessions = Sessions(boto3.Session("a", "s", region_name=REGION), endpoint_url=endpoint)
    instances = disks = 0
    for place in places(sessions, [Account(f"{at:012}") for at in range(accounts)], Role(), home=REGION):
        if not isinstance(place, tuple):
            raise place.error
        where, session = place
        for instance in connect(sessions, session, where.account, where.region, "bench").instances():
            instances += 1
            disks += len(instance.disks)
    return instances, disks


def _bare(endpoint: str, accounts: int, *, volumes: bool) -> tuple[int, int]:
    import boto3  # noqa: PLC0415

    session = boto3.Session("a", "s", region_name=REGION)
    instances = disks = 0
    for _ in range(accounts):
        ec2 = session.client("ec2", endpoint_url=endpoint)
        for page in ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": _PAGE}):
            found = [raw["InstanceId"] for one in page["Reservations"] for raw in one["Instances"]]
            instances += len(found)
            for start in range(0, len(found) if volumes else 0, 200):
                some = ec2.get_paginator("describe_volumes").paginate(
                    Filters=[{"Name": "attachment.instance-id", "Values": found[start : start + 200]}],
                    PaginationConfig={"PageSize": _PAGE},
                )
                disks += sum(len(more["Volumes"]) for more in some)
    return instances, disks


def main() -> int:
    name, *rest = sys.argv[1:]
    if name == "serve":
        _serve(int(rest[0]))
        return 0
    endpoint, accounts = rest[0], int(rest[1])
    instances, disks = (
        _ours(endpoint, accounts) if name == "ours" else _bare(endpoint, accounts, volumes=name == "bare")
    )
    sys.stdout.write(f"{instances} instances, {disks} disks\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
