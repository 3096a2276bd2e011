"""An answer, and the rows of `pretest.jsonl` and `posttest.jsonl` that are scored. Needs neither torch nor unsloth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.files import read_rows
from tc3lib.prompts import description
from tc3lib.settings import PromptSettings

PARTS = {"eval": "held out", "train": "trained on"}
"""The parts that are scored."""


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


def by_part(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows that can be scored, held-out rows first.

    Raises:
        Tc3Error: There is no held-out row.
    """
    parts = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    if not parts["eval"]:
        raise Tc3Error("there are no held-out rows to score: run 01_prepare and the test notebooks again.")
    return {part: asked for part, asked in parts.items() if asked}


def trained_descriptions(work: Path, template: PromptSettings) -> list[str]:
    """Return the descriptions of the training set.

    Raises:
        Tc3Error: There is no `train.jsonl`.
    """
    return [description(row, template) for row in read_rows(work / "train.jsonl")]
