import hashlib
import logging
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from families import make
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import IncompleteSnapshotError
from runs import prepared, randomise
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tc3lib import files, model_loading, prompts, settings, training
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation

TITLES = ["Steel Mug", "Nice for Mice"]
IN_A_FRESH_PROCESS = """
import sys
from tc3lib import model_loading, settings
from tc3lib.evaluation import generation
config = settings.get("tiny").change(max_new_tokens=24)
model, tokenizer = model_loading.load_adapter(sys.argv[1], config.model)
for answer in generation.generate(model, tokenizer, sys.argv[2:], config):
    print("ANSWER", ascii(answer.text))
"""


def hashes(model, adapter):
    """SHA-256 of each parameter's bytes, of the adapter or of everything else."""
    return {
        name: hashlib.sha256(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in model.named_parameters()
        if ("lora_" in name) == adapter
    }


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_the_base_model_is_quantised_to_nf4_ready_to_answer_and_brings_its_tokenizer(base):
    import bitsandbytes

    model, tokenizer = base
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert {layer.weight.quant_type for layer in layers} == {"nf4"}
    assert tokenizer.bos_token == "<|begin_of_text|>"
    assert tokenizer.eos_token == "<|end_of_text|>"
    assert tokenizer.pad_token != tokenizer.eos_token
    assert not any(module.training for module in model.modules())


def test_lora_is_on_all_seven_projections_and_alone_is_trained(base, config):
    model = model_loading.add_lora(base[0], config.lora)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert len(trained) == 2 * 7 * base[0].config.num_hidden_layers
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, adapter.bias) == (16, 16, 0, "none")


def test_two_adapters_of_one_seed_are_the_same_and_another_seed_differs(config):
    def first_values(lora):
        return hashes(model_loading.add_lora(model_loading.load_base_model(config.model)[0], lora), adapter=True)

    assert first_values(config.lora) == first_values(config.lora)
    assert first_values(config.lora) != first_values(config.change(random_state=1).lora)


@pytest.fixture(scope="module")
def trained(config, rows, tmp_path_factory):
    """A model before and after a few steps: the hashes of all weights, and some answers."""
    trainer = training.build_trainer(prepared(config, rows, tmp_path_factory.mktemp("trained")))
    model, tokenizer = trainer.model, trainer.processing_class

    def seen():
        answers = generation.generate(model, tokenizer, TITLES, config)
        return SimpleNamespace(adapter=hashes(model, adapter=True), rest=hashes(model, adapter=False), answers=answers)

    before = seen()
    trainer.train()
    return SimpleNamespace(model=model, tokenizer=tokenizer, before=before, after=seen())


def test_training_changes_every_adapter_weight_and_no_base_weight(trained):
    assert trained.after.rest == trained.before.rest
    assert all(trained.after.adapter[name] != value for name, value in trained.before.adapter.items())


