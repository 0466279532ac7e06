from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pulumi
import pytest

from client.api import Console
from client.model import PolicySet, Scope
from console.serve import Running
from core.errors import CloudError, ConfigError, Conflict
from infra.console import Exclusion, Policy, Schedule
from infra.console import policy as documents
from infra.console.provider import document_name
from policy.document import read_text
from policy.typed import document
from tests.console.made import enrol, key
from tests.console.policyset import document as by_hand
from tests.infra.console.conftest import Secret, Stack
from tests.infra.engine import Engine

pytestmark = pytest.mark.slow

SETTINGS = {"actions": {"critical": ["alert", "isolate"]}, "scan": {"settle_seconds": 300}}
WEB = "pulumi/acme/dev/web.yaml"


def web(settings: dict[str, Any] | None = None, name: str = "web") -> None:
    Policy(name, settings=settings or SETTINGS)


def three(cron: str = "0 2 * * *") -> None:
    company = Policy("company", settings=SETTINGS, lock=["actions.critical"], description="für alle 🌲")
    Schedule("nightly", parent=company, cron=cron, time_zone="Europe/Berlin", spread_seconds=3600)
    Exclusion("caches", parent=company, paths=["/var/cache/**"], until="2099-12-31", description="asked for")


def held(api: Console) -> dict[str, str]:
    return documents.holding(api)[1]


def put(api: Console, name: str, text: str | None) -> None:
    """As a person does it."""

    def change(found: dict[str, str]) -> None:
        found.pop(name, None)
        if text is not None:
            found[name] = text

    documents.changed(api, change, "by hand")


def test_from_the_first_to_the_last(stack: Stack, api: Console, running: Running) -> None:
    enrol(running.console.database, "i-1")
    engine = stack()
    preview = engine.preview(three).ok()
    assert preview.ops == {"company": "create", "nightly": "create", "caches": "create"}
    assert held(api) == {}, "a preview changes nothing"
    engine.up(three).ok()
    assert sorted(held(api)) == [f"pulumi/acme/dev/{name}.yaml" for name in ("caches", "company", "nightly")]
    settings = api.effective(key())["settings"]
    assert settings["scan.schedule"]["value"] == {
        "cron": "0 2 * * *",
        "time_zone": "Europe/Berlin",
        "spread_seconds": 3600,
    }
    assert settings["exclusions.paths"]["value"] == ["/var/cache/**"]
    assert settings["actions.critical"]["lock"]["document"] == "pulumi/acme/dev/company.yaml"
    version = api.policies().version
    assert engine.up(three).ok().ops == {}
    assert api.policies().version == version, "what is the same is not applied again"
    changed = engine.preview(lambda: three("0 4 * * *")).ok()
    assert changed.ops == {"nightly": "update"}
    assert '+        "cron": "0 4 * * *",' in changed.text
    assert "company" not in changed.text
    engine.up(lambda: three("0 4 * * *")).ok()
    assert api.effective(key())["settings"]["scan.schedule"]["value"]["cron"] == "0 4 * * *"
    newest = api.policy_versions()[0]
    assert (newest.who, newest.message) == ("acme", "Pulumi acme/dev: Schedule nightly changed")
    gone = engine.destroy().ok()
    assert gone.order("delete")[-1] == "company", "what inherits goes first"
    assert held(api) == {}
    assert engine.resources == {}
    assert engine.destroy().ok().ops == {}
    assert api.effective(key())["policy"] is None


def test_what_is_left_out_of_the_program_is_removed(stack: Stack, api: Console) -> None:
    engine = stack()
    engine.up(three).ok()
    run = engine.up(lambda: web(name="company")).ok()
    assert run.ops == {"company": "update", "caches": "delete", "nightly": "delete"}
    assert list(held(api)) == ["pulumi/acme/dev/company.yaml"]


