"""Tokens: 256 random bits shown once; the console keeps their SHA-256, which needs no salt as nobody can guess them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import NewToken, Scope, TokenIn, TokenOut
from console.clock import now
from console.problems import Refused
from console.store import tables
from console.store.database import Database
from console.store.events import CONSOLE, record

_PREFIX: Final = "kumomori_"  # so that a token is recognised where it should not be
_LENGTH: Final = len(_PREFIX) + 43
_USED_EVERY: Final = timedelta(minutes=1)
FIRST: Final = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who holds the token of a request. `fleet` is set for a fleet's token, and then it is good for that fleet alone."""

    name: str
    scopes: frozenset[Scope]
    fleet: str | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_be(self, fleet: str) -> bool:
        return Scope.ADMIN in self.scopes or self.fleet == fleet


def hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def plausible(secret: str) -> bool:
    """It has the form of a token; else no database is asked for it."""
    return len(secret) == _LENGTH and secret.startswith(_PREFIX) and secret.isascii()


def first_admin(database: Database) -> str | None:
    """The secret of a first token, with scope ADMIN, if there is no token yet: shown to the operator once, kept nowhere."""
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(sa.text("LOCK TABLE token IN EXCLUSIVE MODE"))
        if connection.execute(sa.select(tables.token.c.name).limit(1)).first() is not None:
            return None
        return make(connection, TokenIn(name=FIRST, scopes=(Scope.ADMIN,)), CONSOLE).secret


def make(connection: Connection, wanted: TokenIn, who: str) -> NewToken:
    """Raises `Refused`: 409 if there is one of that name, 422 if a fleet's token names no fleet, or another one names one."""
    if (Scope.FLEET in wanted.scopes) != (wanted.fleet is not None):
        raise Refused(422, "a token with scope fleet names its fleet (--fleet), and no other token does")
    time = now()
    if wanted.expires is not None and wanted.expires <= time:
        raise Refused(422, "it would have expired already")
    taken = connection.execute(sa.select(tables.token.c.name).where(tables.token.c.name == wanted.name)).first()
    if taken is not None:
        raise Refused(409, f"there is a token named {wanted.name}: revoke it first, or take another name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    scopes = tuple(sorted(set(wanted.scopes)))
    connection.execute(
        tables.token.insert().values(
            name=wanted.name,
            digest=hashed(secret),
            scopes=[scope.value for scope in scopes],
            fleet=wanted.fleet,
            created=time,
            expires=wanted.expires,
        )
    )
    record(
        connection, time, who, "token.made", wanted.name, scopes=[scope.value for scope in scopes], fleet=wanted.fleet
    )
    return NewToken(
        name=wanted.name, scopes=scopes, fleet=wanted.fleet, created=time, expires=wanted.expires, secret=secret
    )


def renew(connection: Connection, wanted: TokenIn, who: str) -> NewToken:
    """As `make`, in place of one of the same name if there is one, whose secret is lost: even of the last admin's."""
    gone = connection.execute(tables.token.delete().where(tables.token.c.name == wanted.name))
    if gone.rowcount:
        record(connection, now(), who, "token.deleted", wanted.name)
    return make(connection, wanted, who)


def find(connection: Connection, secret: str) -> Caller | None:
    """Who holds `secret`; None if nobody does, or not any more."""
    row = _row(connection, secret)
    if row is None:
        return None
    return Caller(row.name, frozenset(Scope(scope) for scope in row.scopes), row.fleet)


def wants_marking(connection: Connection, secret: str) -> bool:
    """Its last use was written down longer ago than a minute, or never."""
    row = _row(connection, secret)
    return row is not None and (row.last_used is None or now() - row.last_used >= _USED_EVERY)


def mark_used(connection: Connection, name: str) -> None:
    time = now()
    due = tables.token.c.last_used.is_(None) | (tables.token.c.last_used <= time - _USED_EVERY)
    connection.execute(tables.token.update().where(tables.token.c.name == name, due).values(last_used=time))


def everything(connection: Connection) -> Sequence[TokenOut]:
    return [_out(row) for row in connection.execute(sa.select(tables.token).order_by(tables.token.c.name))]


def delete(connection: Connection, name: str, who: str) -> None:
    """Raises `Refused`: 404, or 409 if nobody could make tokens any more."""
    time = now()
    rows = connection.execute(sa.select(tables.token).with_for_update()).all()
    if all(row.name != name for row in rows):
        raise Refused(404, f"no token is named {name}; `kumomori token list` names them")
    if not any(row.name != name and Scope.ADMIN.value in row.scopes and _valid(row, time) for row in rows):
        raise Refused(409, "it is the last one with scope admin: make another first")
    connection.execute(tables.token.delete().where(tables.token.c.name == name))
    record(connection, time, who, "token.deleted", name)


def _row(connection: Connection, secret: str) -> Any:
    digest = hashed(secret)
    row = connection.execute(sa.select(tables.token).where(tables.token.c.digest == digest)).first()
    if row is None or not hmac.compare_digest(row.digest, digest) or not _valid(row, now()):
        return None
    return row


def _valid(row: Any, time: datetime) -> bool:
    return row.expires is None or row.expires > time


def _out(row: Any) -> TokenOut:
    return TokenOut(
        name=row.name,
        scopes=row.scopes,
        fleet=row.fleet,
        created=row.created,
        expires=row.expires,
        last_used=row.last_used,
    )
