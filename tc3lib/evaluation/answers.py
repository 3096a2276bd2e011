"""An answer, the file that keeps answers until all are there, the rows of `pretest.jsonl` and `posttest.jsonl`.

Needs neither torch nor unsloth.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tc3lib.errors import Tc3Error
from tc3lib.files import blaming, read_json, write_rows
from tc3lib.prompts import RECIPE, end_id
from tc3lib.settings import PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = {"eval": "held out", "train": "trained on"}
"""The parts that are scored."""
_TOO_LONG = {"weights": "other weights", "tokenizer": "another tokenizer", "prompt": "another prompt"}


@dataclass(frozen=True)
class Answer:
    """What the model wrote for one title."""

    title: str
    text: str
    ids: list[int] = field(repr=False)
    """The new tokens, eos included."""
    eos: bool
    """Whether the model ended the answer itself, before `max_new_tokens`."""
    seconds: float = field(default=0.0, compare=False)
    """Its share of its batch's time."""

    @property
    def tokens(self) -> int:
        """The number of new tokens."""
        return len(self.ids)


def end_ids(
    tokenizer: "PreTrainedTokenizerBase", named: int | Sequence[int] | None, template: PromptSettings = RECIPE
) -> list[int]:
    """Return the ids that end an answer: what is learned, and what else the model's generation config names.

    The tokenizer's eos does not count: in a chat, the one saved with an adapter has another than the base model's.

    Args:
        named: The `eos_token_id` of that config. Only special or added tokens count: where it is missing, it has the
            default of the model's class.
    """
    ids = named if isinstance(named, list) else [named]
    added = [number for number in ids if number in tokenizer.added_tokens_decoder]
    return list(dict.fromkeys([end_id(tokenizer, template), *added]))


def read_answer(
    tokenizer: "PreTrainedTokenizerBase", title: str, new: list[int], ends: Sequence[int], seconds: float = 0.0
) -> Answer:
    """Return the answer up to what ends it, without the padding that an engine may put after it."""
    end = next((at for at, token in enumerate(new) if token in ends), None)
    text = tokenizer.decode(new[:end], skip_special_tokens=True).strip()
    return Answer(title, text, new if end is None else new[: end + 1], end is not None, seconds)


def check_room(title: str, prompt: int, new: int, room: int | None, max_seq_length: int | None = None) -> None:
    """Raise Tc3Error if a title's prompt is too long, or leaves no room for an answer.

    Args:
        prompt: Its tokens.
        new: `max_new_tokens`.
        room: Most tokens of both that the model takes. None: as many as there are.
        max_seq_length: Most tokens of a prompt: on a GPU unsloth cuts the end off a longer one.
    """
    if max_seq_length and prompt > max_seq_length:
        raise Tc3Error(
            f"the prompt with {title[:60]!r} has {prompt:,} tokens, max_seq_length is {max_seq_length:,}: shorten that "
            "text, or leave its row out."
        )
    if room and prompt + new > room:
        raise Tc3Error(
            f"the prompt with the title {title[:60]!r} has {prompt:,} tokens; the model takes {room:,}, max_new_tokens="
            f"{new} of them for the answer: shorten the title, or leave its row out."
        )


def kept_answers(path: Path, key: str) -> dict[int, Answer]:
    """Return the answers in `path` by number, none if they were kept under another key; write the file anew with them.

    Args:
        key: What tells whether a new call would give the same answers.
    """
    head, lines = {"answers_to": key}, []
    with suppress(OSError, ValueError):  # there is no file, or its last line was cut short
        for line in path.read_bytes().splitlines():
            lines.append(json.loads(line))
    rows = lines[1:] if lines[:1] == [head] else []
    write_rows(path, [head, *rows])
    return {row["index"]: Answer(**row["answer"]) for row in rows}


def keep(path: Path, answers: Mapping[int, Answer]) -> None:
    """Append answers to the file, and have them on the disk."""
    with blaming(path), open(path, "ab") as file:
        for index, answer in answers.items():
            file.write(json.dumps({"index": index, "answer": vars(answer)}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def by_part(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows that can be scored, held-out rows first.

    Raises:
        Tc3Error: There is no held-out row.
    """
    parts = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    if not parts["eval"]:
        raise Tc3Error("there are no held-out rows to score: run 01_prepare and the test notebooks again.")
    return {part: asked for part, asked in parts.items() if asked}


def recorded(work: Path, name: str) -> dict[str, Any]:
    """Return what made the answers of a test: what `generation.made_by` returned, which stands beside them.

    Raises:
        Tc3Error: It is not known.
    """
    found = read_json(work / f"{name}.made_by.json")
    if not found:
        notebook = {"pretest": "02_pretest", "posttest": "04_posttest"}[name]
        raise Tc3Error(f"what made {work / name}.jsonl is not known ({name}.made_by.json): run {notebook} again.")
    return found


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise Tc3Error if what made the pretest (`before`) is not what answers now; the first difference is named.

    The same base model may have another name, such as that of another folder.
    """
    free = ("model", "revision") if before["weights"] == now["weights"] else ()
    before = {"max_seq_length": now.get("max_seq_length"), **before}  # older ones do not have it
    for name in now:
        was, is_now = before.get(name), now[name]
        if was != is_now and name not in free:
            change = _TOO_LONG.get(name, f"{name} was {was!r} and is now {is_now!r}")
            raise Tc3Error(f"pretest.jsonl comes from another set-up: {change}. Run 02_pretest again, or set it back.")