def test_a_program_that_fails_half_way_is_taken_up_there(stack: Stack, api: Console, tmp_path: Path) -> None:
    def program(path: str) -> None:
        company = Policy("company", settings=SETTINGS)
        Exclusion("caches", parent=company, paths=[path], until="never", description="asked for")

    first = stack()
    assert "`relative` is no absolute path" in first.up(lambda: program("relative")).refused()
    assert list(held(api)) == ["pulumi/acme/dev/company.yaml"]
    with Engine(tmp_path, first._config) as again:
        assert again.up(lambda: program("/var/cache/**")).ok().ops == {"caches": "create"}
        assert again.destroy().ok().order("delete") == ["caches", "company"]
    assert held(api) == {}


def test_the_state_is_taken_up_by_the_next_run(stack: Stack, tmp_path: Path, api: Console) -> None:
    first = stack()
    first.up(three).ok()
    with Engine(tmp_path, first._config) as again:
        assert again.up(three).ok().ops == {}
        again.destroy().ok()
    assert held(api) == {}


def test_no_token_in_the_state_or_the_provider(stack: Stack, running: Running, tmp_path: Path) -> None:
    engine = stack()
    engine.up(three).ok()
    engine.refresh().ok()
    token = engine._config["kumomori:token"]
    import base64

    kept = engine.path.read_text()
    assert kept.count("__provider") >= 6
    for word in (token, running.address, running.address.removeprefix("http://")):
        assert word not in kept
        for one in engine.resources.values():
            pickled = base64.b64decode(one.inputs["__provider"])
            assert word.encode() not in pickled
            assert len(pickled) < 200, "the class by its name, and nothing of what it was configured with"
    assert token not in engine.log.read_text()


@pytest.mark.parametrize(
    ("settings", "place", "words"),
    [
        pytest.param({"scan": {"deep": "full"}}, "9:7", "did you mean `depth`?", id="spelling"),
        pytest.param({"scan": {"settle_seconds": "5m"}}, "9:25", "write 300", id="unit"),
        pytest.param({"scan": {"schedule": {"cron": "0 99 * * *"}}}, "10:17", "bad hour", id="cron"),
        pytest.param({"actions": {"critical": ["alert", "explode"]}}, "11:9", "`explode` is none of", id="in-a-list"),
        pytest.param({"actions": {"critical": ["\u2028\x00\u202e"]}}, "10:9", "\\u2028\\x00\\u202e", id="hostile"),
    ],
)
def test_a_preview_tells_what_would_be_refused_and_where(
    stack: Stack, api: Console, settings: dict[str, Any], place: str, words: str
) -> None:
    engine = stack()
    for run in (engine.preview(lambda: web(settings)), engine.up(lambda: web(settings))):
        assert f"{WEB}:{place}: " in run.refused()
        assert words in run.refused()
    assert held(api) == {}
    assert engine.resources == {}


def test_what_only_the_whole_set_shows_is_told_with_its_place(stack: Stack, api: Console) -> None:
    engine = stack()
    put(api, "company.yaml", by_hand("company", "scan: {depth: full}", more="lock: [scan]\n"))

    def child(text: str | None = None) -> None:
        Policy("web", parent="company", settings={"scan": {"depth": "changed"}})

    engine.preview(child).ok()
    said = engine.up(child).refused()
    assert f"{WEB}:10:7: `scan.depth` is locked by company (company.yaml:4:8)" in said
    assert '10 |       "depth": "changed"' in said, "the line itself: nobody has that file"
    assert list(held(api)) == ["company.yaml"]
    assert engine.resources == {}
    orphan = engine.up(lambda: Policy("web", parent="nobody")).refused()
    assert f"{WEB}:6:15: there is no policy `nobody`" in orphan


def test_a_selector_that_selects_nothing(stack: Stack, running: Running) -> None:
    enrol(running.console.database, "i-1")
    run = stack().preview(lambda: Policy("web", selector={"tags": {"env": "prd"}}))
    assert f"{WEB}:7:3: `web` selects 0 of 1 instance of the estate: nothing" in run.refused()


