"""Moments in the life of a scan, between which a worker may die: tests take the place of `at` to make it do so."""

from __future__ import annotations


def at(moment: str) -> None:
    """Called with names such as `snapshot:made`."""
