"""A database of PostgreSQL that outlives mistakes: of a fleet or a console.

Encrypted with AWS's own key or the customer's, never with one of this stack: a stack that is destroyed takes its keys with it, and
nobody could read the last snapshot. The password is RDS's: made, kept in Secrets Manager and changed each week by it.
Sources: RDS User Guide, "Password management with Amazon RDS and AWS Secrets Manager", "Deleting a DB instance",
"Requiring an SSL/TLS connection to a PostgreSQL DB instance".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import pulumi
import pulumi_aws as aws
from pulumi import Output, ResourceOptions

from infra.aws.common import Arguments

PORT: Final = 5432
USER: Final = "kumomori"
NAME: Final = "kumomori"
_ENGINE: Final = "17"
_MOST_GIB: Final = 65_536


@dataclass(frozen=True)
class DatabaseSettings:
    """`protected`: neither Pulumi nor the AWS console deletes it until that is taken away. `last`: a last snapshot when it is deleted."""

    instance_class: str
    storage_gib: int
    multi_az: bool
    protected: bool
    last: bool
    key: str

    @classmethod
    def read(cls, given: Arguments, *, multi_az: bool) -> "DatabaseSettings":
        """The arguments `database_…` of a component. Raises `BadArgument`."""
        return cls(
            given.instance_class("database_class", "db.t4g.medium"),
            given.number("database_gib", 20, 16_384, default=50),
            given.flag("database_multi_az", default=multi_az),
            given.flag("deletion_protection", default=True),
            given.flag("final_snapshot", default=True),
            given.key("database_key"),
        )


@dataclass(frozen=True)
class Database:
    """`url` has no password: that is in the secret with the ARN `secret`, as JSON with `username` and `password`."""

    instance: aws.rds.Instance
    url: Output[str]
    secret: Output[str]


def database(
    parent: pulumi.Resource,
    name: str,
    settings: DatabaseSettings,
    *,
    region: str,
    subnets: Sequence[pulumi.Input[str]],
    group: aws.ec2.SecurityGroup,
    tags: Mapping[str, str],
) -> Database:
    """In `subnets`, reached through the security group `group` alone, over TLS alone."""
    options = ResourceOptions(parent=parent)
    where = aws.rds.SubnetGroup(f"{name}-db", subnet_ids=list(subnets), region=region, tags=tags, opts=options)
    parameters = aws.rds.ParameterGroup(
        f"{name}-db",
        family=f"postgres{_ENGINE}",
        parameters=[{"name": "rds.force_ssl", "value": "1"}],
        region=region,
        tags=tags,
        opts=options,
    )
    instance = aws.rds.Instance(
        f"{name}-db",
        engine="postgres",
        engine_version=_ENGINE,
        auto_minor_version_upgrade=True,
        instance_class=settings.instance_class,
        allocated_storage=settings.storage_gib,
        max_allocated_storage=min(settings.storage_gib * 10, _MOST_GIB),
        storage_type="gp3",
        storage_encrypted=True,
        kms_key_id=settings.key or None,
        db_name=NAME,
        username=USER,
        manage_master_user_password=True,
        master_user_secret_kms_key_id=settings.key or None,
        port=PORT,
        db_subnet_group_name=where.name,
        parameter_group_name=parameters.name,
        vpc_security_group_ids=[group.id],
        publicly_accessible=False,
        multi_az=settings.multi_az,
        backup_retention_period=7,
        copy_tags_to_snapshot=True,
        delete_automated_backups=True,
        deletion_protection=settings.protected,
        skip_final_snapshot=not settings.last,
        # Unique for each life of the stack: a second one of the same name would be refused, and with it the destroy.
        final_snapshot_identifier=group.id.apply(lambda unique: f"kumomori-{name}-last-{unique}"),
        region=region,
        tags=tags,
        opts=options,
    )
    url = instance.address.apply(
        lambda host: f"postgresql://{USER}@{quote(host, safe='.-')}:{PORT}/{NAME}?sslmode=require"
    )
    return Database(instance, url, instance.master_user_secrets.apply(lambda found: str(found[0].secret_arn)))
