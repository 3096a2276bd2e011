"""Generate descriptions from titles, greedily: in batches to be scored, streamed to be read."""

from tc3lib import model_loading  # isort: skip  (first: it imports unsloth, which patches transformers)

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer
from xxhash import xxh3_128

from tc3lib.errors import Tc3Error
from tc3lib.evaluation.answers import Answer, check_room, end_ids, keep, kept_answers, read_answer
from tc3lib.prompts import encode_prompt, encode_prompts, prompt_text, text_tokenizer
from tc3lib.settings import GenerationSettings, Settings

GIB = 2**30
RESERVE_GIB = 1.5
"""Memory kept free for what does not grow with the batch."""
USED = 0.92
"""Share of the rest that a batch may take; the allocator leaves gaps."""
MOST_ANSWERS = 256
"""Most titles in a batch: more are hardly faster, and an interruption would cost more."""
CACHE_AHEAD = 512
"""Tokens beyond the prompt for which unsloth allocates its KV cache."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str],
    config: Settings,
    kept: Path | None = None,
) -> list[Answer]:
    """Return the model's greedy answers, in the titles' order.

    Titles of similar length share a batch, so that little is spent on padding. Where memory runs out the batches are
    halved. Shows a progress bar.

    Args:
        model: Base or fine-tuned; `model.disable_adapter()` is respected.
        titles: Any texts; special tokens in them are encoded as ordinary text.
        config: Its prompt, `max_new_tokens` and `generation_batch_size` are used.
        kept: A file for the answers of finished batches. Answers that an interrupted call with the same model, titles
            and settings left there are not generated again.

    Raises:
        Tc3Error: The memory does not hold one title's answer, or `kept` cannot be written.
    """
    prompts = encode_prompts(tokenizer, [{"input_text": title} for title in titles], config.prompting)
    order = sorted(range(len(titles)), key=lambda index: len(prompts[index]))
    for index in order[-1:]:
        _check_room(model, titles[index], prompts[index], config)
    answers = kept_answers(kept, _key(model, tokenizer, prompts, config)) if kept else {}
    if answers:
        print(f"{len(answers)} of {len(titles)} answers were there already, from an interrupted run")
    set_size = config.generation.generation_batch_size
    limit = set_size or MOST_ANSWERS
    position = 0
    bar = tqdm(total=len(titles), desc="answers", initial=len(answers))
    with evaluating(model), bar:
        while position < len(order):
            widths = [len(prompts[index]) for index in order[position:][:limit]]
            size = limit if set_size else answers_at_once(widths, config.generation, *_memory(model))
            # The same batches again after an interruption, less what is answered already.
            batch = [index for index in order[position : position + size] if index not in answers]
            started, refused, outputs = time.monotonic(), 0, []
            try:
                outputs = _answer_batch(model, tokenizer, [prompts[index] for index in batch], config) if batch else []
            except torch.OutOfMemoryError:
                refused = len(batch)
            finally:
                _release(model)
            if refused:
                if refused == 1:
                    raise Tc3Error(
                        f"the memory does not hold the answer to one title of {max(widths)} tokens: lower "
                        "max_new_tokens, or restart the session to free memory."
                    )
                limit = refused // 2
                bar.write(f"out of memory with {refused} titles at once: {limit} from here on")
                continue
            seconds = (time.monotonic() - started) / max(1, len(batch))
            new = {
                index: read_answer(tokenizer, titles[index], output, stops(model, tokenizer, config), seconds)
                for index, output in zip(batch, outputs, strict=True)
            }
            answers |= new
            if kept:
                keep(kept, new)
            position += size
            bar.update(len(new))
    return [answers[index] for index in range(len(titles))]


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    titles: Sequence[str] | str,
    config: Settings,
    sources: Sequence[Mapping[str, Any]] = (),
    *,
    adapter: bool = True,
) -> list[Answer]:
    """Print the model's greedy answer to each title while it is generated; return the answers.

    Args:
        config: Its prompt and `max_new_tokens` are used.
        sources: Rows of `questions.jsonl`. A title's heading names the `uid` of its row, if it has one.
        adapter: False switches the model's adapter off.
    """
    known = [row for row in sources if row["response"] is not None]
    uids = {row["input_text"]: row["uid"] for row in reversed(known)}  # of one title, the demo's: it comes first
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    answers = []
    for title in [titles] if isinstance(titles, str) else titles:
        place = "not in the catalogue" if title not in uids else "in the catalogue"
        print(f"{title}  [source: {place if uids.get(title) is None else f'uid {uids[title]}'}]")
        prompt = encode_prompt(tokenizer, title, config.prompting)
        _check_room(model, title, prompt, config)
        ids = torch.tensor([prompt], device=model.device)
        with evaluating(model), nullcontext() if adapter else model.disable_adapter():
            decoding = _decoding(model, tokenizer, config)
            outputs = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), streamer=streamer, **decoding)
        new = outputs[0, len(prompt) :].tolist()
        answers.append(read_answer(tokenizer, title, new, stops(model, tokenizer, config)))
        print()
    return answers


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into evaluation mode: one that trains with gradient checkpointing would generate nonsense."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def answers_at_once(
    widths: Sequence[int], config: GenerationSettings, shape: PretrainedConfig, free_bytes: float | None
) -> int:
    """Return how many of the next prompts can share a batch.

    Args:
        widths: Their lengths in tokens, the shortest first.
        config: `max_new_tokens` is used.
        shape: The model's configuration.
        free_bytes: Of the card's memory. None: there is no card, and 32 prompts share a batch.
    """
    if free_bytes is None:
        return 32
    room = max(0.0, free_bytes - RESERVE_GIB * GIB) * USED
    heads = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    shared = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size  # older families name it otherwise
    token = 2 * 2 * shape.num_hidden_layers * shared * heads  # a key and a value in 16 bit

    def needed(width: int) -> float:
        """Return the bytes of one prompt: its cache, which is copied once as the answer begins, and its logits."""
        cache = token * (width + max(config.max_new_tokens, CACHE_AHEAD) + width)
        return cache + 3 * 4 * shape.vocab_size + 2 * width * (4 * shape.hidden_size + 3 * inner)

    fitting = [count for count, width in enumerate(widths[:MOST_ANSWERS], 1) if count * needed(width) <= room]
    return max(fitting, default=1)


def made_by(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Settings) -> dict[str, Any]:
    """Return what decides the base model's answers besides the titles, as JSON has it.

    Returns:
        `model` (its name), `revision` (None: of a folder), `dtype`, `in_4bit`, `weights` (a digest that stays where the
        folder moves), `tokenizer` (a digest), `prompt`, `max_seq_length` (at which the losses' rows are cut), and
        arguments of `generate`.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    decoding = _decoding(model, tokenizer, config)
    return {
        "model": base.config._name_or_path,
        "revision": getattr(base.config, "_commit_hash", None),
        "dtype": str(base.get_input_embeddings().weight.dtype).removeprefix("torch."),
        "in_4bit": getattr(base, "is_loaded_in_4bit", False),
        "weights": model_loading.fingerprint(model),
        "tokenizer": _tokenizer_digest(text_tokenizer(tokenizer)),
        "prompt": prompt_text(tokenizer, "{title}", config.prompting),
        "max_seq_length": config.model.max_seq_length,
        **{name: decoding[name] for name in ("max_new_tokens", "do_sample", "eos_token_id")},
    }


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what decides ids and texts, and not of how a call before this one padded or truncated."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: parts.get(name) for name in ("normalizer", "pre_tokenizer", "model", "decoder", "added_tokens")}
    return xxh3_128(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _answer_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: Settings,
) -> list[list[int]]:
    """Return the new ids of each prompt. Padding goes on the left: the model continues from the last column."""
    batch = tokenizer.pad(
        {"input_ids": prompts}, padding_side="left", return_attention_mask=True, return_tensors="pt"
    ).to(model.device)
    outputs = model.generate(**batch, **_decoding(model, tokenizer, config))
    return outputs[:, batch["input_ids"].shape[1] :].tolist()


def _check_room(model: PreTrainedModel, title: str, prompt: Sequence[int], config: Settings) -> None:
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    check_room(title, len(prompt), config.generation.max_new_tokens, room, config.model.max_seq_length)


def stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Settings) -> list[int]:
    """Return the ids that end an answer."""
    return end_ids(tokenizer, model.generation_config.eos_token_id, config.prompting)


