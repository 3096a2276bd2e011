import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from tc3lib import models
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation
from tc3lib.training import run as training

TITLES = ["Steel Mug", "Nice for Mice"]
IN_A_FRESH_PROCESS = """
import sys
from tc3lib import models, settings
from tc3lib.evaluation import generation
config = settings.tiny().change(max_new_tokens=24)
model, tokenizer = models.load_adapter(sys.argv[1], config.model)
for answer in generation.generate(model, tokenizer, sys.argv[2:], config.generation):
    print("ANSWER", ascii(answer.text))
"""


def hashes(model, adapter):
    """SHA-256 of each parameter's bytes, of the adapter or of everything else."""
    return {
        name: hashlib.sha256(tensor.detach().contiguous().flatten().view(dtype=_bytes()).numpy().tobytes()).hexdigest()
        for name, tensor in model.named_parameters()
        if ("lora_" in name) == adapter
    }


def _bytes():
    import torch

    return torch.uint8


def test_the_base_model_is_quantised_to_nf4_and_brings_its_tokenizer(base):
    import bitsandbytes

    model, tokenizer = base
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert {layer.weight.quant_type for layer in layers} == {"nf4"}
    assert tokenizer.bos_token == "<|begin_of_text|>"
    assert tokenizer.eos_token == "<|end_of_text|>"
    assert tokenizer.pad_token != tokenizer.eos_token


def test_a_loaded_model_is_in_evaluation_mode_throughout(base):
    assert not any(module.training for module in base[0].modules())


def test_lora_is_on_all_seven_projections_and_alone_is_trained(base, config):
    model = models.add_lora(base[0], config.lora)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert len(trained) == 2 * 7 * base[0].config.num_hidden_layers
    adapter = model.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, adapter.bias) == (16, 16, 0, "none")


def test_two_adapters_of_one_seed_are_the_same_and_another_seed_differs(config):
    def first_values(lora):
        return hashes(models.add_lora(models.load_base_model(config.model)[0], lora), adapter=True)

    assert first_values(config.lora) == first_values(config.lora)
    assert first_values(config.lora) != first_values(config.change(random_state=1).lora)


def test_training_changes_every_adapter_weight_and_no_base_weight(base, config, rows, tmp_path):
    model, tokenizer = base
    model = models.add_lora(model, config.lora)
    trainer = training.build_trainer(model, tokenizer, rows, rows[:4], config, tmp_path)
    adapter, rest = hashes(model, adapter=True), hashes(model, adapter=False)
    trainer.train()
    assert hashes(model, adapter=False) == rest
    after = hashes(model, adapter=True)
    assert all(after[name] != adapter[name] for name in adapter)


