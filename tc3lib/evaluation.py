"""Has it learned? Metrics of answers against references, and the base model against the fine-tuned one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tc3lib.config import Config
from tc3lib.errors import Tc3Error
from tc3lib.generation import evaluating, generate
from tc3lib.prompts import encode


def answer(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]], config: Config) -> list[dict[str, Any]]:
    """Answer the rows' titles and measure the loss of their references.

    Args:
        model: Base or fine-tuned.
        tokenizer: Its tokenizer.
        rows: From `select`: `uid`, `part`, `input_text`, `response`.
        config: `max_seq_length` and the generation settings are used.

    Returns:
        What `pretest.jsonl` and `posttest.jsonl` hold, a row each: `uid`, `part`, `title`, `reference`, `answer`,
        `tokens` (new ones), `eos` (ended by the model itself), `loss_sum` (nats) over `loss_tokens`.
    """
    # The losses first: they are quick, and a row that does not fit is told before the answers have cost time.
    batch_size = config.training.per_device_eval_batch_size
    losses = completion_losses(model, tokenizer, rows, config.model.max_seq_length, batch_size)
    answers = generate(model, tokenizer, [row["input_text"] for row in rows], config.generation)
    return [
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
        }
        for row, given, (loss_sum, loss_tokens) in zip(rows, answers, losses, strict=True)
    ]


def completion_losses(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int, batch_size: int
) -> list[tuple[float, int]]:
    """Return, for each row, the sum of its completion tokens' losses (nats) and their number, eos included.

    Prompt tokens do not count. Shows a progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    encoded = [encode(tokenizer, row, max_length) for row in rows]
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


def evaluate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Score the answers to the held-out rows (`part` is `eval`) among those that `answer` returned.

    Returns:
        `rougeL`: mean ROUGE-L F1, 0 to 1 (Lin 2004, `torchmetrics`; words of any alphabet in lower case, no
        stemming); `chrf`: corpus chrF, 0 to 100 (Popovic 2015, `sacrebleu`); `eos_rate`: share of answers that the
        model ended itself; `loss`: mean loss of the real descriptions' tokens in nats.

    Raises:
        Tc3Error: There is no held-out row.
    """
    from sacrebleu.metrics import CHRF
    from torchmetrics.functional.text import rouge_score

    rows = [row for row in rows if row["part"] == "eval"]
    if not rows:
        raise Tc3Error("there are no held-out rows to score: run 01_prepare and the test notebooks again.")
    answers, references = [row["answer"] for row in rows], [row["reference"] for row in rows]
    words = re.compile(r"\w+").findall
    rouge = rouge_score(answers, references, rouge_keys="rougeL", normalizer=str.lower, tokenizer=words)
    return {
        "rougeL": round(rouge["rougeL_fmeasure"].item(), 4),
        "chrf": round(CHRF().corpus_score(answers, [references]).score, 2),
        "eos_rate": round(sum(row["eos"] for row in rows) / len(rows), 4),
        "loss": round(sum(row["loss_sum"] for row in rows) / sum(row["loss_tokens"] for row in rows), 4),
    }


def compare(baseline: Sequence[Mapping[str, Any]], finetuned: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `{"baseline": metrics, "finetuned": metrics, "n": rows}` over the held-out rows of the two tests.

    Raises:
        Tc3Error: The two tests did not ask the same rows in the same order.
    """
    pairs(baseline, finetuned)
    return {
        "baseline": evaluate(baseline),
        "finetuned": evaluate(finetuned),
        "n": sum(row["part"] == "eval" for row in finetuned),
    }


def pairs(baseline: Sequence[Mapping[str, Any]], finetuned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of both tests side by side, the answers as `before` and `after`.

    Raises:
        Tc3Error: The two tests did not ask the same rows in the same order.
    """
    asked = [[(row["uid"], row["title"], row["reference"]) for row in rows] for rows in (baseline, finetuned)]
    if asked[0] != asked[1]:
        raise Tc3Error(
            f"the pretest ({len(baseline)} answers) and the posttest ({len(finetuned)}) did not ask the same rows: "
            "run 02_pretest and 04_posttest again after 01_prepare."
        )
    return [
        {
            **{key: new[key] for key in ("uid", "part", "title", "reference")},
            "before": old["answer"],
            "after": new["answer"],
        }
        for old, new in zip(baseline, finetuned, strict=True)
    ]
