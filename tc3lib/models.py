"""Load the base model in 4 bit, add LoRA, load an adapter.

The only module that imports unsloth, whose import patches transformers, trl and peft: import this module before them.
"""

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
from tc3lib.files import read_json, write_json
from tc3lib.settings import LoraSettings, ModelSettings


def load_base_model(config: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model, quantised, and its own tokenizer.

    Raises:
        Tc3Error: The model cannot be found or fetched, or computes no numbers.
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
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([[0, 1]], device=model.device)).logits
    if not logits.isfinite().all():
        raise Tc3Error(
            f"the model {config.model_name!r} computes no numbers: a weight of it is NaN or infinite, or its values "
            "overflow. Fetch or make it again, or set dtype='bfloat16' or 'float32'."
        )
    return model, tokenizer


def add_lora(model: PreTrainedModel, config: LoraSettings) -> PeftModel:
    """Return the model with a new, trainable adapter; every weight of the base model is frozen."""
    arguments = dataclasses.asdict(config) | {"target_modules": list(config.target_modules)}
    return FastLanguageModel.get_peft_model(model, **arguments)


def load_adapter(folder: Path | str, config: ModelSettings) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the base model with a saved adapter on top, and the tokenizer saved with it.

    Within `model.disable_adapter()` it answers as the base model.

    Args:
        folder: The adapter's.
        config: Where the base model's folder is no longer where the adapter names it, `model_name` is taken.

    Raises:
        Tc3Error: `folder` holds no adapter, or the base model cannot be loaded, or is not that of the training.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise Tc3Error(f"no adapter in {folder} ({name} is missing): run 03_train first.")
    with _naming_its_base(folder, config.model_name) as named:
        model, tokenizer = load_base_model(dataclasses.replace(config, model_name=str(named)))
    trained_on = read_json(folder / "run.json").get("base")
    if trained_on not in (None, fingerprint(model)):
        name = model.get_base_model().config._name_or_path
        raise Tc3Error(
            f"the base model {name!r} is not the one that the adapter in {folder} was trained on: set model_name to "
            "that one's folder, or run 03_train again."
        )
    return model, tokenizer


@contextmanager
def _naming_its_base(folder: Path, model_name: str) -> Iterator[Path]:
    """Give the adapter's folder, or where its base model's folder is gone, a copy that names `model_name` instead."""
    adapter = read_json(folder / "adapter_config.json")
    base = Path(adapter.get("base_model_name_or_path") or "")
    if not base.is_absolute() or base.exists():
        yield folder
        return
    if not Path(model_name).is_dir():
        raise Tc3Error(
            f"the base model of the adapter in {folder} was in {base}, where nothing is now: set model_name to the "
            "folder that it is in."
        )
    print(f"the base model is no longer in {base}: {model_name} is taken")
    with TemporaryDirectory() as copy:
        for file in folder.iterdir():
            (Path(copy) / file.name).symlink_to(file.absolute())
        (Path(copy) / "adapter_config.json").unlink()
        write_json(Path(copy) / "adapter_config.json", adapter | {"base_model_name_or_path": model_name})
        yield Path(copy)


def fingerprint(model: torch.nn.Module) -> str:
    """Return a digest that tells a base model from others, of the first values of each of its weights.

    It is the same wherever the model's folder is, and with an adapter, whose weights and biases do not count.
    """
    known = hashlib.sha256()
    for name, weight in model.named_parameters():
        if "lora_" not in name and not name.endswith("bias"):
            known.update(weight.detach().reshape(-1)[:1024].float().cpu().numpy().tobytes())
    return known.hexdigest()


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
