"""Resolving 10,000 instances against 200 policies: reading, checking, resolving and counting, on one core."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from bench.measure import ROOT, median, run
from bench.page import Section, seconds, spread
from core.estate import Instance, Place
from policy.compare import survey
from policy.document import read_text
from policy.resolve import Resolved, Resolver
from policy.tree import plant

_GOAL_SECONDS: Final = 5.0
_NOW: Final = datetime(2027, 1, 1, tzinfo=UTC)


def policies(instances: int, count: int, rounds: int) -> Section:
    """CPU seconds of a process that resolves `instances` against `count` policies, in two shapes of the tree."""
    rows = []
    notes = []
    for shape, words in (("tree", "in a tree of four levels"), ("flat", "all beside each other below one")):
        code = f"import sys; sys.path.append({str(ROOT)!r}); from bench.policies import work; work({shape!r}, {instances}, {count})"
        usages = [run([sys.executable, "-c", code]) for _ in range(rounds)]
        cpu = [usage.cpu_seconds for usage in usages]
        parts = measure(shape, instances, count)
        rows.append([words, seconds(median(cpu)), spread(cpu), *(seconds(part) for part in parts.values())])
    notes.append(f"Goal: {_GOAL_SECONDS:g} s for 10,000 instances and 200 policies.")
    about = (
        f"{instances:,} instances with four tags and {count} policies with selectors, locks and merged lists, one profile for ten "
        f"policies. CPU of the whole process, {rounds} rounds; then alone: reading and checking the YAML, resolving, and "
        "counting what each selector selects."
    )
    head = ["policies", "CPU s", "lowest-highest", "read s", "resolve s", "count s"]
    return Section("Resolving policies", about, head, rows, notes)


def measure(shape: str, instances: int, count: int) -> dict[str, float]:
    """CPU seconds of each part in this process. Raises `AssertionError` if an instance has no policy."""
    text = "".join(documents(shape, count))
    start = time.process_time()
    tree = plant(read_text("bench.yaml", text))
    middle = time.process_time()
    resolver = Resolver(tree, _NOW)
    found: Counter[str] = Counter()
    machines = list(estate(instances, count))
    for one in machines:
        resolved = resolver.resolve(one)
        assert isinstance(resolved, Resolved), resolved
        found[resolved.policy] += 1
    assert len(found) >= min(count, instances) // 2, len(found)
    end = time.process_time()
    report = survey(tree, machines, _NOW)
    assert {row.title.strip(): row.holds for row in report.rows if row.holds and "profile" not in row.title} == found
    return {"read": middle - start, "resolve": end - middle, "count": time.process_time() - end}


def work(shape: str, instances: int, count: int) -> None:
    """What is measured as a process of its own."""
    measure(shape, instances, count)


def documents(shape: str, count: int) -> Iterator[str]:
    """`count` policies: `flat`, or a `tree` in which every policy has up to six below it."""
    for number in range(count):
        parent = 0 if shape == "flat" else (number - 1) // 6
        yield f"""---
apiVersion: kumomori/v1
kind: Policy
metadata: {{name: p{number}{f", parent: p{parent}" if number else ""}}}
{f'selector: {{tags: {{group: "{_group(shape, number)}*"}}, os: linux}}' if number else "lock: [scan.at_launch, evidence]"}
settings:
  scan: {{max_file_bytes: {number + 1}, schedule: {{cron: "0 {number % 24} * * *"}}}}
  exclusions: {{paths: [/srv/{number}/**]}}
  limits: {{month_usd: {number}}}
"""
        if number % 10 == 0:
            yield f"""---
apiVersion: kumomori/v1
kind: Profile
metadata: {{name: profile-{number}, parent: p{number}}}
when: {{tags: {{env: dev}}, not: {{address: 10.1.0.0/16}}}}
until: never
settings: {{scan: {{depth: full}}}}
"""


def _group(shape: str, number: int) -> str:
    """The way down to a policy, so that a child's instances are its parent's, too."""
    if shape == "flat":
        return f"/{number}/"
    way = []
    while number:
        way.append(number)
        number = (number - 1) // 6
    return "/" + "".join(f"{one}/" for one in reversed(way))


def estate(instances: int, count: int) -> Iterator[Instance]:
    """Instances whose `group` names a policy's way in both shapes."""
    for number in range(instances):
        group = _group("tree" if number % 2 else "flat", number % (count - 1) + 1)
        tags = {"group": group, "env": "dev" if number % 3 else "prod", "team": f"t{number % 40}", "cost": "4711"}
        place = Place("aws", f"{number % 40:012d}", "eu-central-1")
        address = f"10.{number >> 14}.{number >> 8 & 63}.{number & 255}"
        yield Instance(place, f"i-{number:017x}", os="linux", addresses=(address,), tags=tags)
