from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import checks

GOOD = [
    (checks.cron, "0 1 * * *"),
    (checks.cron, "*/5 8-18 * * mon-fri"),
    (checks.cron, "0 0 29 2 *"),
    (checks.time_zone, "Europe/Berlin"),
    (checks.clock, "23:59"),
    (checks.rule_pattern, "linux/*"),
    (checks.sha256, "0" * 64),
    (checks.network, "2001:db8::/32"),
    (checks.network, "192.0.2.1"),
    (checks.ports, "tcp/443"),
    (checks.ports, "udp/8000-8010"),
    (checks.device, "usb:0781:*"),
    (checks.moment, "2027-01-31"),
    (checks.moment, "2027-01-31T18:00Z"),
    (checks.moment_or_never, "never"),
]
BAD = [
    (checks.cron, "0 1 * *", "five fields"),
    (checks.cron, "0 1 * * * *", "five fields"),
    (checks.cron, "0 1 * * xyz", "no cron expression"),
    (checks.cron, "60 1 * * *", "no cron expression"),
    (checks.cron, "0 0 31 2 *", "cron expression"),
    (checks.cron, "*," * 200 + "* * * * *", "no cron expression"),
    (checks.time_zone, "Europe/Berln", "did you mean `Europe/Berlin`"),
    (checks.time_zone, "../../etc/passwd", "no time zone"),
    (checks.clock, "24:00", "no time of day"),
    (checks.clock, "1:00", "no time of day"),
    (checks.rule_pattern, "**", "leaves everything out"),
    (checks.rule_pattern, "a" + "*a" * 33, "more than 32 stars"),
    (checks.sha256, "A" * 64, "no SHA-256"),
    (checks.sha256, "0" * 63, "no SHA-256"),
    (checks.network, "10.0.0.1/8", "no network"),
    (checks.network, "office", "no network"),
    (checks.ports, "443", "no port"),
    (checks.ports, "tcp/0", "no port"),
    (checks.ports, "tcp/20-10", "no port"),
    (checks.ports, "tcp/1-65536", "no port"),
    (checks.device, "usb:0781", "no device"),
    (checks.device, "usb:*:5581", "no device"),
    (checks.moment, "2027-02-30", "no time"),
    (checks.moment, "2027-01-31T18:00", "no time"),
    (checks.moment, "9999-12-31", "no time"),
    (checks.moment, "0001-01-01T00:00+14:00", "no time"),
    (checks.moment, "never", "no time"),
    (checks.moment_or_never, "Never", "no time"),
]


@pytest.mark.parametrize(("check", "text"), GOOD)
def test_good(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(("check", "text", "words"), BAD)
def test_bad(check: Callable[[str], str], text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", "\\(")):
        check(text)


def test_a_day_is_meant_to_its_end() -> None:
    assert checks.start_of("2027-01-31") == datetime(2027, 1, 31, tzinfo=UTC)
    assert checks.end_of("2027-01-31") == datetime(2027, 2, 1, tzinfo=UTC)
    assert checks.end_of("2027-01-31T18:00+01:00") == datetime(2027, 1, 31, 17, tzinfo=UTC)


def test_the_nearest_word() -> None:
    assert checks.nearest("shedule", ["schedule", "depth"]) == "; did you mean `schedule`?"
    assert checks.nearest("x" * 100_000, ["schedule"]) == ""
    assert checks.nearest("schedule", None) == ""


@pytest.mark.parametrize("check", list(dict.fromkeys(check for check, _ in GOOD)))
def test_any_text_is_the_same_or_refused(check: Callable[[str], str]) -> None:
    @given(st.one_of(st.text(max_size=80), st.text(alphabet="0123456789*/-,:.TZ+ aAmon", max_size=40)))
    def any_text(text: str) -> None:
        try:
            assert check(text) == text
        except ValueError as error:
            assert str(error)

    any_text()
