"""Writing a report to a file so that it is there whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TextIO

from core.errors import ConfigError
from core.text import printable

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
    # A name of its own, not made from the target's, which may already be as long as names can be.
    hidden = target.parent / f".kumomori-{secrets.token_hex(8)}.tmp"
    fd, named = _open_temporary(hidden)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            write(stream)
            stream.flush()
            os.fsync(fd)
            if not named:
                _name(fd, hidden)  # linkat(2) cannot replace a file, so a hidden name comes between
        hidden.replace(target)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _open_temporary(hidden: Path) -> tuple[int, bool]:
    """A file open for writing, and whether it has the name `hidden` already."""
    if Path(_OPEN_FDS).is_dir():
        try:
            return os.open(hidden.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666), False
        except OSError:
            pass  # NFS, overlayfs and others cannot: the way below works everywhere, and reports what is really wrong
    return os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o666), True


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
