"""Tokens of blocks and pages."""

from __future__ import annotations

import base64
import hmac
import secrets
import struct


class Tokens:
    """Signed texts that say what they are good for and until when; nothing about them is remembered."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._generation = 0

    def expire(self) -> None:
        """All tokens given out so far are void."""
        self._generation += 1

    def make(self, purpose: str, value: int, expires: float) -> str:
        body = struct.pack(">QdI", value, expires, self._generation)
        return base64.b64encode(body + self._sign(purpose, body)).decode()

    def read(self, token: str, purpose: str, now: float) -> int:
        """The value in a token. Raises `ValueError` if it was not made for `purpose` or its time is over."""
        raw = base64.b64decode(token, validate=True)
        body, signature = raw[:20], raw[20:]
        if not hmac.compare_digest(signature, self._sign(purpose, body)):
            raise ValueError("not made for this")
        value, expires, generation = struct.unpack(">QdI", body)
        if now >= expires or generation != self._generation:
            raise ValueError("expired")
        return int(value)

    def _sign(self, purpose: str, body: bytes) -> bytes:
        return hmac.digest(self._key, purpose.encode() + b"\0" + body, "sha256")[:20]
