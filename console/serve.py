"""The console as a server: `run` in a process, `Running` in a thread of another program."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from console.app import create_app
from console.context import Console
from console.settings import Settings, from_environment
from core.errors import ConfigError

_START_SECONDS: Final = 60.0
_BACKLOG: Final = 512
_HEAD_SECONDS: Final = 20.0


class _Http(H11Protocol):
    """Who connects and then sends no request, or none to its end, is cut off: else a stranger could take all connections.

    h11 also bounds how large the head of a request may be (64 KiB).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._look_later(None)

    def _look_later(self, seen: object) -> None:
        asyncio.get_running_loop().call_later(_HEAD_SECONDS, self._look, seen)

    def _look(self, seen: object) -> None:
        """`seen` is the request that had ended when it was looked the last time; None: there was none yet."""
        waits = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or (waits and self.cycle is seen):
            self.transport.close()
        else:
            self._look_later(self.cycle if waits else self)


class _Server(uvicorn.Server):
    """Waiting fleets are answered before the server waits for its requests to end."""

    def __init__(self, config: uvicorn.Config, console: Console, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._console = console
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._console.wake.close()
        await super().shutdown(sockets)


def _server(settings: Settings, app: FastAPI, ready: Callable[[], None]) -> _Server:
    console: Console = app.state.console
    config = uvicorn.Config(
        app,
        http=_Http,
        log_config=None,  # its access log would write addresses with their queries down; ours has no such thing
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=settings.most_requests,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        timeout_keep_alive=30,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
    )
    return _Server(config, console, ready)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"{settings.host} port {settings.port}: {error.strerror}") from error


def _address(settings: Settings, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def run(settings: Settings, tell: Callable[[str], None], app: FastAPI | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then end what was begun. `tell` gets the address once requests are answered there.

    Raises `ConfigError` if it cannot listen, or for the database.
    """
    app = app or create_app(settings)
    with _listen(settings) as listening:
        address = _address(settings, listening)
        server = _server(settings, app, lambda: tell(address))
        with suppress(SystemExit):  # uvicorn's way to say that it could not start
            asyncio.run(server.serve(sockets=[listening]))
    if not server.started:
        raise ConfigError("the console could not start: its log says why")


class Running:
    """A console in a thread: `with Running(settings) as console: console.address`."""

    def __init__(self, settings: Settings, app: FastAPI | None = None) -> None:
        """Raises as `run`."""
        self.app: Final = app or create_app(settings)
        self._listening: Final = _listen(settings)
        self.address: Final = _address(settings, self._listening)
        self._ready: Final = threading.Event()
        self._server: Final = _server(settings, self.app, self._ready.set)
        self._thread: Final = threading.Thread(target=self._run, name="console")

    @property
    def console(self) -> Console:
        console: Console = self.app.state.console
        return console

    def _run(self) -> None:
        try:
            with suppress(SystemExit):
                asyncio.run(self._server.serve(sockets=[self._listening]))
        finally:
            self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or not self._server.started:
            self.__exit__(None, None, None)
            raise ConfigError("the console could not start: its log says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


def _print(address: str) -> None:
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()


def main(environment: Mapping[str, str]) -> int:
    """`python -m console.serve`: settings come from the environment. Exit 2 if it cannot start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        run(from_environment(environment), _print)
    except ConfigError as error:
        sys.stderr.write(f"kumomori console: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    import os

    sys.exit(main(os.environ))
