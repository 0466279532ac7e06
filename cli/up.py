"""`kumomori up`: a console and one fleet on this machine, on SQLite in one folder, until Ctrl-C.

Both are processes that die with this one, however it ends; a lock that they hold as well tells the next `up` that nothing of an earlier
one is left. What runs is in their databases: the next `up` on the same folder goes on with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.aws import DATA
from cli.connection import FILE, UP_DATA, read_saved, read_token, save, write_private
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from client.model import TokenIn
    from console.store.database import Database

FLEET: Final = "default"
_LOCAL_TOKEN: Final = "this-machine"  # noqa: S105  the name of one
_LISTEN: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")
_READY_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 10  # of scans at work, which go on the next time
_KILL_SECONDS: Final = 25.0
_EARLIER_SECONDS: Final = 40.0
_LOOK_SECONDS: Final = 0.2
_MOST_LOG_BYTES: Final = 16 << 20
_MOST_DEATHS: Final = 5  # one after the other, each within …
_STEADY_SECONDS: Final = 60.0
_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Child:
    """One of the two processes; `began` and `due` are monotonic seconds."""

    name: str
    module: str
    environment: Mapping[str, str]
    log: Path
    lock: int
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    deaths: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def tie() -> None:
            _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before we asked
                os._exit(1)

        self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                pass_fds=(self.lock,),
                preexec_fn=tie,  # noqa: PLW1509  this process has one thread
                start_new_session=True,  # a Ctrl-C is ours alone
            )
        return self.process

    def look_after(self) -> None:
        """Start it again if it died. Raises `ConfigError` if that does not help."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            self.process = None
            now = time.monotonic()
            self.deaths = 1 if now - self.began > _STEADY_SECONDS else self.deaths + 1
            how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            if self.deaths >= _MOST_DEATHS:
                raise ConfigError(f"the {self.name} {how} again and again: {printable(str(self.log))} says why")
            self.due = now + 0.5 * 2**self.deaths
            _say(f"the {self.name} {how}; it is started again ({self.log} may say why)")
        if time.monotonic() >= self.due:
            self.start()

    def end(self, seconds: float) -> None:
        """It has ended when this returns, at the latest after `seconds`."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            _say(f"the {self.name} is killed; it goes on the next time")
            self.process.kill()
            self.process.wait()
        self.process = None

    def trim(self) -> None:
        """Keep its log within bounds: it is opened to append, so it can be emptied meanwhile."""
        with suppress(OSError):
            if self.log.stat().st_size > _MOST_LOG_BYTES:
                older = self.log.with_suffix(".log.1")
                try:
                    shutil.copyfile(self.log, older)
                except OSError:  # a full disk, of all things, must not keep a log from being emptied
                    older.unlink(missing_ok=True)
                os.truncate(self.log, 0)


def up(
    data: Annotated[Path, Option("--data", metavar="DIR", help="Folder that holds everything of it.")] = UP_DATA,
    listen: Annotated[str, Option(metavar="ADDRESS:PORT", help="Where the console answers.")] = "127.0.0.1:8080",
    workers: Annotated[int, Option(min=1, max=64, help="Scans at the same time.")] = 2,
    allow_http: Annotated[
        bool,
        Option("--allow-http", help="Listen beyond this machine without TLS, behind something that does it."),
    ] = False,
) -> None:
    """Start a console and one fleet on this machine, and keep them running until Ctrl-C.

    The first time, an admin token is made and shown, this once. Commands of the same user need none: they find the console by
    themselves. What runs when this ends, or dies, goes on the next time. Docs: docs/console.md.
    Exits 0: ended with Ctrl-C; 1: the console or the fleet does not stay up; 2: it could not start, as it runs already, for one.
    """
    host, port = _parsed(listen, allow_http=allow_http)
    folder = _folder(data)
    with _locked(folder) as lock:
        environment = dict(os.environ)
        database = _address(folder / "console.db")
        first, token = _tokens(database, folder)
        console = _Child("console", "console.serve", {}, folder / "console.log", lock)
        fleet = _Child("fleet", "scanner.fleet.supervisor", {}, folder / "fleet.log", lock)
        asked = {"HOST": host, "PORT": str(port), "DATABASE": database}
        try:
            console.environment = _console_environment(environment, asked)
            console.start()
            url = _ready(console)
            console.environment = _console_environment(environment, asked | {"PORT": url.rpartition(":")[2]})
            near = _near(url)
            save(folder / FILE, near, token)
            save(DATA / FILE, near, token)
            fleet.environment = _fleet_environment(environment, folder, near, workers)
            fleet.start()
            _welcome(url, folder, first)
            _watch((console, fleet))
        except KeyboardInterrupt:
            _say("ending …")
        finally:
            fleet.end(_KILL_SECONDS)
            console.end(_KILL_SECONDS)
    raise Exit(0)


def _watch(children: tuple[_Child, ...]) -> None:
    """Until Ctrl-C. Raises `Exit` 1 if one does not stay up."""
    try:
        while True:
            for child in children:
                child.look_after()
                child.trim()
            time.sleep(_LOOK_SECONDS)
    except ConfigError as error:
        _say(str(error))
        raise Exit(1) from None


def _parsed(listen: str, *, allow_http: bool) -> tuple[str, int]:
    """Host and port. Raises `ConfigError`."""
    from client.transport import is_loopback

    found = _LISTEN.fullmatch(listen)
    if found is None or int(found["port"]) > 65535:
        raise ConfigError(f"{printable(listen)}: is no address to listen on; write it like 127.0.0.1:8080")
    host = found["host"].strip("[]")
    if not is_loopback(host) and not allow_http:
        raise ConfigError(
            f"{printable(listen)}: others could read the tokens on their way, as this has no TLS; listen on 127.0.0.1, or see "
            "docs/console.md for a console with TLS (--allow-http if something before it does that)"
        )
    return host, int(found["port"])


def _folder(data: Path) -> Path:
    """The folder, for its owner only. Raises `ConfigError`."""
    if re.search(r"[?#%]", str(data.absolute())):
        raise ConfigError(f"{printable(str(data))}: the names of a data folder may have no ?, # or %")
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.chmod(0o700)
        return data.resolve()
    except OSError as error:
        raise ConfigError(f"{printable(str(data))}: cannot be the data folder: {error.strerror or error}") from None


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The lock of the folder, once nothing of an earlier `up` is left. Raises `ConfigError` if one is running."""
    path = folder / "up.lock"
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be opened: {error.strerror or error}") from None
    try:
        ends = time.monotonic() + _EARLIER_SECONDS
        while not _try_lock(number):
            earlier = os.pread(number, 20, 0).strip()
            if not earlier.isdigit() or _is_alive(int(earlier)) or time.monotonic() > ends:
                raise ConfigError(f"{printable(str(folder))}: {_running(folder)}")
            time.sleep(_LOOK_SECONDS)
        os.ftruncate(number, 0)
        os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
        yield number
    finally:
        os.close(number)


