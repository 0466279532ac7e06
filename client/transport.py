"""HTTP to the console: where a token may be sent, how much and how long an answer may be, and what each refusal is in our error tree.

Imports httpx: only what talks to a console imports this.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import httpx
from pydantic import ValidationError

from client.deadline import Deadline, keep
from client.model import PolicyProblem, Problem, Scope
from core.errors import (
    AccessDenied,
    CloudError,
    ConfigError,
    Conflict,
    Error,
    Gone,
    LimitExceeded,
    Throttled,
    Unavailable,
)

MOST_ANSWER_BYTES: Final = 64 << 20
MOST_TOKEN_CHARACTERS: Final = 512
_MOST_PROBLEM_BYTES: Final = 4 << 20
_TOKEN = re.compile(
    r"[!-~]{1,512}"
)  # what may stand in a header; anything else would be quoted in an error of the library
_MOST_WAIT_SECONDS: Final = 300.0
_WAIT_SECONDS: Final = 5.0  # if the console does not say


class Refused(ConfigError):
    """The console refused a document; `problems` say where in it."""

    def __init__(self, message: str, problems: tuple[PolicyProblem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class Answered(Exception):
    """The cause of an error that stands for an answer: its status, and whether a console of ours gave it."""

    def __init__(self, status: int, *, by_console: bool) -> None:
        super().__init__(status, by_console)
        self.status = status
        self.by_console = by_console


def for_good(error: Error) -> bool:
    """Whether the console itself said that what was sent cannot be taken, now or later; not of a token, or a proxy's answer."""
    cause = error.__cause__
    return (
        isinstance(cause, Answered)
        and cause.by_console
        and 400 <= cause.status < 500
        and cause.status not in {401, 403, 408, 429}
    )


class Transport:
    """One console. The token is in no message, log or `repr` of this."""

    def __init__(
        self, url: str, token: str, *, timeout_seconds: float, ca: Path | None = None, allow_http: bool = False
    ) -> None:
        base = _checked(url, token, allow_http=allow_http)
        if token and _TOKEN.fullmatch(token) is None:
            raise ConfigError("the token of the console has characters that no token has; is it the right file?")
        self.url = str(base).rstrip("/")
        self._timeout_seconds = timeout_seconds
        secure = base.scheme == "https"
        self._http = httpx.Client(
            headers={"Accept-Encoding": "gzip"} | ({"Authorization": f"Bearer {token}"} if token else {}),
            verify=_trusted(ca) if secure else False,
            # A proxy between here and a plain address would see the token; in TLS it sees nothing.
            trust_env=secure,
            follow_redirects=False,
        )
        self._deadline = Deadline()
        keep(self._http, self._deadline)

    def __repr__(self) -> str:
        return f"Transport({self.url!r})"

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(
        self,
        verb: str,
        path: str,
        *,
        scope: Scope | None,
        params: Mapping[str, str | int] | None = None,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
        wait_seconds: float = 0.0,
        also: Iterable[int] = (),
    ) -> bytes:
        """The body of the answer, of a status 2xx or in `also`. `wait_seconds` is how long the console may think it over. All of it
        takes ten times as long as one wait for bytes may, however slowly it drips.

        Raises `Unavailable` if there is no whole answer: whatever was asked may have been done. Else what `_refusal` says.
        """
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = "application/json"
        seconds = self._timeout_seconds + wait_seconds
        try:
            with (
                self._deadline.within(10 * seconds),
                self._http.stream(
                    verb,
                    self.url + path,
                    params=dict(params or {}),
                    content=None if body is None else body.encode(),
                    headers=sent,
                    timeout=httpx.Timeout(self._timeout_seconds, read=seconds),
                ) as answer,
            ):
                good = answer.is_success or answer.status_code in set(also)
                found = self._read(answer, most_bytes if good else _MOST_PROBLEM_BYTES)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url}: {_why(error)}") from None  # the library's error holds the request's headers
        if good:
            return found
        problem = _problem(found)
        cause = Answered(answer.status_code, by_console=problem is not None)
        raise self._refusal(answer, problem, scope) from cause

    def _read(self, answer: httpx.Response, most_bytes: int) -> bytes:
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"gzip", "identity"}:
            raise CloudError(f"{self.url}: answered in an encoding that was not asked for")
        inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
        found = bytearray()
        for chunk in answer.iter_raw():
            if inflate is None:
                found += chunk
            else:
                try:
                    found += inflate.decompress(chunk, most_bytes + 1 - len(found))
                except zlib.error:
                    raise Unavailable(f"{self.url}: the answer is damaged") from None
            if len(found) > most_bytes or (inflate is not None and inflate.unconsumed_tail):
                raise LimitExceeded(f"{self.url}: the answer is over {most_bytes:,} bytes")
        if inflate is not None and found and not inflate.eof:
            raise Unavailable(f"{self.url}: the answer is cut short")
        return bytes(found)

    def _refusal(self, answer: httpx.Response, problem: Problem | None, scope: Scope | None) -> Error:
        """401, 403: `AccessDenied`, 404: `Gone`, 409, 412: `Conflict`, 413: `LimitExceeded`, 422: `Refused`, 429, 503: `Throttled`, 5xx: `Unavailable`."""
        status = answer.status_code
        said = problem.error if problem else f"answered {status}, not as a console of Kumomori does"
        needed = f"the scope `{scope}`" if scope else "a token"
        match status:
            case 401:
                return AccessDenied(
                    f"{self.url}: the token is unknown or has expired: {said}", permission=str(scope or "")
                )
            case 403:
                return AccessDenied(f"{self.url}: this needs {needed}: {said}", permission=str(scope or ""))
            case 404:
                return Gone(said if problem else f"{self.url}: {said}")
            case 409 | 412:
                return Conflict(said)
            case 413:
                return LimitExceeded(said)
            case 422:
                return Refused(said, problem.problems if problem else ())
            case 429 | 503:
                return Throttled(f"{self.url}: {said}", after=_after(answer.headers.get("Retry-After", "")))
            case _ if 300 <= status < 400:
                return ConfigError(f"{self.url}: sends to another address; give the console's own with --console")
            case _ if status >= 500:
                return Unavailable(f"{self.url}: {said}")
            case _:
                return ConfigError(f"{self.url}: {said}")


