"""What happens in accounts reaches the console: events at once, everything else by listings, whatever fails between."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from client.digest import digest
from client.model import AccountIn
from cloud.aws import accounts as cloud_accounts
from cloud.aws import listing
from cloud.aws.accounts import Sessions
from core.estate import Instance, InstanceState, Place
from demo.aws.emulator import REGION, EmulatedAws
from demo.aws.rules import FaultKind
from scanner.fleet import kept, orders, watch
from scanner.fleet.inventory import Inventory
from scanner.fleet.orders import _ACCOUNTS
from scanner.fleet.reconcile import reconcile
from scanner.fleet.watch import Ears, Watch
from tests.scanner.fleet.console import Cut, FakeConsole, problem, served
from tests.scanner.fleet.duties import Desk, until

_NUMBERS = itertools.count(300000000001)
AMI = "ami-12c6146b"
pytestmark = [pytest.mark.usefixtures("no_credentials_of_this_machine"), pytest.mark.slow]


@pytest.fixture
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    once = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
    monkeypatch.setattr(cloud_accounts.Sessions.client, "__kwdefaults__", {"config": once})


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatedAws]:
    with EmulatedAws() as running:
        yield running


class Cloud:
    """An account in which nothing was done yet, watched by a fleet with its own credentials."""

    def __init__(self, emulator: EmulatedAws, tmp_path: Path, console: str, **more: Any) -> None:
        self.emulator = emulator
        self.made: list[Watch] = []
        self.account = f"{next(_NUMBERS):012}"
        self.ec2 = emulator.client("ec2", self.account, REGION)
        self.desk = Desk(
            f"sqlite:///{tmp_path}/fleet.sqlite",
            tmp_path,
            console,
            endpoint_url=emulator.endpoint,
            home_region=REGION,
            **more,
        )
        keys = emulator.credentials(self.account)
        base = boto3.Session(keys.access_key, keys.secret_key, region_name=REGION)
        self.inventory = Inventory(self.desk.settings, Sessions(base, endpoint_url=emulator.endpoint))
        self.place = Place("aws", self.account, REGION)
        self.given = AccountIn(cloud="aws", account=self.account, regions=(REGION,))

    def launch(self, count: int = 1) -> list[str]:
        answer = self.ec2.run_instances(ImageId=AMI, MinCount=count, MaxCount=count)
        return [one["InstanceId"] for one in answer["Instances"]]

    def queue(self) -> str:
        self.emulator.announce()
        url = self.emulator.queue(self.account, REGION)
        self.given = self.given.model_copy(update={"queue_url": url})
        return url

    def left(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        sqs = self.emulator.client("sqs", self.account, REGION)
        return sum(map(int, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"].values()))

    def send(self, url: str, event: Any) -> None:
        body = event if isinstance(event, str) else json.dumps(event)
        self.emulator.client("sqs", self.account, REGION).send_message(QueueUrl=url, MessageBody=body)

    def told(self, *given: AccountIn, reconcile: int = 0) -> None:
        """As the link writes down what the console says."""
        with self.desk.database.write() as connection:
            kept.write(connection, kept.ACCOUNTS, _ACCOUNTS.dump_json(given).decode())
            if reconcile:
                kept.write(connection, orders.RECONCILE, str(reconcile))

    def watch(self, ended: threading.Event | None = None) -> Watch:
        desk = self.desk
        given = (desk.settings, desk.database, desk.fence("watch"), ended or threading.Event(), desk.said("watch"))
        self.made.append(Watch(*given, self.inventory))
        return self.made[-1]

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        ended = threading.Event()
        made = self.watch(ended)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            ended.set()
            thread.join(40)
            assert not thread.is_alive()


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture
def cloud(emulator: EmulatedAws, tmp_path: Path, console: FakeConsole) -> Iterator[Cloud]:
    with served(console) as address:
        made = Cloud(emulator, tmp_path, address)
        yield made
        emulator.calm()
        emulator.announce(on=False)
        for one in made.made:
            one.close()
        made.desk.database.close()


def test_a_listing_and_a_second_one(cloud: Cloud, console: FakeConsole) -> None:
    launched = set(cloud.launch(3))
    watch = cloud.watch()
    told = watch.reconcile(cloud.given)
    assert (told.instances, told.sent, told.problems) == (3, 3, ())
    assert set(console.known[cloud.place]) == launched
    assert all(one.disks for one in console.known[cloud.place].values())
    again = watch.reconcile(cloud.given)
    assert (again.instances, again.sent, len(console.sightings), len(console.compares)) == (3, 0, 1, 2)
    gone = launched.pop()
    cloud.ec2.create_tags(Resources=[min(launched)], Tags=[{"Key": "team", "Value": "red"}])
    cloud.ec2.terminate_instances(InstanceIds=[gone])
    changed = watch.reconcile(cloud.given)
    assert changed.sent >= 1
    assert console.known[cloud.place][min(launched)].tags == {"team": "red"}
    assert gone not in console.known[cloud.place] or console.known[cloud.place][gone].state is InstanceState.TERMINATED


def test_a_listing_that_breaks_off(cloud: Cloud, console: FakeConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 5)
    for _ in range(7):
        cloud.launch()
    watch = cloud.watch()
    watch.reconcile(cloud.given)
    throttled = {"code": "RequestLimitExceeded", "status": 503, "after": 1}
    cloud.emulator.fault(FaultKind.ERROR, "ec2:DescribeInstances", **throttled)
    told = watch.reconcile(cloud.given)
    last = console.compares[-1]
    assert (last.complete, len(last.digests)) == (False, 5)
    assert last.problem in told.problems
    assert "RequestLimitExceeded" in last.problem
    assert len(console.known[cloud.place]) == 7  # nothing was taken for vanished
    assert watch.reconcile(cloud.given).problems == ()


def test_an_account_that_cannot_be_entered(cloud: Cloud, console: FakeConsole) -> None:
    cloud.launch()
    stranger = AccountIn(cloud="aws", account="999999999999")
    refused = AccountIn(cloud="aws", account="888888888888", role="NoSuchRole")
    cloud.emulator.deny("sts:AssumeRole")
    cloud.told(stranger, refused, cloud.given)
    with cloud.watched():
        until(lambda: console.known.get(cloud.place))
        until(lambda: len({one.place.account for one in console.compares}) == 3)
    problems = {one.place.account: one for one in console.compares}
    assert "give the account a role" in problems["999999999999"].problem
    assert "NoSuchRole" in problems["888888888888"].problem
    assert not problems["999999999999"].complete
    assert problems[cloud.account].complete
    with cloud.desk.database.read() as connection:
        assert "give the account a role" in kept.read(connection, "problem:watch")


def test_when_the_console_asks(cloud: Cloud, console: FakeConsole) -> None:
    cloud.launch()
    cloud.told(cloud.given)
    with cloud.watched():
        until(lambda: len(console.compares) == 1)
        time.sleep(0.3)
        assert len(console.compares) == 1
        cloud.told(cloud.given, reconcile=7)
        until(lambda: len(console.compares) == 2)
        time.sleep(0.3)
        assert len(console.compares) == 2


def test_what_the_console_does_not_take_of_a_page(cloud: Cloud, console: FakeConsole) -> None:
    launched = cloud.launch(9)
    bad = launched[4]
    console.faults.append(
        lambda name, body: problem(422, "odd") if name == "sightings" and bad.encode() in body else None
    )
    told = cloud.watch().reconcile(cloud.given)
    assert set(console.known[cloud.place]) == {*launched} - {bad}
    assert len(told.problems) == 1
    assert bad in told.problems[0]


# events


def test_from_event_to_console(cloud: Cloud, console: FakeConsole) -> None:
    url = cloud.queue()
    cloud.told(cloud.given)
    with cloud.watched():
        until(lambda: console.compares)
        time.sleep(0.5)
        began = time.monotonic()
        (launched,) = cloud.launch()
        until(lambda: launched in console.known.get(cloud.place, {}))
        assert time.monotonic() - began < 3
        assert console.known[cloud.place][launched].disks
        until(lambda: cloud.left(url) == 0)
        assert len(console.compares) == 1


@pytest.mark.slow
def test_events_twice_in_any_order_and_forged(cloud: Cloud, console: FakeConsole) -> None:
    url = cloud.queue()
    (launched,) = cloud.launch()
    running = cloud.emulator.state_changed(launched, "running", cloud.account)
    pending = cloud.emulator.state_changed(launched, "pending", cloud.account)
    for event in (
        running,
        pending,
        running,
        {**running, "account": "123412341234"},
        {**running, "region": "us-west-1"},
    ):
        cloud.send(url, event)
    for text in ("{", "[" * 1000, json.dumps({**running, "source": "my.app"})):
        cloud.send(url, text)
    ears = Ears(cloud.inventory, [cloud.given], cloud.watch().teller, cloud.desk.settings)
    queue = cloud.inventory.queue(url, [cloud.given])
    notes = [words for _ in range(4) for words in ears.hear(queue, threading.Event(), 1)]
    assert cloud.left(url) == 0
    assert set(console.known) == {cloud.place}
    assert set(console.known[cloud.place]) == {launched}
    assert any("from an account that is not ours" in one for one in notes)


def test_messages_stay_until_the_console_has_taken_them(cloud: Cloud, console: FakeConsole) -> None:
    url = cloud.queue()
    failing = [True]

    def fault(name: str, _: bytes) -> None:
        if name == "sightings" and failing[0]:
            raise Cut

    console.faults.append(fault)
    cloud.emulator.client("sqs", cloud.account, REGION).set_queue_attributes(
        QueueUrl=url, Attributes={"VisibilityTimeout": "1"}
    )
    cloud.told(cloud.given)
    (launched,) = cloud.launch()
    console.faults.append(lambda name, _: (500, b"") if name == "compare" else None)
    with cloud.watched():
        until(lambda: any("queue" in line for line in cloud.desk.lines))
        assert cloud.left(url) > 0
        failing[0] = False
        until(lambda: launched in console.known.get(cloud.place, {}), 30)
        until(lambda: cloud.left(url) == 0)


def test_an_event_of_what_is_not_listed(cloud: Cloud, console: FakeConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed late: it is looked for again and its message stays; after a while it was forged, and goes."""
    monkeypatch.setattr(watch, "_LOOKS_SECONDS", ())
    monkeypatch.setattr(watch, "LISTED_LATE_SECONDS", 1.5)
    url = cloud.queue()
    cloud.emulator.client("sqs", cloud.account, REGION).set_queue_attributes(
        QueueUrl=url, Attributes={"VisibilityTimeout": "0"}
    )
    cloud.emulator.state_changed("i-0123456789abcdef0", "running", cloud.account)
    ears = Ears(cloud.inventory, [cloud.given], cloud.watch().teller, cloud.desk.settings)
    queue = cloud.inventory.queue(url, [cloud.given])
    assert ears.hear(queue, threading.Event(), 1) == []
    assert cloud.left(url) == 1
    time.sleep(1.6)
    (note,) = ears.hear(queue, threading.Event(), 1)
    assert "the cloud does not list it" in note
    assert cloud.left(url) == 0
    assert not console.known


