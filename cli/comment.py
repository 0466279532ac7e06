"""What `kumomori policy sync --dry-run` says as Markdown, for a comment at a pull request.

Whoever writes policies, names instances or tags them writes into it: all such words stand in fenced blocks whose fence is longer than any
run of backticks in them, printable and cut, so that they can be no link, mention, picture or markup. It fits into a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.text import printable

MARK: Final = "<!-- kumomori policy sync -->"  # by which a workflow finds its comment again
MOST_CHARACTERS: Final = 60_000  # GitHub takes 65,536, GitLab more
_MOST_LINE_CHARACTERS: Final = 500
# the diff may have what the others leave
_SHARES: Final = {"problems": 12_000, "changes": 16_000, "notes": 6_000}


@dataclass(frozen=True, slots=True)
class Comment:
    """`diff`, `changes`, `notes` and `problems` are lines; with problems the policies are refused."""

    documents: int
    diff: Sequence[str] = ()
    changes: Sequence[str] = ()
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    of_programs: int = 0

    def __str__(self) -> str:
        parts = [MARK, "### Kumomori policies", self._verdict()]
        if self.of_programs:
            parts.append(f"Documents of programs, which stay as they are: {self.of_programs:,}.")
        for title, lines in (("problems", self.problems), ("changes", self.changes), ("notes", self.notes)):
            if lines:
                parts += [f"**{title.capitalize()}**", _fenced(lines, "text", _SHARES[title])]
        if self.diff:
            left = MOST_CHARACTERS - sum(map(len, parts)) - 400
            parts += ["<details><summary>Documents</summary>", _fenced(self.diff, "diff", left), "</details>"]
        return "\n\n".join(parts) + "\n"

    def _verdict(self) -> str:
        if self.problems:
            return "**Refused: nothing of it can be applied.**"
        if not self.documents:
            return "The same policies hold already: nothing to do."
        noun = "document differs" if self.documents == 1 else "documents differ"
        return f"{self.documents:,} {noun} from what holds; this can be applied."


def _fenced(lines: Sequence[str], kind: str, most_characters: int) -> str:
    kept: list[str] = []
    size = 0
    for line in lines:
        shown = printable(line[:_MOST_LINE_CHARACTERS])[:_MOST_LINE_CHARACTERS]
        size += len(shown) + 1
        if size > most_characters:
            kept.append(f"… and {len(lines) - len(kept):,} more lines")
            break
        kept.append(shown)
    longest = max((len(run) for line in kept for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{kind}", *kept, fence])
