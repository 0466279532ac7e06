"""The typed, versioned policy document: `Policy`, `Profile` and `Local`, and their JSON Schema."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from policy import checks
from policy.settings import Network, Settings, Strict, Word

API_VERSION: Final = "kumomori/v1"
SCHEMA_ID: Final = "kumomori.policy/1"


class Kind(StrEnum):
    POLICY = "Policy"
    PROFILE = "Profile"
    LOCAL = "Local"


class Extent(StrEnum):
    """What a selector selects of an estate, where that is hardly ever meant."""

    NOTHING = "nothing"
    EVERYTHING = "everything"


def _as_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else (value,)


Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
Patterns = Annotated[
    tuple[Word, ...],
    BeforeValidator(_as_list, json_schema_input_type=Word | list[Word]),
    Field(min_length=1, max_length=1000),
]
Networks = Annotated[
    tuple[Network, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=1000),
]


MaySelect = Annotated[
    tuple[Extent, ...],
    BeforeValidator(_as_list, json_schema_input_type=Extent | list[Extent]),
    Field(min_length=1, max_length=2),
]


class Selector(Strict):
    """Which instances. All that is said must hold; of a list, one. Words may hold `*` and `?`.

    `role` and `site` are the instance's tags of that name; without such a tag, `site` is its region.
    """

    cloud: Patterns | None = None
    account: Patterns | None = None
    region: Patterns | None = None
    id: Patterns | None = None
    name: Patterns | None = None
    os: Patterns | None = None
    image: Patterns | None = None
    owner: Patterns | None = None
    role: Patterns | None = None
    site: Patterns | None = None
    network: Patterns | None = Field(default=None, description="The network's id, such as vpc-0a1b.")
    address: Networks | None = Field(default=None, description="One of the instance's addresses lies in it.")
    tags: Annotated[dict[Word, Patterns], Field(min_length=1, max_length=100)] | None = None
    all: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=1000)] | None = None
    any: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=1000)] | None = None
    not_: Annotated[Selector | None, Field(alias="not")] = None

    @model_validator(mode="after")
    def _says_something(self) -> Selector:
        if not self.model_fields_set:
            raise ValueError("is empty and would select everything: leave it out, or say what it selects")
        return self


class Named(Strict):
    name: Name
    description: Annotated[str, Field(max_length=4000)] | None = None


class Metadata(Named):
    parent: Name | None = Field(default=None, description="The policy that it inherits from, or is a profile of.")


class ProfileMetadata(Metadata):
    parent: Name = Field(description="The policy that it is a profile of.")


class _Document(Strict):
    api_version: Literal["kumomori/v1"] = Field(alias="apiVersion")
    metadata: Named
    settings: Settings = Settings()


class Policy(_Document):
    """Settings for the instances that it selects among those of its parent."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"may_select": ["selector"]}})

    kind: Literal["Policy"]
    metadata: Metadata
    selector: Selector | None = Field(default=None, description="Without one: all that its parent selects.")
    may_select: MaySelect | None = Field(
        default=None,
        description="The selector is meant to select `nothing` or `everything` of what the parent selects; else that is refused.",
    )
    lock: Annotated[tuple[Word, ...], Field(max_length=1000)] = Field(
        default=(), description="Settings (scan.schedule) or sections (scan) that nothing below may say."
    )


class Profile(_Document):
    """Settings that override those of the policy `metadata.parent` and of all below it, while its condition holds."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"may_select": ["when"]}})

    kind: Literal["Profile"]
    metadata: ProfileMetadata
    when: Selector | None = None
    may_select: MaySelect | None = Field(
        default=None,
        description="`when` is meant to hold for `nothing` or `everything` of what the policy selects; else that is refused.",
    )
    since: Annotated[str, AfterValidator(checks.moment)] | None = None
    until: Annotated[str, AfterValidator(checks.moment_or_never)] = Field(
        description="A date (to its end, UTC), a time with its offset, or `never`: it must be said."
    )
    priority: Annotated[int, Field(ge=-1000, le=1000)] = Field(
        default=0, description="Of profiles of one policy, the highest decides."
    )

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Profile:
        if self.since and self.until != checks.NEVER and checks.start_of(self.since) >= checks.end_of(self.until):
            raise ValueError("ends before it begins: `until` is not after `since`")
        return self


class Local(_Document):
    """What the administrator of one machine sets on it; it counts where nothing is locked."""

    kind: Literal["Local"]


DOCUMENTS: Final[dict[str, type[Policy | Profile | Local]]] = {
    Kind.POLICY: Policy,
    Kind.PROFILE: Profile,
    Kind.LOCAL: Local,
}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a document, for editors."""
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[Policy | Profile | Local, Field(discriminator="kind")])
    found = adapter.json_schema(by_alias=True)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Kumomori policy document",
    }
    return {**head, **found}