def test_a_queue_that_is_away(cloud: Cloud, console: FakeConsole) -> None:
    cloud.launch()
    gone = f"{cloud.emulator.endpoint}/{cloud.account}/no-such-queue"
    odd = AccountIn(cloud="aws", account="999999999999", queue_url="not a url")
    cloud.told(cloud.given.model_copy(update={"queue_url": gone}), odd)
    with cloud.watched():
        until(lambda: console.known.get(cloud.place))
        until(lambda: any("no-such-queue" in line for line in cloud.desk.lines))
        until(lambda: any("is no address of a queue" in line for line in cloud.desk.lines))
        url = cloud.queue()
        cloud.told(cloud.given)
        time.sleep(0.3)
        (launched,) = cloud.launch()
        until(lambda: launched in console.known.get(cloud.place, {}))
        until(lambda: cloud.left(url) == 0)


# machines from a file


def machine(identity: str, region: str = "rack-1", **more: Any) -> str:
    disks = [{"id": f"/images/{identity}.img", "size_bytes": 1 << 30, "boot": True}]
    place = {"cloud": "aws", "account": "somebody", "region": region}
    return (
        json.dumps({"place": place, "id": identity, "os": "linux", "state": "running", "disks": disks, **more}) + "\n"
    )


@pytest.fixture
def site(cloud: Cloud, tmp_path: Path) -> tuple[AccountIn, Path]:
    path = tmp_path / "site.jsonl"
    return AccountIn(cloud="file", account="berlin", instances_file=str(path)), path


