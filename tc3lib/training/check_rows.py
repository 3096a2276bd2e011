"""Check what the model will learn, and show it, before it is loaded."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from tc3lib.errors import Tc3Error
from tc3lib.prompts import description, encode_prompt, encode_prompts, end_id, format_record, prompt_text
from tc3lib.settings import PromptSettings

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
    template: PromptSettings,
    first: int = 1,
) -> int:
    """Check each row's tokens as training and generation will use them; return how many rows were cut.

    Args:
        tokenizer: The base model's own.
        path: Where the rows were read, for errors.
        rows: The rows as text.
        encoded: The same rows as tokens, None where the prompt fills `max_length`.
        max_length: `max_seq_length`.
        template: What the model is asked.
        first: The number of the first row in the file.

    Raises:
        Tc3Error: A row has one of these faults:
            - it was prepared for another instruction or response than is set;
            - none of its tokens is learned;
            - it has special tokens besides those of its prompt (bos, or the chat template's) and its eos;
            - it was not cut, and does not end in a learned eos;
            - its prompt has other ids than generation sends, or does not decode to the text of the prompt.
    """
    end, special = end_id(tokenizer, template), set(tokenizer.all_special_ids)
    framing = [token for token in encode_prompt(tokenizer, "", template) if token in special]
    text_from = int(template.prompt != "chat" and tokenizer.bos_token_id is not None)
    cut, sent = 0, encode_prompts(tokenizer, rows, template)
    for number, (row, tokens, prompt_sent) in enumerate(zip(rows, encoded, sent, strict=True), first):
        if tokens is None:
            continue
        where = f"{path}, row {number} ({row['input_text'][:60]!r})"
        if not format_record(row["input_text"], description(row, template), template).items() <= row.items():
            raise Tc3Error(
                f"{where} has another instruction or response than is set: run 01_prepare, or set them back."
            )
        ids, learned = tokens.values()
        prompt = ids[: learned.index(1)] if 1 in learned else ids
        text = prompt_text(tokenizer, row["input_text"], template)
        ended = ids[-1] == end and learned[-1] == 1
        cut += not ended
        body, read_back = ids[:-1] if ended else ids, _letters(_decode(tokenizer, prompt[text_from:]))
        faults = {
            "has no label": 1 not in learned,
            "has not the special tokens of its prompt": [token for token in body if token in special] != framing,
            "does not end in a learned eos": not ended and len(ids) < max_length,
            "has another prompt than generation sends": prompt != prompt_sent,
            "has a prompt that does not read back as it was written": read_back != _letters(text),
        }
        for fault in (name for name, found in faults.items() if found):
            raise Tc3Error(
                f"{where} {fault}: the tokenizer {tokenizer.name_or_path!r} does not suit this training, or the row "
                "must be removed from the catalogue."
            )
    return cut


def summary(
    tokenizer: PreTrainedTokenizerBase, rows: int, cut: int, dropped: int, max_length: int, template: PromptSettings
) -> str:
    """Return a sentence about rows that passed `check`."""
    bos = "no bos" if tokenizer.bos_token_id is None else "one bos"
    begins = "the chat template" if template.prompt == "chat" else bos
    lost = f"; {dropped:,} more were dropped, their title fills max_seq_length" if dropped else ""
    return (
        f"{rows:,} rows: each has {begins} and the prompt that generation sends; {rows - cut:,} end in a learned eos, "
        f"{cut:,} were cut at {max_length:,} tokens{lost}"
    )


def show(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, str]],
    encoded: Sequence[Encoded],
    template: PromptSettings,
) -> "HTML":
    """Return rows as the model will meet them: the prompt, what it learns to write, and eos, each marked.

    Args:
        tokenizer: The base model's own.
        rows: The rows as text, for their uid.
        encoded: The same rows as tokens, and perhaps more.
        template: What the model is asked.
    """
    from IPython.display import HTML  # only notebooks have it

    blocks, last = [], end_id(tokenizer, template)
    for row, tokens in zip(rows, encoded, strict=False):
        ids, learned = tokens.values()
        start = learned.index(1)
        ended = ids[-1] == last
        completion = _decode(tokenizer, ids[start : -1 if ended else None])
        end = _span("eos", _decode(tokenizer, [last])) if ended else _span("cut", f"cut at {len(ids)} tokens")
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


def _letters(text: str) -> str:
    """Return a text without its white space, of which tokenizers drop or add some beside special tokens."""
    return "".join(text.split())


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)
