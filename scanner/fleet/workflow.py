"""One scan as a durable workflow: snapshot, wait, scan, store, release. `kumomori worker` runs it in a slot.

Every step may be run again from its beginning: what it makes carries the token of the attempt, is in the ledger before, and is found
again by it. A step answers in JSON how to go on (`now`): `on`, or why not: then nothing is left out but what comes before
`release`. So whatever happens to a scan, what it made is put away, and it ends or waits for another attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from client.model import ScanKind, ScanOrder, ScanState
from core.errors import AccessDenied, CloudError, ConfigError, Error, Gone, LimitExceeded, Throttled, Unavailable
from core.estate import InstanceState, Resource, Snapshot
from core.text import printable
from scanner.fleet import admission, bases, engine, evidence, moments
from scanner.fleet.clouds import MachineGone, Site, kept_for, usd_expected
from scanner.fleet.context import Claims, Context, begin, current
from scanner.fleet.database import Database
from scanner.fleet.look import draft_of, look, store_draft
from scanner.fleet.patience import lasting
from scanner.fleet.slots import Fence
from scanner.snapshots import asked, in_order, intentions, settled

_T = TypeVar("_T")
READY_SECONDS: Final = 3600.0  # how long a snapshot may stay pending; then its disk is a gap
_MOST_LOST: Final = 2  # times that something of a machine may vanish under a scan, then it has failed
_LOOK_SECONDS: Final = 2.0  # between looks whether the scan is to stop

Answer = dict[str, Any]


class Asked(Exception):
    """Somebody wants it to stop, or to wait."""

    def __init__(self, now: str) -> None:
        super().__init__(now)
        self.now = now


@engine.durable
def scan(token: str) -> None:
    answer = snapshot(token)
    made = answer.get("snapshots", [])
    for step in (wait, scan_disks):
        if answer["now"] == "on":
            answer = step(token, made)
            made = answer.get("snapshots", made)
    given_up: Answer = {}
    if answer["now"] == "on":
        given_up = store(token, made)
    release(token, made, given_up)
    finish(token, answer)


def work(database: Database, fence: Fence) -> Claims:
    """See `worker.WorkModule`."""
    return begin(database, fence)


# the steps


@engine.step
def snapshot(token: str) -> Answer:
    """One snapshot for each disk, of one moment; of an image, those that it is made of."""

    def run(context: Context, order: ScanOrder) -> Answer:
        if order.place.cloud == "file":
            return {}
        site = context.clouds.enter(order.place)
        if order.kind is ScanKind.IMAGE:
            image = _listed(lambda: site.image(order.image))
            found = [asked(lambda one=one: site.refresh(_unknown(order, one))) for one in image.snapshots]  # type: ignore[misc]
            if not found:
                raise ConfigError(f"{order.machine}: the image has no snapshots that could be read")
            return {"snapshots": bases.to_json(found)}
        return {"snapshots": bases.to_json(_made(context, order, site, token))}

    return _step(token, "snapshot", run)


@engine.step
def wait(token: str, made: Any) -> Answer:
    """Until each is ready, or will never be."""

    def run(context: Context, order: ScanOrder) -> Answer:
        if not made:
            return {}
        site = context.clouds.enter(order.place)
        pause = _watchful(context, token, "wait")
        found = [settled(site, one, READY_SECONDS, pause) for one in bases.from_json(made)]
        return {"snapshots": bases.to_json(found)}

    return _step(token, "wait", run)


@engine.step
def scan_disks(token: str, made: Any) -> Answer:
    """Read and judge; what was found is in the database at the end, the manifest in the store."""

    def run(context: Context, order: ScanOrder) -> Answer:
        scan_id, attempt = admission.scan_of(token)
        with context.database.read() as connection:
            done = draft_of(connection, scan_id, attempt)
        if done is None:
            hear = _heard(context, token, "scan")
            found = look(context, order, token, bases.from_json(made), hear)
            moments.at("scan:looked")
            lasting(lambda: store_draft(context, scan_id, attempt, found))
        return {}

    return _step(token, "scan", run)


@engine.step
def store(token: str, made: Any) -> Answer:
    """The manifest and the snapshots become the base of the next scan, if they are to; a scan without a base is done all the same."""

    def run(context: Context, order: ScanOrder) -> Answer:
        scan_id, attempt = admission.scan_of(token)
        snapshots = bases.from_json(made or [])

        def kept() -> bases.GivenUp:
            with context.database.write() as connection:
                context.fence.guard(connection)
                draft = draft_of(connection, scan_id, attempt)
                if draft is not None and evidence.is_wanted(order, draft.worst):
                    evidence.keep(context.database, connection, order, token)
                if draft is None or not draft.manifest_bytes or not bases.is_whole(order, snapshots):
                    return bases.unwanted(connection, order)
                name = token + bases.SUFFIX
                return bases.keep(context.database, connection, order, token, name, snapshots, draft.manifest_bytes)

        given_up = lasting(kept)
        return {"tokens": sorted({one.token for one in given_up.resources}), "objects": list(given_up.objects)}

    return _step(token, "store", run, stoppable=False)


@engine.step
def release(token: str, made: Any, given_up: Answer) -> Answer:
    """Delete what was made and is not kept. What cannot be deleted now stays in the ledger, for the sweeper."""

    def run(context: Context, order: ScanOrder) -> Answer:
        lasting(lambda: admission.progress(context.database, context.fence, token, "release"))
        for name in given_up.get("objects", ()):
            context.fence.check()
            context.objects.delete(name)
        if order.place.cloud == "file":
            return {}
        site = context.clouds.enter(order.place)
        failed = [
            str(error)
            for one in (token, *given_up.get("tokens", ()))
            for resource in lasting(lambda one=one: context.ledger.of_token(one))  # type: ignore[misc]
            if (error := _delete(context, site, resource)) is not None
        ]
        if order.kind is ScanKind.INSTANCE and made:
            for resource in list(site.leftovers(bases.from_json(made))):
                context.fence.check()
                asked(lambda resource=resource: site.delete(resource))  # type: ignore[misc]
        return {"failed": failed[:10]}

    return _step(token, "release", run, stoppable=False)


@engine.step
def finish(token: str, answer: Answer) -> None:
    """The scan ends with its result, or waits for another attempt."""
    context = current()
    scan_id, attempt = admission.scan_of(token)

    def run() -> None:
        database = context.database
        with database.write() as connection:
            context.fence.guard(connection)
            if not admission.is_live(connection, token):
                return
            detail = str(answer.get("detail", ""))
            match answer["now"]:
                case "on":
                    draft = draft_of(connection, scan_id, attempt)
                    if draft is None:
                        admission.again(database, connection, scan_id, "what it found was lost")
                    else:
                        fields = draft.result(bases.kept_by(connection, scan_id))
                        said = evidence.words(connection, token)
                        admission.end(database, connection, scan_id, ScanState.DONE, said, **fields)
                case "stopped":
                    admission.end(database, connection, scan_id, ScanState.STOPPED, "it was stopped")
                case "paused":
                    admission.put_back(database, connection, scan_id)
                case "gone":
                    order = admission.order_of(connection, scan_id)
                    if order.kind is ScanKind.INSTANCE:  # of an image the base stays: instances begin from it
                        bases.forget(connection, order.machine)
                    admission.end(database, connection, scan_id, ScanState.GONE, detail)
                case "again":
                    after = float(answer.get("after", 0.0))
                    most = int(answer.get("most", admission.MOST_FAILURES))
                    admission.again(database, connection, scan_id, detail, after_seconds=after, most=most)
                case _:
                    admission.end(database, connection, scan_id, ScanState.FAILED, detail)

    moments.at("finish:begin")
    lasting(run)
    moments.at("finish:end")


def _step(token: str, name: str, run: Callable[[Context, ScanOrder], Answer], *, stoppable: bool = True) -> Answer:
    """What `run` answers, or what its error means for the scan."""
    moments.at(f"{name}:begin")
    context = current()
    try:
        if stoppable:
            _heard(context, token, name)()
        scan_id, _ = admission.scan_of(token)

        def read() -> ScanOrder:
            with context.database.read() as connection:
                return admission.order_of(connection, scan_id)

        answer = {"now": "on", **run(context, lasting(read))}
    except Unavailable:
        raise  # the engine runs the step again when the database is back
    except Asked as error:
        answer = {"now": error.now}
    except MachineGone as error:
        answer = {"now": "gone", "detail": str(error)}
    except Gone as error:  # something of it is, such as a snapshot that somebody deleted: once more, with new ones
        answer = {"now": "again", "detail": str(error), "most": _MOST_LOST}
    except Throttled as error:
        answer = {"now": "again", "detail": str(error), "after": error.after}
    except (AccessDenied, ConfigError, LimitExceeded) as error:
        answer = {"now": "failed", "detail": str(error)}
    except Error as error:
        answer = {"now": "again", "detail": str(error)}
    except Exception as error:  # noqa: BLE001  whatever it was: the scan ends, and what it made is put away
        answer = {"now": "again", "detail": f"{name}: {type(error).__name__}: {error}"}
    if "detail" in answer:
        answer["detail"] = printable(answer["detail"])[: admission.MOST_DETAIL]
    moments.at(f"{name}:end")
    return answer


# what they are made of


def _unknown(order: ScanOrder, name: str) -> Snapshot:
    return Snapshot(order.place, name)


def _listed(look: Callable[[], _T]) -> _T:
    """What the listing of its place says of the machine or image. Raises `MachineGone`."""
    try:
        return look()
    except Gone as error:
        raise MachineGone(str(error)) from error


def _made(context: Context, order: ScanOrder, site: Site, token: str) -> list[Snapshot]:
    assert order.instance is not None
    wanted = order.instance.id
    machine = _listed(lambda: asked(lambda: site.instance(wanted)))
    if machine.state is InstanceState.TERMINATED:
        raise MachineGone(f"{machine}: the instance was terminated")
    if machine.excluded:
        raise ConfigError(f"{machine}: is left out of all scans ({machine.excluded})")
    disks = in_order(machine.disks)
    if not disks:
        raise ConfigError(f"{machine}: has no disk to scan")
    _check_price(context, order, disks)
    _check_planted(context, order, site, token)
    lifetime = bases.lifetime_seconds(order)
    site = kept_for(site, lifetime)
    intended = intentions(disks, token, context.ledger.installation, lifetime)
    sizes = {disk.id: disk.size_bytes for disk in disks}
    for one in intended.values():
        lasting(lambda one=one: context.ledger.intend(one, sizes[one.of]))  # type: ignore[misc]
    moments.at("snapshot:intended")

    def make() -> list[Snapshot]:
        context.fence.check()
        moments.at("snapshot:calling")
        return list(site.snapshot(disks, token=token))

    made = asked(make, _watchful(context, token, "snapshot"))
    moments.at("snapshot:made")
    for found in made:
        if found.id and found.disk in intended:
            resource = replace(intended[found.disk], id=found.id)
            lasting(lambda resource=resource: context.ledger.made(resource))  # type: ignore[misc]
    return made


def _check_planted(context: Context, order: ScanOrder, site: Site, token: str) -> None:
    """Tokens can be guessed, and whoever may make snapshots in the account could have left some of an earlier moment, when
    there was nothing to find. So before the first call of this attempt there must be none. Raises `CloudError`.
    """
    if lasting(lambda: list(context.ledger.of_token(token))):
        return  # it was called, perhaps
    if planted := asked(lambda: [one.id for one in site.leftovers([Snapshot(order.place, "", token=token)])]):
        raise CloudError(
            f"{', '.join(planted[:5])}: carries the token of this scan, which has made nothing yet: somebody else made it; "
            "find out who may make snapshots in this account"
        )


def _check_price(context: Context, order: ScanOrder, disks: Any) -> None:
    """Raises `ConfigError` if it should cost more than the policy or the budget lets it."""
    with context.database.read() as connection:
        known = bases.choose(context.database, connection, order) is not None
    keep = order.settings.get("base_snapshots.keep", 1) != 0
    usd = usd_expected(order.place.cloud, disks, incremental=known, keep=keep)
    most = order.settings.get("limits.scan_usd")
    if isinstance(most, int | float) and usd > most:
        raise ConfigError(f"it would cost about ${usd:.4f}, and limits.scan_usd allows ${most:.4f}: it was not begun")
    if order.usd_left is not None and usd > order.usd_left:
        raise ConfigError(
            f"it would cost about ${usd:.4f}, and ${order.usd_left:.4f} are left of the account's month: it was not begun"
        )


def _delete(context: Context, site: Site, resource: Resource) -> Error | None:
    """The error, if it is still there."""
    context.fence.check()
    moments.at("release:deleting")
    try:
        asked(lambda: site.delete(resource))
    except (CloudError, ConfigError) as error:
        return error
    moments.at("release:deleted")
    if resource.id:  # what has none may still come to light: the ledger remembers, for the sweeper
        lasting(lambda: context.ledger.gone(resource))
    return None


def _heard(context: Context, token: str, step: str) -> Callable[[], None]:
    """Called often, it tells every few seconds that the scan is alive and raises `Asked` if it is to end."""
    last = float("-inf")

    def hear() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LOOK_SECONDS:
            return
        last = now
        wanted = lasting(lambda: admission.progress(context.database, context.fence, token, step))
        if wanted.stop:
            raise Asked("stopped")
        if wanted.pause or context.leaving.is_set():  # leaving: it is put back, and waits for another worker
            raise Asked("paused")

    return hear


def _watchful(context: Context, token: str, step: str) -> Callable[[float], None]:
    """A sleep from which `Asked` wakes."""
    hear = _heard(context, token, step)

    def pause(seconds: float) -> None:
        ends = time.monotonic() + seconds
        hear()
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            hear()

    return pause
