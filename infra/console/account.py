"""`CloudAccount`: an account or site that a fleet protects, in the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, ReadResult, Resource, UpdateResult
from pydantic import ValidationError

from client.api import Console
from client.model import AccountIn, AccountOut
from core.errors import Conflict, Gone
from core.text import printable
from infra.console.policy import Json
from infra.console.provider import ConsoleProvider, failure, is_unknown, refuse_open_token

_FIELDS: Final = tuple(AccountIn.model_fields)


class AccountProvider(ConsoleProvider):
    """Inputs are the fields of `client.model.AccountIn`; the id is `cloud://account`."""

    def check(self, _olds: Json, news: Json) -> CheckResult:
        known = {name: value for name, value in news.items() if name in _FIELDS and not is_unknown(value)}
        failures = []
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
        same = found is not None and _fields(found) == _fields(wanted) and _fields(wanted) == _fields(_wanted(olds))
        return DiffResult(changes=not same, replaces=[])

    def create(self, props: Json) -> CreateResult:
        """Raises `Conflict` if it is enrolled already, in another way: nobody's account is taken over unseen."""
        wanted = _wanted(props)
        id_ = _id(wanted)
        with self.console() as console:
            found = _find(console, id_)
            if found is not None and _fields(found) != _fields(wanted):
                differ = ", ".join(name for name in _FIELDS if getattr(found, name) != getattr(wanted, name))
                raise Conflict(
                    f"{id_}: is enrolled already, with another {differ}; remove it (`kumomori cloud remove {id_}`), or say the same"
                )
            console.add_account(wanted)
        return CreateResult(id_, _fields(wanted))

    def update(self, _id: str, _olds: Json, news: Json) -> UpdateResult:
        wanted = _wanted(news)
        with self.console() as console:
            console.add_account(wanted)
        return UpdateResult(_fields(wanted))

    def read(self, id_: str, _props: Json) -> ReadResult:
        with self.console() as console:
            found = _find(console, id_)
        if found is None:
            return ReadResult("", {}, {})
        return ReadResult(id_, _fields(found), _fields(found))

    def delete(self, _id: str, props: Json) -> None:
        """Its machines are closed and no longer scanned; what was found on them stays."""
        with self.console() as console:
            try:
                console.remove_account(props["cloud"], props["account"])
            except Gone:
                pass


def _wanted(props: Json) -> AccountIn:
    return AccountIn.model_validate({name: props[name] for name in _FIELDS if name in props})


def _fields(account: AccountIn) -> dict[str, Any]:
    return {name: value for name, value in account.model_dump(mode="json").items() if name in _FIELDS}


def _id(account: AccountIn) -> str:
    return f"{account.cloud}://{account.account}"


def _find(console: Console, id_: str) -> AccountOut | None:
    return next((one for one in console.accounts() if _id(one) == id_), None)


class CloudAccount(Resource, module="kumomori", name="CloudAccount"):
    """An account that the fleet `fleet` protects. Needs a token with the scope `admin`.

    `cloud`: `aws`, or `file` for the machines of a site, listed in `instances_file` on the fleet. `role`: name or ARN that the fleet
    takes there, with `external_id`. `regions`: none means all that are enabled. `queue_url`: where events of instances arrive.
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
        }
        super().__init__(AccountProvider(), resource_name, dict(props), opts)
