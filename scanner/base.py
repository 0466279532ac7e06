"""The manifest of an earlier scan, as the base of this one: which of its files can be taken over. Lives in the parser."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from core.errors import ConfigError, Corrupt, Error
from core.findings import Gap, GapReason, InVolume
from scanner.changes import Changes
from scanner.filesystems import Filesystem
from scanner.lookup import Verdict
from scanner.manifest.block import Block, Row
from scanner.manifest.file import Chunk, Reader
from scanner.volumes import Volume
from scanner.wire import MAX_VOLUMES, Message, gap_in, int_in, load, text_in

_MAX_STRETCHES: Final = 1 << 20
STAMP_KEY_BYTES: Final = 16


class BaseBlock:
    """One block of the manifest, both as it stands there and decoded."""

    __slots__ = ("block", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.block = Block(raw)

    def __len__(self) -> int:
        return len(self.block)

    @property
    def first(self) -> int:
        return int(self.block.inodes[0])

    @property
    def last(self) -> int:
        return int(self.block.inodes[-1])


class Found:
    """One inode in the base: row `number` of `block`. `was_read`: its content was, and is the same."""

    __slots__ = ("_row", "block", "number", "was_read")

    def __init__(self, block: BaseBlock, number: int) -> None:
        self.block = block
        self.number = number
        self.was_read = False
        self._row: Row | None = None

    @property
    def row(self) -> Row:
        if self._row is None:
            self._row = self.block.block.row(self.number)
        return self._row

    @property
    def paths(self) -> list[bytes]:
        return self.block.block.paths(self.number)

    @property
    def extents(self) -> Sequence[tuple[int, int]]:
        block, first = self.block.block, self.block.block.place_starts[self.number]
        return block.places[first : first + block.extent_counts[self.number]]

    @property
    def meta(self) -> Sequence[tuple[int, int]]:
        block, number = self.block.block, self.number
        return block.places[block.place_starts[number] + block.extent_counts[number] : block.place_starts[number + 1]]

    @property
    def complete(self) -> bool:
        return self.block.block.complete(self.number)

    @property
    def mode(self) -> int:
        return self.block.block.mode(self.number)

    @property
    def size(self) -> int:
        return self.block.block.size(self.number)

    @property
    def sha256(self) -> bytes:
        return self.block.block.sha256(self.number)

    @property
    def stamp(self) -> bytes:
        return self.block.block.stamp(self.number)

    @property
    def results(self) -> bytes:
        return self.block.block.results(self.number)


class BaseVolume:
    """One volume of the base. `changes` are those since then, from the volume's start, journals included."""

    def __init__(
        self,
        reader: Reader,
        number: int,
        changes: Changes,
        *,
        is_current: bool,
        kept: frozenset[str],
        missing: frozenset[str] | None,
    ) -> None:
        """`kept` and `missing`: rule files as they were, and new or changed ones; None if no verdict of then counts now."""
        self._reader = reader
        self._chunks: Sequence[Chunk] = reader.chunks(number)
        self._lasts = [chunk.last for chunk in self._chunks]
        self.changes = changes
        self.is_current = is_current
        self._kept = kept
        self._missing = missing
        self._at = -1
        self._blocks: list[BaseBlock] = []
        self._block_lasts: list[int] = []
        self._before: Found | None = None

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self._chunks)

    def borders(self) -> list[int]:
        """The last inode of each chunk: batches that end there decode each chunk once."""
        return self._lasts

    def blocks(self) -> Iterator[BaseBlock]:
        for chunk in self._chunks:
            for raw in self._reader.read(chunk):
                yield BaseBlock(raw)

    def find(self, inode: int) -> Found | None:
        """None for what cannot be read, too: then it is looked at again."""
        before = self._before
        if before is not None:  # mostly the next row is asked for
            inodes, number = before.block.block.inodes, before.number + 1
            if number < len(inodes) and inodes[number] == inode:
                self._before = Found(before.block, number)
                return self._before
        self._before = self._search(inode)
        return self._before

    def _search(self, inode: int) -> Found | None:
        at = bisect_left(self._lasts, inode)
        if at == len(self._lasts) or inode < self._chunks[at].first:
            return None
        if at != self._at:
            try:
                self._blocks = [BaseBlock(raw) for raw in self._reader.read(self._chunks[at])]
            except Error:
                self._blocks = []
            self._block_lasts = [block.last for block in self._blocks]
            self._at = at
        which = bisect_left(self._block_lasts, inode)
        if which == len(self._blocks):
            return None
        block = self._blocks[which]
        number = bisect_left(block.block.inodes, inode)
        if number == len(block) or block.block.inodes[number] != inode:
            return None
        return Found(block, number)

    def verdict(self, found: Found) -> Verdict | None:
        """What then was known of its content, as far as the rules are still the same."""
        if self._missing is None:
            return None
        try:
            content: Any = load(found.results)["content"] if found.results else ()
            if content is None:
                return None
            return Verdict(tuple((name, finding) for name, finding in content if name in self._kept), self._missing)
        except (Error, KeyError, TypeError, ValueError):
            return None


