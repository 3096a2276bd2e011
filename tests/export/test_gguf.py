"""GGUF files of a published model, made by llama.cpp's converter and quantiser and asked by llama.cpp. Takes minutes.

Everything comes from the package index: the source of llama-cpp-python, which is compiled here and carries the
converter, and the real SmolLM2 (`data/make_smollm2.py`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import run

from tc3lib import export
from tc3lib.export import gguf
from tc3lib.files import write_rows

ROOT = Path(__file__).parents[2]
ONLINE = {**os.environ, "HF_HUB_OFFLINE": "0", "CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """A folder with llama-cpp-python, apart from the environment, whose packages are pinned."""
    folder = tmp_path_factory.mktemp("llama_cpp")
    packages = [f"llama-cpp-python=={gguf.VERSION}", "diskcache==5.6.3"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*install, *packages], check=True, env=ONLINE)
    return folder


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    script = [sys.executable, ROOT / "data" / "make_smollm2.py", folder]
    subprocess.run(script, check=True, env={**ONLINE, "PYTHONPATH": str(ROOT)})
    return folder


@pytest.mark.llama_cpp
def test_gguf_files_of_a_real_model_answer_as_its_adapter(
    config, rows, llama_cpp, smollm2, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(llama_cpp)
    monkeypatch.setenv("PYTHONPATH", str(llama_cpp))
    monkeypatch.setattr(gguf, "_UNSLOTH", tmp_path / "none")
    monkeypatch.setattr(gguf, "_OURS", tmp_path / "llama.cpp")
    work = tmp_path / "work"
    config = config.change(
        model_name=str(smollm2), load_in_4bit=False, dtype="float32", max_steps=8, gradient_accumulation_steps=1,
        learning_rate=2e-3, warmup_steps=1, save_strategy="no", eval_strategy="no", eval_on_start=False,
        max_new_tokens=40, export_to=("gguf", "ollama"),
    )  # fmt: skip
    run(config, rows, work)
    write_rows(work / "questions.jsonl", [{**row, "part": "eval"} for row in rows[:8]])
    record = export.export(work, config)
    assert {name: found["failed"] for name, found in record["formats"].items()} == {
        "merged": [], "f16": [], "q8_0": [], "q4_k_m": [],
    }  # fmt: skip
    assert record["formats"]["f16"]["same_prompt"] == 1
    assert record["formats"]["f16"]["program"] == f"llama-cpp-python {gguf.VERSION}"
    sizes = [(work / "export" / "gguf" / f"model-{kind}.gguf").stat().st_size for kind in ("F16", "Q8_0", "Q4_K_M")]
    assert sizes == sorted(sizes, reverse=True)
    assert (work / "export" / "Modelfile").read_text().startswith("FROM ./gguf/model-Q8_0.gguf\n")
    assert "downloading llama.cpp's converter" in capsys.readouterr().out
