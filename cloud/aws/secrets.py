"""Secrets Manager: a text by its ARN. Source: Secrets Manager API reference, GetSecretValue (65,536 bytes at most)."""

from __future__ import annotations

import re
from typing import Final

from cloud.aws.accounts import Sessions
from cloud.aws.errors import translated_errors
from core.errors import CloudError, ConfigError

MOST_BYTES: Final = 65_536
_ARN: Final = re.compile(
    r"arn:[a-z0-9-]{1,40}:secretsmanager:([a-z0-9-]{1,40}):\d{12}:secret:[A-Za-z0-9/_+=.@!-]{1,512}"
)


def read_secret(sessions: Sessions, arn: str) -> str:
    """Its text, for use and never for a log. Raises `ConfigError` for no ARN of one, `AccessDenied`, `CloudError`."""
    match = _ARN.fullmatch(arn)
    if match is None:
        raise ConfigError("a secret is named by its ARN in Secrets Manager")
    client = sessions.client(sessions.base, "secretsmanager", match[1])
    with translated_errors("secretsmanager:GetSecretValue", arn):
        found = client.get_secret_value(SecretId=arn).get("SecretString")
    if not isinstance(found, str) or not found or len(found) > MOST_BYTES:
        raise CloudError(f"{arn}: the secret has no text, or too much of it")
    return found
