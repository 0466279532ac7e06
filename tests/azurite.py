"""A throw-away Azure Blob Storage: Microsoft's emulator on a free port of loopback, with an account and a key of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.need import need_npm

_START_SECONDS = 120
_VERSION = "2021-12-02"  # of the API
_READY = re.compile(r"successfully listens on http://127\.0\.0\.1:(\d+)")


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(64)).decode()


@dataclass(frozen=True)
class Azurite:
    """Speaks to the emulator without what is tested: signed by hand."""

    port: int
    account: str = "kumomori"
    key: str = field(default_factory=new_key, repr=False)

    def create_container(self) -> str:
        name = f"container-{secrets.token_hex(4)}"
        self._call("PUT", name, "restype:container")
        return name

    def put(self, path: str, content: bytes) -> None:
        self._call("PUT", path, body=content, **{"x-ms-blob-type": "BlockBlob"})

    def get(self, path: str) -> bytes:
        return self._call("GET", path)

    def sas(self, container: str, permissions: str) -> str:
        """A token for what is in `container`, until the end of the century.

        Source: Azure Storage, "Create a service SAS", string to sign since version 2020-12-06.
        """
        end = "2099-12-31T00:00:00Z"
        to_sign = [permissions, "", end, f"/blob/{self.account}/{container}", "", "", "", _VERSION, "c", *[""] * 7]
        return f"sv={_VERSION}&sr=c&sp={permissions}&se={end}&sig={quote(self._signature(to_sign), safe='')}"

    def _call(self, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> bytes:
        """`query`: one parameter, `name:value`. Source: Azure Storage, "Authorize with Shared Key"."""
        headers |= {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
        kind = "application/octet-stream" if body else ""
        to_sign = [method, "", "", str(len(body) or ""), "", kind, "", "", "", "", "", ""]
        to_sign += [f"{name}:{value}" for name, value in sorted(headers.items())]
        to_sign += [f"/{self.account}/{self.account}/{path}", *([query] if query else [])]
        headers["Authorization"] = f"SharedKey {self.account}:{self._signature(to_sign)}"
        url = f"http://127.0.0.1:{self.port}/{self.account}/{path}?{query.replace(':', '=')}"
        data = body if method == "PUT" else None
        with urlopen(Request(url, data, {**headers, "Content-Type": kind}, method=method), timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def _signature(self, lines: list[str]) -> str:
        raw = hmac.digest(base64.b64decode(self.key), "\n".join(lines).encode(), hashlib.sha256)
        return base64.b64encode(raw).decode()


@contextmanager
def server(folder: Path) -> Iterator[Azurite]:
    """One that keeps its data in `folder`."""
    command = need_npm("azurite", "node-azurite") / "azurite-blob"
    made = Azurite(0)
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder), "--silent"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "AZURITE_ACCOUNTS": f"{made.account}:{made.key}"}
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [command, *options],
            env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _START_SECONDS
        while (ready := _READY.search(log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)
        yield Azurite(int(ready[1]), made.account, made.key)
    finally:
        process.kill()
        process.wait(60)
