"""Who may use a KMS key: the owner's account by IAM, others by the key's policy or a grant. The keys are moto's.

Source: KMS Developer Guide, "Allowing users in other accounts to use a KMS key".
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

from moto.kms.models import kms_backends

from demo.aws.clock import Clock
from demo.aws.errors import ApiError
from demo.aws.permissions import Need, refusal
from demo.aws.rules import Call, Caller, CallLog, Rules

EBS_ALIAS = "alias/aws/ebs"


class Keys:
    def __init__(self, rules: Rules, log: CallLog, clock: Clock) -> None:
        self._rules = rules
        self._log = log
        self._clock = clock

    def resolve(self, name: str, account: str, region: str) -> str:
        """The ARN of a key named by id, ARN, alias or alias ARN. Raises `ApiError` (InvalidKmsKeyId) if there is none."""
        if name.startswith("arn:"):
            fields = name.split(":", 5)
            if len(fields) == 6:
                region, account = fields[3], fields[4]
        try:
            arn: str = kms_backends[account][region].describe_key(name).arn
        except Exception as error:  # moto has no one error for what it cannot find
            raise ApiError("InvalidParameterValue", f"Value ({name}) for parameter KmsKeyId is invalid.") from error
        return arn

    def default(self, account: str, region: str) -> str:
        """The ARN of the AWS managed key for EBS, made if this is the first time."""
        backend = kms_backends[account][region]
        if not backend.alias_exists(EBS_ALIAS):
            key = backend.create_key("", "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT", "Default EBS key", None)
            backend.create_alias(key.id, EBS_ALIAS)
        arn: str = backend.describe_key(EBS_ALIAS).arn
        return arn

    def is_default(self, arn: str) -> bool:
        key = self._key(arn)
        if key is None:
            return False
        fields = arn.split(":", 5)
        backend = kms_backends[fields[4]][fields[3]]
        return backend.alias_exists(EBS_ALIAS) and backend.describe_key(EBS_ALIAS).arn == arn

    def may(self, caller: Caller, action: str, arn: str) -> bool:
        """Whether the caller may do `action` (`kms:Decrypt`) with a key: it is enabled, and everybody concerned agrees.

        The log has it as a call that another one implied, once for a caller, an action and a key.
        """
        allowed = self._may(caller, action, arn)
        status = 200 if allowed else 400
        call = Call("kms", action.removeprefix("kms:"), caller, (arn,), status, implied=True, at=self._clock.now())
        self._log.add_once(call)
        return allowed

    def _may(self, caller: Caller, action: str, arn: str) -> bool:
        key = self._key(arn)
        if key is None or not key.enabled or self._rules.denied(action, caller, (arn,)):
            return False
        via = {"kms:viaservice": [f"ec2.{caller.region}.amazonaws.com"], "kms:calleraccount": [caller.account]}
        context = via | {"kms:grantisforawsresource": ["true"], "aws:requestedregion": [caller.region]}
        if refusal(self._rules, caller, iter([Need(action, arn, context)])):
            return False
        if arn.split(":")[4] == caller.account:
            return True
        return _policy_allows(key.policy, action, caller) or any(
            _is_principal(grant.grantee_principal, caller) and action.removeprefix("kms:") in grant.operations
            for grant in key.grants.values()
        )

    @staticmethod
    def _key(arn: str) -> Any:
        fields = arn.split(":", 5)
        if len(fields) != 6:
            return None
        return kms_backends[fields[4]][fields[3]].keys.get(fields[5].removeprefix("key/"))


def _policy_allows(policy: str, action: str, caller: Caller) -> bool:
    """Whether a statement of a key policy lets a foreign account in; conditions are not looked at."""
    statements = json.loads(policy).get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        if statement.get("Effect") != "Allow":
            continue
        principal = statement.get("Principal", {})
        names = principal.get("AWS", []) if isinstance(principal, dict) else principal
        actions = statement.get("Action", [])
        who = any(_is_principal(name, caller) for name in ([names] if isinstance(names, str) else names))
        what = any(
            fnmatchcase(action.lower(), one.lower()) for one in ([actions] if isinstance(actions, str) else actions)
        )
        if who and what:
            return True
    return False


def _is_principal(name: str, caller: Caller) -> bool:
    return name in ("*", caller.account, f"arn:aws:iam::{caller.account}:root", caller.principal)
