"""Runs a program in an image's root filesystem: as its user, read-only, without capabilities or new privileges, by util-linux alone.

No engine is needed, only root. `/proc`, `/dev`, `/tmp` and the data folder are what an engine would give; the network is the machine's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

USER = 10001
_SETUP = r"""
set -eu
root=$1 data=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$data" "$root/var/lib/kumomori"
exec chroot "$root" /usr/bin/setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  /usr/bin/env -i "$@"
"""


def started(
    root: Path, data: Path, command: Sequence[str], environment: Mapping[str, str], **others: Any
) -> subprocess.Popen[bytes]:
    """In namespaces of its own for mounts and processes: killing the process that is returned ends all of them."""
    given = {"PATH": "/opt/kumomori/bin:/usr/bin:/bin", "HOME": "/var/lib/kumomori", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **environment}  # fmt: skip
    inner = f"cd /var/lib/kumomori && exec {shlex.join(command)}"
    return subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "sh", "-c", _SETUP, "sh", root, data,
         *(f"{name}={value}" for name, value in given.items()), "sh", "-c", inner],
        stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}, **others,
    )  # fmt: skip


def ran(
    root: Path, data: Path, command: Sequence[str], environment: Mapping[str, str], timeout: float = 120
) -> tuple[int, str]:
    """Exit code, and what it printed."""
    process = started(root, data, command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return process.returncode, out.decode() + err.decode()