class Base:
    """The whole manifest. Raises `Corrupt` or `Unsupported` for one that is not whole, or of another version."""

    def __init__(
        self,
        reader: Reader,
        changes: Sequence[Changes],
        *,
        scanner: str,
        engine: str,
        options: str,
        rules: Mapping[str, str],
    ) -> None:
        """`scanner`, `engine`, `options` and `rules` (namespace to digest) are those of now."""
        self.reader = reader
        self._changes = changes
        facts = reader.facts
        then = {text_in(name): text_in(digest) for name, digest in _dict_in(facts.get("rules")).items()}
        same_engine = facts.get("engine") == engine and facts.get("options") == options
        self._kept = frozenset(name for name, digest in then.items() if rules.get(name) == digest)
        self._missing = frozenset(rules) - self._kept if same_engine else None
        self.stamp_key = _key_in(facts.get("stamp_key"))
        self._is_current = same_engine and then == dict(rules) and facts.get("scanner") == scanner
        self._volumes = [_dict_in(one) for one in _list_in(facts.get("volumes"), MAX_VOLUMES)]
        self._target = facts.get("target")
        self.disk_sizes = [int_in(one) for one in _list_in(facts.get("disks"), MAX_VOLUMES)]

    def check_disks(self, sizes: Sequence[int]) -> None:
        """Raises `Corrupt` if these cannot be the disks it was made of."""
        if len(sizes) != len(self.disk_sizes):
            raise Corrupt(f"it is of a machine with {len(self.disk_sizes)} disks, and {len(sizes)} are given")
        for number, (then, now) in enumerate(zip(self.disk_sizes, sizes, strict=True)):
            if then != now:
                raise Corrupt(f"it is of another disk: disk {number} had {then} bytes and has {now}")
        for number, (changes, size) in enumerate(zip(self._changes, sizes, strict=False)):
            if changes.end > size:
                raise Corrupt(f"the changed extents end at byte {changes.end} of disk {number}, which has {size}")

    def check_target(self, names: Sequence[str]) -> None:
        """Raises `Corrupt` if it is not of the disks of these names, in this order. Changes since another moment, or of
        another disk, do not tell what changed since the base. An empty name is not compared."""
        target = [text_in(one) for one in _list_in(self._target, MAX_VOLUMES)] if any(names) else []
        for number, name in enumerate(names):
            then = target[number] if number < len(target) else ""
            if name and name != then:
                raise Corrupt(f"its disk {number} is {then or 'unknown'}, and what changed is told since {name}")

    def untouched(self, volume: Volume, filesystem: Filesystem) -> Message | None:
        """The facts of a volume that can be taken over without reading any of its files."""
        facts = self._place(volume)
        if facts is None or not self._is_current or self._changes[volume.disk].touch(volume.start, volume.length):
            return None
        if facts.get("finished") is not True or facts.get("incomplete") != 0 or not _is_of(facts, filesystem):
            return None
        return facts

    def volume(self, volume: Volume, filesystem: Filesystem) -> BaseVolume | None:
        """None if this volume was not there, or not the same, or not looked at to its end."""
        facts = self._place(volume)
        if facts is None or facts.get("finished") is not True:
            return None
        if not _is_of(facts, filesystem):
            return None
        replayed = [(int_in(pair[0]), int_in(pair[1])) for pair in _list_in(facts.get("replayed"), _MAX_STRETCHES)]
        changes = self._changes[volume.disk].within(volume.start, volume.length)
        return self.plain(int_in(facts["index"], MAX_VOLUMES), changes.joined([*replayed, *filesystem.replayed]))

    def plain(self, number: int, changes: Changes) -> BaseVolume:
        return BaseVolume(
            self.reader, number, changes, is_current=self._is_current, kept=self._kept, missing=self._missing
        )

    def _place(self, volume: Volume) -> Message | None:
        where = (volume.disk, volume.start, volume.length)
        for facts in self._volumes:
            if (facts.get("disk"), facts.get("start"), facts.get("length")) == where:
                return facts
        return None


