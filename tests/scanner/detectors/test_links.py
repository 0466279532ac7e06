"""Settings behind symbolic links: programs follow them, the checks do not, and say so."""

from __future__ import annotations

import stat

import pytest

from core.files import MemoryFile
from core.findings import Detector, Gap, GapReason, InFile
from scanner.detectors.authorized_keys import AuthorizedKeys
from scanner.detectors.empty_password import EmptyPassword
from scanner.detectors.ld_preload import LdPreload
from scanner.detectors.second_root import SecondRoot
from scanner.detectors.writable_cron import WritableCron


@pytest.mark.parametrize(
    ("detector", "path"),
    [
        pytest.param(EmptyPassword(), b"/etc/shadow", id="shadow"),
        pytest.param(SecondRoot(), b"/etc/passwd", id="passwd"),
        pytest.param(LdPreload(), b"/etc/ld.so.preload", id="preload"),
        pytest.param(WritableCron(), b"/etc/cron.d", id="folder-of-jobs"),
        pytest.param(WritableCron(), b"/etc/cron.daily/job", id="job"),
        pytest.param(AuthorizedKeys(), b"/var/www/.ssh/authorized_keys", id="keys"),
    ],
)
def test_a_link_is_a_gap(detector: Detector, path: bytes) -> None:
    link = MemoryFile(path, b"/elsewhere", mode=stat.S_IFLNK | 0o777)
    assert detector.wants(link)
    (gap,) = detector.inspect(link)
    assert isinstance(gap, Gap)
    assert (gap.where, gap.reason) == (InFile(0, path), GapReason.UNSUPPORTED_FEATURE)
