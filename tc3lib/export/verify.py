"""Prove an artefact: held-out questions, answered by the program that will use it, against the adapter's answers.

The reference is the adapter on the base model in 16 bit, by transformers and PEFT. A format's bound says how far its
precision may lead from that; further is another fault, such as a wrong stop, prompt, tokenizer or base model.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error
from tc3lib.export import child
from tc3lib.files import read_json, read_rows
from tc3lib.prompts import encode_rows, load_tokenizer, prompt_text
from tc3lib.settings import Settings

QUESTIONS = 32
"""Held-out titles that an artefact is asked."""
FIRST = 16
"""Tokens of an answer that are compared: later ones differ by one early tie."""


@dataclass(frozen=True)
class Bound:
    """How far an artefact's answers may be from the adapter's."""

    same: float
    """Least share of answers whose first tokens are the same."""
    loss: float
    """Largest difference of the mean loss of a token, in nats."""
    ended: float = 0.15
    """How much lower the share of answers that ended by themselves may be."""


BOUNDS = {
    "merged": Bound(same=0.75, loss=0.02),
    "f16": Bound(same=0.75, loss=0.02),
    "q8_0": Bound(same=0.6, loss=0.03),
    "q4_k_m": Bound(same=0.15, loss=0.15, ended=0.25),
}
"""From SmolLM2 (135M), an adapter and 32 held-out titles; figures in the order of the formats above.

loss: three to four times the differences measured, 0.005, 0.005, 0.010 and 0.041. A larger model loses less.
same: the first 16 tokens, mostly the title, were the same in 100, 100, 100 and 94 % of the answers, the first 24 in 84,
    84, 91 and 44 %. Answers that do not begin with the title differ earlier, so the bounds are lower than both.
ended: 6 to 9 points more answers ended than of the adapter's, up to 3 of 32. A near tie between two tokens late in an
    answer may decide this either way.
"""

DEQUANTISED = Bound(same=0, loss=0.3, ended=0.25)
"""Of the adapter itself, on the base model in 16 bit instead of the 4 bit of its training."""


def questions(work: Path, config: Settings) -> dict[str, Any]:
    """Return what is asked: each prompt as text, and the ids of prompt and description as they were trained.

    Raises:
        Tc3Error: There are no questions, or none is held out and fits `max_seq_length`.
    """
    rows = [row for row in read_rows(work / "questions.jsonl") if row["part"] == "eval"]
    tokenizer, template = load_tokenizer(str(work / "lora_model")), config.prompting
    encoded = encode_rows(tokenizer, rows, config.model.max_seq_length, template)
    fitting = [(row["input_text"], ids) for row, ids in zip(rows, encoded, strict=True) if ids][:QUESTIONS]
    if not fitting:
        raise Tc3Error(
            f"{work / 'questions.jsonl'} has no held-out row to prove an export with, or none whose title fits "
            f"max_seq_length={config.model.max_seq_length}: run 01_prepare again."
        )
    return {
        "max_new_tokens": config.generation.max_new_tokens,
        "titles": [title for title, _ in fitting],
        "questions": [{"prompt": prompt_text(tokenizer, title, template), **ids} for title, ids in fitting],
    }


def ask(kind: str, model: Path, asked: Mapping[str, Any], adapter: Path | None = None) -> dict[str, Any]:
    """Return an artefact's answers, given in a fresh process (see `ask.py`).

    Raises:
        Tc3Error: It cannot be opened, or cannot answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("questions.json", "answers.json")]
        files[0].write_text(json.dumps(asked))
        options = ["--adapter", adapter] if adapter else []
        child.run(["-m", "tc3lib.export.ask", kind, model, *files, *options], f"opening {model}")
        return json.loads(files[1].read_bytes())


