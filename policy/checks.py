"""Checks of single settings. Each returns its value or raises `ValueError` with words for the author."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Final
from zoneinfo import available_timezones

from cronsim import CronSim, CronSimError

from core.text import printable

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_PORTS = re.compile(r"(?:tcp|udp)/([0-9]{1,5})(?:-([0-9]{1,5}))?")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\/*?.]")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"(?:usb|pci):[0-9a-f]{4}:(?:[0-9a-f]{4}|\*)")
NEVER = "never"
MOST_STARS: Final = 32  # in one pattern


def nearest(word: str, words: object) -> str:
    """` did you mean ...?`, or nothing."""
    known = [str(one) for one in words] if isinstance(words, (list, tuple, set, frozenset, dict)) else []
    close = get_close_matches(word[:100], known, 1, 0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def scans(count: int) -> int:
    """How many scans may run at once. 0 would let each of them wait for ever, and nobody would be told."""
    if count < 1:
        raise ValueError("must be at least 1; to scan nothing, say `protection.mode: none` and why")
    return count


def cron(text: str) -> str:
    """Five fields: minute, hour, day, month, weekday. It must come true some day."""
    if len(text) > 200 or len(text.split()) != 5:
        raise ValueError("is no cron expression: five fields, minute hour day month weekday, like `30 2 * * sun`")
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"is no cron expression: {printable(str(error)).lower()}") from None
    except StopIteration:
        raise ValueError("is a cron expression that never comes true") from None
    return text


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def time_zone(text: str) -> str:
    if text not in _zones():
        raise ValueError(f"is no time zone, such as Europe/Berlin or UTC{nearest(text, _zones())}")
    return text


def clock(text: str) -> str:
    if not _CLOCK.fullmatch(text):
        raise ValueError("is no time of day, such as 22:00 (quote it)")
    return text


def absolute(text: str) -> str:
    """A path pattern of Linux or Windows."""
    if not text.startswith(("/", "**/")) and not _WINDOWS_PATH.match(text):
        raise ValueError("is no absolute path, such as /var/cache/** or C:\\Temp\\*")
    if ".." in re.split(r"[\\/]", text):
        raise ValueError("steps up with `..`: write where it leads")
    return _not_everything(text.partition(":")[2] if ":" in text[:2] else text, text)


def rule_pattern(text: str) -> str:
    return _not_everything(text, text)


def _not_everything(pattern: str, text: str) -> str:
    if not pattern.strip("/\\*?"):
        raise ValueError("leaves everything out; use protection.mode: none, which says why")
    if pattern.count("*") > MOST_STARS:  # it is compared with hostile paths, in time proportional to both
        raise ValueError(f"has more than {MOST_STARS} stars; write several patterns")
    return text


def sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("is no SHA-256: 64 hex digits in lower case")
    return text


def network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"is no network, such as 192.0.2.0/24 or 2001:db8::/32 ({error})") from None
    return text


def ports(text: str) -> str:
    found = _PORTS.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2] or found[1]) <= 65535:
        raise ValueError("is no port, such as tcp/443 or udp/8000-8010")
    return text


def device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise ValueError("is no device: bus:vendor:product in lower case hex, such as usb:0781:5581 or usb:0781:*")
    return text


def moment(text: str) -> str:
    """A date (its whole day, UTC) or a time with an offset."""
    end_of(text)
    return text


def moment_or_never(text: str) -> str:
    return text if text == NEVER else moment(text)


def end_of(text: str) -> datetime:
    """When it is over; of a date, the end of that day in UTC."""
    return start_of(text) + (timedelta(days=1) if len(text) == 10 else timedelta())


def start_of(text: str) -> datetime:
    """When it begins; of a date, midnight in UTC. Raises `ValueError`."""
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            if day.year < 9999:
                return datetime.combine(day, time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or found.year in {1, 9999}:
        raise ValueError("is no time: a date like 2027-01-31, or a time with its offset like 2027-01-31T18:00+01:00")
    return found.astimezone(UTC)
