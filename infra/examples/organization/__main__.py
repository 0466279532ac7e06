"""The scanner's role in every account below the organisation's root. Run it with credentials of the management account.

pulumi config set installation acme
pulumi config set root r-ab12
pulumi config set externalId acme-4711
pulumi config set fleetRole arn:aws:iam::222222222222:role/eu-work-1a2b3c4
pulumi config set --path 'accounts[0]' 111122223333          # those that are scanned now
"""

import pulumi

from infra.aws.organization import Organization
from infra.console import CloudAccount

config = pulumi.Config()
organization = Organization(
    "company",
    {
        "installation": config.require("installation"),
        "region": "eu-central-1",
        "trusted": config.require("fleetRole"),
        "units": [config.require("root")],
        "external_id": config.require("externalId"),
    },
)
for account in config.require_object("accounts"):
    CloudAccount(
        f"account-{account}",
        account=str(account),
        role=organization.member_role_name,
        external_id=organization.external_id,
        opts=pulumi.ResourceOptions(depends_on=[organization]),
    )
pulumi.export("role", organization.role_arn)