def test_machines_of_a_file(cloud: Cloud, console: FakeConsole, site: tuple[AccountIn, Path]) -> None:
    account, path = site
    path.write_text(machine("a", launched="2026-01-02T03:04:05+01:00") + machine("b", "rack-2") + machine("c", ""))
    watch = cloud.watch()
    assert watch.reconcile(account).problems == ()
    assert {place.region for place in console.known} == {"rack-1", "rack-2", "site"}
    first = console.known[Place("file", "berlin", "rack-1")]["a"]
    assert str(first) == "file://berlin/rack-1/a"
    assert (first.disks[0].id, first.disks[0].boot, first.disks[0].place) == ("/images/a.img", True, first.place)
    assert first.launched
    assert digest(first) == console.digests[first.place]["a"]
    sent = len(console.sightings)
    assert watch.reconcile(account).sent == 0
    assert len(console.sightings) == sent
    path.write_text(machine("a") + machine("c", ""))  # the last of rack-2 is gone
    assert watch.reconcile(account).closed == 1


def test_a_file_that_changes_is_read_again(cloud: Cloud, console: FakeConsole, site: tuple[AccountIn, Path]) -> None:
    account, path = site
    cloud.told(account)
    with cloud.watched():
        until(lambda: any("cannot be read" in line for line in cloud.desk.lines))
        path.write_text(machine("a"))
        until(lambda: "a" in console.known.get(Place("file", "berlin", "rack-1"), {}), 5)
        path.write_text(machine("a") + machine("b"))
        until(lambda: "b" in console.known[Place("file", "berlin", "rack-1")], 5)
        until(lambda: any(line.startswith("watch: over") for line in cloud.desk.lines))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "holds no instances", id="empty"),
        pytest.param(machine("a") + "{\n", "no JSON", id="cut"),
        pytest.param(machine("a") + machine("a"), "stands in line 1 already", id="twice"),
        pytest.param(machine("a", "../x"), "its region may have", id="odd-region"),
        pytest.param(machine("a", disks=[{"size_bytes": 1}]), "without an `id`", id="disk-without-id"),
        pytest.param(machine("a", disks=[{"id": "x", "size_bytes": -1}]), "is no size", id="negative-size"),
        pytest.param(machine("a", launched="yesterday"), "is no time", id="odd-time"),
        pytest.param(machine("a", name="\udc00"), "stands for no character", id="half-a-character"),
        pytest.param(machine("a") + "x" * (1 << 21), "longer than", id="long"),
    ],
)
def test_files_that_are_wrong(
    cloud: Cloud, console: FakeConsole, site: tuple[AccountIn, Path], text: str, said: str
) -> None:
    account, path = site
    path.write_text(machine("kept"))
    watch = cloud.watch()
    watch.reconcile(account)
    path.write_text(text)
    told = watch.reconcile(account)
    assert said in told.problems[0]
    assert not console.compares[-1].complete
    assert said in console.compares[-1].problem
    assert "kept" in console.known[Place("file", "berlin", "rack-1")]  # nothing was closed


def test_a_listing_of_nothing_but_instances_in_memory(cloud: Cloud, console: FakeConsole) -> None:
    """A crowd of 2,500: pages of at most 1,000, and the second time none."""
    from scanner.fleet.inventory import Listing

    crowd = [Instance(cloud.place, f"i-{number:017x}", tags={"n": str(number)}) for number in range(2500)]
    teller = cloud.watch().teller
    for sent in (2500, 0):
        told = reconcile([Listing(cloud.place, iter(crowd))], teller, folder=cloud.desk.settings.data)
        assert (told.instances, told.sent) == (2500, sent)
    assert [len(one.instances) for one in console.sightings] == [1000, 1000, 500]