def _try_lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _running(folder: Path) -> str:
    with suppress(ConfigError):
        known = read_saved(folder / FILE)
        if known is not None:
            return f"`kumomori up` is running already, its console is at {known.url}"
    return "`kumomori up` is running already"


def _address(path: Path) -> str:
    return f"sqlite:///{path}"


def _tokens(address: str, folder: Path) -> tuple[str | None, str]:
    """The first admin's token, if there was none yet, and that of this user's commands. The fleet's is written to its file."""
    from client.model import Scope, TokenIn
    from console.store import tokens
    from console.store.database import Database
    from console.store.migrate import upgrade

    database = Database(address)
    try:
        upgrade(database)
        first = tokens.first_admin(database)
        mine = _kept(database, _local_token(folder / FILE))
        if mine is None:
            mine = _made(database, TokenIn(name=_LOCAL_TOKEN, scopes=(Scope.ADMIN,)))
        fleet = folder / "fleet.token"
        if _kept(database, _fleet_token(fleet)) is None:
            made = _made(database, TokenIn(name=f"fleet-{FLEET}", scopes=(Scope.FLEET,), fleet=FLEET))
            write_private(fleet, made + "\n")
    finally:
        database.close()
    return first, mine


def _local_token(path: Path) -> str | None:
    with suppress(ConfigError):
        known = read_saved(path)
        return known.token if known else None
    return None


