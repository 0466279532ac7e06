"""The images, built and run for real. Minutes of work, so not in the suite; KUMOMORI_IMAGES names a folder that `make images` made.

What runs them is `tests/infra/images/rootfs.py`: their user, a read-only root, no capabilities.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from console.serve import Running
from console.settings import Settings
from demo import disk
from infra.images.build import Buildah, build, manifest_digest, version
from tests.infra.images import probe
from tests.infra.images.rootfs import USER, ran, started
from tests.need import need_root, need_tool
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(1_800)
_MODULES = ["boto3", "console.serve", "cryptography.fernet", "dbos", "google_crc32c", "hyperscan", "obstore", "psycopg", "scanner.scan", "yara", "zstandard"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    need_tool("buildah", "debootstrap")
    if made := os.environ.get("KUMOMORI_IMAGES"):
        return Path(made).resolve()
    output = tmp_path_factory.mktemp("images")
    build(output)
    return output


@pytest.fixture(scope="module")
def kumomori(folder: Path) -> Iterator[Path]:
    buildah = Buildah(folder)
    with buildah.container(f"localhost/kumomori:{version()}") as container, buildah.mounted(container) as root:
        yield root


@pytest.fixture(scope="module")
def function(folder: Path) -> Iterator[Path]:
    buildah = Buildah(folder)
    with buildah.container(f"localhost/kumomori-function:{version()}") as container, buildah.mounted(container) as root:
        yield root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    os.chown(made, USER, USER)
    return made


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait(30)


def until_healthy(root: Path, data: Path, environment: dict[str, str], process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 180
    while True:
        code, said = ran(root, data, ["kumomori", "health"], environment)
        if code == 0:
            return said
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(1)


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


def test_no_tools_and_no_setuid(kumomori: Path) -> None:
    for name in ("pip", "pip3", "apt-get", "gcc", "cc", "ld", "strip", "curl", "wget"):
        assert not [one for one in ("usr/bin", "usr/sbin", "opt/kumomori/bin") if (kumomori / one / name).exists()], (
            name
        )
    privileged = [
        path
        for path in kumomori.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000
    ]
    assert privileged == []


def test_a_scan_finds_what_is_planted_and_its_guards_stand(kumomori: Path, data: Path) -> None:
    disk.build(data / "demo.img")
    code, said = ran(kumomori, data, ["kumomori", "scan", "image", "demo.img", "--format", "json"], {})
    assert code == 1, said
    report = json.loads(said[said.index("{") : said.rindex("}") + 1])
    found = json.dumps(report["findings"])
    assert [path for path in disk.PLANTED if path.decode() not in found] == []
    guards = {one["name"]: one["active"] for one in report["guards"]}
    print("guards:", guards)
    # in a chroot the kernel gives no user namespace, so the guards that need one (network, empty root) do not stand
    needed = (
        "seccomp",
        "landlock-files",
        "landlock-tcp",
        "capabilities",
        "no-new-privileges",
        "unprivileged-user",
        "memory",
        "cpu",
    )
    assert [name for name in needed if not guards[name]] == [], report["guards"]


def test_the_root_is_read_only_and_the_user_is_nobody(kumomori: Path, data: Path) -> None:
    script = "import os; print(os.getuid(), os.getgid(), os.getgroups()); open('/opt/x', 'w')"
    code, said = ran(kumomori, data, ["python", "-c", script], {})
    assert code == 1
    assert said.startswith(f"{USER} {USER} []")
    assert "Read-only file system" in said


def test_a_console_is_healthy(kumomori: Path, data: Path, free_port: int) -> None:
    environment = {
        "KUMOMORI_CONSOLE_DATABASE": "sqlite:////var/lib/kumomori/console.db",
        "KUMOMORI_CONSOLE_PORT": str(free_port),
    }
    process = started(kumomori, data, ["kumomori", "console", "--first-token", "token"], environment)
    try:
        assert until_healthy(kumomori, data, environment, process) == "console: works\n"
    finally:
        end(process)
    assert (data / "token").stat().st_mode & 0o777 == 0o600
    assert ran(kumomori, data, ["kumomori", "health"], environment)[0] == 1


def test_a_worker_is_healthy_on_postgres(kumomori: Path, data: Path, postgres: Postgres, tmp_path: Path) -> None:
    (data / "token").write_text("not-a-token-that-counts\n")
    url = postgres.database()
    environment = {"KUMOMORI_FLEET_DATABASE": url, "AWS_EC2_METADATA_DISABLED": "true"}
    with Running(Settings.model_validate({"database": f"sqlite:///{tmp_path}/console.db", "port": 0})) as console:
        command = [
            "kumomori",
            "worker",
            "--fleet",
            "eu",
            "--console",
            console.address,
            "--token-file",
            "token",
            "--data",
            "fleet",
        ]
        process = started(kumomori, data, command, environment, stderr=subprocess.DEVNULL)
        try:
            assert until_healthy(kumomori, data, environment, process).startswith("worker: holds slot-")
        finally:
            end(process)
            postgres.drop(url)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


class Asked(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Runtime)
        self.answers: dict[str, bytes] = {}
        self.asked = threading.Event()


class Runtime(BaseHTTPRequestHandler):
    """One invocation, then none. https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html"""

    server: Asked

    def do_GET(self) -> None:
        if self.server.asked.is_set():
            time.sleep(600)
        self.server.asked.set()
        body = json.dumps(
            {"echo": "雲", "modules": [*_MODULES, "cloud.aws.connector", "scanner.fleet.settings"]}
        ).encode()
        self.send_response(200)
        for name, value in (
            ("Lambda-Runtime-Aws-Request-Id", "request-1"),
            ("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000)),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:111122223333:function:probe"),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.answers[self.path] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_the_function_answers_an_invocation(function: Path, data: Path) -> None:
    (data / "probe.py").write_bytes(Path(probe.__file__).read_bytes())
    server = Asked()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "PYTHONPATH": "/opt/function:/var/lib/kumomori",
        "HOME": "/tmp",
        "AWS_LAMBDA_FUNCTION_NAME": "probe",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
    }
    process = started(function, data, ["python", "-m", "awslambdaric", "probe.handler"], environment)
    try:
        deadline = time.monotonic() + 120
        while not server.answers and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
    finally:
        end(process)
        server.shutdown()
        server.server_close()
    assert list(server.answers) == ["/2018-06-01/runtime/invocation/request-1/response"], server.answers
    answer = json.loads(server.answers.popitem()[1])
    assert answer == {"uid": USER, "request": "request-1", "echo": "雲", "imported": len(_MODULES) + 2}
