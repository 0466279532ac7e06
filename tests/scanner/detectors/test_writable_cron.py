from __future__ import annotations

import stat

import pytest

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.writable_cron import WritableCron

REG, DIR = stat.S_IFREG, stat.S_IFDIR
EVERYONE = "writable by everyone"


@pytest.mark.parametrize(
    ("path", "mode", "uid", "gid", "problems"),
    [
        pytest.param(b"/etc/crontab", REG | 0o644, 0, 0, [], id="crontab-as-shipped"),
        pytest.param(b"/etc/crontab", REG | 0o646, 0, 0, [EVERYONE], id="crontab-world-writable"),
        pytest.param(b"/etc/crontab", REG | 0o664, 0, 0, [], id="group-root-may-write"),
        pytest.param(b"/etc/cron.d/job", REG | 0o664, 0, 50, ["writable by group 50"], id="other-group-may-write"),
        pytest.param(b"/etc/cron.daily/job", REG | 0o755, 1000, 0, ["owned by user 1000"], id="owned-by-a-user"),
        pytest.param(
            b"/etc/anacrontab", REG | 0o666, 5, 5, [EVERYONE, "writable by group 5", "owned by user 5"], id="all"
        ),
        pytest.param(b"/etc/cron.d", DIR | 0o757, 0, 0, [EVERYONE], id="directory"),
        pytest.param(b"/etc/cron.d", DIR | 0o1777, 0, 0, [EVERYONE], id="sticky-directory-takes-new-jobs"),
        pytest.param(b"/etc/cron.d", DIR | 0o1775, 0, 50, ["writable by group 50"], id="sticky-does-not-excuse-etc"),
        pytest.param(b"/var/spool/cron/crontabs", DIR | 0o1730, 0, 105, [], id="debian-spool"),
        pytest.param(b"/var/spool/cron/atjobs", DIR | 0o1770, 1, 1, [], id="debian-at"),
        pytest.param(b"/var/spool/cron/crontabs/al", REG | 0o600, 1000, 105, [], id="users-own-table"),
        pytest.param(b"/var/spool/cron/crontabs/root", REG | 0o602, 0, 105, [EVERYONE], id="roots-table"),
        pytest.param(b"/var/spool/cron/root", REG | 0o620, 0, 9, ["writable by group 9"], id="red-hat-spool"),
        pytest.param(b"/var/spool/cron", DIR | 0o770, 0, 9, ["writable by group 9"], id="spool-not-sticky"),
    ],
)
def test_modes(path: bytes, mode: int, uid: int, gid: int, problems: list[str]) -> None:
    file = MemoryFile(path, mode=mode, uid=uid, gid=gid)
    assert WritableCron().wants(file)
    found = [one.evidence["problems"] for one in WritableCron().inspect(file) if isinstance(one, Finding)]
    assert found == ([problems] if problems else [])


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        pytest.param(b"/etc/cron.deny", REG | 0o666, id="not-a-job"),
        pytest.param(b"/etc/crontab.bak", REG | 0o666, id="backup"),
        pytest.param(b"/home/a/etc/crontab", REG | 0o666, id="elsewhere"),
        pytest.param(b"/var/spool/mail/a", REG | 0o666, id="mail"),
        pytest.param(b"/etc/cron.d\n", REG | 0o666, id="line-end-in-name"),
    ],
)
def test_not_wanted(path: bytes, mode: int) -> None:
    assert not WritableCron().wants(MemoryFile(path, mode=mode))


def test_names_with_line_ends_are_wanted() -> None:
    assert WritableCron().wants(MemoryFile(b"/etc/cron.d/a\nb", mode=REG | 0o666))
