"""ScanFleet: the machines that scan, in private networks, with the database and the store that they share.

Sources: EC2 Auto Scaling User Guide, "Auto Scaling groups with multiple instance types and purchase options"; EC2 User Guide,
"Use the Instance Metadata Service".
"""

import base64
from typing import Final, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi import Input, Output, ResourceOptions

from infra.aws import running
from infra.aws.account import SCANNER
from infra.aws.common import Arguments, checked_name, document, document_of, image_repository, partition, tags
from infra.aws.database import Database, DatabaseSettings, database
from infra.aws.machine import Machine, user_data, worker_options
from infra.aws.manifests import manifest_store
from infra.aws.network import HTTPS, Network

# Of x86-64, as the image is; several, so that one type of spot that runs out does not stop the fleet.
TYPES: Final = ("m7i.large", "m7a.large", "m6i.large", "m6a.large", "m5.large", "m5a.large")
AMI: Final = (
    "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"  # the newest at each launch
)


class ScanFleetArgs(TypedDict):
    """Ids of networks may come from other resources; all else is plain."""

    installation: str
    """The name that all of Kumomori's tags bear; the same as that of the accounts."""
    region: str
    """Where the fleet is, and what it scans: a fleet reads where its machines are."""
    vpc: Input[str]
    subnets: list[Input[str]]
    """Private ones, at least two, in different zones; by NAT or `endpoints` they reach AWS and the console."""
    console: Input[str]
    """https:// address of the console."""
    image: str
    """Of Kumomori, in a registry of ECR in this region, with digest or tag."""
    accounts: list[str]
    """12 digits each: the accounts whose role the fleet may take."""
    fleet: NotRequired[str]
    """Its name in the console. Default: default."""
    role_name: NotRequired[str]
    """The role in these accounts. Default: KumomoriScanner."""
    instance_types: NotRequired[list[str]]
    """Default: some of x86-64 with 8 GiB."""
    machines: NotRequired[int]
    """How many there are. 0 stops the fleet and keeps all it knows. Default: 2."""
    workers: NotRequired[int]
    """Scans at the same time on each. Default: 2."""
    on_demand: NotRequired[int]
    """How many of them are no spot machines. Default: 0."""
    disk_gib: NotRequired[int]
    """Of each machine: manifests, verdicts, what a scan works on. Default: 100."""
    endpoints: NotRequired[bool]
    """Whether to make endpoints for the services that the fleet calls, in `subnets`. Default: false."""
    route_tables: NotRequired[list[Input[str]]]
    """With `endpoints`: those of the subnets, for S3."""
    database_class: NotRequired[str]
    database_gib: NotRequired[int]
    database_multi_az: NotRequired[bool]
    """Default: false; a fleet whose database is away goes on when it is back."""
    database_key: NotRequired[str]
    """ARN of a key of yours that outlives this stack. Default: AWS's own."""
    deletion_protection: NotRequired[bool]
    """Of the database. Default: true."""
    final_snapshot: NotRequired[bool]
    """Whether a snapshot of the database stays when it is deleted: results that the console does not have yet. Default: true."""


