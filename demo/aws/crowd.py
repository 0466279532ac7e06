"""Very many instances that cost nothing: one real instance and its volume, told over and over under other names."""

from __future__ import annotations

import re
from typing import Any

from demo.aws.ec2_params import Params, page_of
from demo.aws.ec2_protocol import answer_ec2
from demo.aws.errors import Answer, ApiError

_LARGEST_PAGE = 1000
_SETS = {"DescribeInstances": "reservationSet", "DescribeVolumes": "volumeSet"}


class Crowd:
    """The `count` instances of one account in one region: `i-00…01`, `vol-00…01` and so on, named `crowd-1` …

    `instance` and `volume` are what DescribeInstances and DescribeVolumes say of the real ones.
    """

    def __init__(self, count: int, instance: dict[str, Any], volume: dict[str, Any], names: dict[str, str]) -> None:
        self.count = count
        self._names = names
        self._items = {
            "DescribeInstances": self._template("DescribeInstances", instance),
            "DescribeVolumes": self._template("DescribeVolumes", volume),
        }

    def answers(self, operation: str) -> bool:
        return operation in _SETS

    def _template(self, operation: str, result: dict[str, Any]) -> str:
        text = answer_ec2(operation, result).body.decode()
        name = _SETS[operation]
        item = text[text.index(f"<{name}>") + len(name) + 2 : text.index(f"</{name}>")].replace("%", "%%")
        for real, pattern in self._names.items():
            item = item.replace(real, pattern)
        return item

    def answer(self, operation: str, params: Params) -> Answer:
        """A page by MaxResults and NextToken, or those with the ids asked for. No filter but that by instance is known."""
        ids = list(params.get("InstanceIds") or params.get("VolumeIds") or ())
        for wanted in params.get("Filters") or ():
            if wanted.get("Name") != "attachment.instance-id":
                raise ApiError("InvalidParameterValue", f"The filter '{wanted.get('Name')}' is invalid here")
            ids += wanted.get("Values") or ()
        if ids:
            numbers, token = [self._number(name) for name in ids], ""
        else:
            page, token = page_of(range(1, self.count + 1), params, _LARGEST_PAGE)
            numbers = list(page)
        item, name = self._items[operation], _SETS[operation]
        body = "".join(item % {"n": number} for number in numbers)
        more = f"<nextToken>{token}</nextToken>" if token else ""
        text = f"<{operation}Response><{name}>{body}</{name}>{more}</{operation}Response>"
        return Answer(200, [("Content-Type", "text/xml;charset=UTF-8")], text.encode())

    def _number(self, name: str) -> int:
        match = re.fullmatch(r"(?:i|vol)-([0-9a-f]{17})", str(name))
        if match is None or not 1 <= int(match[1], 16) <= self.count:
            kind = "InstanceID" if str(name).startswith("i-") else "Volume"
            raise ApiError(f"Invalid{kind}.NotFound", f"'{name}' does not exist")
        return int(match[1], 16)


def pattern(prefix: str) -> str:
    """How the id of a kind of resource is written for each number."""
    return f"{prefix}-%(n)017x"
