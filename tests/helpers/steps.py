"""Small runs in float32 whose every step is watched: what it saw, its losses, its gradient norms."""

import random
import types

import numpy
import torch
from runs import losses, prepared

from tc3lib import prompts, settings, training
from tc3lib.training.losses import read_losses

STEPS = 50
WORDS = ["a", "small", "steel", "glass", "cup", "of", "the", "and", "with", "a red lid", "(12 oz)", "né"]


def make_rows(number, seed=0):
    draw = random.Random(seed)

    def words(most):
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    return [{"uid": f"B{n:09d}", "part": "train", **prompts.format_record(words(2), words(9))} for n in range(number)]


# A last step of an epoch has 26 rows, not 32.
ROWS = make_rows(250)


def changed(**changes):
    """The recipe's batch, in float32 and without what only costs time."""
    plain = settings.get("tiny").change(
        load_in_4bit=False, dtype="float32", max_seq_length=512, save_strategy="no", eval_strategy="no",
        eval_on_start=False, per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=STEPS,
        lr_scheduler_type="constant", learning_rate=3e-4,
    )  # fmt: skip
    return plain.change(**changes)


def small(**changes):
    """Four steps of eight rows."""
    return changed(gradient_accumulation_steps=1, max_steps=4, **changes)


def build(config, rows, work, max_tokens=None):
    """Return the trainer of notebook 03, and its run."""
    made = prepared(config, rows, work, held_out=8)
    trainer = training.build_trainer(made)
    if max_tokens:
        trainer.max_tokens = max_tokens
    return trainer, made


def train(config, rows, work, max_tokens=None, prepare=None):
    """Train, and return what was logged and seen; `prepare` is called with the trainer before it starts."""
    trainer, made = build(config, rows, work, max_tokens)
    run = types.SimpleNamespace(trainer=trainer, made=made, seen={}, prefixes=set(), passes=0, layer_passes=0)
    step = trainer.training_step

    def watch(model, inputs, *arguments):
        run.seen.setdefault(trainer.state.global_step + 1, []).extend(rows_of(inputs))
        run.prefixes.add(inputs["lengths"][0] if "lengths" in inputs else 0)
        return step(model, inputs, *arguments)

    def count(name):
        return lambda *_: setattr(run, name, getattr(run, name) + 1)

    trainer.training_step = watch
    trainer.model.register_forward_pre_hook(count("passes"))
    layers(trainer.model)[0].register_forward_pre_hook(count("layer_passes"))
    if prepare:
        prepare(trainer)
    training.train(trainer, made)
    run.history = losses(read_losses(work / "loss.jsonl"))
    run.losses = numpy.array([row["loss"] for row in run.history if "loss" in row])
    run.norms = numpy.array([row["grad_norm"] for row in run.history if "loss" in row])
    run.eval_losses = numpy.array([row["eval_loss"] for row in run.history if "eval_loss" in row])
    run.adapter = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return run


def layers(model):
    return model.get_base_model().get_decoder().layers


def rows_of(inputs):
    """Return ids and labels of each row of a batch, padded or collated."""
    ids, labels = inputs["input_ids"], inputs["labels"]
    if "lengths" not in inputs:
        whole = inputs["attention_mask"].bool()
        return [(i[w].tolist(), label[w].tolist()) for i, label, w in zip(ids, labels, whole, strict=True)]
    (ids,), (labels,), (prefix, *lengths) = ids.tolist(), labels.tolist(), inputs["lengths"]
    ends = prefix + numpy.cumsum(lengths)
    return [
        tuple(line[:prefix] + line[end - length : end] for line in (ids, labels))
        for end, length in zip(ends, lengths, strict=True)
    ]


# AdamW divides a gradient by its own size, so it makes a whole step of one that is nothing but rounding; with SGD an
# adapter differs only as much as the gradients do.
DISTURBED = {
    "optim": "sgd", "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True,
}  # fmt: skip


def memory_for(tokens, where, passes_before=0, times=1):
    """Let micro-batches of more than `tokens` run out of memory, half-way through the model or back.

    Args:
        tokens: What the memory holds.
        where: "forward", "backward" or "evaluation".
        passes_before: So many of the larger ones pass.
        times: How often it happens.
    """

    def prepare(trainer):
        state = types.SimpleNamespace(now=0, larger=0, times=0)
        trainer.refused = []

        def enter(_, args, kwargs):
            state.now = kwargs["input_ids"].shape[1]
            state.larger += state.now > tokens and torch.is_grad_enabled() == (where != "evaluation")

        def refuse(*_):
            wanted = torch.is_grad_enabled() if where == "forward" else not torch.is_grad_enabled()
            if wanted and state.now > tokens and state.larger > passes_before and len(trainer.refused) < times:
                learned = any(parameter.grad is not None for parameter in trainer.model.parameters())
                trainer.refused.append((trainer.state.global_step + 1, state.now, learned))
                raise torch.OutOfMemoryError("CUDA out of memory")

        trainer.model.register_forward_pre_hook(enter, with_kwargs=True)
        if where == "backward":
            weight = layers(trainer.model)[1].self_attn.q_proj.lora_B["default"].weight
            weight.register_post_accumulate_grad_hook(refuse)
        else:
            layers(trainer.model)[-1].register_forward_pre_hook(refuse)

    return prepare
