"""Manifests at rest: AES-256-GCM in pieces of 1 MiB, so that neither memory nor a message is as large as a manifest.

A sealed object is `KUMO-OBJ`, version, the id of its key and a salt, then pieces of a length (4 bytes) and a ciphertext with its tag.
Each object has a key of its own, made of the fleet's and the salt by HKDF-SHA256, so that no nonce can come twice. The nonce of a
piece is its number and whether it is the last; what is authenticated beside it is the header and the name of the object. So no
piece can be changed, left out, moved, or given out under another name.
Source: RFC 5116 (AEAD), RFC 5869 (HKDF); Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption" (STREAM).
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import ConfigError, Corrupt, LimitExceeded
from core.text import printable

PIECE_BYTES: Final = 1 << 20
_MAGIC: Final = b"KUMO-OBJ\x01"
_ID_BYTES: Final = 4
_SALT_BYTES: Final = 16
_TAG_BYTES: Final = 16
_LINE: Final = re.compile(r"([0-9a-f]{8}) ([0-9a-f]{64})")
_MOST_KEYS: Final = 1000


@dataclass(frozen=True, slots=True)
class Keys:
    """`current` is the id of the key that is written with; all are read with. No key is printed."""

    current: bytes
    keys: Mapping[bytes, bytes] = field(repr=False)

    @classmethod
    def kept_in(cls, path: Path) -> Self:
        """The keys in a file of `id key` lines (hex), the newest first: made once, for its owner alone. To rotate, put a line of
        another id before the others. Raises `ConfigError`.
        """
        shown = printable(str(path))
        try:
            if not path.exists():
                _make(path)
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ConfigError(f"{shown}: others may read the key; chmod 600 it")
            lines = [line for line in path.read_text("ascii").splitlines() if line.strip()][:_MOST_KEYS]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{shown}: the key of the manifests cannot be read ({error})") from error
        found: dict[bytes, bytes] = {}
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line.strip())
            if match is None or bytes.fromhex(match[1]) in found:
                raise ConfigError(
                    f"{shown}: line {number} is no key: an id of 8 and a key of 64 hex digits are expected"
                )
            found[bytes.fromhex(match[1])] = bytes.fromhex(match[2])
        if not found:
            raise ConfigError(
                f"{shown}: there is no key in it; without it no manifest can be read: restore it or remove the file"
            )
        return cls(next(iter(found)), found)

    def seal(self, name: str, source: BinaryIO, target: BinaryIO) -> int:
        """Returns how many bytes were written."""
        salt = os.urandom(_SALT_BYTES)
        header = _MAGIC + self.current + salt
        cipher, known = self._cipher(self.current, salt), header + name.encode()
        target.write(header)
        written, number = len(header), 0
        piece = source.read(PIECE_BYTES)
        while True:
            following = source.read(PIECE_BYTES)
            sealed = cipher.encrypt(_nonce(number, last=not following), piece, known)
            target.write(len(sealed).to_bytes(4, "little") + sealed)
            written += 4 + len(sealed)
            if not following:
                return written
            piece, number = following, number + 1

    def unseal(self, name: str, source: BinaryIO, target: BinaryIO, most_bytes: int) -> None:
        """Raises `Corrupt` if it is not what was sealed under that name with a key of ours, `LimitExceeded` if it is larger."""
        header = source.read(len(_MAGIC) + _ID_BYTES + _SALT_BYTES)
        magic, rest = header[: len(_MAGIC)], header[len(_MAGIC) :]
        if magic != _MAGIC or len(rest) != _ID_BYTES + _SALT_BYTES:
            raise Corrupt("the object is not one that was sealed here")
        if rest[:_ID_BYTES] not in self.keys:
            raise Corrupt(f"the object was sealed with the key {rest[:_ID_BYTES].hex()}, which is not there any more")
        cipher, known = self._cipher(rest[:_ID_BYTES], rest[_ID_BYTES:]), header + name.encode()
        written, number = 0, 0
        sealed = _piece(source)
        while True:
            following = _piece(source)
            try:
                piece = cipher.decrypt(_nonce(number, last=following is None), sealed or b"", known)
            except InvalidTag:
                raise Corrupt("the object is damaged, cut short, or not the one of that name") from None
            written += len(piece)
            if written > most_bytes:
                raise LimitExceeded(f"the object holds more than {most_bytes:,} bytes")
            target.write(piece)
            if following is None:
                return
            sealed, number = following, number + 1

    def _cipher(self, key: bytes, salt: bytes) -> AESGCM:
        return AESGCM(HKDF(SHA256(), 32, salt, b"kumomori object").derive(self.keys[key]))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _piece(source: BinaryIO) -> bytes | None:
    head = source.read(4)
    if not head:
        return None
    length = int.from_bytes(head, "little")
    if len(head) != 4 or not _TAG_BYTES <= length <= PIECE_BYTES + _TAG_BYTES:
        raise Corrupt("the object is damaged")
    piece = source.read(length)
    if len(piece) != length:
        raise Corrupt("the object is cut short")
    return piece


def _make(path: Path) -> None:
    """Of several processes, one makes it: a link is made whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{secrets.token_hex(4)} {secrets.token_hex(32)}\n".encode())
        os.fsync(fd)
        try:
            os.link(new, path)
        except FileExistsError:
            pass
    finally:
        os.close(fd)
        new.unlink()
