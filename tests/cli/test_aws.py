"""The commands that enter a cloud, on an emulated AWS: what they print, and what they leave behind however they end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import disk
from demo.aws import ACCOUNT, REGION, EmulatedAws, FaultKind
from demo.aws.estate import Estate, fill
from scanner.ledger import FileLedger
from tests.cli.commands import Kumomori, started

pytestmark = pytest.mark.slow

PLACE = f"aws://{ACCOUNT}/{REGION}"
ROLE = ("--role", "KumomoriScanner")
OTHER = "222233334444"


@pytest.fixture(scope="module")
def running() -> Iterator[Estate]:
    with EmulatedAws() as aws:
        yield fill(aws)


@pytest.fixture
def estate(running: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Estate]:
    """The three machines, and an environment that leads there and nowhere else."""
    keys = running.aws.credentials(ACCOUNT)
    environment = {
        "AWS_ENDPOINT_URL": running.aws.endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "KUMOMORI_DATA": str(tmp_path / "data"),
        "COLUMNS": "160",
    }
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "KUMOMORI_AWS_EXTERNAL_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield running
    running.aws.calm()


def location(estate: Estate, name: str) -> str:
    return f"{PLACE}/{estate[name].instance}"


def left(estate: Estate) -> list[str]:
    """Snapshots that are still there, but for those of images."""
    ec2 = estate.aws.client("ec2")
    images = ec2.describe_images(Owners=["self"])["Images"]
    of_images = {
        one["Ebs"].get("SnapshotId") for image in images for one in image["BlockDeviceMappings"] if "Ebs" in one
    }
    found = ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return [one["SnapshotId"] for one in found if one["SnapshotId"] not in of_images]


def entries() -> list[Any]:
    with FileLedger(Path(os.environ["KUMOMORI_DATA"])) as ledger:
        return ledger.entries()


def kept(err: bytes) -> list[str]:
    return err.decode().rpartition(": kept ")[2].split()


def test_instances_as_a_table_and_as_lines(kumomori: Kumomori, estate: Estate) -> None:
    found = kumomori("instances", *ROLE)
    assert (found.code, found.err) == (0, b"")
    text = found.out.decode()
    for name in ("web-1", "shop-1", "vault-1"):
        assert name in text
        assert estate[name].instance in text
    assert "1 GiB (encrypted)" in text
    rows = {row["name"]: row for row in kumomori("instances", *ROLE, "--format", "jsonl").rows}
    assert [one["device"] for one in rows["shop-1"]["disks"]] == ["/dev/sda1", "/dev/sdf"]
    assert rows["shop-1"]["disks"][0]["size_bytes"] == 1 << 30
    assert rows["vault-1"]["disks"][0]["key"] == estate.key


def test_an_account_that_cannot_be_entered_is_named_and_the_others_go_on(kumomori: Kumomori, estate: Estate) -> None:
    estate.aws.rules.refused_roles.add(f"arn:aws:iam::{OTHER}:role/KumomoriScanner")
    found = kumomori("instances", *ROLE, "--account", OTHER, "--account", ACCOUNT, "--region", REGION)
    assert found.code == 3
    assert b"web-1" in found.out
    assert OTHER.encode() in found.err
    assert b"sts:AssumeRole" in found.err


def test_check_says_what_is_missing(kumomori: Kumomori, estate: Estate) -> None:
    before = kumomori("cloud", "check", PLACE, *ROLE)
    assert before.code == 3, "without a snapshot of ours not all can be tried"
    with FileLedger(Path(os.environ["KUMOMORI_DATA"])) as ledger:
        assert ledger.installation in before.out.decode(), "the policies need it"
    estate.aws.deny("ec2:CreateSnapshots", principal="KumomoriScanner")
    denied = kumomori("cloud", "check", PLACE, *ROLE)
    assert denied.code == 1
    (line,) = [line for line in denied.out.decode().splitlines() if line.startswith("ec2:CreateSnapshots ")]
    assert " NO " in line
    assert "KumomoriSnapshot" in denied.out.decode(), "the statement to add is named"
    assert left(estate) == []


def test_the_policy_that_is_printed_is_enough_and_no_more(kumomori: Kumomori, estate: Estate) -> None:
    """The role is held to exactly that policy, conditions and all."""
    printed = json.loads(kumomori("cloud", "policy").out)
    estate.aws.restrict("KumomoriScanner", printed)
    found = kumomori("scan", "instance", location(estate, "shop-1"), *ROLE, "--format", "json")
    assert found.code == 1, found
    assert {gap["reason"] for gap in found.report["gaps"]} == {"encrypted", "swap"}, "nothing was denied"
    assert left(estate) == []
    for duty in ("reader", "responder", "organization"):
        assert json.loads(kumomori("cloud", "policy", duty).out)["Statement"]


def test_a_clean_machine(kumomori: Kumomori, estate: Estate) -> None:
    found = kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--format", "json")
    assert found.code == 0, found
    assert found.report["findings"] == []
    assert b"blocks read" in found.err
    assert b"$" in found.err
    assert (left(estate), entries()) == ([], [])


def test_the_same_findings_as_of_the_disks_as_files(kumomori: Kumomori, estate: Estate) -> None:
    far = kumomori("scan", "instance", location(estate, "shop-1"), *ROLE, "--format", "json")
    paths = [estate.content("shop-1", device).path for device in estate["shop-1"].volumes]
    near = kumomori("scan", "image", *paths, "--format", "json")
    assert (far.code, near.code) == (1, 1)
    for name in ("findings", "gaps", "volumes"):
        assert far.report[name] == near.report[name]
    assert left(estate) == []


def test_a_disk_that_may_not_be_read_is_a_gap_that_says_what_to_add(kumomori: Kumomori, estate: Estate) -> None:
    found = kumomori("scan", "instance", location(estate, "vault-1"), *ROLE, "--format", "json")
    assert found.code == 3
    assert any("kms:Decrypt" in gap["detail"] and "docs/aws.md" in gap["detail"] for gap in found.report["gaps"])
    assert (left(estate), entries()) == ([], [])


def test_only_what_changed_since_a_snapshot_that_was_kept(kumomori: Kumomori, estate: Estate, tmp_path: Path) -> None:
    (clone,) = estate.clones(1)  # what is written to it does not trouble other tests
    where = location(estate, clone.name)
    first = kumomori("scan", "instance", where, *ROLE, "--keep", "--manifest", tmp_path / "base", "--format", "json")
    base = kept(first.err)
    assert sorted(one.rpartition("/")[2] for one in base) == sorted(left(estate))
    estate.change(clone.name, disk.file(b"/srv/shell.php", "<?php @eval($_POST['x']); ?>"))
    estate.aws.log.clear()
    since = [word for one in base for word in ("--since", one)]
    again = kumomori("scan", "instance", where, *ROLE, "--base", tmp_path / "base", *since, "--format", "json")
    assert again.code == 1
    assert {one["path"] for one in again.report["findings"]} == {"/srv/shell.php"}
    assert again.report["coverage"]["mode"] == "incremental"
    assert estate.aws.log.count("ebs:GetSnapshotBlock") <= 10
    assert len(left(estate)) == len(base)
    assert kumomori("cloud", "sweep", PLACE, *ROLE).code == 0
    assert len(left(estate)) == len(base), "it was kept on purpose"
    dry = kumomori("cloud", "sweep", PLACE, *ROLE, "--kept", "--dry-run")
    assert all(one.rpartition("/")[2] in dry.err.decode() for one in base)
    assert len(left(estate)) == len(base), "it was only said"
    assert kumomori("cloud", "sweep", PLACE, *ROLE, "--kept").code == 0
    assert left(estate) == []


def test_disks_keep_the_order_of_the_base(kumomori: Kumomori, estate: Estate, tmp_path: Path) -> None:
    """Two disks of one image look alike: in another order each would be taken for the other."""
    where = location(estate, "shop-1")
    first = kumomori("scan", "instance", where, *ROLE, "--keep", "--manifest", tmp_path / "base", "--format", "json")
    boot, data = kept(first.err)
    words = ("--base", tmp_path / "base", "--format", "json")
    again = kumomori("scan", "snapshot", boot, data, *ROLE, "--since", boot, "--since", data, *words)
    assert again.report["findings"] == first.report["findings"]
    assert again.report["coverage"]["files_hashed"] == 0
    turned = kumomori("scan", "snapshot", data, boot, *ROLE, "--since", boot, "--since", data, *words)
    assert "the base cannot be used" in turned.err.decode()
    assert turned.code == 2
    assert kumomori("cloud", "sweep", PLACE, *ROLE, "--kept").code == 0
    assert left(estate) == []


def test_a_snapshot_is_looked_into_like_a_disk(kumomori: Kumomori, estate: Estate) -> None:
    ec2 = estate.aws.client("ec2")
    (clone,) = estate.clones(1)
    ids = [ec2.create_snapshot(VolumeId=clone.boot)["SnapshotId"]]
    estate.change(clone.name, disk.file(b"/srv/new.txt", "new"))
    ids.append(ec2.create_snapshot(VolumeId=clone.boot)["SnapshotId"])
    old, new = (f"{PLACE}/{one}" for one in ids)
    try:
        estate.aws.log.clear()
        listed = kumomori("ls", old, *ROLE, "--format", "jsonl")
        assert listed.code == 0
        assert estate.aws.log.count("ebs:GetSnapshotBlock") <= 0.05 * 2048
        assert len(listed.rows) > 400
        assert kumomori("cat", new, "/srv/new.txt", *ROLE).out == b"new"
        scanned = kumomori("scan", "snapshot", old, *ROLE, "--format", "json")
        assert (scanned.report["coverage"]["mode"], scanned.report["gaps"]) == ("full", [])
        assert scanned.report["stats"]["files"] == len([row for row in listed.rows if row["type"] != "gap"])
        compared = kumomori("diff", old, new, *ROLE)
        assert compared.code == 1
        assert b"+ " in compared.out
        assert b"/srv/new.txt" in compared.out
    finally:
        for one in ids:
            ec2.delete_snapshot(SnapshotId=one)


def test_blocks_are_read_by_another_account(
    kumomori: Kumomori, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = estate.aws.credentials(OTHER)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    estate.aws.log.clear()
    found = kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--lend", "--format", "json")
    assert (found.code, found.report["gaps"]) == (0, [])
    assert {call.caller.account for call in estate.aws.log.calls("ebs:GetSnapshotBlock")} == {OTHER}
    assert {call.caller.account for call in estate.aws.log.calls("ec2:CreateSnapshots")} == {ACCOUNT}
    assert "--role" in kumomori("scan", "instance", location(estate, "web-1"), "--lend").refused()
    assert "--lend" in kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--copy-key", "k").refused()


# bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("scan", "instance", "web-1"), "write aws://", id="no-location"),
        pytest.param(("scan", "instance", f"{PLACE}/snap-1"), "write aws://", id="a-snapshot-is-no-instance"),
        pytest.param(
            ("scan", "snapshot", f"{PLACE}/snap-0123456789abcdef0"), "no such snapshot", id="unknown-snapshot"
        ),
        pytest.param(("scan", "instance", f"{PLACE}/i-0123456789abcdef0"), "no such instance", id="unknown-instance"),
        pytest.param(
            ("scan", "snapshot", f"{PLACE}/snap-1", f"aws://{ACCOUNT}/us-east-1/snap-2"), "one account", id="two-places"
        ),
        pytest.param(("scan", "snapshot", f"{PLACE}/snap-1", "--since", f"{PLACE}/snap-2"), "--base", id="no-base"),
        pytest.param(("scan", "snapshot", f"{PLACE}/snap-1", "--base", "m"), "--since", id="no-since"),
        pytest.param(("ls", f"{PLACE}/snap-0123456789abcdef0"), "no such snapshot", id="ls"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    kumomori: Kumomori, estate: Estate, words: tuple[str, ...], said: str
) -> None:
    assert said in kumomori(*words, *ROLE).refused()


def test_wrong_credentials(kumomori: Kumomori, estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key")
    line = kumomori("instances").refused()
    assert "credentials" in line
    assert "wrong-secret-key" not in line
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "credentials" in kumomori("instances").refused()


def test_credentials_of_another_account(kumomori: Kumomori, estate: Estate) -> None:
    line = kumomori("scan", "instance", f"aws://{OTHER}/{REGION}/i-1").refused()
    assert ACCOUNT in line
    assert "--role" in line


def test_a_region_that_is_not_enabled(kumomori: Kumomori, estate: Estate) -> None:
    estate.aws.rules.disabled_regions.add(("*", "eu-south-1"))
    found = kumomori("instances", *ROLE, "--region", "eu-south-1", "--region", REGION)
    assert found.code == 3
    assert b"not enabled" in found.err
    assert b"web-1" in found.out


@pytest.mark.parametrize("words", [("cloud", "check"), ("cloud", "sweep")])
def test_a_region_that_there_is_not(kumomori: Kumomori, estate: Estate, words: tuple[str, ...]) -> None:
    assert "not enabled" in kumomori(*words, f"aws://{ACCOUNT}/xx-west-9", *ROLE).refused()


def test_too_few_earlier_snapshots_are_noticed_before_anything_is_made(
    kumomori: Kumomori, estate: Estate, tmp_path: Path
) -> None:
    ec2 = estate.aws.client("ec2")
    before = ec2.create_snapshot(VolumeId=estate["web-1"].boot)["SnapshotId"]
    (tmp_path / "base").write_bytes(b"no manifest, but it is not looked at before")
    estate.aws.log.clear()
    words = ("--base", tmp_path / "base", "--since", f"{PLACE}/{before}")
    found = kumomori("scan", "instance", location(estate, "shop-1"), *ROLE, *words)
    assert found.code == 2
    assert b"as many with --since" in found.err
    assert not estate.aws.log.count("ec2:CreateSnapshots")
    ec2.delete_snapshot(SnapshotId=before)


def test_a_machine_that_is_left_out(kumomori: Kumomori, estate: Estate) -> None:
    ec2 = estate.aws.client("ec2")
    instance = estate["web-1"].instance
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "kumomori:exclude", "Value": "yes"}])
    try:
        assert "kumomori:exclude" in kumomori("scan", "instance", location(estate, "web-1"), *ROLE).err.decode()
        assert "left out" in kumomori("instances", *ROLE).out.decode()
        assert left(estate) == []
    finally:
        ec2.delete_tags(Resources=[instance], Tags=[{"Key": "kumomori:exclude"}])


def test_a_snapshot_that_stays_pending_is_a_gap(kumomori: Kumomori, estate: Estate) -> None:
    estate.aws.rules.snapshot_seconds = 3600
    found = kumomori(
        *("scan", "instance", location(estate, "web-1"), *ROLE, "--snapshot-timeout-seconds", "1", "--format", "json")
    )
    assert found.code == 3
    assert any("pending" in gap["detail"] for gap in found.report["gaps"])
    assert left(estate) == []


def test_a_call_that_is_throttled_or_whose_answer_is_lost_is_made_once(kumomori: Kumomori, estate: Estate) -> None:
    estate.aws.fault(FaultKind.THROTTLED, "ec2:DescribeSnapshots", times=1)
    estate.aws.fault(FaultKind.RESET_AFTER, "ec2:CreateSnapshots", times=1)
    found = kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--format", "json")
    assert found.code == 0, found
    assert (left(estate), entries()) == ([], [])


# however it ends


@pytest.mark.parametrize("moment", ["after CreateSnapshots", "waiting", "reading"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_scan_leaves_nothing_that_the_next_does_not_take_away(
    kumomori: Kumomori, estate: Estate, moment: str, how: signal.Signals, tmp_path: Path
) -> None:
    ec2 = estate.aws.client("ec2")
    foreign = ec2.create_snapshot(
        VolumeId=estate["web-1"].boot,
        TagSpecifications=[
            {"ResourceType": "snapshot", "Tags": [{"Key": "kumomori:installation", "Value": "somebody-else"}]}
        ],
    )["SnapshotId"]
    log = estate.aws.log
    log.clear()
    awaited = {"after CreateSnapshots": "ec2:CreateSnapshots", "waiting": "ec2:CreateSnapshots"}
    if moment == "after CreateSnapshots":
        estate.aws.fault(FaultKind.HANG_AFTER, "ec2:CreateSnapshots", times=1, seconds=20)
    elif moment == "waiting":
        estate.aws.rules.snapshot_seconds = 3600
    else:
        estate.aws.rules.limits.block_latency_seconds = 1.0
    with started("scan", "instance", location(estate, "shop-1"), *ROLE, "--output", tmp_path / "report") as process:
        ends = time.monotonic() + 60
        while not log.count(awaited.get(moment, "ebs:GetSnapshotBlock")) and time.monotonic() < ends:
            time.sleep(0.05)
        assert process.poll() is None, "it was still at work"
        process.send_signal(how)
        process.wait(60)
    estate.aws.calm()
    if how is signal.SIGKILL:
        assert len(left(estate)) == 3, "both of its disks have a snapshot"
    swept = kumomori("cloud", "sweep", PLACE, *ROLE)
    assert swept.code == 0, swept
    assert left(estate) == [foreign]
    assert not (tmp_path / "report").exists()
    ec2.delete_snapshot(SnapshotId=foreign)


def test_help_tells_the_exit_codes(kumomori: Kumomori) -> None:
    for words in (
        ("instances",),
        ("cloud", "check"),
        ("cloud", "policy"),
        ("cloud", "sweep"),
        ("scan", "snapshot"),
        ("scan", "instance"),
    ):
        found = kumomori(*words, "--help")
        assert found.code == 0
        assert b"Exits" in found.out


def test_what_others_wrote_is_printable_everywhere(kumomori: Kumomori, estate: Estate) -> None:
    """A tag's value is its owner's to choose: it moves no cursor and sets no title."""
    ec2 = estate.aws.client("ec2")
    instance = estate["web-1"].instance
    evil = "\u009b31m\u202egpj"  # what XML can carry
    ec2.create_tags(Resources=[instance], Tags=[{"Key": "kumomori:exclude", "Value": evil}])
    try:
        assert "left out of all scans" in kumomori("scan", "instance", location(estate, "web-1"), *ROLE).refused()
        listed = kumomori("instances", *ROLE).out.decode()
        assert "\u009b" not in listed
        assert "\u202e" not in listed
    finally:
        ec2.delete_tags(Resources=[instance], Tags=[{"Key": "kumomori:exclude"}])


def test_a_snapshot_of_another_form_is_refused_in_one_line(
    kumomori: Kumomori, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.aws.tokens.BLOCK_BYTES", 1 << 20)
    ec2 = estate.aws.client("ec2")
    made = ec2.create_snapshot(VolumeId=estate["web-1"].boot)["SnapshotId"]
    try:
        assert "blocks of 524288 bytes" in kumomori("ls", f"{PLACE}/{made}", *ROLE).refused()
        found = kumomori("scan", "snapshot", f"{PLACE}/{made}", *ROLE, "--format", "json")
        assert found.code == 3
        assert any("blocks of 524288 bytes" in gap["detail"] for gap in found.report["gaps"])
    finally:
        ec2.delete_snapshot(SnapshotId=made)


def test_a_backup_that_somebody_tagged_as_ours_is_never_swept(kumomori: Kumomori, estate: Estate) -> None:
    ec2 = estate.aws.client("ec2")
    with FileLedger(Path(os.environ["KUMOMORI_DATA"])) as ledger:
        name = ledger.installation
    tags = {"kumomori:installation": name, "kumomori:expires": "2000-01-01", "kumomori:token": "x" * 256}
    backup = ec2.create_snapshot(
        VolumeId=estate["web-1"].boot,
        Description="nightly",
        TagSpecifications=[
            {"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        ],
    )["SnapshotId"]
    try:
        assert kumomori("cloud", "sweep", PLACE, *ROLE).code == 0
        assert left(estate) == [backup]
    finally:
        ec2.delete_snapshot(SnapshotId=backup)


def test_what_an_installation_left_whose_data_folder_is_lost(
    kumomori: Kumomori, estate: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Names are made up, so nobody else would ever sweep it; it is told, and deleted once its name is given."""
    ec2 = estate.aws.client("ec2")
    kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--keep")
    (made,) = left(estate)
    with FileLedger(Path(os.environ["KUMOMORI_DATA"])) as ledger:
        lost = ledger.installation
    monkeypatch.setenv("KUMOMORI_DATA", str(tmp_path / "another"))
    assert b"nothing to delete" in kumomori("cloud", "sweep", PLACE, *ROLE, "--lost", lost).err
    assert left(estate) == [made], "it has not expired"
    ec2.create_tags(Resources=[made], Tags=[{"Key": "kumomori:expires", "Value": "2020-01-01"}])
    told = kumomori("cloud", "sweep", PLACE, *ROLE)
    assert (told.code, left(estate)) == (0, [made])
    assert f"--lost {lost}" in told.err.decode()
    assert b"would be deleted" in kumomori("cloud", "sweep", PLACE, *ROLE, "--lost", lost, "--dry-run").err
    assert left(estate) == [made]
    swept = kumomori("cloud", "sweep", PLACE, *ROLE, "--lost", lost)
    assert (swept.code, left(estate)) == (0, [])
    assert b"--lost" not in swept.err
    assert "--lost" in kumomori("cloud", "sweep", PLACE, *ROLE, "--lost", "*").refused()


