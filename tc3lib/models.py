"""Load the base model in 4 bit, add LoRA, load an adapter.

The only module that imports unsloth, whose import patches transformers, trl and peft: import this module before them.
"""

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# bitsandbytes reports that an optional package is absent on some CPUs; its own kernel serves.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
)
import unsloth  # noqa: F401, I001
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, PreTrainedTokenizerBase
from unsloth import FastLanguageModel

from tc3lib.errors import Tc3Error
from tc3lib.settings import LoraSettings, ModelSettings


def load_base_model(config: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model, quantised, and its own tokenizer.

    Raises:
        Tc3Error: The model cannot be found or fetched.
    """
    arguments = dataclasses.asdict(config)
    if config.dtype is not None:  # on a GPU unsloth does not take the name "float32"
        arguments["dtype"] = getattr(torch, config.dtype)
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(**arguments)
    except (OSError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Tc3Error(
            f"cannot load the model {config.model_name!r} (model_name): {reason} Expected a local folder or a Hugging "
            "Face repository; a gated one needs HF_TOKEN."
        ) from error
    # On a GPU unsloth sets it to the length of the context, and every call with max_new_tokens would warn.
    model.generation_config.max_length = None
    return model.eval(), tokenizer


def add_lora(model: PreTrainedModel, config: LoraSettings) -> PeftModel:
    """Return the model with a new, trainable adapter; every weight of the base model is frozen."""
    arguments = dataclasses.asdict(config) | {"target_modules": list(config.target_modules)}
    return FastLanguageModel.get_peft_model(model, **arguments)


def load_adapter(folder: Path | str, config: ModelSettings) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the base model with a saved adapter on top, and the tokenizer saved with it.

    Within `model.disable_adapter()` it answers as the base model.

    Raises:
        Tc3Error: `folder` holds no adapter, or the base model cannot be loaded.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise Tc3Error(f"no adapter in {folder} ({name} is missing): run 03_train first.")
    return load_base_model(dataclasses.replace(config, model_name=str(folder)))


@contextmanager
def replaced_attention(
    model: PreTrainedModel, name: str, attend: Callable, attend_in_transformers: Callable
) -> Iterator[None]:
    """Let the model use another attention function within.

    Args:
        model: On a GPU, unsloth's own Llama, whose packed attention is replaced; on a CPU, transformers', through its
            interface for attention functions.
        name: Under which transformers knows the function.
        attend: Called as flash_attn's `varlen` function is.
        attend_in_transformers: Called as transformers calls attention functions.
    """
    if llama := sys.modules.get("unsloth.models.llama"):
        from unsloth.utils import attention_dispatch as dispatch

        old = llama.select_attention_backend, dispatch.flash_attn_varlen_func
        llama.select_attention_backend = lambda *_, **__: dispatch.FLASH_VARLEN
        dispatch.flash_attn_varlen_func = attend
        try:
            yield
        finally:
            llama.select_attention_backend, dispatch.flash_attn_varlen_func = old
    else:
        AttentionInterface.register(name, attend_in_transformers)
        AttentionMaskInterface.register(name, lambda *_, **__: None)
        old, model.config._attn_implementation = model.config._attn_implementation, name
        try:
            yield
        finally:
            model.config._attn_implementation = old
