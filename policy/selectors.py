"""Does a selector select an instance? Compiled once, asked for every instance."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache

from core.estate import Instance
from policy.model import Selector

Test = Callable[[Instance], bool]
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_IGNORE_CASE = {"cloud", "os"}
_READ: dict[str, Callable[[Instance], str]] = {
    "cloud": lambda one: one.place.cloud,
    "account": lambda one: one.place.account,
    "region": lambda one: one.place.region,
    "id": lambda one: one.id,
    "name": lambda one: one.name,
    "os": lambda one: one.os,
    "image": lambda one: one.image,
    "owner": lambda one: one.owner,
    "network": lambda one: one.network,
    "role": lambda one: one.tags.get("role", ""),
    "site": lambda one: one.tags.get("site") or one.place.region,
}


def everything(_: Instance) -> bool:
    return True


def compiled(selector: Selector | None) -> Test:
    """Without a selector: everything."""
    if selector is None:
        return everything
    tests: list[Test] = []
    for name, read in _READ.items():
        patterns = getattr(selector, name)
        if patterns:
            tests.append(_word(read, patterns, ignore_case=name in _IGNORE_CASE))
    if selector.address:
        tests.append(_address(selector.address))
    for key, patterns in (selector.tags or {}).items():
        tests.append(_tag(key, patterns))
    if selector.all:
        tests += [compiled(one) for one in selector.all]
    if selector.any:
        tests.append(_any([compiled(one) for one in selector.any]))
    if selector.not_:
        tests.append(_not(compiled(selector.not_)))
    return tests[0] if len(tests) == 1 else _all(tests)


def matcher(patterns: Iterable[str], *, ignore_case: bool = False) -> Callable[[str], bool]:
    """Is a text one of `patterns`? `*` stands for anything, `?` for one character."""
    words = [one.lower() if ignore_case else one for one in patterns]
    plain = frozenset(one for one in words if not re.search(r"[*?\[]", one))
    wild = [one.replace("[", "[[]") for one in words if one not in plain]
    if not wild:
        return (lambda text: text.lower() in plain) if ignore_case else plain.__contains__
    expression = re.compile("|".join(translate(one) for one in wild), re.IGNORECASE if ignore_case else 0)
    return lambda text: (text.lower() if ignore_case else text) in plain or expression.match(text) is not None


def _word(read: Callable[[Instance], str], patterns: Iterable[str], *, ignore_case: bool) -> Test:
    fits = matcher(patterns, ignore_case=ignore_case)

    def test(one: Instance) -> bool:
        value = read(one)
        return value != "" and fits(value)  # what is not known is not "anything": `role: "*"` is those that have one

    return test


def _tag(key: str, patterns: Iterable[str]) -> Test:
    fits = matcher(patterns)

    def test(one: Instance) -> bool:
        value = one.tags.get(key)
        return value is not None and fits(value)

    return test


def _address(texts: Iterable[str]) -> Test:
    networks = [ipaddress.ip_network(text) for text in texts]

    def test(one: Instance) -> bool:
        addresses = [found for text in one.addresses if (found := _parsed(text)) is not None]
        return any(address in network for address in addresses for network in networks)

    return test


@lru_cache(maxsize=100_000)
def _parsed(text: str) -> _IP | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _all(tests: list[Test]) -> Test:
    return lambda one: all(test(one) for test in tests)


def _any(tests: list[Test]) -> Test:
    return lambda one: any(test(one) for test in tests)


def _not(test: Test) -> Test:
    return lambda one: not test(one)