def _fleet_token(path: Path) -> str | None:
    with suppress(ConfigError):
        return read_token(path)
    return None


def _kept(database: Database, secret: str | None) -> str | None:
    """`secret`, if the console knows it."""
    from console.store import tokens

    if secret is None or not tokens.plausible(secret):
        return None
    with database.read() as connection:
        return secret if tokens.find(connection, secret) is not None else None


def _made(database: Database, wanted: TokenIn) -> str:
    """In place of one of the same name, whose secret is lost."""
    from console.store import tokens

    with database.write() as connection:
        return tokens.renew(connection, wanted, "up").secret


def _console_environment(environment: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """The console enters no cloud, so it gets no credentials of one."""
    kept = {name: value for name, value in environment.items() if not name.startswith(("AWS_", "KUMOMORI_FLEET_"))}
    mine = {f"KUMOMORI_CONSOLE_{name}": value for name, value in asked.items()}
    return {"KUMOMORI_CONSOLE_SHUTDOWN_SECONDS": "5"} | kept | mine


def _fleet_environment(environment: Mapping[str, str], folder: Path, url: str, workers: int) -> dict[str, str]:
    prefix = "KUMOMORI_FLEET_"
    data = folder / "fleet"
    data.mkdir(mode=0o700, exist_ok=True)
    usual = {f"{prefix}GRACE_SECONDS": str(_GRACE_SECONDS)}
    if endpoint := environment.get("AWS_ENDPOINT_URL"):
        usual[f"{prefix}ENDPOINT_URL"] = endpoint
    mine = {
        "DATABASE": _address(folder / "fleet.db"),
        "DATA": str(data),
        "CONSOLE": url,
        "TOKEN_FILE": str(folder / "fleet.token"),
        "FLEET": FLEET,
        "SLOTS": str(workers),
    }
    return usual | dict(environment) | {prefix + name: value for name, value in mine.items()}


def _ready(console: _Child) -> str:
    """Its address, which it tells once it answers there. Raises `ConfigError`."""
    process = console.process
    assert process is not None
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _READY_SECONDS)
    line = process.stdout.readline(1_000).decode().strip() if ready else ""
    if line.startswith(("http://", "https://")):
        return line
    with suppress(OSError):
        words = console.log.read_bytes()[-2_000:].decode("utf-8", "replace").strip().splitlines()
        last = words[-1].removeprefix("kumomori console: ") if words else ""
        hint = "; choose another with --listen" if "in use" in last else ""
        raise ConfigError(f"the console could not start: {last}{hint}")
    raise ConfigError("the console could not start")


def _near(url: str) -> str:
    """Where this machine's own processes find it."""
    return url.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def _welcome(url: str, folder: Path, first: str | None) -> None:
    name = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    lines = [f"Console   {url}", f"Data      {name} (logs: console.log, fleet.log)"]
    if first is not None:
        lines += [
            f"Token     {first}",
            "          of an admin, for other machines; shown this once, kept nowhere",
        ]
    lines += [
        "",
        "Commands of this user find the console by themselves. In another terminal:",
        "    kumomori policy apply DIR                      say what is scanned, and when",
        f"    kumomori cloud policy --fleet-data {name}   what ROLE must be allowed, and no more",
        "    kumomori cloud add aws ACCOUNT --role ROLE     protect an account",
        "    kumomori estate                                what is there, and how it is",
        "Ctrl-C ends it; the next `kumomori up` goes on with what was running.",
    ]
    sys.stdout.write("\n".join(printable(line) for line in lines) + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"kumomori: {printable(text)}\n")
    sys.stderr.flush()
