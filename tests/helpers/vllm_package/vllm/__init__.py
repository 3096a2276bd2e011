"""A stand-in for vLLM 0.25.1 with its names, arguments and defaults; transformers answers, one title after another.

FAKE_VLLM_LOG: a file that gets a line of JSON for the engine's arguments, for each adapter and for each title.
FAKE_VLLM_KILLED_AFTER: the process kills itself after so many titles. FAKE_VLLM_FAILS: loading raises this.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vllm.sampling_params import RequestOutputKind, SamplingParams

__version__ = "0.25.1"
__all__ = ["AsyncEngineArgs", "AsyncLLMEngine", "SamplingParams"]


def log(**line):
    if path := os.environ.get("FAKE_VLLM_LOG"):
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class AsyncEngineArgs:
    """Those of the real one's arguments that a caller here may need."""

    model: str = "Qwen/Qwen3-0.6B"
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    dtype: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.92
    max_num_seqs: int | None = None
    disable_log_stats: bool = False
    quantization: str | None = None
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    generation_config: str = "auto"
    enable_log_requests: bool = False


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list | None
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False


class AsyncLLMEngine:
    @classmethod
    def from_engine_args(cls, engine_args, start_engine_loop=True, usage_context=None, stat_loggers=None):
        log(arguments=asdict(engine_args), usage_context=usage_context)
        if reason := os.environ.get("FAKE_VLLM_FAILS"):
            raise RuntimeError(reason)
        assert engine_args.max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
        return cls(engine_args)

    def __init__(self, arguments):
        from transformers import AutoModelForCausalLM

        self.arguments, self.lora, self.answered, self.waiting = arguments, None, 0, 0
        # As the real one's, it outlives a kill.
        self.process = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log(process=self.process.pid)
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="float32").eval()
        self.loop = asyncio.get_running_loop()

    async def add_lora(self, lora_request):
        from safetensors.torch import load_file

        assert self.arguments.enable_lora
        self.lora, folder = lora_request, Path(lora_request.lora_path)
        config, lora = (
            json.loads((folder / "adapter_config.json").read_text()),
            load_file(folder / "adapter_model.safetensors"),
        )
        for name, a in lora.items():
            if name.endswith(".lora_A.weight"):
                b, layer = lora[name.replace("lora_A", "lora_B")], name.removesuffix(".lora_A.weight")
                weight = self.model.get_submodule(layer.removeprefix("base_model.model.")).weight
                weight.data += (b @ a).to(weight.dtype) * config["lora_alpha"] / config["r"]
        log(adapter=lora_request.lora_path)
        return True

    async def generate(
        self, prompt, sampling_params, request_id, *, prompt_text=None, lora_request=None, tokenization_kwargs=None,
        trace_headers=None, priority=0, data_parallel_rank=None, reasoning_ended=None, reasoning_parser_kwargs=None,
    ):  # fmt: skip
        import torch

        assert asyncio.get_running_loop() is self.loop
        assert lora_request == self.lora
        assert (prompt["type"], sampling_params.output_kind) == ("token", RequestOutputKind.FINAL_ONLY)
        ids = prompt["prompt_token_ids"]
        if len(ids) >= self.arguments.max_model_len:
            raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        self.waiting += 1
        log(at_once=self.waiting)
        await asyncio.sleep(0.01 / (1 + int(request_id)))  # the last title is ready first
        self.waiting -= 1
        if str(self.answered) == os.environ.get("FAKE_VLLM_KILLED_AFTER"):
            time.sleep(1.5)  # who watches this process has seen the other one by then
            os.kill(os.getpid(), signal.SIGKILL)
        self.answered += 1
        asked, stops = torch.tensor([ids]), sampling_params.stop_token_ids
        whole = self.model.generate(
            input_ids=asked, attention_mask=torch.ones_like(asked), do_sample=False, eos_token_id=stops or [-1],
            pad_token_id=0,
            max_new_tokens=min(sampling_params.max_tokens, self.arguments.max_model_len - len(ids)),
        )  # fmt: skip
        new = whole[0, len(ids) :].tolist()
        reason = "stop" if new[-1] in stops else "length"
        log(request_id=request_id, ids=ids, sampling=vars(sampling_params) | {"output_kind": None}, new=new)
        yield RequestOutput(request_id, None, ids, None, [CompletionOutput(0, "", new, None, None, reason)], True)

    def shutdown(self, timeout=None):
        self.process.kill()
        self.process.wait()
        log(shutdown=True)
