"""The four notebooks whole, as plain scripts, with base models whose tokenizers are not like Llama 3's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import FAMILIES, make

from tc3lib.files import read_rows
from tc3lib.runtime.workspace import STAGES

ROOT = Path(__file__).parents[2]
CHANGES = {
    "load_in_4bit": False, "dtype": "float32", "max_seq_length": 2048, "max_steps": 4, "train_rows": 32,
    "save_steps": 2, "eval_steps": 2, "eval_rows": 8, "question_rows": 4, "max_new_tokens": 8,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2.5", "smollm2", "gemma2"], ids=["without bos", "pad is eos", "not packed"])
def test_the_notebooks_do_their_job(name, tmp_path):
    model, work = make(name, tmp_path / "base"), tmp_path / "work"
    work.mkdir()
    (work / "settings.json").write_text(json.dumps({"preset": "tiny", "model_name": str(model), **CHANGES}))
    environment = {**os.environ, "TC3_HOME": str(work), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("TC3_PRESET", None)
    said = ""
    for stage in sorted(STAGES):
        command = [sys.executable, f"notebooks/{stage}.py"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        said += done.stdout
    assert ("takes them padded" in said) == (not FAMILIES[name].packed)
    record, report = (json.loads((work / file).read_text()) for file in ("run.json", "report.json"))
    assert record["settings"]["model"]["model_name"] == str(model)
    assert record["result"]["steps"] == 4
    assert report["rows"]["eval"] == 4
    before, after = (read_rows(work / f"{file}.jsonl") for file in ("pretest", "posttest"))
    assert [row["title"] for row in before] == [row["title"] for row in after]
    loss = report["metrics"]["loss"]["parts"]["eval"]
    assert loss["after"] < loss["before"]
