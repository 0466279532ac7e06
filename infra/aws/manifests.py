"""Where a fleet keeps its manifests: a private bucket of S3, encrypted with a key of its own.

Manifests hold no findings and can be made again, so they, and their key, go with the stack. No old versions are kept: what the sweeper
deletes named files of somebody's disk.
Sources: S3 User Guide, "Reducing the cost of SSE-KMS with Amazon S3 Bucket Keys", "Blocking public access to your Amazon S3 storage".
"""

from collections.abc import Mapping

import pulumi
import pulumi_aws as aws
from pulumi import ResourceOptions

from infra.aws import running
from infra.aws.common import document_of


def manifest_store(
    parent: pulumi.Resource, name: str, region: str, tags: Mapping[str, str]
) -> tuple[aws.s3.Bucket, aws.kms.Key]:
    """The bucket, and the key that it is encrypted with."""
    options = ResourceOptions(parent=parent)
    key = aws.kms.Key(
        f"{name}-man",
        description="Manifests of a Kumomori fleet",
        enable_key_rotation=True,
        deletion_window_in_days=7,
        region=region,
        tags=tags,
        opts=options,
    )
    bucket = aws.s3.Bucket(f"{name}-man", force_destroy=True, region=region, tags=tags, opts=options)
    inside = ResourceOptions(parent=bucket)
    blocked = aws.s3.BucketPublicAccessBlock(
        f"{name}-man",
        bucket=bucket.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        region=region,
        opts=inside,
    )
    aws.s3.BucketServerSideEncryptionConfiguration(
        f"{name}-man",
        bucket=bucket.id,
        rules=[
            {
                "apply_server_side_encryption_by_default": {
                    "sse_algorithm": "aws:kms",
                    "kms_master_key_id": key.arn,
                },
                "bucket_key_enabled": True,
            }
        ],
        region=region,
        opts=inside,
    )
    aws.s3.BucketLifecycleConfiguration(
        f"{name}-man",
        bucket=bucket.id,
        rules=[
            {
                "id": "unfinished",
                "status": "Enabled",
                "filter": {"prefix": ""},
                "abort_incomplete_multipart_upload": {"days_after_initiation": 1},
            }
        ],
        region=region,
        opts=inside,
    )
    aws.s3.BucketPolicy(
        f"{name}-man",
        bucket=bucket.id,
        policy=document_of(running.only_tls, bucket.arn),
        region=region,
        opts=ResourceOptions(parent=bucket, depends_on=[blocked]),
    )
    return bucket, key
