"""Show on a GPU, with the 8B shape in NF4, that a step is the same however its rows pass through the card.

    python benchmarks/equivalence.py FOLDER [--steps 8] [--family mistral --layers 2] [--small]

FOLDER is a base model; where there is none it is made (`model.py`). Each way trains from the same adapter on the same
rows; its losses and gradient norms are compared, step by step, with those of the plan's own way. The first line
repeats that way and so shows the noise of the card itself: flash attention and some matrix products add in an order
that changes from run to run. It also checks that the ids and labels that reach the model are those encoded.

`--family` does the same with the shape of Mistral, Qwen3, Gemma 2 or Gemma 3: it says which way `plan="auto"` takes,
and compares that with TRL's own.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from model import ensure_model
from train import GIB, ROWS, labels, token_rows, token_run

TOLERANCE = {"loss": 2e-3, "grad_norm": 2e-2}
"""bfloat16 keeps 8 bits: two sums of the same terms in another order differ by up to 0.4 % each; a loss is a mean over
thousands of labels, a gradient norm is dominated by fewer, larger terms."""


def run(loaded, rows, config, way, max_tokens=None, share=True):
    """Train from the model's present adapter; return losses and gradient norms, and put the adapter back.

    Args:
        way: How rows pass, of `training.ways`; "recipe" with plan="recipe".
    """
    from unittest.mock import patch

    import torch

    from tc3lib import training
    from tc3lib.training import batches

    model, tokenizer = loaded
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    collate = batches.collate
    seen = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(reached(kwargs)), with_kwargs=True
    )
    try:
        with (
            tempfile.TemporaryDirectory() as work,
            patch("tc3lib.model_loading.load_base_model", lambda config: (model, tokenizer)),
            patch("tc3lib.model_loading.add_lora", lambda model, lora: model),
            patch("tc3lib.training.ways.choose", lambda *_, **__: way),  # found before there was an adapter
            patch("tc3lib.training.plan.free_gib", lambda limit: None),  # checkpointing as it is set
            patch.object(batches, "collate", lambda rows, share_prefix: collate(rows, share_prefix and share)),
        ):
            trainer = training.build_trainer(token_run(config, rows, Path(work)))
            if max_tokens:
                trainer.max_tokens = max_tokens
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            trainer.train()
            history = [row for row in trainer.state.log_history if "loss" in row]
    finally:
        hook.remove()
    for name, weight in model.named_parameters():
        if name in before:
            weight.data = before[name].float()
    encoded = {(tuple(row["input_ids"]), tuple(labels(row))) for row in rows}
    wrong = sum(row not in encoded for batch in seen for row in batch)
    peak = torch.cuda.max_memory_reserved() / GIB if torch.cuda.is_available() else float("nan")
    return history, sum(map(len, seen)), wrong, peak, getattr(trainer, "max_tokens", None)


def reached(inputs):
    """Return the rows of ids and labels in what a model was called with, put together again."""
    ids, learned = (inputs[name].cpu() for name in ("input_ids", "labels"))
    if inputs.get("packed_seq_lengths") is None:  # padded: a row ends where its last label is
        ends = [int((line != -100).nonzero().max()) + 1 for line in learned]
        return [
            (tuple(i[:end].tolist()), tuple(t[:end].tolist())) for i, t, end in zip(ids, learned, ends, strict=True)
        ]
    lengths = inputs["packed_seq_lengths"].tolist()
    pairs = list(zip(*(part[0].split(lengths) for part in (ids, learned)), strict=True))
    first = int(inputs["position_ids"][0, lengths[0]]) if len(lengths) > 1 else 0
    shared = pairs.pop(0) if first or not lengths[0] else ((), ())
    head = [tuple(part.tolist()) if len(part) else () for part in shared]
    return [(head[0] + tuple(i.tolist()), head[1] + tuple(t.tolist())) for i, t in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--family", default="llama")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    options = ["--family", arguments.family, *(["--small"] if arguments.small else [])]
    ensure_model(arguments.folder, *options, *(["--layers", str(arguments.layers)] if arguments.layers else []))
    import torch

    from tc3lib import model_loading, settings
    from tc3lib.training import ways

    rows = token_rows(ROWS * arguments.steps)
    base = settings.get("llama3_8b").change(
        model_name=str(arguments.folder), max_steps=arguments.steps, save_strategy="no", eval_strategy="no",
        eval_on_start=False, lr_scheduler_type="constant",
    )  # fmt: skip
    results, worst, halved = {}, True, []
    for checkpointing in (False, "unsloth"):
        config = base.change(use_gradient_checkpointing=checkpointing)
        model, tokenizer = model_loading.load_base_model(config.model)
        start = time.monotonic()
        way = ways.choose(model, rows, [len(row["input_ids"]) for row in rows], share_prefix=True)
        print(f"{arguments.family}: {way}, found out in {time.monotonic() - start:.1f} s")
        loaded = model_loading.add_lora(model, config.lora), tokenizer
        suffix = f", checkpointing {checkpointing!r}" if checkpointing else ""

        def ours(name, tokens=10**6, share=True, config=config, loaded=loaded, way=way, suffix=suffix):
            results[name + suffix] = run(loaded, rows, config, way, tokens, share)

        def short(gib, ours=ours):
            """Train on a card of `gib`, with the whole step planned for one pass."""
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(gib * GIB / total)
            ours(f"{gib:.1f} GiB, planned too large: halved while training")
            torch.cuda.set_per_process_memory_fraction(1.0)
            halved.append(next(reversed(results.values()))[4] < 10**6)

        def recipe(size, padding_free, config=config, loaded=loaded, suffix=suffix):
            changed = config.change(
                plan="recipe", padding_free=padding_free, per_device_train_batch_size=size,
                gradient_accumulation_steps=ROWS // size,
            )  # fmt: skip
            kind = {True: "padding-free", False: "padded", None: "padding_free unset"}[padding_free]
            results[f"TRL's own {size}x{ROWS // size}, {kind}{suffix}"] = run(loaded, rows, changed, "recipe")

        packed = way == "packed"
        first = "one pass, shared prefix" if packed else "plan=auto"
        ours(first, 10**6 if packed else None)
        if not checkpointing:
            ours("the same again", 10**6 if packed else None)
            if packed:
                ours("one pass, prefix in each row", share=False)
                ours("micro-batches of at most 2,500 tokens", 2500)
            recipe(32, True if packed else None)
            recipe(4, True if packed else None)
        else:
            recipe(8, True if packed else None)
            recipe(8, None)
            recipe(8, False)
        if torch.cuda.is_available() and packed and not arguments.layers:  # of a few layers the longest row fills it
            weights = torch.cuda.memory_allocated() / GIB
            one_pass = results[first + suffix][3]
            short(weights + 0.6 * (one_pass - weights))
        del model, loaded, ours, recipe, short
        torch.cuda.empty_cache()
    reference = next(iter(results.values()))[0]
    print("| way | loss, largest and mean signed difference | gradient norm | rows seen, other than encoded | GiB |")
    print("| --- | --- | --- | --- | ---: |")
    for name, (history, number, wrong, peak, _) in results.items():
        cells = []
        for what in ("loss", "grad_norm"):
            differences = [a[what] / b[what] - 1 for a, b in zip(history, reference, strict=True)]
            largest = max(map(abs, differences))
            worst &= largest <= TOLERANCE[what]
            cells.append(f"{largest:.1e}, {sum(differences) / len(differences):+.1e}")
        worst &= not wrong
        print(f"| {name} | {cells[0]} | {cells[1]} | {number}, {wrong} | {peak:.1f} |")
    print("reference losses", [round(row["loss"], 5) for row in reference])
    print("reference gradient norms", [round(row["grad_norm"], 5) for row in reference])
    print(f"tolerance {TOLERANCE}: {'held' if worst else 'NOT HELD'}; memory ran out and was halved: {halved}")
    sys.exit(not worst or not all(halved))


if __name__ == "__main__":
    main()
