"""`python -m tc3lib.export.ask KIND MODEL QUESTIONS ANSWERS`: answer as the program does that will use an artefact.

In a process of its own, without unsloth and without the library's own generation: what it does is what a stranger does
who has the artefact alone. QUESTIONS is written, and ANSWERS read, by `verify`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def with_transformers(model_path: str, adapter: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer with a model's folder, with an adapter on top of it or without."""
    import psutil
    import torch
    import transformers
    from torch.nn.functional import cross_entropy

    from tc3lib.export import base_model

    gpu = torch.cuda.is_available()
    model = base_model.load(model_path, device_map="auto" if gpu else None)
    if not gpu and 2 * model.get_memory_footprint() < psutil.virtual_memory().available:
        model = model.float()  # processors are slow in 16 bit
    program = f"transformers {transformers.__version__}"
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
        program = f"PEFT {peft.__version__}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter or model_path)
    # An adapter brings no decoding of its own: it stops where its tokenizer says.
    stop = {"eos_token_id": tokenizer.eos_token_id} if adapter else {}
    answers = []
    for question in asked["questions"]:
        prompt = tokenizer(question["prompt"], return_tensors="pt").input_ids.to(model.device)
        with torch.inference_mode():
            whole = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                repetition_penalty=1.0, max_new_tokens=asked["max_new_tokens"], **stop,
            )[0].tolist()  # fmt: skip
            ids = torch.tensor([question["input_ids"]], device=model.device)
            where = torch.tensor(question["completion_mask"]).nonzero().flatten().to(model.device)
            logits = model(input_ids=ids).logits[0]
            loss = cross_entropy(logits[where - 1].float(), ids[0, where], reduction="sum").item()
        new = whole[prompt.shape[1] :]
        ends = model.generation_config.eos_token_id if not stop else stop["eos_token_id"]
        ended = new[-1] in (ends if isinstance(ends, list) else [ends])
        answers.append(_answer(prompt[0].tolist(), new[:-1] if ended else new, ended, loss))
    return {"program": program, "answers": answers}


def with_llama_cpp(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Answer with a GGUF file."""
    import llama_cpp
    import numpy as np

    longest = max(len(question["input_ids"]) for question in asked["questions"])
    model = llama_cpp.Llama(
        path, n_ctx=longest + asked["max_new_tokens"] + 16, n_gpu_layers=-1, logits_all=True, verbose=False
    )
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    answers = []
    for question in asked["questions"]:
        prompt, new, ended = model.tokenize(question["prompt"].encode(), add_bos=True, special=True), [], False
        for token in model.generate(prompt, temp=0.0):
            ended = llama_cpp.llama_vocab_is_eog(vocabulary, token)
            if ended or len(new) == asked["max_new_tokens"]:
                break
            new.append(token)
        model.reset()
        model.eval(question["input_ids"])
        where = np.flatnonzero(question["completion_mask"])
        logits = model.scores[where - 1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        targets = np.array(question["input_ids"])[where]
        loss = float((total - logits[np.arange(len(where)), targets]).sum())
        answers.append(_answer(prompt, new, ended, loss))
    return {"program": f"llama-cpp-python {llama_cpp.__version__}", "answers": answers}


def _answer(prompt: list[int], new: list[int], ended: bool, loss: float) -> dict[str, Any]:
    return {"prompt": prompt, "ids": new, "ended": bool(ended), "loss_sum": loss}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the questions, load the artefact, write the answers."""
    parser = argparse.ArgumentParser(prog="python -m tc3lib.export.ask", description=main.__doc__)
    parser.add_argument("kind", choices=["adapter", "merged", "gguf"])
    parser.add_argument("model", help="the folder of the model, of an adapter's base model; or the GGUF file")
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--adapter")
    options = parser.parse_args(arguments)
    asked = json.loads(options.questions.read_bytes())
    if options.kind == "gguf":
        found = with_llama_cpp(options.model, asked)
    else:
        found = with_transformers(options.model, options.adapter, asked)
    options.answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
