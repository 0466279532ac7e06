"""Keys that disks are encrypted with: may they be used, and which permissions does that need?

Source: KMS API reference, KeyMetadata; EBS User Guide, "Share the KMS key used to encrypt a shared snapshot".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cloud.aws.errors import translated_errors
from core.errors import CloudError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

READING: Final = ("kms:DescribeKey", "kms:Decrypt")
COPYING: Final = (
    *READING,
    "kms:CreateGrant",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


@dataclass(frozen=True, slots=True)
class Key:
    """`provider_managed`: AWS's own default key, which no other account can be let in to. `obstacle`: why it is unusable now."""

    arn: str
    provider_managed: bool
    obstacle: str = ""


def describe_key(kms: KMSClient, name: str) -> Key:
    """The key `name` (an ARN or id). Raises `AccessDenied` naming kms:DescribeKey, `Gone`, `CloudError`."""
    with translated_errors("kms:DescribeKey", f"key {name}"):
        raw = kms.describe_key(KeyId=name)
        found = raw.get("KeyMetadata")
    if not isinstance(found, dict):
        raise CloudError(f"key {name}: kms:DescribeKey said nothing about it")
    state = str(found.get("KeyState", "unknown"))
    obstacle = (
        "" if state == "Enabled" else f"its key {name} is {_WORDS.get(state, state)[:60]}, so nothing can read it"
    )
    arn = found.get("Arn")
    return Key(arn if isinstance(arn, str) and arn else name, found.get("KeyManager") == "AWS", obstacle)


_WORDS: Final = {
    "Disabled": "disabled",
    "PendingDeletion": "about to be deleted",
    "PendingImport": "without key material",
    "Unavailable": "unavailable (its key store is disconnected)",
}
