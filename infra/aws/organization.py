"""Organization: the scanner's role in every account of an organisation, those of tomorrow too.

A service-managed StackSet makes it, not a ProtectedAccount for each: a program would need credentials for every account, and an
account that is made tomorrow would stay unprotected until somebody runs it again. What a StackSet cannot do is said in
docs/iac.md: it leaves the management account out, and brings no events; new machines there are found by listing.
Source: CloudFormation User Guide, "Create CloudFormation StackSets with service-managed permissions".
"""

from typing import Any, Final, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi import Input, Output, ResourceOptions

from infra.aws import policies
from infra.aws.account import SCANNER
from infra.aws.common import Arguments, checked_name, document, document_of, partition, tags
from infra.aws.policies import INSTALLATION, Setup

LISTER: Final = "KumomoriOrganization"


class OrganizationArgs(TypedDict):
    """Made with credentials of the management account, or of one that is a delegated administrator of CloudFormation."""

    installation: str
    """The name that all of Kumomori's tags bear; the same for the fleet."""
    region: str
    """Where the StackSet is kept. Roles are in no region."""
    trusted: Input[str]
    """ARN of the fleet's role, which takes the roles."""
    units: list[str]
    """Organizational units (ou-…) or the root (r-…): every account below gets the role, also later ones."""
    external_id: str
    """The same for all accounts: a StackSet has one template. Each CloudAccount of the console needs it, too."""
    role_name: NotRequired[str]
    """Default: KumomoriScanner."""
    any_snapshot: NotRequired[bool]
    """Whether snapshots that Kumomori did not make may be read, too."""
    delegated: NotRequired[bool]
    """Whether this is not the management account but a delegated administrator. Default: false."""


class Organization(pulumi.ComponentResource):
    """A role that lists accounts and takes the scanner's, and a StackSet that makes the scanner's role in each account."""

    role_arn: Output[str]
    """Of the role that lists the organisation's accounts, and takes the roles in them."""
    member_role_name: Output[str]
    external_id: Output[str]
    stack_set_arn: Output[str]

    def __init__(self, name: str, args: OrganizationArgs, opts: ResourceOptions | None = None) -> None:
        """Raises `BadArgument`."""
        super().__init__("kumomori:index:Organization", checked_name(name), {}, opts)
        given = Arguments(f"Organization {name}", args)
        installation, region = given.installation(), given.region()
        trusted, external_id = given.role("trusted"), given.external_id()
        units, role_name = given.units(), given.role_name("role_name", SCANNER)
        any_snapshot, delegated = given.flag("any_snapshot", default=False), given.flag("delegated", default=False)
        given.end()

        setup = Setup(installation, partition(region), any_snapshot=any_snapshot)
        lister = aws.iam.Role(
            f"{name}-list",
            name=LISTER,
            assume_role_policy=document_of(policies.trust, trusted, external_id),
            max_session_duration=3600,
            tags=tags(installation),
            opts=ResourceOptions(parent=self),
        )
        aws.iam.RolePolicy(
            f"{name}-list",
            role=lister.id,
            policy=document(policies.organization(setup, [role_name])),
            opts=ResourceOptions(parent=lister),
        )
        stack_set = aws.cloudformation.StackSet(
            f"{name}-acct",
            description="The role by which Kumomori scans",
            permission_model="SERVICE_MANAGED",
            auto_deployment={"enabled": True, "retain_stacks_on_account_removal": False},
            call_as="DELEGATED_ADMIN" if delegated else "SELF",
            capabilities=["CAPABILITY_NAMED_IAM"],
            template_body=trusted.apply(lambda arn: document(member_template(setup, role_name, arn, external_id))),
            region=region,
            tags=tags(installation),
            opts=ResourceOptions(parent=self),
        )
        aws.cloudformation.StackInstances(
            f"{name}-acct",
            stack_set_name=stack_set.name,
            call_as="DELEGATED_ADMIN" if delegated else "SELF",
            deployment_targets={"organizational_unit_ids": list(units)},
            regions=[region],  # one, as a role is the same in all of them
            retain_stacks=False,
            # one account that refuses it does not keep it from the others
            operation_preferences={"failure_tolerance_percentage": 100, "max_concurrent_percentage": 100},
            region=region,
            opts=ResourceOptions(parent=stack_set),
        )
        self.role_arn, self.stack_set_arn = lister.arn, stack_set.arn
        self.member_role_name = Output.from_input(role_name)
        self.external_id = Output.from_input(external_id)
        self.register_outputs(
            {
                "roleArn": self.role_arn,
                "memberRoleName": self.member_role_name,
                "externalId": self.external_id,
                "stackSetArn": self.stack_set_arn,
            }
        )


def member_template(setup: Setup, role_name: str, trusted: str, external_id: str) -> dict[str, Any]:
    """What the StackSet makes in each account: the role with the scanner's policy, as a template of CloudFormation."""
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": role_name,
            "AssumeRolePolicyDocument": policies.trust(trusted, external_id),
            "MaxSessionDuration": 3600,
            "Policies": [{"PolicyName": "scanner", "PolicyDocument": policies.scanner(setup)}],
            "Tags": [{"Key": INSTALLATION, "Value": setup.installation}],
        },
    }
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "The role by which Kumomori scans",
        "Resources": {"Scanner": role},
    }