def _checked(url: str, token: str, *, allow_http: bool) -> httpx.URL:
    """Raises `ConfigError` for what is no address of a console, and for one to which no token may be sent."""
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise ConfigError("the console's address is no URL; write https://HOST[:PORT]") from None
    if found.userinfo or found.query or found.fragment:
        raise ConfigError("the console's address has a user, query or fragment; write https://HOST[:PORT]")
    if found.scheme not in {"http", "https"} or not found.host:
        raise ConfigError(f"{url}: is no address of a console; write https://HOST[:PORT]")
    if found.scheme == "http" and token and not allow_http and not is_loopback(found.host):
        raise ConfigError(
            f"{url}: over plain http everybody on the way reads the token; use https://, or --allow-http if the way is safe"
        )
    return found


def is_loopback(host: str) -> bool:
    """Is `host`, a name or an address, this machine?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _trusted(ca: Path | None) -> ssl.SSLContext:
    """The authorities of the system, or those in `ca` (PEM) alone. Raises `ConfigError`."""
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(f"{ca}: cannot be read as certificates in PEM: {error}") from None


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return "does not answer; is the address right, and the console running?"
    if isinstance(error, httpx.TimeoutException):
        return "took too long to answer"
    if isinstance(error, httpx.ConnectError):
        words = str(error) or "no connection"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            return f"its certificate is not trusted ({words}); name the authority that signed it with --ca"
        return f"cannot be reached ({words}); is the console running?"
    return f"the connection broke off ({type(error).__name__})"


def _problem(body: bytes) -> Problem | None:
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return None


def _after(word: str) -> float:
    """Seconds of a `Retry-After`. Dates in it are not used: the two clocks may differ."""
    return min(float(word), _MOST_WAIT_SECONDS) if re.fullmatch(r"[0-9]{1,6}", word) else _WAIT_SECONDS
