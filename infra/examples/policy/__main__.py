"""The floor for every machine, and what is different for web servers."""

import pulumi

from infra.console import Policy

company = Policy(
    "company",
    description="The floor for every machine, wherever it stands.",
    settings={
        "scan": {"schedule": {"cron": "0 1 * * *", "time_zone": "Europe/Berlin", "spread_seconds": 14400}},
        "actions": {"high": ["alert", "tag"], "critical": ["alert", "isolate"]},
    },
    lock=["actions.critical"],
)
web = Policy(
    "web-servers",
    parent=company,
    selector={"role": "web"},
    may_select=["nothing"],  # there may be none yet
    settings={"scan": {"max_age_seconds": 172800}},
)
pulumi.export("documents", [company.document, web.document])
