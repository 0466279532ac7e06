"""Console: on Fargate behind an internal load balancer with TLS, with a database of its own (ADR 0014).

Sources: ECS Developer Guide, "Pass Secrets Manager secrets through Amazon ECS environment variables", "Monitor Amazon ECS
containers with ECS Exec"; Elastic Load Balancing User Guide, "Security policies for your Application Load Balancer".
"""

import json
from typing import Any, Final, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws
from pulumi import Input, Output, ResourceOptions

from infra.aws import running
from infra.aws.common import (
    Arguments,
    checked_name,
    document,
    document_of,
    image_repository,
    own_account,
    partition,
    tags,
)
from infra.aws.database import Database, DatabaseSettings, database
from infra.aws.network import HTTPS, Network

PORT: Final = 8420
COMMAND: Final = ("python", "-m", "console.serve")
_TASKS: Final = "ecs-tasks.amazonaws.com"
_WAIT_SECONDS: Final = 120  # a fleet's question is held back for up to 60
_TLS: Final = "ELBSecurityPolicy-TLS13-1-2-2021-06"


class ConsoleArgs(TypedDict):
    """Ids of networks may come from other resources; all else is plain."""

    installation: str
    """The name that all of Kumomori's tags bear."""
    region: str
    vpc: Input[str]
    subnets: list[Input[str]]
    """Private ones, at least two, in different zones; by NAT or endpoints they reach ECR, Secrets Manager and CloudWatch Logs."""
    clients: list[str]
    """Private networks (IPv4) that may ask the console: yours, and those of fleets."""
    host: str
    """Its name, which the certificate is for, like kumomori.example.com."""
    certificate: str
    """ARN of its certificate in ACM, in this region."""
    image: str
    """Of Kumomori, in a registry of ECR, with digest or tag."""
    zone: NotRequired[str]
    """Id of a hosted zone of Route 53 that gets the name. Default: you make the record yourself, an alias of `address`."""
    tasks: NotRequired[int]
    """How many run at once, sharing the database; 0 stops it. Default: 2."""
    shell: NotRequired[bool]
    """Whether ECS Exec opens a shell in it: needed once, for the first token. Default: false."""
    log_days: NotRequired[int]
    """How long its log is kept. Default: 90."""
    database_class: NotRequired[str]
    database_gib: NotRequired[int]
    database_multi_az: NotRequired[bool]
    """Default: true."""
    database_key: NotRequired[str]
    """ARN of a key of yours that outlives this stack. Default: AWS's own."""
    deletion_protection: NotRequired[bool]
    """Of the database and the load balancer. Default: true."""
    final_snapshot: NotRequired[bool]
    """Whether a snapshot of the database, with all findings, stays when it is deleted. Default: true."""


