"""Writing a report to a file so that it is there whole or not at all."""

from __future__ import annotations

import fcntl
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Self, TextIO

from core.errors import ConfigError
from core.text import printable

_HIDDEN = re.compile(r"\.kumomori-\w{8,16}\.tmp")
STDOUT = frozenset({"-", "/dev/stdout"})
_OPEN_FDS = "/proc/self/fd"


def check_target(path: Path, inputs: Collection[tuple[int, int]] = ()) -> None:
    """Raise `ConfigError` now for what `write_atomically` would refuse after a long scan.

    `inputs` are device and inode numbers of files that the report is about: it must never replace one of them.
    """
    if str(path) in STDOUT:
        return
    try:
        status = path.stat()
    except OSError:
        status = None  # nothing is there yet, or what is wrong with it is told below
    if status is not None and stat.S_ISBLK(status.st_mode):
        raise ConfigError(f"cannot write {_shown(path)}: it is a block device; give a file")
    if status is not None and (status.st_dev, status.st_ino) in inputs:
        raise ConfigError(f"cannot write {_shown(path)}: it is one of the files that are scanned; give another")
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ConfigError(f"cannot write {_shown(path)}: it is a folder")
    if _is_special(path):
        needed = path
    elif target.parent.is_dir():
        needed = target.parent
    else:
        raise ConfigError(f"cannot write {_shown(path)}: its folder does not exist")
    if not os.access(needed, os.W_OK):
        raise ConfigError(f"cannot write {_shown(path)}: permission denied")


def write_atomically(path: Path, write: Callable[[TextIO], None]) -> None:
    """Have `write` fill the file `path` (UTF-8), replacing an old one only when the new one is whole and on the disk.

    Killed at any moment, it leaves the old file or the new one. Where the filesystem can, the new file has no name until it
    is whole (`O_TMPFILE`); else it is a hidden file in the same folder, which an error removes. A symbolic link stays
    and what it points to is replaced. The mode is that of any new file (0666 less the umask). `-` and `/dev/stdout` are the
    standard output; pipes and devices are written to as they are.

    Raises `ConfigError` if the path is a folder or cannot be written, also for a full disk; what `write` raises goes on.
    """
    try:
        if str(path) in STDOUT:
            _to_stdout(write)
            return
        check_target(path)
        if _is_special(path):
            with path.open("w", encoding="utf-8") as stream:
                write(stream)
            return
        _replace(Path(os.path.realpath(path)), write)
    except OSError as error:
        raise ConfigError(f"cannot write {_shown(path)}: {error.strerror or error}") from error


def _to_stdout(write: Callable[[TextIO], None]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a Japanese file name on an ASCII terminal is no reason to die
    write(sys.stdout)
    sys.stdout.flush()


def _replace(target: Path, write: Callable[[TextIO], None]) -> None:
    with NewFile(target) as new:
        with os.fdopen(new.fd, "w", encoding="utf-8", errors="backslashreplace", newline="\n", closefd=False) as stream:
            write(stream)
        new.commit()


class NewFile:
    """A file being written to `fd`, which takes the place of `target` when it is whole (`commit`), or never.

    Where the filesystem can, it has no name until then; else, and for a moment in any case, since linkat(2) cannot replace
    a file, a hidden one. It is locked as long as its writer lives: the next one in this folder removes it if the
    writer was killed. Raises `OSError`.
    """

    def __init__(self, target: Path, mode: int = 0o666) -> None:
        remove_abandoned(target.parent)
        self._target = target
        # A name of its own, not made from the target's, which may already be as long as names can be.
        self._hidden = target.parent / f".kumomori-{secrets.token_hex(8)}.tmp"
        self.fd, self._named = _open_temporary(self._hidden, mode)

    def commit(self) -> None:
        os.fsync(self.fd)
        if not self._named:
            self._named = True
            _name(self.fd, self._hidden)
        self._hidden.replace(self._target)
        self._named = False
        _sync_folder(self._target.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._named:
            self._hidden.unlink(missing_ok=True)
        os.close(self.fd)


def remove_abandoned(folder: Path) -> None:
    """Remove hidden files whose writers were killed. What goes wrong is left to whoever writes next."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _HIDDEN.fullmatch(entry.name)]
    except OSError:
        return
    for path in found:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_uid == os.geteuid():
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                Path(path).unlink()
        except OSError:
            pass
        finally:
            os.close(fd)


def _open_temporary(hidden: Path, mode: int) -> tuple[int, bool]:
    """A file open for writing and locked, and whether it has the name `hidden` already."""
    if Path(_OPEN_FDS).is_dir():
        try:
            fd = os.open(hidden.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode)
        except OSError:
            pass  # NFS, overlayfs and others cannot: the way below works everywhere, and reports what is really wrong
        else:
            _lock(fd)
            return fd, False
    while True:
        fd = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, mode)
        _lock(fd)
        if os.fstat(fd).st_nlink:
            return fd, True
        os.close(fd)  # another one took it for abandoned before it was locked


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:
        pass  # a filesystem without locks: nobody can lock it there to remove it, either


def _name(fd: int, hidden: Path) -> None:
    """Give a file without a name the name `hidden`: linkat(2) with AT_SYMLINK_FOLLOW, as open(2) says for O_TMPFILE."""
    folder = os.open(hidden.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # only with a folder's descriptor does Python call linkat(2); link(2) would link the entry in /proc itself
        os.link(f"{_OPEN_FDS}/{fd}", hidden.name, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where the filesystem lets folders be synced."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network filesystems refuse; the file itself is whole and in place
    finally:
        os.close(fd)


def _is_special(path: Path) -> bool:
    """A pipe, socket or device: renaming a file over `/dev/null` would be a bad surprise."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _shown(path: Path) -> str:
    return printable(str(path))
