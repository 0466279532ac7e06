"""What is left out, for whom, until when, and why."""

from infra.console import Exclusion, Policy

company = Policy("company", settings={"scan": {"at_launch": True}})
Exclusion(
    "database-files",
    parent=company,
    when={"role": "database"},
    may_select=["nothing"],
    paths=["/var/lib/postgresql/**"],
    until="2099-12-31",
    description="Asked for by the database team.",
)
