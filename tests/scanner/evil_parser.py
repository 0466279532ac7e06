"""A parser process that misbehaves: what a disk that took it over could make it do.

Run as `python -c "import sys; sys.path[:0] = [ROOT]; from tests.scanner import evil_parser; evil_parser.main(WHERE, ACT)"
SOCKET PARENT`. `WHERE` is the moment, `ACT` what happens then. All the rest is the real parser.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from unittest import mock

import yara

from core.blocks import BlockSource
from core.files import FileEntry
from core.findings import Detector, Finding, Gap
from scanner import parser, workers
from scanner.detectors import DetectorOptions, make_detectors
from scanner.engine import Engine
from scanner.filesystems import FILESYSTEMS, Filesystem
from scanner.wire import BLOCK_HEAD, dump, frame

TARGET = b"/etc/hostname"
GRACE_SECONDS = 0.5
FINDING = {"rule": ["evil/rule", "t", "high", "r"], "where": ["file", 0, "/x"], "subject": "", "evidence": {}}
GAP = {"where": ["machine"], "reason": "limit", "detail": "made up", "count": 1}
SHAPES: dict[str, bytes] = {
    "not-json": b"{",
    "not-utf8": b"\xff\xfe",
    "a-list": b"[]",
    "no-kind-known": b'{"kind":"surprise"}',
    "kind-is-a-list": b'{"kind":[1]}',
    "findings-number": b'{"findings":5}',
    "findings-strings": b'{"findings":["x"]}',
    "finding-on-volume": dump({"findings": [FINDING | {"where": ["volume", 0]}]}),
    "finding-severity": dump({"findings": [FINDING | {"rule": ["a", "b", "worse", "d"]}]}),
    "finding-long-id": dump({"findings": [FINDING | {"rule": ["a" * 2000, "b", "high", "d"]}]}),
    "gap-reason": dump({"gaps": [GAP | {"reason": "bored"}]}),
    "gap-reason-list": dump({"gaps": [GAP | {"reason": []}]}),
    "gap-count-text": dump({"gaps": [GAP | {"count": "1"}]}),
    "gap-volume-huge": dump({"gaps": [GAP | {"where": ["volume", 1 << 60]}]}),
    "gap-path-surrogate": b'{"gaps":[{"where":["file",0,"\\ud800"],"reason":"limit","detail":"","count":1}]}',
    "counts-short": b'{"counts":[[1]]}',
    "counts-unknown-volume": b'{"counts":[[77,1,1,1,0,0,0,0,0,0,0,0]]}',
    "counts-negative": b'{"counts":[[0,-1,1,1,0,0,0,0,0,0,0,0]]}',
    "counts-too-many": b'{"counts":[[0,1,1,1,0,0,0,0,0,0,0,0,0]]}',
    "changes-number": b'{"changes":[5]}',
    "rows-number": b'{"rows":[5]}',
    "volume-no-keys": b'{"kind":"volume"}',
    "volume-other-disk": b'{"kind":"volume","index":0,"disk":1,"table":"","start":0,"length":0,"filesystem":null,'
    b'"label":"","uuid":"","layout":"","replayed":[],"base_rows":null}',
    "volume-huge-index": b'{"kind":"volume","index":99999,"disk":0,"table":"","start":0,"length":0,"filesystem":null,'
    b'"label":"","uuid":"","layout":"","replayed":[],"base_rows":null}',
    "volume-replayed": b'{"kind":"volume","index":0,"disk":0,"table":"","start":0,"length":0,"filesystem":null,'
    b'"label":"","uuid":"","layout":"","replayed":[[1]],"base_rows":null}',
    "rules-twice": b'{"kind":"rules","count":1,"names_matter":false,"engine":"","options":"","rules":{},"ids":[]}',
    "death-nowhere": b'{"kind":"death","volume":99,"crashed":true}',
    "working-nowhere": b'{"kind":"working","volume":-1}',
    "finished-unknown": b'{"kind":"finished","volume":99}',
    "disks-text": b'{"kind":"disks","sizes":"big"}',
    "disks-true": b'{"kind":"disks","sizes":[true]}',
    "progress-text": b'{"kind":"progress","files":"1","bytes":1,"done":1,"all":1}',
    "ready-no-guards": b'{"kind":"ready"}',
    "open-other-disk": b'{"kind":"open","disk":7,"name":"x","old":false}',
    "open-no-name": b'{"kind":"open","disk":0}',
    "open-old-disk": b'{"kind":"open","disk":0,"name":"x","old":true}',
    "refused-late": b'{"kind":"refused","message":"please stop"}',
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long-number": b'{"kind":"progress","files":' + b"9" * 10_000 + b"}",
}


ANSWERS = ("finding", "gap", "counts", "rows", "changes")  # what comes from workers, in frames of their own
RAW_ANSWERS: dict[str, bytes] = {
    "empty": b"",
    "cut-short": struct.pack("<II", 100, 0) + b"{}",
    "no-json": struct.pack("<II", 0, 0),
    "rows-of-nowhere": struct.pack("<II", 2, 0) + b"{}" + BLOCK_HEAD.pack(77, 1, 2, 1, 1) + b"x",
    "rows-cut-short": struct.pack("<II", 2, 0) + b"{}" + BLOCK_HEAD.pack(0, 1, 2, 1, 1000) + b"x",
    "rows-backwards": struct.pack("<II", 2, 0) + b"{}" + BLOCK_HEAD.pack(0, 9, 2, 1, 1) + b"x",
    "rows-too-many": struct.pack("<II", 2, 0) + b"{}" + BLOCK_HEAD.pack(0, 1, 2, 1 << 30, 1) + b"x",
    "rows-no-head": struct.pack("<II", 2, 0) + b"{}xyz",
    "verdict-cut-short": struct.pack("<II", 2, 44) + b"{}" + bytes(40) + b"\xff\0\0\0",
    "verdict-no-json": struct.pack("<II", 2, 46) + b"{}" + bytes(40) + b"\2\0\0\0xx",
    "verdict-no-finding": struct.pack("<II", 2, 66) + b"{}" + bytes(40) + b"\x16\0\0\0" + b'{"findings":[["a",5]]}',
}


def piece_of(raw: bytes) -> bytes:
    return struct.pack("<II", len(raw), 0) + raw


def _answer(raw: bytes) -> bytes:
    return frame(b"A", piece_of(raw))


def _connection() -> socket.socket:
    return socket.socket(fileno=int(sys.argv[1]))


def _say(raw: bytes) -> None:
    _connection().sendall(raw)
    time.sleep(60)


def _say_for_ever(message: Callable[[int], bytes]) -> None:
    connection = _connection()
    number = 0
    while True:
        raw = message(number)
        connection.sendall(frame(b"J", raw) if raw.startswith(b'{"kind"') else _answer(raw))
        number += 1


def _hang_up() -> None:
    _connection().shutdown(socket.SHUT_RDWR)
    time.sleep(60)


def _loop() -> None:
    while True:
        pass


def _eat() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def _fork_and_exit() -> None:
    for _ in range(4):
        if os.fork() == 0:
            _connection().detach()
            time.sleep(60)
    os._exit(9)


def _raise() -> None:
    raise ZeroDivisionError("on purpose")


def _recurse() -> None:
    _recurse()


def _many_findings(number: int) -> bytes:
    return dump({"findings": [FINDING | {"subject": f"{number}.{one}"} for one in range(1000)]})


def _many_gaps(number: int) -> bytes:
    return dump({"gaps": [GAP | {"where": ["file", 0, f"/{number}/{one}"]} for one in range(1000)]})


def _volume_gaps() -> None:
    """More gaps of one kind than are listed one by one, then one of another kind."""
    connection = _connection()
    gaps = [GAP | {"where": ["volume", 0], "reason": "corrupt", "detail": str(number)} for number in range(1500)]
    for gap in [*gaps, GAP | {"where": ["volume", 0], "reason": "encrypted"}]:
        connection.sendall(frame(b"J", dump({"kind": "gap", "gap": gap})))
    connection.detach()


def _time_out() -> None:
    raise yara.TimeoutError


def _ask_for_blocks() -> None:
    """Ask for blocks in words that are none, on every socket that is there for it."""
    for fd in range(3, 256):
        try:
            one = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if one.type == socket.SOCK_SEQPACKET:
            with suppress(OSError):  # the other end may have been closed by what was sent before
                one.send(b"blocks, please")
    time.sleep(30)


def _replayed(number: int) -> bytes:
    volume = {"kind": "volume", "index": number, "disk": 0, "table": "", "start": 0, "length": 0, "filesystem": None}
    return dump(volume | {"label": "", "uuid": "", "layout": "", "replayed": [[1, 1]] * 1_000_000, "base_rows": None})


ACTS: dict[str, Callable[[], object]] = {
    "volume-gaps": _volume_gaps,
    "timeout": _time_out,
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(7),
    "exit-0": lambda: os._exit(0),
    "raise": _raise,
    "recurse": _recurse,
    "loop": _loop,
    "sleep": lambda: time.sleep(600),
    "eat": _eat,
    "fork-and-exit": _fork_and_exit,
    "hang-up": _hang_up,
    "ask-for-blocks": _ask_for_blocks,
    "garbage": lambda: _say(os.urandom(10_000).translate(bytes.maketrans(b"JDA", b"xxx"))),
    "oversize": lambda: _say(struct.pack(">cI", b"J", 0xFFFFFFFF)),
    "early-done": lambda: _say(frame(b"J", b'{"kind":"done","bytes_read":0}')),
    "findings": lambda: _say_for_ever(_many_findings),
    "big-findings": lambda: _say_for_ever(
        lambda number: dump({"findings": [FINDING | {"evidence": {"a": "x" * (8 << 20), "n": number}}]})
    ),
    "gaps": lambda: _say_for_ever(_many_gaps),
    "big-gaps": lambda: _say_for_ever(
        lambda number: dump({"gaps": [GAP | {"where": ["volume", number % 4096], "detail": "x" * (1 << 20)}]})
    ),
    "replayed": lambda: _say_for_ever(_replayed),
    "wishes": lambda: _say_for_ever(lambda number: dump({"kind": "open", "disk": 0, "name": "../x"})),
    "own-disk": lambda: _say_for_ever(lambda number: dump({"kind": "open", "disk": 0, "name": "disk.img"})),
    "progress": lambda: _say_for_ever(
        lambda number: json.dumps({"kind": "progress", "files": number, "bytes": 0, "done": 0, "all": 0}).encode()
    ),
    **{
        f"shape-{name}": lambda raw=raw, name=name: _say(  # type: ignore[misc]
            _answer(raw) if name.startswith(ANSWERS) else frame(b"J", raw)
        )
        for name, raw in SHAPES.items()
    },
    **{f"answer-{name}": lambda raw=raw: _say(frame(b"A", raw)) for name, raw in RAW_ANSWERS.items()},  # type: ignore[misc]
}


class _EvilDetector:
    name = "evil"
    content_only = False

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def wants(self, file: FileEntry) -> bool:
        return file.path == TARGET and file.volume == 0

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        self._act()
        yield from ()


class _EvilReader:
    name = "evil"

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def probe(self, source: BlockSource) -> bool:
        return FILESYSTEMS[0].probe(source)

    def open(self, source: BlockSource, volume: int) -> Filesystem:
        if volume == 0:
            self._act()
        return FILESYSTEMS[0].open(source, volume)


def main(where: str, act: str) -> None:
    """`where`: `start`, `index` (of volume 0), `file` (`TARGET` on volume 0, in a worker), `judge` or `coordinate`."""
    does = ACTS[act]
    patches: list[mock._patch[object]] = [mock.patch.object(parser, "_GRACE_SECONDS", GRACE_SECONDS)]
    if where == "start":
        does()
    elif where == "index":
        patches.append(mock.patch.object(parser, "FILESYSTEMS", (_EvilReader(does),)))
    elif where == "file":

        def detectors(options: DetectorOptions) -> Sequence[Detector]:
            return (*make_detectors(options), _EvilDetector(does))

        patches.append(mock.patch.object(parser, "make_detectors", detectors))
    elif where == "judge":
        patches.append(mock.patch.object(Engine, "match", lambda *_args, **_named: does()))
    elif where == "coordinate":
        real = workers.Pool.run

        def run(pool: workers.Pool) -> Iterator[bytes | workers.Death]:
            for answer in real(pool):
                yield answer
                does()

        patches.append(mock.patch.object(workers.Pool, "run", run))
    for patch in patches:
        patch.start()
    os._exit(parser.main())
