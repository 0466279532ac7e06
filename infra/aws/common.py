"""What the components have in common: checked arguments, tags, names that fit.

Every argument that decides about names, networks and rights is plain, so that a wrong one is refused before anything is made.
Limits: IAM and STS quotas (a role's name: 64 characters); Elastic Load Balancing API, CreateLoadBalancer (32); RDS API,
CreateDBInstance (63); tagging (a value: 256).
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import pulumi
import pulumi_aws as aws
from pulumi.output import Unknown

from infra.aws.policies import INSTALLATION, Policy

T = TypeVar("T")
MOST_NAME: Final = (
    20  # + suffix of ours (at most 4) + what Pulumi adds (8) <= 32, the shortest limit of all that we name
)
LOG_DAYS: Final = (
    1,
    3,
    5,
    7,
    14,
    30,
    60,
    90,
    120,
    150,
    180,
    365,
    400,
    545,
    731,
    1096,
    1827,
    2192,
    2557,
    2922,
    3288,
    3653,
)
MOST_ITEMS: Final = 100
PRIVATE: Final = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))

_NAME: Final = re.compile(r"[a-z](-?[a-z0-9])*")
_INSTALLATION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_ROLE_NAME: Final = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")
_EXTERNAL_ID: Final = re.compile(r"[A-Za-z0-9+=,.@:/_-]{2,1224}")
_ROLE: Final = re.compile(r"arn:(aws|aws-cn|aws-us-gov):iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,576}")
_KEY: Final = re.compile(r"arn:(aws|aws-cn|aws-us-gov):kms:[a-z0-9-]{5,25}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")
_CERTIFICATE: Final = re.compile(r"arn:(aws|aws-cn|aws-us-gov):acm:[a-z0-9-]{5,25}:[0-9]{12}:certificate/[a-f0-9-]{36}")
_IMAGE: Final = re.compile(
    r"(?P<account>[0-9]{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]{5,25})\.amazonaws\.com(\.cn)?/"
    r"(?P<name>[a-z0-9]+([._/-][a-z0-9]+)*)(@sha256:[0-9a-f]{64}|:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))"
)
_HOST: Final = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_URL: Final = re.compile(r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]{0,200})?")
_ZONE: Final = re.compile(r"Z[A-Z0-9]{3,31}")
_UNIT: Final = re.compile(r"ou-[a-z0-9]{4,32}-[a-z0-9]{8,32}|r-[a-z0-9]{4,32}")
_DB_CLASS: Final = re.compile(r"db\.[a-z0-9]{1,12}\.[a-z0-9]{1,12}")
_INSTANCE_TYPE: Final = re.compile(r"[a-z][a-z0-9-]{1,19}\.[a-z0-9-]{1,16}")
_FLEET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class BadArgument(pulumi.InputPropertiesError):
    """An argument that cannot work. The text names the component, the argument, and what to write.

    `message` is what programs in other languages are told: there the argument is spelt as in the schema. It is no ValueError, as Pulumi
    hides those in texts of its own if they come up late.
    """

    def __init__(self, text: str, message: str = "") -> None:
        super().__init__(message or text, [])
        self.args = (text,)


def no_such_argument(component: str, name: str, known: Iterable[str]) -> BadArgument:
    return BadArgument(f"{component}: {_shown(name)}: there is no such argument; there are {', '.join(sorted(known))}")


def checked_name(name: str) -> str:
    """The component's own name: all that it makes is named after it. Raises `BadArgument`."""
    if not isinstance(name, str) or len(name) > MOST_NAME or not _NAME.fullmatch(name):
        raise BadArgument(
            f"{_shown(name)}: a component's name begins with a letter and has at most {MOST_NAME} small letters, digits and single "
            "hyphens, as resources of AWS are named after it"
        )
    return name


