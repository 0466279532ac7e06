"""IAM policies of what runs Kumomori itself: the machines of a fleet, the tasks of a console. Data, as `infra/aws/policies.py`.

Sources: Service Authorization Reference for S3, KMS, Secrets Manager, ECR, EventBridge, CloudWatch Logs, SSM Message Gateway;
EventBridge User Guide, "Cross-service confused deputy prevention"; ECS Developer Guide, "Amazon ECS task IAM role"; ECR User
Guide, "Amazon ECR interface VPC endpoints" (buckets of layers); Amazon Linux 2023 User Guide (bucket of packages).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from infra.aws.policies import Policy, Statement

_VERSION: Final = "2012-10-17"


def service_trust(service: str, conditions: Mapping[str, Any] | None = None) -> Policy:
    """Only the service of AWS named `service` takes the role; `conditions` as `asked_by`, where AWS documents that it says for whom.

    It does for EventBridge and the tasks of ECS; not for EC2, Lambda and the execution role of ECS, which take no role of another account.
    """
    statement: Statement = {
        "Sid": "KumomoriService",
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    return {"Version": _VERSION, "Statement": [{**statement, "Condition": conditions} if conditions else statement]}


def asked_by(account: str, source: str) -> Mapping[str, Any]:
    """The service acts for `account`, and there for what `source` (an ARN with wildcards) names: it is nobody else's deputy."""
    return {"StringEquals": {"aws:SourceAccount": account}, "ArnLike": {"aws:SourceArn": source}}


def forward_events(bus: str) -> Policy:
    """Rules of other regions put events onto the bus with the ARN `bus`."""
    return _policy([_allow("KumomoriForward", ("events:PutEvents",), bus)])


def assume(roles: Sequence[str]) -> Policy:
    """A fleet takes these roles (ARNs), and no other."""
    return _policy([_allow("KumomoriAssume", ("sts:AssumeRole",), list(roles))])


def worker(bucket: str, key: str, secrets: Sequence[str], repository: str, secrets_key: str = "") -> Policy:
    """A machine of a fleet, by ARNs: manifests in `bucket` under `key`, its `secrets`, the image in `repository`.

    `secrets_key`: a customer's key that one of the secrets is encrypted with; AWS's own needs no permission.
    """
    return _policy(
        [
            _allow(
                "KumomoriManifests",
                ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
                f"{bucket}/*",
            ),
            _allow("KumomoriListManifests", ("s3:ListBucket",), bucket),
            _allow("KumomoriManifestKey", ("kms:Decrypt", "kms:GenerateDataKey"), key, _via("s3")),
            _allow("KumomoriSecrets", ("secretsmanager:GetSecretValue",), list(secrets)),
            *_secrets_key(secrets_key),
            *_image(repository),
        ]
    )


def task_start(secrets: Sequence[str], repository: str, log_group: str, secrets_key: str = "") -> Policy:
    """What ECS itself needs to start a task: its image, its secrets (encrypted with a customer's `secrets_key`, if any), its log."""
    return _policy(
        [
            _allow("KumomoriSecrets", ("secretsmanager:GetSecretValue",), list(secrets)),
            *_secrets_key(secrets_key),
            _allow("KumomoriLog", ("logs:CreateLogStream", "logs:PutLogEvents"), f"{log_group}:*"),
            *_image(repository),
        ]
    )


def task_shell() -> Policy:
    """A shell in the task, through Session Manager (ECS Exec). AWS offers no narrower resource for these."""
    return _policy(
        [
            _allow(
                "KumomoriShell",
                (
                    "ssmmessages:CreateControlChannel",
                    "ssmmessages:CreateDataChannel",
                    "ssmmessages:OpenControlChannel",
                    "ssmmessages:OpenDataChannel",
                ),
                "*",
            )
        ]
    )


def endpoint(accounts: Sequence[str]) -> Policy:
    """Of a VPC's endpoint of one service: principals of `accounts` get through, whoever else's key was brought there does not.

    A role that was taken in another account is a principal of that account. What each may do, its own policies say.
    """
    return _policy([_through(accounts)])


def endpoint_of_s3(account: str, partition: str, region: str) -> Policy:
    """As `endpoint`; besides, what AWS itself keeps in S3: layers of images in ECR, which its own account has signed the
    addresses of, and the packages of Amazon Linux 2023, which are read without signing."""
    buckets = (f"prod-{region}-starport-layer-bucket", f"al2023-repos-{region}-de612dc2")
    of_aws = _allow("KumomoriOfAws", ("s3:GetObject",), [f"arn:{partition}:s3:::{bucket}/*" for bucket in buckets])
    return _policy([_through([account]), {**of_aws, "Principal": "*"}])


def only_tls(bucket: str) -> Policy:
    """The bucket's own policy: nobody, whoever allows it, reads or writes without TLS."""
    return _policy(
        [
            {
                "Sid": "KumomoriOnlyTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket, f"{bucket}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ]
    )


def _through(accounts: Sequence[str]) -> Statement:
    known = {"StringEquals": {"aws:PrincipalAccount": sorted(set(accounts))}}
    return {**_allow("KumomoriThrough", ("*",), "*", known), "Principal": "*"}


def _secrets_key(key: str) -> list[Statement]:
    return [_allow("KumomoriSecretsKey", ("kms:Decrypt",), key, _via("secretsmanager"))] if key else []


def _image(repository: str) -> list[Statement]:
    return [
        _allow("KumomoriRegistry", ("ecr:GetAuthorizationToken",), "*"),  # AWS offers no narrower resource
        _allow(
            "KumomoriImage",
            ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
            repository,
        ),
    ]


def _via(service: str) -> Mapping[str, Any]:
    return {"StringLike": {"kms:ViaService": f"{service}.*.amazonaws.com*"}}


def _policy(statements: Sequence[Statement]) -> Policy:
    return {"Version": _VERSION, "Statement": list(statements)}


def _allow(
    sid: str, allowed: Sequence[str], resource: str | list[str], condition: Mapping[str, Any] | None = None
) -> Statement:
    statement: Statement = {"Sid": sid, "Effect": "Allow", "Action": list(allowed), "Resource": resource}
    return {**statement, "Condition": dict(condition)} if condition else statement
