"""The EBS direct calls over a lean HTTP client: signed by botocore, sent by urllib3, answers of bounded size.

boto3 takes a third more processor time for a block (`docs/bench-blocks.md`), for endpoint rules, events, retries
and parsers of a request that is always the same, and cannot be broken off. Source: Amazon EBS direct APIs reference, version 2019-11-02; botocore's
model of the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from cloud.aws.errors import translated_errors
from cloud.store import BLOCK_BYTES
from core.errors import CloudError, ConfigError

if TYPE_CHECKING:
    from boto3.session import Session

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
_MOST_JSON_BYTES: Final = 8 << 20  # a page of 10,000 blocks has about 2 MB
_LIST_READS: Final = 4  # a whole listing may take as long as so many reads
_PIECE_BYTES: Final = 1 << 18
_MOST_ERROR_BYTES: Final = 64 << 10
_SERVICE: Final = "ebs"


class Broken(CloudError):
    """No answer, or not all of it: a connection that failed or took too long."""


@dataclass(frozen=True, slots=True)
class BlockAnswer:
    """What `GetSnapshotBlock` gave: its body and three headers, nothing checked yet but that it is not too long."""

    data: bytes
    length: str
    checksum: str
    algorithm: str


class Transport:
    """One region's EBS direct endpoint with one identity. Safe for many threads; `connections` is how many stay open."""

    def __init__(
        self,
        session: Session,
        *,
        region: str,
        endpoint: str | None = None,
        connections: int = 32,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Raises `ConfigError` if there are no credentials or the endpoint is none."""
        self._session = session
        self._region = region
        self._url = (endpoint or _endpoint(session, region)).rstrip("/")
        self._read_seconds = read_seconds
        self._pool, self._alive = _pool(self._url, session, connections, read_seconds)
        self._closed = False
        self._credentials_lock = threading.Lock()
        self._agent = {"User-Agent": "kumomori"}

    def get_block(self, snapshot: str, index: int, token: str) -> BlockAnswer:
        """Raises `ClientError`, `Broken`, and `AccessDenied` or `ConfigError` if there are no credentials any more."""
        path = f"/snapshots/{quote(snapshot, safe='')}/blocks/{index}"
        with self._sent("GetSnapshotBlock", path, {"blockToken": token}) as response:
            data = _body(response, BLOCK_BYTES)
            headers = response.headers
            return BlockAnswer(
                data,
                headers.get("x-amz-Data-Length", ""),
                headers.get("x-amz-Checksum", ""),
                headers.get("x-amz-Checksum-Algorithm", ""),
            )

    def list_blocks(self, snapshot: str, query: dict[str, str]) -> dict[str, Any]:
        """One page of `ListSnapshotBlocks`. Raises as `get_block`."""
        return self._json("ListSnapshotBlocks", f"/snapshots/{quote(snapshot, safe='')}/blocks", query)

    def list_changed_blocks(self, second_snapshot: str, query: dict[str, str]) -> dict[str, Any]:
        """One page of `ListChangedBlocks`. Raises as `get_block`."""
        return self._json("ListChangedBlocks", f"/snapshots/{quote(second_snapshot, safe='')}/changedblocks", query)

    def _json(self, operation: str, path: str, query: dict[str, str]) -> dict[str, Any]:
        with self._sent(operation, path, query) as response:
            raw = _list_body(response, _MOST_JSON_BYTES, _LIST_READS * self._read_seconds)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Broken("the answer is not JSON") from error
        if not isinstance(value, dict):
            raise Broken("the answer is not a JSON object")
        return value

    def _sent(self, operation: str, path: str, query: dict[str, str]) -> _Closing:
        if self._closed:
            raise Broken("the connection was closed")
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        request = AWSRequest(method="GET", url=url, headers=self._agent)
        SigV4Auth(self._credentials(), _SERVICE, self._region).add_auth(request)
        try:
            response = self._pool.urlopen(
                "GET",
                url,
                headers=dict(request.headers.items()),
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                assert_same_host=False,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise Broken(_said(error)) from error
        if response.status != 200:
            with _Closing(response):
                raise _refusal(response, operation)
        return _Closing(response)

    def _credentials(self) -> Credentials:
        """Frozen ones for this call; botocore fetches new ones when they are about to expire."""
        with self._credentials_lock, translated_errors("sts:AssumeRole", "the credentials"):
            found = self._session.get_credentials()
            frozen = found.get_frozen_credentials() if found is not None else None
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise ConfigError(
                "AWS: there are no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def close(self) -> None:
        """Break off what is under way: who waits for an answer gets `Broken` at once."""
        self._closed = True
        for connection in list(self._alive):
            sock = getattr(connection, "sock", None)
            if sock is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Closing:
    """A response whose connection goes back to the pool if all of it was read, and is closed if not."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __enter__(self) -> urllib3.BaseHTTPResponse:
        return self._response

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, ClientError):
            with contextlib.suppress(HTTPError, OSError):
                self._response.close()
        self._response.release_conn()


