"""One file per detector, and the one list of them. Adding one: docs/adding-a-detector.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.findings import Detector
from scanner.detectors.apk_packages import ApkPackages
from scanner.detectors.authorized_keys import RULE as AUTHORIZED_KEYS
from scanner.detectors.authorized_keys import AuthorizedKeys
from scanner.detectors.deleted_executable import RULE as DELETED_EXECUTABLE
from scanner.detectors.deleted_executable import DeletedExecutable
from scanner.detectors.dpkg_packages import DpkgPackages
from scanner.detectors.empty_password import RULE as EMPTY_PASSWORD
from scanner.detectors.empty_password import EmptyPassword
from scanner.detectors.ld_preload import RULE as LD_PRELOAD
from scanner.detectors.ld_preload import LdPreload
from scanner.detectors.malware import Malware, rule_id
from scanner.detectors.os_release import OsRelease
from scanner.detectors.second_root import RULE as SECOND_ROOT
from scanner.detectors.second_root import SecondRoot
from scanner.detectors.writable_cron import RULE as WRITABLE_CRON
from scanner.detectors.writable_cron import WritableCron
from scanner.detectors.writable_systemd_unit import RULE as WRITABLE_SYSTEMD_UNIT
from scanner.detectors.writable_systemd_unit import WritableSystemdUnit
from scanner.engine import Engine

_RULES: Final = (
    AUTHORIZED_KEYS,
    DELETED_EXECUTABLE,
    EMPTY_PASSWORD,
    LD_PRELOAD,
    SECOND_ROOT,
    WRITABLE_CRON,
    WRITABLE_SYSTEMD_UNIT,
)


@dataclass(frozen=True)
class DetectorOptions:
    """`rules` come from `malware.compile_rules`. `file_timeout_seconds` is for one file and one detector."""

    rules: Engine
    max_file_bytes: int = 256 << 20
    file_timeout_seconds: int = 60


def rule_ids(rules: Engine) -> frozenset[str]:
    """Of all that the detectors may find: what is not among them was not looked for."""
    return frozenset(rule.id for rule in _RULES) | {rule_id(one.identifier, one.meta) for one in rules}


def make_detectors(options: DetectorOptions) -> tuple[Detector, ...]:
    """Every detector, in the order in which a file meets them."""
    return (
        Malware(
            options.rules,
            max_file_bytes=options.max_file_bytes,
            timeout_seconds=options.file_timeout_seconds,
        ),
        ApkPackages(),
        AuthorizedKeys(),
        DeletedExecutable(),
        DpkgPackages(),
        EmptyPassword(),
        LdPreload(),
        OsRelease(),
        SecondRoot(),
        WritableCron(),
        WritableSystemdUnit(),
    )
