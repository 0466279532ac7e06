"""Handler that the function image is tried with: says what it sees of the world that it runs in."""

from __future__ import annotations

import importlib
import os
from typing import Any


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    for name in event["modules"]:
        importlib.import_module(name)
    return {
        "uid": os.getuid(),
        "request": context.aws_request_id,
        "echo": event["echo"],
        "imported": len(event["modules"]),
    }
