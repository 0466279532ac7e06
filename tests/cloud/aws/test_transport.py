from __future__ import annotations

import datetime as dt
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError
from botocore.session import Session as CoreSession

from cloud.aws.transport import Broken, Transport
from core.errors import ConfigError
from tests.cloud.aws.ebs import SNAPSHOT, content, service, session
from tests.cloud.aws.ebs_server import Answer, serving
from tests.need import need_tool

SECRETS = ("AKIDEXAMPLE", "not-a-secret", "blockToken", "AAAA", "Signature")


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Says `answer` to whoever connects, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):  # whoever has heard enough hangs up
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def transport(address: str, of: boto3.Session | None = None, read_seconds: float = 5) -> Transport:
    return Transport(of or session(), region="eu-west-1", endpoint=address, read_seconds=read_seconds)


def test_connections_are_kept() -> None:
    served = service()
    with serving(served) as address, transport(address) as made:
        token = served.token(SNAPSHOT, 1)
        for _ in range(5):
            answer = made.get_block(SNAPSHOT, 1, token)
        assert answer.data == content(1)
        assert answer.algorithm == "SHA256"
        assert len(made._alive) == 1
        made.close()
        with pytest.raises(Broken):
            made.get_block(SNAPSHOT, 1, token)


def test_an_error_keeps_its_connection_and_its_words() -> None:
    served = service()
    with serving(served) as address, transport(address) as made:
        for _ in range(3):
            with pytest.raises(ClientError) as caught:
                made.get_block(SNAPSHOT, 1, "AAAA")
        assert caught.value.response["Error"]["Code"] == "ValidationException"
        assert caught.value.response["Reason"] == "INVALID_BLOCK_TOKEN"  # type: ignore[typeddict-item]
        assert caught.value.operation_name == "GetSnapshotBlock"
        assert len(made._alive) == 1


def test_an_endless_error_does_not_spoil_the_next_answer() -> None:
    served = service(fault=lambda call: Answer(500, body=b"x" * (1 << 20)) if call.number == 1 else None)
    with serving(served) as address, transport(address) as made:
        with pytest.raises(ClientError):
            made.list_blocks(SNAPSHOT, {})
        assert made.list_blocks(SNAPSHOT, {})["VolumeSize"] == 1


def test_credentials_are_renewed() -> None:
    """As those of an assumed role are: botocore's own object, which fetches new ones when they run out."""
    fetched: list[int] = []

    def fetch() -> dict[str, Any]:
        fetched.append(1)
        lifetime = dt.timedelta(seconds=1 if len(fetched) == 1 else 3600)
        expiry = (dt.datetime.now(dt.UTC) + lifetime).isoformat()
        return {"access_key": f"AKID{len(fetched)}", "secret_key": "s", "token": "t", "expiry_time": expiry}

    core = CoreSession()
    core._credentials = RefreshableCredentials.create_from_metadata(fetch(), fetch, "test")  # type: ignore[attr-defined]
    served = service()
    with serving(served) as address, transport(address, boto3.Session(botocore_session=core)) as made:
        made.list_blocks(SNAPSHOT, {})
        made.list_blocks(SNAPSHOT, {})
    assert len(fetched) == 2
    assert "Credential=AKID2/" in served.authorizations[-1]


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    core = CoreSession()
    monkeypatch.setattr(core, "get_credentials", lambda: None)
    with transport("http://127.0.0.1:1", boto3.Session(botocore_session=core)) as made, pytest.raises(ConfigError):
        made.list_blocks(SNAPSHOT, {})


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "127.0.0.1:80", "http://"])
def test_an_endpoint_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError):
        transport(address)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"nonsense\r\n\r\n", id="no-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", id="cut-short"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc", id="no-length"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", id="many-headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="long-header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc", id="cut-chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * (9 << 20), id="too-long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + b"\xff{", id="no-json"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100_000, id="deep-json"),
    ],
)
def test_answers_that_make_no_sense(answer: bytes) -> None:
    with raw_server(answer) as address, transport(address) as made, pytest.raises(Broken) as caught:
        made.list_blocks(SNAPSHOT, {"pageToken": "AAAA"})
    assert not any(secret in str(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(b"HTTP/1.1 403 x\r\nContent-Length: 2\r\n\r\n{}", "HTTP403", id="no-name"),
        pytest.param(
            b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP302", id="redirect"
        ),
        pytest.param(b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\n[1]", "HTTP500", id="no-object"),
        pytest.param(
            b'HTTP/1.1 400 x\r\nContent-Length: 37\r\n\r\n{"__type":"com.amazon#SomeException"}',
            "SomeException",
            id="type",
        ),
        pytest.param(
            b"HTTP/1.1 400 x\r\nx-amzn-ErrorType: SomeException:http://x/\r\nContent-Length: 0\r\n\r\n",
            "SomeException",
            id="header",
        ),
    ],
)
def test_names_of_errors(answer: bytes, code: str) -> None:
    with raw_server(answer) as address, transport(address) as made, pytest.raises(ClientError) as caught:
        made.list_blocks(SNAPSHOT, {})
    assert caught.value.response["Error"]["Code"] == code


def test_silence_and_nobody_there() -> None:
    served = service(fault=lambda _: Answer(hang=True))
    with (
        serving(served) as address,
        transport(address, read_seconds=0.1) as made,
        pytest.raises(Broken, match="in time"),
    ):
        made.get_block(SNAPSHOT, 1, "AAAA")
    with transport("http://127.0.0.1:1") as made, pytest.raises(Broken, match="refused") as caught:
        made.get_block(SNAPSHOT, 1, "AAAA")
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_a_certificate_that_nobody_signed(tmp_path: Any) -> None:
    """Over TLS the service must prove who it is."""
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    need_tool("openssl")
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    with context.wrap_socket(connection, server_side=True) as secure:
                        secure.recv(65536)
                        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"https://127.0.0.1:{server.getsockname()[1]}"
        with transport(address) as unknown, pytest.raises(Broken, match="certificate"):
            unknown.list_blocks(SNAPSHOT, {})
        trusting = session()
        trusting._session.set_config_variable("ca_bundle", str(certificate))
        with transport(address, trusting) as known:
            assert known.list_blocks(SNAPSHOT, {}) == {}
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_a_list_that_trickles_does_not_hold_us_up() -> None:
    """Each byte comes in time; all of them never would."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
                for _ in range(200):  # 10 s at most
                    if stop.wait(0.05):
                        return
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with (
            transport(f"http://127.0.0.1:{server.getsockname()[1]}", read_seconds=0.3) as made,
            pytest.raises(Broken, match="did not come to its end"),
        ):
            made.list_blocks(SNAPSHOT, {})
        stop.set()
        thread.join(5)
