"""What a test may do to an emulated AWS in another process, by one HTTP request each: see `Remote`."""

from __future__ import annotations

import http.client
import json
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from demo import disk
from demo.aws.rules import FaultKind

if TYPE_CHECKING:
    from demo.aws.emulator import EmulatedAws
    from demo.aws.estate import Estate

PATH = "/_emulator"
HEADER = "x-emulator-secret"


class Control:
    """The side of the emulator. Only who knows `secret` is heard."""

    def __init__(self, aws: EmulatedAws, estate: Estate | None) -> None:
        self.secret = secrets.token_hex(16)
        self._aws = aws
        self._estate = estate

    def answer(self, secret: str, body: bytes) -> tuple[int, Any]:
        """HTTP status and JSON value for one request."""
        if not secrets.compare_digest(secret.encode(), self.secret.encode()):
            return 403, {"error": "wrong secret"}
        try:
            request = json.loads(body)
            do = getattr(self, f"_{request.pop('do')}", None)
            if do is None:
                return 400, {"error": "no such action"}
            return 200, do(**request)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return 400, {"error": repr(error)}

    def _actions(self) -> dict[str, int]:
        return dict(self._aws.log.actions())

    def _clear_log(self) -> None:
        self._aws.log.clear()

    def _calm(self) -> None:
        self._aws.calm()

    def _advance(self, seconds: float) -> None:
        self._aws.clock.advance(seconds)

    def _expire_tokens(self) -> None:
        self._aws.expire_tokens()

    def _deny(self, action: str, principal: str = "*", resource: str = "*") -> None:
        self._aws.deny(action, principal=principal, resource=resource)

    def _fault(self, kind: str, action: str = "ebs:GetSnapshotBlock", **how: Any) -> None:
        self._aws.fault(FaultKind(kind), action, **how)

    def _listed_late(self, seconds: float) -> None:
        self._aws.rules.late_seconds = seconds

    def _pending(self, seconds: float) -> None:
        self._aws.rules.snapshot_seconds = seconds

    def _limits(self, **values: float | None) -> None:
        for name, value in values.items():
            if name.startswith("_") or not hasattr(self._aws.rules.limits, name):
                raise ValueError(f"no such limit: {name}")
            setattr(self._aws.rules.limits, name, value)

    def _change(self, machine: str, files: dict[str, str]) -> list[int]:
        if self._estate is None:
            raise ValueError("started without an estate")
        nodes = [disk.file(path.encode(), content) for path, content in files.items()]
        return self._estate.change(machine, *nodes)

    def _clones(self, count: int, of: str = "web-1") -> dict[str, str]:
        if self._estate is None:
            raise ValueError("started without an estate")
        return {machine.name: machine.instance for machine in self._estate.clones(count, of)}

    def _queue(self) -> str:
        self._aws.announce()
        return self._aws.queue()

    def _crowd(self, count: int, accounts: list[str]) -> dict[str, dict[str, str]]:
        keys = {}
        for account in accounts:
            self._aws.crowd(count, account)
            given = self._aws.credentials(account)
            keys[account] = {"access_key": given.access_key, "secret_key": given.secret_key}
        return keys

    def _fill_volume(self, volume: str, blocks: int, first: int = 0, seed: int = 0) -> None:
        self._aws.volume(volume).fill(first, blocks, seed)


class Remote:
    """The side of a test; `ready` is what the ready file holds. Keyword arguments are those of `Control`'s actions:

    `actions`, `clear_log`, `calm`, `advance(seconds=)`, `expire_tokens`, `deny(action=, …)`, `fault(kind=, …)`,
    `listed_late(seconds=)`, `pending(seconds=)` (how long snapshots are not ready), `limits(blocks_per_account=, …)`, `change(machine=, files={path: text})`, `clones(count=)`, `fill_volume(volume=, blocks=)`,
    `crowd(count=, accounts=[…])`, `queue()` (gets an event of every launch from then on; its URL).
    """

    def __init__(self, ready: dict[str, Any]) -> None:
        self._address = urlsplit(str(ready["endpoint"])).netloc
        self._secret = str(ready["control"])

    def do(self, what: str, /, **arguments: Any) -> Any:
        """Raises `RuntimeError` with what the emulator said against it."""
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            body = json.dumps({"do": what, **arguments})
            connection.request("POST", PATH, body, {HEADER: self._secret})
            answer = connection.getresponse()
            said = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(str(said))
        return said