def _is_of(facts: Message, filesystem: Filesystem) -> bool:
    now = (filesystem.kind, filesystem.uuid, filesystem.layout)
    return (facts.get("filesystem"), facts.get("uuid"), facts.get("layout")) == now


def same_volumes(old: Reader, new: Reader) -> list[tuple[int, int]]:
    """(number in `old`, number in `new`) of volumes that are the same: by the filesystem's UUID, else by their place.

    -1 stands for a volume that only one of them has. Nothing is compared if one of them has no volume at all: its gaps say
    why. Raises `ConfigError` if both have volumes, but none in common.
    """
    before = [_dict_in(one) for one in _list_in(old.facts.get("volumes"), MAX_VOLUMES)]
    after = [_dict_in(one) for one in _list_in(new.facts.get("volumes"), MAX_VOLUMES)]
    if not before or not after:
        return []
    pairs = []
    for alike in (lambda one: one.get("uuid") or None, lambda one: (one.get("disk"), one.get("start"))):
        for facts in after:
            twin = next((one for one in before if alike(facts) is not None and alike(one) == alike(facts)), None)
            if twin is not None:
                pairs.append((int_in(twin.get("index")), int_in(facts.get("index"))))
                before.remove(twin)
                facts["uuid"] = facts["disk"] = None
    if not pairs:
        raise ConfigError("no volume of the one is also in the other: these are two machines; give two states of one")
    paired = {number for _, number in pairs}
    pairs += [(-1, int_in(facts.get("index"))) for facts in after if facts.get("index") not in paired]
    pairs += [(int_in(facts.get("index")), -1) for facts in before]
    return sorted(pairs, key=lambda pair: pair[1])


def _key_in(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * STAMP_KEY_BYTES:
        raise Corrupt("its facts are not of the agreed form")
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise Corrupt("its facts are not of the agreed form") from error


def gaps_of(reader: Reader) -> Iterator[Gap]:
    """What the scan that wrote a manifest could not look at, but for single files: those have no hash in it."""
    for value in _list_in(reader.facts.get("gaps", []), _MAX_STRETCHES):
        yield gap_in(value)
    for facts in (_dict_in(one) for one in _list_in(reader.facts.get("volumes"), MAX_VOLUMES)):
        where = InVolume(int_in(facts.get("index"), MAX_VOLUMES))
        if facts.get("filesystem") is not None and facts.get("finished") is not True:
            yield Gap(where, GapReason.UNREADABLE, "the scan did not come to the end of this volume")
        for value in _list_in(facts.get("gaps"), _MAX_STRETCHES):
            yield replace(gap_in(value), where=where)


def _dict_in(value: object) -> Message:
    if not isinstance(value, dict):
        raise Corrupt("its facts are not of the agreed form")
    return value


def _list_in(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Corrupt("its facts are not of the agreed form")
    return value
