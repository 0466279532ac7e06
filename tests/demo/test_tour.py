from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_tour_ends_well_on_a_narrow_terminal() -> None:
    """Enrolment by event, one scan of an image for all made of it, an incremental second round: as `make run` shows them."""
    done = subprocess.run(
        [sys.executable, "-m", "demo.tour"],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    lines = [
        line for line in done.stdout.splitlines() if not line.startswith(("#", "$", "kumomori:", "Console", "Token"))
    ]
    assert max(map(len, lines)) <= 80
    assert done.stdout.count("ami-") == 1
    assert "web-1-clone-2" in done.stdout
    assert "webshell_php_eval" in done.stdout.replace("\n", "")
    assert "nothing to delete" in done.stdout
