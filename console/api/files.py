"""Which machines hold a content, and the sets of contents by which that is known."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import Path

from client.model import MOST_PIECE_HASHES, PAGE, FileHolders, FilePieceIn, FileSetIn, FileSetOut, Scope
from console.api.params import After, Limit, NameInPath
from console.api.routes import needs, router
from console.clock import now
from console.context import TheConsole
from console.problems import Refused
from console.store import filesets

api = router("files")
Sha256InPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="In hex digits.")]
_MOST_PIECE = 2 * 44 * MOST_PIECE_HASHES + 1024


@api.get("/v1/files/{sha256}", **needs(Scope.READ))
def find_file(sha256: Sha256InPath, console: TheConsole, after: After = "", limit: Limit = PAGE) -> FileHolders:
    with console.database.read() as connection:
        return filesets.holders(connection, sha256, after=after, limit=limit)


@api.put("/v1/fleets/{fleet}/file-sets/{digest}", **needs(Scope.FLEET, 409, 413))
def offer_file_set(fleet: NameInPath, digest: Sha256InPath, wanted: FileSetIn, console: TheConsole) -> FileSetOut:
    """Says what is missing of it. Asked again when nothing is, it becomes a set, and counts for the machines whose results name it."""
    return filesets.offer(console.database, fleet, digest, wanted, now())


@api.put(
    "/v1/fleets/{fleet}/file-sets/{digest}/pieces/{number}",
    status_code=204,
    **needs(Scope.FLEET, 404, 409, 413, most_body_bytes=_MOST_PIECE),
)
def put_file_piece(
    fleet: NameInPath,
    digest: Sha256InPath,
    number: Annotated[int, Path(ge=0, le=1000)],
    piece: FilePieceIn,
    console: TheConsole,
) -> None:
    added, removed = _hashes(piece.added), _hashes(piece.removed)
    with console.database.write() as connection:
        filesets.put_piece(connection, fleet, digest, number, added, removed)


def _hashes(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, "hashes: not base64") from None
    if len(raw) % filesets.HASH_BYTES or len(raw) > MOST_PIECE_HASHES * filesets.HASH_BYTES:
        raise Refused(422, "hashes: not of 32 bytes each, or too many")
    return raw
