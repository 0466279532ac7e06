"""`CloudAccount`: an account or site that a fleet protects, in the console."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, ReadResult, Resource, UpdateResult
from pydantic import ValidationError

from client.api import Console
from client.model import AccountIn, AccountOut, ClearIn, TaskOut
from core.errors import Conflict, Gone, Unavailable
from core.text import printable
from infra.console.policy import Json
from infra.console.provider import ConsoleProvider, failure, is_unknown, refuse_open_token, whose

_FIELDS: Final = tuple(AccountIn.model_fields)
_SWITCHES: Final = ("clear", "clear_evidence")
_BEGIN_SECONDS: Final = 60.0  # for a fleet to begin with it
_CLEAR_SECONDS: Final = 300.0  # a fleet gives itself 240
_LOOK_SECONDS: Final = 0.5
_SHOWN: Final = 10


class AccountProvider(ConsoleProvider):
    """Inputs are the fields of `client.model.AccountIn`, `clear` and `clear_evidence`; the id is `cloud://account`."""

    def check(self, _olds: Json, news: Json) -> CheckResult:
        known = {name: value for name, value in news.items() if name in _FIELDS and not is_unknown(value)}
        failures = [
            failure(name, f"{name}: is true or false")
            for name in _SWITCHES
            if not is_unknown(news.get(name)) and not isinstance(news.get(name, False), bool)
        ]
        try:
            AccountIn.model_validate(known)
        except ValidationError as error:
            for one in error.errors(include_url=False, include_input=False):
                name = str(one["loc"][0])
                if one["type"] != "missing" or name not in news:
                    where = ".".join(map(str, one["loc"]))
                    failures.append(failure(name, f"{where}: {printable(one['msg'])}"))
        return CheckResult(dict(news), failures[:20])

    def diff(self, id_: str, olds: Json, news: Json) -> DiffResult:
        """Compares with what the console has, not with what was written once."""
        moved = [
            name for name in ("cloud", "account") if not is_unknown(news.get(name)) and olds.get(name) != news.get(name)
        ]
        if moved or is_unknown(dict(news)):
            return DiffResult(changes=True, replaces=moved)
        with self.console() as console:
            found = _find(console, id_)
        wanted = _wanted(news)
        same = (
            found is not None
            and _fields(found) == _fields(wanted)
            and _outs(wanted, news) == _outs(_wanted(olds), olds)
        )
        return DiffResult(changes=not same, replaces=[])

    def create(self, props: Json) -> CreateResult:
        """Raises `Conflict` if another program manages it, or somebody enrolled it in another way: no account is taken over unseen."""
        wanted = _wanted(props)
        with self.console() as console:
            console.add_account(wanted)
        return CreateResult(_id(wanted), _outs(wanted, props))

    def update(self, _id: str, _olds: Json, news: Json) -> UpdateResult:
        """Raises `Conflict` as `create` does."""
        wanted = _wanted(news)
        with self.console() as console:
            console.add_account(wanted)
        return UpdateResult(_outs(wanted, news))

    def read(self, id_: str, props: Json) -> ReadResult:
        with self.console() as console:
            found = _find(console, id_)
        if found is None:
            return ReadResult("", {}, {})
        return ReadResult(id_, _outs(found, props), _outs(found, props))

    def delete(self, id_: str, props: Json) -> None:
        """Its machines are closed and no longer scanned; what was found on them stays. With `clear` the fleet keeps nothing there.

        An account that is another's by now is left alone. Raises `Conflict` or `Unavailable` if something of ours is left there: the
        role that the fleet needs for it stays then, too, as Pulumi deletes what this resource depends on later.
        """
        with self.console() as console:
            try:
                console.remove_account(props["cloud"], props["account"], managed_by=props["managed_by"])
            except Gone:
                pass  # or a destruction that broke off in what follows
            if props["clear"] and props["cloud"] != "file":
                try:
                    asked = console.clear(ClearIn(account=id_, fleet=props["fleet"], evidence=props["clear_evidence"]))
                except Conflict:
                    return
                for one in asked:
                    _cleared(console, id_, one)


def _cleared(console: Console, id_: str, task: TaskOut) -> None:
    """Wait until the fleet has answered. Raises `Conflict`, `Unavailable`."""
    hint = "To leave it: `clear=False`, and `pulumi up`, before"
    began = time.monotonic()
    while task.answer is None:
        passed = time.monotonic() - began
        if passed > (_CLEAR_SECONDS if task.fetched else _BEGIN_SECONDS):
            state = "is not done" if task.fetched else "has not begun"
            raise Unavailable(
                f"{id_}: the fleet {task.fleet} {state} with what it keeps there after {passed:.0f} seconds; see that it runs, and try again. {hint}"
            )
        time.sleep(_LOOK_SECONDS)  # a task has no call that waits for its answer
        task = console.task(task.id)
    answer = task.answer
    problems = [answer.problem] if answer.problem else []
    problems += [f"{one.id or one.of or one.place}: {one.problem}" for one in answer.swept if one.problem]
    if answer.evidence:
        until = f" until {answer.evidence_until:%Y-%m-%d %H:%MZ}" if answer.evidence_until else ""
        problems.append(
            f"{answer.evidence} snapshots are kept as evidence{until}; copy what you need, and say "
            "`clear_evidence=True`, and `pulumi up`, before"
        )
    if problems:
        words = "; ".join(printable(one)[:1000] for one in problems[:_SHOWN])
        raise Conflict(f"{id_}: something of ours is left there: {words}. {hint}")


def _wanted(props: Json) -> AccountIn:
    return AccountIn.model_validate({name: props[name] for name in _FIELDS if name in props})


def _fields(account: AccountIn) -> dict[str, Any]:
    return {name: value for name, value in account.model_dump(mode="json").items() if name in _FIELDS}


def _outs(account: AccountIn, props: Json) -> dict[str, Any]:
    return _fields(account) | {name: props[name] for name in _SWITCHES if name in props}


def _id(account: AccountIn) -> str:
    return f"{account.cloud}://{account.account}"


def _find(console: Console, id_: str) -> AccountOut | None:
    return next((one for one in console.accounts() if _id(one) == id_), None)


class CloudAccount(Resource, module="kumomori", name="CloudAccount"):
    """An account that the fleet `fleet` protects. Needs a token with the scope `admin`.

    `cloud`: `aws`, or `file` for the machines of a site, listed in `instances_file` on the fleet. `role`: name or ARN that the fleet
    takes there, with `external_id`. `regions`: none means all that are enabled. `queue_url`: where events of instances arrive.
    `clear`: when this is destroyed, wait until the fleet has deleted what it keeps there for the next scans. What it keeps as evidence
    stops the destruction, unless `clear_evidence` is on. Let it depend on what the fleet needs for that, its role at least.
    """

    cloud: pulumi.Output[str]
    account: pulumi.Output[str]
    fleet: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        account: pulumi.Input[str],
        cloud: pulumi.Input[str] = "aws",
        fleet: pulumi.Input[str] = "default",
        regions: pulumi.Input[Sequence[pulumi.Input[str]]] = (),
        role: pulumi.Input[str] = "",
        external_id: pulumi.Input[str] = "",
        queue_url: pulumi.Input[str] = "",
        instances_file: pulumi.Input[str] = "",
        clear: pulumi.Input[bool] = True,
        clear_evidence: pulumi.Input[bool] = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        refuse_open_token()
        props: Mapping[str, Any] = {
            "cloud": cloud,
            "account": account,
            "fleet": fleet,
            "regions": list(regions) if isinstance(regions, tuple) else regions,
            "role": role,
            "external_id": external_id,
            "queue_url": queue_url,
            "instances_file": instances_file,
            "managed_by": whose(resource_name),
            "clear": clear,
            "clear_evidence": clear_evidence,
        }
        super().__init__(AccountProvider(), resource_name, dict(props), opts)