def _body(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """All of it. Raises `Broken` if it is longer than `most` bytes, or cut short."""
    try:
        data = response.read(most + 1)
        while len(data) <= most and (more := response.read(most + 1 - len(data))):
            data += more
    except (HTTPError, OSError, ValueError) as error:
        raise Broken(_said(error)) from error
    if len(data) > most:
        raise Broken(f"an answer of more than {most} bytes")
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) != len(data):
        raise Broken(f"an answer of {declared} bytes that ends after {len(data)}")
    return data


def _list_body(response: urllib3.BaseHTTPResponse, most: int, seconds: float) -> bytes:
    """As `_body`, all of it within `seconds`: nobody else watches over a listing, and each byte alone may come in time."""
    ends = time.monotonic() + seconds
    data = bytearray()
    try:
        while more := response.read1(_PIECE_BYTES):
            data += more
            if len(data) > most:
                raise Broken(f"an answer of more than {most} bytes")
            if time.monotonic() > ends:
                raise Broken(f"an answer that did not come to its end in {seconds:g} s")
    except (HTTPError, OSError, ValueError) as error:
        raise Broken(_said(error)) from error
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) != len(data):
        raise Broken(f"an answer of {declared} bytes that ends after {len(data)}")
    return bytes(data)


def _refusal(response: urllib3.BaseHTTPResponse, operation: str) -> ClientError:
    """As botocore would make it of a rest-json answer: the one form of errors that `cloud.aws.errors` knows."""
    try:
        value = json.loads(_body(response, _MOST_ERROR_BYTES))
    except Broken:
        value = None
        response.close()  # what is left of it must not be taken for the next answer
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        value = {}
    # the name stands in a header, or in the body as "code" or "__type", perhaps with a namespace or an address
    named = response.headers.get("x-amzn-ErrorType") or value.get("code") or value.get("__type") or ""
    code = str(named)[:200].partition(":")[0].rpartition("#")[2] or f"HTTP{response.status}"
    said: dict[str, Any] = {
        "Error": {"Code": code, "Message": str(value.get("Message") or value.get("message") or "")[:2000]},
        "Reason": str(value.get("Reason") or "")[:100],
        "ResponseMetadata": {
            "HTTPStatusCode": response.status,
            "HTTPHeaders": {"retry-after": response.headers.get("Retry-After", "")[:20]},
        },
    }
    return ClientError(said, operation)  # type: ignore[arg-type]  # only these members are looked at


def _said(error: Exception) -> str:
    """Without the address asked for: a block token in it would be a secret in a log."""
    seen: BaseException | None = error
    while seen is not None:
        late = isinstance(seen, TimeoutError | urllib3.exceptions.TimeoutError)
        if late and not isinstance(seen, NewConnectionError):  # which calls itself one, and is none
            return "the service did not answer in time"
        if isinstance(seen, urllib3.exceptions.SSLError):
            return "the certificate of the service could not be verified"
        if isinstance(seen, OSError) and seen.errno:
            return f"the connection failed ({os.strerror(seen.errno)})"
        seen = seen.__cause__ or seen.__context__
    return f"the connection failed ({type(error).__name__})"


def _endpoint(session: Session, region: str) -> str:
    """Where botocore would send it; `AWS_ENDPOINT_URL_EBS` and settings files count."""
    return session.client(_SERVICE, region_name=region).meta.endpoint_url


def _pool(
    url: str, session: Session, connections: int, read_seconds: float
) -> tuple[urllib3.PoolManager, weakref.WeakSet[Any]]:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError("the address of the EBS endpoint must begin with https:// or http://")
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            alive.add(self)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            alive.add(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    options: dict[str, Any] = {
        "num_pools": 2,
        "maxsize": connections,
        "block": False,
        "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
    }
    if parts.scheme == "https":
        bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  botocore's own session, as boto3 keeps it
        context = create_urllib3_context()
        context.load_verify_locations(bundle or get_cert_path(True))
        options |= {"ssl_context": context, "cert_reqs": "CERT_REQUIRED"}
    proxy = get_environ_proxies(url).get(parts.scheme)
    manager = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager, alive
