"""Where manifests are kept: the same in a folder, in S3, in Google Cloud Storage and in Azure Blob Storage.

Google's storage is spoken to by its XML API, which is S3's but for how a caller signs
(https://cloud.google.com/storage/docs/xml-api/overview): so the S3 server, which checks no signature, stands in for it.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

from core.errors import CloudError, ConfigError, Corrupt, Gone
from scanner.fleet.objects import Objects
from scanner.fleet.sealing import Keys
from tests.azurite import Azurite, new_key, server

_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
Raw = Callable[[str, bytes | None], bytes]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    s3 = DomainDispatcherApplication(create_backend_app)

    def translated(environ: dict[str, Any], start: Any) -> Any:
        environ["HTTP_AUTHORIZATION"] = _SIGNED
        # this server takes them as they come, and the clients of S3 write these characters plainly
        for name in ("RAW_URI", "REQUEST_URI"):
            environ[name] = environ[name].replace("%2D", "-").replace("%2E", ".").replace("%2F", "/")
        return s3(environ, start)

    server = make_server("127.0.0.1", 0, translated, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with server(tmp_path_factory.mktemp("azurite")) as running:
        yield running


class Line:
    """The way to the server on `port`, which can be cut in the middle of what goes `up` to it, or `down` from it."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._way = ""
        self._after = 0
        self.cuts_left = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def cut(self, way: str, *, after: int, times: int) -> None:
        """The next `times` connections that carry more than `after` bytes that way, each since it was opened."""
        with self._lock:
            self._way, self._after, self.cuts_left = way, after, times

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._socket.accept()
                threading.Thread(target=self._pass, args=(here,), daemon=True).start()

    def _pass(self, here: socket.socket) -> None:
        with here, suppress(OSError), socket.create_connection(self._to) as there:
            back = threading.Thread(target=self._copy, args=(there, here, "down"), daemon=True)
            back.start()
            self._copy(here, there, "up")
            back.join()

    def _copy(self, source: socket.socket, target: socket.socket, way: str) -> None:
        count = 0
        with suppress(OSError):
            while some := source.recv(65_536):
                count += len(some)
                if self._is_cut(way, count):
                    source.shutdown(socket.SHUT_RDWR)
                    break
                target.sendall(some)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, way: str, count: int) -> bool:
        with self._lock:
            is_cut = self.cuts_left > 0 and way == self._way and count > self._after
            self.cuts_left -= is_cut
        return is_cut


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _s3_objects(endpoint: str) -> tuple[str, Raw]:
    """A new bucket, and what is below `some/prefix` in it."""
    words: dict[str, Any] = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}), **words)
    bucket = f"bucket-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)

    def raw(name: str, content: bytes | None) -> bytes:
        if content is not None:
            client.put_object(Bucket=bucket, Key=f"some/prefix/{name}", Body=content)
        body: bytes = client.get_object(Bucket=bucket, Key=f"some/prefix/{name}")["Body"].read()
        return body

    return bucket, raw


def _azure_objects(azurite: Azurite) -> tuple[str, Raw]:
    container = azurite.create_container()

    def raw(name: str, content: bytes | None) -> bytes:
        if content is not None:
            azurite.put(f"{container}/some/prefix/{name}", content)
        return azurite.get(f"{container}/some/prefix/{name}")

    return container, raw