def test_a_saved_adapter_gives_the_same_text_in_a_fresh_process(base, config, rows, tmp_path):
    model, tokenizer = base
    untrained = generation.generate(model, tokenizer, TITLES, config.generation)
    model = models.add_lora(model, config.lora)
    training.build_trainer(model, tokenizer, rows, rows[:4], config, tmp_path).train()
    here = generation.generate(model, tokenizer, TITLES, config.generation)
    assert [answer.text for answer in here] != [answer.text for answer in untrained]
    training.save_adapter(model, tokenizer, tmp_path / "lora_model")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path / "lora_model"), *TITLES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = [line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert there == [ascii(answer.text) for answer in here]


def test_an_adapter_switched_off_answers_as_the_base_model(base, config, rows, tmp_path):
    model, tokenizer = base
    before = generation.generate(model, tokenizer, TITLES, config.generation)
    model = models.add_lora(model, config.lora)
    training.build_trainer(model, tokenizer, rows, rows[:4], config, tmp_path).train()
    with model.disable_adapter():
        assert generation.generate(model, tokenizer, TITLES, config.generation) == before
    assert generation.generate(model, tokenizer, TITLES, config.generation) != before


def test_a_missing_model_is_named(config, tmp_path):
    with pytest.raises(Tc3Error, match=r"cannot load the model '.*nowhere' \(model_name\): "):
        models.load_base_model(config.change(model_name=str(tmp_path / "nowhere")).model)


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_adapter_is_named(base, config, tmp_path, missing):
    model, tokenizer = base
    training.save_adapter(models.add_lora(model, config.lora), tokenizer, tmp_path / "lora_model")
    (tmp_path / "lora_model" / missing).unlink()
    with pytest.raises(Tc3Error, match=rf"no adapter in .*lora_model \({missing} is missing\): run 03_train first"):
        models.load_adapter(tmp_path / "lora_model", config.model)


def test_a_damaged_base_model_is_named(config, tmp_path):
    shutil.copytree(config.model.model_name, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(Tc3Error, match=r"cannot load the model '.*base' \(model_name\)"):
        models.load_base_model(config.change(model_name=str(tmp_path / "base")).model)


def test_the_tokenizer_alone_is_the_base_models_own(config, tokenizer, rows):
    from tc3lib.prompts import encode

    alone = models.load_tokenizer(config.model)
    assert [encode(alone, row) for row in rows] == [encode(tokenizer, row) for row in rows]


def test_a_tokenizer_that_is_not_at_hand_is_told_and_stops_nothing(config, capsys):
    missing = config.change(model_name="nobody/no-such-model").model
    assert models.load_tokenizer(missing) is None
    assert "no tokenizer of nobody/no-such-model at hand (" in capsys.readouterr().out


def test_a_model_whose_attention_does_not_know_the_lines_segments_is_refused(base):
    import torch

    model, tokenizer = base
    ids = torch.tensor([[tokenizer.bos_token_id, 5, 6, 7, 8, 9]])
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]])
    with models.shared_prefix(model, (2, 2, 2), model.device):
        together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    first, second = (model(input_ids=ids[:, kept], use_cache=False).logits[0] for kept in ([0, 1, 2, 3], [0, 1, 4, 5]))
    assert torch.allclose(together[2:4], first[2:], rtol=0.05, atol=0.1)
    assert torch.allclose(together[4:], second[2:], rtol=0.05, atol=0.1)
    before = model.config._attn_implementation
    with (
        pytest.raises(Tc3Error, match=r"does not know the attention of 'llama' models .* set plan='recipe'"),
        models.shared_prefix(model, (2, 2, 2), model.device),
    ):
        model.config._attn_implementation = before  # as a model that does not look there
        model(input_ids=ids, position_ids=positions, use_cache=False)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        ({}, 1),
        ({"scaling": 8**-0.5}, 1),
        ({"scaling": 1.0}, 0),
        ({"sliding_window": 2}, 0),
        ({"softcap": 30.0}, 0),
    ],
)
def test_attention_that_asks_for_more_than_llamas_is_not_taken_for_it(settings, counted):
    import torch

    from tc3lib.training import packed_attention as attention

    query, key = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    with attention.segments(attention.Segments((1, 2), torch.device("cpu"))) as line:
        attention.attend_in_transformers(None, query, key, key, None, **settings)
    assert line.calls == counted


def test_only_the_warning_that_an_optional_package_is_not_there_is_kept_out(tmp_path):
    """What bitsandbytes says on a CPU with AVX512-BF16 as it is imported, and three warnings that are to be seen."""
    (tmp_path / "unsloth.py").write_text(
        "import logging\n"
        "logging.basicConfig(format='%(message)s')\n"
        "logger = logging.getLogger('bitsandbytes.backends.cpu.ops')\n"
        "text = 'Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure'\n"
        "logger.warning(text, ModuleNotFoundError(\"No module named 'kernels'\", name='kernels'))\n"
        "logger.warning(text, OSError('libgomp is missing'))\n"
        "logger.warning('the library was not compiled for this CPU')\n"
        "logging.getLogger('bitsandbytes').warning(text, 'other')\n"
    )
    code = (
        "import logging; from tc3lib import models; models._import_unsloth();"
        "print(logging.getLogger('bitsandbytes.backends.cpu.ops').filters)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "Failed to load CPU gemm_4bit_forward from kernels-community: libgomp is missing. Please make sure",
        "the library was not compiled for this CPU",
        "Failed to load CPU gemm_4bit_forward from kernels-community: other. Please make sure",
    ]
    assert done.stdout == "[]\n"
