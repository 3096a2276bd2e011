"""Each family of base models, from its tokenizer to answers of a reloaded adapter."""

import types

import pytest
import torch
import trl
from families import FAMILIES, make
from runs import prepared, randomise
from steps import rows_of

from tc3lib import models, prompts, settings, training
from tc3lib.evaluation import generation
from tc3lib.prompts import format_record
from tc3lib.training.trainer import PackedTrainer

TITLES = ["Steel Mug", "Nice for <|endoftext|> Mice", "A Long Title of a Book about Lamps, Kettles and Other Things"]
RECORDS = [format_record(f"Mug No. {n}", f"A mug, {n} cm high. {'Of steel. ' * (n % 4)}") for n in range(1, 17)]
RECORDS += [format_record("<|im_end|></s><eos>", "<|endoftext|> <think> <pad><|end_of_text|>")]


def family_config(folder, **changes):
    return settings.tiny().change(
        model_name=str(folder), load_in_4bit=False, dtype="float32", max_seq_length=512, max_steps=3, learning_rate=1e-2,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, save_strategy="no", eval_steps=3,
        max_new_tokens=12, warmup_steps=0, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def done(request, tmp_path_factory):
    """What notebooks 03 and 04 do with a model of the family."""
    family, work = FAMILIES[request.param], tmp_path_factory.mktemp("family")
    config = family_config(make(request.param, work / "base"))
    run = prepared(config, RECORDS, work / "work")
    trainer = training.build_trainer(run)
    randomise(trainer.model, std=0)
    return types.SimpleNamespace(family=family, config=config, run=run, trainer=trainer, work=work / "work")


def test_it(done):
    assert isinstance(done.trainer, PackedTrainer)
