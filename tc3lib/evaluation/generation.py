"""Titles to texts, greedily: in batches for a score, streamed for a look."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from tc3lib.errors import Tc3Error
from tc3lib.files import write_rows
from tc3lib.prompts import encode_prompt, encode_prompts
from tc3lib.runtime import processes
from tc3lib.settings import GenerationSettings
from tc3lib.training import plan as planning


@dataclass(frozen=True)
class Answer:
    """What the model wrote for one title."""

    title: str
    text: str
    ids: list[int] = dataclasses.field(repr=False)
    """The new tokens, eos included."""
    eos: bool
    """Whether the model ended the answer itself, before `max_new_tokens`."""
    seconds: float = dataclasses.field(default=0.0, compare=False)
    """Its share of the time that its batch took."""

    @property
    def tokens(self) -> int:
        """How many new tokens there are."""
        return len(self.ids)


def generate(
    model: Any, tokenizer: Any, titles: Sequence[str], config: GenerationSettings, kept: Path | None = None
) -> list[Answer]:
    """Return the model's greedy answers, in the titles' order.

    Titles of similar length share a batch, so that little is spent on padding. Where memory runs out the batches are
    halved. Several processes each answer a part of every batch; all of them return all answers. Shows a progress bar.

    Args:
        model: Base or fine-tuned; `model.disable_adapter()` is respected.
        tokenizer: Its tokenizer.
        titles: Any texts; whatever they hold is ordinary text.
        config: `max_new_tokens` and `generation_batch_size` are used.
        kept: A file for the answers of finished batches. Those that an interrupted call of the same model, titles and
            settings left there are not asked again.

    Raises:
        Tc3Error: The memory does not hold one title's answer.
    """
    import torch
    from tqdm.auto import tqdm

    prompts = encode_prompts(tokenizer, [{"input_text": title} for title in titles])
    order = sorted(range(len(titles)), key=lambda index: len(prompts[index]))
    answers, keep = _resume(kept, lambda: _key(model, prompts, config), titles)
    processes.wait()  # until all have read what was kept
    count, limit = processes.count(), config.generation_batch_size or planning.MOST_ANSWERS
    position = 0
    bar = tqdm(total=len(titles), desc="answers", initial=len(answers), disable=not processes.is_main())
    with evaluating(model), bar:
        while position < len(order):
            widths = [len(prompts[index]) for index in order[position::count][:limit]]
            size = limit if config.generation_batch_size else planning.answers_at_once(widths, config, *_memory(model))
            size = min(processes.gather(size))
            # The same batches again after an interruption; what is answered already is left out of them.
            batch = order[position : position + size * count][processes.index() :: count]
            batch = [index for index in batch if index not in answers]
            started, refused, outputs = time.monotonic(), 0, []
            try:
                outputs = _answer_batch(model, tokenizer, [prompts[index] for index in batch], config) if batch else []
            except torch.OutOfMemoryError:
                refused = len(batch)
            finally:
                _release(model)
            if refused := max(processes.gather(refused)):
                if refused == 1:
                    raise Tc3Error(
                        f"the memory does not hold the answer to one title of {max(widths)} tokens: lower "
                        "max_new_tokens, or restart the session, so that the memory is free."
                    )
                limit = refused // 2
                bar.write(f"out of memory with {refused} titles at once: {limit} from here on")
                continue
            seconds = (time.monotonic() - started) / max(1, len(batch))
            mine = {
                index: _answer(tokenizer, titles[index], output, seconds)
                for index, output in zip(batch, outputs, strict=True)
            }
            new = {index: answer for part in processes.gather(mine) for index, answer in part.items()}
            answers |= new
            keep(new)
            position += size * count
            bar.update(len(new))
    return [answers[index] for index in range(len(titles))]


def stream(
    model: Any,
    tokenizer: Any,
    titles: Sequence[str] | str,
    config: GenerationSettings,
    sources: Sequence[Mapping[str, Any]] = (),
    *,
    adapter: bool = True,
) -> list[Answer]:
    """Print the model's greedy answer to each title while it is written; return the answers.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        titles: One title or several.
        config: `max_new_tokens` is used.
        sources: Rows of the catalogue as `select` writes them. A title's heading names the `uid` of its row.
        adapter: False: the model's adapter is switched off while it answers.
    """
    import torch
    from transformers import TextStreamer

    uids = {row["input_text"]: row["uid"] for row in sources if row["uid"] is not None}
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    answers = []
    for title in [titles] if isinstance(titles, str) else titles:
        print(f"{title}  [source: {f'uid {uids[title]}' if title in uids else 'not in the catalogue'}]")
        prompt = encode_prompt(tokenizer, title)
        ids = torch.tensor([prompt], device=model.device)
        with evaluating(model), nullcontext() if adapter else model.disable_adapter():
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


def _answer_batch(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], config: GenerationSettings
) -> list[list[int]]:
    """Return the new ids of each prompt. Padding goes on the left: the model continues from the last column."""
    import torch

    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = [[tokenizer.pad_token_id] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * pad + [1] * (width - pad) for pad in padding]
    outputs = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        **_decoding(tokenizer, config),
    )
    return outputs[:, width:].tolist()


def _decoding(tokenizer: Any, config: GenerationSettings) -> dict[str, Any]:
    return {
        "max_new_tokens": config.max_new_tokens,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _answer(tokenizer: Any, title: str, new: list[int], seconds: float = 0.0) -> Answer:
    """Return the answer up to eos; what `generate` padded behind it is not part of it."""
    eos = tokenizer.eos_token_id in new
    new = new[: new.index(tokenizer.eos_token_id) + 1] if eos else new
    return Answer(title, tokenizer.decode(new, skip_special_tokens=True).strip(), new, eos, seconds)


def _memory(model: Any) -> tuple[Any, float | None]:
    """Return the model's shape and the bytes of the card that are free, None without a card."""
    import torch

    if not torch.cuda.is_available():
        return model.config, None
    reserved = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return model.config, torch.cuda.mem_get_info()[0] + reserved


