"""The functions of serverless.yml, in process, against the emulated AWS: what they do, what they leave alone, what they call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.aws import functions
from cloud.aws.accounts import Sessions
from cloud.aws.events import EventQueue, body, parse
from cloud.aws.functions import Settings, on_instance, reconcile, sweep
from cloud.aws.snapshots import Ours
from core.errors import AccessDenied, CloudError, ConfigError
from core.estate import InstanceEvent, InstanceState, Place
from demo.aws.emulator import REGION, EmulatedAws
from tests.cloud.aws.conftest import INSTALLATION, Recorded, launch, over
from tests.cloud.aws.test_events import change
from tests.infra.serverless.declared import statements

pytestmark = pytest.mark.slow

DAY = 86_400.0


class Lambda:
    """The runtime's context: so much time, and so much less with each look."""

    def __init__(self, seconds: float = 300.0, each: float = 0.0) -> None:
        self._left, self._each = seconds, each

    def get_remaining_time_in_millis(self) -> int:
        self._left -= self._each
        return int(max(self._left, 0.0) * 1000)


@pytest.fixture
def queue(
    emulator: EmulatedAws, account: str, backdoor: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The environment that the runtime gives; the URL of the queue."""
    url = str(backdoor("sqs").create_queue(QueueName="events")["QueueUrl"])
    keys = emulator.credentials(account)
    for name, value in {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": emulator.endpoint,
        "KUMOMORI_ACCOUNT": account,
        "KUMOMORI_QUEUE": url,
        "KUMOMORI_INSTALLATION": INSTALLATION,
    }.items():
        monkeypatch.setenv(name, value)
    clear = functions._client.cache_clear
    clear()
    yield url
    clear()


@pytest.fixture
def told(queue: str, backdoor: Callable[[str], Any], account: str) -> Callable[[], list[InstanceEvent]]:
    """What a fleet reads."""

    def read() -> list[InstanceEvent]:
        found: list[InstanceEvent] = []
        result = EventQueue(backdoor("sqs"), queue, {account}).poll(found.extend, wait_seconds=0)
        assert not result.dropped
        return found

    return read


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Every call of the functions, whatever becomes of it."""
    found = Recorded()
    made = Sessions

    def watched(*arguments: Any, **more: Any) -> Any:
        sessions = made(*arguments, **more)
        sessions.base.events.register("before-call", lambda **call: found.add("function", call["model"]))
        return sessions

    monkeypatch.setattr(functions, "Sessions", watched)
    return found


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


# events


def test_an_event_reaches_the_fleet(
    account: str, told: Callable[[], list[InstanceEvent]], capsys: pytest.CaptureFixture[str], calls: Recorded
) -> None:
    event = change("running", account=account, region=REGION)
    assert on_instance(event, Lambda()) == {"sent": 1, "dropped": {}, "failed": 0}
    assert said(capsys) == {"function": "on_instance", "sent": 1, "dropped": {}, "failed": 0}
    on_instance(event, Lambda())
    first, second = told()
    assert first == second == parse(json.dumps(event))[0]
    assert calls.calls == {"function": {"sqs:SendMessageBatch"}}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(change(account="999999999999"), "from an account that is not ours", id="other-account"),
        pytest.param(change(source="my.app"), "not from EC2", id="other-source"),
        pytest.param({}, "not from EC2", id="empty"),
        pytest.param([1, 2], "not an object", id="list"),
        pytest.param(None, "not an object", id="nothing"),
        pytest.param({"source": {1, 2}}, "not JSON", id="not-json"),
        pytest.param({"source": "x" * (1 << 21)}, "too large", id="huge"),
    ],
)
def test_a_bad_event_is_counted_and_dropped(
    event: Any, reason: str, told: Callable[[], list[InstanceEvent]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_instance(event, Lambda()) == {"sent": 0, "dropped": {reason: 1}}  # no error: it would be tried again
    assert said(capsys)["dropped"] == {reason: 1}
    assert told() == []


def test_a_bad_state_is_dropped(account: str, told: Callable[[], list[InstanceEvent]]) -> None:
    assert on_instance(change("flying", account=account), Lambda())["dropped"] == {
        "instance or state missing or odd": 1
    }
    assert told() == []


def test_a_queue_that_refuses_is_an_error(
    account: str, queue: str, emulator: EmulatedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUMOMORI_QUEUE", queue + "-of-somebody-else")
    with pytest.raises(CloudError):
        on_instance(change(account=account), Lambda())


def test_a_message_that_is_refused_is_sent_again(
    account: str, told: Callable[[], list[InstanceEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = functions._client("sqs", REGION)
    answers = [{"Failed": [{"Id": "0", "Code": "InternalError"}]}]
    spoilt = over(sqs, send_message_batch=lambda **how: answers.pop() if answers else sqs.send_message_batch(**how))
    monkeypatch.setattr(functions, "_client", lambda *_: spoilt)
    assert on_instance(change(account=account), Lambda())["sent"] == 1
    assert len(told()) == 1

    answers = [{"Failed": [{"Id": "0"}]}] * 9
    with pytest.raises(CloudError, match="did not take 1 messages"):
        on_instance(change(account=account), Lambda())


@given(
    state=st.sampled_from([state for state in InstanceState if state is not InstanceState.UNKNOWN]),
    time=st.datetimes(timezones=st.just(UTC)),
    number=st.integers(0, (1 << 68) - 1),
)
def test_what_is_sent_is_what_is_read(state: InstanceState, time: datetime, number: int) -> None:
    place = Place("aws", "111122223333", "ap-northeast-1")
    event = InstanceEvent(place, f"i-{number:017x}", state, time, f"listed-i-{number:017x}-0")
    assert parse(body(event), {"111122223333"}) == [event]


def test_nothing_is_said_of_an_unknown_state() -> None:
    with pytest.raises(ValueError, match="unknown state"):
        body(InstanceEvent(Place("aws", "1", "x"), "i-1", InstanceState.UNKNOWN, datetime.now(UTC), "e"))


# reconciliation


def test_launches_are_told_again(
    ec2: Any, told: Callable[[], list[InstanceEvent]], capsys: pytest.CaptureFixture[str], calls: Recorded
) -> None:
    running, stopped, gone = (launch(ec2) for _ in range(3))
    ec2.stop_instances(InstanceIds=[stopped])
    ec2.terminate_instances(InstanceIds=[gone])
    assert reconcile({}, Lambda())["sent"] == 2
    line = said(capsys)
    assert line == {"function": "reconcile", "instances": 3, "sent": 2, "failed": 0, "complete": True}
    first = told()
    assert {one.instance for one in first} == {running, stopped}
    assert {one.state for one in first} == {InstanceState.PENDING}  # true at their launch, whatever came after
    reconcile({}, Lambda())
    assert set(told()) == set(first)
    assert calls.calls == {"function": {"ec2:DescribeInstances", "sqs:SendMessageBatch"}}


def test_old_launches_are_not(
    ec2: Any, told: Callable[[], list[InstanceEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(ec2)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr(functions, "datetime", Later)
    assert reconcile({}, Lambda()) == {"instances": 1, "sent": 0, "failed": 0, "complete": True}
    monkeypatch.setenv("KUMOMORI_LOOK_BACK_SECONDS", "10000")
    assert reconcile({}, Lambda())["sent"] == 1
    assert len(told()) == 1


def test_reconciling_stops_in_time(ec2: Any, told: Callable[[], list[InstanceEvent]]) -> None:
    for _ in range(25):
        launch(ec2, disks=1)
    answer = reconcile({}, Lambda(functions.RESERVE_SECONDS + 15, each=1.0))
    assert not answer["complete"]
    assert answer["sent"] == len(told()) == answer["instances"] < 25
    assert reconcile({}, Lambda())["sent"] == 25


# the safety net


@pytest.fixture
def ours(ec2: Any, account: str) -> Callable[..., list[str]]:
    """Snapshots of an installation."""

    def make(installation: str = INSTALLATION, lifetime: float = -2 * DAY, token: str = "scan-1-1", disks: int = 1) -> Any:  # fmt: skip
        made = Ours(Place("aws", account, REGION), ec2, ec2, installation, lifetime, 0.0, lambda _: None)
        made.create(launch(ec2, disks=disks), token, without_boot=False, without=[])
        return [one.id for one in made.find(token)]

    return make


def there(ec2: Any) -> set[str]:
    return {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}


def test_only_what_is_ours_and_has_expired_is_swept(
    ec2: Any, queue: str, ours: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], calls: Recorded
) -> None:
    expired = ours(disks=2)
    young = ours(lifetime=DAY, token="scan-2-1")
    in_grace = ours(lifetime=-DAY / 2, token="scan-3-1")
    base = ours(lifetime=46 * DAY, token="scan-4-1")  # as a fleet makes what it keeps
    other = ours("other", token="scan-5-1")
    forged = launch_and_forge(ec2)
    bare = ec2.create_snapshot(VolumeId=volume(ec2))["SnapshotId"]
    answer = sweep({}, Lambda())
    assert sorted(answer["deleted"]) == sorted(expired)
    assert (answer["failed"], answer["errors"], answer["complete"]) == (0, [], True)
    assert there(ec2) >= {*young, *in_grace, *base, *other, forged, bare}
    assert not there(ec2) & set(expired)
    assert said(capsys) == {"function": "sweep", **answer}
    assert calls.calls == {"function": {"ec2:DescribeSnapshots", "ec2:DeleteSnapshot"}}
    assert sweep({}, Lambda())["deleted"] == []


def volume(ec2: Any) -> str:
    (found,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [launch(ec2, disks=1)]}])[
        "Volumes"
    ]
    return str(found["VolumeId"])


def launch_and_forge(ec2: Any) -> str:
    """Somebody's own snapshot, with our tags and even a copied mark of another token."""
    tags = {
        "kumomori:installation": INSTALLATION,
        "kumomori:token": "scan-9-1",
        "kumomori:expires": "2020-01-01T00:00:00+00:00",
    }
    made = ec2.create_snapshot(
        VolumeId=volume(ec2),
        Description="payroll [kumomori 0123456789abcdef0123456789abcdef]",
        TagSpecifications=[
            {"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        ],
    )
    return str(made["SnapshotId"])


def test_sweeping_stops_in_time_and_goes_on(ec2: Any, queue: str, ours: Callable[..., list[str]]) -> None:
    expired = [one for at in range(5) for one in ours(token=f"scan-{at}-1")]
    answer = sweep({}, Lambda(functions.RESERVE_SECONDS + 5 + 3.5, each=1.0))  # five looks while they are listed
    assert len(answer["deleted"]) == 3
    assert not answer["complete"]
    cut = sweep({}, Lambda(functions.RESERVE_SECONDS + 1.5, each=1.0))
    assert (cut["deleted"], cut["complete"]) == ([], False), "its time was over while they were listed"
    assert sweep({}, Lambda(functions.RESERVE_SECONDS))["complete"] is False
    assert len(sweep({}, Lambda())["deleted"]) == 2
    assert not there(ec2) & set(expired)


def test_one_that_cannot_be_deleted_does_not_stop_the_others(
    emulator: EmulatedAws, ec2: Any, queue: str, ours: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    stuck, free = ours(token="scan-1-1") + ours(token="scan-2-1")
    emulator.deny("ec2:DeleteSnapshot", resource=stuck)
    answer = sweep({}, Lambda())
    assert answer["deleted"] == [free]
    assert answer["failed"] == 1
    assert "ec2:DeleteSnapshot" in answer["errors"][0]
    assert "AWS_SECRET" not in json.dumps(said(capsys))


def test_many_that_cannot_be_deleted_do_not_use_up_all_time(
    emulator: EmulatedAws, ec2: Any, queue: str, ours: Callable[..., list[str]]
) -> None:
    """Each run has time for two of six. Those that EC2 lists first are stuck, those that it lists last are not."""
    for at in range(6):
        ours(token=f"scan-{at}-1")
    listed = [one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]]
    stuck, free = listed[:4], set(listed[4:])
    for one in stuck:
        emulator.deny("ec2:DeleteSnapshot", resource=one)
    for _ in range(200):  # that one of them never gets its turn has a chance of less than 2 in 10 ** 35
        answer = sweep({}, Lambda(functions.RESERVE_SECONDS + len(there(ec2)) + 2.5, each=1.0))
        assert len(answer["deleted"]) + answer["failed"] == 2
        assert not answer["complete"]
        if not there(ec2) & free:
            break
    assert there(ec2) == set(stuck)


@pytest.mark.parametrize(
    "expires", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", "2027-13-01", ""]
)
def test_a_tag_that_somebody_wrote_does_not_stop_the_others(
    ec2: Any, queue: str, ours: Callable[..., list[str]], expires: str
) -> None:
    odd, free = ours(lifetime=DAY, token="scan-1-1") + ours(token="scan-2-1")
    ec2.create_tags(Resources=[odd], Tags=[{"Key": "kumomori:expires", "Value": expires}])
    answer = sweep({}, Lambda())
    assert (answer["deleted"], answer["complete"]) == ([free], True)
    assert odd in there(ec2), "as if it were a day's"


def test_what_cannot_be_listed_is_an_error(emulator: EmulatedAws, queue: str) -> None:
    emulator.deny("ec2:DescribeSnapshots")
    with pytest.raises(AccessDenied, match="ec2:DescribeSnapshots"):
        sweep({}, Lambda())


# settings, and what they may


@pytest.mark.parametrize(
    ("name", "value", "function"),
    [
        ("KUMOMORI_ACCOUNT", "", on_instance),
        ("KUMOMORI_ACCOUNT", "12345", sweep),
        ("AWS_REGION", "somewhere", reconcile),
        ("KUMOMORI_QUEUE", "", on_instance),
        ("KUMOMORI_QUEUE", "queue", reconcile),
        ("KUMOMORI_QUEUE", "https://user@host/queue", reconcile),
        ("KUMOMORI_INSTALLATION", "", sweep),
        ("KUMOMORI_INSTALLATION", "*", sweep),
        ("KUMOMORI_LOOK_BACK_SECONDS", "-1", reconcile),
        ("KUMOMORI_LOOK_BACK_SECONDS", "٣٦٠٠", reconcile),
        ("KUMOMORI_GRACE_SECONDS", "1e9", sweep),
        ("KUMOMORI_GRACE_SECONDS", "9999999999999", sweep),
    ],
)
def test_settings_are_checked_first(
    name: str, value: str, function: Any, queue: str, monkeypatch: pytest.MonkeyPatch, calls: Recorded
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        function(change(), Lambda())
    assert not calls.calls


def test_defaults() -> None:
    read = Settings.read({"AWS_REGION": REGION, "KUMOMORI_ACCOUNT": "111122223333"})
    assert read == replace(read, look_back_seconds=3600, grace_seconds=86400)


@pytest.mark.parametrize(
    ("function", "role"), [(on_instance, "OnInstanceRole"), (reconcile, "ReconcileRole"), (sweep, "SweepRole")]
)
def test_their_roles_allow_what_they_call_and_no_more(
    function: Any,
    role: str,
    account: str,
    emulator: EmulatedAws,
    ec2: Any,
    queue: str,
    ours: Callable[..., list[str]],
    calls: Recorded,
) -> None:
    launch(ec2)
    ours()
    function(change(account=account), Lambda())
    allowed = {action for one in statements(role) if one["Sid"] != "KumomoriLog" for action in one["Action"]}
    called = {"sqs:SendMessage" if one == "sqs:SendMessageBatch" else one for one in calls.calls["function"]}
    assert called == allowed


def test_the_sweeper_role_protects_what_is_not_ours(
    emulator: EmulatedAws,
    account: str,
    ec2: Any,
    queue: str,
    ours: Callable[..., list[str]],
    backdoor: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The policy alone, as the emulator evaluates it: even code gone wrong could not delete another installation's."""
    policy = {"Version": "2012-10-17", "Statement": statements("SweepRole", installation=INSTALLATION, region=REGION)}
    emulator.restrict("Sweeper", policy)
    trust = {"Version": "2012-10-17", "Statement": []}
    backdoor("iam").create_role(RoleName="Sweeper", AssumeRolePolicyDocument=json.dumps(trust))
    keys = backdoor("sts").assume_role(RoleArn=f"arn:aws:iam::{account}:role/Sweeper", RoleSessionName="sweep")[
        "Credentials"
    ]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
    (mine,), (other,) = ours(token="scan-1-1"), ours("other", token="scan-2-1")
    assert sweep({}, Lambda())["deleted"] == [mine]
    monkeypatch.setenv("KUMOMORI_INSTALLATION", "other")
    answer = sweep({}, Lambda())
    assert answer["deleted"] == []
    assert "ec2:DeleteSnapshot" in answer["errors"][0]
    assert other in there(ec2)


def test_the_package_needs_nothing_but_the_sdk() -> None:
    """The folders that serverless.yml packs import no other of ours: a function would not start."""
    root = Path(functions.__file__).resolve().parents[2]
    script = "import sys, cloud.aws.functions; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "scanner",
        "client",
        "policy",
        "console",
        "infra",
        "pydantic",
        "google_crc32c",
    }
