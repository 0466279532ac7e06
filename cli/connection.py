"""Which console the commands talk to, and as whom: options, environment, or what `kumomori up` left for this user.

No token is ever an argument: the list of processes shows those to everybody. What `up` leaves is a file of the user's own (mode 0600)
with the address and a token: in its `--data` folder, and where every folder's commands find it.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from typer import Context, Option

from cli.aws import DATA
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api

UP_DATA: Final = Path("var/kumomori")
FILE: Final = "client.json"
_MOST_BYTES: Final = 16_384

Url = Annotated[
    str,
    Option(
        "--console",
        metavar="URL",
        envvar="KUMOMORI_CONSOLE",
        help="Address of the console. [default: the one that `kumomori up` started here]",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        envvar="KUMOMORI_TOKEN_FILE",
        help="File that holds the token for it, and nothing else.",
        show_default=False,
    ),
]
Ca = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        envvar="KUMOMORI_CA",
        help="Certificates (PEM) of the authority that signed the console's, if the system does not know it.",
        show_default=False,
    ),
]
AllowHttp = Annotated[
    bool,
    Option("--allow-http", help="Send the token without TLS to another machine. Everybody on the way can read it."),
]


@dataclass(frozen=True, slots=True)
class Connection:
    url: str
    token: str

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"


def with_console(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is an open `client.api.Console`, with the options above instead of it.

    If it also lists for a group (parameter `context`), it is not called for the group's commands, which connect themselves.
    """
    own = inspect.signature(command, eval_str=True, locals={"Api": object})
    _, *others = own.parameters.values()
    mine = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("console", "", Url),
            ("token_file", None, TokenFile),
            ("ca", None, Ca),
            ("allow_http", False, AllowHttp),
        )
    ]
    others = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in others]

    @functools.wraps(command)
    def run(*, console: str, token_file: Path | None, ca: Path | None, allow_http: bool, **given: Any) -> None:
        context: Context | None = given.get("context")
        if context is not None and context.invoked_subcommand is not None:
            return
        with opened(console, token_file, ca=ca, allow_http=allow_http) as api, checked():
            command(api, **given)

    parameters = [*others, *mine]
    vars(run).pop("__wrapped__")
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    vars(run)["__signature__"] = own.replace(parameters=parameters)
    return run


@contextmanager
def checked() -> Iterator[None]:
    """A document that was made of what somebody typed, and breaks its rules, is a `ConfigError`."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = " ".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {first['msg']}") from None


def opened(url: str, token_file: Path | None, *, ca: Path | None = None, allow_http: bool = False) -> Api:
    """Raises `ConfigError` if no console is known here."""
    from client.api import Console

    found = find(url, token_file)
    return Console(found.url, found.token, ca=ca, allow_http=allow_http)


def find(url: str, token_file: Path | None) -> Connection:
    """What the options say; what they leave open is as `up` wrote it down. Raises `ConfigError`."""
    if url and token_file is not None:
        return Connection(url, read_token(token_file))
    known = saved()
    if url:
        if known is not None and known.url.rstrip("/") == url.rstrip("/"):
            return known
        raise ConfigError(f"{printable(url)}: no token for this console is known here; give --token-file FILE")
    if known is None:
        raise ConfigError(
            "no console is known here: start one with `kumomori up`, or name one with --console URL and --token-file FILE"
        )
    return known if token_file is None else Connection(known.url, read_token(token_file))


def saved() -> Connection | None:
    """What `up` wrote down in this folder, else what it wrote down for this user."""
    for path in (UP_DATA / FILE, DATA / FILE):
        found = read_saved(path)
        if found is not None:
            return found
    return None


def save(path: Path, url: str, token: str) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises `ConfigError`."""
    write_private(path, json.dumps({"console": url, "token": token}) + "\n")


def write_private(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be written: {error.strerror or error}") from None


def read_token(path: Path) -> str:
    """The one word in a file. Raises `ConfigError`, which never quotes it."""
    token = _bounded(path).strip()
    if not token or len(token.split()) != 1:
        raise ConfigError(f"{printable(str(path))}: must hold a token of the console, and nothing else")
    return token


def read_saved(path: Path) -> Connection | None:
    """None if there is none. One that somebody else could have written is not believed. Raises `ConfigError`."""
    if not path.exists():
        return None
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"{printable(str(path))}: others may read or write it, so it is not used; `kumomori up` writes it again, "
            "or give --console URL and --token-file FILE"
        )
    try:
        raw = json.loads(_bounded(path))
    except (ValueError, RecursionError):
        raw = None
    if not isinstance(raw, Mapping) or not all(isinstance(raw.get(name), str) for name in ("console", "token")):
        raise ConfigError(f"{printable(str(path))}: is not what `kumomori up` writes; delete it and start that again")
    return Connection(raw["console"], raw["token"])


def _bounded(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from None
    if len(raw) > _MOST_BYTES:
        raise ConfigError(f"{printable(str(path))}: is too large for what it should hold")
    return raw.decode("utf-8", "replace")
