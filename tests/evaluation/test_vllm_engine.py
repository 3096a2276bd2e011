"""Titles described with a stand-in for vLLM, that has its names and arguments and answers by transformers."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from runs import randomise

from tc3lib import describe, model_loading
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation
from tc3lib.export import merge, verify
from tc3lib.files import read_rows, write_json
from tc3lib.prompts import encode_prompt, save_tokenizer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "helpers" / "vllm_package"
TITLES = [
    "Steel Mug", "Mug 1", "Book of Tests", "Lamp, blue", "Oak table", "Mug <|end_of_text|>", "Kettle," * 40, "A",
    "Bowl", "Steel Mug",
]  # fmt: skip

# As in vLLM's environment, and in small parts, each part soon kept.
COMMAND = """
import sys
for name in ("unsloth", "peft", "trl", "datasets", "bitsandbytes", "rapidfuzz", "pandas", "matplotlib"):
    sys.modules[name] = None
from tc3lib import describe
from tc3lib.evaluation import vllm_engine
describe.CHUNK, vllm_engine.KEPT_AT_ONCE = 4, 2
describe.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def tuned(config, tmp_path_factory):
    """A work folder with an adapter, its settings, and what the built-in engine answers with it."""
    work = tmp_path_factory.mktemp("tuned")
    config = config.change(load_in_4bit=False, dtype="float32", max_new_tokens=48)
    model, tokenizer = model_loading.load_base_model(config.model)
    model = randomise(model_loading.add_lora(model, config.lora), 0.05)
    model.save_pretrained(work / "lora_model")
    save_tokenizer(tokenizer, work / "lora_model")
    settings = {"preset": "tiny", "load_in_4bit": False, "dtype": "float32", "max_new_tokens": 48}
    write_json(work / "settings.json", settings)
    return work, config, tokenizer, generation.generate(model, tokenizer, TITLES, config)


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """The module, with the stand-in for vLLM, and what that logs."""
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "log"))
    engine = "tc3lib.evaluation.vllm_engine"
    yield importlib.import_module(engine), tmp_path / "log"
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm" or name == engine]:
        del sys.modules[name]


