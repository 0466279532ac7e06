"""What the console asks a fleet to do at once: done by the duty `sweep`, answered whatever fails, and harmless when it is done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic import ConfigureRequest
from pulumi.dynamic.config import Config
from sqlalchemy import update

from client.api import Console
from client.model import AccountIn, CheckIn, FleetIn, Scope, SweepIn, Task, TaskAnswer, TaskOut, TokenIn
from cloud.aws.tags import mark
from console.serve import Running
from console.settings import Settings
from console.store import tokens
from core.errors import CloudError
from infra.console.account import AccountProvider
from scanner.fleet import evidence, tasks
from scanner.fleet.tables import base, outbox, scan
from scanner.fleet.tasks import Tasks
from tests.scanner.fleet.console import FakeConsole, problem, served
from tests.scanner.fleet.duties import Desk, kill, until
from tests.scanner.fleet.fleet import ROLE, Fleet
from tests.scanner.fleet.test_admission import HERE, an_order
from tests.scanner.fleet.test_leaving import tell
from tests.scanner.fleet.test_sweeper import GIB, Yard

pytestmark = pytest.mark.slow

DRY = Task(id="sweep-1", kind="sweep", dry_run=True)
WET = Task(id="sweep-2", kind="sweep")


class Here:
    """A fleet whose cloud is pretended, and its console."""

    def __init__(self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.console = FakeConsole()
        self.yard = Yard(url)
        self.folder = folder
        self.url = url
        monkeypatch.setattr(tasks, "clouds_of", lambda *_, **__: self.yard.cloud)

    def left(self) -> None:
        """A snapshot that nothing needs."""
        token = self.yard.begin("a")
        self.yard.make("snap-1", token)
        self.yard.end("a")

    @contextmanager
    def desk(self, **settings: Any) -> Iterator[Desk]:
        with served(self.console) as address:
            desk = Desk(self.url, self.folder, address, **settings)
            yield desk
            desk.database.close()

    @contextmanager
    def working(self) -> Iterator[Desk]:
        """The loop, in a thread of this process."""
        with self.desk(pull_seconds=1) as desk:
            ended = threading.Event()
            loop = Tasks(desk.settings, desk.database, desk.fence("sweep"), ended, desk.said("sweep"))
            thread = threading.Thread(target=loop.run, daemon=True)
            thread.start()
            try:
                yield desk
            finally:
                ended.set()
                thread.join(20)
                assert not thread.is_alive()

    def ask(self, task: Task) -> TaskAnswer:
        with self.console.changed:
            self.console.tasks.append(task)
            self.console.changed.notify_all()
        found: list[TaskAnswer] = self.console.wait(lambda: self.console.answers.get(task.id))
        return found[0]


@pytest.fixture
def here(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    made = Here(url, tmp_path, monkeypatch)
    yield made
    made.yard.database.close()


def test_a_dry_run_and_the_sweep_itself(here: Here) -> None:
    here.left()
    with here.working():
        dry = here.ask(DRY)
        (line,) = dry.swept
        assert (line.kind, line.id, line.of, line.size_bytes, line.problem) == ("snapshot", "snap-1", "vol-1", GIB, "")
        assert dry.installation == here.yard.installation
        assert set(here.yard.cloud.there) == {"snap-1"}, "it was only said"
        wet = here.ask(WET)
        assert wet.swept == dry.swept
        assert here.yard.cloud.there == {}
        again = here.ask(WET.model_copy(update={"id": "sweep-3"}))
        assert (again.swept, again.problem) == ((), ""), "nothing is left, and no harm done"


def test_of_one_account_alone(here: Here) -> None:
    here.left()
    with here.working():
        other = here.ask(Task(id="sweep-4", kind="sweep", account="aws://999999999999"))
        assert (other.swept, other.problem) == ((), "")
        assert set(here.yard.cloud.there) == {"snap-1"}
        mine = here.ask(Task(id="sweep-5", kind="sweep", account="aws://111122223333"))
        assert [one.id for one in mine.swept] == ["snap-1"]


def test_what_could_not_be_is_in_the_answer(here: Here) -> None:
    here.left()
    here.yard.cloud.fails.add("snap-1")
    with here.working():
        assert [one.problem for one in here.ask(WET).swept] == ["not now"]
        here.yard.cloud.away = True
        (line,) = here.ask(WET.model_copy(update={"id": "sweep-3"})).swept
        assert (line.kind, line.problem) == ("", "the role is refused")


def test_answers_are_bounded(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.left()
    here.yard.cloud.fails.add("snap-1")
    monkeypatch.setattr(here.yard.cloud, "delete", _long)
    monkeypatch.setattr(tasks, "MOST_LINES", 0)
    with here.working():
        assert here.ask(WET).more == 1
        monkeypatch.setattr(tasks, "MOST_LINES", 1)
        (line,) = here.ask(WET.model_copy(update={"id": "sweep-3"})).swept
        assert len(line.problem) == 1_000
        assert line.problem.isprintable()
        monkeypatch.setattr(tasks, "_SECONDS", -1.0)
        assert "not all" in here.ask(WET.model_copy(update={"id": "sweep-4"})).problem


def _long(_: object) -> None:
    raise CloudError("\x1b[31m" * 1_000)


@pytest.fixture
def emptied(here: Here) -> Here:
    """A base and a piece of evidence in an account, which the console names no longer."""
    ours = AccountIn(cloud="aws", account=HERE.account)
    tell(here.yard, ours)
    token = here.yard.begin("a")
    here.yard.keep(token, here.yard.make("snap-base", token))
    here.yard.end("a")
    token = here.yard.begin("b")
    here.yard.make("snap-evidence", token)
    with here.yard.database.write() as connection:
        connection.execute(update(base).values(machine=f"{HERE}/i-1"))
        keeping = an_order("b", settings={"evidence.keep_snapshot": True, "evidence.keep_seconds": 3600})
        evidence.keep(here.yard.database, connection, keeping, token)
    here.yard.end("b")
    sent(here.yard)
    tell(here.yard)
    return here


def sent(yard: Yard) -> None:
    """The console has all results."""
    with yard.database.write() as connection:
        connection.execute(update(outbox).values(sent_ms=1))


CLEAR = Task(id="clear-1", kind="clear", account=f"aws://{HERE.account}")


def test_an_account_is_cleared_at_once(emptied: Here) -> None:
    """Of what is kept as evidence somebody has to say so."""
    cloud = emptied.yard.cloud
    with emptied.working():
        first = emptied.ask(CLEAR)
        assert ([one.id for one in first.swept], first.problem) == (["snap-base"], "")
        assert set(cloud.there) == {"snap-evidence"}
        assert first.evidence == 1
        assert first.evidence_until is not None
        assert timedelta(0) < first.evidence_until - datetime.now(UTC) < timedelta(hours=1)
        again = emptied.ask(CLEAR.model_copy(update={"id": "clear-2"}))
        assert (again.swept, again.problem, again.evidence) == ((), "", 1)
        second = emptied.ask(CLEAR.model_copy(update={"id": "clear-3", "evidence": True}))
        assert ([one.id for one in second.swept], second.problem, second.evidence) == (["snap-evidence"], "", 0)
        assert cloud.there == {}
        cloud.away = True
        assert emptied.yard.sweep() == [], "its role may go"


def test_scans_that_end_and_results_that_are_sent_are_waited_for(
    emptied: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finding is in the console before the stack that holds the fleet's database may go."""
    yard = emptied.yard
    token = yard.begin("c")
    yard.make("snap-c", token)
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "_SECONDS", 0.5)
    with emptied.working():
        busy = emptied.ask(CLEAR)
        assert "scans that are ending: 1; snapshots that could not be deleted yet: 1" in busy.problem
        assert "snap-c" in yard.cloud.there
        yard.end("c")
        unsent = emptied.ask(CLEAR.model_copy(update={"id": "clear-2"}))
        assert unsent.problem == "not done with results that the console does not have yet: 1"
        assert [one.id for one in unsent.swept] == ["snap-c"]
        sent(yard)
        assert emptied.ask(CLEAR.model_copy(update={"id": "clear-3"})).problem == ""


