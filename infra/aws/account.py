"""ProtectedAccount: all that stands in an account of AWS so that a fleet may scan it, and nothing that scans.

Sources: IAM User Guide, "Access to AWS accounts owned by third parties" (external id); EventBridge User Guide, "Sending and
receiving events between AWS Regions"; SQS Developer Guide, "Server-side encryption"; KMS Developer Guide, "Grants".
"""

from typing import Final, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi import Input, Output, ResourceOptions

from infra.aws import policies, running
from infra.aws.common import (
    Arguments,
    checked_name,
    default_external_id,
    document,
    document_of,
    own_account,
    partition,
    tags,
)
from infra.aws.policies import Setup

SCANNER: Final = "KumomoriScanner"
RESPONDER: Final = "KumomoriResponder"
READER: Final = "KumomoriReader"
MESSAGES_SECONDS: Final = 86_400  # what is older the next listing knows better


class ProtectedAccountArgs(TypedDict):
    """`account`, `regions` and `installation` are plain; `trusted` may come from a ScanFleet."""

    installation: str
    """The name that all of Kumomori's tags bear; the same for the fleet."""
    account: str
    """12 digits."""
    regions: list[str]
    """What is protected. The queue of events is in the first; the others send theirs there."""
    trusted: Input[str]
    """ARN of the fleet's role, which takes the scanner's role here."""
    external_id: NotRequired[str]
    """Default: one made of installation and account."""
    role_name: NotRequired[str]
    """Default: KumomoriScanner."""
    events: NotRequired[bool]
    """Whether new instances are seen within seconds. Default: true."""
    any_snapshot: NotRequired[bool]
    """Whether snapshots that Kumomori did not make may be read, too."""
    keys: NotRequired[list[str]]
    """ARNs of the keys that disks may be encrypted with. Default: any whose own policy lets the role in."""
    granted_keys: NotRequired[list[str]]
    """ARNs of keys in this account whose policy does not let IAM decide: each gets a grant for the role."""
    scanner_account: NotRequired[str]
    """12 digits of another account that blocks are read in: snapshots are lent to it."""
    copy_key: NotRequired[str]
    """With `scanner_account`: ARN of the key that copies are encrypted with, as AWS's own key cannot be lent."""
    responder: NotRequired[bool]
    """Whether there is a role that isolates and stops machines. Default: false."""
    reader: NotRequired[bool]
    """Whether this account also reads what others lend to it. Default: false."""


