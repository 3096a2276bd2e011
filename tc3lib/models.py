"""Load the base model in 4 bit, add LoRA, load an adapter. The only module that imports unsloth."""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error
from tc3lib.settings import LoraSettings, ModelSettings
from tc3lib.training import packed_attention as attention


def load_base_model(config: ModelSettings) -> tuple[Any, Any]:
    """Return the base model, quantised, and its own tokenizer.

    Call it before anything imports trl, transformers or peft: unsloth patches them as it is imported.

    Raises:
        Tc3Error: The model cannot be found or fetched.
    """
    _import_unsloth()
    import torch
    from safetensors import SafetensorError
    from unsloth import FastLanguageModel

    settings = dataclasses.asdict(config)
    if config.dtype is not None:  # unsloth does not take the name "float32" on a GPU
        settings["dtype"] = getattr(torch, config.dtype)
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(**settings)
    except (OSError, RuntimeError, SafetensorError) as error:
        if "out of memory" in str(error):
            raise
        raise _not_found(config, error) from error
    # unsloth sets it to the context's length on a GPU, and every call that gives max_new_tokens would warn of both.
    model.generation_config.max_length = None
    return model.eval(), tokenizer


def load_tokenizer(config: ModelSettings, *, before_model: bool = False) -> Any | None:
    """Return the base model's tokenizer alone, or None, and say so, if it is not at hand: no GPU is needed.

    Args:
        config: `model_name` is used.
        before_model: The model is loaded next. So unsloth is imported first, and a tokenizer that is missing raises.

    Raises:
        Tc3Error: `before_model`, and there is no tokenizer.
    """
    if before_model:
        _import_unsloth()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(config.model_name)
    except (OSError, ValueError) as error:
        if before_model:
            raise _not_found(config, error) from error
        print(f"no tokenizer of {config.model_name} at hand ({str(error).splitlines()[0]}): tokens are not counted")
        return None


def add_lora(model: Any, config: LoraSettings) -> Any:
    """Return the model with a new, trainable adapter; every weight of the base model is frozen."""
    from unsloth import FastLanguageModel

    settings = dataclasses.asdict(config) | {"target_modules": list(config.target_modules)}
    return FastLanguageModel.get_peft_model(model, **settings)


def load_adapter(folder: Path | str, config: ModelSettings) -> tuple[Any, Any]:
    """Return the base model with a saved adapter on top, and the tokenizer saved beside it.

    `model.disable_adapter()` is a context in which it answers as the base model.

    Raises:
        Tc3Error: `folder` holds no adapter, or the base model cannot be loaded.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise Tc3Error(f"no adapter in {folder} ({name} is missing): run 03_train first.")
    return load_base_model(dataclasses.replace(config, model_name=str(folder)))


@contextmanager
def shared_prefix(model: Any, lengths: Sequence[int], device: Any) -> Iterator[None]:
    """Let the model read a line of `batches.collate` within: its attention knows the line's segments.

    Raises:
        Tc3Error: The model read the line with another attention, as other models than Llama may; what it computed is
            wrong.
    """
    line = attention.Segments(lengths, device)
    with attention.segments(line), own_attention(model):
        yield
    if line.calls < model.config.num_hidden_layers:
        raise Tc3Error(
            f"plan='auto' does not know the attention of {model.config.model_type!r} models (model_name): set "
            "plan='recipe'."
        )


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """Let the model ask `attention.attend` within.

    On a GPU unsloth's own Llama runs, whose packed attention is asked; on a CPU transformers', through its interface
    for attention functions.
    """
    if llama := sys.modules.get("unsloth.models.llama"):
        from unsloth.utils import attention_dispatch as dispatch

        old = llama.select_attention_backend, dispatch.flash_attn_varlen_func
        llama.select_attention_backend = lambda *_, **__: dispatch.FLASH_VARLEN
        dispatch.flash_attn_varlen_func = attention.attend
        try:
            yield
        finally:
            llama.select_attention_backend, dispatch.flash_attn_varlen_func = old
    else:
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(attention.NAME, attention.attend_in_transformers)
        AttentionMaskInterface.register(attention.NAME, lambda *_, **__: None)
        config = model.config
        old = config._attn_implementation
        config._attn_implementation = attention.NAME
        try:
            yield
        finally:
            config._attn_implementation = old


def backbone(model: Any) -> Any:
    """Return the part of a model with LoRA that turns ids into the last hidden states."""
    return model.get_base_model().model


@contextmanager
def other_forward(module: Any, forward: Any) -> Iterator[None]:
    """Let another function answer for a module within."""
    old = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if old is not None:
            module.forward = old


def one_segment(ids: Any) -> dict[str, Any]:
    """Return what says to unsloth that a line is one segment, without a copy from or to the device when it is read."""
    import torch
    from unsloth.utils.packing import get_packed_info_from_kwargs

    told = {"packed_seq_lengths": torch.tensor([ids.shape[1]], dtype=torch.int32, device=ids.device)}
    get_packed_info_from_kwargs(told, ids.device)  # keeps the answer for the same tensor
    return told


def _import_unsloth() -> None:
    """Import unsloth, and with it bitsandbytes, which warns on some CPUs that an optional package is not there.

    bitsandbytes then uses its own kernel. It is this record alone that is kept out: one that tells why `kernels`, where
    it is installed, did not work still shows.
    """
    if "unsloth" in sys.modules:
        return
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_worth_telling)
    try:
        import unsloth  # noqa: F401
    finally:
        logger.removeFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
    absent = isinstance(reason, ModuleNotFoundError) and reason.name == "kernels"
    return not (absent and str(record.msg).startswith("Failed to load CPU gemm_4bit_forward"))


def _not_found(config: ModelSettings, error: Exception) -> Tc3Error:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return Tc3Error(
        f"cannot load the model {config.model_name!r} (model_name): {reason} Expected a local folder or a Hugging "
        "Face repository; a gated one needs HF_TOKEN."
    )
