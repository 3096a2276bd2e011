"""Titles to texts, greedily: in batches for a score, streamed for a look."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tc3lib.config import GenerationConfig
from tc3lib.prompts import encode_prompt


@dataclass(frozen=True)
class Answer:
    """What the model wrote for one title."""

    title: str
    text: str
    tokens: int
    """New tokens, eos included."""
    eos: bool
    """Whether the model ended the answer itself, before `max_new_tokens`."""


def generate(model: Any, tokenizer: Any, titles: Sequence[str], config: GenerationConfig) -> list[Answer]:
    """Return the model's greedy answers, in the titles' order.

    Titles of similar length share a batch, so that little is spent on padding. Shows a progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    prompts = [encode_prompt(tokenizer, title) for title in titles]
    order = sorted(range(len(titles)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    with evaluating(model), tqdm(total=len(titles), desc="answers") as bar:
        for start in range(0, len(order), config.generation_batch_size):
            batch = order[start : start + config.generation_batch_size]
            width = max(len(prompts[index]) for index in batch)
            # Padding goes on the left: the model continues from the last column.
            padding = [width - len(prompts[index]) for index in batch]
            ids = [[tokenizer.pad_token_id] * pad + prompts[index] for pad, index in zip(padding, batch, strict=True)]
            mask = [[0] * pad + [1] * (width - pad) for pad in padding]
            outputs = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                **_decoding(tokenizer, config),
            )
            for index, new in zip(batch, outputs[:, width:].tolist(), strict=True):
                answers[index] = _answer(tokenizer, titles[index], new)
            bar.update(len(batch))
    return [answers[index] for index in range(len(titles))]


def stream(
    model: Any,
    tokenizer: Any,
    titles: Sequence[str] | str,
    config: GenerationConfig,
    sources: Sequence[Mapping[str, Any]] = (),
) -> list[Answer]:
    """Print the model's greedy answer to each title while it is written; return the answers.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        titles: One title or several.
        config: `max_new_tokens` is used.
        sources: Rows of the catalogue as `select` writes them. A title's heading names the `uid` of its row.
    """
    import torch
    from transformers import TextStreamer

    uids = {row["input_text"]: row["uid"] for row in sources}
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    answers = []
    for title in [titles] if isinstance(titles, str) else titles:
        print(f"{title}  [source: {f'uid {uids[title]}' if title in uids else 'not in the catalogue'}]")
        prompt = encode_prompt(tokenizer, title)
        ids = torch.tensor([prompt], device=model.device)
        with evaluating(model):
            outputs = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **_decoding(tokenizer, config)
            )
        answers.append(_answer(tokenizer, title, outputs[0, len(prompt) :].tolist()))
        print()
    return answers


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put the model into evaluation mode for a while: one that trains with checkpointing would generate nonsense."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _decoding(tokenizer: Any, config: GenerationConfig) -> dict[str, Any]:
    return {
        "max_new_tokens": config.max_new_tokens,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _answer(tokenizer: Any, title: str, new: list[int]) -> Answer:
    """Return the answer up to eos; what `generate` padded behind it is not part of it."""
    eos = tokenizer.eos_token_id in new
    new = new[: new.index(tokenizer.eos_token_id) + 1] if eos else new
    return Answer(title, tokenizer.decode(new, skip_special_tokens=True).strip(), len(new), eos)
