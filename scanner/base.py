"""The manifest of an earlier scan, as the base of this one: which of its files can be taken over. Lives in the parser."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from core.errors import ConfigError, Corrupt
from scanner.changes import Changes
from scanner.filesystems import Filesystem
from scanner.lookup import Verdict
from scanner.manifest.block import Block, Row
from scanner.manifest.file import Chunk, Reader
from scanner.volumes import Volume
from scanner.wire import MAX_VOLUMES, Message, int_in, load, text_in

_MAX_STRETCHES: Final = 1 << 20


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
    """One inode in the base."""

    __slots__ = ("_number", "_row", "inode", "whole_block")

    def __init__(self, block: BaseBlock, number: int) -> None:
        self.whole_block = block
        self._number = number
        self._row: Row | None = None
        self.inode = int(block.block.inodes[number])

    @property
    def row(self) -> Row:
        if self._row is None:
            self._row = self.whole_block.block.row(self._number)
        return self._row

    @property
    def paths(self) -> tuple[bytes, ...]:
        return self.whole_block.block.paths(self._number)

    @property
    def places(self) -> Sequence[tuple[int, int]]:
        return self.whole_block.block.extents_of(self._number)

    @property
    def complete(self) -> bool:
        return self.whole_block.block.complete(self._number)

    @property
    def mode(self) -> int:
        return self.whole_block.block.mode(self._number)

    @property
    def size(self) -> int:
        return self.whole_block.block.size(self._number)

    @property
    def results(self) -> bytes:
        return self.whole_block.block.results(self._number)

    def block_if_first(self, rows: Sequence[object], at: int) -> BaseBlock | None:
        """Its whole block, if this is the first row of it and `rows` goes on with all the others."""
        size = len(self.whole_block)
        if self._number or at + size > len(rows):
            return None
        last = rows[at + size - 1]
        # inodes ascend in both, so that the rows between can only be the block's own if all of them are found ones
        if not isinstance(last, Found) or last.whole_block is not self.whole_block:
            return None
        return self.whole_block if all(isinstance(one, Found) for one in rows[at : at + size]) else None


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
        self.whole_blocks: list[BaseBlock] = []
        self.whole_block_lasts: list[int] = []

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
        """Raises `Corrupt`."""
        at = bisect_left(self._lasts, inode)
        if at == len(self._lasts) or inode < self._chunks[at].first:
            return None
        if at != self._at:
            self.whole_blocks = [BaseBlock(raw) for raw in self._reader.read(self._chunks[at])]
            self.whole_block_lasts = [block.last for block in self.whole_blocks]
            self._at = at
        which = bisect_left(self.whole_block_lasts, inode)
        if which == len(self.whole_blocks):
            return None
        block = self.whole_blocks[which]
        number = bisect_left(block.block.inodes, inode)
        if number == len(block) or block.block.inodes[number] != inode:
            return None
        return Found(block, number)

    def whole(self, found: Found) -> bool:
        return found.complete

    def verdict(self, found: Found) -> Verdict | None:
        """What then was known of its content, as far as the rules are still the same."""
        if self._missing is None:
            return None
        content: Any = load(found.results)["content"] if found.results else ()
        if content is None:
            return None
        return Verdict(tuple((name, finding) for name, finding in content if name in self._kept), self._missing)


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
        self._is_current = same_engine and then == dict(rules) and facts.get("scanner") == scanner
        self._volumes = [_dict_in(one) for one in _list_in(facts.get("volumes"), MAX_VOLUMES)]
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

    def untouched(self, volume: Volume) -> Message | None:
        """The facts of a volume that can be taken over without reading any of it."""
        facts = self._place(volume)
        if facts is None or not self._is_current or self._changes[volume.disk].touch(volume.start, volume.length):
            return None
        if facts.get("finished") is not True or facts.get("incomplete") != 0 or facts.get("filesystem") is None:
            return None
        return facts

    def volume(self, volume: Volume, filesystem: Filesystem) -> BaseVolume | None:
        """None if this volume was not there, or not the same, or not looked at to its end."""
        facts = self._place(volume)
        if facts is None or facts.get("finished") is not True:
            return None
        now = (filesystem.kind, filesystem.uuid, filesystem.layout)
        if (facts.get("filesystem"), facts.get("uuid"), facts.get("layout")) != now:
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


def same_volumes(old: Reader, new: Reader) -> list[tuple[int, int]]:
    """(number in `old`, number in `new`) of volumes that are the same: by the filesystem's UUID, else by their place.

    Raises `ConfigError` if there is no such pair.
    """
    before = [_dict_in(one) for one in _list_in(old.facts.get("volumes"), MAX_VOLUMES)]
    after = [_dict_in(one) for one in _list_in(new.facts.get("volumes"), MAX_VOLUMES)]
    pairs = []
    for alike in (lambda one: one.get("uuid") or None, lambda one: (one.get("disk"), one.get("start"))):
        for facts in after:
            twin = next((one for one in before if alike(facts) is not None and alike(one) == alike(facts)), None)
            if twin is not None:
                pairs.append((int_in(twin.get("index")), int_in(facts.get("index"))))
                before.remove(twin)
                facts["uuid"] = facts["disk"] = None
    if not pairs:
        raise ConfigError("no volume of the one is also in the other: these are two machines")
    return sorted(pairs, key=lambda pair: pair[1])


def _dict_in(value: object) -> Message:
    if not isinstance(value, dict):
        raise Corrupt("its facts are not of the agreed form")
    return value


def _list_in(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Corrupt("its facts are not of the agreed form")
    return value