def test_a_selector_below_another_is_counted_when_it_is_applied(stack: Stack, running: Running, api: Console) -> None:
    enrol(running.console.database, "i-1")
    put(api, "company.yaml", by_hand())
    put(api, "gcp.yaml", by_hand("gcp", parent="company", more="selector: {cloud: gcp}\nmay_select: [nothing]\n"))
    engine = stack()

    def below(parent: str) -> None:
        Policy("web", parent=parent, selector={"tags": {"env": "prd"}})

    engine.up(lambda: below("gcp")).ok()
    engine.preview(lambda: below("company")).ok()
    said = engine.up(lambda: below("company")).refused()
    assert "`web` selects 0 of 1 instance that `company` selects: nothing" in said


def test_a_document_as_it_stands_in_a_file(stack: Stack, api: Console) -> None:
    text = by_hand("web", "scan: {depth: full}") + "---\n" + by_hand("shop", "", parent="web")
    engine = stack()
    engine.up(lambda: Policy("web", text=text)).ok()
    assert held(api)[WEB].startswith(text)
    for run in (engine.preview, engine.up):
        bad = run(lambda: Policy("web", text=text.replace("depth", "deep"))).refused()
        assert f"{WEB}:4:19: unknown name `deep`" in bad
        broken = run(lambda: Policy("web", text="a: ]")).refused()
        assert f"{WEB}:1:4: is neither YAML nor JSON" in broken
    assert held(api)[WEB].startswith(text)
    with pytest.raises(ConfigError, match="not both"):
        Policy("web", text=text, settings=SETTINGS)


def test_a_change_by_hand_shows_and_is_changed_back(stack: Stack, api: Console) -> None:
    engine = stack()
    engine.up(web).ok()
    ours = held(api)[WEB]
    put(api, WEB, ours.replace("isolate", "tag"))
    plain = engine.preview(web).ok()
    assert plain.ops == {"web": "update"}, "although the program is as it was"
    seen = engine.preview(web, refresh=True).ok()
    assert '-        "tag"\n' in seen.text
    assert '+        "isolate"\n' in seen.text
    assert held(api)[WEB] != ours
    engine.up(web).ok()
    assert held(api)[WEB] == ours
    put(api, WEB, ours.replace("isolate", "tag"))
    assert engine.refresh().ok().ops == {"web": "refresh"}
    assert engine.resources and "tag" in next(iter(engine.resources.values())).inputs["text"]
    assert engine.preview(web).ok().ops == {"web": "update"}
    engine.up(web).ok()
    assert held(api)[WEB] == ours


def test_removed_by_hand_it_is_made_again(stack: Stack, api: Console) -> None:
    engine = stack()
    put(api, "company.yaml", by_hand())
    engine.up(web).ok()
    ours = held(api)[WEB]
    put(api, WEB, None)
    assert engine.preview(web).ok().ops == {"web": "update"}
    engine.up(web).ok()
    assert held(api)[WEB] == ours
    put(api, WEB, None)
    assert "is not there any more" in engine.refresh().ok().text
    assert engine.up(web).ok().ops == {"web": "create"}
    put(api, WEB, None)
    engine.destroy().ok()
    assert list(held(api)) == ["company.yaml"], "and nothing of others is touched"


def test_two_programs_with_one_policy(stack: Stack, api: Console) -> None:
    one, other = stack("acme"), stack("shop")
    one.up(web).ok()
    before = held(api)
    said = other.up(web).refused()
    assert "there is another `web`" in said
    assert "pulumi/shop/dev/web.yaml:5:13" in said
    assert WEB in said
    assert held(api) == before
    assert other.resources == {}
    other.up(lambda: web(name="till")).ok()
    other.destroy().ok()
    assert held(api) == before, "destroying the one leaves the other"


def test_two_components_with_one_policy(stack: Stack, api: Console) -> None:
    """To Pulumi they are two, so each would change back what the other wrote, and the first that goes would take both away."""

    def program(*teams: str) -> None:
        for team in teams:
            component = pulumi.ComponentResource(f"acme:index:{team}", "team")
            Policy("web", settings=SETTINGS, opts=pulumi.ResourceOptions(parent=component))

    engine = stack()
    engine.up(lambda: program("Red")).ok()
    assert held(api)[WEB].endswith(
        "\n# Pulumi acme/dev: Policy web, part of acme:index:Red; what is changed here by hand is changed back\n"
    )
    before = held(api)
    refused = engine.up(lambda: program("Red", "Blue")).refused()
    assert "web.yaml: such a document is there already, and is of another resource" in refused
    assert held(api) == before
    engine.destroy().ok()
    assert held(api) == {}