def _release(model: Any) -> None:
    """Give back the cache of keys and values that unsloth keeps on the model after an answer."""
    for module in model.modules():
        for name in [name for name in vars(module) if name.startswith("paged_attention")]:
            delattr(module, name)


def _key(model: Any, prompts: Sequence[Sequence[int]], config: GenerationSettings) -> str:
    """Return what tells answers of this model to these prompts from others: a hash, of the adapter's weights too."""
    import torch

    known = xxh3_128(repr((model.config._name_or_path, config.max_new_tokens, str(model.dtype))).encode())
    known.update(json.dumps(prompts).encode())
    known.update(str([getattr(module, "disable_adapters", None) for module in model.modules()]).encode())
    for name, weight in model.named_parameters():
        if "lora_" in name:
            known.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return known.hexdigest()


def _resume(
    kept: Path | None, key: Callable[[], str], titles: Sequence[str]
) -> tuple[dict[int, Answer], Callable[[Mapping[int, Answer]], None]]:
    """Return the answers that `kept` holds already, by number, and a function that adds some to it.

    A file that cannot be written costs nothing but the answers of an interruption: it is told, and all goes on.
    """
    if kept is None:
        return {}, lambda new: None
    head = {"answers_of": key()}
    answers: dict[int, Answer] = {}
    try:
        lines = kept.read_bytes().splitlines()
        if lines and json.loads(lines[0]) == head:
            for line in map(json.loads, lines[1:]):
                index = line.pop("index")
                answers[index] = Answer(**line)
    except (OSError, ValueError):  # there is none, or its last line was cut short
        pass
    broken = False

    def keep(new: Mapping[int, Answer], mode: str = "ab") -> None:
        nonlocal broken
        rows = [{"index": index, **vars(answer)} for index, answer in new.items()]
        try:
            if mode == "wb":
                write_rows(kept, [head, *rows])
            elif not broken:
                with open(kept, mode) as file:
                    file.writelines(json.dumps(row).encode() + b"\n" for row in rows)
                    file.flush()
                    os.fsync(file.fileno())
        except (OSError, Tc3Error) as error:
            broken = True
            print(f"answers are not kept for an interruption: {error}")

    if not processes.is_main():
        return answers, lambda new: None
    keep(answers, "wb")
    if answers:
        print(f"{len(answers)} of {len(titles)} answers were there already, from an interrupted run")
    return answers, keep
