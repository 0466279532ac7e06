"""That the measurement of block reading runs and measures what it says, not what the figures are."""

from __future__ import annotations

import pytest

from bench.blocks import block_reading, read, server


@pytest.mark.slow
def test_the_section() -> None:
    text = block_reading(60, 1).markdown()
    for words in ("quota 400/s", "boto3 get_snapshot_block", "HTTP client alone", "Two processes"):
        assert words in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "client", "boto3"])
def test_each_reader_reads_all(kind: str) -> None:
    with server(20, 0) as url:
        (found,) = read(kind, url, [(5, 15)], [None])
    assert found.blocks == 15
    assert found.per_second > 0
    assert found.cpu_milliseconds > 0
    assert found.peak_bytes > 10_000_000