def judge(
    name: str, found: Mapping[str, Any], reference: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an artefact's figures, its bound, and in `failed` what is out of it: empty where it is proved."""
    bound, trained = BOUNDS[name], [prompt(row) for row in asked["questions"]]
    figures, expected = summary(found, asked), summary(reference, asked)
    both = list(zip(found["answers"], reference["answers"], strict=True))
    prompts = [given["prompt"] == ids for given, ids in zip(found["answers"], trained, strict=True)]
    same = [given["ids"][:FIRST] == ours["ids"][:FIRST] for given, ours in both]
    unended = sum(ours["ended"] - given["ended"] for given, ours in both)
    one = 1 if len(both) > 1 else 0  # of a few questions, one near tie must not decide
    figures |= {
        "same_prompt": fmean(prompts),
        "same_first_tokens": fmean(same),
        "loss_difference": figures["loss"] - expected["loss"],
        "bound": asdict(bound),
    }
    failed = []
    if figures["same_prompt"] < 0.9:  # a title may hold the text of a special token, which others take for one
        failed.append(f"it reads {1 - figures['same_prompt']:.0%} of the prompts as other tokens than were trained")
    if unended > max(one, bound.ended * len(both)):
        failed.append(
            f"{figures['ended']:.0%} of its answers end by themselves, {expected['ended']:.0%} of the adapter's"
        )
    if not abs(figures["loss_difference"]) <= bound.loss:  # nor if it is not a number
        failed.append(f"its loss differs by {figures['loss_difference']:+.4f}, more than {bound.loss:g}")
    if same.count(False) > max(one, (1 - bound.same) * len(both)):
        failed.append(
            f"{figures['same_first_tokens']:.0%} of its answers begin with the adapter's {FIRST} tokens, "
            f"expected at least {bound.same:.0%}"
        )
    return figures | {"failed": failed}


def summary(found: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the program, the number of questions, the mean loss of a token and the share of answers that ended."""
    tokens = sum(sum(row["completion_mask"]) for row in asked["questions"])
    return {
        "program": found["program"],
        "questions": len(found["answers"]),
        "loss": sum(answer["loss_sum"] for answer in found["answers"]) / tokens,
        "ended": fmean(answer["ended"] for answer in found["answers"]),
    }


def doubts(record: Mapping[str, Any]) -> str:
    """Say how the adapter on the base in 16 bit is worse than as trained, on 4 bit; empty if it is not."""
    ours, trained = record["adapter"], record["in_4bit"]
    if trained and ours["loss"] > trained["loss"] + DEQUANTISED.loss:
        return f"its loss is {ours['loss']:.4f} and was {trained['loss']:.4f}"
    if trained and ours["ended"] < trained["ended"] - DEQUANTISED.ended:
        return f"{ours['ended']:.0%} of its answers end by themselves, it was {trained['ended']:.0%}"
    return ""


def adapter_digest(work: Path) -> str:
    """Return the SHA-256 of the adapter's weights, as `export.json` records it."""
    with open(work / "lora_model" / "adapter_model.safetensors", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def proved(record: Mapping[str, Any]) -> list[str]:
    """Return the formats of `export.json` that did not fail."""
    return [name for name, found in record.get("formats", {}).items() if not found["failed"]]


def rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what `export.json` holds as rows of a table, first the adapter's own."""
    adapter, trained = record["adapter"], record["in_4bit"]
    found = [("adapter, base in 16 bit", adapter, "the reference")]
    found += [("adapter, base in 4 bit", trained, "as trained")] if trained else []
    for name, one in record["formats"].items():
        found.append((name, one, "failed, not offered" if one["failed"] else "proved"))
    return [
        {
            "format": name,
            "program": one.get("program", ""),
            "equal": f"{one['same_first_tokens']:.2f}" if "same_first_tokens" in one else "",
            "loss": f"{one['loss']:.4f}" if "loss" in one else "",
            "ended": f"{one['ended']:.2f}" if "ended" in one else "",
            "verdict": verdict,
        }
        for name, one, verdict in found
    ]


def in_4bit(work: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return loss and share of ended answers of the model as trained, which notebook 04 measured; None before it."""
    same, path = run_record.tested(read_json(work / "report.json"), work), work / "posttest.jsonl"
    rows = {row["title"]: row for row in read_rows(path) if row["part"] == "eval"} if same and path.is_file() else {}
    if not rows.keys() >= set(asked["titles"]):
        print("04_posttest was not run with this adapter: how it answers on the base model in 4 bit is not compared")
        return None
    answered = [rows[title] for title in asked["titles"]]
    if any(row["loss_sum"] is None for row in answered):
        print(f"{path} has losses that are not numbers: how it answers on the base model in 4 bit is not compared")
        return None
    return {
        "loss": sum(row["loss_sum"] for row in answered) / sum(row["loss_tokens"] for row in answered),
        "ended": fmean(row["eos"] for row in answered),
    }


def prompt(row: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the ids of an encoded row's prompt."""
    return row["input_ids"][: row["completion_mask"].index(1)]
