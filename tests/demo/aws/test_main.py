"""The emulated AWS as a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import demo
from demo.aws import ACCOUNT, REGION
from demo.aws.__main__ import main
from demo.aws.control import Remote
from tests.demo.aws.tools import get, indexes, listed, refused


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    file = tmp_path_factory.mktemp("aws") / "ready.json"
    command = [sys.executable, "-m", "demo.aws", "--estate", "--with-parent", "--ready-file", str(file)]
    root = Path(demo.__file__).resolve().parent.parent
    with subprocess.Popen(command, cwd=root) as process:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert process.poll() is None, "the emulated AWS died while starting"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert file.stat().st_mode & 0o077 == 0  # it holds secrets
        yield json.loads(file.read_text())
        process.terminate()
        assert process.wait(30) == 0


def client(ready: dict[str, Any], service: Any) -> Any:
    return boto3.client(
        service,
        region_name=ready["region"],
        endpoint_url=ready["endpoint"],
        aws_access_key_id=ready["access_key"],
        aws_secret_access_key=ready["secret_key"],
    )


def test_the_estate_is_served_and_changed_from_outside(ready: dict[str, Any]) -> None:
    ec2, ebs, remote = client(ready, "ec2"), client(ready, "ebs"), Remote(ready)
    assert list(ready["machines"]) == ["web-1", "shop-1", "vault-1"]
    volume = ready["machines"]["web-1"]["volumes"]["/dev/sda1"]
    first = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    (page,) = remote.do("change", machine="web-1", files={"/etc/hostname": "DEMO\n"})
    second = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    changed = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)["ChangedBlocks"]
    assert [one["BlockIndex"] for one in changed] == [page * 4096 // 524288]
    remote.do("fill_volume", volume=volume, blocks=3, first=500)
    third = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    assert {500, 501, 502} <= set(indexes(ebs, third))
    assert list(remote.do("clones", count=1)) == ["web-1-clone-1"]
    remote.do("clear_log")
    ((index, token), *_) = listed(ebs, third)
    get(ebs, third, index, token)
    assert remote.do("actions") == {"ebs:ListSnapshotBlocks": 1, "ebs:GetSnapshotBlock": 1}
    remote.do("expire_tokens")
    with refused("ValidationException", "INVALID_BLOCK_TOKEN"):
        get(ebs, third, index, token)
    remote.do("deny", action="ebs:*")
    with refused("AccessDeniedException"):
        listed(ebs, third)
    remote.do("calm")
    remote.do("limits", blocks_per_account=1, block_latency_seconds=0.01)
    remote.do("fault", kind="error_500", action="ebs:ListSnapshotBlocks")
    remote.do("advance", seconds=60)


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        pytest.param("no_such_action", {}, id="unknown"),
        pytest.param("init__", {}, id="not-an-action"),
        pytest.param("limits", {"no_such": 1}, id="unknown-limit"),
        pytest.param("advance", {"seconds": -1}, id="back-in-time"),
        pytest.param("advance", {"days": 1}, id="wrong-argument"),
    ],
)
def test_what_is_not_done(action: str, arguments: dict[str, Any], ready: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="error"):
        Remote(ready).do(action, **arguments)


def test_nobody_else_is_heard(ready: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="secret"):
        Remote({**ready, "control": "x"}).do("actions")


def test_it_says_why_it_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--folder", str(tmp_path / "file" / "folder")]) == 2
    assert "could not start" in capsys.readouterr().err


def test_lines_for_a_shell() -> None:
    """Pasted into one, they lead commands to it."""
    command = [sys.executable, "-m", "demo.aws", "--estate", "--shell"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(7)]
        finally:
            process.terminate()
    shown = subprocess.run(
        ["sh", "-c", "".join(lines) + 'echo "$AWS_ENDPOINT_URL $AWS_DEFAULT_REGION $ACCOUNT $REGION"'],
        check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, timeout=10,
    )  # fmt: skip
    assert re.fullmatch(rf"http://127\.0\.0\.1:[0-9]+ {REGION} {ACCOUNT} {REGION}\n", shown.stdout)
