"""An audit that is killed with kill -9 and resumed ends in the bytes of one that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "audit_kills.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the benchmark forks")
def test_kills_at_random_moments_change_no_byte():
    command = [sys.executable, str(BENCHMARK), "--kills", "4", "--examples", "160", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"]["count"] == sum(found["kills"]["during"].values()) == 4
    assert found["different"] == []
    assert {"audit.json", "outputs.parquet", "findings.parquet"} <= set(found["compared"])
