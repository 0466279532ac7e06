"""The images, built and run for real. Minutes of work, so not in the suite; KUMOMORI_IMAGES names a folder that `make images` made.

What runs them is `tests/infra/images/rootfs.py`: their user, a read-only root, no capabilities.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from cloud.aws.events import parse
from console.serve import Running
from console.settings import Settings
from demo import disk
from demo.aws.emulator import ACCOUNT, REGION, EmulatedAws
from infra.images.build import Buildah, build, manifest_digest, version
from tests.cloud.aws.test_events import change
from tests.infra.images import probe
from tests.infra.images.rootfs import USER, Image, asked_to_end, left, ran, running
from tests.infra.images.runtime_api import PREFIX, RuntimeApi, serving
from tests.need import need_root, need_tool
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(1_800)
_MODULES = ["boto3", "console.serve", "cryptography.fernet", "dbos", "google_crc32c", "hyperscan", "obstore", "psycopg", "scanner.scan", "yara", "zstandard"]  # fmt: skip
_FUNCTION_SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need_tool("buildah", "debootstrap")
    if made := os.environ.get("KUMOMORI_IMAGES"):
        return Path(made).resolve()
    output = tmp_path_factory.mktemp("images")
    build(output)
    return output


@contextmanager
def mounted(folder: Path, target: str, name: str) -> Iterator[Image]:
    """Nothing runs in it afterwards."""
    buildah = Buildah(folder)
    with buildah.container(f"localhost/{name}:{version()}") as container, buildah.mounted(container) as root:
        yield Image.of(folder / f"{target}.oci.tar", root)
        assert left(root) == []


@pytest.fixture(scope="module")
def kumomori(folder: Path) -> Iterator[Image]:
    with mounted(folder, "kumomori", "kumomori") as image:
        yield image


@pytest.fixture(scope="module")
def function(folder: Path) -> Iterator[Image]:
    with mounted(folder, "function", "kumomori-function") as image:
        yield image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    os.chown(made, USER, USER)
    return made


def until_healthy(image: Image, data: Path, environment: dict[str, str], process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 180
    while True:
        code, said = ran(image, data, ["health"], environment)
        if code == 0:
            return said
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(1)


# what is in them


@pytest.mark.parametrize("target", ["kumomori", "function"])
def test_archive_and_bill(folder: Path, target: str) -> None:
    text = (folder / f"{target}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    digest = manifest_digest(folder / f"{target}.oci.tar")
    assert document["metadata"]["component"]["hashes"][0]["content"] == digest.removeprefix("sha256:")
    names = {one["name"] for one in document["components"]}
    assert {"libc6", "python3.11-minimal", "kumomori", "yara-python"} <= names
    assert ("awslambdaric" in names) is (target == "function")
    assert not {"pip", "setuptools", "gcc", "binutils", "apt"} & names


def test_what_they_say_of_themselves(kumomori: Image, function: Image) -> None:
    for image in (kumomori, function):
        assert image.user == f"{USER}:{USER}"
        assert image.stop_signal == "SIGTERM"
    assert [*kumomori.entry, *kumomori.command] == ["kumomori", "--help"]
    assert function.command == ["scanner.fleet.function.handler"]


def test_no_tools_and_no_setuid(kumomori: Image, function: Image) -> None:
    folders = ("usr/bin", "usr/sbin", "opt/kumomori/bin", "opt/function/bin")
    for root in (kumomori.root, function.root):
        for name in ("pip", "pip3", "apt-get", "gcc", "cc", "ld", "strip", "curl", "wget"):
            assert not [one for one in folders if (root / one / name).exists()], name
        files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        assert [path for path in files if path.stat().st_mode & 0o6000] == []


# how they are run here


def test_the_root_is_read_only_and_the_user_is_nobody(kumomori: Image, data: Path) -> None:
    script = "import os; print(os.getuid(), os.getgid(), os.getgroups()); open('/opt/x', 'w')"
    code, said = ran(kumomori, data, ["python", "-c", script], entry=False)
    assert code == 1
    assert said.startswith(f"{USER} {USER} []")
    assert "Read-only file system" in said


def test_what_takes_too_long_is_gone_with_all_it_started(kumomori: Image, data: Path) -> None:
    before = left(kumomori.root)
    script = "setsid sleep 300 & touch ready; sleep 300"
    with running(kumomori, data, ["sh", "-c", script], {}, entry=False):
        while not (data / "ready").exists():
            time.sleep(0.05)
        assert "sleep 300 " in left(kumomori.root)
    assert left(kumomori.root) == before == []
    with pytest.raises(subprocess.TimeoutExpired):
        ran(kumomori, data, ["sh", "-c", script], entry=False, timeout_seconds=1)
    assert left(kumomori.root) == []


# what they do


_NEED_A_NAMESPACE = {"user-namespace", "network-namespace", "empty-root", "processes"}


@pytest.mark.parametrize("namespaces", [True, False])
def test_a_scan_finds_what_is_planted_and_its_guards_stand(kumomori: Image, data: Path, *, namespaces: bool) -> None:
    disk.build(data / "demo.img")
    code, said = ran(kumomori, data, ["scan", "image", "demo.img", "--format", "json"], namespaces=namespaces)
    assert code == 1, said
    report = json.loads(said[said.index("{") : said.rindex("}") + 1])
    found = json.dumps(report["findings"])
    assert [path for path in disk.PLANTED if path.decode() not in found] == []
    print("\nguards:", json.dumps(report["guards"], indent=1))
    down = {one["name"] for one in report["guards"] if not one["active"]}
    assert len(report["guards"]) > len(_NEED_A_NAMESPACE)
    assert down == (set() if namespaces else _NEED_A_NAMESPACE), report["guards"]


def test_a_console_is_healthy_until_it_is_asked_to_end(kumomori: Image, data: Path, free_port: int) -> None:
    environment = {
        "KUMOMORI_CONSOLE_DATABASE": "sqlite:////var/lib/kumomori/console.db",
        "KUMOMORI_CONSOLE_PORT": str(free_port),
    }
    with running(kumomori, data, ["console", "--first-token", "token"], environment) as process:
        assert until_healthy(kumomori, data, environment, process) == "console: works\n"
        assert asked_to_end(process) == 0
    assert (data / "token").stat().st_mode & 0o777 == 0o600
    assert ran(kumomori, data, ["health"], environment)[0] == 1


def test_a_worker_is_healthy_on_postgres_until_it_is_asked_to_end(
    kumomori: Image, data: Path, postgres: Postgres, tmp_path: Path
) -> None:
    (data / "token").write_text("not-a-token-that-counts\n")
    url = postgres.database()
    environment = {"KUMOMORI_FLEET_DATABASE": url, "AWS_EC2_METADATA_DISABLED": "true"}
    with Running(Settings.model_validate({"database": f"sqlite:///{tmp_path}/console.db", "port": 0})) as console:
        told = ["--console", console.address, "--token-file", "token", "--data", "fleet"]
        log = (tmp_path / "log").open("wb")
        with log, running(kumomori, data, ["worker", "--fleet", "eu", *told], environment, stderr=log) as process:
            assert until_healthy(kumomori, data, environment, process).startswith("worker: holds slot-")
            assert asked_to_end(process) == 0, (tmp_path / "log").read_text()[-2000:]
        postgres.drop(url)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


# the function


def invoked(
    image: Image, data: Path, handler: str, events: list[Any], environment: dict[str, str] | None = None
) -> tuple[RuntimeApi, str]:
    """What came of it, and what was printed: until every event is answered, or the runtime has ended."""
    (data / "probe.py").write_bytes(Path(probe.__file__).read_bytes())
    log = data.parent / "function.log"
    with serving(events) as api, log.open("wb") as out:
        given = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "probe",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYTHONPATH": f"{image.environment['PYTHONPATH']}:/var/lib/kumomori",
            **(environment or {}),
        }
        with running(image, data, [handler], given, stdout=out, stderr=out) as process:
            deadline = time.monotonic() + _FUNCTION_SECONDS
            while len(api.told) < len(events) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
    said = log.read_text()
    print(f"\n{handler}: {api.calls}, status {process.returncode}")
    assert api.told, f"no answer, status {process.returncode}, calls {api.calls}: {said[-3000:]}"
    return api, said


SETTINGS = {"AWS_REGION": REGION, "KUMOMORI_ACCOUNT": ACCOUNT, "KUMOMORI_QUEUE": "http://127.0.0.1:9/queue"}


def test_a_function_runs_as_its_user_and_has_what_handlers_import(function: Image, data: Path) -> None:
    modules = [*_MODULES, "cloud.aws.functions", "scanner.fleet.function"]
    api, _ = invoked(function, data, "probe.handler", [{"echo": "雲", "modules": modules}, {"echo": "", "modules": []}])
    assert api.told == {
        f"{PREFIX}/invocation/request-1/response": {"uid": USER, "request": "request-1", "echo": "雲", "imported": len(modules)},
        f"{PREFIX}/invocation/request-2/response": {"uid": USER, "request": "request-2", "echo": "", "imported": 0},
    }  # fmt: skip
    assert api.calls[0] == f"GET {PREFIX}/invocation/next"


def test_a_bad_event_is_dropped_with_a_reason(function: Image, data: Path) -> None:
    api, said = invoked(function, data, "cloud.aws.functions.on_instance", [change(source="my.app")], SETTINGS)
    assert api.told == {f"{PREFIX}/invocation/request-1/response": {"sent": 0, "dropped": {"not from EC2": 1}}}
    assert '{"function":"on_instance","sent":0,"dropped":{"not from EC2":1}}\n' in said


def test_an_event_reaches_the_queue(function: Image, data: Path) -> None:
    event = change(account=ACCOUNT, region=REGION)
    with EmulatedAws() as aws:
        keys = aws.credentials()
        sqs = boto3.client("sqs", REGION, endpoint_url=aws.endpoint, aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key)  # fmt: skip
        url = sqs.create_queue(QueueName="events")["QueueUrl"]
        settings = {
            **SETTINGS,
            "KUMOMORI_QUEUE": url,
            "AWS_ENDPOINT_URL": aws.endpoint,
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        }
        api, said = invoked(function, data, "cloud.aws.functions.on_instance", [event], settings)
        (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
        sqs.close()
    assert api.told == {f"{PREFIX}/invocation/request-1/response": {"sent": 1, "dropped": {}, "failed": 0}}
    assert list(parse(message["Body"])) == list(parse(json.dumps(event)))
    assert keys.secret_key not in said


@pytest.mark.parametrize(
    ("handler", "environment", "route", "kind", "message"),
    [
        pytest.param("cloud.aws.functions.on_instance", {}, "invocation/request-1/error", "ConfigError", "AWS_REGION is not set", id="events"),
        pytest.param("cloud.aws.functions.reconcile", {"AWS_REGION": REGION}, "invocation/request-1/error", "ConfigError", "KUMOMORI_ACCOUNT is not set", id="reconcile"),
        pytest.param("cloud.aws.functions.sweep", SETTINGS, "invocation/request-1/error", "ConfigError", "KUMOMORI_INSTALLATION is not set", id="sweep"),
        pytest.param("scanner.fleet.function.handler", {"KUMOMORI_FUNCTION_SLOTS": "0"}, "invocation/request-1/error", "ConfigError", "KUMOMORI_FUNCTION_SLOTS is not a number from 1 to 1000", id="scans"),
        pytest.param("cloud.aws.functions.nothing", {}, "init/error", "Runtime.HandlerNotFound", "Handler 'nothing' missing on module 'cloud.aws.functions'", id="no-handler"),
        pytest.param("nothing.handler", {}, "init/error", "Runtime.ImportModuleError", "Unable to import module 'nothing': No module named 'nothing'", id="no-module"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(
    function: Image, data: Path, handler: str, environment: dict[str, str], route: str, kind: str, message: str
) -> None:
    api, _ = invoked(function, data, handler, [{}], environment)
    assert list(api.told) == [f"{PREFIX}/{route}"]
    told = api.told[f"{PREFIX}/{route}"]
    assert (told["errorType"], told["errorMessage"]) == (kind, message)