def _in_s3(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """As an operator says it: in the environment alone."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def _in_azure(monkeypatch: pytest.MonkeyPatch, azurite: Azurite, port: int) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{port}/{azurite.account}")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azurite.account)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azurite.key)


_AZURE = pytest.param("azure", marks=pytest.mark.slow)


@pytest.fixture(params=["folder", "s3", "gcs", _AZURE])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Objects, Raw]:
    """The store, and a function that reads or writes what it holds behind its back."""
    keys = Keys.kept_in(tmp_path / "keys")
    scratch = tmp_path / "work"
    if request.param == "folder":
        folder = tmp_path / "objects"

        def file(name: str, content: bytes | None) -> bytes:
            if content is not None:
                (folder / name).write_bytes(content)
            return (folder / name).read_bytes()

        return Objects(folder, keys, scratch=scratch), file
    running = request.getfixturevalue("azurite" if request.param == "azure" else request.param)
    if request.param == "azure":
        _in_azure(monkeypatch, running, running.port)
        container, raw = _azure_objects(running)
        return Objects(f"az://{container}/some/prefix", keys, scratch=scratch), raw
    bucket, raw = _s3_objects(running)
    if request.param == "s3":
        _in_s3(monkeypatch, _port(running))
        return Objects(f"s3://{bucket}/some/prefix", keys, scratch=scratch), raw
    account = tmp_path / "service-account.json"
    words = {"client_email": "", "private_key": "", "private_key_id": ""}
    account.write_text(json.dumps({"gcs_base_url": running, "disable_oauth": True, **words}))
    config: dict[str, Any] = {"service_account_path": str(account), "skip_signature": True}
    config["client_options"] = {"allow_http": True}
    return Objects(f"gs://{bucket}/some/prefix", keys, scratch=scratch, **config), raw


@pytest.fixture(params=["s3", _AZURE])
def far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Line]]:
    """URL of a bucket or container, and the way to it."""
    if request.param == "azure":
        azurite = request.getfixturevalue("azurite")
        line = Line(azurite.port)
        _in_azure(monkeypatch, azurite, line.port)
        where = f"az://{_azure_objects(azurite)[0]}"
    else:
        endpoint = request.getfixturevalue("s3")
        line = Line(_port(endpoint))
        _in_s3(monkeypatch, line.port)
        where = f"s3://{_s3_objects(endpoint)[0]}"
    yield where, line
    line.close()


@pytest.mark.parametrize("size", [0, 1000, 7 << 20])
def test_put_get_delete(store: tuple[Objects, Raw], tmp_path: Path, size: int) -> None:
    objects, raw = store
    content = secrets.token_bytes(size)
    (tmp_path / "manifest").write_bytes(content)
    written = objects.put("a-1.manifest", tmp_path / "manifest")
    assert list(objects.names()) == ["a-1.manifest"]
    stored = raw("a-1.manifest", None)
    assert len(stored) == written
    assert size < 1000 or content[:500] not in stored
    objects.get("a-1.manifest", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    (tmp_path / "manifest").write_bytes(b"another")
    objects.put("a-1.manifest", tmp_path / "manifest")
    objects.get("a-1.manifest", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"another"
    for _ in range(2):
        objects.delete("a-1.manifest")
    with pytest.raises(Gone):
        objects.get("a-1.manifest", tmp_path / "back")
    assert list((tmp_path / "work").iterdir()) == []


def test_what_was_changed_behind_its_back(store: tuple[Objects, Raw], tmp_path: Path) -> None:
    objects, raw = store
    (tmp_path / "manifest").write_bytes(b"x" * 5000)
    objects.put("a-1.manifest", tmp_path / "manifest")
    stored = raw("a-1.manifest", None)
    for bad in (stored[:-1], b"", b"something else", stored[:2000] + b"?" + stored[2001:]):
        raw("a-1.manifest", bad)
        with pytest.raises(Corrupt):
            objects.get("a-1.manifest", tmp_path / "back")
    raw("b-1.manifest", stored)
    with pytest.raises(Corrupt):
        objects.get("b-1.manifest", tmp_path / "back")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 300, "a\x00", "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    objects = Objects(tmp_path / "objects", Keys.kept_in(tmp_path / "keys"), scratch=tmp_path / "work")
    for call in (
        lambda: objects.delete(name),
        lambda: objects.get(name, tmp_path / "x"),
        lambda: objects.put(name, tmp_path / "keys"),
    ):
        with pytest.raises(ValueError, match="no name"):
            call()


def test_stores_that_cannot_be(tmp_path: Path) -> None:
    keys = Keys.kept_in(tmp_path / "keys")
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file", "gopher://host/x", "s3://"):
        with pytest.raises(ConfigError):
            Objects(where, keys, scratch=tmp_path / "work")
    away = Objects(
        "s3://bucket",
        keys,
        scratch=tmp_path / "work",
        endpoint="http://127.0.0.1:9",
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        retry_config={"max_retries": 0},
    )
    with pytest.raises(CloudError, match="cannot be used") as told:
        away.put("a-1.manifest", tmp_path / "file")
    assert "secret" not in str(told.value)


def test_two_fleets_in_one_store(s3: str, tmp_path: Path) -> None:
    """Two consoles give the scans of one machine the same ids: neither fleet reads, replaces or sweeps what is the other's."""
    words: dict[str, Any] = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    mine: dict[str, Any] = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3, config=Config(s3={"addressing_style": "path"}), **mine)
    client.create_bucket(Bucket="shared")
    keys = Keys.kept_in(tmp_path / "keys")  # even with one key
    ours, theirs = (
        Objects("s3://shared/x", keys, scratch=tmp_path / "work", owner=owner, endpoint=s3, **words)
        for owner in ("kumomori-1", "kumomori-10")
    )
    for objects, content in ((ours, b"ours"), (theirs, b"theirs")):
        (tmp_path / "manifest").write_bytes(content)
        objects.put("scan-1.manifest", tmp_path / "manifest")
        assert list(objects.names()) == ["scan-1.manifest"]
    ours.get("scan-1.manifest", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"ours"
    client.copy_object(
        Bucket="shared", Key="x/kumomori-1.scan-1.manifest", CopySource="shared/x/kumomori-10.scan-1.manifest"
    )
    with pytest.raises(Corrupt):
        ours.get("scan-1.manifest", tmp_path / "back")
    ours.delete("scan-1.manifest")
    assert (list(ours.names()), list(theirs.names())) == ([], ["scan-1.manifest"])


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_server_is_away_for_a_moment(far: tuple[str, Line], tmp_path: Path, way: str) -> None:
    """Each call goes on: what is under way is sent or asked for again."""
    where, line = far
    objects = Objects(f"{where}/some/prefix", Keys.kept_in(tmp_path / "keys"), scratch=tmp_path / "work")
    content = secrets.token_bytes(7 << 20)
    (tmp_path / "manifest").write_bytes(content)
    for call, after in (
        (lambda: objects.put("a-1.manifest", tmp_path / "manifest"), 1 << 20 if way == "up" else 0),
        (lambda: objects.get("a-1.manifest", tmp_path / "back"), 1 << 20 if way == "down" else 0),
        (lambda: list(objects.names()), 0),
    ):
        line.cut(way, after=after, times=2)
        call()
        assert line.cuts_left == 0
    assert (tmp_path / "back").read_bytes() == content
    line.cut(way, after=0, times=1)
    objects.delete("a-1.manifest")
    assert line.cuts_left == 0
    assert list(objects.names()) == []


def test_the_server_goes_away_in_the_middle(far: tuple[str, Line], tmp_path: Path) -> None:
    """An error that says so, nothing left here, and there what was there before."""
    where, line = far
    keys = Keys.kept_in(tmp_path / "keys")
    objects = Objects(f"{where}/x", keys, scratch=tmp_path / "work", retry_config={"max_retries": 1})
    (tmp_path / "manifest").write_bytes(b"before")
    objects.put("a-1.manifest", tmp_path / "manifest")
    (tmp_path / "manifest").write_bytes(secrets.token_bytes(7 << 20))
    line.cut("up", after=1 << 20, times=1000)
    with pytest.raises(CloudError, match=r"a-1\.manifest: the store of manifests cannot be used"):
        objects.put("a-1.manifest", tmp_path / "manifest")
    assert list((tmp_path / "work").iterdir()) == []
    line.cut("up", after=0, times=0)
    objects.get("a-1.manifest", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"before"
    assert list(objects.names()) == ["a-1.manifest"]


def test_there_is_no_such_container(far: tuple[str, Line], tmp_path: Path) -> None:
    """Not the same as an object that is gone: the operator must know."""
    where, _ = far
    objects = Objects(f"{where}-2/x", Keys.kept_in(tmp_path / "keys"), scratch=tmp_path / "work")
    (tmp_path / "manifest").write_bytes(b"x")
    for call in (
        lambda: objects.put("a-1.manifest", tmp_path / "manifest"),
        lambda: objects.get("a-1.manifest", tmp_path / "back"),
        lambda: list(objects.names()),
    ):
        with pytest.raises(CloudError, match="no such bucket or container: make it") as told:
            call()
        assert not isinstance(told.value, Gone)


@pytest.mark.slow
def test_azure_refuses_the_credentials(azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told what to do, and no part of a credential."""
    _in_azure(monkeypatch, azurite, azurite.port)
    container = azurite.create_container()
    where = f"az://{container}/some/prefix"
    keys = Keys.kept_in(tmp_path / "keys")
    (tmp_path / "manifest").write_bytes(b"x")

    def told(call: Callable[[Objects], object]) -> str:
        with pytest.raises(CloudError, match=r"refuses these credentials, .* docs/console\.md") as raised:
            call(Objects(where, keys, scratch=tmp_path / "work"))
        return "".join(traceback.format_exception(raised.value))

    def put(objects: Objects) -> None:
        objects.put("a-1.manifest", tmp_path / "manifest")

    def delete(objects: Objects) -> None:
        objects.delete("a-1.manifest")

    put(Objects(where, keys, scratch=tmp_path / "work"))
    wrong = new_key()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    for call in (put, delete, lambda one: one.get("a-1.manifest", tmp_path / "back"), lambda one: list(one.names())):
        assert wrong not in told(call)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", f"no base64 {wrong}")
    with pytest.raises(ConfigError, match="Invalid Access Key") as raised:
        Objects(where, keys, scratch=tmp_path / "work")
    assert wrong not in "".join(traceback.format_exception(raised.value))

    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    reading = azurite.sas(container, "rl")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", reading)
    Objects(where, keys, scratch=tmp_path / "work").get("a-1.manifest", tmp_path / "back")
    for call in (put, delete):
        assert reading.rpartition("sig=")[2] not in told(call)
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", azurite.sas(container, "rwdl"))
    objects = Objects(where, keys, scratch=tmp_path / "work")
    put(objects)
    delete(objects)
    assert list(objects.names()) == []
