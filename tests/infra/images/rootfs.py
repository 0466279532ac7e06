"""Runs a program in an image's root filesystem: as its user, read-only, without capabilities or new privileges, by util-linux alone.

No engine is needed, only root. `/proc`, `/dev`, `/tmp` and the data folder are what an engine would give; the network is the machine's.
The program is the first process of its own process namespace, as in a container: once it is gone, so are all that it started, and the
mounts with them.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = 10001
_END_SECONDS = 30.0
_SETUP = r"""
set -eu
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root/var/lib/kumomori"
exec "$@"
"""
# As engines do it. After chroot the kernel gives no user namespace.
_PIVOT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def done(code):
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
os.chdir(sys.argv[1])
done(libc.pivot_root(b".", b"."))  # pivot_root(2), NOTES: the old root lies over the new one until it is taken away
done(libc.umount2(b".", 2))  # MNT_DETACH
os.chdir("/")
os.execv(sys.argv[2], sys.argv[2:])
"""
# setpriv asks for the signal anew: the kernel forgets what unshare asked for when the user changes (PR_SET_PDEATHSIG)
_USER = [
    "/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
    "--pdeathsig=KILL", "/usr/bin/env", "-i",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """What is in it (`root`), and what its configuration says. https://github.com/opencontainers/image-spec/blob/main/config.md"""

    root: Path
    entry: Sequence[str]
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    user: str
    stop_signal: str

    @classmethod
    def of(cls, archive: Path, root: Path) -> Image:
        """The only one in an OCI archive, and where it is mounted."""
        with tarfile.open(archive) as tar:
            manifest = _blob(tar, _member(tar, "index.json")["manifests"][0])
            said = _blob(tar, manifest["config"])["config"]
        environment = dict(one.split("=", 1) for one in said["Env"])
        return cls(
            root,
            said.get("Entrypoint") or [],
            said.get("Cmd") or [],
            environment,
            said["WorkingDir"],
            said["User"],
            said.get("StopSignal", ""),
        )


def _blob(tar: tarfile.TarFile, descriptor: Mapping[str, str]) -> Any:
    return _member(tar, "blobs/" + descriptor["digest"].replace(":", "/"))


def _member(tar: tarfile.TarFile, name: str) -> Any:
    found = tar.extractfile(name)
    assert found is not None
    return json.load(found)


@contextmanager
def running(
    image: Image,
    data: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    entry: bool = True,
    namespaces: bool = True,
    **others: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """`unshare`, whose only child is the program, and whose exit code is the program's. After the block neither is there.

    `arguments` are the entry point's, or, without `entry`, all of the command line. Without `namespaces` the kernel refuses it new user
    namespaces, as it does where an engine's filter of system calls forbids them.
    """
    given = {**image.environment, **environment}
    inner = f"cd {image.folder} && exec {shlex.join([*(image.entry if entry else ()), *arguments])}"
    enter = [sys.executable, "-I", "-c", _PIVOT] if namespaces else ["chroot"]
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "sh", "-c", _SETUP, "sh", image.root, data,
         *enter, image.root, *_USER, *(f"{name}={value}" for name, value in given.items()), "sh", "-c", inner],
        stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}, **others,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            _kill(process)


def ran(
    image: Image,
    data: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    entry: bool = True,
    namespaces: bool = True,
    timeout_seconds: float = 120,
) -> tuple[int, str]:
    """Exit code, and what it printed. Raises `subprocess.TimeoutExpired`; the program is gone then, too."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(image, data, arguments, environment or {}, entry=entry, namespaces=namespaces, **pipes) as process:
        out, err = process.communicate(timeout=timeout_seconds)
    return process.returncode, out.decode() + err.decode()


def asked_to_end(process: subprocess.Popen[bytes]) -> int:
    """Sends the program SIGTERM once, as an engine does. Its exit code; raises `subprocess.TimeoutExpired`."""
    program = _program(process)
    assert program is not None
    os.kill(program, signal.SIGTERM)
    return process.wait(_END_SECONDS)


def left(root: Path) -> list[str]:
    """Processes in that root filesystem, and this machine's mounts below it."""
    inside = os.stat(root)
    found = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4].startswith(f"{root}")
    ]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if os.path.samestat(os.stat(folder / "root"), inside):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program by its number, not `unshare`: that ends by itself then. Before there is a program, it is waited for."""
    deadline = time.monotonic() + _END_SECONDS
    while process.poll() is None:
        if (program := _program(process)) is not None:
            with suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)
        if time.monotonic() > deadline:
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def _program(process: subprocess.Popen[bytes]) -> int | None:
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None
