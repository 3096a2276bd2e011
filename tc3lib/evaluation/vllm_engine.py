"""Answers by vLLM, several times as fast as those of `evaluation.generation`, on every GPU that there is.

Nothing here imports unsloth: vLLM's requirements conflict with those of the notebooks, so it has an environment of its
own. `python -m tc3lib.describe` imports this module where vLLM is installed.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

# vLLM reads these as it is imported. It starts a process for each GPU, which a copy of this one could not use.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, GenerationConfig
from vllm import AsyncEngineArgs, AsyncLLMEngine, SamplingParams
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from xxhash import xxh3_128

from tc3lib.errors import Tc3Error
from tc3lib.evaluation.answers import Answer, check_room, end_ids, keep, kept_answers, read_answer
from tc3lib.export import base_model, verify
from tc3lib.files import read_json
from tc3lib.prompts import encode_prompts, load_tokenizer
from tc3lib.settings import Settings

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of an adapter, for which vLLM has kernels."""
WITH_ADAPTER = 512
"""Most titles that a GPU has at once with an adapter. Beyond, vLLM has no CUDA graph, and an adapter's many small
kernels take 1.3 to 1.6 times as long, launched one by one: `benchmarks/RESULTS.md`."""
KEPT_AT_ONCE = 256
"""Answers that are written to the disk together."""
_WATCH = """
# Runs beside this process, whose end is the end of its stdin.
import contextlib, os, select, sys
import psutil
parent, started = psutil.Process(int(sys.argv[1])), set()
while not select.select([sys.stdin], [], [], 1)[0]:
    with contextlib.suppress(psutil.Error):
        started |= set(parent.children(recursive=True))
for process in started:
    with contextlib.suppress(psutil.Error):
        if process.pid != os.getpid():
            process.kill()
"""


class Weights(NamedTuple):
    """What vLLM loads."""

    model: Path
    adapter: Path | None
    """None: it is merged into the model."""


def weights(work: Path, config: Settings) -> Weights:
    """Return the merged weights where notebook 05 has proved them for this adapter, else the base model in 16 bit.

    Raises:
        Tc3Error: The base model cannot be found or fetched, or `export_base` was not tried with this adapter.
    """
    record, merged = read_json(work / "export.json"), work / "export" / "merged"
    same = record.get("adapter_sha256") == verify.adapter_digest(work)
    if same and "merged" in verify.proved(record) and merged.is_dir():
        return Weights(merged, None)
    name = base_model.name(config)
    if config.exporting.export_base and not (same and record.get("base") == name):
        raise Tc3Error(
            f"export_base={name!r} was not tried with this adapter: run 05_export, or remove it from "
            f"{work / 'settings.json'}."
        )
    return Weights(base_model.fetch(name), work / "lora_model")


