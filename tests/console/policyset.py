"""Policies as text, for tests of the console."""

from __future__ import annotations

from client.model import PolicySet

SCHEDULE = '{cron: "0 2 * * *", spread_seconds: 3600}'


def document(name: str = "company", settings: str = "", *, parent: str = "", more: str = "") -> str:
    above = f", parent: {parent}" if parent else ""
    said = f"settings: {{{settings}}}\n" if settings else ""
    return f"apiVersion: kumomori/v1\nkind: Policy\nmetadata: {{name: {name}{above}}}\n{more}{said}"


def policy_set(settings: str = f"scan: {{schedule: {SCHEDULE}, settle_seconds: 5}}", message: str = "") -> PolicySet:
    return PolicySet(documents={"company.yaml": document(settings=settings)}, message=message)