def test_all_that_an_installation_left_before_its_role_goes(
    kumomori: Kumomori, estate: Estate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of an installation that is given up, kept snapshots go, too, long before they expire; those of another stay."""
    kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--keep")
    (made,) = left(estate)
    with FileLedger(Path(os.environ["KUMOMORI_DATA"])) as ledger:
        retired = ledger.installation
    monkeypatch.setenv("KUMOMORI_DATA", str(tmp_path / "another"))
    for words in ("another", "*", ""):
        kumomori("cloud", "sweep", PLACE, *ROLE, "--retired", words)
        assert left(estate) == [made], words
    told = kumomori("cloud", "sweep", PLACE, *ROLE, "--retired", retired, "--dry-run")
    assert b"would be deleted" in told.err
    assert left(estate) == [made]
    assert kumomori("cloud", "sweep", PLACE, *ROLE, "--retired", retired).code == 0
    assert left(estate) == []
    assert b"nothing to delete" in kumomori("cloud", "sweep", PLACE, *ROLE, "--retired", retired).err


def test_a_dry_run_also_tells_what_was_kept(kumomori: Kumomori, estate: Estate) -> None:
    kumomori("scan", "instance", location(estate, "web-1"), *ROLE, "--keep")
    (made,) = left(estate)
    assert b"1 kept snapshot left alone" in kumomori("cloud", "sweep", PLACE, *ROLE, "--dry-run").err
    assert made.encode() in kumomori("cloud", "sweep", PLACE, *ROLE, "--dry-run", "--kept").err
    assert left(estate) == [made]
    assert kumomori("cloud", "sweep", PLACE, *ROLE, "--kept").code == 0
    assert left(estate) == []
