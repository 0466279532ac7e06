"""Where manifests are kept: the same in a folder, in S3 and in Google Cloud Storage.

Google's storage is spoken to by its XML API, which is S3's but for how a caller signs
(https://cloud.google.com/storage/docs/xml-api/overview): so the S3 server, which checks no signature, stands in for it.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
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


@pytest.fixture(params=["folder", "s3", "gcs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Objects, Raw]]:
    """The store, and a function that reads or writes what it holds behind its back."""
    keys = Keys.kept_in(tmp_path / "keys")
    if request.param == "folder":
        folder = tmp_path / "objects"

        def file(name: str, content: bytes | None) -> bytes:
            if content is not None:
                (folder / name).write_bytes(content)
            return (folder / name).read_bytes()

        yield Objects(folder, keys, scratch=tmp_path / "work"), file
        return
    endpoint = request.getfixturevalue(request.param)
    words: dict[str, Any] = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}), **words)
    bucket = f"bucket-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)

    def s3_object(name: str, content: bytes | None) -> bytes:
        if content is not None:
            client.put_object(Bucket=bucket, Key=f"some/prefix/{name}", Body=content)
        body: bytes = client.get_object(Bucket=bucket, Key=f"some/prefix/{name}")["Body"].read()
        return body

    if request.param == "gcs":
        account = tmp_path / "service-account.json"
        account.write_text(
            json.dumps(
                {
                    "gcs_base_url": endpoint,
                    "disable_oauth": True,
                    "client_email": "",
                    "private_key": "",
                    "private_key_id": "",
                }
            )
        )
        where = f"gs://{bucket}/some/prefix"
        config: dict[str, Any] = {"service_account_path": str(account), "skip_signature": True}
        config["client_options"] = {"allow_http": True}
        yield Objects(where, keys, scratch=tmp_path / "work", **config), s3_object
        return
    yield (
        Objects(
            f"s3://{bucket}/some/prefix",
            keys,
            scratch=tmp_path / "work",
            endpoint=endpoint,
            access_key_id="key",
            secret_access_key="secret",
            region="us-east-1",
        ),
        s3_object,
    )


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