def test_what_cannot_be_cleared_is_said(emptied: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(tasks, "_SECONDS", 0.5)
    monkeypatch.setattr(tasks, "_KNOWN_SECONDS", 0.1)
    yard = emptied.yard
    yard.cloud.fails.add("snap-base")
    with emptied.working():
        yard.cloud.away = True
        refused = emptied.ask(CLEAR.model_copy(update={"id": "clear-0"}))
        assert [(one.kind, one.problem) for one in refused.swept] == [("", "the role is refused")]
        yard.cloud.away = False
        failed = emptied.ask(CLEAR)
        assert [(one.id, one.problem) for one in failed.swept] == [("snap-base", "not now")]
        assert "snapshots that could not be deleted yet: 1" in failed.problem
        tell(yard, AccountIn(cloud="aws", account=HERE.account))
        named = emptied.ask(CLEAR.model_copy(update={"id": "clear-2"}))
        assert "is one of this fleet's accounts still" in named.problem
        tell(yard)
        yard.cloud.fails.clear()
        token = yard.begin("d")
        yard.make("snap-d", token, noted=False)
        del yard.cloud.there["snap-d"]
        yard.end("d")
        sent(yard)
        late = emptied.ask(CLEAR.model_copy(update={"id": "clear-3"}))
        assert "what a killed scan may have made, looked for until 15 minutes after it: 1" in late.problem
    assert set(yard.cloud.there) == {"snap-evidence"}


def test_what_could_not_be_entered_is_no_cleared_account(here: Here) -> None:
    """Though the ledger names nothing there: its tags were not listed, and a second time says so again."""
    tell(here.yard, AccountIn(cloud="aws", account=HERE.account))
    here.left()
    sent(here.yard)
    here.yard.sweep()
    tell(here.yard)
    with here.working():
        here.yard.cloud.away = True
        for number in range(2):
            refused = here.ask(CLEAR.model_copy(update={"id": f"clear-{number}"}))
            assert [one.problem for one in refused.swept] == ["the role is refused"]
            assert refused.problem == ""
            assert [str(one.error) for one in here.yard.sweep()] == ["the role is refused"], "the sweeper tries on"
        here.yard.cloud.away = False
        assert here.ask(CLEAR.model_copy(update={"id": "clear-9"})).swept == ()


def test_an_account_that_it_does_not_have(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_KNOWN_SECONDS", 0.1)
    with here.working():
        answer = here.ask(Task(id="check-1", kind="check", account="aws://999999999999"))
    assert "not one of this fleet's" in answer.problem
    assert answer.checked == ()


def test_a_fault_of_ours_is_an_answer(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a thread that is no more."""

    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with here.working():
        with monkeypatch.context() as broken:
            broken.setattr(tasks, "sweep_clouds", faulty)
            assert "ZeroDivisionError" in here.ask(WET).problem
        assert here.ask(WET.model_copy(update={"id": "sweep-3"})).problem == ""


@pytest.mark.parametrize("refusals", [[503, 503], [500, 502]])
def test_an_answer_that_is_lost_is_sent_again(here: Here, refusals: list[int]) -> None:
    here.left()

    def fault(name: str, body: bytes) -> tuple[int, bytes] | None:
        return (refusals.pop(0), b"no") if name == "tasks" and body and refusals else None

    here.console.faults.append(fault)
    with here.working():
        assert [one.id for one in here.ask(WET).swept] == ["snap-1"], "not done anew: it would have nothing to tell"
        assert refusals == []


def test_an_answer_that_is_refused_for_good_holds_up_nothing(here: Here) -> None:
    def fault(name: str, body: bytes) -> tuple[int, bytes] | None:
        return (
            problem(404, "there is no such task") if name == "tasks" and b"installation" in body and refused() else None
        )

    def refused() -> bool:
        with here.console.changed:
            return bool(here.console.tasks) and here.console.tasks.pop(0).id == DRY.id

    here.console.faults.append(fault)
    with here.working() as desk:
        here.console.tasks.append(DRY)
        until(lambda: here.console.tasks == [])
        here.console.faults.clear()
        assert here.ask(WET).problem == ""
        until(lambda: any(line.startswith("sweep: over") for line in desk.lines))
    assert here.console.answers.keys() == {WET.id}


def test_a_duty_that_was_killed_in_it_does_it_again(here: Here) -> None:
    """Of two processes of a fleet the second goes on when the first is dead; the console hears one answer."""
    answering = threading.Event()

    def fault(name: str, body: bytes) -> tuple[int, bytes] | None:
        if name == "tasks" and body and not answering.is_set():
            held.set()
            answering.wait(60)
            return 503, b"no"
        return None

    held = threading.Event()
    here.console.faults.append(fault)
    here.console.tasks.append(DRY)
    with here.desk() as desk:
        first = desk.process("sweep")
        try:
            assert held.wait(60)
        finally:
            kill(first)
        answering.set()
        second = desk.process("sweep")
        try:
            answers = here.console.wait(lambda: here.console.answers.get(DRY.id), 60)
            assert [one.problem for one in answers] == [""]
        finally:
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
            kill(second)


# with a console and an account as they are


class Whole:
    """A real console, a fleet on an emulated account, and its duty `sweep` as a process."""

    def __init__(self, running: Running, fleet: Fleet) -> None:
        with running.console.database.write() as connection:
            wanted = TokenIn(name="admin", scopes=(Scope.ADMIN,))
            admin = tokens.make(connection, wanted, "test").secret
            self.admin = admin
            wanted = TokenIn(name="fleet", scopes=(Scope.FLEET,), fleet="default")
            token = tokens.make(connection, wanted, "test").secret
        self.fleet = fleet
        self.api = Console(running.address, admin)
        (fleet.folder / "token").write_text(token)
        environment = fleet.environment(
            KUMOMORI_FLEET_CONSOLE=running.address, KUMOMORI_FLEET_SWEEP_SECONDS="3600", KUMOMORI_FLEET_PULL_SECONDS="1"
        )
        self.account = AccountIn(
            cloud="aws", account=fleet.place.account, regions=(fleet.place.region,), role=ROLE, fleet="default"
        )
        self.api.add_account(self.account)
        with Console(running.address, token) as as_fleet:
            as_fleet.register(FleetIn(name="default"))
        self._environment = environment

    @contextmanager
    def duty(self, *names: str) -> Iterator[None]:
        """Of these names; without any, `sweep`."""
        with (self.fleet.folder / "duty.log").open("wb") as log:
            processes = [
                subprocess.Popen([sys.executable, "-m", "scanner.fleet.duty", name], env=self._environment, stderr=log)
                for name in names or ("sweep",)
            ]
        try:
            yield
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def answer(self, task: TaskOut) -> TaskAnswer:
        until(lambda: self.api.task(task.id).answered, 60)
        found = self.api.task(task.id).answer
        assert found is not None
        return found


@pytest.fixture
def whole(url: str, aws: dict[str, Any], tmp_path: Path) -> Iterator[Whole]:
    settings = Settings.model_validate({"database": f"sqlite:///{tmp_path}/console.db", "port": 0, "look_seconds": 0.3})
    fleet = Fleet(url, tmp_path, aws)
    fleet.data.mkdir()
    with Running(settings) as running:
        made = Whole(running, fleet)
        yield made
        made.api.close()
    fleet.close()


def test_a_console_asks_a_fleet(whole: Whole) -> None:
    fleet = whole.fleet
    account = f"aws://{fleet.place.account}"
    with whole.duty():
        checked = whole.answer(whole.api.check(CheckIn(account=account)))
        by = {one.permission: one for one in checked.checked}
        assert (by["ec2:DescribeInstances"].ok, by["ec2:DescribeInstances"].place) == (True, str(fleet.place))
        assert by["ec2:DeleteSnapshot"].ok is None
        assert checked.problem == ""
        assert checked.installation == fleet.installation
        # what bears the fleet's name and nobody remembers: its database was lost
        _expired(fleet, fleet.machine("web-1"))
        (asked,) = whole.api.sweep_dry_run(SweepIn())
        dry = whole.answer(asked)
        assert {one.id for one in dry.swept} == fleet.ours() != set()
        (asked,) = whole.api.sweep(SweepIn(account=account))
        wet = whole.answer(asked)
        assert [one.id for one in wet.swept] == [one.id for one in dry.swept]
        assert fleet.ours() == set()


def test_a_program_that_is_destroyed_leaves_nothing(whole: Whole) -> None:
    """Its account is cleared by the fleet while both have the role for it; on the way of `pulumi destroy`."""
    fleet = whole.fleet
    fleet.order("kept", settings={"base_snapshots.keep": 1})
    fleet.worker()
    assert fleet.ended("kept")["kept"].base
    assert len(fleet.ours()) == 1
    provider = AccountProvider()
    config = {"kumomori:console": whole.api.url, "kumomori:token": whole.admin}
    provider.configure(ConfigureRequest(Config(config, "acme")))
    owned = whole.account.model_dump(mode="json") | {"managed_by": "pulumi/acme/dev/production"}
    made = provider.create(owned | {"clear": True, "clear_evidence": False})
    assert made.outs is not None
    until(lambda: whole.api.accounts()[0].managed_by == owned["managed_by"])
    with whole.duty("link", "sweep"):
        provider.delete(made.id, dict(made.outs))
        assert fleet.ours() == set()
        assert fleet.bases() == []
        assert whole.api.accounts() == []
        provider.delete(made.id, dict(made.outs))  # one that broke off


def _expired(fleet: Fleet, machine: Any) -> None:
    """A snapshot with the fleet's tags, that expired yesterday; a scan ran in its place."""
    fleet.order("gone", machine)
    fleet.ask("stop", "gone")
    with fleet.database.write() as connection:
        connection.execute(update(scan).where(scan.c.id == "gone").values(attempt=1))
    expires = datetime.now(UTC) - timedelta(days=1)
    ec2 = fleet.session.client("ec2", endpoint_url=fleet.aws["endpoint"])
    tags = {
        "kumomori:installation": fleet.installation,
        "kumomori:token": "lost-1",
        "kumomori:expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    ec2.create_snapshot(
        VolumeId=machine.disks[0].id,
        Description=f"of a scan {mark(fleet.installation, 'lost-1')}",
        TagSpecifications=[
            {"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        ],
    )


def test_a_role_that_is_refused_is_named(whole: Whole) -> None:
    whole.fleet.remote.do("deny", action="sts:AssumeRole")
    try:
        with whole.duty():
            answer = whole.answer(whole.api.check(CheckIn(account=f"aws://{whole.account.account}")))
            (asked,) = whole.api.sweep_dry_run(SweepIn())
            assert whole.answer(asked).problem == ""
    finally:
        whole.fleet.remote.do("calm")
    (line,) = answer.checked
    assert (line.permission, line.ok) == ("sts:AssumeRole", False)
    assert "KumomoriAssume" in line.advice
    assert ROLE in line.detail