class Arguments:
    """The arguments of one component, read by name. Each method raises `BadArgument`; so does `end` for one that nobody read."""

    def __init__(self, component: str, given: Mapping[str, Any]) -> None:
        self._component = component
        self._given = dict(given)
        self._read: set[str] = set()

    def _take(self, name: str) -> Any:
        self._read.add(name)
        return self._given.get(name)

    def has(self, name: str) -> bool:
        return self._take(name) is not None

    def bad(self, name: str, words: str) -> BadArgument:
        first, *rest = name.split("_")
        spelt = first + "".join(map(str.capitalize, rest))
        return BadArgument(f"{self._component}: {name}: {words}", f"{self._component}: {spelt}: {words}")

    def _wrong(self, name: str, value: Any, words: str) -> BadArgument:
        if value is None:
            return self.bad(name, f"is missing; write {words}")
        if isinstance(value, pulumi.Output | Unknown):
            return self.bad(name, f"is no plain value but an output or a secret; write {words}")
        return self.bad(name, f"{_shown(value)} is none; write {words}")

    def end(self) -> None:
        if unknown := sorted(set(self._given) - self._read):
            raise no_such_argument(self._component, unknown[0], self._read)

    def text(self, name: str, pattern: re.Pattern[str], words: str, *, default: str | None = None) -> str:
        value = self._take(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._wrong(name, value, words)
        return value

    def texts(
        self, name: str, pattern: re.Pattern[str], words: str, *, least: int = 0, most: int = MOST_ITEMS
    ) -> tuple[str, ...]:
        value = self._take(name)
        if value is None:
            value = ()
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self._wrong(name, value, f"{words}, in a list")
        if not least <= len(value) <= most:
            raise self.bad(name, f"has {len(value)} items; give {least} to {most}: {words}")
        for one in value:
            if not isinstance(one, str) or not pattern.fullmatch(one):
                raise self._wrong(name, one, words)
        if len(set(value)) != len(value):
            raise self.bad(name, "names something twice; name it once")
        return tuple(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def number(self, name: str, least: int, most: int, *, default: int) -> int:
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value % 1:
            raise self._wrong(name, value, f"a whole number from {least} to {most}")
        return int(value)

    def later(self, name: str, pattern: re.Pattern[str], words: str) -> pulumi.Output[str]:
        """One that another resource may give: checked at once if it is known, else when it is."""
        value = self._take(name)
        if value is None or isinstance(value, str):
            return pulumi.Output.from_input(self._matching(name, value, pattern, words))
        return pulumi.Output.from_input(value).apply(lambda one: self._matching(name, one, pattern, words))

    def ids(self, name: str, kind: str, *, least: int = 0) -> list[pulumi.Output[str]]:
        """Ids of `kind` (`subnet`: subnet-0a1b…), each of which may come from another resource."""
        value = self._take(name)
        if value is None:
            value = ()
        if isinstance(value, str) or not isinstance(value, Sequence) or not least <= len(value) <= MOST_ITEMS:
            raise self._wrong(
                name,
                value,
                f"a list of {least} to {MOST_ITEMS} ids like {kind}-0a1b2c3d, each of which may be an output",
            )
        return [self._id(f"{name}[{number}]", one, kind) for number, one in enumerate(value)]

    def id(self, name: str, kind: str) -> pulumi.Output[str]:
        return self._id(name, self._take(name), kind)

    def _id(self, name: str, value: Any, kind: str) -> pulumi.Output[str]:
        pattern, words = re.compile(rf"{kind}-[0-9a-f]{{8,17}}"), f"an id like {kind}-0a1b2c3d"
        if value is None or isinstance(value, str):
            return pulumi.Output.from_input(self._matching(name, value, pattern, words))
        return pulumi.Output.from_input(value).apply(lambda one: self._matching(name, one, pattern, words))

    def _matching(self, name: str, value: Any, pattern: re.Pattern[str], words: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._wrong(name, value, words)
        return value

    # what several components ask for

    def installation(self) -> str:
        return self.text("installation", _INSTALLATION, "the installation's name: up to 63 letters, digits and ._-")

    def account(self, name: str = "account") -> str:
        return self.text(name, _ACCOUNT, "the account's 12 digits")

    def accounts(self, name: str) -> tuple[str, ...]:
        return self.texts(name, _ACCOUNT, "the 12 digits of accounts", least=1)

    def regions(self, name: str = "regions", *, least: int = 1) -> tuple[str, ...]:
        return self.texts(name, _REGION, "regions like eu-central-1", least=least, most=40)

    def region(self) -> str:
        return self.text("region", _REGION, "a region like eu-central-1")

    def role_name(self, name: str, default: str) -> str:
        return self.text(name, _ROLE_NAME, "a role's name: up to 64 letters, digits and +=,.@_-", default=default)

    def external_id(self, default: str | None = None) -> str:
        return self.text("external_id", _EXTERNAL_ID, "2 to 1224 letters, digits and +=,.@:/_-", default=default)

    def units(self) -> tuple[str, ...]:
        return self.texts(
            "units", _UNIT, "organizational units like ou-ab12-11111111, or the root like r-ab12", least=1
        )

    def instance_class(self, name: str, default: str) -> str:
        return self.text(name, _DB_CLASS, f"a class of RDS like {default}", default=default)

    def instance_types(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        found = self.texts(name, _INSTANCE_TYPE, f"types of instances like {default[0]}, of x86-64", most=20)
        return found or default

    def role(self, name: str) -> pulumi.Output[str]:
        return self.later(name, _ROLE, "the ARN of a role, like arn:aws:iam::111122223333:role/KumomoriFleet")

    def keys(self, name: str) -> tuple[str, ...]:
        return self.texts(name, _KEY, "ARNs of keys, like arn:aws:kms:eu-central-1:111122223333:key/…; no aliases")

    def key(self, name: str) -> str:
        return self.text(
            name, _KEY, "the ARN of a key, like arn:aws:kms:eu-central-1:111122223333:key/…; no alias", default=""
        )

    def certificate(self) -> str:
        return self.text("certificate", _CERTIFICATE, "the ARN of a certificate of ACM, in the console's region")

    def image(self) -> str:
        words = "an image in ECR with its digest or a tag that is not latest, like 111122223333.dkr.ecr.eu-central-1.amazonaws.com/kumomori@sha256:…"
        value = self.text("image", _IMAGE, words)
        if value.endswith(":latest"):
            raise self.bad("image", f"latest is another one tomorrow; write {words}")
        return value

    def host(self, name: str) -> str:
        return self.text(name, _HOST, "a name like kumomori.example.com")

    def zone(self) -> str:
        return self.text("zone", _ZONE, "the id of a hosted zone, like Z0123456789ABCDEFGHIJ", default="")

    def log_days(self, name: str) -> int:
        value = self.number(name, 1, 3653, default=90)
        if value not in LOG_DAYS:
            raise self.bad(name, f"{value} is none that CloudWatch knows; write one of {', '.join(map(str, LOG_DAYS))}")
        return value

    def url(self, name: str) -> pulumi.Output[str]:
        return self.later(name, _URL, "an address like https://kumomori.example.com; tokens never go without TLS")

    def fleet(self) -> str:
        return self.text("fleet", _FLEET, "the fleet's name: up to 63 letters, digits and ._-", default="default")

    def networks(self, name: str) -> tuple[str, ...]:
        """Private networks (IPv4). A public one, or one so large that it holds public addresses, is refused."""
        found = self.texts(name, re.compile(r"[0-9./]{9,18}"), "private networks like 10.0.0.0/8", least=1)
        for one in found:
            try:
                network = ipaddress.IPv4Network(one)
            except ValueError:
                raise self.bad(name, f"{_shown(one)} is no network; write one like 10.0.0.0/8") from None
            if not any(network.subnet_of(private) for private in PRIVATE):
                raise self.bad(
                    name, f"{one} is not private: nothing here is for the internet; write one like 10.0.0.0/8"
                )
        return found


def _shown(value: object) -> str:
    """Bounded and escaped: arguments are not all written by hand."""
    return repr(value)[:80] if isinstance(value, str) else f"a value of type {type(value).__name__}"


def tags(installation: str) -> dict[str, str]:
    return {INSTALLATION: installation}


def default_external_id(installation: str, account: str) -> str:
    """One for each account and installation. It is no secret: it keeps a fleet of another installation from being sent here."""
    return "kumomori-" + hashlib.sha256(f"{installation} {account}".encode()).hexdigest()[:24]


def own_account(parent: pulumi.Resource) -> pulumi.Output[str]:
    """The account in which what `parent` makes is made."""
    return aws.get_caller_identity_output(opts=pulumi.InvokeOutputOptions(parent=parent)).account_id


def partition(region: str) -> str:
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def image_repository(image: str) -> str:
    """The ARN of the repository that `image` is in."""
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise BadArgument(f"{_shown(image)} is no image in ECR")
    region = match["region"]
    return f"arn:{partition(region)}:ecr:{region}:{match['account']}:repository/{match['name']}"


def document(policy: Policy) -> str:
    return json.dumps(policy, separators=(",", ":"))


def document_of(make: Callable[..., Policy], *given: pulumi.Input[Any]) -> pulumi.Output[str]:
    """The policy that `make` makes of values that are known only when other resources are there."""
    return pulumi.Output.all(*given).apply(lambda known: document(make(*known)))
