"""Every way to make a step is the same mathematics: in float32, on the embedded model, step by step."""

import numpy
import pytest
import torch
from runs import randomise
from steps import DISTURBED, ROWS, STEPS, build, changed, memory_for, rows_of, small, train

from tc3lib import model_loading, prompts, settings
from tc3lib.errors import Tc3Error
from tc3lib.training import batches
from tc3lib.training.packed_attention import shared_prefix

TOLERANCE = 1e-5
RECIPE = {"plan": "recipe"}
# Settings, tokens of a micro-batch (None: as planned), whether the prefix is shared, passes a step (None: several).
VARIANTS = {
    "recipe 32x1": ({**RECIPE, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1}, None, False, 1),
    "recipe 4x8": ({**RECIPE, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}, None, False, None),
    "recipe, checkpointing": ({**RECIPE, "use_gradient_checkpointing": True}, None, False, 4),
    "auto, one pass": ({}, None, True, 1),
    "auto, micro-batches": ({}, 300, True, None),
    "auto, prefix repeated": ({}, 700, False, None),
    "auto, checkpointing": ({"use_gradient_checkpointing": True}, None, True, 1),
}


def differences(run, other):
    """Return the signed relative differences of losses and gradient norms, step by step."""
    return (run.losses - other.losses) / other.losses, (run.norms - other.norms) / other.norms


def same_adapters(run, other, tolerance):
    """Whether each matrix is the same but for `tolerance` of its own length; 0: to the bit."""
    pairs = [(run.adapter[name], other.adapter[name]) for name in other.adapter]
    return len(pairs) == 42 and all(float((a - b).norm()) <= tolerance * float(b.norm()) for a, b in pairs)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The recipe as it stands: 4 padded micro-batches of 8 rows."""
    return train(changed(**RECIPE), ROWS, tmp_path_factory.mktemp("reference"))


# TRL's trainer in other shapes, and ours in those that share all code with the other two, are for `make slow`.
QUICK = "auto, one pass", "auto, micro-batches"
PARAMS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]


@pytest.fixture(scope="module", params=PARAMS)
def variant(request, tmp_path_factory):
    changes, max_tokens, shared, _ = VARIANTS[request.param]
    collate = batches.collate
    with pytest.MonkeyPatch.context() as patch:
        if "plan" not in changes and not shared:
            patch.setattr(batches, "collate", lambda rows, share_prefix: collate(rows, share_prefix=False))
        run = train(changed(**changes), ROWS, tmp_path_factory.mktemp("variant"), max_tokens)
    run.name = request.param
    return run


def test_each_variant_is_made_as_its_name_says(variant, reference):
    _, _, shared, passes = VARIANTS[variant.name]
    assert reference.passes == 4 * STEPS
    assert variant.passes == passes * STEPS if passes else variant.passes > 2 * STEPS
    assert all(variant.prefixes) == shared


def test_checkpointing_computes_each_layer_twice_and_nothing_else_does(variant):
    """Only then is it on: it needs the layers in training mode."""
    assert variant.layer_passes == variant.passes * (2 if "checkpointing" in variant.name else 1)


def test_each_step_has_the_same_rows_and_labels(variant, reference):
    assert list(reference.seen) == list(range(1, STEPS + 1))
    assert {len(rows) for rows in reference.seen.values()} == {32, 26}
    assert variant.seen == reference.seen


def test_losses_and_gradient_norms_are_the_same_step_by_step(variant, reference):
    losses, norms = differences(variant, reference)
    assert len(losses) == STEPS
    assert reference.losses[-1] < reference.losses[0] / 2
    assert abs(losses).max() < TOLERANCE
    assert abs(norms).max() < TOLERANCE


def test_no_one_sided_drift(variant, reference):
    """Rounding errors have both signs, so their mean is far below one float32 step (1.2e-7 of a value).

    What makes one side learn a little faster has one sign, and grows: it shows in the mean long before it shows in a
    single step, and most in the last ten.
    """
    losses, norms = differences(variant, reference)
    assert abs(losses.mean()) < TOLERANCE / 50
    assert abs(losses[-10:].mean()) < TOLERANCE / 20
    assert abs(norms[-10:]).max() < TOLERANCE


def logits(model, batch):
    """Return the logits of each row of a collated batch, the prefix's with each."""
    with torch.no_grad(), shared_prefix(model, batch["lengths"], torch.device("cpu")):
        line = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
    prefix, *rests = line.split(batch["lengths"])
    return [torch.cat([prefix, rest]) for rest in rests]