class ProtectedAccount(pulumi.ComponentResource):
    """Roles, their least policies, grants for named keys, and the queue of instance events of one account."""

    account: Output[str]
    regions: Output[list[str]]
    role_name: Output[str]
    role_arn: Output[str]
    external_id: Output[str]
    queue_url: Output[str]
    """Empty without events."""
    responder_role_arn: Output[str]
    """Empty without a responder."""
    reader_role_arn: Output[str]
    """Empty without a reader."""

    def __init__(self, name: str, args: ProtectedAccountArgs, opts: ResourceOptions | None = None) -> None:
        """Raises `BadArgument`. Make it with a provider whose credentials are those of `account`: anything else is refused."""
        super().__init__("kumomori:index:ProtectedAccount", checked_name(name), {}, opts)
        given = Arguments(f"ProtectedAccount {name}", args)
        account, regions, installation = given.account(), given.regions(), given.installation()
        trusted, external_id = given.role("trusted"), given.external_id(default_external_id(installation, account))
        role_name = given.role_name("role_name", SCANNER)
        granted = given.keys("granted_keys")
        setup = _setup(given, installation, regions[0])
        events = given.flag("events", default=True)
        responder, reader = given.flag("responder", default=False), given.flag("reader", default=False)
        given.end()

        self._prefix, self._tags = name, tags(installation)
        self._rules = f"kumomori-{name}-"
        self._account = _same_account(self, given, account)
        self._trust = document_of(policies.trust, trusted, external_id)
        role = self._role("scan", role_name, policies.scanner(setup))
        for number, key in enumerate(granted):
            aws.kms.Grant(
                f"{name}-key{number}",
                key_id=key,
                grantee_principal=role.arn,
                operations=["Decrypt", "DescribeKey"],
                region=key.split(":")[3],
                opts=ResourceOptions(parent=self),
            )
        self.account, self.regions = self._account, Output.from_input(list(regions))
        self.role_name, self.role_arn, self.external_id = role.name, role.arn, Output.from_input(external_id)
        self.queue_url = self._events(role, regions) if events else Output.from_input("")
        empty = Output.from_input("")
        self.responder_role_arn = self._role("resp", RESPONDER, policies.responder(setup)).arn if responder else empty
        self.reader_role_arn = self._role("read", READER, policies.reader(setup)).arn if reader else empty
        self.register_outputs(
            {
                "account": self.account,
                "regions": self.regions,
                "roleName": self.role_name,
                "roleArn": self.role_arn,
                "externalId": self.external_id,
                "queueUrl": self.queue_url,
                "responderRoleArn": self.responder_role_arn,
                "readerRoleArn": self.reader_role_arn,
            }
        )

    def _role(self, suffix: str, name: str, policy: policies.Policy) -> aws.iam.Role:
        """A role whose name is known, since whoever takes it in many accounts takes it by its name."""
        role = aws.iam.Role(
            f"{self._prefix}-{suffix}",
            name=self._account.apply(lambda _: name),  # not before it is known that this is the account that was meant
            assume_role_policy=self._trust,
            max_session_duration=3600,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )
        aws.iam.RolePolicy(
            f"{self._prefix}-{suffix}", role=role.id, policy=document(policy), opts=ResourceOptions(parent=role)
        )
        return role

    def _events(self, role: aws.iam.Role, regions: tuple[str, ...]) -> Output[str]:
        """Rule → queue in the first region; in each other one a rule that sends to the first. Returns the queue's URL.

        No dead-letter queue: the fleet throws away, and counts, what is no event, and what never arrived the next listing puts right.
        """
        home, parent = regions[0], ResourceOptions(parent=self)
        queue = aws.sqs.Queue(
            f"{self._prefix}-evt",
            sqs_managed_sse_enabled=True,  # EventBridge cannot write to a queue under AWS's own KMS key
            message_retention_seconds=MESSAGES_SECONDS,
            receive_wait_time_seconds=20,
            visibility_timeout_seconds=300,
            region=home,
            tags=self._tags,
            opts=parent,
        )
        rule = self._rule(home)
        access = aws.sqs.QueuePolicy(
            f"{self._prefix}-evt",
            queue_url=queue.url,
            policy=document_of(policies.queue_access, queue.arn, rule.arn),
            region=home,
            opts=ResourceOptions(parent=queue),
        )
        aws.cloudwatch.EventTarget(
            f"{self._prefix}-evt",
            rule=rule.name,
            arn=queue.arn,
            region=home,
            opts=ResourceOptions(parent=rule, depends_on=[access]),
        )
        aws.iam.RolePolicy(
            f"{self._prefix}-evt",
            role=role.id,
            policy=document_of(policies.events, queue.arn),
            opts=ResourceOptions(parent=role),
        )
        if regions[1:]:
            self._forward(home, regions[1:])
        return queue.url

    def _rule(self, region: str) -> aws.cloudwatch.EventRule:
        return aws.cloudwatch.EventRule(
            f"{self._prefix}-evt-{region}",
            # the name that Pulumi would make is too long in regions with long names
            name_prefix=self._rules,
            description="Launches and state changes of instances, for Kumomori",
            event_pattern=document(policies.event_pattern()),
            region=region,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )

    def _forward(self, home: str, others: tuple[str, ...]) -> None:
        bus = self._account.apply(lambda account: f"arn:{partition(home)}:events:{home}:{account}:event-bus/default")
        role = aws.iam.Role(
            f"{self._prefix}-fwd",
            assume_role_policy=self._account.apply(
                lambda account: document(
                    running.service_trust(
                        "events.amazonaws.com",
                        # one role for the rules of all regions, whose ARNs together are longer than a trust policy may be
                        running.asked_by(account, f"arn:{partition(home)}:events:*:{account}:rule/{self._rules}*"),
                    )
                )
            ),
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )
        allowed = aws.iam.RolePolicy(
            f"{self._prefix}-fwd",
            role=role.id,
            policy=document_of(running.forward_events, bus),
            opts=ResourceOptions(parent=role),
        )
        for region in others:
            rule = self._rule(region)
            aws.cloudwatch.EventTarget(
                f"{self._prefix}-fwd-{region}",
                rule=rule.name,
                arn=bus,
                role_arn=role.arn,
                region=region,
                opts=ResourceOptions(parent=rule, depends_on=[allowed]),
            )


def _setup(given: Arguments, installation: str, region: str) -> Setup:
    any_snapshot, keys = given.flag("any_snapshot", default=False), given.keys("keys")
    copy_key = given.key("copy_key")
    has_scanner = given.has("scanner_account")
    scanner_account = given.account("scanner_account") if has_scanner else ""
    if copy_key and not has_scanner:
        raise given.bad(
            "copy_key", "goes with the account that snapshots are lent to: name that, too, or leave this out"
        )
    return Setup(
        installation,
        partition(region),
        any_snapshot=any_snapshot,
        scanner_account=scanner_account,
        copy_key=copy_key,
        keys=keys or ("*",),
    )


def _same_account(parent: pulumi.Resource, given: Arguments, account: str) -> Output[str]:
    """Credentials of another account would make roles there, and the one that was meant would stay unprotected."""

    def same(found: str) -> str:
        if found != account:
            raise given.bad(
                "account", f"the credentials are those of {found}, not of {account}: give the provider that enters it"
            )
        return found

    return own_account(parent).apply(same)
