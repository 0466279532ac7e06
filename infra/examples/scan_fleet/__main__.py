"""A fleet in networks that are there already. Its two secrets are filled by hand, see docs/iac.md.

pulumi config set installation acme
pulumi config set console https://kumomori.example.com
pulumi config set image 222222222222.dkr.ecr.eu-central-1.amazonaws.com/kumomori:0.1.0
pulumi config set vpc vpc-0a1b2c3d
pulumi config set --path 'subnets[0]' subnet-0a1b2c3d
pulumi config set --path 'subnets[1]' subnet-0a1b2c3e
pulumi config set --path 'accounts[0]' 111122223333
"""

import pulumi

from infra.aws.fleet import ScanFleet

config = pulumi.Config()
fleet = ScanFleet(
    "eu",
    {
        "installation": config.require("installation"),
        "region": "eu-central-1",
        "vpc": config.require("vpc"),
        "subnets": config.require_object("subnets"),
        "console": config.require("console"),
        "image": config.require("image"),
        "accounts": [str(account) for account in config.require_object("accounts")],
        "machines": config.get_int("machines", 2),
        "deletion_protection": config.get_bool("deletionProtection", default=True),
    },
)
pulumi.export("role", fleet.role_arn)
pulumi.export("tokenSecret", fleet.token_secret_arn)
pulumi.export("keysSecret", fleet.keys_secret_arn)
