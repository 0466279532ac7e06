"""An account of AWS that a fleet scans. Run it with credentials of that account.

pulumi config set installation acme
pulumi config set account 111122223333
pulumi config set fleetRole arn:aws:iam::222222222222:role/eu-work-1a2b3c4     # output of the stack with the fleet
"""

import pulumi

from infra.aws.account import ProtectedAccount
from infra.console import CloudAccount

config = pulumi.Config()
production = ProtectedAccount(
    "production",
    {
        "installation": config.require("installation"),
        "account": config.require("account"),
        "regions": ["eu-central-1", "eu-west-1"],
        "trusted": config.require("fleetRole"),
    },
)
CloudAccount(
    "production",
    account=production.account,
    role=production.role_name,
    external_id=production.external_id,
    queue_url=production.queue_url,
    regions=production.regions,
)
pulumi.export("role", production.role_arn)