class Console(pulumi.ComponentResource):
    """The console for one company: private, over TLS, restarted by itself, with its findings in PostgreSQL."""

    url: Output[str]
    address: Output[str]
    """Of the load balancer, for a record of your own."""
    address_zone: Output[str]
    database_address: Output[str]
    cluster: Output[str]
    service: Output[str]

    def __init__(self, name: str, args: ConsoleArgs, opts: ResourceOptions | None = None) -> None:
        """Raises `BadArgument`."""
        super().__init__("kumomori:index:Console", checked_name(name), {}, opts)
        given = Arguments(f"Console {name}", args)
        self._name, self._region = name, given.region()
        self._tags = tags(given.installation())
        vpc, subnets = given.id("vpc", "vpc"), given.ids("subnets", "subnet", least=2)
        clients, host, certificate = given.networks("clients"), given.host("host"), given.certificate()
        image, zone, shell = given.image(), given.zone(), given.flag("shell", default=False)
        tasks, log_days = given.number("tasks", 0, 20, default=2), given.log_days("log_days")
        settings = DatabaseSettings.read(given, multi_az=True)
        given.end()

        network = Network(self, name, vpc, self._region, self._tags)
        front, task = network.group("lb", "Kumomori's console"), network.group("task", "Tasks of Kumomori's console")
        for number, client in enumerate(clients):
            network.into(f"in{number}", front, HTTPS, source=client)
        network.out("lbout", front, PORT, to=task)
        network.into("tin", task, PORT, source=front)
        network.out("https", task, HTTPS)
        stored = database(
            self,
            name,
            settings,
            region=self._region,
            subnets=subnets,
            group=network.database_group(task),
            tags=self._tags,
        )
        balancer, target, listener = self._front(vpc, subnets, front, certificate, protected=settings.protected)
        definition = self._definition(image, stored, log_days, settings.key, shell=shell)
        cluster = aws.ecs.Cluster(
            f"{name}-con", region=self._region, tags=self._tags, opts=ResourceOptions(parent=self)
        )
        service = self._service(cluster, definition, target, listener, subnets, task, tasks, shell=shell)
        if zone:
            aws.route53.Record(
                f"{name}-name",
                zone_id=zone,
                name=host,
                type="A",
                aliases=[{"name": balancer.dns_name, "zone_id": balancer.zone_id, "evaluate_target_health": False}],
                opts=ResourceOptions(parent=self),
            )
        self.url = Output.from_input(f"https://{host}")
        self.address, self.address_zone = balancer.dns_name, balancer.zone_id
        self.database_address, self.cluster, self.service = stored.instance.address, cluster.name, service.name
        self.register_outputs(
            {
                "url": self.url,
                "address": self.address,
                "addressZone": self.address_zone,
                "databaseAddress": self.database_address,
                "cluster": self.cluster,
                "service": self.service,
            }
        )

    def _front(
        self,
        vpc: Output[str],
        subnets: list[Output[str]],
        group: aws.ec2.SecurityGroup,
        certificate: str,
        *,
        protected: bool,
    ) -> tuple[aws.lb.LoadBalancer, aws.lb.TargetGroup, aws.lb.Listener]:
        options = ResourceOptions(parent=self)
        balancer = aws.lb.LoadBalancer(
            f"{self._name}-con",
            internal=True,
            load_balancer_type="application",
            subnets=subnets,
            security_groups=[group.id],
            idle_timeout=_WAIT_SECONDS,
            drop_invalid_header_fields=True,
            enable_deletion_protection=protected,
            region=self._region,
            tags=self._tags,
            opts=options,
        )
        target = aws.lb.TargetGroup(
            f"{self._name}-con",
            vpc_id=vpc,
            port=PORT,
            protocol="HTTP",
            target_type="ip",
            deregistration_delay=30,
            # 503 while the database cannot be reached, also when its password is another now: the task is then replaced
            health_check={
                "path": "/health",
                "matcher": "200",
                "interval": 15,
                "timeout": 10,
                "healthy_threshold": 2,
                "unhealthy_threshold": 4,
            },
            region=self._region,
            tags=self._tags,
            opts=options,
        )
        listener = aws.lb.Listener(
            f"{self._name}-con",
            load_balancer_arn=balancer.arn,
            port=HTTPS,
            protocol="HTTPS",
            ssl_policy=_TLS,
            certificate_arn=certificate,
            default_actions=[{"type": "forward", "target_group_arn": target.arn}],
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=balancer),
        )
        return balancer, target, listener

    def _definition(
        self, image: str, stored: Database, log_days: int, database_key: str, *, shell: bool
    ) -> aws.ecs.TaskDefinition:
        log = aws.cloudwatch.LogGroup(
            f"{self._name}-con",
            retention_in_days=log_days,
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )
        start = self._role("start", document(running.service_trust(_TASKS)))
        aws.iam.RolePolicy(
            f"{self._name}-strt",
            role=start.id,
            policy=document_of(
                lambda secret, log_arn: running.task_start([secret], image_repository(image), log_arn, database_key),
                stored.secret,
                log.arn,
            ),
            opts=ResourceOptions(parent=start),
        )
        mine = own_account(self).apply(
            lambda account: document(
                running.service_trust(
                    _TASKS, running.asked_by(account, f"arn:{partition(self._region)}:ecs:{self._region}:{account}:*")
                )
            )
        )
        task = self._role("task", mine)  # the console enters no cloud: it has no right at all
        if shell:
            aws.iam.RolePolicy(
                f"{self._name}-shel",
                role=task.id,
                policy=document(running.task_shell()),
                opts=ResourceOptions(parent=task),
            )
        return aws.ecs.TaskDefinition(
            f"{self._name}-con",
            family=f"kumomori-{self._name}",
            requires_compatibilities=["FARGATE"],
            network_mode="awsvpc",
            cpu="1024",
            memory="2048",
            runtime_platform={"cpu_architecture": "X86_64", "operating_system_family": "LINUX"},
            execution_role_arn=start.arn,
            task_role_arn=task.arn,
            container_definitions=Output.all(stored.url, stored.secret, log.name).apply(
                lambda known: json.dumps([container(image, *known[:3], region=self._region, shell=shell)])
            ),
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )

    def _role(self, suffix: str, trust: Input[str]) -> aws.iam.Role:
        return aws.iam.Role(
            f"{self._name}-{suffix}",
            assume_role_policy=trust,
            tags=self._tags,
            opts=ResourceOptions(parent=self),
        )

    def _service(
        self,
        cluster: aws.ecs.Cluster,
        definition: aws.ecs.TaskDefinition,
        target: aws.lb.TargetGroup,
        listener: aws.lb.Listener,
        subnets: list[Output[str]],
        group: aws.ec2.SecurityGroup,
        tasks: int,
        *,
        shell: bool,
    ) -> aws.ecs.Service:
        return aws.ecs.Service(
            f"{self._name}-con",
            cluster=cluster.arn,
            task_definition=definition.arn,
            desired_count=tasks,
            launch_type="FARGATE",
            enable_execute_command=shell,
            health_check_grace_period_seconds=300,  # the first task brings the database's tables up to date
            network_configuration={
                "subnets": subnets,
                "security_groups": [group.id],
                "assign_public_ip": False,
            },
            load_balancers=[{"target_group_arn": target.arn, "container_name": "console", "container_port": PORT}],
            deployment_circuit_breaker={"enable": True, "rollback": True},
            propagate_tags="SERVICE",
            region=self._region,
            tags=self._tags,
            opts=ResourceOptions(parent=cluster, depends_on=[listener]),
        )


def container(image: str, url: str, secret: str, log: str, *, region: str, shell: bool) -> dict[str, Any]:
    """The console's container. The password comes from the secret when a task starts; libpq reads it beside the address."""
    return {
        "name": "console",
        "image": image,
        "entryPoint": list(COMMAND),
        "command": [],
        "essential": True,
        "user": "10001:10001",
        "readonlyRootFilesystem": not shell,  # ECS Exec needs to write
        "linuxParameters": {"initProcessEnabled": True, "capabilities": {"drop": ["ALL"], "add": []}},
        "portMappings": [{"containerPort": PORT, "protocol": "tcp"}],
        "environment": [
            {"name": "KUMOMORI_CONSOLE_DATABASE", "value": url},
            {"name": "KUMOMORI_CONSOLE_HOST", "value": "0.0.0.0"},  # noqa: S104  in a security group of its own
            {"name": "KUMOMORI_CONSOLE_PORT", "value": str(PORT)},
        ],
        "secrets": [{"name": "PGPASSWORD", "valueFrom": f"{secret}:password::"}],
        "stopTimeout": 60,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {"awslogs-group": log, "awslogs-region": region, "awslogs-stream-prefix": "console"},
        },
    }