def test_an_answer_without_documents_is_not_taken_for_none(api: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    put(api, "a.yaml", by_hand())
    whole = api.policies()
    with monkeypatch.context() as patched:
        patched.setattr(Console, "policies", lambda _: whole.model_copy(update={"documents": None}))
        with pytest.raises(CloudError, match="does not say which policies hold"):
            put(api, WEB, by_hand("web"))
    assert list(held(api)) == ["a.yaml"]


def test_a_document_of_that_name_that_is_of_another(stack: Stack, api: Console) -> None:
    engine = stack()
    put(api, WEB, by_hand("web"))
    assert f"{WEB}: such a document is there already" in engine.up(web).refused()
    put(api, WEB, None)

    def twins() -> None:
        company = Policy("company")
        Schedule("web", parent=company, cron="0 1 * * *")
        Exclusion("web", parent=company, paths=["/x"], until="never", description="x")

    assert "such a document is there already" in engine.up(twins).refused()


def test_a_creation_that_broke_off_is_taken_up(stack: Stack, api: Console) -> None:
    engine = stack()
    engine.up(web).ok()
    engine.resources.clear()  # the console had it, the state was never written
    assert engine.up(lambda: web({"scan": {"depth": "full"}})).ok().ops == {"web": "create"}
    assert '"depth": "full"' in held(api)[WEB]


@pytest.mark.parametrize(
    ("scopes", "needed"),
    [
        pytest.param((Scope.READ,), "policy", id="reader"),
        pytest.param((Scope.POLICY,), "read", id="writer-alone"),
        pytest.param((Scope.SCAN, Scope.TRIAGE), "read", id="others"),
    ],
)
def test_a_token_without_rights_is_told_which(
    stack: Stack, api: Console, scopes: tuple[Scope, ...], needed: str
) -> None:
    engine = stack("acme", *scopes)
    said = engine.up(web).refused()
    assert f"this needs the scope `{needed}`" in said
    assert engine._config["kumomori:token"] not in said
    assert held(api) == {}
    assert engine.resources == {}


def test_a_console_that_is_away_and_comes_back(tmp_path: Path, stack: Stack, running: Running, api: Console) -> None:
    engine = stack()
    engine.up(web).ok()
    config = {**engine._config, "kumomori:console": "http://127.0.0.1:9"}
    kept = engine.path.read_text()
    with Engine(tmp_path, config) as away:
        runs = [away.preview(web), away.up(web), away.refresh(), away.destroy()]
        for run in runs:
            assert "http://127.0.0.1:9: cannot be reached" in run.refused()
            assert config["kumomori:token"] not in run.refused()
    assert engine.path.read_text() == kept, "nothing is forgotten because it cannot be seen"
    assert engine.up(web).ok().ops == {}


def test_moved_to_another_name_it_is_replaced(stack: Stack, api: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stack()
    engine.up(web).ok()
    monkeypatch.setattr(documents, "document_name", lambda name: f"pulumi/acme/dev/moved-{name}.yaml")
    run = engine.up(web).ok()
    assert run.ops == {"web": "replace"}
    assert list(held(api)) == ["pulumi/acme/dev/moved-web.yaml"]


def test_values_that_other_resources_give(stack: Stack, api: Console) -> None:
    """Whole numbers come out of Pulumi as fractions; in a preview they are not known."""

    def program() -> None:
        later = Policy("first").document.apply(lambda name: float(len(name)))
        Policy("second", settings={"scan": {"settle_seconds": later, "window": None}})

    engine = stack()
    engine.preview(program).ok()
    engine.up(program).ok()
    assert '"settle_seconds": 26\n' in held(api)["pulumi/acme/dev/second.yaml"]


def test_others_apply_all_the_time(stack: Stack, api: Console, secret: Secret, running: Running) -> None:
    engine = stack()
    put(api, "company.yaml", by_hand())
    ends = threading.Event()

    def busy() -> None:
        with Console(running.address, secret("busy")) as console:
            for number in range(40):
                put(console, "busy.yaml", by_hand("busy", f"scan: {{settle_seconds: {number}}}"))
                if ends.wait(0.02):
                    return

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        engine.up(three_more).ok()
    finally:
        ends.set()
        thread.join()
    found = held(api)
    assert len([name for name in found if name.startswith("pulumi/")]) == 6
    assert {"company.yaml", "busy.yaml"} <= set(found)


def three_more() -> None:
    for number in range(6):
        Policy(f"p{number}", parent="company", settings=SETTINGS)


def test_it_gives_up_after_a_bounded_number_of_tries(api: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MOST_WAIT_SECONDS", 0.0)
    tries = 0

    def change(found: dict[str, str]) -> None:
        nonlocal tries
        tries += 1
        put_other(api, tries)
        found["mine.yaml"] = by_hand("mine")

    with pytest.raises(Conflict, match="nothing was changed"):
        documents.changed(api, change, "")
    assert tries == documents._TRIES
    assert "mine.yaml" not in held(api)


def put_other(api: Console, number: int) -> None:
    found = documents.holding(api)
    wanted = {"company.yaml": by_hand(settings=f"scan: {{settle_seconds: {number}}}")}
    api.apply_policies(PolicySet(documents=wanted), etag=found[0].etag if found[0] else None)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../x", "ü", "a b", "a\nb", "x" * 101, ".hidden", "\u202e"])
@pytest.mark.parametrize("part", ["project", "stack", "name"])
def test_names_that_cannot_be_a_documents(monkeypatch: pytest.MonkeyPatch, part: str, name: str) -> None:
    given = {"project": "acme", "stack": "dev", "name": "web", part: name}
    monkeypatch.setattr(pulumi, "get_project", lambda: given["project"])
    monkeypatch.setattr(pulumi, "get_stack", lambda: given["stack"])
    with pytest.raises(ConfigError, match="may have letters, digits") as caught:
        document_name(given["name"])
    assert str(caught.value).isprintable()


def test_a_name_that_is_too_long_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi, "get_project", lambda: "x" * 100)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "dev")
    with pytest.raises(ConfigError, match="longer than 200"):
        document_name("y" * 100)


@pytest.mark.parametrize("text", ["x" * ((512 << 10) + 1), "ü" * (257 << 10), 7.0, ["x"], None])
def test_a_text_that_is_too_large_or_none(text: Any) -> None:
    (failure,) = documents.DocumentProvider().check({}, {"document": WEB, "text": text, "parent": ""}).failures
    assert (failure.property, failure.reason) == ("text", "must be a text of at most 524,288 bytes")


@pytest.mark.parametrize(
    "end", ["", "\n\n", "\r\n", "\n...\n", "\n---\n", "\n# a comment", "|\n    words\n", ">-\n    words"]
)
def test_the_last_line_never_gets_into_a_document(end: str, api: Console, stack: Stack) -> None:
    engine = stack()
    words = end if end.startswith(("|", ">")) else f"words{end}"
    text = f"apiVersion: kumomori/v1\nkind: Policy\nmetadata:\n  name: web\n  description: {words}"
    engine.up(lambda: Policy("web", text=text)).ok()
    nodes = read_text("x", held(api)[WEB])
    assert [node.plain()["metadata"]["description"].strip() for node in nodes] == ["words"]
    assert engine.up(lambda: Policy("web", text=text)).ok().ops == {}


def test_rendered_documents_are_read_as_they_were_meant() -> None:
    """Words that YAML could take for something else stay words."""
    hostile = [
        "no",
        "0123",
        "1e3",
        "~",
        "null",
        "*",
        "&a",
        "!x",
        "# c",
        "a: b",
        "- x",
        "'",
        '"',
        "\\",
        "\ttab",
        "🌲",
        "\x85",
    ]
    text = documents.document(
        "Policy", {"name": "web", "description": " ".join(hostile)}, {"selector": {"name": hostile}}
    )
    (node,) = read_text("x.yaml", f"{text}# Pulumi\n")
    model: Any = document(node).model
    assert list(model.selector.name) == hostile
