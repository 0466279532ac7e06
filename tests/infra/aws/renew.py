"""`python -m tests.infra.aws.renew`: write the table of what each component makes."""

from __future__ import annotations

import json

from tests.infra.aws.test_components import GOLDEN, golden

if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=2) + "\n")
