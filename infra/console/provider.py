"""What all resources over the console's API share: how the console is found, and how its refusals are said.

Address and token are read in the provider's own process, each time it starts, both from one place: Pulumi's configuration
(`kumomori:console` and the secret `kumomori:token`), else the environment variables of the `kumomori` command (KUMOMORI_CONSOLE and
KUMOMORI_TOKEN_FILE). A configured address never gets a token from the environment: who may change the one need not know the
other. `kumomori:ca` or KUMOMORI_CA: certificates (PEM) to trust.

Nothing of it is an input or output of a resource. But Pulumi itself keeps a stack's whole configuration in the state, as inputs of the
provider `pulumi-python` (secrets encrypted); what comes from the environment stands nowhere. Sources:
https://www.pulumi.com/docs/iac/concepts/resources/dynamic-providers/ (`configure`), GetPackageConfig in pkg/resource/deploy/target.go of
pulumi/pulumi.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pulumi
from pulumi.dynamic import CheckFailure, ConfigureRequest, ResourceProvider
from pulumi.runtime import config

from client.api import Console, Refused
from client.transport import MOST_TOKEN_CHARACTERS
from core.errors import ConfigError
from core.text import printable

TIMEOUT_SECONDS: Final = 30.0
_SHOWN_PROBLEMS: Final = 20
_SHOWN_CHARACTERS: Final = 200
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_HOW: Final = (
    "set KUMOMORI_CONSOLE and KUMOMORI_TOKEN_FILE in the environment, "
    "or both `pulumi config set kumomori:console URL` and `pulumi config set --secret kumomori:token`"
)


class ConsoleProvider(ResourceProvider):
    """Base of our providers. What `configure` finds lives in the provider's process only: Pulumi pickles providers before."""

    serialize_as_secret_always = False  # there is no secret in it, and what is one is to be seen as one

    def configure(self, req: ConfigureRequest) -> None:
        self._given = {name: req.config.get(f"kumomori:{name}") for name in ("console", "token", "ca")}

    def console(self) -> Console:
        """Raises `ConfigError` if none is named."""
        return connect(getattr(self, "_given", {}), os.environ)


def connect(configured: Mapping[str, Any], environment: Mapping[str, str]) -> Console:
    """Raises `ConfigError`, which never quotes the token."""
    url, token, ca = (configured.get(name) or "" for name in ("console", "token", "ca"))
    if not all(isinstance(one, str) for one in (url, token, ca)):
        raise ConfigError("`kumomori:console`, `kumomori:token` and `kumomori:ca` are words")
    if bool(url) != bool(token):
        missing = "token" if url else "console"
        raise ConfigError(f"`kumomori:{missing}` is not configured: {_HOW}")
    if not url:
        url, path = environment.get("KUMOMORI_CONSOLE", ""), environment.get("KUMOMORI_TOKEN_FILE", "")
        if not url or not path:
            raise ConfigError(f"no console is named: {_HOW}")
        token = _token(Path(path))
    trusted = ca or environment.get("KUMOMORI_CA", "")
    return Console(url, token, timeout_seconds=TIMEOUT_SECONDS, ca=Path(trusted) if trusted else None)


def refuse_open_token() -> None:
    """Called in the program: a provider does not know which of the configuration is secret. Raises `ConfigError`."""
    name = "kumomori:token"
    secret = config.is_config_secret(name) or name in config.get_config_secret_keys_env()
    if config.get_config(name) is not None and not secret:
        raise ConfigError(
            f"`{name}` stands in the stack's file and state for everybody to read: revoke it, "
            f"and set another by `pulumi config set --secret {name}`"
        )


def _token(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_TOKEN_CHARACTERS + 3)
    except OSError as error:
        raise ConfigError(f"KUMOMORI_TOKEN_FILE: cannot be read: {error.strerror or error}") from None
    token = raw.decode("utf-8", "replace").strip()
    if not token or len(token) > MOST_TOKEN_CHARACTERS or len(token.split()) != 1:
        raise ConfigError("KUMOMORI_TOKEN_FILE: must hold a token of the console, and nothing else")
    return token


def refusal(error: Refused, documents: Mapping[str, str]) -> ConfigError:
    """What the console refused, with document, line and column, and the line itself: who reads it has no such file."""
    lines = [f"the console refuses the policies, nothing was changed: {printable(str(error))[:1000]}"]
    for one in error.problems[:_SHOWN_PROBLEMS]:
        lines.append(f"  {place(one.document, one.line, one.column, one.problem)}")
        text = documents.get(one.document, "").splitlines()
        if 0 < one.line <= len(text):
            lines.append(f"    {one.line} | {printable(text[one.line - 1])[:_SHOWN_CHARACTERS]}")
    if len(error.problems) > _SHOWN_PROBLEMS:
        lines.append(f"  … and {len(error.problems) - _SHOWN_PROBLEMS:,} more")
    return ConfigError("\n".join(lines))


def place(document: str, line: int, column: int, words: str) -> str:
    return f"{printable(document)}:{line}:{column}: {printable(words)[:1000]}"


def document_name(name: str) -> str:
    """`pulumi/PROJECT/STACK/NAME.yaml`. Raises `ConfigError`."""
    found = f"{whose(name)}.yaml"
    if len(found) > 200:
        raise ConfigError(f"{found}: is longer than 200 characters")
    return found


def whose(name: str) -> str:
    """`pulumi/PROJECT/STACK/NAME`. Called in the program, as a provider does not know its stack. Raises `ConfigError`."""
    parts = (pulumi.get_project(), pulumi.get_stack(), name)
    for part in parts:
        if _PART.fullmatch(part) is None:
            raise ConfigError(
                f"{printable(part)[:100]!r}: as it says in the console whose something is, it may have letters, digits, `.`, `_` and `-` only"
            )
    return f"pulumi/{'/'.join(parts)}"


def is_unknown(value: Any) -> bool:
    """Whether a value, or a part of it, is known only after something else was made. So it is in previews."""
    if isinstance(value, Mapping):
        return any(is_unknown(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(is_unknown(one) for one in value)
    return isinstance(value, pulumi.output.Unknown)


def failure(where: str, why: str) -> CheckFailure:
    return CheckFailure(where, why)
