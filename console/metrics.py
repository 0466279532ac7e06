"""What Prometheus is told, in a registry of each console's own."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Labels are names of routes, never paths, so a stranger cannot make new ones."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.requests: Final = Counter(
            "kumomori_console_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds: Final = Histogram(
            "kumomori_console_request_seconds",
            "Time to answer; of orders also the time waited for one.",
            ["route", "method"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.results: Final = Counter(
            "kumomori_console_results", "Results of scans: taken, or known already.", ["what"], registry=self.registry
        )