def assert_same_logits(found, expected):
    """But for rounding, which goes with the largest of them (about 25)."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) < TOLERANCE * float(expected.abs().max())


def logits_alone(model, row):
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(row["input_ids"])[None], use_cache=False).logits[0]


@pytest.fixture(scope="module")
def model():
    """An adapter that does something: B is not zero."""
    config = changed()
    model, tokenizer = model_loading.load_base_model(config.model)
    return randomise(model_loading.add_lora(model, config.lora).eval(), std=0.02), tokenizer


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_document_in_a_micro_batch_has_the_logits_it_has_alone(model, share_prefix):
    """Whatever the others are: short and alike, or one long and of its own kind in their middle."""
    model, tokenizer = model
    other = prompts.format_record("1,000 Ways to Fry Eggs", "Butter. " * 12)
    rows = prompts.encode_rows(tokenizer, [*ROWS[:4], other, *ROWS[4:8]])
    batch = batches.collate(rows, share_prefix)
    assert bool(batch["lengths"][0]) == share_prefix
    for row, together in zip(rows, logits(model, batch), strict=True):
        assert_same_logits(together, logits_alone(model, row))


def random_rows(seed):
    """Rows that share a random number of first tokens, sometimes all of a prompt."""
    draw = numpy.random.default_rng(seed)
    shared = draw.integers(1, 30)
    rows = []
    for _ in range(draw.integers(1, 20)):
        prompt, response = shared + draw.integers(0, 12), draw.integers(1, 60)
        ids = numpy.concatenate([numpy.arange(shared), draw.integers(100, 103, prompt - shared + response)])
        rows.append({"input_ids": ids, "completion_mask": numpy.arange(len(ids)) >= prompt})
    return rows


def labels_of(row):
    return numpy.where(row["completion_mask"], row["input_ids"], -100)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_a_batch_and_its_micro_batches_keep_rows_order_labels_and_prefix(seed, share_prefix):
    rows = random_rows(seed)
    expected = [(row["input_ids"].tolist(), labels_of(row).tolist()) for row in rows]
    batch = batches.collate(rows, share_prefix)
    prefix = batch["lengths"][0]
    assert rows_of(batch) == expected
    for most in (1, 40, 100, 250, 10_000):
        parts = list(batches.split(batch, most))
        assert [row for part in parts for row in rows_of(part)] == expected
        assert {part["lengths"][0] for part in parts} == {prefix}
        sizes = [sum(part["lengths"]) for part in parts]
        for part, size in zip(parts, sizes, strict=True):
            positions = [numpy.arange(prefix), *(prefix + numpy.arange(length) for length in part["lengths"][1:])]
            assert part["position_ids"][0].tolist() == numpy.concatenate(positions).tolist()
            assert part["input_ids"].shape == part["labels"].shape == (1, size)
            assert size <= most or len(part["lengths"]) == 2
        firsts = [part["lengths"][1] for part in parts[1:]]
        assert all(size + first > most for size, first in zip(sizes, firsts, strict=False))


@pytest.mark.parametrize("seed", range(30))
def test_the_shared_prefix_is_the_longest_that_leaves_each_prompt_a_token(seed):
    """Its last token predicts the first label."""
    rows = random_rows(seed)
    prefix = batches.collate(rows)["lengths"][0]
    shortest = min(list(row["completion_mask"]).index(1) for row in rows)
    heads = [{tuple(row["input_ids"][:length]) for row in rows} for length in (prefix, prefix + 1)]
    assert prefix < shortest
    assert len(heads[0]) == 1
    assert prefix == shortest - 1 or len(heads[1]) > 1


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_two_runs_of_one_seed_are_the_same_to_the_bit(tmp_path, dropout):
    first, second = (
        train(small(lora_dropout=dropout), ROWS[:24], tmp_path / name, max_tokens=200) for name in ("first", "second")
    )
    assert first.history == second.history
    assert same_adapters(first, second, 0)
    assert first.passes > 4


def test_dropout_takes_the_shared_prefix_away_and_changes_the_losses(tmp_path):
    without, with_dropout = (
        train(small(lora_dropout=dropout), ROWS[:24], tmp_path / str(dropout)) for dropout in (0.0, 0.1)
    )
    assert 0 not in without.prefixes
    assert with_dropout.prefixes == {0}
    assert abs(differences(with_dropout, without)[0]).max() > 1e-4
    assert abs(differences(with_dropout, without)[0]).max() < 0.1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(small(**DISTURBED), ROWS[:24], tmp_path_factory.mktemp("undisturbed"), max_tokens=180)


def assert_same(run, other):
    assert [row["step"] for row in run.history] == [row["step"] for row in other.history]
    assert run.trainer.state.global_step == 4
    for values in differences(run, other):
        assert abs(values).max() < TOLERANCE
    assert abs(run.eval_losses / other.eval_losses - 1).max() < TOLERANCE
    assert same_adapters(run, other, TOLERANCE)


@pytest.mark.parametrize(("where", "passes_before"), [("forward", 3), ("backward", 3), ("evaluation", 1)])
def test_a_step_that_runs_out_of_memory_is_made_again_in_halves(tmp_path, undisturbed, capsys, where, passes_before):
    """Not at a step's first micro-batch, so that the gradient of those before it has to go."""
    run = train(small(**DISTURBED), ROWS[:24], tmp_path, 180, memory_for(80, where, passes_before))
    [(step, tokens, learned)] = run.trainer.refused
    assert (step, learned) == ((1, False) if where == "evaluation" else (2, True))
    assert 80 < tokens <= 180
    assert run.trainer.max_tokens == tokens // 2
    [message] = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert message == (
        f"out of memory with {tokens} tokens in a micro-batch, after step {step - 1}: the same rows again, in "
        f"micro-batches of at most {tokens // 2} tokens from here on"
    )
    assert_same(run, undisturbed)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_micro_batches_are_halved_until_they_fit(tmp_path, undisturbed, where):
    run = train(small(**DISTURBED), ROWS[:24], tmp_path, 1000, memory_for(120, where, times=99))
    assert len(run.trainer.refused) > 1
    assert {step for step, *_ in run.trainer.refused} == {1}
    assert run.trainer.max_tokens <= 120
    assert_same(run, undisturbed)


