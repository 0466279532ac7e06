"""What an operator tells a console, read once at its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from core.errors import ConfigError

PREFIX: Final = "KUMOMORI_CONSOLE_"


class Settings(BaseModel):
    """`host` beyond loopback should come with a certificate: tokens go over the line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: SecretStr  # an address of PostgreSQL may hold a password
    host: str = "127.0.0.1"
    port: int = Field(8420, ge=0, le=65535)
    certificate: Path | None = None
    certificate_key: Path | None = None
    threads: int = Field(20, ge=2, le=200, description="Requests that are worked on at once.")
    most_requests: int = Field(1_000, ge=10, le=100_000, description="Connections at once; more are answered 503.")
    look_seconds: float = Field(
        2.0, gt=0, le=60, description="How often a waiting fleet's orders are looked for in the database."
    )
    shutdown_seconds: int = Field(20, ge=1, le=600, description="How long requests may take to end at shutdown.")

    @model_validator(mode="after")
    def _both_or_none(self) -> Settings:
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("a certificate and its key come together")
        return self


def from_environment(environment: Mapping[str, str]) -> Settings:
    """From `KUMOMORI_CONSOLE_DATABASE`, `KUMOMORI_CONSOLE_PORT` …. Raises `ConfigError`, which never shows a value."""
    given = {name.removeprefix(PREFIX).lower(): text for name, text in environment.items() if name.startswith(PREFIX)}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = PREFIX + "".join(str(part) for part in first["loc"][:1]).upper()
        raise ConfigError(f"{name}: {first['msg']}") from None
