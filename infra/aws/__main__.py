"""`python -m infra.aws`: write the policies into docs/aws.md, where they stand between two marks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from infra.aws import policies
from infra.aws.policies import Policy, Setup

DOCS: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "aws.md"
BEGIN: Final = "<!-- policies: written by `python -m infra.aws` -->\n"
END: Final = "<!-- end of policies -->\n"


def shown() -> dict[str, Policy]:
    """The policies of an example: installation `acme`, account 111122223333, blocks read in account 222222222222."""
    setup = Setup("acme", scanner_account="222222222222", copy_key="arn:aws:kms:eu-central-1:111122223333:key/1")
    return {
        "scanner": policies.scanner(setup),
        "reader": policies.reader(setup),
        "responder": policies.responder(setup),
        "organization": policies.organization(setup, ["KumomoriScanner"]),
        "events": policies.events("arn:aws:sqs:eu-central-1:111122223333:kumomori"),
    }


def main() -> int:
    before, _, rest = DOCS.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    parts = [f"### {name}\n\n```json\n{json.dumps(policy, indent=2)}\n```\n\n" for name, policy in shown().items()]
    DOCS.write_text(before + BEGIN + "\n" + "".join(parts) + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
