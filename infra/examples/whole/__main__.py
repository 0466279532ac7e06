"""A fleet, one account by itself, all others of the organisation, and what is done there: one program.

The console is another stack (../console_on_aws): it has to answer before this one is previewed. Credentials are those of the
account that the fleet is in; the two other accounts are entered by a role of theirs for deployments.

pulumi config set installation acme                           # and console, image, vpc, subnets as in ../scan_fleet
pulumi config set account 111122223333
pulumi config set management 444455556666
pulumi config set root r-ab12
pulumi config set externalId acme-4711
pulumi config set --path 'members[0]' 333333333333
"""

import pulumi
import pulumi_aws as aws

from infra.aws.account import ProtectedAccount
from infra.aws.fleet import ScanFleet
from infra.aws.organization import Organization
from infra.console import CloudAccount, Exclusion, Policy, Schedule

config = pulumi.Config()
installation, region = config.require("installation"), "eu-central-1"
account, members = config.require("account"), [str(member) for member in config.require_object("members")]


def entering(name: str, number: str) -> aws.Provider:
    """Whoever deploys in the account `number`."""
    return aws.Provider(name, region=region, assume_roles=[{"role_arn": f"arn:aws:iam::{number}:role/Deployment"}])


fleet = ScanFleet(
    "eu",
    {
        "installation": installation,
        "region": region,
        "vpc": config.require("vpc"),
        "subnets": config.require_object("subnets"),
        "console": config.require("console"),
        "image": config.require("image"),
        "accounts": [account, *members],
        "machines": config.get_int("machines", 2),
        "deletion_protection": config.get_bool("deletionProtection", default=True),
    },
)
production = ProtectedAccount(
    "production",
    {"installation": installation, "account": account, "regions": [region, "eu-west-1"], "trusted": fleet.role_arn},
    pulumi.ResourceOptions(provider=entering("production", account)),
)
company = Organization(
    "company",
    {
        "installation": installation,
        "region": region,
        "trusted": fleet.role_arn,
        "units": [config.require("root")],
        "external_id": config.require("externalId"),
    },
    pulumi.ResourceOptions(provider=entering("management", config.require("management"))),
)

# Enrolled last, removed first: while the console knows an account, the role that it names is there, and while it is
# removed, the fleet, which deletes what it keeps there.
CloudAccount(
    "production",
    account=production.account,
    role=production.role_name,
    external_id=production.external_id,
    queue_url=production.queue_url,
    regions=production.regions,
    opts=pulumi.ResourceOptions(depends_on=[fleet]),
)
for member in members:
    CloudAccount(
        f"member-{member}",
        account=member,
        role=company.member_role_name,
        external_id=company.external_id,
        opts=pulumi.ResourceOptions(depends_on=[fleet, company]),
    )

everywhere = Policy("company", settings={"actions": {"high": ["alert", "tag"]}}, lock=["actions.high"])
Schedule("nightly", parent=everywhere, cron="0 22 * * *", time_zone="Europe/Berlin", spread_seconds=14400)
Exclusion("build-caches", parent=everywhere, paths=["/home/*/.cache/**"], until="2099-12-31", description="Build team.")

pulumi.export("tokenSecret", fleet.token_secret_arn)
pulumi.export("keysSecret", fleet.keys_secret_arn)