class ScanFleet(pulumi.ComponentResource):
    """An autoscaling group of workers (spot), their database, the bucket of their manifests, and no way in."""

    role_arn: Output[str]
    """Of the machines: what accounts trust."""
    token_secret_arn: Output[str]
    """A secret of yours to fill: the console's token for this fleet."""
    keys_secret_arn: Output[str]
    """A secret of yours to fill: the key that manifests are sealed with."""
    bucket: Output[str]
    database_address: Output[str]
    group_name: Output[str]

    def __init__(self, name: str, args: ScanFleetArgs, opts: ResourceOptions | None = None) -> None:
        """Raises `BadArgument`."""
        super().__init__("kumomori:index:ScanFleet", checked_name(name), {}, opts)
        given = Arguments(f"ScanFleet {name}", args)
        self._name, self._region, installation = name, given.region(), given.installation()
        self._tags = tags(installation)
        vpc, subnets = given.id("vpc", "vpc"), given.ids("subnets", "subnet", least=2)
        console, image, fleet = given.url("console"), given.image(), given.fleet()
        accounts, role_name = given.accounts("accounts"), given.role_name("role_name", SCANNER)
        types = given.instance_types("instance_types", TYPES)
        machines = given.number("machines", 0, 200, default=2)
        workers = given.number("workers", 1, 32, default=2)
        on_demand = given.number("on_demand", 0, 200, default=0)
        disk_gib = given.number("disk_gib", 30, 16_384, default=100)
        endpoints, route_tables = given.flag("endpoints", default=False), given.ids("route_tables", "rtb")
        settings = DatabaseSettings.read(given, multi_az=False)
        given.end()
        if endpoints and not route_tables:
            raise given.bad("route_tables", "endpoints need those of the subnets: S3 is reached by them")

        network = Network(self, name, vpc, self._region, self._tags)
        group = network.group("work", "Workers of Kumomori; nothing comes in")
        network.out("https", group, HTTPS)
        if endpoints:
            network.endpoints(group, subnets, route_tables, accounts)
        stored = database(
            self,
            name,
            settings,
            region=self._region,
            subnets=subnets,
            group=network.database_group(group),
            tags=self._tags,
        )
        bucket, key = manifest_store(self, name, self._region, self._tags)
        token = self._secret("tok", "The console's token for the Kumomori fleet")
        keys = self._secret("key", "What the manifests of the Kumomori fleet are sealed with")
        role = self._role(image, bucket, key, stored, token, keys, accounts, role_name, settings.key)
        environment = {
            "AWS_REGION": self._region,
            "KUMOMORI_FLEET_HOME_REGION": self._region,
            "KUMOMORI_FLEET_INSTALLATION": installation,
            "KUMOMORI_FLEET_ALL_SLOTS": str(max(1, machines) * workers),
        }
        script = Output.all(console, bucket.bucket, stored.url, stored.secret, token.arn, keys.arn).apply(
            lambda known: user_data(
                Machine(
                    self._region,
                    image,
                    token=known[4],
                    keys=known[5],
                    password=known[3],
                    worker=worker_options(fleet, known[0], self._region, workers),
                    environment=environment
                    | {"KUMOMORI_FLEET_DATABASE": known[2], "KUMOMORI_FLEET_OBJECTS": f"s3://{known[1]}/{fleet}"},
                )
            )
        )
        template = self._template(script, role, group, disk_gib)
        self.group_name = self._group(template, subnets, types, machines, on_demand)
        self.role_arn, self.bucket = role.arn, bucket.bucket
        self.token_secret_arn, self.keys_secret_arn = token.arn, keys.arn
        self.database_address = stored.instance.address
        self.register_outputs(
            {
                "roleArn": self.role_arn,
                "tokenSecretArn": self.token_secret_arn,
                "keysSecretArn": self.keys_secret_arn,
                "bucket": self.bucket,
                "databaseAddress": self.database_address,
                "groupName": self.group_name,
            }
        )

    def _secret(self, suffix: str, description: str) -> aws.secretsmanager.Secret:
        """Without a value: it would stand in Pulumi's state. Whoever operates the fleet puts it there (docs/iac.md)."""
        return aws.secretsmanager.Secret(
            f"{self._name}-{suffix}",
            description=description,
            recovery_window_in_days=7,
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )

    def _role(
        self,
        image: str,
        bucket: aws.s3.Bucket,
        key: aws.kms.Key,
        stored: Database,
        token: aws.secretsmanager.Secret,
        keys: aws.secretsmanager.Secret,
        accounts: tuple[str, ...],
        role_name: str,
        database_key: str,
    ) -> aws.iam.Role:
        role = aws.iam.Role(
            f"{self._name}-work",
            assume_role_policy=document(running.service_trust("ec2.amazonaws.com")),
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )
        aws.iam.RolePolicy(
            f"{self._name}-work",
            role=role.id,
            policy=document_of(
                running.worker,
                bucket.arn,
                key.arn,
                [token.arn, keys.arn, stored.secret],
                image_repository(image),
                database_key,
            ),
            opts=ResourceOptions(parent=role),
        )
        roles = [f"arn:{partition(self._region)}:iam::{account}:role/{role_name}" for account in accounts]
        aws.iam.RolePolicy(
            f"{self._name}-take",
            role=role.id,
            policy=document(running.assume(roles)),
            opts=ResourceOptions(parent=role),
        )
        return role

    def _template(
        self, script: Output[str], role: aws.iam.Role, group: aws.ec2.SecurityGroup, disk_gib: int
    ) -> aws.ec2.LaunchTemplate:
        profile = aws.iam.InstanceProfile(
            f"{self._name}-work", role=role.name, tags=self._tags, opts=ResourceOptions(parent=role)
        )
        return aws.ec2.LaunchTemplate(
            f"{self._name}-work",
            image_id=AMI,
            instance_type=TYPES[0],
            iam_instance_profile={"arn": profile.arn},
            user_data=script.apply(lambda text: base64.b64encode(text.encode()).decode()),
            # one hop: the container shares the machine's network, anything behind another bridge gets no credentials
            metadata_options={"http_tokens": "required", "http_put_response_hop_limit": 1, "http_endpoint": "enabled"},
            network_interfaces=[
                {
                    "associate_public_ip_address": "false",
                    "delete_on_termination": "true",
                    "security_groups": [group.id],
                }
            ],
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    "ebs": {
                        "volume_size": disk_gib,
                        "volume_type": "gp3",
                        "encrypted": "true",
                        "delete_on_termination": "true",
                    },
                }
            ],
            tag_specifications=[
                {"resource_type": kind, "tags": self._tags} for kind in ("instance", "volume", "network-interface")
            ],
            update_default_version=True,
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )

    def _group(
        self,
        template: aws.ec2.LaunchTemplate,
        subnets: list[Output[str]],
        types: tuple[str, ...],
        machines: int,
        on_demand: int,
    ) -> Output[str]:
        group = aws.autoscaling.Group(
            f"{self._name}-work",
            vpc_zone_identifiers=subnets,
            min_size=machines,
            desired_capacity=machines,
            max_size=machines,
            capacity_rebalance=True,
            mixed_instances_policy={
                "instances_distribution": {
                    "on_demand_base_capacity": on_demand,
                    "on_demand_percentage_above_base_capacity": 0,
                    "spot_allocation_strategy": "price-capacity-optimized",
                },
                "launch_template": {
                    "launch_template_specification": {
                        "launch_template_id": template.id,
                        "version": template.latest_version.apply(lambda number: f"{number:.0f}"),
                    },
                    "overrides": [{"instance_type": one} for one in types],
                },
            },
            # a new template (a new image, another console) reaches the machines one after the other; scans go on elsewhere
            instance_refresh={"strategy": "Rolling", "preferences": {"min_healthy_percentage": 50}},
            max_instance_lifetime=14 * 86_400,  # no machine is older than two weeks of the system's updates
            tags=[{"key": key, "value": value, "propagate_at_launch": True} for key, value in self._tags.items()],
            region=self._region,
            opts=ResourceOptions(parent=self),
        )
        return group.name
