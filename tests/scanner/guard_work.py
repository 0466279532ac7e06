"""What a parser does for a living, done after `lock_down`: all of it must go on working. Used by test_guards.py.

    python -I guard_work.py SOCKET DISK USER

SOCKET is its end of a socket pair, over which another disk arrives; DISK is open for reading. It prints one JSON object:
what was done, and "ok" or the error.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import google_crc32c
import yara
import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from scanner.guards import Limits, die_with_parent, lock_down
from scanner.guards.base import prctl

SOCKET, DISK, USER = (int(word) for word in sys.argv[1:4])
RING = mmap.mmap(-1, 1 << 20)
PACKED = zstandard.ZstdCompressor().compress(b"kumomori" * 1000)
BIG = 64 << 20
DEADLINE_SECONDS = 0.2


def reading() -> None:
    size = os.lseek(DISK, 0, os.SEEK_END)
    assert os.fstat(DISK).st_size == size
    assert os.pread(DISK, 8, 4096) == b"kumomori"
    os.posix_fadvise(DISK, 0, 0, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(8)
    assert os.preadv(DISK, [buffer], 4096) == 8
    for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
        with mmap.mmap(DISK, 0, flags, mmap.PROT_READ) as view:
            view.madvise(mmap.MADV_SEQUENTIAL)
            assert view[4096:4104] == b"kumomori"
    with open(DISK, "rb", closefd=False) as stream:
        stream.seek(4096)
        assert stream.read(8) == b"kumomori"


def digests() -> None:
    content = bytes(1 << 20)
    assert hashlib.sha256(content).hexdigest().startswith("30e14955")
    assert hashlib.new("md5", content, usedforsecurity=False).digest()
    assert zlib.crc32(content)
    assert google_crc32c.value(b"123456789") == 0xE3069283


def decompression() -> None:
    assert zlib.decompress(zlib.compress(b"kumomori" * 1000)) == b"kumomori" * 1000
    assert zstandard.ZstdDecompressor().decompress(PACKED) == b"kumomori" * 1000
    with zstandard.ZstdDecompressor().stream_reader(PACKED) as stream:
        assert stream.read(8) == b"kumomori"


def rules() -> None:
    compiled = yara.compile(source='rule a { strings: $a = "kumomori" $b = /m.r[io]{1,9}/ condition: all of them }')
    with mmap.mmap(DISK, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
        assert [match.rule for match in compiled.match(data=view, timeout=10)] == ["a"]


def memory() -> None:
    grown = bytearray()
    while len(grown) < BIG:
        grown += bytes(4 << 20)  # realloc, which is mremap
    assert len(sorted(os.urandom(200_000))) == 200_000


def threads() -> None:
    seen: list[int] = []
    group = [threading.Thread(target=lambda: seen.append(threading.get_native_id())) for _ in range(8)]
    for thread in group:
        thread.start()
    for thread in group:
        thread.join()
    assert len(seen) == 8


def workers() -> None:
    parser = os.getpid()
    pipes = [os.pipe() for _ in range(3)]
    children = []
    for reading_end, writing_end in pipes:
        child = os.fork()
        if child == 0:
            try:
                assert die_with_parent(parser).active
                os.close(reading_end)
                RING[:8] = b"from kid"
                rules()
                os.write(writing_end, b"frame" * 1000)
                os._exit(3)
            finally:  # also after an error: a child must not go on with the parser's work
                os._exit(4)
        os.close(writing_end)
        children.append(child)
    poll = select.poll()
    for reading_end, _ in pipes:
        poll.register(reading_end, select.POLLIN)
    assert poll.poll(10_000)
    ends = [reading_end for reading_end, _ in pipes]
    assert select.select(ends, [], [], 10)[0]
    for end in ends:
        with os.fdopen(end, "rb") as stream:
            assert stream.read() == b"frame" * 1000
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [3, 3, 3]
    assert RING[:8] == b"from kid"


def deadline() -> None:
    """The alarm ends a worker that is stuck."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS)
        while True:
            sum(range(10_000))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


def crash() -> None:
    """A worker that aborts or faults is gone, with a signal as its status."""
    faults: tuple[Callable[[], object], ...] = (os.abort, partial(ctypes.string_at, 0))
    for crashing in faults:
        child = os.fork()
        if child == 0:
            crashing()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


def received() -> None:
    """A disk that arrives over the socket."""
    with socket.socket(fileno=os.dup(SOCKET)) as parent:
        parent.settimeout(10)
        parent.sendall(b"more")
        word, handles, _, _ = socket.recv_fds(parent, 16, 4)
        assert word == b"disk"
        assert len(handles) == 1
    assert os.fstat(handles[0]).st_size == os.lseek(handles[0], 0, os.SEEK_END) == 8192
    with mmap.mmap(handles[0], 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        assert view[:7] == b"arrived"
    os.close(handles[0])


def clocks() -> None:
    started = time.monotonic()
    time.sleep(0.01)
    assert time.monotonic() > started
    assert time.process_time()
    assert len(time.strftime("%Y", time.localtime())) == 4


def traceback_of_an_error() -> None:
    child = os.fork()
    if child == 0:
        os.dup2(RING_LOG, 2)
        sys.excepthook(ValueError, ValueError("shown"), None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.pread(RING_LOG, 100, 0) == b"ValueError: shown\n"


WORK: tuple[Callable[[], None], ...] = (
    *(reading, digests, decompression, rules, memory, threads, workers),
    *(deadline, crash, received, clocks, traceback_of_an_error),
)
with tempfile.TemporaryFile() as log:
    RING_LOG = os.dup(log.fileno())


def main() -> None:
    if USER:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        prctl(4, 1)
    guards = lock_down(Limits(memory_bytes=512 << 20, cpu_seconds=60), parent_pid=os.getppid())
    outcome: dict[str, object] = {"guards": {guard.name: guard.detail for guard in guards if not guard.active}}
    for piece in WORK:
        try:
            piece()
        except (OSError, MemoryError, AssertionError, yara.Error, subprocess.SubprocessError) as error:
            outcome[piece.__name__] = repr(error)
        else:
            outcome[piece.__name__] = "ok"
    sys.stdout.write(json.dumps(outcome))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
