"""An answer, the rows of `pretest.jsonl` and `posttest.jsonl` that are scored, and whether the two can be compared.

Needs neither torch nor unsloth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.files import read_json

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
    for name in now:
        was, is_now = before.get(name), now[name]
        if was != is_now and name not in free:
            change = _TOO_LONG.get(name, f"{name} was {was!r} and is now {is_now!r}")
            raise Tc3Error(f"pretest.jsonl was made otherwise: {change}. Run 02_pretest again, or set it back.")
