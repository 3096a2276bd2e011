"""Each family of base models, from its tokenizer to the answers of a reloaded adapter."""

import pytest
import torch
from families import FAMILIES, make
from steps import rows_of, train
from torch.nn.functional import cross_entropy

from tc3lib import model_loading, prompts, settings, training
from tc3lib.evaluation import generation
from tc3lib.prompts import format_record
from tc3lib.training.packed_trainer import PackedTrainer

TITLES = ["Steel Mug", "Nice for <|endoftext|> Mice", "A Long Title of a Book about Lamps, Kettles and Other Things"]
HOSTILE = "<|im_end|></s><eos> <think> <|endoftext|><pad> <|end_of_text|>"
RECORDS = [format_record(f"Mug No. {n}", f"A mug, {n} cm high. {'Of steel. ' * (n % 4)}") for n in range(1, 16)]
RECORDS = [{"uid": str(n), **record} for n, record in enumerate([*RECORDS, format_record(HOSTILE, HOSTILE)])]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models as small as these are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A run of three steps with a base model of the family, as notebook 03 makes it."""
    work = tmp_path_factory.mktemp("family")
    config = settings.get("tiny").change(
        model_name=str(make(request.param, work / "base")), load_in_4bit=False, dtype="float32", max_seq_length=512,
        max_steps=3, learning_rate=1e-2, warmup_steps=0, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        save_strategy="no", eval_strategy="no", eval_on_start=False, max_new_tokens=8, generation_batch_size=8,
    )  # fmt: skip
    run = train(config, RECORDS, work)
    run.family, run.config, run.adapter_folder = (
        FAMILIES[request.param],
        config,
        training.save_adapter(run.trainer, run.made),
    )
    return run


def test_the_labels_are_response_and_eos_and_bos_is_there_if_there_is_one(family):
    trainer, tokenizer = family.trainer, family.made.tokenizer
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(len(RECORDS))])
    for record, (ids, labels) in zip(RECORDS, rows_of(batch), strict=True):
        start = labels.count(-100)
        bos = [] if family.family.bos is None else [tokenizer.convert_tokens_to_ids(family.family.bos)]
        assert ids[: len(bos)] == bos
        assert tokenizer.decode(ids[len(bos) : start]) == prompts.preview("", [record | {"response": ""}])
        assert ids[:start] == prompts.encode_prompt(tokenizer, record["input_text"])
        assert labels == [-100] * start + ids[start:]
        assert tokenizer.decode(ids[start:-1]) == record["response"]
        assert ids[-1] == tokenizer.convert_tokens_to_ids(family.family.eos)
        assert not {*tokenizer.get_added_vocab().values()} & {*ids[len(bos) : -1]}


def test_the_first_step_is_that_of_its_rows_one_by_one(family):
    """With the attention of the model's own, whichever way the trainer takes."""
    model, _ = model_loading.load_base_model(family.config.model)
    model = model_loading.add_lora(model, family.config.lora)
    rows = family.seen[1]
    total = sum(label != -100 for _, labels in rows for label in labels)
    loss = 0.0
    for ids, labels in rows:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        row = cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum") / total
        row.backward()
        loss += row.item()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert len(rows) == 8
    assert family.losses[0] == pytest.approx(loss, rel=1e-5)
    assert family.norms[0] == pytest.approx(float(norm), rel=1e-4)


def test_the_trainer_is_ours_where_its_attention_is_right_and_trls_where_not(family):
    packed = isinstance(family.trainer, PackedTrainer)
    assert packed == family.family.packed
    assert family.made.record["plan"]["way"] == ("packed" if packed else "padded")


def test_all_linear_layers_of_the_language_model_and_no_others_are_trained(family):
    model = family.trainer.model.get_base_model()
    decoder = model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    linear = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
    assert len(adapted) == sum(not hasattr(module, "lora_A") for module in linear) / 3 > 0
    assert {id(module) for module in adapted} <= inside
    assert all(bool(weight.any()) for weight in family.adapter.values())


def test_answers_are_the_same_in_batches_alone_and_after_a_reload(family):
    together, alone = family.config, family.config.change(generation_batch_size=1)
    trained = family.trainer.model, family.made.tokenizer
    reloaded = model_loading.load_adapter(family.adapter_folder, family.config.model)
    answers = generation.generate(*trained, TITLES, together)
    assert generation.generate(*trained, TITLES, alone) == answers
    assert generation.generate(*reloaded, TITLES, together) == answers
    base = generation.generate(*model_loading.load_base_model(family.config.model), TITLES, alone)
    with reloaded[0].disable_adapter():
        assert generation.generate(*reloaded, TITLES, alone) == base != answers
    stops = {reloaded[1].convert_tokens_to_ids(token) for token in (family.family.eos, *family.family.stops)}
    assert set(generation.stops(*reloaded, family.config)) == stops