class Engine:
    """The model of a work folder in vLLM, once on each GPU: `with Engine(work, config, titles) as engine`."""

    def __init__(self, work: Path, config: Settings, titles: Sequence[str], gpu_memory: float | None = None):
        """Load it.

        Args:
            titles: All that will be asked: the longest of them decides for how many tokens there must be room.
            gpu_memory: Share of a GPU's memory that vLLM may take, its `gpu_memory_utilization`. None: vLLM's own.

        Raises:
            Tc3Error: vLLM cannot load it.
        """
        found, self._config = weights(work, config), config
        self._tokenizer = load_tokenizer(str(work / "lora_model"))
        self._ends = end_ids(self._tokenizer, _named_end(found.model), config.prompting)
        self._lora = LoRARequest("tc3", 1, str(found.adapter)) if found.adapter else None
        self._made_by = [base_model.name(config), verify.adapter_digest(work), "adapter" if found.adapter else "merged"]
        parts = (titles[start : start + 1000] for start in range(0, len(titles), 1000))
        longest, title = max(
            (len(ids), title) for part in parts for title, ids in zip(part, self._prompts(part), strict=True)
        )
        shape = AutoConfig.from_pretrained(found.model).get_text_config()
        room = getattr(shape, "max_position_embeddings", None)
        check_room(title, longest, config.generation.max_new_tokens, room)
        self._dtype, gpus = _dtype(config.model.dtype, found.adapter), max(1, torch.cuda.device_count())
        self._turn = asyncio.Semaphore(WITH_ADAPTER * gpus) if found.adapter else nullcontext()
        arguments = {
            "model": str(found.model),
            "tokenizer": str(work / "lora_model"),
            "dtype": self._dtype,
            "max_model_len": longest + config.generation.max_new_tokens,
            "data_parallel_size": gpus,
            "generation_config": "vllm",  # how it decodes is said with each title
            "disable_log_stats": True,
        }
        if found.adapter:
            rank = read_json(found.adapter / "adapter_config.json").get("r", 0)
            arguments |= {"enable_lora": True, "max_lora_rank": next((size for size in RANKS if size >= rank), rank)}
        if gpu_memory:
            arguments["gpu_memory_utilization"] = gpu_memory
        what = f"{found.model} with the adapter in {found.adapter}" if found.adapter else str(found.model)
        print(f"vLLM loads {what}, which takes a minute or two")
        # Where this process is killed, vLLM's would stay and keep the GPU's memory: the watch ends them.
        watch = [sys.executable, "-c", _WATCH, str(os.getpid())]
        self._watch = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
        self._runner = asyncio.Runner()
        try:
            self._engine = self._runner.run(self._load(arguments))
        except Exception as error:
            raise Tc3Error(
                f"vLLM cannot load {what}: {_reason(error)} If other programs use the GPU's memory, --gpu-memory 0.5 "
                "takes half of it; --engine builtin does without vLLM."
            ) from error

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.shutdown()
        self._runner.close()
        self._watch.communicate()

    async def _load(self, arguments: dict[str, Any]) -> AsyncLLMEngine:
        # With vLLM's defaults for many prompts at once, as its class LLM has them.
        engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        if self._lora:
            await engine.add_lora(self._lora)
        return engine

    def generate(self, titles: Sequence[str], kept: Path | None = None) -> list[Answer]:
        """Return the greedy answers, in the titles' order, as `evaluation.generation.generate` does.

        Raises:
            Tc3Error: vLLM broke off, or `kept` cannot be written.
        """
        prompts = self._prompts(titles)
        answers = kept_answers(kept, self._key(prompts)) if kept else {}
        if answers:
            print(f"{len(answers)} of {len(titles)} answers were there already, from an interrupted run")
        with tqdm(total=len(titles), desc="answers", initial=len(answers)) as bar:
            self._runner.run(self._ask(titles, prompts, answers, kept, bar))
        return [answers[index] for index in range(len(titles))]

    async def _ask(
        self,
        titles: Sequence[str],
        prompts: Sequence[list[int]],
        answers: dict[int, Answer],
        kept: Path | None,
        bar: tqdm,
    ) -> None:
        """Add the answers that are missing."""
        new: dict[int, Answer] = {}
        sampling = SamplingParams(
            temperature=0,
            max_tokens=self._config.generation.max_new_tokens,
            stop_token_ids=self._ends,
            ignore_eos=True,  # eos is among these, where it ends an answer
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

        def flush() -> None:
            if kept:
                keep(kept, new)
            answers.update(new)
            new.clear()

        async def ask(index: int) -> None:
            try:
                request = tokens_input(prompts[index])
                async with self._turn:
                    async for output in self._engine.generate(request, sampling, str(index), lora_request=self._lora):
                        ids = list(output.outputs[0].token_ids)
            except Exception as error:
                raise Tc3Error(
                    f"vLLM broke off: {_reason(error)} Run it again, what was answered is kept; --engine builtin does "
                    "without vLLM."
                ) from error
            new[index] = read_answer(self._tokenizer, titles[index], ids, self._ends)
            bar.update()
            if len(new) >= KEPT_AT_ONCE:
                flush()

        try:
            await asyncio.gather(*(ask(index) for index in range(len(titles)) if index not in answers))
        finally:
            flush()

    def _prompts(self, titles: Sequence[str]) -> list[list[int]]:
        return encode_prompts(self._tokenizer, [{"input_text": title} for title in titles], self._config.prompting)

    def _key(self, prompts: Sequence[list[int]]) -> str:
        """Return a hash of all that decides the answers."""
        decoding = [self._config.generation.max_new_tokens, self._dtype, self._ends]
        return xxh3_128(json.dumps(["vllm", self._made_by, decoding, prompts]).encode()).hexdigest()


def _dtype(wanted: str | None, adapter: Path | None) -> str:
    """Return the precision that is set. On a GPU vLLM has no adapters in float32."""
    if wanted != "float32" or not adapter or not torch.cuda.is_available():
        return wanted or "auto"
    short = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    print(f"in {short}: on a GPU vLLM takes no adapter in float32")
    return short


def _named_end(model: Path) -> int | list[int] | None:
    """Return the `eos_token_id` that a model has in transformers."""
    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # it has no generation_config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model)).eos_token_id


def _reason(error: Exception) -> str:
    """Return an error's text in one line, as a sentence."""
    line = " ".join(str(error).split())[:300] or type(error).__name__
    return line.rstrip(".") + "."
