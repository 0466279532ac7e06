"""A throw-away PostgreSQL server: its own folder, a free port on loopback, no fsync; ended with the tests by its process number."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.need import need_tool

_TIMEOUT_SECONDS = 60


def _binaries() -> Path:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):  # Debian keeps them off the PATH
        if (folder / "initdb").exists():
            return folder
    need_tool("initdb", "postgres")
    return Path(str(shutil.which("initdb"))).resolve().parent


@dataclass
class Postgres:
    """`stop` and `go` take it away and bring it back, with its data."""

    folder: Path
    binaries: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    def go(self) -> None:
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-k", "", "-h", "127.0.0.1"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=_user(), group=_user(), extra_groups=[] if _user() else None,
            )  # fmt: skip
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # "fast": open sessions are ended
            self.process.wait(_TIMEOUT_SECONDS)
            self.process = None

    def dsn(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def database(self, encoding: str = "UTF8") -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'".encode())
        return self.dsn(name)

    def drop(self, url: str) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)".encode())


def _user() -> str | None:
    """It refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


@contextmanager
def server() -> Iterator[Postgres]:
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, cwd="/", timeout=_TIMEOUT_SECONDS, user=_user(), group=_user(), extra_groups=[] if _user() else None,
        )  # fmt: skip
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write("\nfsync=off\nfull_page_writes=off\nmax_connections=200\nshared_buffers=32MB\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running = Postgres(folder, binaries, port)
        try:
            running.go()
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
