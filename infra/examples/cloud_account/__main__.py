"""An account of AWS, and a site whose machines are listed in a file on the fleet. `pulumi config set account 123456789012`."""

import pulumi

from infra.console import CloudAccount

config = pulumi.Config()
production = CloudAccount(
    "production",
    account=config.require("account"),
    role="KumomoriScanner",
    regions=["eu-central-1", "eu-west-1"],
    queue_url=config.get("queueUrl") or "",  # without one new machines are found by listing
)
CloudAccount("hall-1", cloud="file", account="hall-1", instances_file="/etc/kumomori/hall-1.jsonl")
pulumi.export("protected", production.id)
