"""`kumomori policy history`: who applied which version, what it changed, and what of a program was changed by somebody else."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

from typer import Option

from cli.apply import diff_lines, print_lines
from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.tables import at
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import PolicyVersion

_MOST_READ: Final = 200  # versions, to find out who made a document


@with_console
def history(
    api: Api,
    limit: Annotated[int, Option("--limit", min=1, max=100, help="Versions to show.")] = 10,
    show_diff: Annotated[bool, Option("--diff", help="Also how the documents changed.")] = False,
) -> None:
    """The versions of the policies, newest first: when, by whose token, why, and which documents changed.

    Of a document that belongs to a program (pulumi/...) it says if another token changed or removed it than the one that made it.
    Exits 0: they were listed; 2: it could not start.
    """
    past = _Past(api)
    with reader_may_leave():
        if not past.versions:
            sys.stdout.write("No policies were applied yet.\n")
        for index, one in enumerate(past.versions[:limit]):
            why = f"  {printable(one.message)}" if one.message else ""
            sys.stdout.write(f"{one.version}  {at(one.when)}  {printable(one.who)}{why}\n")
            for line in past.said(index):
                sys.stdout.write(f"    {printable(line)}\n")
            if show_diff:
                print_lines(past.diff(index))


class _Past:
    """Versions, newest first. Of their documents only digests are kept, as there may be many large ones."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._digests: dict[int, Mapping[str, bytes]] = {}
        self.versions: Sequence[PolicyVersion] = api.policy_versions()

    def said(self, index: int) -> list[str]:
        """One line for each document that this version changed."""
        from client.model import OF_PROGRAMS

        old, new = self._documents(index + 1), self._documents(index)
        lines = []
        for name in sorted({*old, *new}):
            if old.get(name) == new.get(name):
                continue
            how = "added" if name not in old else "removed" if name not in new else "changed"
            lines.append(f"{how} {name}{self._by_hand(index, name) if name.startswith(OF_PROGRAMS) else ''}")
        return lines

    def diff(self, index: int) -> list[str]:
        old = self._read(index + 1) if index + 1 < len(self.versions) else {}
        return diff_lines(old, self._read(index), "before", "after")

    def _by_hand(self, index: int, name: str) -> str:
        """Said if it was not the token that made the document; empty if it was, or that is too long ago to be known."""
        maker = index
        while maker + 1 < len(self.versions) and name in self._documents(maker + 1):
            maker += 1
            if maker >= _MOST_READ:
                return ""
        who = self.versions[maker].who
        return "" if who == self.versions[index].who else f", which belongs to a program and was made by {who}"

    def _documents(self, index: int) -> Mapping[str, bytes]:
        if index >= len(self.versions):
            return {}
        if index not in self._digests:
            read = self._read(index)
            self._digests[index] = {
                name: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for name, text in read.items()
            }
        return self._digests[index]

    def _read(self, index: int) -> dict[str, str]:
        return dict(self._api.policy_version(self.versions[index].version).documents or {})
