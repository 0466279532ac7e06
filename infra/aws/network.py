"""Security groups of what runs Kumomori: nothing comes in but what is named, nothing goes out but HTTPS and to the database.

Names and times need no rule: security groups do not filter the resolver of the VPC and Amazon's time service.
Sources: VPC User Guide, "Security group rules"; AWS PrivateLink Guide, "Control access to VPC endpoints using endpoint policies".
"""

from collections.abc import Mapping, Sequence
from typing import Final

import pulumi
import pulumi_aws as aws
from pulumi import ResourceOptions

from infra.aws import running
from infra.aws.common import document_of, own_account, partition
from infra.aws.database import PORT

HTTPS: Final = 443
# What a fleet calls; S3 has an endpoint of another kind, that costs nothing.
SERVICES: Final = ("ebs", "ec2", "ecr.api", "ecr.dkr", "kms", "secretsmanager", "sqs", "sts")
_OWN: Final = frozenset({"ecr.api", "ecr.dkr", "secretsmanager"})  # called with the machines' own role alone


class Network:
    """`parent`'s security groups in one VPC."""

    def __init__(
        self, parent: pulumi.Resource, name: str, vpc: pulumi.Input[str], region: str, tags: Mapping[str, str]
    ) -> None:
        self._parent, self._name, self._vpc, self._region, self._tags = parent, name, vpc, region, tags

    def group(self, suffix: str, description: str) -> aws.ec2.SecurityGroup:
        """Without any rule. Pulumi takes away the one that AWS gives: everything goes out."""
        return aws.ec2.SecurityGroup(
            f"{self._name}-{suffix}",
            description=description,
            vpc_id=self._vpc,
            egress=[],
            ingress=[],
            region=self._region,
            tags=self._tags,
            # rules are resources of their own: those here would take them away again
            opts=ResourceOptions(parent=self._parent, ignore_changes=["egress", "ingress"]),
        )

    def out(
        self,
        name: str,
        group: aws.ec2.SecurityGroup,
        port: int,
        *,
        to: aws.ec2.SecurityGroup | None = None,
    ) -> None:
        """`group` may reach `port` of the group `to`, or of everything."""
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{name}",
            security_group_id=group.id,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4=None if to else "0.0.0.0/0",
            referenced_security_group_id=to.id if to else None,
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=group),
        )

    def into(self, name: str, group: aws.ec2.SecurityGroup, port: int, *, source: aws.ec2.SecurityGroup | str) -> None:
        """What is in the group, or the network, `source` may reach `port` of `group`."""
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-{name}",
            security_group_id=group.id,
            ip_protocol="tcp",
            from_port=port,
            to_port=port,
            cidr_ipv4=source if isinstance(source, str) else None,
            referenced_security_group_id=None if isinstance(source, str) else source.id,
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=group),
        )

    def database_group(self, client: aws.ec2.SecurityGroup) -> aws.ec2.SecurityGroup:
        """A group for a database that `client`, and nobody else, reaches."""
        group = self.group("db", "The database; reached by Kumomori alone")
        self.into("dbin", group, PORT, source=client)
        self.out("dbout", client, PORT, to=group)
        return group

    def endpoints(
        self,
        client: aws.ec2.SecurityGroup,
        subnets: Sequence[pulumi.Input[str]],
        route_tables: Sequence[pulumi.Input[str]],
        accounts: Sequence[str],
    ) -> None:
        """Ways to AWS's services that do not leave its network; for `client` alone, and for principals of this account and `accounts`.

        That of S3 is for whatever uses `route_tables`, and for principals of this account.
        """
        group = self.group("ep", "Endpoints of AWS services, for Kumomori")
        self.into("epin", group, HTTPS, source=client)
        options = ResourceOptions(parent=self._parent)
        own = own_account(self._parent)
        for service in SERVICES:
            others = () if service in _OWN else accounts
            aws.ec2.VpcEndpoint(
                f"{self._name}-{service}",
                vpc_id=self._vpc,
                service_name=f"com.amazonaws.{self._region}.{service}",
                vpc_endpoint_type="Interface",
                policy=document_of(lambda *known: running.endpoint(known), own, *others),
                private_dns_enabled=True,
                subnet_ids=list(subnets),
                security_group_ids=[group.id],
                region=self._region,
                tags=self._tags,
                opts=options,
            )
        aws.ec2.VpcEndpoint(
            f"{self._name}-s3",
            vpc_id=self._vpc,
            service_name=f"com.amazonaws.{self._region}.s3",
            vpc_endpoint_type="Gateway",
            policy=document_of(running.endpoint_of_s3, own, partition(self._region), self._region),
            route_table_ids=list(route_tables),
            region=self._region,
            tags=self._tags,
            opts=options,
        )