def test_a_saved_adapter_gives_the_same_text_in_a_fresh_process(trained, tmp_path):
    save(trained.model, trained.tokenizer, tmp_path / "lora_model")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path / "lora_model"), *TITLES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = [line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert there == [ascii(answer.text) for answer in trained.after.answers]


def test_an_adapter_switched_off_answers_as_the_base_model(trained, config):
    with trained.model.disable_adapter():
        off = generation.generate(trained.model, trained.tokenizer, TITLES, config)
    assert off == trained.before.answers != trained.after.answers


@pytest.mark.parametrize("damaged", [True, False])
def test_a_base_model_that_is_missing_or_damaged_is_named(config, tmp_path, damaged):
    if damaged:
        shutil.copytree(config.model.model_name, tmp_path / "base")
        (tmp_path / "base" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(Tc3Error, match=r"cannot load the model '.*base' \(model_name\): "):
        model_loading.load_base_model(config.change(model_name=str(tmp_path / "base")).model)


def test_what_the_hub_answers_stays_in_the_one_line(config, monkeypatch):
    def refuse(*_, **__):
        raise OSError(
            "There was an error when trying to load me/base:\nClient error '401 Unauthorized'\n" + 99 * "more "
        )

    monkeypatch.setattr(model_loading.FastLanguageModel, "from_pretrained", refuse)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    for load in (lambda: model_loading.load_base_model(config.model), lambda: prompts.load_tokenizer("me/base")):
        with pytest.raises(
            Tc3Error, match=r"load me/base: Client error '401 Unauthorized' .* a wrong HF_TOKEN is"
        ) as error:
            load()
        assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_a_base_model_with_one_weight_that_is_not_a_number_is_refused(config, tmp_path):
    base = shutil.copytree(config.model.model_name, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 7] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Tc3Error, match=r"the logits of the model '.*base' are NaN or infinite: a weight is damaged"):
        model_loading.load_base_model(config.change(model_name=str(base)).model)


def test_a_base_model_that_moved_is_found_and_another_in_its_place_is_refused(config, tmp_path, capsys):
    old, new, folder = tmp_path / "old", tmp_path / "new", tmp_path / "lora_model"
    shutil.copytree(config.model.model_name, old)
    model, tokenizer = model_loading.load_base_model(config.change(model_name=str(old)).model)
    known = model_loading.fingerprint(model)
    tuned = randomise(model_loading.add_lora(model, config.lora), 0.1)
    save(tuned, tokenizer, folder)
    files.write_json(folder / "run.json", {"base": known})
    with pytest.raises(
        Tc3Error, match=r"of the adapter in .*lora_model was in .*old, where nothing is now: set model_"
    ):
        old.rename(new)
        model_loading.load_adapter(folder, config.change(model_name=str(old)).model)
    answers = generation.generate(tuned.eval(), tokenizer, TITLES, config)
    found, tokenizer = model_loading.load_adapter(folder, config.change(model_name=str(new)).model)
    assert f"the base model is no longer in {old}: {new} is taken" in capsys.readouterr().out
    assert generation.generate(found, tokenizer, TITLES, config) == answers
    assert generation.made_by(found, tokenizer, config)["model"] == str(new)
    assert model_loading.fingerprint(found) == known
    files.write_json(folder / "run.json", {"base": "another"})
    with pytest.raises(Tc3Error, match=r"'.*new' is not the one that the adapter in .*lora_model was trained on"):
        model_loading.load_adapter(folder, config.change(model_name=str(new)).model)


def test_a_base_model_of_which_only_some_files_are_in_the_hubs_cache_has_the_same_digest(config, tmp_path, monkeypatch):
    """The export downloads weights and tokenizer alone."""

    def digest(name):
        return model_loading.fingerprint(SimpleNamespace(config=SimpleNamespace(_name_or_path=name)))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--base"
    shutil.copytree(config.model.model_name, cached / "snapshots" / "abc")
    for folder in ("refs", "trees"):
        (cached / folder).mkdir()
    (cached / "refs" / "main").write_text("abc")
    known = digest(config.model.model_name)
    assert digest("me/base") == known
    listed = {"README.md": {"size": 1, "blob_id": "0" * 40}}
    files.write_json(cached / "trees" / "abc.json", {"format_version": 1, "files": listed})
    with pytest.raises(IncompleteSnapshotError):
        snapshot_download("me/base", local_files_only=True)
    assert digest("me/base") == known
    for unknown in ("me/gone", str(tmp_path / "gone")):
        assert digest(unknown) == hashlib.sha256(unknown.encode()).hexdigest()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_adapter_is_named(base, config, tmp_path, missing):
    model, tokenizer = base
    save(model_loading.add_lora(model, config.lora), tokenizer, tmp_path / "lora_model")
    (tmp_path / "lora_model" / missing).unlink()
    with pytest.raises(Tc3Error, match=rf"no adapter in .*lora_model \({missing} is missing\): run 03_train first"):
        model_loading.load_adapter(tmp_path / "lora_model", config.model)


def test_only_the_report_of_an_absent_kernel_is_filtered():
    """What bitsandbytes logs on a CPU with AVX512-BF16; its own kernel serves."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    texts = (
        "Failed to load CPU gemm_4bit_forward from kernels-community: %s",
        "the library was not compiled for this CPU",
    )
    records = [logging.makeLogRecord({"msg": text, "args": ("no module",)}) for text in texts]
    assert [bool(logger.filter(record)) for record in records] == [False, True]


def family(name, folder, **changes):
    changes = {"load_in_4bit": False, "dtype": "float32"} | changes
    return settings.get("tiny").change(model_name=str(make(name, folder / "base")), **changes)


def test_layers_that_a_model_calls_otherwise_are_named_or_mapped(tmp_path, capsys):
    config = family("phi3", tmp_path)
    model, _ = model_loading.load_base_model(config.model)
    with pytest.raises(Tc3Error) as error:
        model_loading.add_lora(model, config.change(target_modules=("q_proj", "o_proj")).lora)
    assert str(error.value) == (
        "target_modules: 'phi3' models have no q_proj. Their linear layers are down_proj, gate_up_proj, o_proj, "
        "qkv_proj."
    )
    adapted = model_loading.add_lora(model, config.lora)
    assert set(adapted.peft_config["default"].target_modules) == {"down_proj", "gate_up_proj", "o_proj", "qkv_proj"}
    assert (
        "this model has no q_proj, k_proj, v_proj, gate_proj, up_proj; all its linear layers instead: down_proj, "
        "gate_up_proj, o_proj, qkv_proj"
    ) in capsys.readouterr().out


def test_a_processors_tokenizer_is_taken_out_of_it(tmp_path, monkeypatch):
    """On a GPU unsloth gives a processor for models that see images too."""
    config = family("gemma3 with images", tmp_path)
    load = model_loading.FastLanguageModel.from_pretrained

    def with_processor(**named):
        model, tokenizer = load(**named)
        return model, SimpleNamespace(tokenizer=tokenizer, image_processor=None)

    monkeypatch.setattr(model_loading.FastLanguageModel, "from_pretrained", with_processor)
    model, tokenizer = model_loading.load_base_model(config.model)
    assert tokenizer.eos_token == "<eos>"
    adapted = {name for name, _ in model_loading.add_lora(model, config.lora).named_parameters() if "lora_A" in name}
    assert len(adapted) == 7 * 2
    assert all(".language_model.layers." in name for name in adapted)
    assert sum(name.endswith("q_proj") for name, _ in model.named_modules() if "vision_tower" in name) == 1


def test_a_tokenizer_without_pad_pads_with_its_eos(tmp_path, monkeypatch):
    load = model_loading.FastLanguageModel.from_pretrained

    def without_pad(**named):
        model, tokenizer = load(**named)
        tokenizer.pad_token = None
        return model, tokenizer

    monkeypatch.setattr(model_loading.FastLanguageModel, "from_pretrained", without_pad)
    _, tokenizer = model_loading.load_base_model(family("llama2", tmp_path).model)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
