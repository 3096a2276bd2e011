"""Check what the model will learn, and show it, before it is loaded."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from tc3lib.errors import Tc3Error
from tc3lib.prompts import INSTRUCTION, PROMPT, encode_prompts

if TYPE_CHECKING:
    from IPython.display import HTML

Encoded = Mapping[str, list[int]]
"""`input_ids` and `completion_mask`, as `prompts.encode` returns them."""


def check(
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    rows: Sequence[Mapping[str, str]],
    encoded: Sequence[Encoded | None],
    max_length: int,
    first: int = 1,
) -> int:
    """Check each row's tokens as training and generation will use them; return how many rows were cut.

    Args:
        tokenizer: The base model's own.
        path: Where the rows were read, for errors.
        rows: The rows as text.
        encoded: The same rows as tokens, None where the prompt fills `max_length`.
        max_length: `max_seq_length`.
        first: The number of the first row in the file.

    Raises:
        Tc3Error: A row does not begin with bos, if the tokenizer has one; learns nothing; holds a special token in
            its text; ends, uncut, in anything but a learned eos; or its prompt is not, id for id and read back as
            text, what generation sends.
    """
    eos, special = tokenizer.eos_token_id, set(tokenizer.all_special_ids)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    cut, text_from = 0, len(start)
    sent = encode_prompts(tokenizer, rows)
    for number, (row, tokens, prompt_sent) in enumerate(zip(rows, encoded, sent, strict=True), first):
        if tokens is None:
            continue
        ids, learned = tokens.values()
        prompt = ids[: learned.index(1)] if 1 in learned else ids
        text = PROMPT.format(row.get("instruction", INSTRUCTION), row["input_text"])
        ended = ids[-1] == eos and learned[-1] == 1
        cut += not ended
        faults = {
            "does not begin with bos": ids[:text_from] != start,
            "has no label": 1 not in learned,
            "has a special token in its text": not special.isdisjoint(ids[text_from : -1 if ended else None]),
            "does not end in a learned eos": not ended and len(ids) < max_length,
            "has another prompt than generation sends": prompt != prompt_sent,
            "has a prompt that does not read back as it was written": _decode(tokenizer, prompt[text_from:]) != text,
        }
        for fault in (name for name, found in faults.items() if found):
            raise Tc3Error(
                f"{path}, row {number} ({row['input_text'][:60]!r}) {fault}: the tokenizer {tokenizer.name_or_path!r} "
                "does not suit this training, or the row must be removed from the catalogue."
            )
    return cut


def found(tokenizer: PreTrainedTokenizerBase, rows: int, cut: int, dropped: int, max_length: int) -> str:
    """Return what was found in rows that passed `check`, in a sentence."""
    bos = "no" if tokenizer.bos_token_id is None else "one"
    lost = f"; {dropped:,} more were dropped, their title fills max_seq_length" if dropped else ""
    return (
        f"{rows:,} rows: each has {bos} bos and the prompt that generation sends; {rows - cut:,} end in a learned eos, "
        f"{cut:,} were cut at {max_length:,} tokens{lost}"
    )


def show(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, str]], encoded: Sequence[Encoded]) -> "HTML":
    """Return rows as the model will meet them: the prompt, what it learns to write, and eos, each marked.

    Args:
        tokenizer: The base model's own.
        rows: The rows as text, for their uid.
        encoded: The same rows as tokens, and perhaps more.
    """
    from IPython.display import HTML  # only notebooks have it

    blocks = []
    for row, tokens in zip(rows, encoded, strict=False):
        ids, learned = tokens.values()
        start = learned.index(1)
        ended = ids[-1] == tokenizer.eos_token_id
        completion = _decode(tokenizer, ids[start : -1 if ended else None])
        end = _span("eos", tokenizer.eos_token) if ended else _span("cut", f"cut at {len(ids)} tokens")
        counts = f"uid {row.get('uid', '?')}: {start} tokens of prompt, {len(ids) - start} learned"
        prompt = _span("prompt", _decode(tokenizer, ids[:start]))
        blocks.append(f"<b>{html.escape(counts)}</b><pre>{prompt}{_span('learned', completion)}{end}</pre>")
    legend = " ".join(_span(kind, text) for kind, text in _LEGEND.items())
    return HTML(f"<style>{_STYLE}</style><div class='tc3-labels'><p>{legend}</p>{''.join(blocks)}</div>")


_LEGEND = {"prompt": "prompt, not learned", "learned": "completion, learned", "eos": "end of text, learned"}
_STYLE = """
.tc3-labels pre { white-space: pre-wrap; margin: 0 0 1em 0; background: none; }
.tc3-labels span { padding: 0 2px; border-radius: 3px; }
.tc3-labels .prompt { opacity: 0.65; }
.tc3-labels .learned { background: rgba(76, 120, 168, 0.28); }
.tc3-labels .eos { background: #4C78A8; color: white; }
.tc3-labels .cut { background: #E45756; color: white; }
"""


def _span(kind: str, text: str) -> str:
    return f"<span class='{kind}'>{html.escape(text)}</span>"


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
