"""The osls command, and an AWS to deploy into: moto in a process of its own, and the only way to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.infra.serverless.declared import ROOT
from tests.need import need_npm

REGION = "eu-central-1"
ACCOUNT = "123456789012"  # moto's
BUCKET = "deployments"
_SERVER = "import sys; from moto.server import ThreadedMotoServer as M; s = M('127.0.0.1', port=0); s.start(); print(s.get_host_and_port()[1], flush=True); sys.stdin.read()"


@pytest.fixture(scope="session")
def osls() -> Path:
    return need_npm("osls", "node") / "osls"


class Proxy:
    """The only way out of osls: it leads to `port` of this machine. Whoever wants to go elsewhere is refused and written down."""

    def __init__(self, port: int) -> None:
        self._allowed = b"CONNECT 127.0.0.1:%d " % port
        self._to = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.passed = 0
        self.refused: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(connection,), daemon=True).start()

    def _pass(self, here: socket.socket) -> None:
        with here, suppress(OSError):
            asked = b""
            while not asked.endswith(b"\r\n\r\n") and (more := here.recv(1)):
                asked += more
            if not asked.startswith(self._allowed):
                self.refused.append(asked)
                return
            self.passed += 1
            with socket.create_connection(self._to) as there:
                here.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(there, here), daemon=True)
                back.start()
                _copy(here, there)
                back.join(30)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(65_536):
            target.sendall(some)
        target.shutdown(socket.SHUT_WR)


@dataclass
class Site:
    """A copy of what osls needs to see of the repository, and the AWS that it deploys into."""

    folder: Path
    osls: Path
    endpoint: str
    proxy: Proxy
    parameters: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # its python3 has boto3
        proxy = f"http://127.0.0.1:{self.proxy.port}"
        return {
            "PATH": path,
            "HOME": str(self.folder / "home"),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CI": "1",
            "NODE_NO_WARNINGS": "1",
            "SLS_NOTIFICATIONS_MODE": "off",
            "SLS_TELEMETRY_DISABLED": "1",
            "SLS_TRACKING_DISABLED": "1",
            "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "https_proxy": proxy,
            "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        }  # fmt: skip

    def run(self, *arguments: str, stage: str = "prod", **parameters: str) -> str:
        """What it printed. Fails the test unless it ends with 0."""
        done = self.ends(*arguments, stage=stage, **parameters)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ends(self, *arguments: str, stage: str = "prod", **parameters: str) -> subprocess.CompletedProcess[str]:
        given = [f"--param={name}={value}" for name, value in {**self.parameters, **parameters}.items() if value]
        return subprocess.run(
            [self.osls, *arguments, "--region", REGION, "--stage", stage, *given],
            cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def client(self, service: Any) -> Any:
        return boto3.Session("none", "none", region_name=REGION).client(service, endpoint_url=self.endpoint)


@pytest.fixture(scope="module")
def site(osls: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for name in ("core", "cloud", "infra/serverless"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(ROOT / "serverless.yml", folder)
    (folder / "README.md").write_text("not for a package")
    (folder / "home").mkdir()
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    port = next(int(line) for line in server.stdout if line.strip().isdigit())
    proxy = Proxy(port)
    try:
        parameters = {"installation": "acme", "deploymentBucket": BUCKET}
        made = Site(folder, osls, f"http://127.0.0.1:{port}", proxy, parameters)
        made.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield made
    finally:
        server.kill()
        server.communicate()
        proxy.close()