def test_a_catalogue_is_described_as_by_the_built_in_engine_and_goes_on_after_a_kill(
    tuned, engine, tmp_path, monkeypatch, capsys
):
    (work, _, tokenizer, expected), (_, log) = tuned, engine
    source = tmp_path / "new.jsonl"
    source.write_text("".join(json.dumps({"title": title, "uid": str(n)}) + "\n" for n, title in enumerate(TITLES)))
    monkeypatch.delenv("TC3_PRESET", raising=False)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGE}", "FAKE_VLLM_KILLED_AFTER": "7"}
    command = [str(work), str(source), "--engine", "vllm"]
    killed = subprocess.run([sys.executable, "-c", COMMAND, *command], capture_output=True, text=True, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "engine: vllm (--engine)" in killed.stdout
    assert not (work / "new.described.jsonl").exists()
    (left,) = [line["process"] for line in map(json.loads, log.read_text().splitlines()) if "process" in line]
    gone, waited = lambda: not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE, 0
    while not gone():
        waited += 1
        assert waited < 100, "vLLM's process was left"
        time.sleep(0.1)
    monkeypatch.setattr(describe, "CHUNK", 4)
    describe.main(command)
    out = capsys.readouterr().out
    assert "4 of 4 answers were there already" in out
    assert "2 of 4 answers were there already" in out
    rows = read_rows(work / "new.described.jsonl")
    assert [(row["uid"], row["title"]) for row in rows] == [(str(n), title) for n, title in enumerate(TITLES)]
    assert [(row["answer"], row["eos"]) for row in rows] == [(answer.text, answer.eos) for answer in expected]
    assert {row["eos"] for row in rows} == {True, False}
    assert not list(work.glob("*.partial"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [line for line in lines if "ids" in line]
    assert len(asked) == 7 + 4  # of seven, six had been kept
    assert {tuple(line["ids"]) for line in asked} == {tuple(encode_prompt(tokenizer, title)) for title in TITLES}
    assert all(line["sampling"]["max_tokens"] == 48 for line in asked)
    assert any(len(line["new"]) < 48 for line in asked)  # it stops by itself, and is not cut here
    assert [line["adapter"] for line in lines if "adapter" in line] == [str(work / "lora_model")] * 2
    assert lines[-1] == {"shutdown": True}


def test_merged_weights_are_taken_where_they_were_proved_for_this_adapter(tuned, engine):
    work, config, _, expected = tuned
    module, log = engine
    adapter = module.Weights(Path(config.model.model_name), work / "lora_model")
    assert module.weights(work, config) == adapter
    merge.merge(work / "lora_model", adapter.model, work / "export" / "merged", config.prompting)
    record = {"adapter_sha256": verify.adapter_digest(work), "formats": {"merged": {"failed": []}}}
    for other in (
        {}, record | {"adapter_sha256": "another's"}, record | {"formats": {}},
        record | {"formats": {"merged": {"failed": ["its loss"]}}},
    ):  # fmt: skip
        write_json(work / "export.json", other)
        assert module.weights(work, config) == adapter
    elsewhere = config.change(export_base=config.model.model_name)
    with pytest.raises(Tc3Error, match=r"export_base='.*' was not tried with this adapter: run 05_export"):
        module.weights(work, elsewhere)
    write_json(work / "export.json", record | {"formats": {}, "base": config.model.model_name})
    assert module.weights(work, elsewhere) == adapter
    write_json(work / "export.json", record)
    assert module.weights(work, config) == module.Weights(work / "export" / "merged", None)
    with module.Engine(work, config, TITLES, 0.5) as loaded:
        answers = loaded.generate(TITLES[:3])
    (work / "export.json").unlink()
    assert [answer.ids[:2] for answer in answers] == [answer.ids[:2] for answer in expected[:3]]  # in 16 bit
    arguments = json.loads(log.read_text().splitlines()[0])["arguments"]
    assert (arguments["model"], arguments["enable_lora"]) == (str(work / "export" / "merged"), False)
    assert (arguments["gpu_memory_utilization"], arguments["dtype"]) == (0.5, "float32")


def test_with_an_adapter_a_gpu_computes_in_16_bit(tuned, engine, monkeypatch, capsys):
    """vLLM's kernels for adapters there assert it, minutes after the start: seen on an H200."""
    work, config, *_ = tuned
    module, log = engine
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    for supported, short in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(module.torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        log.unlink(missing_ok=True)
        module.Engine(work, config, TITLES).__exit__()
        assert json.loads(log.read_text().splitlines()[0])["arguments"]["dtype"] == short
        assert f"in {short}: on a GPU vLLM takes no adapter in float32" in capsys.readouterr().out


def test_there_is_room_for_the_longest_prompt_on_every_gpu_and_for_the_rank(tuned, engine, monkeypatch):
    work, config, tokenizer, expected = tuned
    module, log = engine
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 3)
    title = "Kettle of steel " * 300
    with module.Engine(work, config, ["Steel Mug"] * 1500 + [title], None) as loaded:
        assert [answer.text for answer in loaded.generate(["Steel Mug"])] == [expected[0].text]
        (answer,) = loaded.generate([title])
    assert answer.tokens == 48 or answer.eos
    arguments = json.loads(log.read_text().splitlines()[0])["arguments"]
    assert arguments["max_model_len"] == len(encode_prompt(tokenizer, title, config.prompting)) + 48
    assert (arguments["data_parallel_size"], arguments["max_lora_rank"]) == (3, 16)
    assert arguments["gpu_memory_utilization"] == 0.92
    assert arguments["generation_config"] == "vllm"
    with pytest.raises(Tc3Error, match=r"the prompt with the title 'Kettle of .* has .* tokens; the model takes 2,048"):
        module.Engine(work, config, ["Steel Mug", title * 4])


def test_with_an_adapter_no_more_titles_are_asked_at_once_than_have_a_graph(tuned, engine, monkeypatch):
    work, config, *_ = tuned
    module, log = engine
    monkeypatch.setattr(module, "WITH_ADAPTER", 2)
    monkeypatch.setattr(module.torch.cuda, "device_count", lambda: 2)
    with module.Engine(work, config.change(max_new_tokens=1), TITLES) as loaded:
        assert len(loaded.generate(TITLES)) == len(TITLES)
    lines = map(json.loads, log.read_text().splitlines())
    assert max(line["at_once"] for line in lines if "at_once" in line) == 4


def test_answers_of_another_adapter_or_other_settings_are_not_taken_for_these(tuned, engine, tmp_path):
    work, config, _, expected = tuned
    module, log = engine
    kept = tmp_path / "kept"
    with module.Engine(work, config, TITLES) as loaded:
        loaded.generate(TITLES[:2], kept)
        asked = len(log.read_text().splitlines())
        assert loaded.generate(TITLES[:2], kept) == expected[:2]
        assert len(log.read_text().splitlines()) == asked
    with module.Engine(work, config.change(max_new_tokens=4), TITLES) as loaded:
        assert [answer.tokens for answer in loaded.generate(TITLES[:2], kept)] == [4, 4]


def test_what_vllm_raises_is_one_line(tuned, engine, monkeypatch):
    work, config, *_ = tuned
    module, _ = engine
    with (
        module.Engine(work, config, ["A"]) as loaded,
        pytest.raises(
            Tc3Error, match=r"vLLM broke off: The decoder prompt .* longer .*\. Run it again, what was answered is kept"
        ),
    ):
        loaded.generate(["A", "A title longer than what was said to be asked " * 9])
    monkeypatch.setenv("FAKE_VLLM_FAILS", "Engine core initialization failed.\nSee root cause above")
    with pytest.raises(Tc3Error, match=r"cannot load .* with the adapter in .*: Engine core initialization failed"):
        module.Engine(work, config, ["A"])
    monkeypatch.setitem(sys.modules, "tc3lib.evaluation.vllm_engine", None)
    with pytest.raises(Tc3Error, match=r"--engine vllm: .* Install tc3lib\.evaluation\.vllm_engine, or --engine b"):
        describe.opened_engine("vllm", work, config, ["A"], None).__enter__()


def test_auto_takes_vllm_where_it_is_installed_and_there_is_a_gpu(monkeypatch, capsys):
    there, cards = {"vllm", "unsloth"}, [1]
    monkeypatch.setattr(describe, "find_spec", lambda name: name in there or None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards[0])
    assert describe.choose_engine("auto") == "vllm"
    assert capsys.readouterr().out == "engine: vllm (vLLM is installed)\n"
    assert describe.choose_engine("builtin") == "builtin"
    cards[0] = 0
    assert describe.choose_engine("vllm") == "vllm"  # vLLM says itself what it lacks
    capsys.readouterr()
    assert describe.choose_engine("auto") == "builtin"
    assert capsys.readouterr().out == "engine: builtin (vLLM needs a GPU, and there is none)\n"
    there.remove("vllm")
    cards[0] = 1
    assert describe.choose_engine("auto") == "builtin"
    assert "vLLM, which is faster, is not installed here" in capsys.readouterr().out
    with pytest.raises(Tc3Error, match=r"--engine vllm: vLLM is not installed here\. .*`pip install vllm==0\.25\.1 "):
        describe.choose_engine("vllm")
    there.clear()
    with pytest.raises(Tc3Error, match=r"the built-in engine \(--engine\) needs unsloth, which is not installed here"):
        describe.choose_engine("builtin")
