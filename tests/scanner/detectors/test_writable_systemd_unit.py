from __future__ import annotations

import stat

import pytest

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.writable_systemd_unit import WritableSystemdUnit

REG, DIR, LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK


@pytest.mark.parametrize(
    ("path", "mode", "wanted", "found"),
    [
        pytest.param(b"/etc/systemd/system/a.service", REG | 0o644, True, False, id="as-shipped"),
        pytest.param(b"/etc/systemd/system/a.service", REG | 0o666, True, True, id="service"),
        pytest.param(b"/lib/systemd/system/a.timer", REG | 0o646, True, True, id="timer"),
        pytest.param(b"/usr/lib/systemd/user/a.socket", REG | 0o602, True, True, id="user-socket"),
        pytest.param(b"/etc/systemd/system/a.service.d/b.conf", REG | 0o666, True, True, id="drop-in"),
        pytest.param(b"/etc/systemd/system/a.service.d", DIR | 0o777, True, True, id="drop-in-directory"),
        pytest.param(b"/etc/systemd/system", DIR | 0o1777, True, True, id="sticky-directory-takes-new-units"),
        pytest.param(b"/etc/systemd", DIR | 0o777, True, True, id="top-directory"),
        pytest.param(b"/etc/systemd/system", DIR | 0o775, True, False, id="group-writable"),
        pytest.param(b"/etc/systemd/system/a.service", LNK | 0o777, False, False, id="link"),
        pytest.param(b"/usr/lib/systemd/systemd", REG | 0o777, False, False, id="not-a-unit"),
        pytest.param(b"/etc/systemd2/a.service", REG | 0o666, False, False, id="look-alike"),
        pytest.param(b"/home/a/a.service", REG | 0o666, False, False, id="elsewhere"),
    ],
)
def test_units(path: bytes, mode: int, wanted: bool, found: bool) -> None:
    file = MemoryFile(path, mode=mode)
    assert WritableSystemdUnit().wants(file) is wanted
    if wanted:
        findings = list(WritableSystemdUnit().inspect(file))
        assert bool(findings) is found
        assert all(isinstance(one, Finding) for one in findings)
