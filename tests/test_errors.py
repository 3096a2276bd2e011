import os
import subprocess
import sys
from pathlib import Path

import pytest

from tc3lib.errors import Tc3Error

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def test_a_notebook_shows_the_line_alone():
    assert Tc3Error("no file x: do y.")._render_traceback_() == ["Tc3Error: no file x: do y."]


@pytest.mark.parametrize(
    ("script", "preset", "message"),
    [
        ("01_prepare", "llama3_8b", "no trn.json in "),
        ("02_pretest", "tiny", "02_pretest needs questions.jsonl, which is not in "),
        ("03_train", "llama3_8b", "03_train needs train.jsonl, which is not in "),
    ],
)
def test_a_script_shows_the_line_alone(tmp_path, script, preset, message):
    environment = {**os.environ, "TC3_HOME": str(tmp_path), "TC3_PRESET": preset, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, NOTEBOOKS / f"{script}.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Tc3Error: {message}")
    assert len(done.stderr.splitlines()) == 1
