"""The console in networks that are there already. Nothing of it is reached from the internet.

pulumi config set installation acme
pulumi config set image 222222222222.dkr.ecr.eu-central-1.amazonaws.com/kumomori:0.1.0
pulumi config set host kumomori.example.com
pulumi config set certificate arn:aws:acm:eu-central-1:222222222222:certificate/…
pulumi config set zone Z0123456789ABCDEFGHIJ
pulumi config set vpc vpc-0a1b2c3d
pulumi config set --path 'subnets[0]' subnet-0a1b2c3d
pulumi config set --path 'subnets[1]' subnet-0a1b2c3e
pulumi config set shell true                                  # until the first token is there, see docs/iac.md
"""

import pulumi

from infra.aws.console import Console

config = pulumi.Config()
console = Console(
    "console",
    {
        "installation": config.require("installation"),
        "region": "eu-central-1",
        "vpc": config.require("vpc"),
        "subnets": config.require_object("subnets"),
        "clients": ["10.0.0.0/8"],
        "host": config.require("host"),
        "certificate": config.require("certificate"),
        "zone": config.require("zone"),
        "image": config.require("image"),
        "shell": config.get_bool("shell", default=False),
        "deletion_protection": config.get_bool("deletionProtection", default=True),
    },
)
pulumi.export("url", console.url)
pulumi.export("cluster", console.cluster)