def test_a_step_made_again_draws_the_same_dropout(tmp_path):
    config = small(lora_dropout=0.1)
    again = train(config, ROWS[:24], tmp_path / "again", 400, memory_for(200, "backward", passes_before=1))
    half = train(config, ROWS[:24], tmp_path / "half", again.trainer.max_tokens)
    assert [step for step, *_ in again.trainer.refused] == [1]
    assert again.history == half.history
    assert same_adapters(again, half, 0)


@pytest.mark.parametrize("where", ["forward", "backward", "evaluation"])
def test_a_single_row_that_does_not_fit_names_the_setting_to_lower(tmp_path, where):
    with pytest.raises(
        Tc3Error,
        match=r"does not hold one row of \d+ tokens: set memory_gib below the card's size.* or a lower max_seq_length",
    ):
        train(small(**DISTURBED), ROWS[:24], tmp_path, prepare=memory_for(10, where, times=99))


def test_a_single_row_is_tried_again_before_it_is_given_up(tmp_path, undisturbed):
    """What other micro-batches left in the memory may have been in its way."""
    run = train(small(**DISTURBED), ROWS[:24], tmp_path, 10, memory_for(10, "backward", passes_before=3))
    assert len(run.trainer.refused) == 1
    assert run.trainer.max_tokens == 10
    assert_same(run, undisturbed)


def test_the_held_out_loss_is_the_mean_over_all_labels_however_batched(tmp_path):
    trainer, _ = build(small(), ROWS[:24], tmp_path)
    rows = [trainer.eval_dataset[number] for number in range(8)]
    expected = [
        torch.nn.functional.cross_entropy(
            logits_alone(trainer.model, row)[:-1], torch.tensor(row["input_ids"][1:]), reduction="none"
        )[torch.tensor(row["completion_mask"][1:]).bool()]
        for row in rows
    ]
    alone, expected = float(expected[-1].mean()), float(torch.cat(expected).mean())
    for rows_a_batch, tokens in ((1, 1000), (3, 1000), (3, 90), (8, 1000), (8, 120)):
        trainer.args.per_device_train_batch_size, trainer.max_tokens = rows_a_batch, tokens
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=TOLERANCE)
    other = trainer.evaluate(trainer.eval_dataset.select([7]), metric_key_prefix="other")
    assert other["other_loss"] == pytest.approx(alone, rel=TOLERANCE)


@pytest.mark.parametrize("plan", ["auto", "recipe"])
def test_the_learning_rate_of_each_of_the_recipes_60_steps(tmp_path, plan):
    """Warm-up over a fifth of the steps, then a straight line to 0; the first step is made with 0."""
    recipe = settings.get("llama3_8b").training
    config = changed(
        plan=plan, per_device_train_batch_size=1, gradient_accumulation_steps=1, max_steps=recipe.max_steps,
        warmup_steps=recipe.warmup_steps, lr_scheduler_type=recipe.lr_scheduler_type,
        learning_rate=recipe.learning_rate,
    )  # fmt: skip
    run = train(config, ROWS[:8], tmp_path)
    rates = {row["step"]: row["learning_rate"] for row in run.history}
    assert rates == pytest.approx(
        {step: 3e-5 * min((step - 1) / 12, (60 - (step - 1)) / 48) for step in range(1, 61)}, rel=1e-9, abs=1e-15
    )
