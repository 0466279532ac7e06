"""What a fleet is told by its operator: read once, in `main`, from the environment, and passed down.

The processes of a fleet get it as their environment, which only their user can read: a database's URL may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, field_validator

from client.model import Name
from core.errors import ConfigError
from core.text import printable

PREFIX: Final = "KUMOMORI_FLEET_"
_LISTS: Final = ("clouds", "regions", "sites")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Region = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$")]


class Settings(BaseModel):
    """`KUMOMORI_FLEET_…` and the name in capitals; lists have commas between.

    No field holds the console's token: `token_file` does, and it is read again before each attempt, so that a new token counts
    at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: SecretStr  # sqlite:///path or postgresql://user:password@host/name
    data: Path  # manifests, verdicts, the key that manifests are encrypted with
    console: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]{1,500}$")]
    token_file: Path
    ca: Path | None = None  # certificates (PEM) of the console's authority, if it is not one of the system's
    allow_http: bool = False  # to a console that is not on this machine, without TLS
    fleet: Name = "default"
    installation: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = (
        ""  # the name that all tags bear and policies of roles are bound to; empty: one is made up once
    )
    slots: int = Field(2, ge=1, le=256)  # worker processes of this machine, each a scan at a time
    all_slots: int = Field(0, ge=0, le=10_000)  # of all machines of this fleet; 0: `slots`
    clouds: Annotated[tuple[Literal["aws", "file"], ...], Field(min_length=1, max_length=2)] = ("aws", "file")
    regions: Annotated[
        tuple[Region, ...], Field(max_length=200)
    ] = ()  # empty: all; a fleet reads where its machines are
    sites: Annotated[
        tuple[Path, ...], Field(max_length=20)
    ] = ()  # folders in which files of machines may lie; empty: anywhere, as the console says
    most_scans: int = Field(0, ge=0, le=10_000)  # in total; 0: as many as there are slots
    most_scans_per_region: int = Field(0, ge=0, le=10_000)  # 0: no limit
    small_scans: bool = False  # only those that begin from a base, for workers with little time
    lease_seconds: Seconds = 30.0  # how long the slot of a dead process stays taken
    poll_seconds: Seconds = 0.5  # between looks of workers and duties into the database
    pull_seconds: int = Field(20, ge=0, le=60)  # how long the console may hold back an answer that has no order
    status_seconds: Seconds = 5.0
    reconcile_seconds: Seconds = 900.0  # between two listings of an account
    sweep_seconds: Seconds = 300.0
    grace_seconds: float = Field(300.0, ge=0, le=86_400)  # for running steps when the fleet is told to end
    objects: Annotated[str, StringConstraints(pattern=r"^((s3|gs|az|http|https)://[^\s@?#]{1,500})?$")] = (
        ""  # where manifests are kept: s3://bucket/prefix, gs://…, az://…; empty: a folder in `data`
    )
    endpoint_url: str = Field("", max_length=500)  # of all services of AWS: a private endpoint, or an emulator
    home_region: Region = "us-east-1"  # where an account of AWS is asked for its regions

    @field_validator("console", "endpoint_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises `ConfigError` that names the variable; a misspelt one is refused, too."""
        raw: dict[str, Any] = {}
        for name, value in environment.items():
            if name.startswith(PREFIX):
                key = name.removeprefix(PREFIX).lower()
                raw[key] = [one.strip() for one in value.split(",") if one.strip()] if key in _LISTS else value
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ConfigError("; ".join(_words(one) for one in error.errors()[:5])) from None

    def environment(self) -> dict[str, str]:
        """What `from_environment` makes the same of; for the processes of the fleet."""
        found = {}
        for key, value in self:
            if value is None:
                continue
            words = value.get_secret_value() if isinstance(value, SecretStr) else value
            found[PREFIX + key.upper()] = ",".join(map(str, words)) if isinstance(words, tuple) else str(words)
        return found

    @property
    def folder(self) -> Path | None:
        """Of the manifests, if they are kept in one."""
        return None if self.objects else self.data / "objects"

    def serves(self, cloud: str, region: str = "") -> bool:
        """Whether scans and listings there are this fleet's; without `region`, whether any could be."""
        return cloud in self.clouds and (not region or not self.regions or cloud == "file" or region in self.regions)


def _words(error: Any) -> str:
    """Never the value: it may be a secret."""
    name = PREFIX + ".".join(str(one) for one in error["loc"][:1]).upper()
    if error["type"] == "extra_forbidden":
        return f"{printable(name)[:100]}: there is no such setting"
    if error["type"] == "missing":
        return f"{name} is not set"
    return f"{name}: {printable(str(error['msg']))[:200]}"
