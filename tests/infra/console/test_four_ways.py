"""One set of policies, applied as files, through the API, by the command line and by a Pulumi program: the same comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest

from cli.main import app
from client.api import Console
from client.model import PolicySet, Scope, Sighting, TokenIn
from console.clock import now
from console.serve import Running
from console.settings import Settings
from console.store import estate, tables, tokens
from core.estate import Instance
from infra.console import Exclusion, Policy
from policy.document import read_path, texts
from policy.estate import read_estate
from policy.explain import as_json
from policy.resolve import resolve
from policy.tree import load
from tests.infra.engine import Engine

DOCS = Path(__file__).parents[3] / "docs" / "policies"
ESTATE = list(read_estate(DOCS / "estate.jsonl"))
ORDER = ("company.yaml", "aws/aws.yaml", "on-prem/basement.yaml", "on-prem/kvm.yaml")


@contextmanager
def console(folder: Path) -> Iterator[tuple[str, str]]:
    """Address and an admin's token of a console that knows the estate."""
    folder.mkdir()
    with Running(Settings.model_validate({"database": f"sqlite:///{folder}/console.sqlite", "port": 0})) as running:
        database = running.console.database
        time = now()
        with database.write() as connection:
            for cloud, account in sorted({(one.place.cloud, one.place.account) for one in ESTATE}):
                row = {"cloud": cloud, "account": account, "fleet": "default", "added": time}
                document = {"cloud": "file", "account": account}  # fleets know no other kinds yet, policies do
                connection.execute(tables.account.insert().values(document=document, **row))
            token = tokens.make(connection, TokenIn(name="test", scopes=(Scope.ADMIN,)), "test").secret
        estate.sight(database, "default", Sighting(instances=tuple(ESTATE), seen=time), time)
        yield running.address, token


def by_api(url: str, token: str, folder: Path) -> None:
    with Console(url, token) as api:
        api.apply_policies(PolicySet(documents=texts(DOCS)), etag=None)


def by_command(url: str, token: str, folder: Path) -> None:
    from typer.testing import CliRunner

    (folder / "token").write_text(token)
    words = ["policy", "apply", str(DOCS), "--console", url, "--token-file", str(folder / "token")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def files() -> None:
    """The files as they are; what inherits from another comes after it."""
    first: Policy | None = None
    for name in ORDER:
        after = pulumi.ResourceOptions(depends_on=[first] if first else [])
        one = Policy(Path(name).stem, text=(DOCS / name).read_text(), opts=after)
        first = first or one


def resources() -> None:
    """Each document as a resource of its own; profiles that are more than exclusions as documents."""
    known: dict[str, Policy] = {}
    documents = [node.plain() for name in ORDER for node in read_path(DOCS / name)]
    for one in documents:
        if one["kind"] != "Policy":
            continue
        name, parent = one["metadata"]["name"], one["metadata"].get("parent")
        given = {key: one.get(key) for key in ("settings", "selector", "may_select", "lock")}
        known[name] = Policy(name, parent=known.get(parent), description=one["metadata"].get("description"), **given)
    for one in documents:
        if one["kind"] != "Profile":
            continue
        name, parent = one["metadata"]["name"], known[one["metadata"]["parent"]]
        when = {key: one.get(key) for key in ("when", "since")}
        if set(one["settings"]) == {"exclusions"}:
            Exclusion(
                name, parent=parent, until=str(one["until"]), description="why", **one["settings"]["exclusions"], **when
            )
        else:
            Policy(name, text=json.dumps(one), opts=pulumi.ResourceOptions(depends_on=[parent]))


def by_pulumi(program: Callable[[], None]) -> Callable[[str, str, Path], None]:
    def run(url: str, token: str, folder: Path) -> None:
        with Engine(folder, {"kumomori:console": url, "kumomori:token": token}) as engine:
            engine.preview(program).ok()
            engine.up(program).ok()
            assert engine.up(program).ok().ops == {}

    return run


def effective(found: dict[str, Any]) -> bytes:
    """Every setting with each of its items, the way to the policy, and which profiles hold: all but in which document it stands."""
    profiles = {one["name"]: one["holds"] for one in found["profiles"]}
    settings = {
        name: [one["value"], [item["item"] for item in one.get("items", ())], one["lock"] and one["lock"]["policy"]]
        for name, one in found["settings"].items()
    }
    kept = {"policy": found["policy"], "path": found["path"], "profiles": profiles, "settings": settings}
    return json.dumps(kept, sort_keys=True).encode()


def from_files(one: Instance) -> bytes:
    return effective(as_json(str(one), resolve(load(DOCS), one, datetime.now(UTC))))


@pytest.mark.slow
def test_four_ways_have_one_result(tmp_path: Path) -> None:
    wanted = {str(one): from_files(one) for one in ESTATE}
    assert len(wanted) == 8
    assert len(set(wanted.values())) >= 6, "they differ from each other, so that something is compared"
    ways = {
        "api": by_api,
        "cli": by_command,
        "pulumi-files": by_pulumi(files),
        "pulumi-resources": by_pulumi(resources),
    }
    for name, way in ways.items():
        with console(tmp_path / name) as (url, token):
            way(url, token, tmp_path / name)
            with Console(url, token) as api:
                found = {key: effective(api.effective(key)) for key in wanted}
        assert found == wanted, name
