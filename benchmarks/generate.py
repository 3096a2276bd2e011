"""Measure how fast titles are answered on a GPU: one at a time, and in batches of several sizes.

    python benchmarks/generate.py FOLDER [--titles 256] [--tokens 128]

FOLDER holds a model of Llama-3-8B's shape (`model.py`; it is made if it is not there). Its weights are random, so it
never ends an answer itself: each has `--tokens` tokens. Batched answers are then compared with single ones over their
first 16 tokens; where one differs, the logits of both tokens at that place show whether it was a tie up to rounding.
"""

import argparse
import time
from pathlib import Path

from model import ensure_model

COMPARED = 16
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--titles", type=int, default=256)
    parser.add_argument("--single", type=int, default=8, help="titles to answer one at a time")
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each")
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32, 64, 128])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default=None)
    arguments = parser.parse_args()
    ensure_model(arguments.folder)
    from tc3lib import model_loading, settings  # isort: skip  (model_loading first: unsloth patches transformers)
    import torch
    from train import text_rows

    from tc3lib.evaluation import generation

    config = settings.get("llama3_8b").change(
        model_name=str(arguments.folder), dtype=arguments.dtype, max_new_tokens=arguments.tokens
    )
    model, tokenizer = model_loading.load_base_model(config.model)
    titles = [row["input_text"] for row in text_rows(arguments.titles)]

    def ask(count: int, size: int | None) -> tuple[list, float, float]:
        settings = config.change(generation_batch_size=size)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.monotonic()
        answers = generation.generate(model, tokenizer, titles[:count], settings)
        torch.cuda.synchronize()
        return answers, time.monotonic() - start, torch.cuda.max_memory_reserved() / GIB

    ask(2, 1), ask(4, 4)  # kernels are compiled, memory is taken
    table = ["| titles at once | answered | s | tokens/s | times one at a time | GiB |", "| ---: " * 6 + "|"]
    alone, speed = None, None
    for size in [1, *arguments.batches, None]:
        torch.cuda.empty_cache()
        # At least two batches; the last line is the size that `answers_at_once` chooses.
        count = arguments.single if size == 1 else min(len(titles), max(2 * size, 64)) if size else len(titles)
        answers, seconds, peak = ask(count, size)
        tokens = sum(answer.tokens for answer in answers) / seconds
        alone, speed = alone or answers, speed or tokens
        if size is None:
            prompts = generation.encode_prompts(tokenizer, [{"input_text": title} for title in titles])
            widths = sorted(map(len, prompts))
            size = f"chosen: {generation.answers_at_once(widths, config.generation, *generation._memory(model))}"
        table.append(f"| {size} | {count} | {seconds:.1f} | {tokens:,.0f} | {tokens / speed:.1f} | {peak:.1f} |")
        print(table[-1], flush=True)
    print("\n".join(table))
    together, _, _ = ask(max(arguments.single, 64), None)
    print(compare(model, tokenizer, alone, together))


def compare(model: object, tokenizer: object, alone: list, together: list) -> str:
    """Return how many batched answers begin with the tokens of the single ones, and how close the others are."""
    import torch

    from tc3lib.evaluation.generation import evaluating
    from tc3lib.prompts import encode_prompt

    same, gaps = 0, []
    for one, other in zip(alone, together, strict=False):
        ids, others = one.ids[:COMPARED], other.ids[:COMPARED]
        if ids == others:
            same += 1
            continue
        at = next(place for place, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b)
        prompt = encode_prompt(tokenizer, one.title)
        with torch.inference_mode(), evaluating(model):
            logits = model(input_ids=torch.tensor([prompt + ids[:at]], device=model.device)).logits[0, -1].float()
        gaps.append(((logits[ids[at]] - logits[others[at]]).abs() / logits.abs().max()).item())
    text = f"{same} of {len(alone)} batched answers begin with the {COMPARED} tokens of the single ones"
    if gaps:
        text += f"; where one does not, the two tokens' logits differ by {max(gaps):.1e} of the largest logit at most"
    return text


if __name__ == "__main__":
    main()
