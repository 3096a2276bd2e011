"""Ask the questions that notebook 01 drew, and score the answers; the same before and after training."""

from tc3lib.evaluation.generation import evaluating, generate, made_by  # isort: skip  (first: unsloth patches transformers)

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tc3lib.evaluation import copies, metrics
from tc3lib.evaluation.answers import PARTS, by_part, check_same, recorded
from tc3lib.files import read_rows, write_json, write_rows
from tc3lib.prompts import RECIPE, encode_prompts, encode_rows
from tc3lib.settings import PromptSettings, Settings


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Settings, work: Path, name: str
) -> list[dict[str, Any]]:
    """Answer the questions of `questions.jsonl`, measure the loss of their references, and write both to a file.

    What made them goes to `<name>.made_by.json`. After an interruption, call it again to continue: finished answers are
    in `<name>.partial.jsonl` until all are done.

    Args:
        config: Its prompt, `max_seq_length` and the generation settings are used.
        work: The work folder, with `questions.jsonl`.
        name: The file to write without its suffix: `pretest` or `posttest`.

    Returns:
        The rows of the file, one for each question: `uid`, `part`, `title`, `reference`, `answer`, `tokens` (new
        ones), `eos` (ended by the model itself), `loss_sum` (nats) over `loss_tokens`, `seconds` (its share of its
        batch's time). A title that is not in the catalogue has no `uid`, `reference` and loss.

    Raises:
        Tc3Error: The posttest's set-up is not that of the pretest.
    """
    made = made_by(model, tokenizer, config)
    if name == "posttest":
        check_same(recorded(work, "pretest"), made)
    rows = _that_fit(tokenizer, read_rows(work / "questions.jsonl"), config)
    known = [row for row in rows if row["response"] is not None]
    # The losses first: they are quick, and what fails there is reported before the answers have cost time.
    batch_size = config.training.per_device_eval_batch_size
    longest = config.model.max_seq_length
    losses = completion_losses(model, tokenizer, known, longest, batch_size, config.prompting)
    if bad := sum(not math.isfinite(loss) for loss, _ in losses):
        print(f"the loss of {bad} of {len(known)} descriptions is not a number")
    losses = iter(losses)
    partial = work / f"{name}.partial.jsonl"
    answers = generate(model, tokenizer, [row["input_text"] for row in rows], config, partial)
    answered = []
    for row, given in zip(rows, answers, strict=True):
        loss_sum, loss_tokens = next(losses) if row["response"] is not None else (None, None)
        answered.append(
            {
                "uid": row["uid"],
                "part": row["part"],
                "title": row["input_text"],
                "reference": row["response"],
                "answer": given.text,
                "tokens": given.tokens,
                "eos": given.eos,
                "loss_sum": loss_sum,
                "loss_tokens": loss_tokens,
                "seconds": round(given.seconds, 4),
            }
        )
    (work / f"{name}.made_by.json").unlink(missing_ok=True)  # of other answers
    write_rows(work / f"{name}.jsonl", answered)
    write_json(work / f"{name}.made_by.json", made)
    partial.unlink(missing_ok=True)
    return answered


def _that_fit(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], config: Settings
) -> list[Mapping[str, Any]]:
    """Return the questions whose title does not fill `max_seq_length`; in 01 it may have been higher."""
    prompts, max_length = encode_prompts(tokenizer, rows, config.prompting), config.model.max_seq_length
    fit = [row for row, ids in zip(rows, prompts, strict=True) if row["response"] is None or len(ids) < max_length]
    if len(fit) < len(rows):
        print(f"{len(rows) - len(fit)} questions are not asked: their title fills max_seq_length={max_length}")
    return fit


def completion_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, str]],
    max_length: int,
    batch_size: int,
    template: PromptSettings = RECIPE,
) -> list[tuple[float, int]]:
    """Return, for each row, the sum of its completion tokens' losses (nats) and their number, eos included.

    Prompt tokens do not count. Shows a progress bar.
    """
    encoded = encode_rows(tokenizer, rows, max_length, template)
    order = sorted(range(len(rows)), key=lambda index: len(encoded[index]["input_ids"]))
    losses: dict[int, tuple[float, int]] = {}
    with evaluating(model), torch.inference_mode(), tqdm(total=len(rows), desc="losses") as bar:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [encoded[index]["input_ids"] for index in indices]},
                padding_side="right", return_attention_mask=True, return_tensors="pt",
            ).to(model.device)  # fmt: skip
            logits = model(**batch).logits
            for line, index in enumerate(indices):
                # One row at a time, and only where it counts: in float32 a batch's logits would fill a small card.
                where = torch.tensor(encoded[index]["completion_mask"]).nonzero().flatten().to(model.device)
                targets = batch["input_ids"][line, where]
                loss = cross_entropy(logits[line, where - 1].float(), targets, reduction="sum")
                losses[index] = (loss.item(), len(where))
            del logits
            bar.update(len(indices))
    return [losses[index] for index in range(len(rows))]


def scores(
    rows: Sequence[Mapping[str, Any]], work: Path, template: PromptSettings = RECIPE
) -> dict[str, dict[str, float | None]]:
    """Return every metric of `metrics.METRICS` over the rows of `answer`, apart for held-out and for trained rows.

    Raises:
        Tc3Error: There is no held-out row.
    """
    asked = by_part(rows)
    copied = copies.copying((row for rows in asked.values() for row in rows), work, template)
    parts = {PARTS[part]: metrics.score(rows, copied, template) for part, rows in asked.items()}
    return {part: {name: metrics.value(name, pairs) for name, pairs in sums.items()} for part, sums in parts.items()}
