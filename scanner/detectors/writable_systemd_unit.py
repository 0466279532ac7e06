"""systemd units that everyone may change, and unit directories that take new units from everyone: systemd.unit(5)."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from core.files import FileEntry
from core.findings import Finding, Gap, InFile, Rule, Severity

RULE = Rule(
    "linux/writable-systemd-unit",
    "systemd unit that everyone may change",
    Severity.HIGH,
    "`chmod o-w FILE`, compare the unit with the package's own (`systemd-delta`, `dpkg -V`, `rpm -V`).",
)

_FOLDERS = (b"/etc/systemd/", b"/usr/lib/systemd/", b"/lib/systemd/", b"/usr/local/lib/systemd/", b"/run/systemd/")
_UNITS = (
    b".service",
    b".socket",
    b".timer",
    b".path",
    b".mount",
    b".automount",
    b".swap",
    b".target",
    b".slice",
    b".conf",  # drop-ins, and systemd's own settings
)


class WritableSystemdUnit:
    """One finding per file or directory. Symbolic links have no mode of their own and are left alone."""

    name = "writable_systemd_unit"
    content_only = False

    def wants(self, file: FileEntry) -> bool:
        if not (file.path + b"/").startswith(_FOLDERS):
            return False
        return stat.S_ISDIR(file.mode) or (stat.S_ISREG(file.mode) and file.path.endswith(_UNITS))

    def inspect(self, file: FileEntry) -> Iterator[Finding | Gap]:
        if file.mode & stat.S_IWOTH:
            evidence = {"mode": f"{stat.S_IMODE(file.mode):04o}", "uid": file.uid, "gid": file.gid}
            yield Finding(RULE, InFile.of(file), evidence=evidence)