def _decoding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Settings) -> dict[str, Any]:
    return {
        "max_new_tokens": config.generation.max_new_tokens,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": stops(model, tokenizer, config),
        "pad_token_id": tokenizer.pad_token_id,
    }


def _memory(model: PreTrainedModel) -> tuple[PretrainedConfig, float | None]:
    """Return the model's configuration and the free bytes of the card, None without a card."""
    shape = model.config.get_text_config()
    if not torch.cuda.is_available():
        return shape, None
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return shape, torch.cuda.mem_get_info()[0] + cached


def _release(model: PreTrainedModel) -> None:
    """Free the cache of keys and values that unsloth leaves on the model after an answer."""
    for module in model.modules():
        for name in [name for name in vars(module) if name.startswith("paged_attention")]:
            delattr(module, name)


def _key(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: Settings,
) -> str:
    """Return a hash of all that decides the answers: what they are made by, the adapter's weights, the prompts."""
    known = xxh3_128(json.dumps(prompts).encode())
    made = made_by(model, tokenizer, config)
    known.update(json.dumps([made[name] for name in made if name not in ("model", "revision")]).encode())
    known.update(str([getattr(module, "disable_adapters", None) for module in model.modules()]).encode())
    for name, weight in model.named_parameters():
        if "lora_" in name:
            known.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return known.hexdigest()
