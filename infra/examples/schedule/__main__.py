"""Scans at night, and of production in the week of a release every six hours."""

from infra.console import Policy, Schedule

company = Policy("company", settings={"scan": {"at_launch": True}})
Schedule(
    "nightly",
    parent=company,
    cron="0 22 * * *",
    time_zone="Europe/Berlin",
    spread_seconds=4 * 3600,
    window={"start": "22:00", "end": "05:00", "time_zone": "Europe/Berlin"},
)
Schedule(
    "release-week",
    parent=company,
    when={"tags": {"env": "production"}},
    may_select=["nothing"],
    cron="0 */6 * * *",
    since="2027-03-01",
    until="2027-03-07",
    priority=10,
)
