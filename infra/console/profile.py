"""`Schedule` and `Exclusion`: profiles (docs/policy.md), written as what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from infra.console.policy import DocumentResource, Json, above, written


class _Profile(DocumentResource, module="kumomori", name="Profile"):
    def _profile(
        self,
        resource_name: str,
        parent: pulumi.Input[str] | DocumentResource,
        settings: Mapping[str, Any],
        said: Mapping[str, Any],
        description: pulumi.Input[str] | None,
        opts: pulumi.ResourceOptions | None,
    ) -> None:
        metadata = {"name": resource_name, "parent": above(parent), "description": description}
        text = written("Profile", metadata, {**said, "settings": settings})
        self._make(resource_name, resource_name, parent, text, opts)


class Schedule(_Profile, module="kumomori", name="Schedule"):
    """When machines below the policy `parent` are scanned: a cron expression in a time zone, spread over `spread_seconds`.

    `when` selects among them, `window` is when scans may begin (`{"start": "22:00", "end": "05:00"}`), `since` and `until` are when it
    counts. Of several for one machine the highest `priority` decides; two of one policy need different ones.
    """

    def __init__(
        self,
        resource_name: str,
        *,
        parent: pulumi.Input[str] | DocumentResource,
        cron: pulumi.Input[str],
        time_zone: pulumi.Input[str] = "UTC",
        spread_seconds: pulumi.Input[int] = 0,
        window: pulumi.Input[Json] | None = None,
        when: pulumi.Input[Json] | None = None,
        may_select: pulumi.Input[Sequence[str]] | None = None,
        since: pulumi.Input[str] | None = None,
        until: pulumi.Input[str] = "never",
        priority: pulumi.Input[int] = 0,
        description: pulumi.Input[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        schedule = {"cron": cron, "time_zone": time_zone, "spread_seconds": spread_seconds}
        said = {"when": when, "may_select": may_select, "since": since, "until": until, "priority": priority}
        settings = {"scan": {"schedule": schedule, "window": window}}
        self._profile(resource_name, parent, settings, said, description, opts)


class Exclusion(_Profile, module="kumomori", name="Exclusion"):
    """What is left out on machines below the policy `parent`. `until` must be said: a date, or `never`.

    `paths`, `sha256`, `processes` and `rules` add to what is left out already. `when` selects among those machines. `description` is why.
    """

    def __init__(
        self,
        resource_name: str,
        *,
        parent: pulumi.Input[str] | DocumentResource,
        until: pulumi.Input[str],
        description: pulumi.Input[str],
        paths: pulumi.Input[Sequence[str]] | None = None,
        sha256: pulumi.Input[Sequence[str]] | None = None,
        processes: pulumi.Input[Sequence[str]] | None = None,
        rules: pulumi.Input[Sequence[str]] | None = None,
        when: pulumi.Input[Json] | None = None,
        may_select: pulumi.Input[Sequence[str]] | None = None,
        since: pulumi.Input[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        settings = {"exclusions": {"paths": paths, "sha256": sha256, "processes": processes, "rules": rules}}
        said = {"when": when, "may_select": may_select, "since": since, "until": until}
        self._profile(resource_name, parent, settings, said, description, opts)
