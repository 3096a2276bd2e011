"""Ask the questions that notebook 01 drew, and score the answers; before and after training in the same way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.evaluation import metrics
from tc3lib.evaluation.generation import evaluating, generate
from tc3lib.files import read_rows, write_rows
from tc3lib.prompts import description, encode_rows
from tc3lib.settings import Settings

PARTS = {"eval": "held out", "train": "trained on"}
"""The parts that are scored."""


def answer(model: Any, tokenizer: Any, config: Settings, work: Path, name: str) -> list[dict[str, Any]]:
    """Answer the questions that notebook 01 drew, measure the loss of their references, and keep both.

    Interrupted, it goes on when it is called again: finished answers lie in `<name>.partial.jsonl` until all are there.

    Args:
        model: Base or fine-tuned.
        tokenizer: Its tokenizer.
        config: `max_seq_length` and the generation settings are used.
        work: The work folder, with `questions.jsonl`.
        name: The file to write without its suffix: `pretest` or `posttest`.

    Returns:
        What the file holds, a row for each question: `uid`, `part`, `title`, `reference`, `answer`, `tokens` (new
        ones), `eos` (ended by the model itself), `loss_sum` (nats) over `loss_tokens`, `seconds` (its share of its
        batch's time). A title that is not in the catalogue has no `uid`, `reference` and loss.
    """
    rows = read_rows(work / "questions.jsonl")
    known = [row for row in rows if row["response"] is not None]
    # The losses first: they are quick, and a row that does not fit is told before the answers have cost time.
    batch_size = config.training.per_device_eval_batch_size
    losses = iter(completion_losses(model, tokenizer, known, config.model.max_seq_length, batch_size))
    partial = work / f"{name}.partial.jsonl"
    answers = generate(model, tokenizer, [row["input_text"] for row in rows], config.generation, partial)
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
    write_rows(work / f"{name}.jsonl", answered)
    partial.unlink(missing_ok=True)
    return answered


def completion_losses(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int, batch_size: int
) -> list[tuple[float, int]]:
    """Return, for each row, the sum of its completion tokens' losses (nats) and their number, eos included.

    Prompt tokens do not count. Shows a progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    encoded = encode_rows(tokenizer, rows, max_length)
    order = sorted(range(len(rows)), key=lambda index: len(encoded[index]["input_ids"]))
    losses: dict[int, tuple[float, int]] = {}
    with evaluating(model), torch.inference_mode(), tqdm(total=len(rows), desc="losses") as bar:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = len(encoded[batch[-1]]["input_ids"])
            ids = torch.full((len(batch), width), tokenizer.pad_token_id)
            counted = torch.zeros((len(batch), width), dtype=torch.bool)
            attention = torch.zeros((len(batch), width), dtype=torch.long)
            for line, index in enumerate(batch):
                row = encoded[index]
                length = len(row["input_ids"])
                ids[line, :length] = torch.tensor(row["input_ids"])
                counted[line, :length] = torch.tensor(row["completion_mask"], dtype=torch.bool)
                attention[line, :length] = 1
            ids, attention = ids.to(model.device), attention.to(model.device)
            logits = model(input_ids=ids, attention_mask=attention).logits
            for line, index in enumerate(batch):
                # One row at a time, and only where it counts: in float32 a batch's logits would fill a small card.
                where = counted[line].nonzero().flatten().to(model.device)
                loss = torch.nn.functional.cross_entropy(
                    logits[line, where - 1].float(), ids[line, where], reduction="sum"
                )
                losses[index] = (loss.item(), len(where))
            del logits
            bar.update(len(batch))
    return [losses[index] for index in range(len(rows))]


def scores(rows: Sequence[Mapping[str, Any]], work: Path) -> dict[str, dict[str, float | None]]:
    """Return every metric of `metrics.METRICS` over what `answer` returned, for held-out and for trained rows apart.

    Raises:
        Tc3Error: There is no held-out row.
    """
    trained = trained_descriptions(work)
    parts = {PARTS[part]: metrics.score(asked, trained) for part, asked in by_part(rows).items()}
    return {part: {name: metrics.value(name, pairs) for name, pairs in sums.items()} for part, sums in parts.items()}


def by_part(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the answers that can be scored, held-out rows first.

    Raises:
        Tc3Error: There is no held-out row.
    """
    parts = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    if not parts["eval"]:
        raise Tc3Error("there are no held-out rows to score: run 01_prepare and the test notebooks again.")
    return {part: asked for part, asked in parts.items() if asked}


def trained_descriptions(work: Path) -> list[str]:
    """Return the descriptions of the training set.

    Raises:
        Tc3Error: There is no `train.jsonl`.
    """
    return [description(row) for row in read_rows(work / "train.jsonl")]
