"""Training under SIGKILL: nothing that was committed is lost, no litter, and the end is that of a run left alone.

`TC3_CRASH` sets the number of kills, `TC3_CRASH_SEED` makes other ones.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS, SEED = os.environ.get("TC3_CRASH", "20"), os.environ.get("TC3_CRASH_SEED", "1")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_adapter_losses_and_files(tmp_path):
    script = Path(__file__).parents[1] / "helpers" / "crash_run.py"
    command = [sys.executable, str(script), str(tmp_path / "crash"), KILLS, SEED]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {SEED}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["problems"] == [], f"seed {SEED}"
    assert result["kills"] == int(KILLS)
