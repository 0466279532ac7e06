"""`kumomori files`: which machines hold a content, from what scans have seen."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Exit

from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.tables import ListAs, ListFormat, ago, many, print_json, print_table
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import FileHolder, FileHolders, PackageHolders

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


@with_console
def files(
    api: Api,
    content: Annotated[
        list[str],
        Argument(
            metavar="SHA256|FILE...",
            help="SHA-256 in hex digits, or a file here, of which it is taken.",
            show_default=False,
        ),
    ],
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """Which machines have a file with this content, by what their last scans have seen. Enters no cloud.

    Exits 0: none has, and it is known of all; 1: some have; 3: none is known to, but not all are known; 2: it could not start.
    """
    wanted = [(word, _sha256(word)) for word in content]
    held = unknown = False
    with reader_may_leave():
        for word, sha256 in wanted:
            count = 0
            rows: list[FileHolder] = []
            for page in api.files(sha256):
                count += len(page.items)
                if output_format is ListFormat.JSONL:
                    print_json(page)
                else:
                    rows += page.items
            held, unknown = held or count > 0, unknown or page.never + page.gaps > 0
            if output_format is ListFormat.TABLE:
                _print(word, sha256, rows, page)
    raise Exit(1 if held else 3 if unknown else 0)


def _sha256(word: str) -> str:
    """Raises `ConfigError` for what is neither."""
    if _SHA256.fullmatch(word):
        return word.lower()
    try:
        with Path(word).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"{printable(word)}: is no SHA-256 in 64 hex digits, and no file that can be read ({why})"
        ) from None


def _print(word: str, sha256: str, rows: list[FileHolder], last: FileHolders) -> None:
    sys.stdout.write(f"{sha256}\n" if word.lower() == sha256 else f"{sha256}  {printable(word)}\n")
    if rows:
        print_table(
            ("Machine", "", "Seen", "Scan"),
            [(one.machine, "image" if one.kind.value == "image" else "", ago(one.seen), one.scan) for one in rows],
        )
    sys.stdout.write(f"{_words(len(rows), last)}.\n")


def _words(count: int, last: FileHolders) -> str:
    """How many have it, and of how many it is not known: never the one without the other."""
    found = f"{many(count, 'machine')} had it when last scanned" if count else "No machine is known to have it"
    return f"{found}; {unknown_words(last)}"


def unknown_words(last: FileHolders | PackageHolders) -> str:
    """Of how many instances an answer says nothing."""
    parts = []
    if last.never:
        parts.append(f"{last.never:,} of which nothing is known yet")
    if last.gaps:
        parts.append(f"{last.gaps:,} with gaps")
    unknown = last.never + last.gaps
    total = many(last.instances, "instance")
    return f"not known for {unknown:,} of {total}: {', '.join(parts)}" if unknown else f"all of {total} are known"
