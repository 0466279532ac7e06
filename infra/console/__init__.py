"""Policies and accounts of a running console as Pulumi resources: `Policy`, `Schedule`, `Exclusion`, `CloudAccount`.

from infra.console import CloudAccount, Policy, Schedule

company = Policy("company", settings={"actions": {"critical": ["alert", "isolate"]}}, lock=["actions.critical"])
Schedule("nightly", parent=company, cron="0 2 * * *", time_zone="Europe/Berlin")
CloudAccount("production", account="123456789012", role="KumomoriScanner")

Address and token of the console: `infra.console.provider`. Nothing of them stands in a resource.
"""

from infra.console.account import CloudAccount
from infra.console.policy import Policy
from infra.console.profile import Exclusion, Schedule

__all__ = ["CloudAccount", "Exclusion", "Policy", "Schedule"]
