"""A process of its own for hostile images, with little memory: `python -m ...mutation_worker IMAGE FIRST COUNT HOW [STATE...]`.

HOW is `checksums`, `plain` or `truncate`; STATEs are images whose content is right, too (an undone transaction). Prints
one JSON object: how often each outcome came, and what must not be. Dies loudly if the memory does not suffice.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from core.blocks import Bytes
from core.errors import Error
from scanner.filesystems.ext import READER
from tests.scanner.filesystems.layout import Layout, find_layout
from tests.scanner.filesystems.mutations import mutate
from tests.scanner.filesystems.truth import Seen, Truth, reader_truth

MEMORY_BYTES = 512 << 20
SECONDS = 20.0
CONTENT_BYTES = 32 << 20  # of one file: a scan has its own limit for the rest

Content = dict[bytes, Truth]  # owners, times and attributes count, too


class TooSlow(BaseException):
    """Not an `Exception`, so that no handler in the reader can swallow it."""


class Held:
    """An image in memory, whose bytes the test changes and puts back."""

    def __init__(self, content: bytearray) -> None:
        self.content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        return bytes(self.content[offset : min(offset + length, self.size)])


def look(source: Held) -> Seen:
    return reader_truth(READER.open(source, volume=0), limit=CONTENT_BYTES)


def verdict(seen: Seen, base: Seen, states: list[Content], how: str) -> str:
    """`equal`, `gaps`, `changed` (undetectable here), or `FALSE CLEAN` with what is missing."""
    if seen.gaps:
        return "gaps"
    mine = seen.names
    if any(state.items() <= mine.items() for state in states):
        return "equal"
    if how == "plain":
        there = {truth.inode for truth in (*seen.names.values(), *seen.deleted.values())}
        lost = {truth.inode for truth in base.names.values()} - there
        return f"FALSE CLEAN: no name and no gap for inodes {sorted(lost)[:5]}" if lost else "changed"
    lost_names = [path for path, value in states[0].items() if mine.get(path) != value]
    return f"FALSE CLEAN: {len(lost_names)} lost or changed, first {lost_names[0]!r}"


def attempt(source: Held, base: Seen, states: list[Content], how: str) -> str:
    """What came of one hostile image; starts with capitals if it must not be."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        seen = look(source)
    except Error:
        return "refused"
    except TooSlow:
        return f"TOO SLOW: more than {SECONDS} s"
    except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"CRASHED: {type(error).__name__}: {str(error)[:100]} at {Path(place.filename).name}:{place.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return verdict(seen, base, states, how)


def patched(image: bytearray, seed: int, layout: Layout) -> tuple[str, list[tuple[int, bytes]]]:
    """Apply the mutation of `seed`; gives its name and what undoes it."""
    name, patches = mutate(seed, image, layout)
    undo = []
    for offset, data in patches:
        undo.append((offset, bytes(image[offset : offset + len(data)])))
        image[offset : offset + len(data)] = data
    return name, undo[::-1]


def run_batch(path: Path, seeds: range, how: str, states: list[Content]) -> dict[str, object]:
    image = bytearray(path.read_bytes())
    layout = find_layout(path)
    base = look(Held(image))
    assert not base.gaps, f"the image is not clean to begin with: {base.gaps[:3]}"
    states = [base.names, *states]
    outcomes: Counter[str] = Counter()
    broken = []
    undo: list[tuple[int, bytes]]
    for seed in seeds:
        print(f"seed {seed}", file=sys.stderr)  # the last one is what killed us
        if how == "truncate":
            name, undo = "truncate", []
            source = Held(image)
            source.size = random.Random(seed).randrange(len(image))
        else:
            name, undo = patched(image, seed, layout)
            source = Held(image)
        said = attempt(source, base, states, "checksums" if how == "truncate" else how)
        for offset, data in undo:
            image[offset : offset + len(data)] = data
        if said[:2].isupper():
            broken.append(f"seed {seed} {name}: {said}")
        outcomes[said.split(":", 1)[0]] += 1
    return {"outcomes": outcomes, "broken": broken}


def on_alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def main(image: str, first: str, count: str, how: str, *states: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, on_alarm)
    others = [look(Held(bytearray(Path(state).read_bytes()))).names for state in states]
    seeds = range(int(first), int(first) + int(count))
    print(json.dumps(run_batch(Path(image), seeds, how, others)))


if __name__ == "__main__":
    main(*sys.argv[1:])
